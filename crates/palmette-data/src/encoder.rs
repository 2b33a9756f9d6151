//! Fitted encoders and transforms, and the one rule that turns an encoded value into a table row.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::number;

/// The smallest number of rows an embedding table may have.
///
/// Below three rows the truncated remainder of a missing value (`-1 mod 1`) is no longer `-1`,
/// so a missing value would fall on a real one.
pub const MIN_TABLE_ROWS: u32 = 3;

/// How the text of an integer is read by [`CategoricalEncoder::Modulo`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IntegerBase {
    /// Base 10, `0..=4294967295`.
    Decimal,
    /// Base 16, one to eight digits (Criteo).
    Hex,
    /// Base 10 where every character is a digit, else base 16, of any length, modulo 2147483647
    /// (how the released NASRec code reads Avazu and KDD Cup 2012).
    DecimalOrHex,
}

impl IntegerBase {
    /// What a field must look like, for error messages.
    pub(crate) fn expected(self) -> &'static str {
        match self {
            IntegerBase::Decimal => "a decimal integer in 0..=4294967295",
            IntegerBase::Hex => "a hexadecimal integer of at most eight digits",
            IntegerBase::DecimalOrHex => "a decimal or hexadecimal integer",
        }
    }

    /// Reads one field.
    #[inline]
    pub(crate) fn parse(self, text: &[u8]) -> Option<u32> {
        match self {
            IntegerBase::Decimal => number::parse_decimal_u32(text),
            IntegerBase::Hex => number::parse_hex_u32(text),
            IntegerBase::DecimalOrHex => number::parse_decimal_or_hex(text),
        }
    }
}

/// How a categorical field becomes a value `v` in `-1..=4294967295`, before any table.
///
/// | encoder | `v` | missing |
/// |---|---|---|
/// | modulo | the integer itself | -1 |
/// | dictionary | rank in the vocabulary, by falling count in the training part, then by text | a value like any other: its own rank if frequent enough, else -1 |
/// | hash | low 32 bits of XXH3-64 (seed 0) of the field's UTF-8 bytes | -1 |
///
/// A value outside the dictionary's vocabulary is -1. The row of a table of `n` rows is
/// [`table_index`]`(v, n)`: 0 for -1, else `v mod (n - 1) + 1`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum CategoricalEncoder {
    /// NASRec's encoding: the integer, taken modulo the table.
    Modulo {
        /// How the text is read.
        base: IntegerBase,
    },
    /// Values seen at least `min_count` times in the training part.
    Dictionary {
        /// The least count that keeps a value.
        min_count: u64,
    },
    /// A stable hash of the text.
    Hash,
}

/// The value that [`CategoricalEncoder::Hash`] gives to a text that is not missing.
#[inline]
pub fn hash_value(text: &[u8]) -> u32 {
    xxh3_64(text) as u32
}

/// The row of an embedding table with `table_rows` rows: the truncated remainder of `value` by
/// `table_rows - 1`, plus 1. Missing and out-of-vocabulary values (`-1`) get row 0.
///
/// ```
/// use palmette_data::table_index;
/// assert_eq!(table_index(-1, 500_000), 0);
/// assert_eq!(table_index(0, 500_000), 1);
/// assert_eq!(table_index(0xffff_ffff, 4), 4_294_967_295u64 as u32 % 3 + 1);
/// ```
///
/// `table_rows` is at least [`MIN_TABLE_ROWS`].
#[inline]
pub fn table_index(value: i64, table_rows: u32) -> u32 {
    debug_assert!(table_rows >= MIN_TABLE_ROWS);
    (value % (i64::from(table_rows) - 1) + 1) as u32
}

/// What happens to a dense value `x` on its way into a batch. Missing values (NaN) become 0
/// *after* the transform.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DenseTransform {
    /// `ln(max(x, 0) + 1)`, NASRec's transform.
    Log,
    /// `(x - mean) / deviation` with the moments of the training part.
    Standard {
        /// Mean over the values of the training part that are not missing.
        mean: f64,
        /// Their standard deviation (population form), 1 where it would be 0.
        deviation: f64,
    },
    /// `x` itself.
    None,
}

impl DenseTransform {
    /// Transforms one value in `f32`.
    #[inline]
    pub fn apply(self, x: f32) -> f32 {
        if x.is_nan() {
            return 0.0;
        }
        match self {
            DenseTransform::Log => (x.max(0.0) + 1.0).ln(),
            DenseTransform::Standard { mean, deviation } => {
                ((f64::from(x) - mean) / deviation) as f32
            }
            DenseTransform::None => x,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_follows_truncated_remainder() {
        let check = |value, rows, expect| assert_eq!(table_index(value, rows), expect);
        check(-1, 3, 0);
        check(-1, 10_000_000, 0);
        check(0, 3, 1);
        check(1, 3, 2);
        check(2, 3, 1);
        check(499_999, 500_000, 1);
        check(499_998, 500_000, 499_999);
        check(4_294_967_295, 4_294_967_295, 2);
    }

    #[test]
    fn dense_transforms() {
        assert_eq!(DenseTransform::Log.apply(-5.0), 0.0);
        assert_eq!(DenseTransform::Log.apply(f32::NAN), 0.0);
        assert!((DenseTransform::Log.apply(std::f32::consts::E - 1.0) - 1.0).abs() < 1e-6);
        let standard = DenseTransform::Standard { mean: 10.0, deviation: 4.0 };
        assert_eq!(standard.apply(12.0), 0.5);
        assert_eq!(standard.apply(f32::NAN), 0.0);
        assert_eq!(DenseTransform::None.apply(-3.0), -3.0);
    }

    #[test]
    fn hash_bits_never_change() {
        // XXH3-64 of the empty input with seed 0 is 0x2d06800538d394c2
        assert_eq!(hash_value(b""), 0x38d3_94c2);
    }
}
