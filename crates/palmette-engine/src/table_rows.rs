//! Gradients of table rows: summed over equal ids, then applied.

use pulp::{Simd, WithSimd};

use crate::Real;
use crate::chunk::{slice, slice_mut};
use crate::optimizer::Rule;

/// The distinct rows that a batch touched in one table, and their summed gradients.
pub(crate) struct TouchedRows<T> {
    pub table: usize,
    pub buffer_field: (usize, usize),
    pub dim: usize,
    pub keys: Vec<u64>,
    pub ids: Vec<u32>,
    pub sums: Vec<T>,
}

pub(crate) struct SumRows<'a, T> {
    pub touched: &'a mut TouchedRows<T>,
    pub grads: *const T,
    pub ids: &'a [u32],
}

impl<T: Real> WithSimd for SumRows<'_, T> {
    type Output = f64;

    /// Sums gradients of equal ids in sample order; returns the sum of squares of the sums.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let t = self.touched;
        t.keys.clear();
        t.keys.extend(self.ids.iter().enumerate().map(|(r, &id)| u64::from(id) << 32 | r as u64));
        t.keys.sort_unstable();
        t.ids.clear();
        t.sums.clear();
        for &key in &t.keys {
            let (id, row) = ((key >> 32) as u32, (key & 0xffff_ffff) as usize);
            // SAFETY: the gradient of one sample's field.
            let grad = unsafe { slice(self.grads.add(row * t.dim), t.dim) };
            if t.ids.last() == Some(&id) {
                let start = t.sums.len() - t.dim;
                crate::lanes::update(&mut t.sums[start..], grad, |g, s| s + g);
            } else {
                t.ids.push(id);
                t.sums.extend_from_slice(grad);
            }
        }
        crate::executor::sum_of_squares(&t.sums)
    }
}

pub(crate) struct UpdateRows<'a, T> {
    pub touched: &'a TouchedRows<T>,
    pub table: *mut T,
    pub stride: usize,
    pub rule: Rule<T>,
    pub scale: T,
}

impl<T: Real> WithSimd for UpdateRows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let dim = self.touched.dim;
        for (&id, grads) in self.touched.ids.iter().zip(self.touched.sums.chunks_exact(dim)) {
            // SAFETY: ids were checked against the table; its rows are touched by this task alone.
            let row = unsafe { slice_mut(self.table.add(id as usize * self.stride), self.stride) };
            let (weights, state) = row.split_at_mut(dim);
            let (first, second) = state.split_at_mut(dim.min(state.len()));
            self.rule.apply(weights, first, second, grads, self.scale);
        }
    }
}
