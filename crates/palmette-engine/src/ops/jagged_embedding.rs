//! Where the lists of a batch enter a program.

use pulp::Simd;

use crate::Real;
use crate::chunk::{Chunk, slice_mut};
use crate::program::{BufferId, Program, Span};

/// Gathers the rows of one table for every value of a list: `y[i, :] = table[ids[i]]`.
///
/// Shapes: `ids: [values]`, `y: [values, dim]`. The table may be that of a field, of an
/// [`Embedding`](super::Embedding); the executor then sums the gradients of both, those of the
/// operator that comes first in the program first.
#[derive(Clone, Debug)]
pub struct JaggedEmbedding {
    /// Output.
    pub out: BufferId,
    /// Index of the list in the batch.
    pub list: usize,
    /// Index of the table among the model's tables.
    pub table: usize,
    /// Channels.
    pub dim: usize,
}

impl JaggedEmbedding {
    pub(crate) fn inputs(&self) -> Span {
        Span::default()
    }

    pub(crate) fn macs(&self, _: &Program) -> u64 {
        0
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let (y, _) = chunk.fields_of(self.out, self.dim);
        let table = chunk.tables.table(self.table);
        for (i, &id) in chunk.list_ids(self.list).iter().enumerate() {
            // SAFETY: value `i` of this chunk.
            let y = unsafe { slice_mut(y.add(i * self.dim), self.dim) };
            table.layout.read(table.stored_row(id as usize), 0, y);
        }
    }

    pub(crate) fn backward<T: Real, S: Simd>(&self, _: S, _: &Chunk<'_, T>) {}
}
