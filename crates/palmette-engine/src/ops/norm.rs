//! Layer normalisation: `y = (x - mean) * rstd * scale + shift`, `rstd = 1 / sqrt(var + 1e-5)`.

use crate::Real;
use crate::chunk::{Chunk, slice, slice_mut};
use crate::lanes::{LANES, put, sum, sum2, total};
use crate::program::{BufferId, NORM_EPSILON, NormSlices, Program, Span};

/// Normalises one vector into `y` and leaves `[mean, rstd]` in `stats`.
#[inline(always)]
pub(crate) fn norm_forward<T: Real>(
    x: &[T],
    scale: &[T],
    shift: &[T],
    relu: bool,
    y: &mut [T],
    stats: &mut [T],
) {
    let inverse = T::ONE / T::from_f64(x.len() as f64);
    let mean = sum(x) * inverse;
    let variance = sum2(x, x, |x, _, acc| (x - mean).mul_add(x - mean, acc)) * inverse;
    let rstd = T::ONE / (variance + T::from_f64(NORM_EPSILON)).sqrt();
    let floor = if relu { T::ZERO } else { T::from_f64(f64::NEG_INFINITY) };
    for (((y, &x), &scale), &shift) in y.iter_mut().zip(x).zip(scale).zip(shift) {
        *y = ((x - mean) * rstd).mul_add(scale, shift);
        if *y < floor {
            *y = floor;
        }
    }
    stats[0] = mean;
    stats[1] = rstd;
}

/// `dx = rstd (g - mean(g) - xhat mean(g xhat))` with `g = dy * scale`, and the partial sums of
/// the scale's and the shift's gradients.
#[inline(always)]
pub(crate) fn norm_backward<T: Real>(
    x: &[T],
    stats: &[T],
    scale: &[T],
    dy: &[T],
    dx: &mut [T],
    dscale: &mut [T],
    dshift: &mut [T],
) {
    let (mean, rstd) = (stats[0], stats[1]);
    let inverse = T::ONE / T::from_f64(x.len() as f64);
    // dx holds g for a moment.
    for ((g, &dy), &scale) in dx.iter_mut().zip(dy).zip(scale) {
        *g = dy * scale;
    }
    let g_mean = sum(dx) * inverse;
    let gx_mean = sum2(dx, x, |g, x, acc| g.mul_add((x - mean) * rstd, acc)) * inverse;
    for ((dx, &x), ((dscale, dshift), &dy)) in
        dx.iter_mut().zip(x).zip(dscale.iter_mut().zip(dshift.iter_mut()).zip(dy))
    {
        let xhat = (x - mean) * rstd;
        *dx = rstd * (*dx - g_mean - xhat * gx_mean);
        *dscale += dy * xhat;
        *dshift += dy;
    }
}

/// `y = norm(a + b)` over the channels of every field and row (the residual norms of attention).
///
/// Shapes: `a, b, y: [fields, rows, dim]`, `scale, shift: [dim]`.
#[derive(Clone, Debug)]
pub struct AddNorm {
    pub(crate) inputs: Span,
    /// Output.
    pub out: BufferId,
    /// Keeps `a + b` for backward.
    pub(crate) pre: BufferId,
    /// Scale and shift; its statistics are `[fields, rows, 2]`.
    pub norm: NormSlices,
    /// Channels.
    pub dim: usize,
}

impl AddNorm {
    pub(crate) fn inputs(&self) -> Span {
        self.inputs
    }

    pub(crate) fn macs(&self, _: &Program) -> u64 {
        0
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real>(&self, chunk: &Chunk<'_, T>) {
        let (fields, dim) = (chunk.program.width(self.out), self.dim);
        let uses = &chunk.program.inputs[self.inputs.range()];
        let (a, a_stride) = chunk.fields_of(uses[0].buffer, dim);
        let (b, b_stride) = chunk.fields_of(uses[1].buffer, dim);
        let (sum, sum_stride) = chunk.fields_of(self.pre, dim);
        let (y, y_stride) = chunk.fields_of(self.out, dim);
        let (stats, stats_stride) = chunk.fields_of(self.norm.stats, 2);
        let (scale, shift) = (chunk.vector(self.norm.scale), chunk.vector(self.norm.shift));
        for f in 0..fields {
            for r in 0..chunk.rows {
                // SAFETY: one field of one row of this chunk in each buffer.
                unsafe {
                    let a = slice(a.add(f * a_stride + r * dim), dim);
                    let b = slice(b.add(f * b_stride + r * dim), dim);
                    let x = slice_mut(sum.add(f * sum_stride + r * dim), dim);
                    for ((x, &a), &b) in x.iter_mut().zip(a).zip(b) {
                        *x = a + b;
                    }
                    let y = slice_mut(y.add(f * y_stride + r * dim), dim);
                    let stats = slice_mut(stats.add(f * stats_stride + r * 2), 2);
                    if dim == LANES {
                        norm16(x, scale, shift, y, stats);
                    } else {
                        norm_forward(x, scale, shift, false, y, stats);
                    }
                }
            }
        }
    }

    #[inline(always)]
    pub(crate) fn backward<T: Real>(&self, chunk: &Chunk<'_, T>) {
        let (fields, dim) = (chunk.program.width(self.out), self.dim);
        let (x, x_stride) = chunk.fields_of(self.pre, dim);
        let (dx, dx_stride) = chunk.field_grads_of(self.pre, dim);
        let (dy, dy_stride) = chunk.field_grads_of(self.out, dim);
        let (stats, stats_stride) = chunk.fields_of(self.norm.stats, 2);
        let scale = chunk.vector(self.norm.scale);
        let (dscale, dshift) = (chunk.partial(self.norm.scale), chunk.partial(self.norm.shift));
        for f in 0..fields {
            for r in 0..chunk.rows {
                // SAFETY: one field of one row of this chunk in each buffer.
                unsafe {
                    let x = slice(x.add(f * x_stride + r * dim), dim);
                    let dx = slice_mut(dx.add(f * dx_stride + r * dim), dim);
                    let dy = slice(dy.add(f * dy_stride + r * dim), dim);
                    let stats = slice(stats.add(f * stats_stride + r * 2), 2);
                    norm_backward(x, stats, scale, dy, dx, dscale, dshift);
                }
            }
        }
        for input in &chunk.program.inputs[self.inputs.range()] {
            if !input.grad {
                continue;
            }
            let (target, stride) = chunk.field_grads_of(input.buffer, dim);
            for f in 0..fields {
                // SAFETY: this chunk's rows of one field.
                let (target, dx) = unsafe {
                    (
                        slice_mut(target.add(f * stride), chunk.rows * dim),
                        slice(dx.add(f * dx_stride), chunk.rows * dim),
                    )
                };
                for (target, &dx) in target.iter_mut().zip(dx) {
                    put(target, dx, input.accumulate);
                }
            }
        }
    }
}

/// [`norm_forward`] for sixteen channels, in registers.
#[inline(always)]
fn norm16<T: Real>(x: &[T], scale: &[T], shift: &[T], y: &mut [T], stats: &mut [T]) {
    let mut lanes = [T::ZERO; LANES];
    lanes.copy_from_slice(&x[..LANES]);
    let inverse = T::from_f64(1.0 / LANES as f64);
    let mean = total(&lanes) * inverse;
    let mut squares = [T::ZERO; LANES];
    for l in 0..LANES {
        lanes[l] -= mean;
        squares[l] = lanes[l] * lanes[l];
    }
    let rstd = T::ONE / total(&squares).mul_add(inverse, T::from_f64(NORM_EPSILON)).sqrt();
    for l in 0..LANES {
        y[l] = (lanes[l] * rstd).mul_add(scale[l], shift[l]);
    }
    stats[0] = mean;
    stats[1] = rstd;
}
