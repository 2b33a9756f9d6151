//! Predictors: from a few evaluated genotypes to a guess at all others.

mod normal_scores;
mod ridge;

pub use normal_scores::normal_scores;
pub use ridge::PairwiseRidge;
