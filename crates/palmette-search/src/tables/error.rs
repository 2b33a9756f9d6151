use thiserror::Error;

/// Why a table cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TableError {
    /// A file that cannot be opened or is no table.
    #[error("{file}: {problem}")]
    File {
        /// The file.
        file: String,
        /// What went wrong.
        problem: String,
    },
    /// A column that is not there.
    #[error("{file}: column `{column}` is missing; there are: {known}")]
    MissingColumn {
        /// The file.
        file: String,
        /// The column.
        column: String,
        /// The columns of the file.
        known: String,
    },
    /// A value that cannot be used.
    #[error("{file}: row {row}, column `{column}`: {got}; needed: {needed}")]
    BadValue {
        /// The file.
        file: String,
        /// The row: of a CSV file its line as an editor counts, of a Parquet file counted from 1.
        row: usize,
        /// The column.
        column: String,
        /// What was found.
        got: String,
        /// What would be accepted.
        needed: String,
    },
    /// Rows that make no space.
    #[error("{file}: {source}")]
    Space {
        /// The file.
        file: String,
        /// What the space says.
        source: palmette_space::SpaceError,
    },
}
