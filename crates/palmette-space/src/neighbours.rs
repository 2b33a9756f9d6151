use crate::{Genotype, Kind, Space};

impl Kind {
    /// Genes one step from `gene`: every other option of an unordered one-of; the next option or
    /// integer up and down; a subset with one item added, removed or swapped.
    pub fn steps(&self, gene: u32) -> Vec<u32> {
        match self {
            Self::OneOf { options, ordered: false } => {
                (0..options.len() as u32).filter(|&other| other != gene).collect()
            }
            Self::OneOf { ordered: true, .. } | Self::Integer { .. } => {
                [gene.checked_sub(1), gene.checked_add(1)]
                    .into_iter()
                    .flatten()
                    .filter(|&other| self.accepts(other))
                    .collect()
            }
            Self::Subset { items, .. } => {
                let n = items.len() as u32;
                let (inside, outside): (Vec<u32>, Vec<u32>) =
                    (0..n).partition(|item| gene >> item & 1 == 1);
                let toggled = (0..n).map(|item| gene ^ 1 << item);
                let swapped =
                    inside.iter().flat_map(|i| outside.iter().map(move |o| gene ^ 1 << i ^ 1 << o));
                toggled.chain(swapped).filter(|&other| self.accepts(other)).collect()
            }
        }
    }

    /// How far two genes are apart, from 0 (equal) to 1: unordered one-of, equal or not;
    /// ordered and integer, steps over the range; subset, differing items over all items.
    pub fn distance(&self, a: u32, b: u32) -> f64 {
        match self {
            _ if a == b => 0.0,
            Self::OneOf { ordered: false, .. } => 1.0,
            Self::OneOf { options, .. } => f64::from(a.abs_diff(b)) / (options.len() - 1) as f64,
            Self::Integer { low, high } => f64::from(a.abs_diff(b)) / (high - low) as f64,
            Self::Subset { items, .. } => f64::from((a ^ b).count_ones()) / items.len() as f64,
        }
    }
}

impl Space {
    /// Genotypes one step away in one active choice, in the order of the choices.
    ///
    /// Where the step turns other choices on, they start at their defaults.
    pub fn neighbours(&self, genotype: &Genotype) -> Vec<Genotype> {
        let mut found = Vec::new();
        for (position, choice) in self.choices().iter().enumerate() {
            if !self.is_active(genotype.genes(), position) {
                continue;
            }
            for gene in choice.kind.steps(genotype.genes()[position]) {
                let mut neighbour = genotype.clone();
                neighbour.genes_mut()[position] = gene;
                self.settle(&mut neighbour);
                found.push(neighbour);
            }
        }
        found
    }

    /// Number of choices, active in either, whose genes differ.
    pub fn hamming(&self, a: &Genotype, b: &Genotype) -> usize {
        self.differing(a, b).count()
    }

    /// Sum over choices of [`Kind::distance`].
    pub fn distance(&self, a: &Genotype, b: &Genotype) -> f64 {
        self.differing(a, b)
            .map(|i| self.choices()[i].kind.distance(a.genes()[i], b.genes()[i]))
            .sum()
    }

    fn differing<'a>(
        &'a self,
        a: &'a Genotype,
        b: &'a Genotype,
    ) -> impl Iterator<Item = usize> + 'a {
        // Inactive genes are at their defaults. A choice active on one side only differs by its
        // condition's parent, which counts already.
        (0..self.choices().len()).filter(move |&i| {
            a.genes()[i] != b.genes()[i]
                && (!self.is_conditional()
                    || self.is_active(a.genes(), i) && self.is_active(b.genes(), i))
        })
    }
}
