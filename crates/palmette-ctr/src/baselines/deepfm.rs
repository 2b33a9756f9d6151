//! DeepFM.

use serde::{Deserialize, Serialize};

use super::BaselineError;
use super::builder::ModelBuilder;
use super::error::positive;
use crate::{CompiledModel, ModelInputs};

/// A factorisation machine and a multilayer perceptron on the same embeddings, their logits
/// added (Guo et al., IJCAI 2017).
///
/// The tower reads the same vectors as the pairs, those of the dense inputs included. Dropout,
/// 0.5 in the paper, is left out: one epoch does not overfit by memorising.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeepFm {
    /// Channels of a field's vector, 16 (NASRec's tables; 10 in the paper).
    pub embedding_dim: usize,
    /// Units of the hidden layers, 400-400-400 (section 3.3).
    pub hidden: Vec<usize>,
}

impl Default for DeepFm {
    fn default() -> Self {
        Self { embedding_dim: 16, hidden: vec![400, 400, 400] }
    }
}

impl DeepFm {
    /// Declares and builds the model.
    ///
    /// # Errors
    /// Sizes of zero, and data without columns.
    pub fn compile(&self, inputs: &ModelInputs) -> Result<CompiledModel, BaselineError> {
        positive("deepfm", "embedding_dim", &[self.embedding_dim])?;
        positive("deepfm", "hidden", &self.hidden)?;
        let mut builder = ModelBuilder::new(inputs)?;
        let fields = builder.all_fields(self.embedding_dim);
        builder.add_first_order_to_logit();
        let pairs = builder.program.factorization_machine(&fields);
        builder.add_sum_to_logit(pairs, 0.5);
        let rows = fields.iter().map(|&f| builder.program.rows_from_fields(f)).collect();
        let last = builder.tower("hidden", rows, &self.hidden);
        builder.add_to_logit("out.weight", &last);
        Ok(builder.finish())
    }
}
