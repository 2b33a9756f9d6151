//! What a dataset is: schema, fitted encoders, counts and content hashes, in `manifest.json`.

use serde::{Deserialize, Serialize};

use crate::encoder::{CategoricalEncoder, DenseTransform};
use crate::schema::{ExtraColumn, Keep, Schema};

/// The version of the files that this crate writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// The manifest's file name inside a dataset.
pub const MANIFEST_FILE: &str = "manifest.json";

/// A part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Fits encoders and weights.
    Train,
    /// Ranks architectures.
    Validation,
    /// Is read once, at the end.
    Test,
}

impl Split {
    /// All parts in order.
    pub const ALL: [Split; 3] = [Split::Train, Split::Validation, Split::Test];

    /// `train`, `validation` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Validation => "validation",
            Split::Test => "test",
        }
    }
}

/// A dense field with its fitted transform.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FittedDense {
    /// The column.
    pub name: String,
    /// The raw value of every row, where the field is no column of the log.
    pub constant: Option<f32>,
    /// The transform; missing values (NaN) become 0 after it.
    pub transform: DenseTransform,
    /// Missing values of the training part.
    pub missing: u64,
    /// The least value of the training part, where any is present.
    pub min: Option<f32>,
    /// The greatest value of the training part, where any is present.
    pub max: Option<f32>,
}

/// A categorical field with its fitted encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FittedCategorical {
    /// The column.
    pub name: String,
    /// The encoder; with it, `vocabulary` and the schema's `missing` list, anybody can encode.
    pub encoder: CategoricalEncoder,
    /// Distinct values of the training part, the missing one not counted.
    pub distinct: u64,
    /// Missing values of the training part.
    pub missing: u64,
    /// Rows of the embedding table without a cap.
    pub table_rows: u32,
    /// The vocabulary, for the dictionary encoder.
    pub vocabulary: Option<VocabularyEntry>,
}

/// A list with its fitted encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FittedList {
    /// The column.
    pub name: String,
    /// What stands between two values of a text.
    pub separator: char,
    /// The most values of a row that are kept.
    pub max_length: u32,
    /// Which ones are kept.
    pub keep: Keep,
    /// How a value is encoded.
    pub values: ListVocabulary,
}

/// Whose encoder and embedding table a list uses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ListVocabulary {
    /// Those of the categorical field with this number.
    Shared(usize),
    /// Its own, which are those of a categorical field otherwise; no value is missing.
    Own(FittedCategorical),
}

/// What the rows of a log had in one list, in all parts together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListCounts {
    /// The list.
    pub name: String,
    /// Values that are stored.
    pub elements: u64,
    /// Rows without a value.
    pub empty: u64,
    /// Rows that had more values than the list keeps.
    pub truncated: u64,
    /// Values of these rows that were left out.
    pub cut: u64,
}

/// The file of a vocabulary: one JSON array `[text, count]` a line in the order of their values,
/// where `text` is null for the missing value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VocabularyEntry {
    /// Path inside the dataset.
    pub file: String,
    /// Number of lines.
    pub entries: u64,
    /// Size of the file.
    pub bytes: u64,
    /// XXH3-128 of the file, in hexadecimal.
    pub hash: String,
}

/// Everything that turns raw text into model inputs; the content of an exporter's `encoders.json`.
///
/// The contract of a raw input, which an exported model has to keep: a dense value is its number
/// as `f32`, or NaN where missing, *before* its transform; a categorical value is `v` of
/// [`CategoricalEncoder`] in `-1..=4294967295`, *before* [`table_index`](crate::table_index).
/// A field that begins or ends with a space or a tab is trimmed of ASCII white space; it is missing
/// where it is then empty or equal to one of `missing`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encoders {
    /// Texts that mean a missing value, besides the empty text.
    pub missing: Vec<String>,
    /// Dense fields in order.
    pub dense: Vec<FittedDense>,
    /// Categorical fields in order.
    pub categorical: Vec<FittedCategorical>,
    /// Lists in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<FittedList>,
}

impl Encoders {
    /// The fields that have an embedding table, in the order of the tables: categorical fields,
    /// then the lists that share nobody's.
    pub fn tables(&self) -> impl Iterator<Item = &FittedCategorical> {
        let own = self.lists.iter().filter_map(|list| match &list.values {
            ListVocabulary::Own(field) => Some(field),
            ListVocabulary::Shared(_) => None,
        });
        self.categorical.iter().chain(own)
    }

    /// The table of each list, as a place in [`Encoders::tables`].
    pub fn list_tables(&self) -> Vec<usize> {
        let mut next = self.categorical.len()..;
        let tables = self.lists.iter().map(|list| match &list.values {
            ListVocabulary::Shared(field) => *field,
            ListVocabulary::Own(_) => next.next().unwrap_or_default(),
        });
        tables.collect()
    }
}

/// Rows of the three parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitCounts {
    /// Training rows.
    pub train: u64,
    /// Validation rows.
    pub validation: u64,
    /// Test rows.
    pub test: u64,
}

impl SplitCounts {
    /// The count of one part.
    pub fn get(&self, split: Split) -> u64 {
        match split {
            Split::Train => self.train,
            Split::Validation => self.validation,
            Split::Test => self.test,
        }
    }

    /// The counts in the order of [`Split::ALL`].
    pub(crate) fn from_array([train, validation, test]: [u64; 3]) -> Self {
        Self { train, validation, test }
    }
}

/// One shard of one part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// The part.
    pub split: Split,
    /// Path inside the dataset.
    pub file: String,
    /// Rows.
    pub rows: u64,
    /// Values of each list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elements: Vec<u64>,
    /// Size of the file.
    pub bytes: u64,
    /// XXH3-128 of the file, in hexadecimal.
    pub hash: String,
}

/// One input file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputEntry {
    /// Its name without directories.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its rows, header not counted.
    pub rows: u64,
}

/// The content of `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// The schema, resolved.
    pub schema: Schema,
    /// The fitted encoders.
    pub encoders: Encoders,
    /// Columns kept beside the inputs.
    pub extras: Vec<ExtraColumn>,
    /// Whether rows have weights.
    pub weighted: bool,
    /// Rows of each part.
    pub rows: SplitCounts,
    /// Rows with label 1 of each part.
    pub positives: SplitCounts,
    /// Rows left out because the schema says so (no label, dropped split values).
    pub dropped: u64,
    /// Bad rows set aside.
    pub quarantined: u64,
    /// What the lists held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<ListCounts>,
    /// Columns of the input that the schema does not name.
    pub unused_columns: Vec<String>,
    /// The inputs in order.
    pub inputs: Vec<InputEntry>,
    /// Rows of every shard of a part but its last.
    pub shard_rows: u64,
    /// The shards, by part and position.
    pub shards: Vec<ShardEntry>,
}
