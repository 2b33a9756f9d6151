//! AutoInt+.

use serde::{Deserialize, Serialize};

use super::BaselineError;
use super::builder::ModelBuilder;
use super::error::{at_most, positive};
use crate::{CompiledModel, ModelInputs};

/// Interacting layers `E' = relu(attention(E W_q, E W_k, E W_v) + E W_res)` over the fields,
/// beside a tower (Song et al., CIKM 2019; the variant with the tower).
///
/// Scores are divided by the root of the head's channels, which the paper leaves out: the scale
/// can be learnt by `W_q`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoIntPlus {
    /// Channels of a field's vector, 16 (section 5.1).
    pub embedding_dim: usize,
    /// Number of interacting layers, 3 (likewise).
    pub layers: usize,
    /// Channels of an interacting layer, all heads together, 32 (likewise).
    pub channels: usize,
    /// Heads, 2 (likewise).
    pub heads: usize,
    /// Units of the tower, 400-400 (the sizes of the other deep baselines here).
    pub hidden: Vec<usize>,
}

impl Default for AutoIntPlus {
    fn default() -> Self {
        Self { embedding_dim: 16, layers: 3, channels: 32, heads: 2, hidden: vec![400, 400] }
    }
}

impl AutoIntPlus {
    /// Declares and builds the model.
    ///
    /// # Errors
    /// Sizes of zero, heads that the engine does not have, and data without columns.
    pub fn compile(&self, inputs: &ModelInputs) -> Result<CompiledModel, BaselineError> {
        const MODEL: &str = "autoint-plus";
        positive(MODEL, "embedding_dim", &[self.embedding_dim])?;
        positive(MODEL, "layers", &[self.layers])?;
        positive(MODEL, "channels", &[self.channels])?;
        positive(MODEL, "heads", &[self.heads])?;
        positive(MODEL, "hidden", &self.hidden)?;
        // The engine maps the channels of a field in registers.
        at_most(MODEL, "embedding_dim", &[self.embedding_dim], 64)?;
        at_most(MODEL, "channels", &[self.channels], 64)?;
        let (channels, heads) = (self.channels, self.heads);
        if channels % heads != 0 || ![1, 2, 4, 8, 16].contains(&(channels / heads)) {
            return Err(BaselineError::Heads { model: MODEL, channels, heads });
        }
        let mut builder = ModelBuilder::new(inputs)?;
        let fields = builder.one_field_buffer(self.embedding_dim);
        let mut tokens = fields;
        for layer in 0..self.layers {
            let dim = builder.program.dim(tokens);
            let mut map = |name: &str| {
                let name = format!("interacting.{layer}.{name}.weight");
                let weight = builder.weight(&name, channels, &[dim])[0];
                builder.program.row_map(tokens, weight, channels, None, false)
            };
            let [query, key, value, residual] = ["query", "key", "value", "residual"].map(&mut map);
            let attended = builder.program.attention(query, key, value, heads);
            tokens = builder.program.add(&[attended, residual], true);
        }
        let rows = builder.program.rows_from_fields(fields);
        let deep = builder.tower("hidden", vec![rows], &self.hidden);
        let read: Vec<_> = std::iter::once(tokens).chain(deep).collect();
        builder.add_to_logit("out.weight", &read);
        Ok(builder.finish())
    }
}
