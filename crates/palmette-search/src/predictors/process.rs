use palmette_space::{Domain, Genotype};

/// What a [`GaussianProcess`] compares of a genotype.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    slots: Vec<u16>,
    paths: Vec<u64>,
}

impl Features {
    /// Slots of the pruned genotype and, where the space has cells, its paths.
    pub fn of(domain: &dyn Domain, genotype: &Genotype) -> Self {
        let slots = domain.space().slots(&domain.pruned(genotype));
        Self { slots, paths: domain.paths(genotype) }
    }
}

/// Settings of [`GaussianProcess`]; the defaults were chosen on NAS-Bench-201's CIFAR-10.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProcessConfig {
    /// Variance of a label's noise beside a signal of 1.
    pub noise: f64,
    /// Logarithm of the correlation lost where all slots differ.
    pub decay: f64,
    /// Share of the kernel that compares paths, in spaces that have them.
    pub path_share: f64,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self { noise: 0.1, decay: 3.0, path_share: 0.6 }
    }
}

/// A Gaussian process over genotypes: k(a, b) = (1 - w) exp(-decay d / n) + w p, where d of n
/// slots differ and p is the number of paths that both have over the larger of their numbers of
/// paths (1 if neither has any).
///
/// Slots see where operators are, paths what is computed: in NAS-Bench-201 the second tells apart
/// peaks that pairs of slots cannot. Labels have zero mean and about unit variance (normal scores).
#[derive(Clone, Debug)]
pub struct GaussianProcess {
    config: ProcessConfig,
    path_share: f64,
    rows: Vec<Features>,
    /// Lower Cholesky factor of K + noise I, row by row.
    factor: Vec<Vec<f64>>,
}

impl GaussianProcess {
    /// A process without labels, for genotypes of `domain`.
    pub fn new(domain: &dyn Domain, config: ProcessConfig) -> Self {
        let path_share = if domain.space().cells().is_empty() { 0.0 } else { config.path_share };
        Self { config, path_share, rows: Vec::new(), factor: Vec::new() }
    }

    /// Adds a genotype whose label will be known.
    pub fn push(&mut self, row: Features) {
        let mut last: Vec<f64> = Vec::with_capacity(self.rows.len() + 1);
        for (other, factor) in self.rows.iter().zip(&self.factor) {
            let rest = self.kernel(&row, other) - dot(factor, &last);
            last.push(rest / factor[last.len()]);
        }
        let rest = 1.0 + self.config.noise - dot(&last, &last);
        last.push(rest.max(1e-10).sqrt());
        self.rows.push(row);
        self.factor.push(last);
    }

    /// Number of genotypes added.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether none was added.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Forgets all but the first `rows` genotypes.
    pub fn truncate(&mut self, rows: usize) {
        self.rows.truncate(rows);
        self.factor.truncate(rows);
    }

    /// Labels of the first genotypes in the form that [`Field::means`] takes.
    pub fn whiten(&self, labels: &[f64]) -> Vec<f64> {
        let mut white: Vec<f64> = Vec::with_capacity(labels.len());
        for (factor, label) in self.factor.iter().zip(labels) {
            white.push((label - dot(factor, &white)) / factor[white.len()]);
        }
        white
    }

    fn kernel(&self, a: &Features, b: &Features) -> f64 {
        let slots = a.slots.len().max(1) as f64;
        let differing = a.slots.iter().zip(&b.slots).filter(|(x, y)| x != y).count() as f64;
        let near = (-self.config.decay * differing / slots).exp();
        if self.path_share == 0.0 {
            return near;
        }
        (1.0 - self.path_share) * near + self.path_share * shared(&a.paths, &b.paths)
    }
}

/// Candidates for which a process predicts, with what it knows of them so far.
#[derive(Clone, Debug)]
pub struct Field {
    candidates: Vec<Features>,
    /// Per genotype of the process, its row of L^-1 K over the candidates. In f32: half of the memory
    /// traffic, which is what a prediction costs, and far below the noise of a label.
    rows: Vec<Vec<f32>>,
    variances: Vec<f32>,
}

impl Field {
    /// A field of candidates.
    pub fn new(candidates: Vec<Features>) -> Self {
        let variances = vec![1.0; candidates.len()];
        Self { candidates, rows: Vec::new(), variances }
    }

    /// The candidates.
    pub fn candidates(&self) -> &[Features] {
        &self.candidates
    }

    /// Takes in what was added to the process since the last call, or taken away.
    pub fn catch_up(&mut self, process: &GaussianProcess, kept: usize) {
        if kept < self.rows.len() {
            self.rows.truncate(kept);
            self.variances.fill(1.0);
            for row in &self.rows {
                subtract_squares(&mut self.variances, row);
            }
        }
        for index in self.rows.len()..process.len() {
            let (last, factor) = (&process.rows[index], &process.factor[index]);
            let kernels = self.candidates.iter().map(|c| process.kernel(last, c) as f32);
            let mut row: Vec<f32> = kernels.collect();
            for (known, &weight) in self.rows.iter().zip(factor) {
                let weight = weight as f32;
                row.iter_mut().zip(known).for_each(|(x, y)| *x -= weight * y);
            }
            let scale = 1.0 / factor[index] as f32;
            row.iter_mut().for_each(|x| *x *= scale);
            subtract_squares(&mut self.variances, &row);
            self.rows.push(row);
        }
    }

    /// Predicted labels from [whitened](GaussianProcess::whiten) ones.
    pub fn means(&self, white: &[f64]) -> Vec<f32> {
        let mut means = vec![0.0; self.candidates.len()];
        for (row, &weight) in self.rows.iter().zip(white) {
            let weight = weight as f32;
            means.iter_mut().zip(row).for_each(|(mean, x)| *mean += weight * x);
        }
        means
    }

    /// The standard deviation of a candidate's quality, noise aside.
    pub fn deviation(&self, candidate: usize) -> f32 {
        self.variances[candidate].max(0.0).sqrt()
    }
}

fn subtract_squares(variances: &mut [f32], row: &[f32]) {
    variances.iter_mut().zip(row).for_each(|(variance, x)| *variance -= x * x);
}

/// The scalar product of the common length, in order.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Common elements of two sorted lists over the length of the longer; 1 for two empty ones.
fn shared(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut common) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                common += 1;
                i += 1;
                j += 1;
            }
        }
    }
    match a.len().max(b.len()) {
        0 => 1.0,
        longer => f64::from(common) / longer as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palmette_random::stream;
    use palmette_space::Space;

    fn space() -> Space {
        let mut builder = Space::builder("cell");
        let cell = builder.edge_dag(4, &["none", "skip", "a", "b"]);
        builder.edge_cell(&cell, "none", Some("skip"));
        builder.finish().unwrap()
    }

    #[test]
    fn posterior_solves_the_normal_equations() {
        let space = space();
        let sample = |i| space.sample(&mut stream(1, "test/process", i));
        let train: Vec<Features> = (0..25).map(|i| Features::of(&space, &sample(i))).collect();
        let others: Vec<Features> = (25..60).map(|i| Features::of(&space, &sample(i))).collect();
        let labels: Vec<f64> = (0..25).map(|i| (f64::from(i) * 0.7).sin()).collect();
        let mut process = GaussianProcess::new(&space, ProcessConfig::default());
        let mut field = Field::new(others.clone());
        for row in &train {
            process.push(row.clone());
            field.catch_up(&process, process.len());
        }
        // Solve (K + noise I) x = r by Gauss-Jordan, with nothing of the code above but the kernel.
        let solve = |mut right: Vec<f64>| -> Vec<f64> {
            let mut k: Vec<Vec<f64>> = train
                .iter()
                .map(|a| train.iter().map(|b| process.kernel(a, b)).collect())
                .collect();
            (0..25).for_each(|i| k[i][i] += 0.1);
            for i in 0..25 {
                let pivot = k[i].clone();
                let value = right[i];
                for j in 0..25 {
                    if j != i {
                        let factor = k[j][i] / pivot[i];
                        k[j].iter_mut().zip(&pivot).for_each(|(x, p)| *x -= factor * p);
                        right[j] -= factor * value;
                    }
                }
            }
            (0..25).map(|i| right[i] / k[i][i]).collect()
        };
        let dual = solve(labels.clone());
        let means = field.means(&process.whiten(&labels));
        for (c, other) in others.iter().enumerate() {
            let kernels: Vec<f64> = train.iter().map(|row| process.kernel(row, other)).collect();
            assert!((f64::from(means[c]) - dot(&kernels, &dual)).abs() < 1e-5);
            let variance = 1.0 - dot(&kernels, &solve(kernels.clone()));
            assert!((f64::from(field.deviation(c)).powi(2) - variance).abs() < 1e-5);
        }
        // Taking rows away is as if they had never come.
        let mut fresh = Field::new(others);
        process.truncate(10);
        field.catch_up(&process, 10);
        fresh.catch_up(&process, 0);
        assert_eq!((&field.rows, &field.variances), (&fresh.rows, &fresh.variances));
    }

    #[test]
    fn isomorphic_cells_share_all_paths() {
        let space = space();
        let process = GaussianProcess::new(&space, ProcessConfig::default());
        let drawings = space.isomorphs(&Genotype::new([2, 3, 0, 1, 3, 2]));
        let features: Vec<Features> = drawings.iter().map(|g| Features::of(&space, g)).collect();
        assert_eq!(features.len(), 2);
        // Four of six slots differ.
        let want = 0.4 * (-2.0f64).exp() + 0.6;
        assert!((process.kernel(&features[0], &features[1]) - want).abs() < 1e-12);
        assert!((process.kernel(&features[0], &features[0]) - 1.0).abs() < 1e-12);
    }
}
