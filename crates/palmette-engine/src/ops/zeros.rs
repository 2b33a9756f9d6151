//! A constant zero.

use pulp::Simd;

use crate::Real;
use crate::chunk::{Chunk, slice_mut};
use crate::program::{BufferId, Extent, Program, Span};

/// `y = 0`: the output of a block whose operators are all zero operators.
#[derive(Clone, Debug)]
pub struct Zeros {
    /// Output.
    pub out: BufferId,
}

impl Zeros {
    pub(crate) fn inputs(&self) -> Span {
        Span::default()
    }

    pub(crate) fn macs(&self, _: &Program) -> u64 {
        0
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        match chunk.program.extent(self.out) {
            Extent::Rows { width } => {
                let (y, stride) = chunk.rows_of(self.out);
                for r in 0..chunk.rows {
                    // SAFETY: row `r` of this chunk.
                    unsafe { slice_mut(y.add(r * stride), width) }.fill(T::ZERO);
                }
            }
            Extent::Fields { fields, dim } => {
                let (y, stride) = chunk.fields_of(self.out, dim);
                for f in 0..fields {
                    // SAFETY: this chunk's rows of field `f`.
                    unsafe { slice_mut(y.add(f * stride), chunk.rows * dim) }.fill(T::ZERO);
                }
            }
            Extent::Jagged { .. } => unreachable!("the builder has no zeros of a list"),
        }
    }

    pub(crate) fn backward<T: Real, S: Simd>(&self, _: S, _: &Chunk<'_, T>) {}
}
