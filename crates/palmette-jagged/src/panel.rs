//! A block of rows of one head, filled up to whole registers, and its transpose.

use pulp::{Arch, Simd, WithSimd};

use crate::block::Block;
use crate::registers::LANES;
use crate::{Element, Real};

/// `count` rows of `columns` elements, widened and scaled, in zeros up to multiples of [`LANES`].
pub(crate) struct Panel<S> {
    count: usize,
    columns: usize,
    rows: Vec<S>,
    turned: Vec<S>,
}

impl<S: Real> Panel<S> {
    pub(crate) fn new() -> Self {
        Self { count: 0, columns: 0, rows: Vec::new(), turned: Vec::new() }
    }

    /// Takes `count` rows, `stride` apart, each element times `factor`.
    pub(crate) fn fill<T: Element<Sum = S>>(
        &mut self,
        values: &[T],
        [count, columns, stride]: [usize; 3],
        factor: S,
    ) {
        (self.count, self.columns) = (count, columns);
        let width = columns.next_multiple_of(LANES);
        self.rows.clear();
        self.rows.resize(self.lanes() * width, S::ZERO);
        for (r, row) in self.rows.chunks_exact_mut(width).take(count).enumerate() {
            let values = &values[r * stride..][..columns];
            for (to, from) in row.iter_mut().zip(values) {
                *to = from.widen() * factor;
            }
        }
        self.turned.resize(self.rows.len(), S::ZERO);
        transpose(&self.rows, width, &mut self.turned);
    }

    /// Rows with those that fill up the last register.
    pub(crate) fn lanes(&self) -> usize {
        self.count.next_multiple_of(LANES)
    }

    /// `[count, columns]`, columns filled up.
    pub(crate) fn rows(&self) -> Block<'_, S> {
        let width = self.columns.next_multiple_of(LANES);
        Block::new(&self.rows, self.count, width, width)
    }

    /// `[columns, count]`, rows filled up.
    pub(crate) fn turned(&self) -> Block<'_, S> {
        Block::new(&self.turned, self.columns, self.lanes(), self.lanes())
    }
}

struct Transpose<'a, S> {
    source: &'a [S],
    width: usize,
    target: &'a mut [S],
}

impl<S: Real> WithSimd for Transpose<'_, S> {
    type Output = ();

    #[inline(always)]
    fn with_simd<V: Simd>(self, simd: V) {
        let (width, height) = (self.width, self.source.len() / self.width);
        for r in (0..height).step_by(LANES) {
            for c in (0..width).step_by(LANES) {
                // SAFETY: a block of the source and of the target, whose sizes `transpose` checked.
                unsafe {
                    let from = self.source.as_ptr().add(r * width + c);
                    let to = self.target.as_mut_ptr().add(c * height + r);
                    S::transpose(simd, (from, width), (to, height));
                }
            }
        }
    }
}

/// The transpose of contiguous rows of `width` elements, whose number and width are multiples of
/// [`LANES`].
pub(crate) fn transpose<S: Real>(source: &[S], width: usize, target: &mut [S]) {
    if source.is_empty() {
        return;
    }
    let blocks = width.is_multiple_of(LANES) && source.len().is_multiple_of(width * LANES);
    assert!(blocks && target.len() == source.len(), "{width} columns are no whole blocks");
    Arch::new().dispatch(Transpose { source, width, target });
}
