//! Products of factors whose terms are contiguous in both: sums of a register's worth of terms.

use pulp::{NullaryFnOnce, Simd};

use super::Product;
use crate::Real;
use crate::simd::BLOCK;

/// Rows of A, and of the transpose of B, that a tile takes at most: sixteen sums.
const TILE: usize = 4;
/// Columns that a tile of a single row takes.
const WIDE: usize = 16;
/// Terms of one pass: four rows of B (16 KiB of f32) then stay in the first-level cache.
const TERMS: usize = 1024;

/// Whether the terms are many and contiguous.
#[inline(always)]
pub(super) fn suits<T>(p: &Product<'_, T>) -> bool {
    let [m, n, k] = p.shape;
    p.a.col == 1 && p.b.row == 1 && k >= 2 * TERMS && m.min(n) >= TILE
}

/// Whether these loops suit the product on a processor with room for sixteen sums: the terms are
/// many, or the rows so few that a copy of B would cost more than they do.
#[inline(always)]
pub(super) fn suits_registers<T>(p: &Product<'_, T>) -> bool {
    let few_rows = p.a.col == 1 && p.b.row == 1 && p.shape[0] < TILE;
    suits(p) || few_rows
}

/// Computes the product.
///
/// # Safety
/// As for [`matmul`](super::matmul).
#[inline(always)]
pub(super) unsafe fn product<T: Real, S: Simd>(simd: S, p: Product<'_, T>) {
    let [m, n, k] = p.shape;
    if m < TILE {
        // SAFETY: passed on to the caller.
        return unsafe { few_rows(simd, p) };
    }
    for start in (0..k).step_by(TERMS) {
        let terms = TERMS.min(k - start);
        for (j, columns) in parts(n) {
            for (i, rows) in parts(m) {
                // SAFETY: these rows, columns and terms.
                let tile = unsafe {
                    Ends {
                        terms,
                        a: (p.a.pointer.add(i * p.a.row + start), p.a.row),
                        b: (p.b.pointer.add(j * p.b.col + start), p.b.col),
                        c: (p.c.0.add(i * p.c.1 + j), p.c.1),
                        accumulate: p.accumulate || start > 0,
                    }
                };
                match rows {
                    1 => of_rows::<T, S, 1>(simd, tile, columns),
                    2 => of_rows::<T, S, 2>(simd, tile, columns),
                    3 => of_rows::<T, S, 3>(simd, tile, columns),
                    _ => of_rows::<T, S, 4>(simd, tile, columns),
                }
            }
        }
    }
}

/// Rows one by one, sixteen columns at a time: B is read once and at the memory's pace.
///
/// # Safety
/// As for [`matmul`](super::matmul).
#[inline(always)]
unsafe fn few_rows<T: Real, S: Simd>(simd: S, p: Product<'_, T>) {
    let [m, n, k] = p.shape;
    for j in (0..n).step_by(WIDE) {
        for i in 0..m {
            let ends = |j: usize| {
                // SAFETY: row `i` and the columns from `j`.
                unsafe {
                    Ends {
                        terms: k,
                        a: (p.a.pointer.add(i * p.a.row), p.a.row),
                        b: (p.b.pointer.add(j * p.b.col), p.b.col),
                        c: (p.c.0.add(i * p.c.1 + j), p.c.1),
                        accumulate: p.accumulate,
                    }
                }
            };
            if j + WIDE <= n {
                simd.vectorize(Tile::<T, S, 1, WIDE> { simd, ends: ends(j) });
                continue;
            }
            for (first, columns) in parts(n - j) {
                of_rows::<T, S, 1>(simd, ends(j + first), columns);
            }
        }
    }
}

/// First element and length of nearly equal parts of at most [`TILE`].
#[inline(always)]
fn parts(whole: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = whole.div_ceil(TILE);
    (0..count).map(move |t| {
        let first = t * whole / count;
        (first, (t + 1) * whole / count - first)
    })
}

#[inline(always)]
fn of_rows<T: Real, S: Simd, const M: usize>(simd: S, ends: Ends<T>, columns: usize) {
    match columns {
        1 => simd.vectorize(Tile::<T, S, M, 1> { simd, ends }),
        2 => simd.vectorize(Tile::<T, S, M, 2> { simd, ends }),
        3 => simd.vectorize(Tile::<T, S, M, 3> { simd, ends }),
        _ => simd.vectorize(Tile::<T, S, M, 4> { simd, ends }),
    }
}

/// Where a tile's rows begin, and how far they are apart.
#[derive(Clone, Copy)]
struct Ends<T> {
    terms: usize,
    a: (*const T, usize),
    b: (*const T, usize),
    c: (*mut T, usize),
    accumulate: bool,
}

struct Tile<T, S, const M: usize, const N: usize> {
    simd: S,
    ends: Ends<T>,
}

impl<T: Real, S: Simd, const M: usize, const N: usize> NullaryFnOnce for Tile<T, S, M, N> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, ends: Ends { terms, a, b, c, accumulate } } = self;
        let width = T::width::<S>();
        let mut sums = [[T::splat(simd, T::ZERO); N]; M];
        let whole = terms / width * width;
        for term in (0..whole).step_by(width) {
            let mut columns = [T::splat(simd, T::ZERO); N];
            for j in 0..N {
                // SAFETY: a register of terms of column `j`.
                columns[j] = unsafe { T::load(simd, b.0.add(j * b.1 + term)) };
            }
            for i in 0..M {
                // SAFETY: a register of terms of row `i`.
                let row = unsafe { T::load(simd, a.0.add(i * a.1 + term)) };
                for j in 0..N {
                    sums[i][j] = T::fma(simd, row, columns[j], sums[i][j]);
                }
            }
        }
        if whole < terms {
            let rest = terms - whole;
            for i in 0..M {
                for j in 0..N {
                    // SAFETY: the last terms of row `i` and column `j`.
                    let (x, y) = unsafe {
                        (
                            T::load_first(simd, a.0.add(i * a.1 + whole), rest),
                            T::load_first(simd, b.0.add(j * b.1 + whole), rest),
                        )
                    };
                    sums[i][j] = T::fma(simd, x, y, sums[i][j]);
                }
            }
        }
        let mut lanes = [[T::ZERO; BLOCK]; BLOCK];
        for i in 0..M {
            for j in 0..N {
                // SAFETY: no register is wider than sixteen elements.
                unsafe { T::store(simd, lanes[i * N + j].as_mut_ptr(), sums[i][j]) };
            }
        }
        let totals = T::row_sums(simd, &lanes);
        for i in 0..M {
            for j in 0..N {
                // SAFETY: element `(i, j)` of the tile of C.
                let place = unsafe { &mut *c.0.add(i * c.1 + j) };
                let sum = totals[i * N + j];
                *place = if accumulate { *place + sum } else { sum };
            }
        }
    }
}
