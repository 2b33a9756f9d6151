//! Gradients of table rows: summed over equal ids, then applied.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{Batch, Executor, Model};
use crate::Real;
use crate::chunk::{slice, slice_mut};
use crate::memory::prefetch_rows;
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
    /// Distinct rows in the order of their first gradients.
    pub ids: Vec<u32>,
    /// Which of `ids` each gradient is of.
    owners: Vec<u32>,
    /// A hash table of the places of `ids`.
    slots: Vec<u32>,
    pub sums: Vec<T>,
}

/// A slot of no row.
const FREE: u32 = u32::MAX;

impl<T> TouchedRows<T> {
    fn new() -> Self {
        let (sources, ids, owners, slots) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { table: 0, sources, dim: 0, ids, owners, slots, sums: Vec::new() }
    }

    /// Finds the distinct rows and which gradient is whose, in the order of the gradients through
    /// all sources.
    ///
    /// At most half of the slots are taken, and a row takes the first free one from where
    /// multiplication puts it (Knuth, volume 3, 6.4). Sorting took longer and left the gradients to
    /// be read out of their order.
    fn number(&mut self, batch: &Batch<'_, T>) {
        let Self { sources, dim, ids, owners, slots, sums, .. } = self;
        let count: usize = sources.iter().map(|source| source.ids.of(batch).len()).sum();
        ids.clear();
        ids.reserve(count);
        owners.clear();
        owners.reserve(count);
        sums.reserve((count * *dim).saturating_sub(sums.len()));
        let bits = (2 * count).next_power_of_two().trailing_zeros().max(1);
        slots.clear();
        slots.resize(1 << bits, FREE);
        for &id in sources.iter().flat_map(|source| source.ids.of(batch)) {
            let hash = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut at = (hash >> (64 - bits)) as usize;
            let owner = loop {
                match slots[at] {
                    FREE => {
                        slots[at] = ids.len() as u32;
                        ids.push(id);
                        break slots[at];
                    }
                    owner if ids[owner as usize] == id => break owner,
                    _ => at = (at + 1) & (slots.len() - 1),
                }
            };
            owners.push(owner);
        }
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
        let squares = T::sum_rows(arch, SumRows { touched: self, grads, batch });
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
    /// Asks for these rows, weights and state.
    #[inline(always)]
    fn ask(&self, ids: &[u32]) {
        let stride = self.layout.stride();
        prefetch_rows(self.data.cast_const(), stride, stride, ids);
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
}

impl<T: Real> WithSimd for SumRows<'_, T> {
    type Output = f64;

    /// Sums gradients of equal ids in sample order; returns the sum of squares of the sums.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let Self { touched: t, grads, batch } = self;
        t.number(batch);
        let dim = t.dim;
        t.sums.resize(t.ids.len() * dim, T::ZERO);
        let (mut owners, mut begun) = (t.owners.iter(), 0);
        for source in &t.sources {
            for (i, &owner) in owners.by_ref().take(source.ids.of(batch).len()).enumerate() {
                let owner = owner as usize;
                // SAFETY: the gradient of one sample's field or of one value of a list.
                let grad = unsafe { slice(grads.add(source.offset + i * dim), dim) };
                let sum = &mut t.sums[owner * dim..(owner + 1) * dim];
                if owner < begun {
                    crate::lanes::update(sum, grad, |g, s| s + g);
                } else {
                    crate::lanes::copy(sum, grad);
                    begun += 1;
                }
            }
        }
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

/// Rows that are asked for at a time, while as many move: few, so that their pages are looked up
/// while roots and quotients are at work. A step of a DLRM took 1 to 3 % longer with 64.
const ASKED: usize = 8;

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
            if i.is_multiple_of(ASKED) {
                let from = if i == 0 { 0 } else { i + ASKED };
                let ids = touched.ids.get(from..).unwrap_or_default();
                target.ask(&ids[..ids.len().min(i + 2 * ASKED - from)]);
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
    pub(super) fn list_tables(&mut self, program: &Program) {
        for op in &program.ops {
            match op {
                Op::Embedding(op) if program.buffer(op.out).read => {
                    let buffer = *program.buffer(op.out);
                    for f in 0..program.width(op.out) {
                        let offset = buffer.offset + f * buffer.stride;
                        let source = Source { offset, ids: SourceIds::Field(f) };
                        self.add_source(op.first_table + f, op.dim, source);
                    }
                }
                Op::JaggedEmbedding(op) if program.buffer(op.out).read => {
                    let offset = program.buffer(op.out).offset;
                    let source = Source { offset, ids: SourceIds::List(op.list) };
                    self.add_source(op.table, op.dim, source);
                }
                _ => {}
            }
        }
        self.table_squares.clear();
        self.table_squares.resize(self.n_touched, 0.0);
    }

    /// Notes that gradients of a table's rows lie in `source`.
    fn add_source(&mut self, table: usize, dim: usize, source: Source) {
        let known = self.touched[..self.n_touched].iter().position(|t| t.table == table);
        let at = known.unwrap_or(self.n_touched);
        if known.is_none() {
            if self.n_touched == self.touched.len() {
                self.touched.push(TouchedRows::new());
            }
            let touched = &mut self.touched[at];
            touched.table = table;
            touched.dim = dim;
            touched.sources.clear();
            self.n_touched += 1;
        }
        self.touched[at].sources.push(source);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::JaggedIds;
    use palmette_random::{Draw, stream};

    #[test]
    fn rows_are_numbered_by_their_first_gradients() {
        let mut rng = stream(5, "test/number", 0);
        let mut touched = TouchedRows::<f32>::new();
        // Few ids and many, and the largest of them.
        for (rows, most) in [(1, 1), (7, 3), (300, 40), (300, u32::MAX), (1024, 5000)] {
            let mut draw = |count: usize| -> Vec<u32> {
                (0..count).map(|_| rng.below(u64::from(most)) as u32).collect()
            };
            let (ids, list) = (draw(2 * rows), draw(rows / 2));
            let offsets = [0, list.len()];
            let batch = Batch {
                rows,
                dense: &[],
                ids: &ids,
                labels: &[],
                weights: &[],
                lists: &[JaggedIds { offsets: &offsets, ids: &list }],
            };
            let sources = [SourceIds::Field(1), SourceIds::List(0), SourceIds::Field(0)];
            touched.sources = sources.map(|ids| Source { offset: 0, ids }).to_vec();
            touched.number(&batch);
            let all = [&ids[rows..], &list, &ids[..rows]].concat();
            let mut distinct: Vec<u32> = Vec::new();
            let owners: Vec<u32> = all
                .iter()
                .map(|id| match distinct.iter().position(|known| known == id) {
                    Some(owner) => owner as u32,
                    None => {
                        distinct.push(*id);
                        distinct.len() as u32 - 1
                    }
                })
                .collect();
            assert_eq!(touched.ids, distinct, "{rows} rows below {most}");
            assert_eq!(touched.owners, owners, "{rows} rows below {most}");
        }
    }
}
