//! What can go wrong in the engine.

/// Errors of the engine; none of them is a programming error of the engine itself.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The operating system refused memory.
    #[error("cannot allocate {:.1} MiB: {source}", *bytes as f64 / 1048576.0)]
    Memory {
        /// Bytes asked for.
        bytes: u64,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A table cannot be kept in a file.
    #[error("a file for table rows in {}: {source}", directory.display())]
    TableFile {
        /// The folder that was asked for.
        directory: std::path::PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The loss or a gradient is not finite.
    #[error(
        "training diverged at step {step}: the {what} is not finite (a lower learning rate usually helps)"
    )]
    Diverged {
        /// Optimiser step, from 0.
        step: u64,
        /// "loss" or "gradient norm".
        what: &'static str,
    },
    /// A batch names a row that its table does not have.
    #[error("table {table} has {rows} rows, the batch asks for row {id}")]
    RowOutOfRange {
        /// The table.
        table: String,
        /// The row asked for.
        id: u32,
        /// Rows of the table.
        rows: usize,
    },
    /// A batch whose arrays do not have the program's shape.
    #[error("a batch of {rows} rows has {found} {what}, the program reads {expected}")]
    Batch {
        /// Which array: "dense values", "ids", "labels" or "weights".
        what: &'static str,
        /// Rows of the batch.
        rows: usize,
        /// Elements that the program reads.
        expected: usize,
        /// Elements that there are.
        found: usize,
    },
    /// A program and a model that do not belong together.
    #[error("program and model do not fit: {0}")]
    Unfit(String),
    /// A saved state does not fit this model.
    #[error("saved state does not fit this model: {reason}")]
    State {
        /// What differs.
        reason: String,
    },
    /// Reading or writing a saved state failed.
    #[error("saved state: {0}")]
    Io(#[from] std::io::Error),
}
