//! DLRM.

use serde::{Deserialize, Serialize};

use super::BaselineError;
use super::builder::ModelBuilder;
use super::error::positive;
use crate::{CompiledModel, ModelInputs};

/// `logit = top([z, <v_i, v_j> for i < j])`: dot products of all pairs of the embeddings and
/// `z = bottom(x)` (Naumov et al., 1906.00091).
///
/// The last layer of the bottom tower has `embedding_dim` units and is not listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dlrm {
    /// Channels of a table and of z, 16 (the released script for Criteo Kaggle).
    pub embedding_dim: usize,
    /// Hidden units of the bottom tower, 512-256-64 (likewise).
    pub bottom: Vec<usize>,
    /// Hidden units of the top tower, 512-256 (likewise).
    pub top: Vec<usize>,
}

impl Default for Dlrm {
    fn default() -> Self {
        Self { embedding_dim: 16, bottom: vec![512, 256, 64], top: vec![512, 256] }
    }
}

impl Dlrm {
    /// Declares and builds the model.
    ///
    /// # Errors
    /// Sizes of zero, and data without columns.
    pub fn compile(&self, inputs: &ModelInputs) -> Result<CompiledModel, BaselineError> {
        positive("dlrm", "embedding_dim", &[self.embedding_dim])?;
        positive("dlrm", "bottom", &self.bottom)?;
        positive("dlrm", "top", &self.top)?;
        let mut builder = ModelBuilder::new(inputs)?;
        let bottom = builder.dense().map(|dense| {
            let sources = builder.tower("bottom", vec![dense], &self.bottom);
            let name = format!("bottom.{}", self.bottom.len());
            builder.layer(&name, &sources, self.embedding_dim, true)
        });
        let mut read: Vec<_> = bottom.into_iter().collect();
        // A single vector has no pairs.
        let fields = builder.embeddings(self.embedding_dim);
        match fields {
            Some(fields) if inputs.fields.len() + read.len() > 1 => {
                read.push(builder.program.gram(bottom, &[fields]));
            }
            Some(only) => read.push(builder.program.rows_from_fields(only)),
            None => {}
        }
        let last = builder.tower("top", read, &self.top);
        builder.add_to_logit("out.weight", &last);
        Ok(builder.finish())
    }
}
