//! The one error type of the crate.

use thiserror::Error;

/// Why a jagged tensor or an operator was refused.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JaggedError {
    /// The offsets vector is empty.
    #[error("offsets are empty: B rows need B + 1 offsets, so at least the single 0 of no rows")]
    NoOffsets,
    /// The first offset is not zero.
    #[error("offsets start at {first}: the first offset must be 0")]
    FirstOffset {
        /// The offset found.
        first: i64,
    },
    /// An offset is smaller than the one before it.
    #[error("row {row} runs from offset {start} to {end}: offsets must not decrease")]
    Decreasing {
        /// The row.
        row: usize,
        /// Where it starts.
        start: i64,
        /// Where it ends.
        end: i64,
    },
    /// A length given for a row is negative.
    #[error("row {row} has length {length}: lengths must be 0 or more")]
    NegativeLength {
        /// The row.
        row: usize,
        /// The length found.
        length: i64,
    },
    /// A row is longer than the maximal length.
    #[error(
        "row {row} has {length} elements, more than the maximal length {max_len}: \
         raise the maximal length, or truncate (Overflow::Truncate, in Python truncate=True)"
    )]
    RowTooLong {
        /// The row.
        row: usize,
        /// Its length.
        length: usize,
        /// The limit.
        max_len: usize,
    },
    /// The buffer does not have the size that offsets and shape ask for.
    #[error("{what} has {found} elements, expected {expected} = {formula}")]
    Size {
        /// Which argument.
        what: &'static str,
        /// Its size.
        found: usize,
        /// The size that would be accepted.
        expected: usize,
        /// How that size comes about.
        formula: String,
    },
    /// Two operands disagree about a dimension.
    #[error("{what} is {found}, expected {expected} as in {other}")]
    Mismatch {
        /// The quantity.
        what: &'static str,
        /// The value found.
        found: usize,
        /// The value that would be accepted.
        expected: usize,
        /// Where the accepted value comes from.
        other: &'static str,
    },
    /// A dimension is outside what the operator takes.
    #[error("{what} is {found}: {accepted}")]
    Unsupported {
        /// The quantity.
        what: &'static str,
        /// The value found.
        found: String,
        /// What would be accepted.
        accepted: &'static str,
    },
    /// An index points outside its target.
    #[error("index {position} is {index}: it must be in 0..{bound}")]
    Index {
        /// Position in the list of indices.
        position: usize,
        /// Its value.
        index: i64,
        /// One past the largest index accepted.
        bound: usize,
    },
    /// The sizes multiply to more than the address space holds.
    #[error("the size {formula} is more than this machine can address")]
    Overflow {
        /// The product.
        formula: String,
    },
    /// The GPU path cannot run here.
    #[error("no GPU path: {reason}")]
    Gpu {
        /// What is missing or failed, and what would help.
        reason: String,
    },
}

/// `Ok` when `found` equals the product of `factors`.
pub(crate) fn check_size(
    what: &'static str,
    found: usize,
    factors: &[(&'static str, usize)],
) -> Result<(), JaggedError> {
    let formula = || {
        factors
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect::<Vec<_>>()
            .join(" x ")
    };
    let expected = factors
        .iter()
        .try_fold(1usize, |product, (_, value)| product.checked_mul(*value))
        .ok_or_else(|| JaggedError::Overflow { formula: formula() })?;
    if found == expected {
        Ok(())
    } else {
        Err(JaggedError::Size { what, found, expected, formula: formula() })
    }
}

/// `Ok` when two dimensions agree.
pub(crate) fn check_equal(
    what: &'static str,
    found: usize,
    expected: usize,
    other: &'static str,
) -> Result<(), JaggedError> {
    if found == expected {
        Ok(())
    } else {
        Err(JaggedError::Mismatch { what, found, expected, other })
    }
}
