//! Multilayer perceptron on dense inputs and flattened embeddings.

use serde::{Deserialize, Serialize};

use super::BaselineError;
use super::builder::ModelBuilder;
use super::error::positive;
use crate::{CompiledModel, ModelInputs};

/// `logit = w . h_n + b`, `h_i = relu(W_i h_{i-1} + b_i)`, `h_0 = [x, e_1, .., e_ns]`.
///
/// The embedding-and-tower model of Covington et al. (RecSys 2016) without its averaging.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mlp {
    /// Channels of a table, 16 (NASRec's tables).
    pub embedding_dim: usize,
    /// Units of the hidden layers, 400 each: the deep part that the DeepFM paper settles on
    /// (Guo et al., IJCAI 2017, section 3.3).
    pub hidden: Vec<usize>,
}

impl Default for Mlp {
    fn default() -> Self {
        Self { embedding_dim: 16, hidden: vec![400, 400, 400] }
    }
}

impl Mlp {
    /// Three sizes from small to large: 128-64, 256-128 and 512-256-128.
    ///
    /// They are where a comparison over sizes starts; [`Mlp::with_macs`] adds one of equal cost.
    pub fn three_sizes() -> [Self; 3] {
        let sizes: [&[usize]; 3] = [&[128, 64], &[256, 128], &[512, 256, 128]];
        sizes.map(|hidden| Self { hidden: hidden.to_vec(), ..Self::default() })
    }

    /// Two hidden layers, the second half as wide, with the multiply-accumulates nearest to `macs`.
    pub fn with_macs(inputs: &ModelInputs, macs: u64) -> Self {
        let embedding_dim = Self::default().embedding_dim;
        let width = inputs.dense + embedding_dim * inputs.fields.len();
        let of = |half: usize| Self { embedding_dim, hidden: vec![2 * half, half] };
        let cost = |half: usize| (2 * half * width + 2 * half * half + half) as u64;
        let mut half = 1;
        while cost(half + 1) <= macs {
            half += 1;
        }
        let nearer_above = cost(half + 1).abs_diff(macs) < cost(half).abs_diff(macs);
        of(if nearer_above { half + 1 } else { half })
    }

    /// Declares and builds the model.
    ///
    /// # Errors
    /// Sizes of zero, and data without columns.
    pub fn compile(&self, inputs: &ModelInputs) -> Result<CompiledModel, BaselineError> {
        positive("mlp", "embedding_dim", &[self.embedding_dim])?;
        positive("mlp", "hidden", &self.hidden)?;
        let mut builder = ModelBuilder::new(inputs)?;
        let rows = builder.all_rows(self.embedding_dim);
        let last = builder.tower("hidden", rows, &self.hidden);
        builder.add_to_logit("out.weight", &last);
        Ok(builder.finish())
    }
}
