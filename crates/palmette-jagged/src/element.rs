//! Element types and the type their sums are kept in.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub};

use half::{bf16, f16};

use crate::lanes::exp_sum_f32;
use crate::registers::Registers;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
    impl Sealed for half::bf16 {}
    impl Sealed for half::f16 {}
}

/// A type that jagged values can have: `f32`, `bf16`, `f16`, and `f64` for references.
///
/// Sums are kept in [`Element::Sum`] (`f32` for the three short types) and
/// rounded once, when the result is written.
pub trait Element:
    sealed::Sealed + Copy + Debug + Default + PartialEq + Send + Sync + 'static
{
    /// The type of sums.
    type Sum: Real;
    /// The name used in messages.
    const NAME: &'static str;
    /// The value as a sum.
    fn widen(self) -> Self::Sum;
    /// The sum rounded to nearest even.
    fn narrow(sum: Self::Sum) -> Self;
    /// The slice itself where no widening is needed.
    fn as_sums(values: &[Self]) -> Option<&[Self::Sum]>;
}

/// A type that sums can have: `f32` or `f64`.
pub trait Real:
    Element<Sum = Self>
    + Registers
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + MulAssign
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// The identity of the maximum.
    const NEG_INFINITY: Self;
    /// Rounds from `f64`.
    fn of(value: f64) -> Self;
    /// Widens to `f64`.
    fn to_f64(self) -> f64;
    /// The natural exponential.
    fn exp(self) -> Self;
    /// The natural logarithm.
    fn ln(self) -> Self;
    /// The larger of two numbers.
    fn larger(self, other: Self) -> Self;
    /// Replaces every `x` by `exp(x - shift)` and returns the sum.
    fn exp_sum(values: &mut [Self], shift: Self) -> Self;
}

macro_rules! real {
    ($type:ident, $exp_sum:expr) => {
        impl Element for $type {
            type Sum = $type;
            const NAME: &'static str = stringify!($type);
            fn widen(self) -> $type {
                self
            }
            fn narrow(sum: $type) -> $type {
                sum
            }
            fn as_sums(values: &[$type]) -> Option<&[$type]> {
                Some(values)
            }
        }
        impl Real for $type {
            const ZERO: $type = 0.0;
            const ONE: $type = 1.0;
            const NEG_INFINITY: $type = $type::NEG_INFINITY;
            fn of(value: f64) -> $type {
                value as $type
            }
            fn to_f64(self) -> f64 {
                self as f64
            }
            fn exp(self) -> $type {
                $type::exp(self)
            }
            fn ln(self) -> $type {
                $type::ln(self)
            }
            fn larger(self, other: $type) -> $type {
                self.max(other)
            }
            fn exp_sum(values: &mut [$type], shift: $type) -> $type {
                $exp_sum(values, shift)
            }
        }
    };
}

real!(f32, exp_sum_f32);
real!(f64, |values: &mut [f64], shift: f64| {
    let mut sum = 0.0;
    for value in values {
        *value = f64::exp(*value - shift);
        sum += *value;
    }
    sum
});

macro_rules! short {
    ($type:ident) => {
        impl Element for $type {
            type Sum = f32;
            const NAME: &'static str = stringify!($type);
            fn widen(self) -> f32 {
                self.to_f32()
            }
            fn narrow(sum: f32) -> $type {
                $type::from_f32(sum)
            }
            fn as_sums(_: &[$type]) -> Option<&[f32]> {
                None
            }
        }
    };
}

short!(bf16);
short!(f16);
