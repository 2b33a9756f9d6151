//! `encoders.json`: what turns raw text into the inputs of an exported model.

use std::path::Path;

use palmette_data::{
    CategoricalEncoder, Dataset, Encoders, FittedCategorical, IntegerBase, Keep, ListVocabulary,
    VocabularyEntry,
};
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
    /// Lists, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<ListField>,
}

/// A list: how its text falls into values, and how each becomes a number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListField {
    /// The column.
    pub name: String,
    /// What stands between two values.
    pub separator: char,
    /// The most values that are kept.
    pub max_length: u32,
    /// Which ones are kept.
    pub keep: Keep,
    /// The categorical field whose encoder the values have, where they have none of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shares: Option<String>,
    /// The values' own encoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder: Option<FieldEncoder>,
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
        let Encoders { missing, dense, categorical, lists } = &dataset.manifest().encoders;
        let dense = dense
            .iter()
            .map(|field| DenseField { name: field.name.clone(), constant: field.constant })
            .collect();
        let name = |field: usize| categorical.get(field).map(|field| field.name.clone());
        let lists = lists.iter().map(|list| {
            let (shares, own) = match &list.values {
                ListVocabulary::Shared(field) => (name(*field), None),
                ListVocabulary::Own(field) => (None, Some(field)),
            };
            Ok(ListField {
                name: list.name.clone(),
                separator: list.separator,
                max_length: list.max_length,
                keep: list.keep,
                shares,
                encoder: own.map(|field| field_encoder(dataset, field)).transpose()?,
            })
        });
        let lists = lists.collect::<Result<_, OnnxError>>()?;
        let categorical = categorical.iter().map(|field| {
            let encoder = field_encoder(dataset, field)?;
            Ok(CategoricalField { name: field.name.clone(), encoder })
        });
        let categorical = categorical.collect::<Result<_, OnnxError>>()?;
        let (format, missing) = ("palmette-encoders".into(), missing.clone());
        Ok(Self { format, version: 1, missing, dense, categorical, lists })
    }
}

fn field_encoder(dataset: &Dataset, field: &FittedCategorical) -> Result<FieldEncoder, OnnxError> {
    Ok(match (&field.encoder, &field.vocabulary) {
        (CategoricalEncoder::Modulo { base }, _) => FieldEncoder::Modulo { base: *base },
        (CategoricalEncoder::Hash, _) => FieldEncoder::Hash,
        (CategoricalEncoder::Dictionary { .. }, Some(entry)) => {
            FieldEncoder::Dictionary { values: vocabulary(dataset.dir(), entry)? }
        }
        (CategoricalEncoder::Dictionary { .. }, None) => {
            FieldEncoder::Dictionary { values: Vec::new() }
        }
    })
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
