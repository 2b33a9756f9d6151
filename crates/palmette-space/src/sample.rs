use palmette_random::{Draw, Rng};

use crate::{Choice, Genotype, Kind, Space};

impl Space {
    /// Draws a genotype: options and integers uniform; a subset's size uniform in
    /// `min..=max`, then its members uniform without replacement.
    pub fn sample<R: Rng + ?Sized>(&self, rng: &mut R) -> Genotype {
        self.sample_with(rng, |_, _, _| None)
    }

    /// Draws a genotype where `law(position, choice, rng)` may draw a gene itself;
    /// `None` leaves it to the uniform draw. A drawn gene must be one the choice accepts.
    pub fn sample_with<R: Rng + ?Sized>(
        &self,
        rng: &mut R,
        mut law: impl FnMut(usize, &Choice, &mut R) -> Option<u32>,
    ) -> Genotype {
        let genes: Vec<u32> = self
            .choices()
            .iter()
            .enumerate()
            .map(|(position, choice)| {
                let gene = law(position, choice, rng).unwrap_or_else(|| choice.kind.sample(rng));
                debug_assert!(choice.kind.accepts(gene), "{} drew {gene}", choice.name);
                gene
            })
            .collect();
        let mut genotype = Genotype::new(genes);
        self.settle(&mut genotype);
        genotype
    }
}

impl Kind {
    /// Draws a gene as [`Space::sample`] does.
    pub fn sample<R: Rng + ?Sized>(&self, rng: &mut R) -> u32 {
        match self {
            Self::OneOf { options, .. } => rng.below(options.len() as u64) as u32,
            Self::Subset { items, min, max } => {
                let size = min + rng.below((max - min) as u64 + 1) as usize;
                sample_subset(rng, items.len(), size)
            }
            Self::Integer { low, high } => rng.below((high - low) as u64 + 1) as u32,
        }
    }
}

/// A uniform subset of `size` of `n` items as a bit mask (Floyd's algorithm: `size` draws, no memory).
pub fn sample_subset<R: Rng + ?Sized>(rng: &mut R, n: usize, size: usize) -> u32 {
    let mut mask = 0u32;
    for last in n - size.min(n)..n {
        let drawn = rng.below(last as u64 + 1) as u32;
        mask |= if mask >> drawn & 1 == 1 { 1 << last } else { 1 << drawn };
    }
    mask
}
