//! Products of tiles on registers: what attention multiplies.
//!
//! `C (+)= A B` where the columns of B and C are contiguous and a multiple of [`LANES`]. Tiles of a
//! few rows by up to four registers keep their sums in registers over all terms; A is read where it
//! lies, with any strides, one element for a whole register of columns. Nothing is copied, planned
//! or allocated. [`crate::block::multiply`] takes any shape, and is for products that are not
//! repeated tile by tile.

use pulp::{Arch, NullaryFnOnce, Simd, WithSimd};

use crate::Real;
use crate::block::{Block, BlockMut};
use crate::registers::LANES;

/// `out = left * right`, added to `out` where `accumulate`; the bits depend on the operands alone.
///
/// The rows of `out` and `right` are contiguous, with a multiple of [`LANES`] columns.
pub(crate) fn product<S: Real>(
    out: BlockMut<'_, S>,
    accumulate: bool,
    left: Block<'_, S>,
    right: Block<'_, S>,
) {
    let ([m, k], [terms, n]) = (left.shape(), right.shape());
    assert!(
        k == terms && out.shape() == [m, n] && n % LANES == 0 && right.strides()[1] == 1,
        "tiles do not fit: {:?} = {m}x{k} * {terms}x{n}, strides {:?}",
        out.shape(),
        right.strides(),
    );
    if m == 0 || n == 0 {
        return;
    }
    let (a, b) = (left.strides(), right.strides());
    let (c, c_row) = out.into_parts();
    let shape = Shape { m, n, k, accumulate, a, b: b[0], c: c_row };
    Arch::new().dispatch(Run { shape, a: left.start(), b: right.start(), c });
}

#[derive(Clone, Copy)]
struct Shape {
    m: usize,
    n: usize,
    k: usize,
    accumulate: bool,
    /// Elements between rows and between columns of A.
    a: [usize; 2],
    /// Elements between rows of B and of C.
    b: usize,
    c: usize,
}

/// Pointers into blocks whose constructors checked that they hold the shape.
struct Run<S> {
    shape: Shape,
    a: *const S,
    b: *const S,
    c: *mut S,
}

impl<S: Real> WithSimd for Run<S> {
    type Output = ();

    #[inline(always)]
    fn with_simd<V: Simd>(self, simd: V) {
        let Self { shape, a, b, c } = self;
        let width = S::width::<V>();
        let registers = shape.n / width;
        let panels = registers.div_ceil(if V::REGISTER_COUNT >= 32 { 4 } else { 2 });
        for panel in 0..panels {
            let (first, end) = (panel * registers / panels, (panel + 1) * registers / panels);
            // SAFETY: columns `first * width .. end * width` of B and C.
            unsafe {
                let (b, c) = (b.add(first * width), c.add(first * width));
                match end - first {
                    1 => rows::<S, V, 1>(simd, shape, a, b, c),
                    2 => rows::<S, V, 2>(simd, shape, a, b, c),
                    // Sixteen registers have no room for wider panels.
                    _ if V::REGISTER_COUNT < 32 => unreachable!("a panel of {}", end - first),
                    3 => rows::<S, V, 3>(simd, shape, a, b, c),
                    _ => rows::<S, V, 4>(simd, shape, a, b, c),
                }
            }
        }
    }
}

/// All rows against one panel of `N` registers: tiles of as many rows as there are registers
/// for, the remainder in fours, twos and ones.
///
/// # Safety
/// A, B and C must have these elements, and C must overlap neither of the others.
#[inline(always)]
unsafe fn rows<S: Real, V: Simd, const N: usize>(
    simd: V,
    shape: Shape,
    a: *const S,
    b: *const S,
    c: *mut S,
) {
    let most = if V::REGISTER_COUNT < 32 || N == 4 { 6 } else { 8 };
    let mut row = 0;
    while row < shape.m {
        // SAFETY: rows from `row` on.
        let tile = unsafe { (a.add(row * shape.a[0]), b, c.add(row * shape.c)) };
        let left = shape.m - row;
        if left >= most {
            if most == 6 {
                simd.vectorize(Tile::<S, V, 6, N> { simd, shape, tile });
            } else {
                simd.vectorize(Tile::<S, V, 8, N> { simd, shape, tile });
            }
            row += most;
        } else if left >= 4 {
            simd.vectorize(Tile::<S, V, 4, N> { simd, shape, tile });
            row += 4;
        } else if left >= 2 {
            simd.vectorize(Tile::<S, V, 2, N> { simd, shape, tile });
            row += 2;
        } else {
            simd.vectorize(Tile::<S, V, 1, N> { simd, shape, tile });
            row += 1;
        }
    }
}

/// `M` rows by `N` registers, a function of its own that has the instruction set.
struct Tile<S, V, const M: usize, const N: usize> {
    simd: V,
    shape: Shape,
    tile: (*const S, *const S, *mut S),
}

impl<S: Real, V: Simd, const M: usize, const N: usize> NullaryFnOnce for Tile<S, V, M, N> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, shape, tile: (mut a, mut b, c) } = self;
        let width = S::width::<V>();
        let mut sums = [[S::splat(simd, S::ZERO); N]; M];
        for _ in 0..shape.k {
            let mut columns = [S::splat(simd, S::ZERO); N];
            for n in 0..N {
                // SAFETY: this term of the panel's columns.
                columns[n] = unsafe { S::load(simd, b.add(n * width)) };
            }
            for m in 0..M {
                // SAFETY: this term of row `m`.
                let x = S::splat(simd, unsafe { *a.add(m * shape.a[0]) });
                for n in 0..N {
                    sums[m][n] = S::fma(simd, x, columns[n], sums[m][n]);
                }
            }
            a = a.wrapping_add(shape.a[1]);
            b = b.wrapping_add(shape.b);
        }
        for m in 0..M {
            for n in 0..N {
                // SAFETY: these columns of row `m` of C.
                unsafe {
                    let place = c.add(m * shape.c + n * width);
                    let mut sum = sums[m][n];
                    if shape.accumulate {
                        sum = S::plus(simd, S::load(simd, place), sum);
                    }
                    S::store(simd, place, sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pulp::Scalar;

    use super::*;
    use crate::testing::{normal, random};

    /// Random operands, either layout of A, against sums in f64; what lies beside C stays.
    fn check<S: Real>(run: impl Fn(Run<S>), unit: f64) {
        for case in 0..60 {
            let mut rng = random("product", case);
            let mut below = |n: u64| palmette_random::Draw::below(&mut rng, n) as usize;
            let (m, n, k) = (1 + below(30), LANES * (1 + below(9)), below(70));
            let (turned, accumulate) = (below(2) == 1, below(2) == 1);
            let (b_row, c_row) = (n + below(5), n + below(5));
            let a: Vec<S> = normal(&mut rng, m * k);
            let b: Vec<S> = normal(&mut rng, k.max(1) * b_row);
            let before: Vec<S> = normal(&mut rng, m * c_row);
            let mut c = before.clone();
            let strides = if turned { [1, m] } else { [k, 1] };
            let shape = Shape { m, n, k, accumulate, a: strides, b: b_row, c: c_row };
            run(Run { shape, a: a.as_ptr(), b: b.as_ptr(), c: c.as_mut_ptr() });
            for (at, found) in c.iter().enumerate() {
                let (i, j) = (at / c_row, at % c_row);
                let start = before[at].to_f64();
                let mut sum = if accumulate || j >= n { start } else { 0.0 };
                let mut magnitude = sum.abs();
                for t in 0..if j < n { k } else { 0 } {
                    let x = a[i * strides[0] + t * strides[1]].to_f64() * b[t * b_row + j].to_f64();
                    (sum, magnitude) = (sum + x, magnitude + x.abs());
                }
                let bound = (k + 2) as f64 * unit * magnitude;
                let found = found.to_f64();
                assert!((found - sum).abs() <= bound, "{m}x{n}x{k} at {i}, {j}: {found} {sum}");
            }
        }
    }

    fn check_types<V: Simd>(simd: V) {
        check::<f32>(|run| run.with_simd(simd), 2f64.powi(-24));
        check::<f64>(|run| run.with_simd(simd), 2f64.powi(-53));
    }

    #[test]
    fn tiles_of_any_shape_are_sums_of_products() {
        check_types(Scalar::new());
        #[cfg(target_arch = "x86_64")]
        {
            pulp::x86::V3::try_new().into_iter().for_each(check_types);
            pulp::x86::V4::try_new().into_iter().for_each(check_types);
        }
    }
}
