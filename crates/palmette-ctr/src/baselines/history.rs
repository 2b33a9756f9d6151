//! A network over histories and sets of tags.

use palmette_engine::ops::Pooling;
use serde::{Deserialize, Serialize};

use super::BaselineError;
use super::builder::{ListValues, ModelBuilder};
use super::error::positive;
use crate::{CompiledModel, ModelInputs};

/// Embeddings of fields and lists, each list pooled to vectors, and a multilayer perceptron on all
/// of them: the base model of Deep Interest Network and its attention (Zhou et al., KDD 2018,
/// figure 2).
///
/// With `target` the fields attend to every list that shares the table of one of them; with
/// `self-attention` the values of such a list first attend to those before them (one block as in
/// Kang and McAuley, ICDM 2018, without positions and dropout). Lists with tables of their own,
/// sets of tags, are averaged. DIN weighs a history with a small network and without softmax;
/// here it is scaled dot products with softmax.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct History {
    /// Channels of a vector, 16.
    pub embedding_dim: usize,
    /// How a history becomes vectors.
    pub pooling: HistoryPooling,
    /// Heads of attention, 1; they divide the channels.
    pub heads: usize,
    /// Units of the hidden layers, 200-80 (DIN, section 6.2).
    pub hidden: Vec<usize>,
}

/// How a history becomes vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HistoryPooling {
    /// The mean of its values.
    Mean,
    /// Attention of the fields.
    #[default]
    Target,
    /// Causal self-attention, then attention of the fields.
    SelfAttention,
}

impl Default for History {
    fn default() -> Self {
        Self {
            embedding_dim: 16,
            pooling: HistoryPooling::default(),
            heads: 1,
            hidden: vec![200, 80],
        }
    }
}

impl History {
    /// Declares and builds the model.
    ///
    /// # Errors
    /// Sizes of zero, heads that do not divide the channels, and data without lists.
    pub fn compile(&self, inputs: &ModelInputs) -> Result<CompiledModel, BaselineError> {
        positive("history", "embedding_dim", &[self.embedding_dim])?;
        positive("history", "heads", &[self.heads])?;
        positive("history", "hidden", &self.hidden)?;
        let (channels, heads) = (self.embedding_dim, self.heads);
        if channels % heads != 0 || channels > 64 {
            return Err(BaselineError::ListHeads { channels, heads });
        }
        if inputs.lists.is_empty() {
            return Err(BaselineError::NoLists);
        }
        let shared = |list: &crate::List| matches!(list.table, crate::ListTable::Shared(_));
        let self_attention = self.pooling == HistoryPooling::SelfAttention;
        if self_attention && !inputs.lists.iter().any(shared) {
            return Err(BaselineError::NoSharedLists);
        }
        let mut builder = ModelBuilder::new(inputs)?;
        let (fields, lists) = builder.embeddings_and_lists(channels);
        let mut vectors: Vec<_> = fields.into_iter().collect();
        for ListValues { name, shared, values } in lists {
            vectors.push(match (self.pooling, fields, shared) {
                (HistoryPooling::Target, Some(fields), Some(_)) => {
                    builder.program.target_attention(fields, values, values, heads)
                }
                (HistoryPooling::SelfAttention, Some(fields), Some(_)) => {
                    let [q, k, v] = ["query", "key", "value"]
                        .map(|part| builder.channel_map(&format!("{name}.{part}"), values, false));
                    let mixed = builder.program.jagged_attention([q, k, v], heads, true);
                    let mixed = builder.channel_map(&format!("{name}.out"), mixed, false);
                    let seen = builder.add_norm(&format!("{name}.norm"), values, mixed);
                    let up = builder.channel_map(&format!("{name}.up"), seen, true);
                    let down = builder.channel_map(&format!("{name}.down"), up, false);
                    let seen = builder.add_norm(&format!("{name}.last_norm"), seen, down);
                    builder.program.target_attention(fields, seen, seen, heads)
                }
                _ => builder.program.pool(values, Pooling::Mean),
            });
        }
        let rows = vectors.into_iter().map(|x| builder.program.rows_from_fields(x));
        let rows: Vec<_> = rows.collect();
        let sources = builder.dense().into_iter().chain(rows).collect();
        let last = builder.tower("hidden", sources, &self.hidden);
        builder.add_to_logit("out.weight", &last);
        Ok(builder.finish())
    }
}
