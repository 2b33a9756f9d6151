//! `encoders.json`: what turns raw text into the inputs of an exported model.

use std::path::Path;

use palmette_data::{CategoricalEncoder, Dataset, Encoders, IntegerBase, VocabularyEntry};
use serde::{Deserialize, Serialize};

use super::OnnxError;

/// The content of `encoders.json`, read by `python/palmette_encode.py`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncodersFile {
    /// `palmette-encoders`.
    pub format: String,
    /// Version of the format, 1.
    pub version: u32,
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
        /// How the text is read.
        base: IntegerBase,
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
    /// The encoders that a dataset was fitted with; reads its vocabularies.
    pub fn from_dataset(dataset: &Dataset) -> Result<Self, OnnxError> {
        let Encoders { missing, dense, categorical } = &dataset.manifest().encoders;
        let dense = dense
            .iter()
            .map(|field| DenseField { name: field.name.clone(), constant: field.constant })
            .collect();
        let categorical = categorical
            .iter()
            .map(|field| {
                let encoder = match (&field.encoder, &field.vocabulary) {
                    (CategoricalEncoder::Modulo { base }, _) => {
                        FieldEncoder::Modulo { base: *base }
                    }
                    (CategoricalEncoder::Hash, _) => FieldEncoder::Hash,
                    (CategoricalEncoder::Dictionary { .. }, Some(entry)) => {
                        FieldEncoder::Dictionary { values: vocabulary(dataset.dir(), entry)? }
                    }
                    (CategoricalEncoder::Dictionary { .. }, None) => {
                        FieldEncoder::Dictionary { values: Vec::new() }
                    }
                };
                Ok(CategoricalField { name: field.name.clone(), encoder })
            })
            .collect::<Result<_, OnnxError>>()?;
        let missing = missing.clone();
        Ok(Self { format: "palmette-encoders".into(), version: 1, missing, dense, categorical })
    }
}

/// The texts of a vocabulary file in the order of their values.
fn vocabulary(folder: &Path, entry: &VocabularyEntry) -> Result<Vec<Option<String>>, OnnxError> {
    let path = folder.join(&entry.file);
    let refuse =
        |problem: String| OnnxError::Vocabulary { file: path.display().to_string(), problem };
    let text = std::fs::read_to_string(&path).map_err(|error| refuse(error.to_string()))?;
    let texts: Vec<Option<String>> = text
        .lines()
        .enumerate()
        .map(|(line, text)| {
            serde_json::from_str::<(Option<String>, u64)>(text)
                .map(|(text, _)| text)
                .map_err(|error| refuse(format!("line {}: {error}", line + 1)))
        })
        .collect::<Result<_, _>>()?;
    if texts.len() as u64 != entry.entries {
        return Err(refuse(format!("{} lines where {} are expected", texts.len(), entry.entries)));
    }
    Ok(texts)
}
