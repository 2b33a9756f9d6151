//! One register tile of a product: a few rows by a few registers of columns.

use pulp::{NullaryFnOnce, Simd};

use super::COLUMNS;
use super::Strided;
use super::finish::{Passage, TileFinish};
use crate::Real;

/// Registers of columns that a tile is wide at most.
pub(super) const REGISTERS: usize = 3;

/// Rows of a full tile: eight by three accumulators, three registers of B and one of A fit 32
/// registers; four by three fit 16.
#[inline(always)]
pub(super) fn most_rows<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 8 } else { 4 }
}

/// What all tiles of one panel of columns share.
#[derive(Clone, Copy)]
pub(super) struct Panel<T> {
    /// Terms of each sum.
    pub k: usize,
    /// The panel's first column of B, and elements from one term to the next.
    pub b: (*const T, usize),
    /// Elements from row to row of C.
    pub c_row: usize,
    /// Live columns of the last register, where it is not full.
    pub tail: usize,
    /// Whether C keeps what it holds.
    pub accumulate: bool,
    /// Terms of A up to the first gap, and elements that each gap holds.
    pub ahead: usize,
    pub gap: usize,
    /// What is done to the sums.
    pub finish: Option<TileFinish<T>>,
    /// The same of a gradient.
    pub passage: Option<Passage<T>>,
}

/// `C (+)= A B` for `rows` rows from `a` and `c`, in a function of its own for every shape.
///
/// # Safety
/// A, B and C must have these elements, and C must overlap neither of the others.
#[inline(always)]
pub(super) unsafe fn run<T: Real, S: Simd, const V: usize, const TAIL: bool>(
    simd: S,
    panel: Panel<T>,
    rows: usize,
    a: Strided<*const T>,
    c: *mut T,
) {
    match rows {
        1 => simd.vectorize(Tile::<T, S, 1, V, TAIL> { simd, panel, a, c }),
        2 => simd.vectorize(Tile::<T, S, 2, V, TAIL> { simd, panel, a, c }),
        3 => simd.vectorize(Tile::<T, S, 3, V, TAIL> { simd, panel, a, c }),
        4 => simd.vectorize(Tile::<T, S, 4, V, TAIL> { simd, panel, a, c }),
        // Fewer registers never come here: see `most_rows`.
        _ if S::REGISTER_COUNT < 32 => unreachable!("{rows} rows of a tile"),
        5 => simd.vectorize(Tile::<T, S, 5, V, TAIL> { simd, panel, a, c }),
        6 => simd.vectorize(Tile::<T, S, 6, V, TAIL> { simd, panel, a, c }),
        7 => simd.vectorize(Tile::<T, S, 7, V, TAIL> { simd, panel, a, c }),
        8 => simd.vectorize(Tile::<T, S, 8, V, TAIL> { simd, panel, a, c }),
        _ => unreachable!("{rows} rows of a tile"),
    }
}

/// `M` rows by `V` registers; under `TAIL` the last register is not full.
struct Tile<T, S, const M: usize, const V: usize, const TAIL: bool> {
    simd: S,
    panel: Panel<T>,
    a: Strided<*const T>,
    c: *mut T,
}

impl<T: Real, S: Simd, const M: usize, const V: usize, const TAIL: bool> NullaryFnOnce
    for Tile<T, S, M, V, TAIL>
{
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, panel, a, c } = self;
        let width = T::width::<S>();
        let mut sums = [[T::splat(simd, T::ZERO); V]; M];
        let (mut a_term, mut b_term) = (a.pointer, panel.b.0);
        let (mut left, mut count) = (panel.k, panel.k.min(panel.ahead));
        while left > 0 {
            for _ in 0..count {
                let mut b = [T::splat(simd, T::ZERO); V];
                for v in 0..V {
                    // SAFETY: the panel has these columns of this term.
                    b[v] = unsafe { Self::read(simd, b_term.add(v * width), v, panel.tail) };
                }
                for r in 0..M {
                    // SAFETY: row `r` of this term.
                    let x = T::splat(simd, unsafe { *a_term.add(r * a.row) });
                    for v in 0..V {
                        sums[r][v] = T::fma(simd, x, b[v], sums[r][v]);
                    }
                }
                a_term = a_term.wrapping_add(a.col);
                b_term = b_term.wrapping_add(panel.b.1);
            }
            a_term = a_term.wrapping_add(panel.gap);
            left -= count;
            count = left.min(COLUMNS);
        }
        // SAFETY: C has these columns of rows `0 .. M`, and the bias, if there is one, has them.
        unsafe {
            if panel.accumulate {
                for r in 0..M {
                    for v in 0..V {
                        let place = c.add(r * panel.c_row + v * width);
                        let before = Self::read(simd, place, v, panel.tail);
                        sums[r][v] = T::plus(simd, before, sums[r][v]);
                    }
                }
            }
            if let Some(TileFinish { bias, least }) = panel.finish {
                let least = T::splat(simd, least);
                for v in 0..V {
                    let mut addend = T::splat(simd, T::ZERO);
                    if !bias.is_null() {
                        addend = Self::read(simd, bias.add(v * width), v, panel.tail);
                    }
                    for r in 0..M {
                        sums[r][v] = T::larger(simd, least, T::plus(simd, sums[r][v], addend));
                    }
                }
            }
            if let Some(Passage { output, bias }) = panel.passage {
                for v in 0..V {
                    let mut total = T::splat(simd, T::ZERO);
                    for r in 0..M {
                        if !output.is_null() {
                            let place = output.add(r * panel.c_row + v * width);
                            let y = Self::read(simd, place, v, panel.tail);
                            sums[r][v] = T::where_positive(simd, y, sums[r][v]);
                        }
                        total = T::plus(simd, total, sums[r][v]);
                    }
                    if !bias.is_null() {
                        let place = bias.add(v * width);
                        let before = Self::read(simd, place, v, panel.tail);
                        Self::write(simd, place, v, panel.tail, T::plus(simd, before, total));
                    }
                }
            }
            for r in 0..M {
                for v in 0..V {
                    let place = c.add(r * panel.c_row + v * width);
                    Self::write(simd, place, v, panel.tail, sums[r][v]);
                }
            }
        }
    }
}

impl<T: Real, S: Simd, const M: usize, const V: usize, const TAIL: bool> Tile<T, S, M, V, TAIL> {
    /// Register `v` of a row, at `place`.
    ///
    /// # Safety
    /// The row must have these columns.
    #[inline(always)]
    unsafe fn read(simd: S, place: *const T, v: usize, tail: usize) -> T::Register<S> {
        // SAFETY: passed on to the caller.
        unsafe {
            match TAIL && v + 1 == V {
                true => T::load_first(simd, place, tail),
                false => T::load(simd, place),
            }
        }
    }

    /// Writes register `v` of a row to `place`.
    ///
    /// # Safety
    /// The row must have these columns.
    #[inline(always)]
    unsafe fn write(simd: S, place: *mut T, v: usize, tail: usize, value: T::Register<S>) {
        // SAFETY: passed on to the caller.
        unsafe {
            match TAIL && v + 1 == V {
                true => T::store_first(simd, place, tail, value),
                false => T::store(simd, place, value),
            }
        }
    }
}
