//! Sigmoid gate.

use pulp::Simd;

use crate::Real;
use crate::chunk::{Chunk, slice, slice_mut};
use crate::lanes::put;
use crate::program::{BufferId, Program, Span};

/// `h = sigmoid(u) * x`, element by element.
///
/// Shapes: `u: [rows, a]`, `x: [rows, b]`, `h: [rows, c]`; elements past the
/// shortest of the three are zero.
#[derive(Clone, Debug)]
pub struct Gate {
    pub(crate) inputs: Span,
    /// Output.
    pub out: BufferId,
}

impl Gate {
    pub(crate) fn inputs(&self) -> Span {
        self.inputs
    }

    pub(crate) fn macs(&self, _: &Program) -> u64 {
        0
    }

    /// Elements that are not zero by padding.
    #[inline(always)]
    fn active(&self, program: &Program) -> usize {
        program
            .inputs(self.inputs)
            .map(|input| program.width(input))
            .fold(program.width(self.out), usize::min)
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let uses = &chunk.program.inputs[self.inputs.range()];
        let (width, active) = (chunk.program.width(self.out), self.active(chunk.program));
        let (u, u_stride) = chunk.rows_of(uses[0].buffer);
        let (x, x_stride) = chunk.rows_of(uses[1].buffer);
        let (h, h_stride) = chunk.rows_of(self.out);
        for r in 0..chunk.rows {
            // SAFETY: row `r` of this chunk in three different buffers.
            let (u, x, h) = unsafe {
                (
                    slice(u.add(r * u_stride), active),
                    slice(x.add(r * x_stride), active),
                    slice_mut(h.add(r * h_stride), width),
                )
            };
            for ((h, &u), &x) in h.iter_mut().zip(u).zip(x) {
                *h = u.sigmoid() * x;
            }
            h[active..].fill(T::ZERO);
        }
    }

    /// `du = dh x s (1 - s)`, `dx = dh s`.
    #[inline(always)]
    pub(crate) fn backward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let uses = &chunk.program.inputs[self.inputs.range()];
        let active = self.active(chunk.program);
        let (u, u_stride) = chunk.rows_of(uses[0].buffer);
        let (x, x_stride) = chunk.rows_of(uses[1].buffer);
        let (dh, dh_stride) = chunk.row_grads_of(self.out);
        let (du, du_stride) = chunk.row_grads_of(uses[0].buffer);
        let (dx, dx_stride) = chunk.row_grads_of(uses[1].buffer);
        for r in 0..chunk.rows {
            // SAFETY: row `r` of this chunk in each buffer; `u` and `x` are different buffers.
            unsafe {
                let u = slice(u.add(r * u_stride), active);
                let x = slice(x.add(r * x_stride), active);
                let dh = slice(dh.add(r * dh_stride), active);
                if uses[0].grad {
                    let du = slice_mut(du.add(r * du_stride), chunk.program.width(uses[0].buffer));
                    for (((du, &u), &x), &dh) in du.iter_mut().zip(u).zip(x).zip(dh) {
                        let s = u.sigmoid();
                        put(du, dh * x * s * (T::ONE - s), uses[0].accumulate);
                    }
                    if !uses[0].accumulate {
                        du[active..].fill(T::ZERO);
                    }
                }
                if uses[1].grad {
                    let dx = slice_mut(dx.add(r * dx_stride), chunk.program.width(uses[1].buffer));
                    for ((dx, &u), &dh) in dx.iter_mut().zip(u).zip(dh) {
                        put(dx, dh * u.sigmoid(), uses[1].accumulate);
                    }
                    if !uses[1].accumulate {
                        dx[active..].fill(T::ZERO);
                    }
                }
            }
        }
    }
}
