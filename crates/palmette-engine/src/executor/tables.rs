//! Gradients of table rows: summed over equal ids, then applied.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Batch, Executor, Model, Shared};
use crate::Real;
use crate::chunk::{slice, slice_mut};
use crate::memory::prefetch;
use crate::ops::Op;
use crate::optimizer::Rule;
use crate::program::Program;
use crate::tables::{Rounding, RowLayout, TableStorage};

/// Where gradients of table rows come from.
#[derive(Clone, Copy)]
pub(super) struct Source {
    /// Offset of the gradients in their arena.
    offset: usize,
    ids: SourceIds,
}

/// The ids that go with the gradients.
#[derive(Clone, Copy)]
enum SourceIds {
    Field(usize),
    List(usize),
}

impl SourceIds {
    fn of<'a, T>(self, batch: &Batch<'a, T>) -> &'a [u32] {
        match self {
            SourceIds::Field(field) => &batch.ids[field * batch.rows..(field + 1) * batch.rows],
            SourceIds::List(list) => batch.lists[list].ids,
        }
    }
}

/// The distinct rows that a batch touched in one table, and their summed gradients.
pub(super) struct TouchedRows<T> {
    pub table: usize,
    /// A field, lists that share its table, or both.
    sources: Vec<Source>,
    pub dim: usize,
    pub keys: Vec<u64>,
    pub ids: Vec<u32>,
    pub sums: Vec<T>,
}

/// Sums one table's gradients.
pub struct SumRows<'a, T> {
    touched: &'a mut TouchedRows<T>,
    grads: *const T,
    batch: &'a Batch<'a, T>,
}

impl<T: Real> WithSimd for SumRows<'_, T> {
    type Output = f64;

    /// Sums gradients of equal ids in sample order; returns the sum of squares of the sums.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let t = self.touched;
        t.keys.clear();
        // Gradients are numbered through all sources: equal ids are summed in that order.
        for source in &t.sources {
            let first = t.keys.len() as u64;
            let ids = source.ids.of(self.batch).iter().zip(first..);
            t.keys.extend(ids.map(|(&id, place)| u64::from(id) << 32 | place));
        }
        t.keys.sort_unstable();
        t.ids.clear();
        t.sums.clear();
        for &key in &t.keys {
            let (id, mut place) = ((key >> 32) as u32, (key & 0xffff_ffff) as usize);
            let mut offset = 0;
            for source in &t.sources {
                let count = source.ids.of(self.batch).len();
                offset = source.offset;
                if place < count {
                    break;
                }
                place -= count;
            }
            // SAFETY: the gradient of one sample's field or of one value of a list.
            let grad = unsafe { slice(self.grads.add(offset + place * t.dim), t.dim) };
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
    layout: RowLayout,
    rounding_key: u64,
    rule: Rule<T>,
    scale: T,
}

/// Rows that are asked for ahead: a table's next row is in no cache, and nothing guesses where it is.
const AHEAD: usize = 8;

/// Weights that are widened at a time.
const WIDENED: usize = 64;

impl<T: Real> WithSimd for UpdateRows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { touched, table, layout, rounding_key: key, rule, scale } = self;
        let (dim, stride) = (layout.dim, layout.stride());
        let mut widened = [T::ZERO; WIDENED];
        for (i, (&id, grads)) in touched.ids.iter().zip(touched.sums.chunks_exact(dim)).enumerate()
        {
            if let Some(&next) = touched.ids.get(i + AHEAD) {
                prefetch(table.wrapping_add(next as usize * stride), stride);
            }
            // SAFETY: ids were checked against the table; its rows are touched by this task alone.
            let row = unsafe { slice_mut(table.add(id as usize * stride), stride) };
            let (weights, state) = row.split_at_mut(layout.weights);
            let (rule, state) = match layout.row_wise {
                true => (rule.of_row(state, grads, scale), &mut [][..]),
                false => (rule, state),
            };
            let (first, second) = state.split_at_mut(dim.min(state.len()));
            if layout.storage == TableStorage::Full {
                rule.apply(weights, first, second, grads, scale);
                continue;
            }
            let rounding = Some(Rounding { key, row: id });
            for start in (0..dim).step_by(WIDENED) {
                let end = dim.min(start + WIDENED);
                let widened = &mut widened[..end - start];
                layout.read(weights, start, widened);
                let [first, second] = [&mut *first, &mut *second]
                    .map(|state| if state.is_empty() { state } else { &mut state[start..end] });
                rule.apply(widened, first, second, &grads[start..end], scale);
                layout.write(weights, start, widened, rounding);
            }
        }
    }
}

impl<T: Real> Executor<T> {
    pub(super) fn sum_table_rows(&mut self, program: &Program, batch: &Batch<'_, T>) {
        for op in &program.ops {
            match op {
                Op::Embedding(op) if program.buffer(op.out).read => {
                    let buffer = *program.buffer(op.out);
                    for f in 0..program.width(op.out) {
                        let offset = buffer.offset + f * buffer.stride;
                        let source = Source { offset, ids: SourceIds::Field(f) };
                        self.add_source(op.first_table + f, op.dim, source, batch);
                    }
                }
                Op::JaggedEmbedding(op) if program.buffer(op.out).read => {
                    let offset = program.buffer(op.out).offset;
                    let source = Source { offset, ids: SourceIds::List(op.list) };
                    self.add_source(op.table, op.dim, source, batch);
                }
                _ => {}
            }
        }
        self.table_squares.resize(self.touched.len(), 0.0);
        let grads = Shared(self.grads.as_mut_slice().as_mut_ptr());
        let (arch, clock) = (self.arch, &self.clock);
        let touched = &mut self.touched[..self.n_touched];
        touched.par_iter_mut().zip(&mut self.table_squares).with_max_len(1).for_each(
            |(touched, squares)| {
                // Phase one is over; the gradients are read only.
                let grads = grads.get().cast_const();
                let start = clock.start();
                *squares = T::sum_rows(arch, SumRows { touched, grads, batch });
                clock.stop(start, 2);
            },
        );
    }

    /// Notes that gradients of a table's rows lie in `source`.
    fn add_source(&mut self, table: usize, dim: usize, source: Source, batch: &Batch<'_, T>) {
        let known = self.touched[..self.n_touched].iter().position(|t| t.table == table);
        let at = known.unwrap_or(self.n_touched);
        if known.is_none() {
            if self.n_touched == self.touched.len() {
                self.touched.push(TouchedRows {
                    table: 0,
                    sources: Vec::new(),
                    dim: 0,
                    keys: Vec::new(),
                    ids: Vec::new(),
                    sums: Vec::new(),
                });
            }
            let touched = &mut self.touched[at];
            touched.table = table;
            touched.dim = dim;
            touched.sources.clear();
            self.n_touched += 1;
        }
        let touched = &mut self.touched[at];
        touched.sources.push(source);
        let count: usize = touched.sources.iter().map(|s| s.ids.of(batch).len()).sum();
        touched.keys.clear();
        touched.ids.clear();
        touched.sums.clear();
        touched.keys.reserve(count);
        touched.ids.reserve(count);
        touched.sums.reserve(count * dim);
    }

    /// Moves the touched rows of all tables.
    pub(super) fn update_rows(&mut self, model: &mut Model<T>, rule: Rule<T>, step: u64, scale: T) {
        let (arch, clock) = (self.arch, &self.clock);
        let tables = Shared(model.tables.tables.as_mut_ptr());
        self.touched[..self.n_touched].par_iter().with_max_len(1).for_each(|touched| {
            // SAFETY: every touched entry names another table (`Uses::check_gradients`).
            let table = unsafe { &mut *tables.get().add(touched.table) };
            let layout = table.layout;
            let rounding_key = match layout.storage {
                TableStorage::Full => 0,
                TableStorage::F16 | TableStorage::Bf16 => table.rounding_key(step),
            };
            let table = table.data.as_mut_slice().as_mut_ptr();
            let start = clock.start();
            T::update_rows(arch, UpdateRows { touched, table, layout, rounding_key, rule, scale });
            clock.stop(start, 2);
        });
    }
}
