//! Gradients of table rows: summed over equal ids, then applied.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Batch, Executor, Model, Shared};
use crate::Real;
use crate::chunk::{slice, slice_mut};
use crate::ops::Op;
use crate::optimizer::Rule;
use crate::program::Program;

/// The distinct rows that a batch touched in one table, and their summed gradients.
pub(super) struct TouchedRows<T> {
    pub table: usize,
    pub buffer_field: (usize, usize),
    pub dim: usize,
    pub keys: Vec<u64>,
    pub ids: Vec<u32>,
    pub sums: Vec<T>,
}

/// Sums one table's gradients.
pub struct SumRows<'a, T> {
    touched: &'a mut TouchedRows<T>,
    grads: *const T,
    ids: &'a [u32],
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
        crate::lanes::sum_of_squares(&t.sums)
    }
}

/// Moves the touched rows of one table.
pub struct UpdateRows<'a, T> {
    touched: &'a TouchedRows<T>,
    table: *mut T,
    stride: usize,
    rule: Rule<T>,
    scale: T,
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

impl<T: Real> Executor<T> {
    pub(super) fn sum_table_rows(&mut self, program: &Program, batch: &Batch<'_, T>) {
        for op in &program.ops {
            let Op::Embedding(op) = op else { continue };
            let buffer = program.buffer(op.out);
            if !buffer.read {
                continue;
            }
            for f in 0..program.width(op.out) {
                if self.n_touched == self.touched.len() {
                    self.touched.push(TouchedRows {
                        table: 0,
                        buffer_field: (0, 0),
                        dim: 0,
                        keys: Vec::new(),
                        ids: Vec::new(),
                        sums: Vec::new(),
                    });
                }
                let touched = &mut self.touched[self.n_touched];
                touched.table = op.first_table + f;
                touched.buffer_field = (buffer.offset + f * buffer.stride, f);
                touched.dim = op.dim;
                touched.keys.reserve(batch.rows);
                touched.ids.reserve(batch.rows);
                touched.sums.reserve(batch.rows * op.dim);
                self.n_touched += 1;
            }
        }
        self.table_squares.resize(self.touched.len(), 0.0);
        let grads = Shared(self.grads.as_mut_slice().as_mut_ptr());
        let (arch, clock) = (self.arch, &self.clock);
        let touched = &mut self.touched[..self.n_touched];
        touched.par_iter_mut().zip(&mut self.table_squares).with_max_len(1).for_each(
            |(touched, squares)| {
                let (offset, field) = touched.buffer_field;
                let ids = &batch.ids[field * batch.rows..(field + 1) * batch.rows];
                // SAFETY: phase one is over; the gradients are read only.
                let grads = unsafe { grads.get().add(offset) }.cast_const();
                let start = clock.start();
                *squares = T::sum_rows(arch, SumRows { touched, grads, ids });
                clock.stop(start, 2);
            },
        );
    }

    /// Moves the touched rows of all tables.
    pub(super) fn update_rows(&mut self, model: &mut Model<T>, rule: Rule<T>, scale: T) {
        let (arch, clock) = (self.arch, &self.clock);
        let tables = Shared(model.tables.tables.as_mut_ptr());
        self.touched[..self.n_touched].par_iter().with_max_len(1).for_each(|touched| {
            // SAFETY: every touched entry names another table (`Uses::check_gradients`).
            let table = unsafe { &mut *tables.get().add(touched.table) };
            let stride = table.stride();
            let table = table.data.as_mut_slice().as_mut_ptr();
            let start = clock.start();
            T::update_rows(arch, UpdateRows { touched, table, stride, rule, scale });
            clock.stop(start, 2);
        });
    }
}
