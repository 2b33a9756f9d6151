//! The two number types that operators are generic over.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

/// f32 (training) or f64 (references and gradient checks).
pub trait Real:
    crate::simd::Registers
    + crate::kernels::Kernels
    + Copy
    + Debug
    + Default
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
    + 'static
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Name in environment files and checkpoints.
    const NAME: &'static str;

    /// Rounds to this type.
    fn from_f64(value: f64) -> Self;
    /// Widens exactly.
    fn to_f64(self) -> f64;
    /// `self * factor + addend`, rounded once.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// The larger of the two.
    fn max(self, other: Self) -> Self;
    /// Exponential; vectorises, so that softmax and gates cost a few cycles an element.
    fn exp(self) -> Self;
    /// Neither infinite nor NaN.
    fn is_finite(self) -> bool;
    /// Not a number, for poisoning.
    fn nan() -> Self;
    /// Little-endian bytes, appended.
    fn write_le(self, out: &mut Vec<u8>);
    /// From as many little-endian bytes; missing ones are zero.
    fn read_le(bytes: &[u8]) -> Self;

    /// `1 / (1 + exp(-self))`.
    #[inline(always)]
    fn sigmoid(self) -> Self {
        Self::ONE / (Self::ONE + (-self).exp())
    }
}

macro_rules! shared {
    ($type:ty) => {
        const ZERO: Self = 0.0;
        const ONE: Self = 1.0;
        const NAME: &'static str = stringify!($type);

        #[inline(always)]
        fn from_f64(value: f64) -> Self {
            value as $type
        }
        #[inline(always)]
        fn to_f64(self) -> f64 {
            f64::from(self)
        }
        #[inline(always)]
        fn mul_add(self, factor: Self, addend: Self) -> Self {
            <$type>::mul_add(self, factor, addend)
        }
        #[inline(always)]
        fn sqrt(self) -> Self {
            <$type>::sqrt(self)
        }
        #[inline(always)]
        fn max(self, other: Self) -> Self {
            if self > other { self } else { other }
        }
        #[inline(always)]
        fn is_finite(self) -> bool {
            <$type>::is_finite(self)
        }
        fn nan() -> Self {
            <$type>::NAN
        }
        fn write_le(self, out: &mut Vec<u8>) {
            out.extend_from_slice(&self.to_le_bytes());
        }
        fn read_le(bytes: &[u8]) -> Self {
            let mut own = [0u8; size_of::<$type>()];
            own.iter_mut().zip(bytes).for_each(|(own, byte)| *own = *byte);
            <$type>::from_le_bytes(own)
        }
    };
}

impl Real for f32 {
    shared!(f32);

    /// Cody-Waite reduction and a degree-6 polynomial: relative error below 2e-7
    /// on the whole range, and no table or branch that would stop vectorisation.
    #[inline(always)]
    fn exp(self) -> Self {
        const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
        let x = if self > 88.3 { 88.3 } else { self };
        let x = if x < -87.3 { -87.3 } else { x };
        let shifted = f32::mul_add(x, std::f32::consts::LOG2_E, SHIFT);
        let n = shifted - SHIFT;
        let r = f32::mul_add(n, -0.693_359_4, x);
        let r = f32::mul_add(n, 2.121_944_4e-4, r);
        let p = f32::mul_add(1.987_569_1e-4, r, 1.398_199_9e-3);
        let p = f32::mul_add(p, r, 8.333_452e-3);
        let p = f32::mul_add(p, r, 4.166_579_6e-2);
        let p = f32::mul_add(p, r, 1.666_666_5e-1);
        let p = f32::mul_add(p, r, 0.5);
        let y = f32::mul_add(p * r, r, r) + 1.0;
        // The integer is in the low bits of the shifted sum; a cast would saturate, lane by lane.
        let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
        y * scale
    }
}

impl Real for f64 {
    shared!(f64);

    #[inline(always)]
    fn exp(self) -> Self {
        f64::exp(self)
    }
}

#[cfg(test)]
mod tests {
    use super::Real;

    #[test]
    fn f32_exp_is_accurate_everywhere() {
        let mut worst = 0.0f64;
        for i in -87_000..88_000 {
            let x = i as f32 * 1e-3 + 3.7e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(Real::exp(x)) / exact - 1.0).abs());
        }
        assert!(worst < 3e-7, "{worst}");
        assert_eq!(Real::exp(0.0f32), 1.0);
        assert!(Real::exp(-1000.0f32) < 2e-38);
        assert!(Real::exp(1000.0f32).is_finite());
        assert!(Real::exp(f32::NAN).is_nan());
    }
}
