//! Loops over sixteen lanes, the width of one AVX-512 register of f32.
//!
//! Sums keep sixteen partial sums in a fixed order, so their bits do not
//! depend on which instruction set runs them.

use crate::Real;

pub(crate) const LANES: usize = 16;

/// Sum of the lanes in a fixed tree.
#[inline(always)]
pub(crate) fn total<T: Real>(lanes: &[T; LANES]) -> T {
    let mut width = LANES / 2;
    let mut sums = *lanes;
    while width > 0 {
        for i in 0..width {
            let high = sums[i + width];
            sums[i] += high;
        }
        width /= 2;
    }
    sums[0]
}

/// `sum f(x_i, y_i)` over two slices of equal length.
#[inline(always)]
pub(crate) fn sum2<T: Real>(x: &[T], y: &[T], f: impl Fn(T, T, T) -> T) -> T {
    let mut acc = [T::ZERO; LANES];
    let (xs, xt) = x.as_chunks::<LANES>();
    let (ys, yt) = y.as_chunks::<LANES>();
    for (x, y) in xs.iter().zip(ys) {
        for l in 0..LANES {
            acc[l] = f(x[l], y[l], acc[l]);
        }
    }
    for (l, (&x, &y)) in xt.iter().zip(yt).enumerate() {
        acc[l] = f(x, y, acc[l]);
    }
    total(&acc)
}

/// `sum x_i`.
#[inline(always)]
pub(crate) fn sum<T: Real>(x: &[T]) -> T {
    sum2(x, x, |x, _, acc| acc + x)
}

/// `sum x_i y_i`.
#[inline(always)]
pub(crate) fn dot<T: Real>(x: &[T], y: &[T]) -> T {
    sum2(x, y, |x, y, acc| x.mul_add(y, acc))
}

/// `sum x_i^2`.
#[inline(always)]
pub(crate) fn sum_of_squares<T: Real>(row: &[T]) -> f64 {
    sum2(row, row, |x, y, acc| x.mul_add(y, acc)).to_f64()
}

/// `max(x, 0)`; what is not a number stays so.
#[inline(always)]
pub(crate) fn relu<T: Real>(x: T) -> T {
    if x <= T::ZERO { T::ZERO } else { x }
}

/// `y_i = f(x_i, y_i)`.
#[inline(always)]
pub(crate) fn update<T: Real>(y: &mut [T], x: &[T], f: impl Fn(T, T) -> T) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = f(x, *y);
    }
}

/// Copies a row; one of sixteen elements in a register, since a call takes longer than that.
#[inline(always)]
pub(crate) fn copy<T: Real>(target: &mut [T], source: &[T]) {
    match (<&mut [T; LANES]>::try_from(&mut *target), <&[T; LANES]>::try_from(source)) {
        (Ok(target), Ok(source)) => *target = *source,
        _ => target.copy_from_slice(source),
    }
}

/// Writes or adds `value`.
#[inline(always)]
pub(crate) fn put<T: Real>(target: &mut T, value: T, accumulate: bool) {
    *target = if accumulate { *target + value } else { value };
}
