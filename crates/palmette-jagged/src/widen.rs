//! Widening slices to the type of sums, without a copy where there is nothing to widen.

use crate::{Element, Real};

/// A reusable buffer of widened elements.
pub(crate) struct Widened<S> {
    buffer: Vec<S>,
}

impl<S: Real> Widened<S> {
    pub(crate) fn new() -> Self {
        Self { buffer: Vec::new() }
    }

    /// All of a contiguous slice.
    pub(crate) fn all<'a, T: Element<Sum = S>>(&'a mut self, values: &'a [T]) -> &'a [S] {
        if let Some(sums) = T::as_sums(values) {
            return sums;
        }
        self.buffer.clear();
        self.buffer.extend(values.iter().map(|x| x.widen()));
        &self.buffer
    }

    /// `rows` rows of `columns` elements that lie `stride` apart: the slice to use and its stride.
    pub(crate) fn rows<'a, T: Element<Sum = S>>(
        &'a mut self,
        values: &'a [T],
        rows: usize,
        columns: usize,
        stride: usize,
    ) -> (&'a [S], usize) {
        if let Some(sums) = T::as_sums(values) {
            return (sums, stride);
        }
        self.buffer.clear();
        for row in 0..rows {
            let row = &values[row * stride..][..columns];
            self.buffer.extend(row.iter().map(|x| x.widen()));
        }
        (&self.buffer, columns)
    }
}

/// Rounds sums times `factor` into `out`, as many as it holds.
pub(crate) fn narrow_scaled<T: Element>(out: &mut [T], sums: &[T::Sum], factor: T::Sum) {
    for (out, &sum) in out.iter_mut().zip(sums) {
        *out = T::narrow(sum * factor);
    }
}

/// Rounds sums into `out`.
pub(crate) fn narrow_into<T: Element>(out: &mut [T], sums: &[T::Sum]) {
    for (out, &sum) in out.iter_mut().zip(sums) {
        *out = T::narrow(sum);
    }
}
