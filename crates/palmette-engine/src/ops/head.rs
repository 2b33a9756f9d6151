//! The last unit: one logit a row.

use pulp::Simd;

use crate::Real;
use crate::chunk::{Chunk, slice, slice_mut};
use crate::lanes::{dot, put, sum, update};
use crate::program::{BufferId, Extent, Program, SliceId, Span};

/// How an input of the head enters the logit.
#[derive(Clone, Copy, Debug)]
pub enum HeadPiece {
    /// `w . x` with a trained w: `[1, width]` for rows, `[fields, dim]` for fields.
    Trained(SliceId),
    /// The sum of all elements times a constant (first-order and factorisation-machine terms).
    Fixed(f64),
}

/// `logit = sum_j piece_j + b`.
///
/// Shapes: inputs are rows `[rows, width]` or fields `[fields, rows, dim]`;
/// `logit: [rows, 1]`. Concatenating and flattening (dense part first, then
/// fields, then channels) is a matter of how the weights are stored.
#[derive(Clone, Debug)]
pub struct Head {
    pub(crate) inputs: Span,
    /// Start of the pieces in the program's weights; [`Head::pieces`] are parallel to the inputs.
    pub(crate) pieces: [Option<HeadPiece>; 8],
    /// The weight slices of pieces and bias, of the head's own parameters.
    pub(crate) slices: Span,
    /// Output.
    pub out: BufferId,
    /// b, if any.
    pub bias: Option<SliceId>,
}

impl Head {
    pub(crate) fn inputs(&self) -> Span {
        self.inputs
    }

    /// The pieces, parallel to the inputs.
    pub fn pieces(&self) -> impl Iterator<Item = HeadPiece> + '_ {
        self.pieces.iter().flatten().copied()
    }

    pub(crate) fn macs(&self, program: &Program) -> u64 {
        self.pieces()
            .map(|piece| match piece {
                HeadPiece::Trained(w) => {
                    let (_, rows, cols) = program.slice(w);
                    (rows * cols) as u64
                }
                HeadPiece::Fixed(_) => 0,
            })
            .sum()
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let (out, out_stride) = chunk.rows_of(self.out);
        let bias = self.bias.map_or(T::ZERO, |b| chunk.vector_in(chunk.heads, b)[0]);
        for r in 0..chunk.rows {
            let mut logit = bias;
            for (input, piece) in
                chunk.program.inputs[self.inputs.range()].iter().zip(self.pieces())
            {
                for_each_run(chunk, input.buffer, r, |f, run| {
                    // SAFETY: one run of row `r` of this chunk.
                    let x = unsafe { slice(chunk.values.add(run.0), run.1) };
                    logit += match piece {
                        HeadPiece::Trained(w) => {
                            let w = chunk.weight_in(chunk.heads, w);
                            // SAFETY: row `f` of the weight slice.
                            dot(x, unsafe { slice(w.pointer.add(f * w.row), run.1) })
                        }
                        HeadPiece::Fixed(c) => sum(x) * T::from_f64(c),
                    };
                });
            }
            // SAFETY: row `r` of the output.
            unsafe { *out.add(r * out_stride) = logit };
        }
        crate::matmul::count_macs(chunk.rows * self.macs(chunk.program) as usize);
    }

    #[inline(always)]
    pub(crate) fn backward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        self.weight_partials(chunk);
        let (dout, dout_stride) = chunk.row_grads_of(self.out);
        for (input, piece) in chunk.program.inputs[self.inputs.range()].iter().zip(self.pieces()) {
            if !input.grad {
                continue;
            }
            for r in 0..chunk.rows {
                // SAFETY: row `r` of the output's gradient.
                let d = unsafe { *dout.add(r * dout_stride) };
                for_each_run(chunk, input.buffer, r, |f, run| {
                    // SAFETY: one run of row `r` of this chunk's gradients.
                    let dx = unsafe { slice_mut(chunk.grads.add(run.0), run.1) };
                    match piece {
                        HeadPiece::Trained(w) => {
                            let w = chunk.weight_in(chunk.heads, w);
                            // SAFETY: row `f` of the weight slice.
                            let w = unsafe { slice(w.pointer.add(f * w.row), run.1) };
                            for (dx, &w) in dx.iter_mut().zip(w) {
                                put(dx, d * w, input.accumulate);
                            }
                        }
                        HeadPiece::Fixed(c) => {
                            let g = d * T::from_f64(c);
                            dx.iter_mut().for_each(|dx| put(dx, g, input.accumulate));
                        }
                    }
                });
            }
        }
    }

    /// Partial sums of the head's own gradients; all that last-layer fine-tuning needs.
    #[inline(always)]
    pub(crate) fn weight_partials<T: Real>(&self, chunk: &Chunk<'_, T>) {
        let (dout, dout_stride) = chunk.row_grads_of(self.out);
        for r in 0..chunk.rows {
            // SAFETY: row `r` of the output's gradient.
            let d = unsafe { *dout.add(r * dout_stride) };
            if let Some(bias) = self.bias {
                chunk.partial(bias)[0] += d;
            }
            for (input, piece) in
                chunk.program.inputs[self.inputs.range()].iter().zip(self.pieces())
            {
                let HeadPiece::Trained(w) = piece else { continue };
                let partial = chunk.partial(w);
                for_each_run(chunk, input.buffer, r, |f, run| {
                    // SAFETY: one run of row `r` of this chunk.
                    let x = unsafe { slice(chunk.values.add(run.0), run.1) };
                    update(&mut partial[f * run.1..(f + 1) * run.1], x, |x, g| x.mul_add(d, g));
                });
            }
        }
    }
}

/// Calls `each(field, (offset, length))` for the contiguous runs of row `r` (of this chunk).
#[inline(always)]
fn for_each_run<T: Real>(
    chunk: &Chunk<'_, T>,
    buffer: BufferId,
    r: usize,
    mut each: impl FnMut(usize, (usize, usize)),
) {
    let b = chunk.program.buffer(buffer);
    let row = chunk.first_row(b) + r;
    // One call: a closure with several callers is not inlined, and loses the instruction set.
    let (count, start, stride, len) = match b.extent {
        Extent::Rows { width } => (1, b.offset + row * b.stride, 0, width),
        Extent::Fields { fields, dim } => (fields, b.offset + row * dim, b.stride, dim),
        Extent::Jagged { .. } => unreachable!("the builder refuses a head over a list"),
    };
    for f in 0..count {
        each(f, (start + f * stride, len));
    }
}
