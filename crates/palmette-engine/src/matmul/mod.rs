//! The single matrix product of the engine.
//!
//! Tiles of eight rows by three registers keep their sums in registers for up
//! to [`TERMS`] terms. A is read where it lies, with any strides, one element
//! for a whole register of columns; B is read where it lies when its columns
//! are contiguous, and else a panel of columns at a time goes through a copy on
//! the stack. There is nothing to plan and nothing to allocate, and a product
//! of a few rows is as fast as a large one. Sums of many terms that are contiguous
//! in both factors (a field mix's weight gradient) go through [`dot`] instead, which
//! copies nothing.

#[cfg(target_arch = "x86_64")]
pub(crate) mod bf16;
mod dot;
mod exchange;
mod finish;
mod panels;
mod rates;
#[cfg(test)]
mod tests;
mod tile;

pub(crate) use finish::{Finish, Passage};
pub(crate) use panels::{COLUMNS, LayOut, Panels, lay_out, panel_len, panels_len};
pub use rates::{ProductRate, product_rates};

use std::cell::Cell;
use std::mem::MaybeUninit;

use pulp::{NullaryFnOnce, Simd};

use crate::Real;
use crate::simd::BLOCK;
use tile::{Panel, REGISTERS, most_rows};

thread_local! {
    static COUNTED: Cell<u64> = const { Cell::new(0) };
}

/// Multiply-accumulates done by products on this thread so far.
///
/// Tests compare its increase with what a program says it costs.
pub fn counted_macs() -> u64 {
    COUNTED.get()
}

/// Adds to this thread's count; for kernels that multiply outside [`matmul`].
#[inline(always)]
pub(crate) fn count_macs(macs: usize) {
    COUNTED.set(COUNTED.get() + macs as u64);
}

/// A strided matrix: element `(i, j)` is at `pointer + i * row + j * col`.
#[derive(Clone, Copy)]
pub struct Strided<P> {
    pub pointer: P,
    pub row: usize,
    pub col: usize,
}

impl<T> Strided<*const T> {
    /// Row-major with `row` elements from one row to the next.
    #[inline(always)]
    pub fn row_major(pointer: *const T, row: usize) -> Self {
        Self { pointer, row, col: 1 }
    }

    /// The transpose.
    #[inline(always)]
    pub fn transposed(self) -> Self {
        Self { pointer: self.pointer, row: self.col, col: self.row }
    }
}

/// Terms of a sum that one pass over the tiles takes: a panel of this many rows and 48 columns is
/// 48 KiB of f32, read at 8 bytes a cycle from the second-level cache.
const TERMS: usize = 256;
/// The same where B lies in panels.
const PANEL_TERMS: usize = 512;

/// `C (+)= A B` with `A: m x k`, `B: k x n`, `C` row-major; `accumulate` keeps what `C` holds.
///
/// Single-threaded: threads share a batch by chunks of rows and weight
/// gradients by tiles, because threaded products of these sizes collapse.
#[derive(Clone, Copy)]
pub struct Product<'a, T> {
    /// m, n and k.
    pub(crate) shape: [usize; 3],
    /// C and the elements from one of its rows to the next.
    pub(crate) c: (*mut T, usize),
    /// Whether the product adds to C.
    pub(crate) accumulate: bool,
    /// A, with any strides.
    pub(crate) a: Strided<*const T>,
    /// B; its rows or its columns must be contiguous.
    pub(crate) b: Strided<*const T>,
    /// The transpose of A, and B, where they were laid out before.
    pub(crate) panels: [Option<Panels<T>>; 2],
    /// Elements between each [`COLUMNS`] columns of A, and of C, and the next: more than none where
    /// they lie in panels themselves. Only where B does, and in f32.
    pub(crate) gaps: [usize; 2],
    /// What is done to C's elements after the last term.
    pub(crate) finish: Option<Finish<'a, T>>,
    /// The same of a gradient; only in f32.
    pub(crate) passage: Option<Passage<T>>,
}

impl<T: Real> Product<'_, T> {
    /// A product of nothing, for what others leave out.
    #[inline(always)]
    pub(crate) fn empty() -> Self {
        let none = Strided { pointer: std::ptr::null(), row: 0, col: 0 };
        Self {
            shape: [0; 3],
            c: (std::ptr::null_mut(), 0),
            accumulate: false,
            a: none,
            b: none,
            panels: [None; 2],
            gaps: [0; 2],
            finish: None,
            passage: None,
        }
    }
}

/// Number type of the factors of matrix products.
///
/// Weights, activations, gradients and all sums keep the executor's number type either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// The executor's own: f32, or f64 in references.
    #[default]
    F32,
    /// bf16 (eight bits of mantissa): the factors of fully connected layers and field mixes,
    /// forward and backward, are rounded to nearest even and their products summed in f32.
    ///
    /// Needs AVX512-BF16; elsewhere, and on f64, the same as [`Precision::F32`].
    Bf16,
}

impl Precision {
    /// Whether this processor has bf16 products.
    pub fn bf16_is_available() -> bool {
        #[cfg(target_arch = "x86_64")]
        let available = bf16::is_available();
        #[cfg(not(target_arch = "x86_64"))]
        let available = false;
        available
    }
}

/// Computes `product`.
///
/// # Safety
/// The three matrices must lie in live allocations and `C` must overlap neither operand;
/// [`Precision::Bf16`] must be available.
#[inline(always)]
pub(crate) unsafe fn matmul<T: Real, S: Simd>(
    simd: S,
    precision: Precision,
    product: Product<'_, T>,
) {
    let [m, n, k] = product.shape;
    debug_assert!(product.gaps == [0; 2] || product.panels[1].is_some(), "gaps without panels");
    count_macs(m * n * k);
    match precision {
        Precision::F32 => simd.vectorize(Run { simd, product }),
        // SAFETY: passed on to the caller.
        Precision::Bf16 => unsafe { T::bf16_product(product) },
    }
}

/// Rows of A, whose terms are `col` apart: row `r` begins at `pointer + (skip + r) / COLUMNS * panel +
/// (skip + r) % COLUMNS * row`.
#[derive(Clone, Copy)]
pub(crate) struct Rows<T> {
    pointer: *const T,
    row: usize,
    col: usize,
    panel: usize,
    skip: usize,
    /// Whether tiles must begin at multiples of their height, as panels do.
    is_aligned: bool,
}

impl<T> Rows<T> {
    /// All rows of a matrix, from `term` on.
    #[inline(always)]
    fn of(a: Strided<*const T>, term: usize) -> Self {
        let pointer = a.pointer.wrapping_add(term * a.col);
        let panel = COLUMNS * a.row;
        Self { pointer, row: a.row, col: a.col, panel, skip: 0, is_aligned: false }
    }

    /// The columns of `panels`, from `term` (a pair of terms in bf16) on.
    #[inline(always)]
    fn of_panels(panels: Panels<T>, term: usize) -> Self {
        let pointer = panels.pointer.wrapping_add(term * COLUMNS);
        let (skip, panel) = (panels.column, panels.stride);
        Self { pointer, row: 1, col: COLUMNS, panel, skip, is_aligned: true }
    }

    /// The same from `terms` terms (pairs of them in bf16) later on.
    #[inline(always)]
    fn later(self, terms: usize) -> Self {
        Self { pointer: self.pointer.wrapping_add(terms * self.col), ..self }
    }

    /// The same from so many elements later on.
    #[inline(always)]
    fn later_by(self, elements: usize) -> Self {
        Self { pointer: self.pointer.wrapping_add(elements), ..self }
    }

    /// First and end row of tile `t` of `m` rows: tiles of nearly equal height, or all but the
    /// last of full height.
    #[inline(always)]
    fn tile(self, t: usize, m: usize, most: usize) -> (usize, usize) {
        let tiles = m.div_ceil(most);
        match self.is_aligned {
            true => (t * most, m.min((t + 1) * most)),
            false => (t * m / tiles, (t + 1) * m / tiles),
        }
    }

    /// A tile from row `r`.
    #[inline(always)]
    fn from(self, r: usize) -> Strided<*const T> {
        let r = self.skip + r;
        let pointer = self.pointer.wrapping_add(r / COLUMNS * self.panel + r % COLUMNS * self.row);
        Strided { pointer, row: self.row, col: self.col }
    }
}

/// A product as a function of its own that has the instruction set.
struct Run<'a, T, S> {
    simd: S,
    product: Product<'a, T>,
}

impl<T: Real, S: Simd> NullaryFnOnce for Run<'_, T, S> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, product: p } = self;
        if S::REGISTER_COUNT >= 32 && p.panels[1].is_none() && dot::suits_registers(&p) {
            // SAFETY: as the caller of `matmul` promises.
            return unsafe {
                dot::product(simd, p);
                if let Some(finish) = p.finish {
                    finish.rows(p.shape, p.c);
                }
            };
        }
        let narrow = exchange::columns(&p);
        let [m, n, k] = p.shape;
        let wide = Product { shape: [m, n - narrow, k], ..p };
        simd.vectorize(Wide { simd, product: wide });
        if narrow > 0 {
            // SAFETY: as above.
            unsafe { exchange::last_columns(simd, p, narrow) };
        }
    }
}

/// All tiles of a product, panel of columns after panel of columns.
struct Wide<'a, T, S> {
    simd: S,
    product: Product<'a, T>,
}

impl<T: Real, S: Simd> NullaryFnOnce for Wide<'_, T, S> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, product: p } = self;
        let [_, n, k] = p.shape;
        let width = T::width::<S>();
        let mut copy = Copied::<T>([[MaybeUninit::uninit(); REGISTERS * BLOCK]; TERMS]);
        let copy = copy.0.as_mut_ptr().cast::<T>();
        let most = if p.panels[1].is_some() { PANEL_TERMS } else { TERMS };
        let terms = even_parts(k, most).next_multiple_of(BLOCK).min(most);
        let mut column = 0;
        while column < n {
            // Not across the end of a panel.
            let left = match p.panels[1] {
                Some(panels) => (n - column).min(COLUMNS - panels.from(column).column),
                None => n - column,
            };
            let registers = match left / width {
                few @ 0..=2 => few,
                4 if p.panels[1].is_none() => 2,
                _ => REGISTERS,
            };
            let tail = if registers == 0 { left } else { 0 };
            let columns = registers * width + tail;
            // No terms still make a pass, which writes zeros.
            let mut term = 0;
            while term < k || term == 0 {
                let count = terms.min(k - term);
                // SAFETY: all of these elements lie within A, B and C, as the caller of `matmul`
                // promises; the copy has room for `TERMS` rows of the widest panel.
                unsafe {
                    let start = p.b.pointer.wrapping_add(term * p.b.row + column * p.b.col);
                    let b = if let Some(panels) = p.panels[1] {
                        let panels = panels.from(column);
                        (panels.pointer.add(term * COLUMNS + panels.column), COLUMNS)
                    } else if p.b.col == 1 {
                        (start, p.b.row)
                    } else {
                        copy_panel(simd, (start, p.b.col), [count, columns], copy);
                        (copy.cast_const(), COLUMNS)
                    };
                    let accumulate = p.accumulate || term > 0;
                    let last = term + count >= k;
                    let finish = p.finish.filter(|_| last).map(|finish| finish.of(column));
                    let start = column + column / COLUMNS * p.gaps[1];
                    let passage = p.passage.filter(|_| last).map(|p| p.from(start, column));
                    let [gap, _] = p.gaps;
                    let ahead = if gap > 0 { COLUMNS - term % COLUMNS } else { count };
                    let panel = Panel {
                        k: count,
                        b,
                        c_row: p.c.1,
                        tail,
                        accumulate,
                        ahead,
                        gap,
                        finish,
                        passage,
                    };
                    let a = match p.panels[0] {
                        Some(panels) => Rows::of_panels(panels, term),
                        None => Rows::of(p.a, term).later_by(term / COLUMNS * gap),
                    };
                    let c = p.c.0.add(start);
                    match registers {
                        0 => rows::<T, S, 1, true>(simd, p.shape[0], panel, a, c),
                        1 => rows::<T, S, 1, false>(simd, p.shape[0], panel, a, c),
                        2 => rows::<T, S, 2, false>(simd, p.shape[0], panel, a, c),
                        _ => rows::<T, S, REGISTERS, false>(simd, p.shape[0], panel, a, c),
                    }
                }
                term += terms;
            }
            column += columns;
        }
    }
}

/// Memory for a panel of B, aligned to a cache line.
#[repr(align(64))]
struct Copied<T>([[MaybeUninit<T>; REGISTERS * BLOCK]; TERMS]);

/// Size of the parts when `whole` is cut into equal parts of at most `most`.
#[inline(always)]
fn even_parts(whole: usize, most: usize) -> usize {
    whole.div_ceil(whole.div_ceil(most).max(1)).max(1)
}

/// All rows of A and C against one panel, in tiles of nearly equal height.
///
/// # Safety
/// As for [`tile::run`].
#[inline(always)]
unsafe fn rows<T: Real, S: Simd, const V: usize, const TAIL: bool>(
    simd: S,
    m: usize,
    panel: Panel<T>,
    a: Rows<T>,
    c: *mut T,
) {
    let most = most_rows::<S>();
    for t in 0..m.div_ceil(most) {
        let (first, end) = a.tile(t, m, most);
        // SAFETY: rows `first .. end`.
        unsafe {
            let (a, start) = (a.from(first), first * panel.c_row);
            let passage = panel.passage.map(|passage| passage.from(start, 0));
            let panel = Panel { passage, ..panel };
            tile::run::<T, S, V, TAIL>(simd, panel, end - first, a, c.add(start));
        }
    }
}

/// Writes `terms` rows of `columns` columns, whose terms are contiguous in memory and whose
/// columns are `stride` apart, as rows of `REGISTERS * BLOCK` elements.
///
/// # Safety
/// The source must have these elements and the target this many rows.
#[inline(always)]
unsafe fn copy_panel<T: Real, S: Simd>(
    simd: S,
    (source, stride): (*const T, usize),
    [terms, columns]: [usize; 2],
    target: *mut T,
) {
    const ROW: usize = REGISTERS * BLOCK;
    for column in (0..columns).step_by(BLOCK) {
        let whole = if column + BLOCK <= columns { terms / BLOCK * BLOCK } else { 0 };
        for term in (0..whole).step_by(BLOCK) {
            // SAFETY: a block of sixteen by sixteen elements of both.
            unsafe {
                let from = (source.add(column * stride + term), stride);
                T::transpose(simd, from, (target.add(term * ROW + column), ROW));
            }
        }
        for c in column..columns.min(column + BLOCK) {
            for term in whole..terms {
                // SAFETY: one element of each.
                unsafe { *target.add(term * ROW + c) = *source.add(c * stride + term) };
            }
        }
    }
}
