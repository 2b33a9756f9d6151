/*!
Click logs: schema, streaming ingestion, columnar shards, batches.
*/

mod batch;
mod dataset;
mod encode;
mod encoder;
mod error;
mod fit;
mod hash;
mod input;
mod interner;
mod manifest;
mod number;
mod parse;
mod prepare;
mod profile;
mod schema;
mod shard;
mod split;
mod staging;
mod time;
mod write;

pub use batch::{Batch, RawBatch};
pub use dataset::Dataset;
pub use encode::{LogReader, RowEncoder};
pub use encoder::{
    CategoricalEncoder, DenseTransform, IntegerBase, MIN_TABLE_ROWS, hash_value, table_index,
};
pub use error::{DataError, RowProblem};
pub use manifest::{
    Encoders, FORMAT_VERSION, FittedCategorical, FittedDense, InputEntry, MANIFEST_FILE, Manifest,
    ShardEntry, Split, SplitCounts, VocabularyEntry,
};
pub use prepare::{
    MIN_MEMORY, Observer, OnBadRow, PrepareOptions, QUARANTINE_FILE, Stage, prepare,
};
pub use schema::{
    CategoricalField, DenseField, EncoderRule, ExtraColumn, ExtraKind, FileFormat, LabelRule,
    PRESETS, ProfileRule, Schema, SplitRule, TIME_COLUMN, TimeRule, TransformRule,
};
pub use time::TimeFormat;
