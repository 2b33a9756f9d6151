//! Row offsets of a jagged tensor, checked once.

use std::ops::Range;
use std::sync::OnceLock;

use crate::JaggedError;

/// What to do with a row that is longer than the maximal length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// Refuse, naming the row.
    Error,
    /// FBGEMM's rule: every operator sees the first `max_len` elements, and the
    /// positions past them are zero in jagged outputs.
    Truncate,
}

/// The integer types that offsets come in: PyTorch's nested tensors and FBGEMM
/// use `i64` or `i32`, FlashAttention's `cu_seqlens` `i32`.
pub trait OffsetInteger: Copy + Into<i64> {}
impl OffsetInteger for i64 {}
impl OffsetInteger for i32 {}
impl OffsetInteger for u32 {}

/// Offsets `[B + 1]` of `B` rows: row `b` is `values[offsets[b]..offsets[b + 1]]`.
///
/// Construction checks that they start at 0 and never decrease, so no operator
/// has to. The maximal length lives on the host: operators size their work by
/// it without asking a device.
///
/// ```
/// use palmette_jagged::{Offsets, Overflow};
///
/// let offsets = Offsets::new(&[0i32, 3, 3, 5], 4, Overflow::Error)?;
/// assert_eq!((offsets.rows(), offsets.total(), offsets.longest()), (3, 5, 3));
/// assert!(Offsets::new(&[0i64, 5], 4, Overflow::Error).is_err());
/// assert_eq!(Offsets::new(&[0i64, 5], 4, Overflow::Truncate)?.active(0), 0..4);
/// # Ok::<(), palmette_jagged::JaggedError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Offsets {
    offsets: Vec<i64>,
    max_len: usize,
    longest: usize,
    longest_first: OnceLock<Vec<u32>>,
}

impl PartialEq for Offsets {
    fn eq(&self, other: &Self) -> bool {
        self.offsets == other.offsets && self.max_len == other.max_len
    }
}

impl Eq for Offsets {}

impl Offsets {
    /// Checks offsets `[B + 1]` against `max_len`, an upper bound
    /// ([`Overflow::Error`]) or a truncation limit ([`Overflow::Truncate`]).
    pub fn new<I: OffsetInteger>(
        offsets: &[I],
        max_len: usize,
        overflow: Overflow,
    ) -> Result<Self, JaggedError> {
        let offsets: Vec<i64> = offsets.iter().map(|&offset| offset.into()).collect();
        let &first = offsets.first().ok_or(JaggedError::NoOffsets)?;
        if first != 0 {
            return Err(JaggedError::FirstOffset { first });
        }
        let mut longest = 0;
        for (row, pair) in offsets.windows(2).enumerate() {
            let [start, end] = [pair[0], pair[1]];
            if end < start {
                return Err(JaggedError::Decreasing { row, start, end });
            }
            let length = (end - start) as usize;
            if length > max_len && overflow == Overflow::Error {
                return Err(JaggedError::RowTooLong { row, length, max_len });
            }
            longest = longest.max(length.min(max_len));
        }
        Ok(Self { offsets, max_len, longest, longest_first: OnceLock::new() })
    }

    /// Offsets of rows of the given lengths; the maximal length is the longest row's.
    pub fn from_lengths<I: OffsetInteger>(lengths: &[I]) -> Result<Self, JaggedError> {
        let mut offsets = Vec::with_capacity(lengths.len() + 1);
        let mut end = 0i64;
        let mut longest = 0i64;
        offsets.push(0);
        for (row, &length) in lengths.iter().enumerate() {
            let length = length.into();
            if length < 0 {
                return Err(JaggedError::NegativeLength { row, length });
            }
            end = end
                .checked_add(length)
                .ok_or_else(|| JaggedError::Overflow { formula: "sum of lengths".into() })?;
            longest = longest.max(length);
            offsets.push(end);
        }
        Self::new(&offsets, longest as usize, Overflow::Error)
    }

    /// The same rows under another maximal length.
    pub fn with_max_len(&self, max_len: usize, overflow: Overflow) -> Result<Self, JaggedError> {
        Self::new(&self.offsets, max_len, overflow)
    }

    /// Number of rows `B`.
    pub fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Number of elements `T` over all rows, truncated ones included.
    pub fn total(&self) -> usize {
        self.offsets[self.offsets.len() - 1] as usize
    }

    /// The bound or truncation limit `N`.
    pub fn max_len(&self) -> usize {
        self.max_len
    }

    /// The longest length that an operator sees, at most [`Offsets::max_len`].
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// The length of the row that a token is in, mean over the tokens that operators see:
    /// `sum_b n_b^2 / sum_b n_b`, rounded down; 0 without tokens.
    pub fn usual_length(&self) -> usize {
        let sums = (0..self.rows()).map(|b| self.length(b) as u128);
        let (squares, total) = sums.fold((0, 0), |(s, t), n| (s + n * n, t + n));
        (squares / total.max(1)) as usize
    }

    /// The offsets themselves.
    pub fn as_slice(&self) -> &[i64] {
        &self.offsets
    }

    /// Everything stored for row `b`.
    pub fn range(&self, b: usize) -> Range<usize> {
        self.offsets[b] as usize..self.offsets[b + 1] as usize
    }

    /// What operators see of row `b`: the first `max_len` of its elements.
    pub fn active(&self, b: usize) -> Range<usize> {
        let range = self.range(b);
        range.start..range.start + range.len().min(self.max_len)
    }

    /// Length of row `b` as operators see it.
    pub fn length(&self, b: usize) -> usize {
        self.range(b).len().min(self.max_len)
    }

    /// Whether some row is cut by the maximal length.
    pub fn truncates(&self) -> bool {
        (0..self.rows()).any(|b| self.range(b).len() > self.max_len)
    }

    /// Rows ordered by decreasing length, equal ones by index: the order in
    /// which work is handed to threads, so that the longest row starts first.
    pub fn longest_first(&self) -> &[u32] {
        self.longest_first.get_or_init(|| {
            let mut rows: Vec<u32> = (0..self.rows() as u32).collect();
            rows.sort_by_key(|&b| (usize::MAX - self.length(b as usize), b));
            rows
        })
    }

    /// Cuts a buffer of `total * width` elements into one slice a row.
    pub(crate) fn split<'a, T>(&self, mut values: &'a mut [T], width: usize) -> Vec<&'a mut [T]> {
        let mut rows = Vec::with_capacity(self.rows());
        for b in 0..self.rows() {
            let (row, rest) = values.split_at_mut(self.range(b).len() * width);
            rows.push(row);
            values = rest;
        }
        rows
    }
}

/// Offsets of several levels: level 0 cuts the batch into rows of groups, each
/// further level cuts the elements of the level before; the last one indexes values.
///
/// ```
/// use palmette_jagged::{NestedOffsets, Offsets};
///
/// // Two samples with 2 and 1 sessions; sessions of 3, 0 and 2 clicks.
/// let levels = NestedOffsets::new(vec![
///     Offsets::from_lengths(&[2i64, 1])?,
///     Offsets::from_lengths(&[3i64, 0, 2])?,
/// ])?;
/// assert_eq!(levels.total(), 5);
/// assert_eq!(levels.flatten()?.as_slice(), &[0, 3, 5]);
/// # Ok::<(), palmette_jagged::JaggedError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NestedOffsets {
    levels: Vec<Offsets>,
}

impl NestedOffsets {
    /// Checks that every level has as many rows as the level before has elements.
    pub fn new(levels: Vec<Offsets>) -> Result<Self, JaggedError> {
        if levels.is_empty() {
            return Err(JaggedError::NoOffsets);
        }
        for pair in levels.windows(2) {
            crate::error::check_equal(
                "the number of rows of a level",
                pair[1].rows(),
                pair[0].total(),
                "the total of the level before",
            )?;
        }
        Ok(Self { levels })
    }

    /// The levels, outermost first.
    pub fn levels(&self) -> &[Offsets] {
        &self.levels
    }

    /// Number of values.
    pub fn total(&self) -> usize {
        self.levels[self.levels.len() - 1].total()
    }

    /// One level: the values of each outermost row, the inner borders forgotten.
    pub fn flatten(&self) -> Result<Offsets, JaggedError> {
        let mut flat: Vec<i64> = self.levels[0].as_slice().to_vec();
        for level in &self.levels[1..] {
            for offset in &mut flat {
                *offset = level.as_slice()[*offset as usize];
            }
        }
        let longest = flat.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        Offsets::new(&flat, longest as usize, Overflow::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(offsets: &[i64], max_len: usize, expect: Result<usize, JaggedError>) {
        assert_eq!(Offsets::new(offsets, max_len, Overflow::Error).map(|o| o.longest()), expect);
    }

    #[test]
    fn construction_names_the_offending_row() {
        check(&[0], 0, Ok(0));
        check(&[0, 0, 0], 0, Ok(0));
        check(&[0, 2, 7], 5, Ok(5));
        check(&[], 5, Err(JaggedError::NoOffsets));
        check(&[1, 2], 5, Err(JaggedError::FirstOffset { first: 1 }));
        check(&[0, 4, 3], 5, Err(JaggedError::Decreasing { row: 1, start: 4, end: 3 }));
        check(&[0, 1, 7], 5, Err(JaggedError::RowTooLong { row: 1, length: 6, max_len: 5 }));
        assert_eq!(
            Offsets::from_lengths(&[1i64, -2]),
            Err(JaggedError::NegativeLength { row: 1, length: -2 })
        );
        assert!(Offsets::from_lengths(&[i64::MAX, 1]).is_err());
    }

    #[test]
    fn offsets_beyond_32_bits_are_kept() {
        let offsets =
            Offsets::new(&[0i64, 3_000_000_000, 3_000_000_001], 1 << 40, Overflow::Error).unwrap();
        assert_eq!(offsets.range(1), 3_000_000_000..3_000_000_001);
    }

    #[test]
    fn a_usual_token_is_in_a_long_row() {
        let usual = |lengths: &[i64]| Offsets::from_lengths(lengths).unwrap().usual_length();
        assert_eq!(
            [usual(&[]), usual(&[0, 0]), usual(&[7, 7, 7]), usual(&[1, 0, 9])],
            [0, 0, 7, 8]
        );
        let cut = Offsets::new(&[0i64, 100, 101], 9, Overflow::Truncate).unwrap();
        assert_eq!(cut.usual_length(), 8);
    }

    #[test]
    fn longest_first_breaks_ties_by_index() {
        let offsets = Offsets::from_lengths(&[2i64, 5, 0, 5, 2]).unwrap();
        assert_eq!(offsets.longest_first(), &[1, 3, 0, 4, 2]);
    }

    #[test]
    fn levels_must_meet() {
        let outer = Offsets::from_lengths(&[2i64, 1]).unwrap();
        let inner = Offsets::from_lengths(&[3i64, 4]).unwrap();
        assert!(NestedOffsets::new(vec![outer, inner]).is_err());
        assert!(NestedOffsets::new(vec![]).is_err());
    }
}
