//! What a layer does to the sums of a product while they are in registers, forward and backward.

use crate::Real;
use crate::chunk::{slice, slice_mut};

/// `c = relu?(c + b?)`, with one element of the bias b a column. What is not a number stays so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finish<'a, T> {
    bias: Option<&'a [T]>,
    least: T,
}

/// What a layer does to the gradient of its output y, the last sums of which a product adds: `c` where
/// y is positive, else 0, and the gradient of the bias `db += sum of the rows of c`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passage<T> {
    /// y, which lies as C does; null where there is no ReLU.
    pub output: *const T,
    /// db; null where there is no bias.
    pub bias: *mut T,
}

impl<T> Passage<T> {
    /// The same from an element of C and a column on.
    #[inline(always)]
    pub(super) fn from(self, element: usize, column: usize) -> Self {
        Self { output: later(self.output, element), bias: later(self.bias, column).cast_mut() }
    }
}

/// `pointer + elements`, or null.
#[inline(always)]
fn later<T>(pointer: *const T, elements: usize) -> *const T {
    if pointer.is_null() { pointer } else { pointer.wrapping_add(elements) }
}

/// [`Finish`] of one panel of columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct TileFinish<T> {
    /// Null where there is none.
    pub bias: *const T,
    /// What is left of smaller sums.
    pub least: T,
}

impl<'a, T: Real> Finish<'a, T> {
    /// A bias, which has as many elements as the product has columns, and a ReLU; nothing where
    /// there is neither.
    pub fn new(bias: Option<&'a [T]>, relu: bool) -> Option<Self> {
        let least = T::from_f64(if relu { 0.0 } else { f64::NEG_INFINITY });
        (bias.is_some() || relu).then_some(Self { bias, least })
    }

    /// The same for the columns from `column` on.
    #[inline(always)]
    pub(super) fn of(self, column: usize) -> TileFinish<T> {
        let bias = self.bias.map_or(std::ptr::null(), |bias| bias.as_ptr().wrapping_add(column));
        TileFinish { bias, least: self.least }
    }

    /// All rows of a product that are in memory already.
    ///
    /// # Safety
    /// C must have these rows and columns.
    #[inline(always)]
    pub(super) unsafe fn rows(self, [m, n, _]: [usize; 3], (c, stride): (*mut T, usize)) {
        let TileFinish { bias, least } = self.of(0);
        for r in 0..m {
            // SAFETY: row `r` of C.
            let row = unsafe { slice_mut(c.add(r * stride), n) };
            if !bias.is_null() {
                // SAFETY: a bias has an element for each column.
                crate::lanes::update(row, unsafe { slice(bias, n) }, |b, z| z + b);
            }
            row.iter_mut().for_each(|z| *z = if *z < least { least } else { *z });
        }
    }
}
