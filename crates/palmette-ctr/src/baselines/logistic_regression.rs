//! Logistic regression.

use serde::{Deserialize, Serialize};

use super::BaselineError;
use super::builder::ModelBuilder;
use crate::{CompiledModel, ModelInputs};

/// `logit = b + w . x + sum_f u_f[id_f]` (Richardson et al., WWW 2007).
///
/// One number a categorical value, one weight a dense input, no interactions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogisticRegression {}

impl LogisticRegression {
    /// Declares and builds the model.
    ///
    /// # Errors
    /// [`BaselineError::NoInputs`].
    pub fn compile(&self, inputs: &ModelInputs) -> Result<CompiledModel, BaselineError> {
        let mut builder = ModelBuilder::new(inputs)?;
        builder.add_first_order_to_logit();
        Ok(builder.finish())
    }
}
