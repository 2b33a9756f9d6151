//! Passes over tiles whose rows are keys and whose columns are queries.
//!
//! A query is a lane: its largest score, its sum and its factors stand in registers of their own,
//! and nothing is added up across a register. Tiles and columns have a multiple of [`LANES`]
//! queries; what the lanes past the last query hold is never read.

use pulp::{Arch, Simd, WithSimd};

use crate::Real;
use crate::registers::LANES;

/// The rows of a tile of `width` columns.
fn check_tile<S>(tile: &[S], width: usize, columns: [usize; 2]) {
    let fits = width.is_multiple_of(LANES) && (width == 0 || tile.len().is_multiple_of(width));
    assert!(fits && columns.into_iter().all(|len| len >= width), "{width} columns do not fit");
}

struct Largest<'a, S> {
    tile: &'a [S],
    width: usize,
    largest: &'a mut [S],
}

impl<S: Real> WithSimd for Largest<'_, S> {
    type Output = ();

    #[inline(always)]
    fn with_simd<V: Simd>(self, simd: V) {
        for column in (0..self.width).step_by(S::width::<V>()) {
            let mut largest = S::splat(simd, S::NEG_INFINITY);
            for row in self.tile.chunks_exact(self.width) {
                // SAFETY: a register of this row, as `check_tile` found.
                let scores = unsafe { S::load(simd, row.as_ptr().add(column)) };
                largest = S::maximum(simd, scores, largest);
            }
            // SAFETY: as above.
            unsafe { S::store(simd, self.largest.as_mut_ptr().add(column), largest) };
        }
    }
}

struct Powers<'a, S> {
    tile: &'a mut [S],
    width: usize,
    shift: &'a [S],
    total: &'a mut [S],
}

impl<S: Real> WithSimd for Powers<'_, S> {
    type Output = ();

    #[inline(always)]
    fn with_simd<V: Simd>(self, simd: V) {
        for column in (0..self.width).step_by(S::width::<V>()) {
            // SAFETY: a register of each, as `check_tile` found.
            unsafe {
                let place = self.total.as_mut_ptr().add(column);
                let shift = S::load(simd, self.shift.as_ptr().add(column));
                let mut total = S::load(simd, place);
                for row in self.tile.chunks_exact_mut(self.width) {
                    let score = row.as_mut_ptr().add(column);
                    let power = S::power(simd, S::minus(simd, S::load(simd, score), shift));
                    S::store(simd, score, power);
                    total = S::plus(simd, total, power);
                }
                S::store(simd, place, total);
            }
        }
    }
}

struct Scale<'a, S> {
    tile: &'a mut [S],
    width: usize,
    factors: &'a [S],
}

impl<S: Real> WithSimd for Scale<'_, S> {
    type Output = ();

    #[inline(always)]
    fn with_simd<V: Simd>(self, simd: V) {
        for column in (0..self.width).step_by(S::width::<V>()) {
            // SAFETY: a register of each, as `check_tile` found.
            unsafe {
                let factors = S::load(simd, self.factors.as_ptr().add(column));
                for row in self.tile.chunks_exact_mut(self.width) {
                    let place = row.as_mut_ptr().add(column);
                    S::store(simd, place, S::times(simd, S::load(simd, place), factors));
                }
            }
        }
    }
}

struct Gradients<'a, S> {
    scores: &'a mut [S],
    gradients: &'a mut [S],
    width: usize,
    shift: &'a [S],
    delta: &'a [S],
}

impl<S: Real> WithSimd for Gradients<'_, S> {
    type Output = ();

    #[inline(always)]
    fn with_simd<V: Simd>(self, simd: V) {
        let Self { scores, gradients, width, shift, delta } = self;
        for column in (0..width).step_by(S::width::<V>()) {
            // SAFETY: a register of each, as `check_tile` found.
            unsafe {
                let shift = S::load(simd, shift.as_ptr().add(column));
                let delta = S::load(simd, delta.as_ptr().add(column));
                let rows = scores.chunks_exact_mut(width).zip(gradients.chunks_exact_mut(width));
                for (scores, gradients) in rows {
                    let score = scores.as_mut_ptr().add(column);
                    let gradient = gradients.as_mut_ptr().add(column);
                    let weight = S::power(simd, S::minus(simd, S::load(simd, score), shift));
                    let beyond = S::minus(simd, S::load(simd, gradient), delta);
                    S::store(simd, score, weight);
                    S::store(simd, gradient, S::times(simd, weight, beyond));
                }
            }
        }
    }
}

struct Dots<'a, S> {
    left: &'a [S],
    right: &'a [S],
    width: usize,
    dots: &'a mut [S],
}

impl<S: Real> WithSimd for Dots<'_, S> {
    type Output = ();

    #[inline(always)]
    fn with_simd<V: Simd>(self, simd: V) {
        for column in (0..self.width).step_by(S::width::<V>()) {
            let mut sum = S::splat(simd, S::ZERO);
            let rows = self.left.chunks_exact(self.width).zip(self.right.chunks_exact(self.width));
            for (left, right) in rows {
                // SAFETY: a register of each, as `check_tile` found.
                sum = unsafe {
                    let left = S::load(simd, left.as_ptr().add(column));
                    S::fma(simd, left, S::load(simd, right.as_ptr().add(column)), sum)
                };
            }
            // SAFETY: as above.
            unsafe { S::store(simd, self.dots.as_mut_ptr().add(column), sum) };
        }
    }
}

struct Silu<'a, S> {
    scores: &'a mut [S],
    slopes: &'a mut [S],
    norm: S,
}

impl<S: Real> WithSimd for Silu<'_, S> {
    type Output = ();

    #[inline(always)]
    fn with_simd<V: Simd>(self, simd: V) {
        let [one, norm] = [S::ONE, self.norm].map(|x| S::splat(simd, x));
        let log = S::splat(simd, S::of(-std::f64::consts::LOG2_E));
        for at in (0..self.scores.len()).step_by(S::width::<V>()) {
            // SAFETY: a register of both, whose lengths `silu` checked.
            unsafe {
                let place = self.scores.as_mut_ptr().add(at);
                let s = S::load(simd, place);
                let sigmoid =
                    S::over(simd, one, S::plus(simd, one, S::power(simd, S::times(simd, s, log))));
                let rest = S::times(simd, s, S::minus(simd, one, sigmoid));
                let slope = S::fma(simd, sigmoid, rest, sigmoid);
                let weight = S::times(simd, S::times(simd, s, sigmoid), norm);
                S::store(simd, place, weight);
                S::store(simd, self.slopes.as_mut_ptr().add(at), S::times(simd, slope, norm));
            }
        }
    }
}

/// The largest element of each column, minus infinity of none.
pub(crate) fn largest<S: Real>(tile: &[S], width: usize, largest: &mut [S]) {
    check_tile(tile, width, [largest.len(); 2]);
    Arch::new().dispatch(Largest { tile, width, largest });
}

/// Replaces every `x` by `2^(x - shift)` and adds it to its column's total.
pub(crate) fn powers<S: Real>(tile: &mut [S], width: usize, shift: &[S], total: &mut [S]) {
    check_tile(tile, width, [shift.len(), total.len()]);
    Arch::new().dispatch(Powers { tile, width, shift, total });
}

/// Multiplies every column by its factor.
pub(crate) fn scale<S: Real>(tile: &mut [S], width: usize, factors: &[S]) {
    check_tile(tile, width, [factors.len(); 2]);
    Arch::new().dispatch(Scale { tile, width, factors });
}

/// `sum_i left_ic right_ic` of each column `c`, in the order of [`crate::product::product`]: of equal
/// numbers the sums are equal.
pub(crate) fn dots<S: Real>(left: &[S], right: &[S], width: usize, dots: &mut [S]) {
    check_tile(left, width, [dots.len(); 2]);
    assert!(left.len() == right.len(), "tiles of different sizes");
    Arch::new().dispatch(Dots { left, right, width, dots });
}

/// Replaces scores `s` by `norm silu(s)` and writes `norm silu'(s)`, lane by lane.
pub(crate) fn silu<S: Real>(scores: &mut [S], slopes: &mut [S], norm: S) {
    let fits = scores.len().is_multiple_of(LANES) && slopes.len() == scores.len();
    assert!(fits, "{} scores and {} slopes", scores.len(), slopes.len());
    Arch::new().dispatch(Silu { scores, slopes, norm });
}

/// Replaces scores by weights `p = 2^(s - shift)`, and the weights' gradients `g` by the scores',
/// `p (g - delta)`.
pub(crate) fn gradients<S: Real>(
    scores: &mut [S],
    gradients: &mut [S],
    width: usize,
    shift: &[S],
    delta: &[S],
) {
    check_tile(scores, width, [shift.len(), delta.len()]);
    assert!(scores.len() == gradients.len(), "tiles of different sizes");
    Arch::new().dispatch(Gradients { scores, gradients, width, shift, delta });
}
