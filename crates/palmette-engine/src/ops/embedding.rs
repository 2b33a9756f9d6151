//! Where a batch enters a program.

use pulp::Simd;

use crate::Real;
use crate::chunk::{Chunk, slice_mut};
use crate::program::{BufferId, Program, Span};
use crate::tables::Table;

/// Copies the batch's dense values: `y: [rows, nd]`. No gradient flows back.
#[derive(Clone, Debug)]
pub struct DenseInput {
    /// Output.
    pub out: BufferId,
}

impl DenseInput {
    pub(crate) fn inputs(&self) -> Span {
        Span::default()
    }

    pub(crate) fn macs(&self, _: &Program) -> u64 {
        0
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let width = chunk.program.width(self.out);
        let (y, stride) = chunk.rows_of(self.out);
        for r in 0..chunk.rows {
            let start = (chunk.first + r) * width;
            // SAFETY: row `r` of this chunk.
            unsafe { slice_mut(y.add(r * stride), width) }
                .copy_from_slice(&chunk.batch.dense[start..start + width]);
        }
    }

    pub(crate) fn backward<T: Real, S: Simd>(&self, _: S, _: &Chunk<'_, T>) {}
}

/// Gathers rows of tables: `y[f, r, :] = table_{first + f}[ids[f, r]]`.
///
/// Shapes: `ids: [fields, rows]`, `y: [fields, rows, dim]`. The executor sums
/// the gradients of equal rows in sample order and updates those rows alone.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// Output.
    pub out: BufferId,
    /// Index of field 0's table among the model's tables.
    pub first_table: usize,
    /// Channels.
    pub dim: usize,
}

impl Embedding {
    pub(crate) fn inputs(&self) -> Span {
        Span::default()
    }

    pub(crate) fn macs(&self, _: &Program) -> u64 {
        0
    }

    /// The table of field `f`, and which of its rows the chunk gathers.
    #[inline(always)]
    fn rows<'c, T: Real>(&self, chunk: &'c Chunk<'_, T>, f: usize) -> (&'c Table<T>, &'c [u32]) {
        let start = f * chunk.batch.rows + chunk.first;
        let ids = &chunk.batch.ids[start..start + chunk.rows];
        (chunk.tables.table(self.first_table + f), ids)
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let (y, stride) = chunk.fields_of(self.out, self.dim);
        let fields = chunk.program.width(self.out);
        for f in 0..fields {
            let (table, ids) = self.rows(chunk, f);
            if f == 0 {
                table.ask(ids);
            }
            // Most rows are in no cache, and nothing guesses where they are.
            if f + 1 < fields {
                let (next, ids) = self.rows(chunk, f + 1);
                next.ask(ids);
            }
            for (r, &id) in ids.iter().enumerate() {
                // SAFETY: row `r` of field `f` of this chunk.
                let y = unsafe { slice_mut(y.add(f * stride + r * self.dim), self.dim) };
                table.layout.read(table.stored_row(id as usize), 0, y);
            }
        }
    }

    pub(crate) fn backward<T: Real, S: Simd>(&self, _: S, _: &Chunk<'_, T>) {}
}
