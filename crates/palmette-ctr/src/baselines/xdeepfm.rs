//! xDeepFM.

use palmette_engine::{BufferId, Epilogue};
use serde::{Deserialize, Serialize};

use super::BaselineError;
use super::builder::ModelBuilder;
use super::error::positive;
use crate::{CompiledModel, ModelInputs};

/// A compressed interaction network, first-order terms and a tower, their logits added
/// (Lian et al., KDD 2018).
///
/// `X^k_h = sum_ij W^k_hij (X^{k-1}_i * X^0_j)` channel by channel; every `X^k` is summed over
/// the channels and read by the logit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct XDeepFm {
    /// Channels of a field's vector, 16 (NASRec's tables; 10 in the paper).
    pub embedding_dim: usize,
    /// Fields of the interaction layers, 200-200-200 (section 4.1.4, Criteo); at most five layers.
    pub interaction: Vec<usize>,
    /// Units of the tower, 400-400 (likewise).
    pub hidden: Vec<usize>,
}

impl Default for XDeepFm {
    fn default() -> Self {
        Self { embedding_dim: 16, interaction: vec![200, 200, 200], hidden: vec![400, 400] }
    }
}

/// The logit sums eight things, of which three are not interaction layers.
const MOST_LAYERS: usize = 5;

impl XDeepFm {
    /// Declares and builds the model.
    ///
    /// # Errors
    /// Sizes of zero, too many layers, and data without columns.
    pub fn compile(&self, inputs: &ModelInputs) -> Result<CompiledModel, BaselineError> {
        const MODEL: &str = "xdeepfm";
        positive(MODEL, "embedding_dim", &[self.embedding_dim])?;
        positive(MODEL, "interaction", &self.interaction)?;
        positive(MODEL, "hidden", &self.hidden)?;
        let found = self.interaction.len();
        if found > MOST_LAYERS {
            let (model, key, most) = (MODEL, "interaction", MOST_LAYERS);
            return Err(BaselineError::TooManyLayers { model, key, found, most });
        }
        let mut builder = ModelBuilder::new(inputs)?;
        let fields = builder.one_field_buffer(self.embedding_dim);
        builder.add_first_order_to_logit();
        let mut last = fields;
        let mut pooled: Vec<BufferId> = Vec::new();
        for (layer, &width) in self.interaction.iter().enumerate() {
            let products = builder.program.outer(last, fields);
            let pairs = builder.program.width(products);
            let weight = builder.weight(&format!("interaction.{layer}.weight"), width, &[pairs]);
            last = builder.program.field_mix(&[(products, weight[0])], width, Epilogue::default());
            pooled.push(builder.program.field_sums(last));
        }
        if !pooled.is_empty() {
            builder.add_to_logit("interaction.out.weight", &pooled);
        }
        let rows = builder.program.rows_from_fields(fields);
        let deep = builder.tower("hidden", vec![rows], &self.hidden);
        builder.add_to_logit("out.weight", &deep);
        Ok(builder.finish())
    }
}
