//! The twelve fields and which of them interact.

use palmette_random::{Draw, stream};

use super::SyntheticConfig;

/// A categorical column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CategoricalColumn {
    /// Name in the header; a value is its first letter and a number.
    pub name: &'static str,
    /// Distinct values.
    pub values: usize,
}

const fn column(name: &'static str, values: usize) -> CategoricalColumn {
    CategoricalColumn { name, values }
}

/// Names of the dense columns.
pub const DENSE: [&str; 3] = ["price", "age", "history"];

/// The categorical columns; the first [`LARGE_FIELDS`] interact.
pub const CATEGORICAL: [CategoricalColumn; 9] = [
    column("user", 2000),
    column("item", 1500),
    column("query", 1200),
    column("site", 1000),
    column("campaign", 1000),
    column("region", 40),
    column("hour", 24),
    column("device", 12),
    column("position", 6),
];

/// Fields of at least a thousand values.
pub const LARGE_FIELDS: usize = 5;

/// Pairs of large fields that interact: a ring, so that every field is in two of them and half
/// of all pairs mean nothing.
pub(super) const PAIRS: [[usize; 2]; 5] = [[0, 1], [1, 2], [2, 3], [3, 4], [4, 0]];
/// Triples of large fields that interact.
pub(super) const TRIPLES: [[usize; 3]; 2] = [[0, 1, 3], [1, 2, 4]];
/// Exponent of the small fields, whose values are nearly equally frequent.
const SMALL_EXPONENT: f64 = 0.5;

/// Draws values by the Zipf-Mandelbrot law and knows what each is worth.
pub(super) struct CategoricalTruth {
    /// Cumulative frequencies; the last is 1 up to rounding.
    cumulative: Vec<f64>,
    /// Main effects, mean 0 and variance 1 under the frequencies.
    pub effects: Vec<f64>,
    /// Hidden vectors of length `sqrt(K)`, `[values, K]`; empty for small fields.
    pub factors: Vec<f64>,
}

impl CategoricalTruth {
    /// The truth of categorical column `index`.
    pub fn new(config: &SyntheticConfig, index: usize) -> Self {
        let SyntheticConfig { seed, latent, .. } = *config;
        let column = CATEGORICAL[index];
        let large = index < LARGE_FIELDS;
        let (exponent, offset) =
            if large { (config.exponent, config.offset) } else { (SMALL_EXPONENT, 0.0) };
        let mut frequencies: Vec<f64> =
            (1..=column.values).map(|rank| (rank as f64 + offset).powf(-exponent)).collect();
        let total: f64 = frequencies.iter().sum();
        let mut below = 0.0;
        let mut cumulative = Vec::with_capacity(column.values);
        for frequency in &mut frequencies {
            *frequency /= total;
            below += *frequency;
            cumulative.push(below);
        }
        let mut rng = stream(seed, "synthetic/main", index as u64);
        let mut effects: Vec<f64> = (0..column.values).map(|_| rng.normal()).collect();
        standardise(&mut effects, &frequencies);
        let mut factors = Vec::new();
        if large {
            let mut rng = stream(seed, "synthetic/factors", index as u64);
            factors = (0..column.values * latent).map(|_| rng.normal()).collect();
            // Frequent values of one length: no single one of them decides how strong all are.
            for vector in factors.chunks_mut(latent) {
                let square: f64 = vector.iter().map(|z| z * z).sum();
                let scale = (latent as f64 / square).sqrt();
                vector.iter_mut().for_each(|z| *z *= scale);
            }
        }
        Self { cumulative, effects, factors }
    }

    /// A value, from 0 for the most frequent.
    pub fn draw(&self, rng: &mut impl Draw) -> u32 {
        let at = rng.unit();
        let value = self.cumulative.partition_point(|&below| below <= at);
        value.min(self.cumulative.len() - 1) as u32
    }
}

fn standardise(effects: &mut [f64], frequencies: &[f64]) {
    let mean: f64 = effects.iter().zip(frequencies).map(|(x, p)| x * p).sum();
    let square: f64 = effects.iter().zip(frequencies).map(|(x, p)| (x - mean).powi(2) * p).sum();
    let scale = 1.0 / square.sqrt();
    effects.iter_mut().for_each(|x| *x = (*x - mean) * scale);
}

/// Draws dense column `index`, rounded as it is written: prices with cents, an age in tenths of
/// an hour, and a count. Logarithms of all three are nearly normal.
pub(super) fn draw_dense(index: usize, rng: &mut impl Draw) -> f64 {
    let normal = rng.normal();
    match index {
        0 => (100.0 * (1.0 + 0.8 * normal).exp()).round() / 100.0,
        1 => (10.0 * (2.0 + 1.2 * normal).exp()).round() / 10.0,
        _ => (0.8 + 1.1 * normal).exp().floor(),
    }
}

/// Effect of dense column `index` at `x`: about standard normal, straight or bent in `ln(1 + x)`.
pub(super) fn dense_effect(index: usize, x: f64) -> f64 {
    let z = x.ln_1p();
    match index {
        0 => (z - 1.38) / 0.6,
        // Best in the middle.
        1 => 0.7 - ((z - 2.2) / 1.1).powi(2) * 0.7,
        _ => (z - 1.1) / 0.8,
    }
}
