//! Factors laid out for products before they are needed, and read by many of them.

use pulp::{Simd, WithSimd};

use super::{Precision, Strided, copy_panel};
use crate::Real;
use crate::simd::BLOCK;

/// Columns of a panel: three registers of f32.
pub(crate) const COLUMNS: usize = super::REGISTERS * BLOCK;

/// A matrix in panels of [`COLUMNS`] columns, of which each lies in one piece.
///
/// In f32 a panel holds row after row of the matrix ("terms", as the products sum over them). In
/// bf16 it holds pair after pair of neighbouring rows, as one element of four bytes a column.
#[derive(Clone, Copy)]
pub(crate) struct Panels<T> {
    /// The first panel.
    pub pointer: *const T,
    /// Elements from panel to panel.
    pub stride: usize,
    /// The first column that counts, within the first panel.
    pub column: usize,
}

/// Elements of one panel of `terms` terms; of bf16 whole registers of pairs.
#[inline(always)]
pub(crate) fn panel_len(precision: Precision, terms: usize) -> usize {
    match precision {
        Precision::F32 => terms * COLUMNS,
        Precision::Bf16 => terms.div_ceil(2 * BLOCK) * BLOCK * COLUMNS,
    }
}

/// Room for all panels of a matrix in either precision.
pub(crate) fn panels_len(terms: usize, columns: usize) -> usize {
    let panels = columns.div_ceil(COLUMNS) * COLUMNS;
    terms.next_multiple_of(BLOCK).saturating_mul(panels)
}

impl<T> Panels<T> {
    /// Panels of a matrix with `terms` terms.
    pub fn new(pointer: *const T, precision: Precision, terms: usize) -> Self {
        Self { pointer, stride: panel_len(precision, terms), column: 0 }
    }

    /// The same from `column` on.
    #[inline(always)]
    pub fn from(self, column: usize) -> Self {
        let column = self.column + column;
        let pointer = self.pointer.wrapping_add(column / COLUMNS * self.stride);
        Self { pointer, column: column % COLUMNS, ..self }
    }
}

/// Lays `shape[0]` terms of `shape[1]` columns of `source` out in panels `target.1` elements apart.
///
/// # Safety
/// The source, whose rows or columns must be contiguous, and the panels must lie in live
/// allocations; [`Precision::Bf16`] must be available.
#[inline(always)]
pub(crate) unsafe fn lay_out<T: Real, S: Simd>(
    simd: S,
    precision: Precision,
    source: Strided<*const T>,
    [terms, columns]: [usize; 2],
    (target, stride): (*mut T, usize),
) {
    for column in (0..columns).step_by(COLUMNS) {
        let shape = [terms, COLUMNS.min(columns - column)];
        // SAFETY: these columns of the source, one panel of the target; the rest is passed on.
        unsafe {
            let pointer = source.pointer.add(column * source.col);
            let target = target.add(column / COLUMNS * stride);
            match precision {
                Precision::F32 if source.col == 1 => {
                    copy_rows(simd, (pointer, source.row), shape, target);
                }
                Precision::F32 => copy_panel(simd, (pointer, source.col), shape, target),
                Precision::Bf16 => T::bf16_panel(Strided { pointer, ..source }, shape, target),
            }
        }
    }
}

/// Copies `terms` rows of `columns` elements, at most a panel's.
///
/// # Safety
/// The source must have these elements, the target a panel of this many rows.
#[inline(always)]
unsafe fn copy_rows<T: Real, S: Simd>(
    simd: S,
    (source, stride): (*const T, usize),
    [terms, columns]: [usize; 2],
    target: *mut T,
) {
    let width = T::width::<S>();
    let whole = columns / width * width;
    for term in 0..terms {
        let (from, to) = (source.wrapping_add(term * stride), target.wrapping_add(term * COLUMNS));
        for column in (0..whole).step_by(width) {
            // SAFETY: a register of both rows.
            unsafe { T::store(simd, to.add(column), T::load(simd, from.add(column))) };
        }
        if whole < columns {
            let rest = columns - whole;
            // SAFETY: the last columns of both rows.
            unsafe {
                let last = T::load_first(simd, from.add(whole), rest);
                T::store_first(simd, to.add(whole), rest, last);
            }
        }
    }
}

/// [`lay_out`] as a task of its own.
pub struct LayOut<T> {
    pub(crate) precision: Precision,
    pub(crate) source: Strided<*const T>,
    pub(crate) shape: [usize; 2],
    pub(crate) target: (*mut T, usize),
}

impl<T: Real> WithSimd for LayOut<T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { precision, source, shape, target } = self;
        // SAFETY: whoever made the task promised it.
        unsafe { lay_out(simd, precision, source, shape, target) };
    }
}
