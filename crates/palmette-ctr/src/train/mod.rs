/*!
Training: batches in a fixed order, supernet steps, networks of their own, and
the score of a sub-network.

Everything here is a sequence of numbered steps that are pure functions of
`(data, settings, seed, step)` and of the weights before it, so a run that is
killed continues from any saved step to the same bits.
*/

mod batches;
mod groups;
mod numbers;
mod progress;
mod ranking;
mod ranking_rows;
mod standalone;
mod supernet;

pub use batches::{Batches, Order};
pub use groups::{group_bytes, groups};
pub use numbers::{Keeping, Numbers, Products, Storage, TableState};
pub use progress::TrainingProgress;
pub use ranking::{DECODED_BYTES, RankingSettings, RankingWeights, Scores, SubnetRanker};
pub use standalone::{NetworkTraining, PREDICT_ROWS, TrainSettings, engine_lists, predict_rows};
pub use supernet::{SupernetSettings, SupernetTraining};

use palmette_data::DataError;
use palmette_engine::{EngineError, TableSpec};

use crate::nasrec::EMBEDDING_DIM;

/// What can go wrong while training.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Reading the dataset failed.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A step failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A part of the data that training needs has no rows.
    #[error("the {0} part of the dataset has no rows")]
    Empty(&'static str),
}

/// One table of 16 channels a field.
pub fn embedding_tables(names: &[String], rows: &[u32], dim: usize) -> Vec<TableSpec> {
    names
        .iter()
        .zip(rows)
        .map(|(name, &rows)| TableSpec {
            name: format!("embedding.{name}"),
            rows: rows as usize,
            dim,
        })
        .collect()
}

/// The tables of a NASRec network over fields with these names.
pub fn nasrec_tables(names: &[String], rows: &[u32]) -> Vec<TableSpec> {
    embedding_tables(names, rows, EMBEDDING_DIM)
}
