//! Predictors: from a few evaluated genotypes to a guess at all others.

mod mlp;
mod normal_scores;
mod ridge;

pub use mlp::{MlpConfig, MlpPredictor};
pub use normal_scores::normal_scores;
pub use ridge::PairwiseRidge;
