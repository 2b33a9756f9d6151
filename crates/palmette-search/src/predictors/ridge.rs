use palmette_space::{Genotype, Space};

/// Ridge regression on single values and pairs of values of slots, or, which is the same, a
/// Gaussian process with the kernel k(a, b) = (1 + m + m (m - 1) / 2) / k0 where m slots of a
/// and b agree and k0 makes k(a, a) = 1.
///
/// It is the honest simple baseline of the predictors: exact, a millisecond to fit, nothing to
/// tune but the noise.
#[derive(Clone, Debug)]
pub struct PairwiseRidge {
    sizes: Vec<u16>,
    noise: f64,
    scale: f64,
    rows: Vec<Vec<u16>>,
    /// Lower Cholesky factor of K + noise I, row by row.
    factor: Vec<Vec<f64>>,
    intercept: f64,
    single: Vec<Vec<f64>>,
    /// Weights of pairs i < j at i * slots + j, by value of i, then of j.
    pairs: Vec<Vec<f64>>,
}

impl PairwiseRidge {
    /// A predictor for genotypes of `space`; `noise` is the variance of a label beside a signal of 1.
    pub fn new(space: &Space, noise: f64) -> Self {
        let sizes = space.slot_sizes();
        let n = sizes.len() as f64;
        Self {
            sizes,
            noise,
            scale: 1.0 / (1.0 + n + n * (n - 1.0) / 2.0),
            rows: Vec::new(),
            factor: Vec::new(),
            intercept: 0.0,
            single: Vec::new(),
            pairs: Vec::new(),
        }
    }

    /// Fits labels of zero mean and unit variance.
    pub fn fit(&mut self, space: &Space, genotypes: &[&Genotype], labels: &[f64]) {
        self.rows = genotypes.iter().map(|genotype| space.slots(genotype)).collect();
        self.factor = Vec::with_capacity(self.rows.len());
        for i in 0..self.rows.len() {
            let mut row = Vec::with_capacity(i + 1);
            for j in 0..=i {
                let kernel = self.kernel(&self.rows[i], &self.rows[j]);
                let noise = if i == j { self.noise } else { 0.0 };
                let other: &[f64] = if i == j { &row } else { &self.factor[j] };
                let dot: f64 = row.iter().zip(other).map(|(a, b)| a * b).take(j).sum();
                let rest = kernel + noise - dot;
                row.push(if i == j { rest.max(1e-12).sqrt() } else { rest / self.factor[j][j] });
            }
            self.factor.push(row);
        }
        let half = self.solve_lower(labels);
        let dual = self.solve_upper(half);
        self.weigh(&dual);
    }

    /// The predicted label, 0 before any fit.
    pub fn predict(&self, slots: &[u16]) -> f64 {
        if self.rows.is_empty() {
            return 0.0;
        }
        let n = slots.len();
        let mut sum = self.intercept;
        for (i, &a) in slots.iter().enumerate() {
            sum += self.single[i][usize::from(a)];
            for (j, &b) in slots.iter().enumerate().skip(i + 1) {
                let width = usize::from(self.sizes[j]);
                sum += self.pairs[i * n + j][usize::from(a) * width + usize::from(b)];
            }
        }
        sum
    }

    /// The standard deviation of the prediction, noise aside; 1 before any fit.
    pub fn deviation(&self, slots: &[u16]) -> f64 {
        let kernels: Vec<f64> = self.rows.iter().map(|row| self.kernel(row, slots)).collect();
        let half = self.solve_lower(&kernels);
        (1.0 - half.iter().map(|h| h * h).sum::<f64>()).max(0.0).sqrt()
    }

    fn kernel(&self, a: &[u16], b: &[u16]) -> f64 {
        let agreed = a.iter().zip(b).filter(|(x, y)| x == y).count() as f64;
        self.scale * (1.0 + agreed + agreed * (agreed - 1.0) / 2.0)
    }

    /// Turns dual coefficients into weights of values and pairs.
    fn weigh(&mut self, dual: &[f64]) {
        let n = self.sizes.len();
        let width = |i: usize| usize::from(self.sizes[i]);
        self.single = (0..n).map(|i| vec![0.0; width(i)]).collect();
        self.pairs = (0..n * n)
            .map(
                |p| if p / n < p % n { vec![0.0; width(p / n) * width(p % n)] } else { Vec::new() },
            )
            .collect();
        self.intercept = 0.0;
        for (row, coefficient) in self.rows.iter().zip(dual) {
            let weight = coefficient * self.scale;
            self.intercept += weight;
            for (i, &a) in row.iter().enumerate() {
                self.single[i][usize::from(a)] += weight;
                for (j, &b) in row.iter().enumerate().skip(i + 1) {
                    self.pairs[i * n + j][usize::from(a) * width(j) + usize::from(b)] += weight;
                }
            }
        }
    }

    fn solve_lower(&self, right: &[f64]) -> Vec<f64> {
        let mut solution: Vec<f64> = Vec::with_capacity(right.len());
        for (row, value) in self.factor.iter().zip(right) {
            let dot: f64 = row.iter().zip(&solution).map(|(a, b)| a * b).sum();
            solution.push((value - dot) / row[solution.len()]);
        }
        solution
    }

    fn solve_upper(&self, mut right: Vec<f64>) -> Vec<f64> {
        for i in (0..right.len()).rev() {
            right[i] /= self.factor[i][i];
            let value = right[i];
            for (target, factor) in right[..i].iter_mut().zip(&self.factor[i]) {
                *target -= factor * value;
            }
        }
        right
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palmette_random::stream;

    #[test]
    fn weights_and_kernel_are_one_predictor() {
        let mut builder = Space::builder("mixed");
        builder.one_of("a", &["x", "y", "z"]);
        builder.subset("s", &["0", "1", "2"], 0, 3);
        builder.integer("i", 0, 4);
        let space = builder.finish().unwrap();
        let mut rng = stream(1, "test/ridge", 0);
        let genotypes: Vec<Genotype> = (0..30).map(|_| space.sample(&mut rng)).collect();
        let labels: Vec<f64> = genotypes.iter().map(|g| f64::from(g.genes()[2]) - 2.0).collect();
        let references: Vec<&Genotype> = genotypes.iter().collect();
        let mut ridge = PairwiseRidge::new(&space, 0.05);
        ridge.fit(&space, &references, &labels);
        // (K + noise I) dual = labels, checked through predictions: K dual = labels - noise dual.
        let slots: Vec<Vec<u16>> = genotypes.iter().map(|g| space.slots(g)).collect();
        let dual = ridge.solve_upper(ridge.solve_lower(&labels));
        for (i, row) in slots.iter().enumerate() {
            let by_kernel: f64 =
                slots.iter().zip(&dual).map(|(other, d)| d * ridge.kernel(row, other)).sum();
            assert!((ridge.predict(row) - by_kernel).abs() < 1e-9);
            assert!((by_kernel + 0.05 * dual[i] - labels[i]).abs() < 1e-9);
            assert!(ridge.deviation(row) < 0.25);
        }
        let before = PairwiseRidge::new(&space, 0.05);
        assert_eq!((before.predict(&slots[0]), before.deviation(&slots[0])), (0.0, 1.0));
    }
}
