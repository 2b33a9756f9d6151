//! Row kernels compiled for the widest vector registers of the machine.
//!
//! Each is an ordinary loop that the compiler vectorises inside `pulp`'s dispatch.
//! Reductions run over a fixed number of lanes, so their bits do not depend on
//! the width of the registers.

use pulp::{Arch, Simd, WithSimd};

use crate::Real;

/// Lanes of a reduction.
const LANES: usize = 16;

/// `exp(x)` with a relative error under 2e-7, 0 under -104 (where `f32` has no
/// smaller number) and NaN for NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2` (Cody and Waite's split of ln 2 in two
/// constants), then a polynomial and a scaling by `2^n` in two steps,
/// which reaches the subnormal numbers.
#[inline(always)]
fn exp_f32(x: f32) -> f32 {
    let clamped = if x < -104.0 { -104.0 } else { x };
    let clamped = if clamped > 89.0 { 89.0 } else { clamped };
    // Adding 1.5 * 2^23 rounds to the nearest whole number.
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, 12_582_912.0);
    let n = shifted - 12_582_912.0;
    let r = n.mul_add(-0.693_145_75, clamped);
    let r = n.mul_add(-1.428_606_8e-6, r);
    // Cephes' coefficients for (exp(r) - 1 - r) / r^2 on the reduced range.
    let mut p = 1.987_569_1e-4_f32;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = p.mul_add(r, c);
    }
    let p = (p * r).mul_add(r, r) + 1.0;
    let whole = shifted.to_bits() as i32 - 0x4b40_0000;
    let half = whole >> 1;
    let first = f32::from_bits(((half + 127) << 23) as u32);
    let second = f32::from_bits(((whole - half + 127) << 23) as u32);
    p * first * second
}

#[inline(always)]
fn fold<S: Real>(mut lanes: [S; LANES], join: impl Fn(S, S) -> S) -> S {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = join(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

// Each kernel is a struct: a closure given to `dispatch` is called, not inlined, so its
// body would be compiled without the wide registers (perf showed 40 % of forward in calls of `fmaf`).

struct ExpSum<'a> {
    values: &'a mut [f32],
    shift: f32,
}

impl WithSimd for ExpSum<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<V: Simd>(self, _: V) -> f32 {
        let mut lanes = [0f32; LANES];
        let mut chunks = self.values.chunks_exact_mut(LANES);
        for chunk in &mut chunks {
            for (value, lane) in chunk.iter_mut().zip(&mut lanes) {
                *value = exp_f32(*value - self.shift);
                *lane += *value;
            }
        }
        for (value, lane) in chunks.into_remainder().iter_mut().zip(&mut lanes) {
            *value = exp_f32(*value - self.shift);
            *lane += *value;
        }
        fold(lanes, |a, b| a + b)
    }
}

struct Largest<'a, S> {
    values: &'a [S],
}

impl<S: Real> WithSimd for Largest<'_, S> {
    type Output = S;

    #[inline(always)]
    fn with_simd<V: Simd>(self, _: V) -> S {
        let larger = |a: S, b: S| if a > b { a } else { b };
        let mut lanes = [S::NEG_INFINITY; LANES];
        let chunks = self.values.chunks_exact(LANES);
        for (&value, lane) in chunks.remainder().iter().zip(&mut lanes) {
            *lane = larger(*lane, value);
        }
        for chunk in chunks {
            for (&value, lane) in chunk.iter().zip(&mut lanes) {
                *lane = larger(*lane, value);
            }
        }
        fold(lanes, larger)
    }
}

struct Scale<'a, S> {
    values: &'a mut [S],
    factor: S,
}

impl<S: Real> WithSimd for Scale<'_, S> {
    type Output = ();

    #[inline(always)]
    fn with_simd<V: Simd>(self, _: V) {
        for value in self.values {
            *value *= self.factor;
        }
    }
}

struct SoftmaxGradient<'a, S> {
    p: &'a [S],
    dp: &'a mut [S],
    delta: S,
}

impl<S: Real> WithSimd for SoftmaxGradient<'_, S> {
    type Output = ();

    #[inline(always)]
    fn with_simd<V: Simd>(self, _: V) {
        for (dp, &p) in self.dp.iter_mut().zip(self.p) {
            *dp = p * (*dp - self.delta);
        }
    }
}

/// Replaces every `x` by `exp(x - shift)` and returns the sum.
pub(crate) fn exp_sum_f32(values: &mut [f32], shift: f32) -> f32 {
    Arch::new().dispatch(ExpSum { values, shift })
}

/// The largest element, minus infinity of none.
pub(crate) fn largest<S: Real>(values: &[S]) -> S {
    Arch::new().dispatch(Largest { values })
}

/// Multiplies every element by `factor`.
pub(crate) fn scale<S: Real>(values: &mut [S], factor: S) {
    Arch::new().dispatch(Scale { values, factor });
}

/// `ds = p (dp - delta)`, written over `dp`.
pub(crate) fn softmax_gradient<S: Real>(p: &[S], dp: &mut [S], delta: S) {
    Arch::new().dispatch(SoftmaxGradient { p, dp, delta });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_f64_exponential() {
        let mut worst = 0f64;
        for i in -10_300..=880 {
            let x = i as f32 * 0.01;
            let mut value = [x];
            exp_sum_f32(&mut value, 0.0);
            let exact = f64::from(x).exp();
            // Subnormal results carry the spacing of subnormals.
            let error = (f64::from(value[0]) - exact).abs() / exact.max(1.2e-38);
            worst = worst.max(error);
        }
        assert!(worst < 2e-7, "{worst}");
    }

    #[test]
    fn ends_of_the_range() {
        let mut values = [f32::NEG_INFINITY, -200.0, 0.0, f32::NAN, 100.0];
        exp_sum_f32(&mut values, 0.0);
        assert_eq!(&values[..3], &[0.0, 0.0, 1.0]);
        assert!(values[3].is_nan());
        assert_eq!(values[4], f32::INFINITY);
    }

    #[test]
    fn sums_every_element_of_any_length() {
        for length in 0..70usize {
            let mut values: Vec<f32> = (0..length).map(|i| (i as f32 * 0.37).sin()).collect();
            let exact: f64 = values.iter().map(|x| f64::from(x - 0.5).exp()).sum();
            let sum = exp_sum_f32(&mut values, 0.5);
            assert!(
                (f64::from(sum) - exact).abs() <= 1e-5 * exact.max(1.0),
                "{length}: {sum} {exact}"
            );
        }
    }
}
