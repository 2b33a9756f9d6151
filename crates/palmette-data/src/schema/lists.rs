//! Fields of any number of values a row: histories, sets of tags.

use serde::{Deserialize, Serialize};

use crate::encoder::MIN_TABLE_ROWS;
use crate::error::nearest;

use super::{CategoricalField, EncoderRule};

/// The most values of a row that a list may keep. 2^20 rows of a shard have then at most 2^32
/// values, which 32 bits count.
pub const MAX_LIST_LENGTH: u32 = 4096;

/// The most values of a row that are kept where the schema says nothing.
pub const DEFAULT_LIST_LENGTH: u32 = 100;

/// Keys of `[column.NAME]` that only a list has.
pub(super) const LIST_KEYS: [&str; 4] = ["separator", "max_length", "keep", "shares"];

/// A field of any number of values a row.
///
/// In text the values stand in one field behind each other, `a|b|c`; in Parquet the column is a
/// list or such a text. White space around a value is cut off, values that are empty or on the
/// schema's `missing` list are left out, and a field that is missing as a whole is the empty list.
/// Of more than `max_length` values the first or the last ones are kept; the manifest counts the
/// others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListField {
    /// The column, and the field's name.
    pub name: String,
    /// What stands between two values of a text: one ASCII character.
    pub separator: char,
    /// The most values of a row that are kept, `1..=4096`.
    pub max_length: u32,
    /// Which ones are kept.
    pub keep: Keep,
    /// The encoder to fit; with `shares`, that field's.
    pub encoder: EncoderRule,
    /// The categorical field whose vocabulary and embedding table the list shares. The vocabulary
    /// is then fitted on the values of both.
    pub shares: Option<String>,
    /// Rows of the embedding table; counted from the training part where `None`.
    pub rows: Option<u32>,
}

/// Which values of a list that is too long are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// The first ones.
    First,
    /// The last ones: the recent part of a history in order of time.
    #[default]
    Last,
}

/// The part of `[column.NAME]` that only a list has.
#[derive(Default, Deserialize)]
pub(super) struct RawList {
    separator: Option<String>,
    max_length: Option<u32>,
    keep: Option<Keep>,
    shares: Option<String>,
}

impl RawList {
    /// The first key that is given.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            self.separator.is_some(),
            self.max_length.is_some(),
            self.keep.is_some(),
            self.shares.is_some(),
        ];
        given.iter().position(|&given| given).map(|at| LIST_KEYS[at])
    }
}

/// Checks one list of a schema file.
pub(super) fn list_field(
    name: String,
    raw: &RawList,
    encoder: Option<EncoderRule>,
    rows: Option<u32>,
    default_encoder: EncoderRule,
    categorical: &[CategoricalField],
) -> Result<ListField, String> {
    let separator = raw.separator.as_deref().unwrap_or("|");
    let separator = match separator.as_bytes() {
        [byte] if byte.is_ascii_punctuation() || matches!(byte, b' ' | b'\t') => char::from(*byte),
        _ => {
            return Err(format!(
                "`column.{name}`: separator = {separator:?} is not one punctuation character, space or tab"
            ));
        }
    };
    let max_length = raw.max_length.unwrap_or(DEFAULT_LIST_LENGTH);
    if !(1..=MAX_LIST_LENGTH).contains(&max_length) {
        return Err(format!(
            "`column.{name}`: max_length = {max_length} is not in 1..={MAX_LIST_LENGTH}"
        ));
    }
    if rows.is_some_and(|rows| rows < MIN_TABLE_ROWS) {
        return Err(format!("`column.{name}`: a table needs at least {MIN_TABLE_ROWS} rows"));
    }
    let encoder = match &raw.shares {
        None => encoder.unwrap_or(default_encoder),
        Some(shared) => {
            let Some(field) = categorical.iter().find(|field| field.name == *shared) else {
                let near = nearest(shared, categorical.iter().map(|field| field.name.as_str()));
                let hint = near.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
                return Err(format!(
                    "`column.{name}`: shares = \"{shared}\" names no categorical field{hint}"
                ));
            };
            if encoder.is_some() || rows.is_some() {
                return Err(format!(
                    "`column.{name}` shares the encoder and the table of `{shared}`; leave out `encoder` and `rows`"
                ));
            }
            field.encoder
        }
    };
    let keep = raw.keep.unwrap_or_default();
    Ok(ListField { name, separator, max_length, keep, encoder, shares: raw.shares.clone(), rows })
}
