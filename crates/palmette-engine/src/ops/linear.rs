//! Fully connected layer over several sources.

use pulp::Simd;

use crate::Real;
use crate::chunk::{Chunk, slice, slice_mut};
use crate::executor::GradTile;
use crate::lanes::update;
use crate::matmul::{Finish, Passage, Product, Strided, matmul};
use crate::ops::norm::{norm_backward, norm_forward};
use crate::panels::{BACKWARD, FORWARD};
use crate::program::{BufferId, NormSlices, Program, SliceId, Span};
use crate::simd::BLOCK;

/// `y = relu?(norm?(sum_j W_j x_j + b?))`.
///
/// Shapes: `x_j: [rows, k_j]`, `W_j: [d, k_j]`, `y: [rows, d]`. The sources
/// stand for one concatenated input; each has a block of columns of its own,
/// which it keeps whichever other sources a path selects.
#[derive(Clone, Debug)]
pub struct Linear {
    pub(crate) inputs: Span,
    /// W_j, parallel to the inputs.
    pub weights: Span,
    /// Output.
    pub out: BufferId,
    /// Output of the products; differs from `out` under a norm.
    pub(crate) pre: BufferId,
    /// b, if any.
    pub bias: Option<SliceId>,
    /// Layer normalisation over the d outputs, if any.
    pub norm: Option<NormSlices>,
    /// Whether a ReLU comes last.
    pub relu: bool,
}

impl Linear {
    pub(crate) fn inputs(&self) -> Span {
        self.inputs
    }

    pub(crate) fn macs(&self, program: &Program) -> u64 {
        program
            .weights(self.weights)
            .iter()
            .map(|&w| program.slice(w))
            .map(|(_, d, k)| (d * k) as u64)
            .sum()
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, simd: S, chunk: &Chunk<'_, T>) {
        let width = chunk.program.width(self.out);
        let z = chunk.values_of(self.pre);
        let uses = &chunk.program.inputs[self.inputs.range()];
        let bias = self.bias.map(|bias| chunk.vector(bias));
        let finish = Finish::new(bias, self.relu && self.norm.is_none());
        for (j, (input, &weight)) in
            uses.iter().zip(chunk.program.weights(self.weights)).enumerate()
        {
            let x = chunk.values_of(input.buffer);
            let inner = chunk.program.width(input.buffer);
            chunk.lay_out_values(simd, input);
            // SAFETY: operands and output are different buffers of this chunk.
            unsafe {
                matmul(
                    simd,
                    chunk.precision,
                    Product {
                        shape: [chunk.rows, width, inner],
                        c: z.rows,
                        accumulate: j > 0,
                        a: Strided::row_major(x.rows.0.cast_const(), x.rows.1),
                        b: chunk.weight(weight).transposed(),
                        panels: [None, chunk.weight_panels(weight, FORWARD)],
                        gaps: [x.gap, z.gap],
                        finish: finish.filter(|_| j + 1 == uses.len()),
                        passage: None,
                    },
                );
            }
        }
        let Some(norm) = self.norm else { return };
        let (pre, pre_stride) = z.rows;
        let (out, out_stride) = chunk.rows_of(self.out);
        let (stats, stats_stride) = chunk.rows_of(norm.stats);
        for r in 0..chunk.rows {
            // SAFETY: row `r` of this chunk in each buffer.
            let (z, y, stats) = unsafe {
                (
                    slice(pre.add(r * pre_stride), width),
                    slice_mut(out.add(r * out_stride), width),
                    slice_mut(stats.add(r * stats_stride), 2),
                )
            };
            let (scale, shift) = (chunk.vector(norm.scale), chunk.vector(norm.shift));
            norm_forward(z, scale, shift, self.relu, y, stats);
        }
    }

    /// Makes the gradient of the sums of the products of that of the output, and of it the bias's.
    #[inline(always)]
    fn gradient_of_sums<T: Real, S: Simd>(&self, simd: S, chunk: &Chunk<'_, T>) {
        let width = chunk.program.width(self.out);
        let (dz, dz_stride) = chunk.row_grads_of(self.pre);
        let (z, z_stride) = chunk.rows_of(self.pre);
        let (y, y_stride) = chunk.rows_of(self.out);
        let (dy, dy_stride) = chunk.row_grads_of(self.out);
        for first in (0..chunk.rows).step_by(BLOCK) {
            let rows = first..chunk.rows.min(first + BLOCK);
            for r in rows.clone() {
                // SAFETY: row `r` of this chunk in each buffer.
                let (y, dy) = unsafe {
                    (slice(y.add(r * y_stride), width), slice_mut(dy.add(r * dy_stride), width))
                };
                if self.relu {
                    update(dy, y, |y, dy| if y > T::ZERO { dy } else { T::ZERO });
                }
                if let Some(norm) = self.norm {
                    let (z, dz) = unsafe {
                        (slice(z.add(r * z_stride), width), slice_mut(dz.add(r * dz_stride), width))
                    };
                    let (stats, stats_stride) = chunk.rows_of(norm.stats);
                    let stats = unsafe { slice(stats.add(r * stats_stride), 2) };
                    norm_backward(
                        z,
                        stats,
                        chunk.vector(norm.scale),
                        dy,
                        dz,
                        chunk.partial(norm.scale),
                        chunk.partial(norm.shift),
                    );
                }
                if let Some(bias) = self.bias {
                    let dz = unsafe { slice(dz.add(r * dz_stride), width) };
                    update(chunk.partial(bias), dz, |dz, db| db + dz);
                }
            }
            // While the rows are in the first-level cache.
            chunk.lay_out_grads(simd, self.pre, rows);
        }
    }

    /// [`Linear::gradient_of_sums`] as the last product that adds to the gradient of the output does it,
    /// where that is kept in panels.
    #[inline(always)]
    fn passage<T: Real>(&self, chunk: &Chunk<'_, T>) -> Passage<T> {
        let null = std::ptr::null_mut();
        let output = if self.relu { chunk.values_of(self.out).rows.0 } else { null };
        let bias = self.bias.map_or(null, |bias| chunk.partial(bias).as_mut_ptr());
        Passage { output, bias }
    }

    #[inline(always)]
    pub(crate) fn backward<T: Real, S: Simd>(&self, simd: S, chunk: &Chunk<'_, T>) {
        if chunk.layer_of(self.out).is_none() {
            self.gradient_of_sums(simd, chunk);
        }
        let width = chunk.program.width(self.out);
        let dz = chunk.gradients_of(self.pre);
        let uses = &chunk.program.inputs[self.inputs.range()];
        for (input, &weight) in uses.iter().zip(chunk.program.weights(self.weights)) {
            if !input.grad {
                continue;
            }
            let dx = chunk.gradients_of(input.buffer);
            let layer = chunk.layer_of(input.buffer).filter(|_| input.closes);
            let inner = chunk.program.width(input.buffer);
            // SAFETY: gradients of different buffers.
            unsafe {
                matmul(
                    simd,
                    chunk.precision,
                    Product {
                        shape: [chunk.rows, inner, width],
                        c: dx.rows,
                        accumulate: input.accumulate,
                        a: Strided::row_major(dz.rows.0.cast_const(), dz.rows.1),
                        b: chunk.weight(weight),
                        panels: [None, chunk.weight_panels(weight, BACKWARD)],
                        gaps: [dz.gap, dx.gap],
                        finish: None,
                        passage: layer.map(|layer| layer.passage(chunk)),
                    },
                );
            }
        }
    }

    /// A tile of `dW_j = dz^T x_j` over the whole batch.
    #[inline(always)]
    pub(crate) fn weight_gradient<T: Real, S: Simd>(
        &self,
        simd: S,
        batch: &Chunk<'_, T>,
        input: usize,
        tile: GradTile<T>,
    ) {
        let source = batch.program.inputs[self.inputs.range()][input].buffer;
        let (x, x_stride) = batch.rows_of(source);
        let (dz, dz_stride) = batch.row_grads_of(self.pre);
        // SAFETY: the caller owns these rows of the gradient; operands are read only.
        unsafe {
            matmul(
                simd,
                batch.precision,
                Product {
                    shape: [tile.rows, tile.columns, batch.rows],
                    c: tile.grad,
                    accumulate: false,
                    a: Strided::row_major(dz.add(tile.row).cast_const(), dz_stride).transposed(),
                    b: Strided::row_major(x.add(tile.column).cast_const(), x_stride),
                    panels: [
                        batch.grad_panels(self.pre).map(|panels| panels.from(tile.row)),
                        batch.value_panels(source).map(|panels| panels.from(tile.column)),
                    ],
                    ..Product::empty()
                },
            );
        }
    }
}
