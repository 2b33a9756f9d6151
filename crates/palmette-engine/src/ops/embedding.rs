//! Where a batch enters a program.

use pulp::Simd;

use crate::Real;
use crate::chunk::{Chunk, slice_mut};
use crate::memory::{prefetch, prefetch_to_write};
use crate::program::{BufferId, Program, Span};

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

/// Rows that are asked for ahead: most are in no cache, and nothing guesses where they are.
const AHEAD: usize = 16;

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

    /// Asks for the weights of a row of field `f`.
    #[inline(always)]
    fn ask<T: Real>(&self, chunk: &Chunk<'_, T>, f: usize, id: u32) {
        let row = chunk.tables.table(self.first_table + f).stored_row(id as usize);
        prefetch(row.as_ptr(), self.dim.min(row.len()));
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let (y, stride) = chunk.fields_of(self.out, self.dim);
        let fields = chunk.program.width(self.out);
        for f in 0..fields {
            let table = chunk.tables.table(self.first_table + f);
            let start = f * chunk.batch.rows + chunk.first;
            let ids = &chunk.batch.ids[start..start + chunk.rows];
            for (r, &id) in ids.iter().enumerate() {
                // The next field's first rows are asked for with this field's last.
                match ids.get(r + AHEAD) {
                    Some(&next) => self.ask(chunk, f, next),
                    None if f + 1 < fields && r + AHEAD - chunk.rows < chunk.rows => {
                        let next = start + chunk.batch.rows + r + AHEAD - chunk.rows;
                        self.ask(chunk, f + 1, chunk.batch.ids[next]);
                    }
                    None => {}
                }
                // SAFETY: row `r` of field `f` of this chunk.
                let y = unsafe { slice_mut(y.add(f * stride + r * self.dim), self.dim) };
                prefetch_to_write(y.as_ptr().wrapping_add(AHEAD * self.dim));
                table.layout.read(table.stored_row(id as usize), 0, y);
            }
        }
    }

    pub(crate) fn backward<T: Real, S: Simd>(&self, _: S, _: &Chunk<'_, T>) {}
}
