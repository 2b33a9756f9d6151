//! What can go wrong with data, each error naming the file, row or field and what would be accepted.

use std::path::{Path, PathBuf};

use strsim::osa_distance;
use thiserror::Error;

/// An error of this crate.
#[derive(Debug, Error)]
pub enum DataError {
    /// The operating system refused an operation on a file.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried, as a verb: `read`, `write`, `rename`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// One row of the input cannot be used.
    #[error("{file}: row {row}{}: {problem}", field_phrase(.field))]
    BadRow {
        /// The input file.
        file: PathBuf,
        /// The row, counted from 1 with the header.
        row: u64,
        /// The column, where one is to blame.
        field: Option<String>,
        /// What is wrong and what would be right.
        problem: RowProblem,
    },
    /// More rows were set aside than the user allowed.
    #[error(
        "{count} bad rows, more than the {limit} allowed (raise --max-bad, or see {quarantine}); \
         the last one was {last}"
    )]
    TooManyBadRows {
        /// Bad rows so far.
        count: u64,
        /// How many were allowed.
        limit: u64,
        /// Where the rows were copied.
        quarantine: PathBuf,
        /// The row that went over the limit.
        last: Box<DataError>,
    },
    /// An input without any row.
    #[error("{file}: the file has no rows; a log needs at least one row of data")]
    EmptyFile {
        /// The input file.
        file: PathBuf,
    },
    /// A compressed input that ends too early or is damaged.
    #[error("{file}: damaged or truncated {what}: {problem}; copy or download the file again")]
    DamagedInput {
        /// The input file.
        file: PathBuf,
        /// `gzip`, `zstd` or `Parquet`.
        what: &'static str,
        /// What the decoder said.
        problem: String,
    },
    /// A column of the schema that the file does not have.
    #[error("{file}: no column `{column}`{}; the file has: {available}", suggestion_phrase(.suggestion))]
    MissingColumn {
        /// The input file.
        file: PathBuf,
        /// The column the schema names.
        column: String,
        /// The nearest existing name.
        suggestion: Option<String>,
        /// The first names of the file.
        available: String,
    },
    /// A column of the schema that the file has twice.
    #[error(
        "{file}: columns {first} and {second} are both named `{column}`; rename one of them in the file's header"
    )]
    DuplicateColumn {
        /// The input file.
        file: PathBuf,
        /// The name.
        column: String,
        /// The first column of this name, counted from 1.
        first: usize,
        /// The second.
        second: usize,
    },
    /// A Parquet column of a type that is no field of a log.
    #[error(
        "{file}: column `{column}` has the Parquet type {found}; use numbers, booleans, text, dates or timestamps, or lists of them for a field under `lists`"
    )]
    UnsupportedColumnType {
        /// The input file.
        file: PathBuf,
        /// The column.
        column: String,
        /// Its type.
        found: String,
    },
    /// A schema that cannot be understood.
    #[error("{file}: {problem}")]
    Schema {
        /// The schema file or the preset's name.
        file: PathBuf,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A request that cannot be met with these options.
    #[error("{0}")]
    Options(String),
    /// A split that would be left without rows.
    #[error("the {split} part would be empty: {problem}")]
    EmptySplit {
        /// `train`, `validation` or `test`.
        split: &'static str,
        /// Why, and what to change.
        problem: String,
    },
    /// A directory that holds no usable dataset.
    #[error("{dir}: {problem}")]
    NotADataset {
        /// The directory.
        dir: PathBuf,
        /// What is missing or wrong.
        problem: String,
    },
    /// A dataset file whose content is not what the manifest says.
    #[error("{file}: damaged: {problem}; prepare the dataset again")]
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// The difference.
        problem: String,
    },
    /// A batch that the dataset cannot give.
    #[error("cannot fill a batch: {0}")]
    Batch(String),
    /// The caller asked to stop; finished parts are kept and reused by the next call.
    #[error("interrupted; the same command continues from here")]
    Interrupted,
}

/// What is wrong with one row.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum RowProblem {
    /// Too many or too few fields.
    #[error("{found} columns, expected {expected}")]
    WrongColumnCount {
        /// Fields of the row.
        found: usize,
        /// Fields of a good row.
        expected: usize,
    },
    /// Bytes that are no text.
    #[error("invalid UTF-8; the file must be UTF-8 text")]
    InvalidUtf8,
    /// A quoted field that never ends.
    #[error("a quoted field is not closed before the end of the file")]
    UnclosedQuote,
    /// A label that is no number.
    #[error("label `{0}` is not a number; accepted are 0 and 1, true and false")]
    LabelNotNumeric(String),
    /// A label that is a number, but neither 0 nor 1.
    #[error(
        "label {0} is outside {{0, 1}}; for counts or ratings set `at_least` in the schema's label"
    )]
    LabelOutside(String),
    /// No label.
    #[error(
        "the label is missing; to leave out unlabelled rows set `missing = \"drop\"` in the schema's label"
    )]
    LabelMissing,
    /// A numeric field that is no finite number.
    #[error(
        "`{0}` is not a finite number; add it to the schema's `missing` list if it means a missing value"
    )]
    NotANumber(String),
    /// A categorical field that its modulo encoder cannot read.
    #[error("`{value}` is not {expected}; use the encoder `dictionary` or `hash` for such values")]
    NotAnInteger {
        /// The text.
        value: String,
        /// What was expected.
        expected: &'static str,
    },
    /// A value of a list that cannot be used.
    #[error("value {position} of the list: {problem}")]
    ListValue {
        /// Its place in the row's list, counted from 1.
        position: usize,
        /// What is wrong with it.
        problem: Box<RowProblem>,
    },
    /// A time that cannot be read.
    #[error("`{value}` is not a time of the form {expected}")]
    NotATime {
        /// The text.
        value: String,
        /// The accepted form.
        expected: &'static str,
    },
    /// A value of the split column that the schema does not list.
    #[error("`{0}` is not listed under train, validation, test or drop of the schema's split")]
    UnlistedSplitValue(String),
    /// A sample weight that is negative or missing.
    #[error("`{0}` is not a sample weight; accepted are finite numbers of at least 0")]
    NotAWeight(String),
}

fn field_phrase(field: &Option<String>) -> String {
    field.as_ref().map(|name| format!(", field `{name}`")).unwrap_or_default()
}

fn suggestion_phrase(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}

impl DataError {
    /// Wraps an error of the operating system with the action and the path.
    pub(crate) fn io(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(std::io::Error) -> DataError {
        let path = path.as_ref().to_path_buf();
        move |source| DataError::Io { action, path, source }
    }
}

/// The name among `known` nearest to `name`, if it is near enough to be a slip of the finger.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (osa_distance(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Names in a list of an error: a log of hundreds of columns shows its first twenty.
pub(crate) fn listed<T: AsRef<str>>(names: &[T]) -> String {
    const SHOWN: usize = 20;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    match names.len().checked_sub(SHOWN) {
        Some(more @ 1..) => format!("{} and {more} more", shown.join(", ")),
        _ => shown.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_slips_only() {
        let known = ["categorical", "dense", "label"];
        assert_eq!(nearest("categoricla", known), Some("categorical"));
        assert_eq!(nearest("lable", known), Some("label"));
        assert_eq!(nearest("Dense", known), Some("dense"));
        assert_eq!(nearest("weight", known), None);
    }

    #[test]
    fn long_lists_of_names_are_cut() {
        let names: Vec<String> = (1..=22).map(|i| format!("c{i}")).collect();
        assert!(listed(&names).ends_with("c19, c20 and 2 more"));
        assert!(listed(&names[..20]).ends_with("c19, c20"));
        assert_eq!(listed(&names[..1]), "c1");
    }

    #[test]
    fn bad_row_names_file_row_and_field() {
        let error = DataError::BadRow {
            file: "log.tsv".into(),
            row: 7,
            field: Some("click".into()),
            problem: RowProblem::LabelOutside("2".into()),
        };
        let text = error.to_string();
        assert!(
            text.starts_with("log.tsv: row 7, field `click`: label 2 is outside {0, 1}"),
            "{text}"
        );
    }
}
