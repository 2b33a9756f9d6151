//! The layout of a shard: fixed-width columns one after the other, aligned to 64 bytes.
//!
//! ```text
//! 0   magic "PALMSHD1"
//! 8   rows, u64 little endian (as are all numbers)
//! 16  number of exceptions, u64
//! 64  label u8 | weight f32 | dense f32 each | categorical u32 each | extras 8 bytes each
//!     end of each row's values u64, a list each
//!     values u32, a list each
//!     exceptions: (column u32, row u32) each
//! ```
//!
//! Columns of coded values are the categorical fields and then the lists. A list's row `r` has the
//! values `ends[r - 1]..ends[r]` of the shard's values of that list.
//!
//! A categorical cell holds `v + 1` modulo 2^32, so 0 is a missing value; the one real value that
//! wraps to 0, 4294967295, is told apart by the exceptions (of a list: by the number of the value,
//! not of the row). That keeps a cell at four bytes
//! although `v` has 2^32 + 1 possible values.

use crate::manifest::Encoders;
use crate::schema::{ExtraColumn, Schema};

/// First bytes of a shard.
pub(crate) const MAGIC: [u8; 8] = *b"PALMSHD1";
/// Bytes before the first column.
pub(crate) const HEADER_BYTES: u64 = 64;
/// Rows of every shard of a part but its last.
pub(crate) const SHARD_ROWS: u64 = 1 << 20;

/// Which columns there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Columns {
    /// Whether there are weights.
    pub weighted: bool,
    /// Dense columns (constants are not stored).
    pub dense: usize,
    /// Categorical columns.
    pub categorical: usize,
    /// Extra columns.
    pub extras: usize,
    /// Lists.
    pub lists: usize,
}

/// One stored column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    /// The label.
    Label,
    /// The weight.
    Weight,
    /// A dense column.
    Dense(usize),
    /// A categorical column.
    Categorical(usize),
    /// An extra column.
    Extra(usize),
    /// Where each row's values of a list end.
    ListEnds(usize),
}

impl Columns {
    /// The columns of a dataset.
    pub fn new(schema: &Schema, extras: &[ExtraColumn]) -> Columns {
        Columns {
            weighted: schema.weight.is_some(),
            dense: schema.dense.iter().filter(|field| field.constant.is_none()).count(),
            categorical: schema.categorical.len(),
            extras: extras.len(),
            lists: schema.lists.len(),
        }
    }

    /// The columns of a dataset, from its manifest's parts.
    pub fn of_encoders(encoders: &Encoders, weighted: bool, extras: usize) -> Columns {
        Columns {
            weighted,
            dense: encoders.dense.iter().filter(|field| field.constant.is_none()).count(),
            categorical: encoders.categorical.len(),
            extras,
            lists: encoders.lists.len(),
        }
    }

    /// All columns in stored order.
    pub fn iter(self) -> impl Iterator<Item = Column> {
        std::iter::once(Column::Label)
            .chain(self.weighted.then_some(Column::Weight))
            .chain((0..self.dense).map(Column::Dense))
            .chain((0..self.categorical).map(Column::Categorical))
            .chain((0..self.extras).map(Column::Extra))
            .chain((0..self.lists).map(Column::ListEnds))
    }

    /// Columns of coded values: categorical fields, then lists.
    pub fn coded(self) -> usize {
        self.categorical + self.lists
    }

    /// Bytes of a row, the values of lists not counted.
    pub fn row_bytes(self) -> u64 {
        self.iter().map(Column::width).sum()
    }

    /// Where each column of a shard with `rows` rows starts, in stored order, then the values of
    /// each list (`elements` says how many), then the exceptions; `None` where that is more than
    /// 64 bits count.
    pub fn offsets(self, rows: u64, elements: &[u64]) -> Option<Vec<u64>> {
        debug_assert_eq!(elements.len(), self.lists);
        let mut at = HEADER_BYTES;
        let mut offsets = Vec::new();
        for column in self.iter() {
            offsets.push(at);
            at = after(at, rows, column.width())?;
        }
        for &count in elements {
            offsets.push(at);
            at = after(at, count, 4)?;
        }
        offsets.push(at);
        Some(offsets)
    }

    /// The position of a column in stored order.
    pub fn position(self, column: Column) -> usize {
        let weight = usize::from(self.weighted);
        match column {
            Column::Label => 0,
            Column::Weight => 1,
            Column::Dense(i) => 1 + weight + i,
            Column::Categorical(i) => 1 + weight + self.dense + i,
            Column::Extra(i) => 1 + weight + self.dense + self.categorical + i,
            Column::ListEnds(i) => 1 + weight + self.dense + self.categorical + self.extras + i,
        }
    }

    /// The position of a list's values behind the columns.
    pub fn elements_position(self, list: usize) -> usize {
        self.position(Column::ListEnds(self.lists)) + list
    }
}

impl Column {
    /// Bytes of a cell.
    pub fn width(self) -> u64 {
        match self {
            Column::Label => 1,
            Column::Weight | Column::Dense(_) | Column::Categorical(_) => 4,
            Column::Extra(_) | Column::ListEnds(_) => 8,
        }
    }
}

/// The first multiple of 64 behind `count` cells of `width` bytes.
fn after(at: u64, count: u64, width: u64) -> Option<u64> {
    at.checked_add(count.checked_mul(width)?)?.checked_next_multiple_of(64)
}

/// The header of a shard.
pub(crate) fn header(rows: u64, exceptions: u64) -> [u8; HEADER_BYTES as usize] {
    let mut header = [0; HEADER_BYTES as usize];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&rows.to_le_bytes());
    header[16..24].copy_from_slice(&exceptions.to_le_bytes());
    header
}

/// `v + 1` modulo 2^32 of a value that is not missing.
#[inline]
pub(crate) fn stored(value: u32) -> u32 {
    value.wrapping_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_follow_the_iteration() {
        for weighted in [false, true] {
            let columns = Columns { weighted, dense: 2, categorical: 3, extras: 1, lists: 2 };
            for (position, column) in columns.iter().enumerate() {
                assert_eq!(columns.position(column), position, "{column:?}");
            }
            let offsets = columns.offsets(5, &[17, 0]).unwrap();
            assert_eq!(offsets.len(), columns.iter().count() + 3);
            assert!(offsets.iter().all(|offset| offset % 64 == 0));
            let first = columns.elements_position(0);
            assert_eq!(offsets[first + 1] - offsets[first], 128);
            assert_eq!(offsets[first + 2] - offsets[first + 1], 0);
            assert_eq!(columns.offsets(5, &[1 << 62, 0]), None);
        }
    }
}
