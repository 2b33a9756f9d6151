//! Products of all pairs of fields of two tensors.

use pulp::Simd;

use crate::Real;
use crate::chunk::{Chunk, slice, slice_mut};
use crate::lanes::put;
use crate::program::{BufferId, Program, Span};

/// `z[i m + j, r, e] = x[i, r, e] y[j, r, e]` (the outer products of xDeepFM's
/// compressed interaction network, Lian et al. 2018, equation 6).
///
/// Shapes: `x: [n, rows, dim]`, `y: [m, rows, dim]`, `z: [n m, rows, dim]`.
#[derive(Clone, Debug)]
pub struct Outer {
    pub(crate) inputs: Span,
    /// Output.
    pub out: BufferId,
    /// Channels.
    pub dim: usize,
}

impl Outer {
    pub(crate) fn inputs(&self) -> Span {
        self.inputs
    }

    pub(crate) fn macs(&self, _: &Program) -> u64 {
        0
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let uses = &chunk.program.inputs[self.inputs.range()];
        let len = chunk.rows * self.dim;
        let (x, x_stride) = chunk.fields_of(uses[0].buffer, self.dim);
        let (y, y_stride) = chunk.fields_of(uses[1].buffer, self.dim);
        let (z, z_stride) = chunk.fields_of(self.out, self.dim);
        let m = chunk.program.width(uses[1].buffer);
        for i in 0..chunk.program.width(uses[0].buffer) {
            for j in 0..m {
                // SAFETY: this chunk's rows of one field in each buffer; the output is no input.
                let (x, y, z) = unsafe {
                    (
                        slice(x.add(i * x_stride), len),
                        slice(y.add(j * y_stride), len),
                        slice_mut(z.add((i * m + j) * z_stride), len),
                    )
                };
                for ((z, &x), &y) in z.iter_mut().zip(x).zip(y) {
                    *z = x * y;
                }
            }
        }
    }

    /// `dx_i = sum_j dz_ij y_j`, `dy_j = sum_i dz_ij x_i`.
    #[inline(always)]
    pub(crate) fn backward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let uses = &chunk.program.inputs[self.inputs.range()];
        let len = chunk.rows * self.dim;
        let (dz, dz_stride) = chunk.field_grads_of(self.out, self.dim);
        let (n, m) = (chunk.program.width(uses[0].buffer), chunk.program.width(uses[1].buffer));
        for (side, (own, other)) in [(n, m), (m, n)].into_iter().enumerate() {
            if !uses[side].grad {
                continue;
            }
            let (dx, dx_stride) = chunk.field_grads_of(uses[side].buffer, self.dim);
            let (y, y_stride) = chunk.fields_of(uses[1 - side].buffer, self.dim);
            for a in 0..own {
                for b in 0..other {
                    let pair = if side == 0 { a * m + b } else { b * m + a };
                    // SAFETY: this chunk's rows of one field in each buffer.
                    let (dx, y, dz) = unsafe {
                        (
                            slice_mut(dx.add(a * dx_stride), len),
                            slice(y.add(b * y_stride), len),
                            slice(dz.add(pair * dz_stride), len),
                        )
                    };
                    for ((dx, &y), &dz) in dx.iter_mut().zip(y).zip(dz) {
                        put(dx, dz * y, uses[side].accumulate || b > 0);
                    }
                }
            }
        }
    }
}
