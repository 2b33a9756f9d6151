//! Predictors: from a few evaluated genotypes to a guess at all others.

mod dense_sparse;
mod encoding;
mod linear;
mod mlp;
mod normal_scores;
mod process;
mod ridge;
mod trees;

pub use dense_sparse::{DenseSparseConfig, DenseSparsePredictor};
pub use encoding::{Encoded, HeterogeneousEncoding, Part};
pub use mlp::{MlpConfig, MlpPredictor};
pub use normal_scores::normal_scores;
pub use process::{Features, Field, GaussianProcess, ProcessConfig};
pub use ridge::PairwiseRidge;
pub use trees::{BoostedTrees, TreesConfig, tree_features};
