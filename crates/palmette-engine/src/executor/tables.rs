//! Gradients of table rows: summed over equal ids, then applied.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{Batch, Executor, Model};
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

impl<T> TouchedRows<T> {
    /// Where the gradient lies that has this place among those of all sources.
    #[inline(always)]
    fn offset(&self, batch: &Batch<'_, T>, mut place: usize) -> usize {
        let mut start = 0;
        for source in &self.sources {
            let count = source.ids.of(batch).len();
            start = source.offset;
            if place < count {
                break;
            }
            place -= count;
        }
        start + place * self.dim
    }
}

impl<T: Real> TouchedRows<T> {
    /// Sums the gradients, moves the rows if they are to move at once, and returns the sum of
    /// squares of the sums.
    pub fn sum(
        &mut self,
        arch: Arch,
        grads: *const T,
        batch: &Batch<'_, T>,
        at_once: Option<&RowMover<T>>,
    ) -> f64 {
        let target = at_once.map(|mover| mover.targets[self.table]);
        let squares = T::sum_rows(arch, SumRows { touched: self, grads, batch, target });
        if let Some(mover) = at_once {
            self.move_rows(arch, mover);
        }
        squares
    }

    fn move_rows(&self, arch: Arch, mover: &RowMover<T>) {
        let &RowMover { ref targets, rule, scale } = mover;
        let target = targets[self.table];
        T::update_rows(arch, UpdateRows { touched: self, target, rule, scale });
    }
}

/// Where the rows of a table lie.
#[derive(Clone, Copy)]
pub struct Target<T> {
    data: *mut T,
    layout: RowLayout,
    rounding_key: u64,
}

impl<T: Real> Target<T> {
    /// Asks for a whole row.
    #[inline(always)]
    fn ask(&self, id: u32) {
        let stride = self.layout.stride();
        prefetch(self.data.wrapping_add(id as usize * stride), stride);
    }
}

/// Moves rows of tables along gradients.
pub(super) struct RowMover<T> {
    targets: Vec<Target<T>>,
    rule: Rule<T>,
    scale: T,
}

// SAFETY: every touched entry names another table (`Uses::check_gradients`), and a table's rows are
// moved by one task.
unsafe impl<T: Send> Send for RowMover<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for RowMover<T> {}

impl<T: Real> RowMover<T> {
    /// Along `scale` times the gradients.
    pub fn new(model: &mut Model<T>, rule: Rule<T>, step: u64, scale: T) -> Self {
        let targets = model.tables.tables.iter_mut().map(|table| {
            let layout = table.layout;
            let rounding_key = match layout.storage {
                TableStorage::Full => 0,
                TableStorage::F16 | TableStorage::Bf16 => table.rounding_key(step),
            };
            Target { data: table.data.as_mut_slice().as_mut_ptr(), layout, rounding_key }
        });
        Self { targets: targets.collect(), rule, scale }
    }
}

/// Sums one table's gradients.
pub struct SumRows<'a, T> {
    touched: &'a mut TouchedRows<T>,
    grads: *const T,
    batch: &'a Batch<'a, T>,
    /// The rows, where they move next.
    target: Option<Target<T>>,
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
        let dim = t.dim;
        let mut sums = std::mem::take(&mut t.sums);
        sums.resize(t.keys.len() * dim, T::ZERO);
        let mut end = 0;
        for (i, &key) in t.keys.iter().enumerate() {
            if let Some(&next) = t.keys.get(i + AHEAD) {
                let offset = t.offset(self.batch, (next & 0xffff_ffff) as usize);
                prefetch(self.grads.wrapping_add(offset), dim);
                if let Some(target) = &self.target {
                    target.ask((next >> 32) as u32);
                }
            }
            let id = (key >> 32) as u32;
            let offset = t.offset(self.batch, (key & 0xffff_ffff) as usize);
            // SAFETY: the gradient of one sample's field or of one value of a list.
            let grad = unsafe { slice(self.grads.add(offset), dim) };
            if t.ids.last() == Some(&id) {
                crate::lanes::update(&mut sums[end - dim..end], grad, |g, s| s + g);
            } else {
                t.ids.push(id);
                crate::lanes::copy(&mut sums[end..end + dim], grad);
                end += dim;
            }
        }
        sums.truncate(end);
        t.sums = sums;
        crate::lanes::sum_of_squares(&t.sums)
    }
}

/// Moves the touched rows of one table.
pub struct UpdateRows<'a, T> {
    touched: &'a TouchedRows<T>,
    target: Target<T>,
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
        let Self { touched, target, rule, scale } = self;
        let Target { data, layout, rounding_key: key } = target;
        let (dim, stride) = (layout.dim, layout.stride());
        let mut widened = [T::ZERO; WIDENED];
        for (i, (&id, grads)) in touched.ids.iter().zip(touched.sums.chunks_exact(dim)).enumerate()
        {
            if let Some(&next) = touched.ids.get(i + AHEAD) {
                target.ask(next);
            }
            // SAFETY: ids were checked against the table; its rows are touched by this task alone.
            let row = unsafe { slice_mut(data.add(id as usize * stride), stride) };
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
    /// Lists the tables that a batch touches.
    pub(super) fn list_tables(&mut self, program: &Program, batch: &Batch<'_, T>) {
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
        self.table_squares.clear();
        self.table_squares.resize(self.n_touched, 0.0);
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
    pub(super) fn update_rows(&self, mover: &RowMover<T>) {
        let clock = &self.clock;
        self.touched[..self.n_touched].par_iter().with_max_len(1).for_each(|touched| {
            let start = clock.start();
            touched.move_rows(self.arch, mover);
            clock.stop(start, 2);
        });
    }
}
