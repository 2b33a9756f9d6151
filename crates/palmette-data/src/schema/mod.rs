//! What the columns of a log mean: the resolved schema, its file form and the presets.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::encoder::IntegerBase;
use crate::error::DataError;
use crate::time::TimeFormat;

mod file;
mod lists;
mod names;
mod override_split;
mod presets;

pub(crate) use file::granularity;
pub use lists::{DEFAULT_LIST_LENGTH, Keep, ListField, MAX_LIST_LENGTH};
pub use override_split::SplitOverride;
pub use presets::PRESETS;

/// The form of the input files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileFormat {
    /// Comma-separated with optional quotes (RFC 4180).
    Csv,
    /// Tab-separated; quotes are ordinary characters.
    Tsv,
    /// Apache Parquet.
    Parquet,
}

/// What the columns of a log mean and how they are encoded; read from a TOML file or a preset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schema {
    /// A name for reports: the preset's, or the file's without its ending.
    pub name: String,
    /// The form of the files; by their ending where `None`.
    pub format: Option<FileFormat>,
    /// Column names of text files without a header row.
    pub columns: Option<Vec<String>>,
    /// Texts that mean a missing value (the empty text always does).
    pub missing: Vec<String>,
    /// The label.
    pub label: LabelRule,
    /// Dense (numeric) fields in order.
    pub dense: Vec<DenseField>,
    /// Categorical fields in order.
    pub categorical: Vec<CategoricalField>,
    /// Fields of any number of values a row, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<ListField>,
    /// The column of sample weights.
    pub weight: Option<String>,
    /// The column of predictions of a model the user already has.
    pub baseline: Option<String>,
    /// The column of groups (users, sessions) for per-group metrics.
    pub group: Option<String>,
    /// Further numeric columns to carry along.
    pub keep: Vec<String>,
    /// The time of a row.
    pub time: Option<TimeRule>,
    /// Which rows train, validate and test.
    pub split: SplitRule,
    /// Columns left out on purpose; they must exist, which catches misspelt names.
    pub ignore: Vec<String>,
    /// A second file that adds columns by a key.
    pub profile: Option<ProfileRule>,
}

/// Where the label comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelRule {
    /// The column.
    pub column: String,
    /// Where given, the label is 1 for numbers of at least this and 0 below; otherwise the
    /// column itself holds 0 or 1.
    pub at_least: Option<f64>,
    /// Whether rows without a label are left out instead of being an error.
    pub drop_missing: bool,
}

/// A dense field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenseField {
    /// The column, and the field's name.
    pub name: String,
    /// A constant in place of a column (Avazu's dummy).
    pub constant: Option<f32>,
    /// The transform to fit.
    pub transform: TransformRule,
}

/// The transform of a dense field, before its moments are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransformRule {
    /// `ln(max(x, 0) + 1)`.
    #[default]
    Log,
    /// `(x - mean) / deviation`, fitted on the training part.
    Standard,
    /// `x`.
    None,
}

/// A categorical field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CategoricalField {
    /// The column, and the field's name.
    pub name: String,
    /// The encoder to fit.
    pub encoder: EncoderRule,
    /// Rows of the embedding table; counted from the training part where `None`.
    pub rows: Option<u32>,
}

/// The encoder of a categorical field, before it is fitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum EncoderRule {
    /// The integer itself.
    Modulo {
        /// How it is written.
        base: IntegerBase,
    },
    /// Values seen at least `min_count` times in the training part.
    Dictionary {
        /// The least count.
        min_count: u64,
    },
    /// A stable hash of the text.
    Hash,
}

/// Where the time of a row comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeRule {
    /// One column, or year, month, day (hour, minute, second) in columns of their own.
    pub columns: Vec<String>,
    /// How it is written.
    pub format: TimeFormat,
}

/// Which rows train, validate and test. File order is kept inside each part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SplitRule {
    /// At random with equal click rates: among every `G` consecutive rows of one label, exactly
    /// the given fractions go to each part (`G` = 10 for 8:1:1).
    Random {
        /// Fractions of training, validation and test.
        fractions: [f64; 3],
        /// The seed.
        seed: u64,
    },
    /// In order of time; rows of equal time stay together.
    TimeFractions {
        /// Fractions of training, validation and test.
        fractions: [f64; 3],
    },
    /// By boundaries in time.
    TimeBoundaries {
        /// The first time of the validation part.
        validation_from: i64,
        /// The first time of the test part.
        test_from: i64,
    },
    /// By the values of a column. A value under two parts is divided evenly between them at
    /// random, with equal click rates.
    Column {
        /// The column.
        column: String,
        /// Values of the training part.
        train: Vec<String>,
        /// Values of the validation part.
        validation: Vec<String>,
        /// Values of the test part.
        test: Vec<String>,
        /// Values whose rows are left out.
        drop: Vec<String>,
        /// The seed for values under two parts.
        seed: u64,
    },
    /// At random by groups: no group has rows in two parts.
    Group {
        /// The column.
        column: String,
        /// Fractions of training, validation and test.
        fractions: [f64; 3],
        /// The seed.
        seed: u64,
    },
}

/// A second file that adds columns by a key, as the user profiles of KDD Cup 2012.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileRule {
    /// The key column of the log; the profile's key is its first column.
    pub key: String,
    /// The columns that the profile's further columns become.
    pub columns: Vec<String>,
    /// What they are for a key that the profile does not have.
    pub absent: String,
}

/// The kind of a kept column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExtraKind {
    /// A number, `f64`; NaN where missing.
    Number,
    /// XXH3-64 (seed 0) of the text; equal texts have equal keys.
    Key,
    /// Seconds since 1970-01-01 UTC, or the number that the time column holds.
    Time,
}

/// A column that is kept beside the model's inputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtraColumn {
    /// Its name; the time's is `time`.
    pub name: String,
    /// What it holds.
    pub kind: ExtraKind,
}

/// The name of the extra column that holds the time.
pub const TIME_COLUMN: &str = "time";

impl Schema {
    /// Reads a schema file, or the preset of that name.
    pub fn load(name_or_path: &str) -> Result<Schema, DataError> {
        if let Some(schema) = Schema::preset(name_or_path) {
            return Ok(schema);
        }
        let path = Path::new(name_or_path);
        if !path.exists() && !name_or_path.contains(['.', '/']) {
            let near = crate::error::nearest(name_or_path, PRESETS.iter().copied());
            let hint = near.map(|n| format!(" (did you mean `{n}`?)")).unwrap_or_default();
            return Err(DataError::Schema {
                file: path.into(),
                problem: format!(
                    "no preset of this name{hint}; there are {}, or give the path of a TOML file",
                    PRESETS.join(", ")
                ),
            });
        }
        let text = std::fs::read_to_string(path).map_err(DataError::io("read", path))?;
        Schema::parse(&text, path)
    }

    /// The number of columns of coded values: categorical fields, then lists.
    pub(crate) fn coded_columns(&self) -> usize {
        self.categorical.len() + self.lists.len()
    }

    /// The encoder of a coded column; that of a list with a shared table is its field's.
    pub(crate) fn coded_encoder(&self, column: usize) -> EncoderRule {
        match column.checked_sub(self.categorical.len()) {
            None => self.categorical[column].encoder,
            Some(list) => self.lists[list].encoder,
        }
    }

    /// The categorical field whose vocabulary and table a list shares.
    pub(crate) fn shared_field(&self, list: &ListField) -> Option<usize> {
        let shared = list.shares.as_ref()?;
        self.categorical.iter().position(|field| field.name == *shared)
    }

    /// Columns kept beside the model's inputs, in their stored order.
    pub fn extras(&self) -> Vec<ExtraColumn> {
        let mut extras: Vec<ExtraColumn> = Vec::new();
        let mut add = |name: &str, kind| {
            if !extras.iter().any(|extra| extra.name == name && extra.kind == kind) {
                extras.push(ExtraColumn { name: name.into(), kind });
            }
        };
        if self.time.is_some() {
            add(TIME_COLUMN, ExtraKind::Time);
        }
        if let Some(group) = &self.group {
            add(group, ExtraKind::Key);
        }
        if let SplitRule::Group { column, .. } = &self.split {
            add(column, ExtraKind::Key);
        }
        for name in self.baseline.iter().chain(&self.keep) {
            add(name, ExtraKind::Number);
        }
        extras
    }
}
