//! `encoders.json`: what turns raw text into the inputs of an exported model.

use serde::{Deserialize, Serialize};

/// The content of `encoders.json`, read by `python/palmette_encode.py`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncodersFile {
    format: String,
    version: u32,
    /// Texts that mean a missing value, besides the empty text.
    pub missing: Vec<String>,
    /// Dense fields in the order of the model's input `dense`.
    pub dense: Vec<DenseField>,
    /// Categorical fields in the order of the model's input `categorical`.
    pub categorical: Vec<CategoricalField>,
}

/// A dense field: its number goes into the model as it is, not-a-number where missing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DenseField {
    /// The column.
    pub name: String,
    /// The value of every row, where the field is no column of the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constant: Option<f32>,
}

/// A categorical field and how its text becomes a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CategoricalField {
    /// The column.
    pub name: String,
    /// Its encoder.
    #[serde(flatten)]
    pub encoder: FieldEncoder,
}

/// How text becomes a value; missing and unknown values are -1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum FieldEncoder {
    /// The integer itself.
    Modulo {
        /// `decimal`, `hex` or `decimal-or-hex`.
        base: String,
    },
    /// The rank in a vocabulary.
    Dictionary {
        /// The vocabulary in order; `None` is the missing value, where that has a rank.
        values: Vec<Option<String>>,
    },
    /// Low 32 bits of XXH3-64 (seed 0) of the UTF-8 text.
    Hash,
}

impl EncodersFile {
    /// The file of the current version.
    pub fn new(
        missing: Vec<String>,
        dense: Vec<DenseField>,
        categorical: Vec<CategoricalField>,
    ) -> Self {
        Self { format: "palmette-encoders".into(), version: 1, missing, dense, categorical }
    }
}
