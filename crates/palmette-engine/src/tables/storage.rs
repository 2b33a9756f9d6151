//! How the rows of a table are stored: number type, optimiser state, memory or file.

use std::path::PathBuf;

use half::{bf16, f16};

use crate::Real;

/// Number type of the weights that a table stores.
///
/// Gathered rows, gradients and updates have the executor's number type; an updated weight is
/// rounded to one of its two neighbours, with probabilities that make the mean exact. Rounding to
/// the nearest instead would lose every update below half a unit in the last place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TableStorage {
    /// The executor's own.
    #[default]
    Full,
    /// IEEE half precision: eleven bits of mantissa, up to 65,504.
    F16,
    /// Eight bits of mantissa, the range of f32.
    Bf16,
}

/// How tables keep their rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableOptions {
    /// Number type of the weights.
    pub storage: TableStorage,
    /// One accumulator a row instead of one a weight, for Adagrad: `a += mean_e g_e^2`,
    /// `w_e -= lr g_e / (sqrt(a) + epsilon)` (row-wise Adagrad, Naumov et al. 2019).
    pub row_wise_state: bool,
    /// Keeps rows in files in this folder, mapped into memory: tables may then be larger than
    /// memory, and rows that are read often stay there. The files have no name and go with the
    /// tables.
    pub directory: Option<PathBuf>,
}

/// Where the parts of a row are, in elements of the executor's number type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowLayout {
    pub storage: TableStorage,
    pub dim: usize,
    /// Elements that the weights take.
    pub weights: usize,
    /// Optimiser state slots; each is `dim` elements, or one where it is row-wise.
    pub slots: usize,
    pub row_wise: bool,
}

impl RowLayout {
    pub fn new<T: Real>(dim: usize, slots: usize, options: &TableOptions) -> Self {
        let weights = match options.storage {
            TableStorage::Full => dim,
            TableStorage::F16 | TableStorage::Bf16 => (2 * dim).div_ceil(size_of::<T>()),
        };
        let (storage, row_wise) = (options.storage, options.row_wise_state);
        Self { storage, dim, weights, slots, row_wise }
    }

    /// Elements from one row to the next.
    pub fn stride(self) -> usize {
        let state = if self.row_wise { self.slots } else { self.slots.saturating_mul(self.dim) };
        self.weights.saturating_add(state)
    }

    /// Widens the weights of columns `start ..` of a row.
    #[inline(always)]
    pub fn read<T: Real>(self, row: &[T], start: usize, weights: &mut [T]) {
        match self.storage {
            TableStorage::Full => crate::lanes::copy(weights, &row[start..start + weights.len()]),
            TableStorage::Bf16 => {
                for (w, &bits) in weights.iter_mut().zip(&halves(row, self.dim)[start..]) {
                    *w = T::from_f64(f64::from(f32::from_bits(u32::from(bits) << 16)));
                }
            }
            TableStorage::F16 => {
                for (w, &bits) in weights.iter_mut().zip(&halves(row, self.dim)[start..]) {
                    *w = T::from_f64(f16::from_bits(bits).to_f64());
                }
            }
        }
    }

    /// Stores the weights of columns `start ..` of a row; `round` gives sixteen random bits a
    /// column, or none for rounding to the nearest.
    #[inline(always)]
    pub fn write<T: Real>(
        self,
        row: &mut [T],
        start: usize,
        weights: &[T],
        rounding: Option<Rounding>,
    ) {
        if self.storage == TableStorage::Full {
            row[start..start + weights.len()].copy_from_slice(weights);
            return;
        }
        let halves = &mut halves_mut(row, self.dim)[start..];
        for (column, (bits, w)) in (start..).zip(halves.iter_mut().zip(weights)) {
            let w = w.to_f64() as f32;
            *bits = match (self.storage, rounding) {
                (TableStorage::F16, Some(rounding)) => stochastic_f16(w, rounding.bits(column)),
                (_, Some(rounding)) => stochastic_bf16(w, rounding.bits(column)),
                (TableStorage::F16, None) => f16::from_f32(w).to_bits(),
                (_, None) => bf16::from_f32(w).to_bits(),
            };
        }
    }
}

/// The 16-bit weights at the beginning of a row.
#[inline(always)]
fn halves<T: Real>(row: &[T], dim: usize) -> &[u16] {
    assert!(2 * dim <= size_of_val(row), "a row holds its weights");
    // SAFETY: as many bytes of plain numbers, whose alignment is a multiple of two.
    unsafe { std::slice::from_raw_parts(row.as_ptr().cast(), dim) }
}

/// The 16-bit weights at the beginning of a row.
#[inline(always)]
fn halves_mut<T: Real>(row: &mut [T], dim: usize) -> &mut [u16] {
    assert!(2 * dim <= size_of_val(row), "a row holds its weights");
    // SAFETY: as above; every bit pattern is a valid f32 or f64.
    unsafe { std::slice::from_raw_parts_mut(row.as_mut_ptr().cast(), dim) }
}

/// The random bits of one row in one step.
#[derive(Clone, Copy)]
pub(crate) struct Rounding {
    /// Keyed by seed, table and step.
    pub key: u64,
    /// The row.
    pub row: u32,
}

impl Rounding {
    /// Sixteen bits for a column: a counter under the key through the finaliser of SplitMix64
    /// (Steele et al. 2014). A stream a row would cost more than its update.
    #[inline(always)]
    fn bits(self, column: usize) -> u16 {
        let counter = u64::from(self.row) << 24 | (column / 4) as u64;
        let mut z = self.key.wrapping_add(counter.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> (16 * (column % 4))) as u16
    }
}

/// The neighbour of `x` away from zero with probability (what truncation loses) / (one unit).
#[inline(always)]
fn stochastic_bf16(x: f32, random: u16) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(u32::from(random)) >> 16) as u16;
    let truncated = (bits >> 16) as u16;
    // Infinity is no neighbour of a number, and nothing is one of infinity or NaN.
    if rounded & 0x7f80 == 0x7f80 { truncated } else { rounded }
}

/// As [`stochastic_bf16`], on numbers whose units differ (subnormal ones); saturates at 65,504.
#[inline(always)]
fn stochastic_f16(x: f32, random: u16) -> u16 {
    let nearest = f16::from_f32(x);
    let (magnitude, found) = (x.abs(), nearest.to_f32().abs());
    if !x.is_finite() || magnitude >= 65_504.0 {
        return if x.is_nan() { nearest } else { f16::MAX.copysign(f16::from_f32(x)) }.to_bits();
    }
    // Magnitudes of one sign are consecutive integers as bits.
    let lower = nearest.to_bits() - u16::from(found > magnitude);
    let low = f16::from_bits(lower).to_f32().abs();
    let unit = f16::from_bits(lower + 1).to_f32().abs() - low;
    // Both differences and the quotient by a power of two are exact.
    let away = (magnitude - low) / unit > f32::from(random) / 65_536.0;
    lower + u16::from(away)
}

#[cfg(test)]
mod tests {
    use super::*;
    use palmette_random::{Draw, stream};

    type Round = fn(f32, u16) -> u16;
    type Widen = fn(u16) -> f32;

    const FORMATS: [(Round, Widen); 2] = [
        (stochastic_f16, |bits| f16::from_bits(bits).to_f32()),
        (stochastic_bf16, |bits| bf16::from_bits(bits).to_f32()),
    ];

    #[test]
    fn all_random_bits_together_round_without_bias() {
        let mut rng = stream(1, "test/rounding", 0);
        for (round, widen) in FORMATS {
            for i in 0..40 {
                // Magnitudes from the subnormal numbers of f16 to thousands.
                let x = (rng.normal() * 10f64.powi(i % 11 - 7)) as f32;
                let (mut sum, mut least, mut most) = (0.0f64, f32::MAX, f32::MIN);
                for random in 0..=u16::MAX {
                    let y = widen(round(x, random));
                    (least, most) = (least.min(y), most.max(y));
                    sum += f64::from(y);
                }
                assert!(least <= x && x <= most, "{x} between {least} and {most}");
                let unit = f64::from(most - least);
                let error = (sum / 65_536.0 - f64::from(x)).abs();
                assert!(error <= unit / 65_536.0 + 1e-12 * f64::from(x.abs()), "{x}: {error:e}");
                // Two neighbours at most: nothing lies between them.
                assert!(unit <= f64::from(x.abs()) / 128.0 + 6e-8, "{x}: {least} {most}");
            }
        }
    }

    #[test]
    fn numbers_that_are_stored_exactly_stay() {
        for (round, widen) in FORMATS {
            for x in [0.0f32, -0.0, 1.0, -2.5, 65_504.0 / 65_504.0, 2f32.powi(-14)] {
                for random in [0, 1, 1 << 15, u16::MAX] {
                    assert_eq!(widen(round(x, random)).to_bits(), x.to_bits(), "{x}");
                }
            }
            assert!(widen(round(f32::MAX, u16::MAX)).is_finite());
            assert!(widen(round(f32::NAN, 0)).is_nan());
        }
    }

    #[test]
    fn columns_and_rows_have_their_own_bits() {
        let mut seen = std::collections::BTreeSet::new();
        for row in 0..200 {
            for word in 0..20 {
                let rounding = Rounding { key: 7, row };
                seen.insert([0, 1, 2, 3].map(|lane| rounding.bits(4 * word + lane)));
            }
        }
        assert_eq!(seen.len(), 4000);
    }
}
