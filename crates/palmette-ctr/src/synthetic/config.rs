//! Settings of the synthetic log.

use serde::{Deserialize, Serialize};

/// Most rows a log may have: value counts and strengths are chosen for a small log.
pub(super) const MOST_ROWS: usize = 10_000_000;

/// How many rows, and how strong the effects in them are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyntheticConfig {
    /// Names the log.
    pub seed: u64,
    /// Rows, 200,000.
    pub rows: usize,
    /// Logit of a row without any effect.
    pub bias: f64,
    /// Standard deviation of the sum of all main effects.
    pub main: f64,
    /// Standard deviation of the sum of all pairwise interactions.
    pub pairs: f64,
    /// Standard deviation of the sum of all third-order interactions.
    pub triples: f64,
    /// Numbers in a hidden vector, K.
    pub latent: usize,
    /// Exponent of the large fields: the value of rank r (from 1) has a frequency like
    /// `(r + offset)^-exponent` (the Zipf-Mandelbrot law).
    pub exponent: f64,
    /// Offset of that law: about so many values share the head of a large field.
    pub offset: f64,
}

impl Default for SyntheticConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            rows: 200_000,
            bias: -1.0,
            main: 0.6,
            pairs: 4.0,
            triples: 0.6,
            latent: 8,
            exponent: 3.0,
            offset: 10.0,
        }
    }
}

/// What can go wrong with a synthetic log.
#[derive(Debug, thiserror::Error)]
pub enum SyntheticError {
    /// The number of rows cannot be had.
    #[error("a synthetic log of {0} rows: between 1 and {MOST_ROWS} are possible")]
    Rows(usize),
    /// A hidden vector is too short or too long.
    #[error("hidden vectors of {0} numbers: between 1 and 16 are possible")]
    Latent(usize),
    /// A strength is no size.
    #[error("`{key}` is {value}: it must be finite, and only `bias` may be negative")]
    Strength {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: f64,
    },
    /// The log could not be written.
    #[error("cannot write the synthetic log: {0}")]
    Io(#[from] std::io::Error),
}

impl SyntheticConfig {
    pub(super) fn check(&self) -> Result<(), SyntheticError> {
        if !(1..=MOST_ROWS).contains(&self.rows) {
            return Err(SyntheticError::Rows(self.rows));
        }
        if !(1..=16).contains(&self.latent) {
            return Err(SyntheticError::Latent(self.latent));
        }
        let strengths = [
            ("main", self.main),
            ("pairs", self.pairs),
            ("triples", self.triples),
            ("exponent", self.exponent),
            ("offset", self.offset),
            ("bias", self.bias.abs()),
        ];
        match strengths.into_iter().find(|(_, value)| !value.is_finite() || *value < 0.0) {
            Some((key, value)) => Err(SyntheticError::Strength { key, value }),
            None => Ok(()),
        }
    }
}
