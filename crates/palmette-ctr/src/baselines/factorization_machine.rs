//! Factorisation machine.

use serde::{Deserialize, Serialize};

use super::BaselineError;
use super::builder::ModelBuilder;
use super::error::positive;
use crate::{CompiledModel, ModelInputs};

/// `logit = b + first order + sum_{i<j} <e_i, e_j>` (Rendle, ICDM 2010).
///
/// Computed as `1/2 sum_c ((sum_i e_ic)^2 - sum_i e_ic^2)`. Dense inputs enter the
/// pairs as one field each, a linear map of all dense inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FactorizationMachine {
    /// Channels of a field's vector, 16 (NASRec's tables).
    pub embedding_dim: usize,
}

impl Default for FactorizationMachine {
    fn default() -> Self {
        Self { embedding_dim: 16 }
    }
}

impl FactorizationMachine {
    /// Declares and builds the model.
    ///
    /// # Errors
    /// Sizes of zero, and data without columns.
    pub fn compile(&self, inputs: &ModelInputs) -> Result<CompiledModel, BaselineError> {
        positive("fm", "embedding_dim", &[self.embedding_dim])?;
        let mut builder = ModelBuilder::new(inputs)?;
        let fields = builder.all_fields(self.embedding_dim);
        builder.add_first_order_to_logit();
        let pairs = builder.program.factorization_machine(&fields);
        builder.add_sum_to_logit(pairs, 0.5);
        Ok(builder.finish())
    }
}
