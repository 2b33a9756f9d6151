//! Deep and cross network, version 2.

use palmette_engine::{BufferId, Epilogue};
use serde::{Deserialize, Serialize};

use super::BaselineError;
use super::builder::ModelBuilder;
use super::error::positive;
use crate::{CompiledModel, ModelInputs};

/// Cross layers `x_{l+1} = x_0 * (W_l x_l + b_l) + x_l` beside a tower, both read by the logit
/// (Wang et al., WWW 2021; the parallel structure with full matrices).
///
/// `x_0 = [x, e_1, .., e_ns]`. The rows of W that belong to the dense inputs and those of the
/// embeddings are two tensors, `cross.L.dense` and `cross.L.fields`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DcnV2 {
    /// Channels of a table, 16 (NASRec's tables).
    pub embedding_dim: usize,
    /// Number of cross layers, 3: the paper finds little beyond two to four.
    pub cross_layers: usize,
    /// Units of the tower, 400-400 (the sizes of the other deep baselines here).
    pub hidden: Vec<usize>,
}

impl Default for DcnV2 {
    fn default() -> Self {
        Self { embedding_dim: 16, cross_layers: 3, hidden: vec![400, 400] }
    }
}

impl DcnV2 {
    /// Declares and builds the model.
    ///
    /// # Errors
    /// Sizes of zero, and data without columns.
    pub fn compile(&self, inputs: &ModelInputs) -> Result<CompiledModel, BaselineError> {
        positive("dcn-v2", "embedding_dim", &[self.embedding_dim])?;
        positive("dcn-v2", "cross_layers", &[self.cross_layers])?;
        positive("dcn-v2", "hidden", &self.hidden)?;
        let mut builder = ModelBuilder::new(inputs)?;
        let first = builder.all_rows(self.embedding_dim);
        let part_names =
            if builder.dense().is_some() { ["dense", "fields"] } else { ["fields"; 2] };
        let mut crossed = first.clone();
        for layer in 0..self.cross_layers {
            let cross = |(name, (&x0, &x)): (&&str, (&BufferId, &BufferId))| {
                let name = format!("cross.{layer}.{name}");
                let mixed = linear(&mut builder, &name, &crossed, x0);
                let product = builder.program.multiply(x0, mixed);
                builder.program.add(&[product, x], false)
            };
            crossed = part_names.iter().zip(first.iter().zip(&crossed)).map(cross).collect();
        }
        let deep = builder.tower("hidden", first, &self.hidden);
        let read: Vec<_> = crossed.into_iter().chain(deep).collect();
        builder.add_to_logit("out.weight", &read);
        Ok(builder.finish())
    }
}

/// The rows of `W x + b` that meet `like`, as wide as it.
fn linear(builder: &mut ModelBuilder<'_>, name: &str, x: &[BufferId], like: BufferId) -> BufferId {
    let widths: Vec<_> = x.iter().map(|&part| builder.program.width(part)).collect();
    let out = builder.program.width(like);
    let weights = builder.weight(&format!("{name}.weight"), out, &widths);
    let bias = Some(builder.bias(&format!("{name}.bias"), out));
    let sources: Vec<_> = x.iter().copied().zip(weights).collect();
    builder.program.linear(&sources, out, Epilogue { bias, ..Epilogue::default() })
}
