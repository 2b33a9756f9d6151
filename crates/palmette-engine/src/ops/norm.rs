//! Layer normalisation: `y = (x - mean) * rstd * scale + shift`, `rstd = 1 / sqrt(var + 1e-5)`.

use pulp::Simd;

use crate::Real;
use crate::chunk::{Chunk, slice, slice_mut};
use crate::lanes::{put, sum, sum2};
use crate::program::{BufferId, NORM_EPSILON, NormSlices, Program, Span};
use crate::simd::BLOCK;

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
    pub(crate) fn forward<T: Real, S: Simd>(&self, simd: S, chunk: &Chunk<'_, T>) {
        let (fields, dim) = (chunk.program.width(self.out), self.dim);
        let rows = chunk.vectors(self.out);
        let uses = &chunk.program.inputs[self.inputs.range()];
        let (a, a_stride) = chunk.fields_of(uses[0].buffer, dim);
        let (b, b_stride) = chunk.fields_of(uses[1].buffer, dim);
        let (sum, sum_stride) = chunk.fields_of(self.pre, dim);
        let (out, out_stride) = chunk.fields_of(self.out, dim);
        let (kept, kept_stride) = chunk.fields_of(self.norm.stats, 2);
        let (scale, shift) = (chunk.vector(self.norm.scale), chunk.vector(self.norm.shift));
        for f in 0..fields {
            // SAFETY: this chunk's rows of one field in each buffer.
            let (a, b, x, y, stats) = unsafe {
                (
                    slice(a.add(f * a_stride), rows * dim),
                    slice(b.add(f * b_stride), rows * dim),
                    slice_mut(sum.add(f * sum_stride), rows * dim),
                    slice_mut(out.add(f * out_stride), rows * dim),
                    slice_mut(kept.add(f * kept_stride), rows * 2),
                )
            };
            for ((x, &a), &b) in x.iter_mut().zip(a).zip(b) {
                *x = a + b;
            }
            let mut done = 0;
            if dim == BLOCK {
                let blocks = x.as_chunks().0.as_chunks().0;
                let targets = y.as_chunks_mut().0.as_chunks_mut().0;
                let stats = stats.as_chunks_mut::<2>().0.as_chunks_mut().0;
                for ((x, y), stats) in blocks.iter().zip(targets).zip(stats) {
                    norm_block(simd, x, scale, shift, y, stats);
                    done += BLOCK;
                }
                // The rest of the rows, sixteen fields at a time, once the last of these is summed.
                if (f + 1).is_multiple_of(BLOCK) {
                    let first = f + 1 - BLOCK;
                    for r in done..rows {
                        // SAFETY: row `r` of sixteen fields.
                        unsafe {
                            norm_fields(
                                simd,
                                (sum.add(first * sum_stride + r * dim), sum_stride),
                                [scale, shift],
                                (out.add(first * out_stride + r * dim), out_stride),
                                (kept.add(first * kept_stride + r * 2), kept_stride),
                            );
                        }
                    }
                }
                if f < fields / BLOCK * BLOCK {
                    continue;
                }
            }
            for r in done..rows {
                let row = r * dim..(r + 1) * dim;
                let stats = &mut stats[2 * r..2 * r + 2];
                norm_forward(&x[row.clone()], scale, shift, false, &mut y[row], stats);
            }
        }
    }

    #[inline(always)]
    pub(crate) fn backward<T: Real, S: Simd>(&self, simd: S, chunk: &Chunk<'_, T>) {
        let (fields, dim) = (chunk.program.width(self.out), self.dim);
        let rows = chunk.vectors(self.out);
        let (x, x_stride) = chunk.fields_of(self.pre, dim);
        let (dx, dx_stride) = chunk.field_grads_of(self.pre, dim);
        let (dy, dy_stride) = chunk.field_grads_of(self.out, dim);
        let (stats, stats_stride) = chunk.fields_of(self.norm.stats, 2);
        let scale = chunk.vector(self.norm.scale);
        let (dscale, dshift) = (chunk.partial(self.norm.scale), chunk.partial(self.norm.shift));
        for f in 0..fields {
            // SAFETY: this chunk's rows of one field in each buffer.
            let (x, dx, dy, stats) = unsafe {
                (
                    slice(x.add(f * x_stride), rows * dim),
                    slice_mut(dx.add(f * dx_stride), rows * dim),
                    slice(dy.add(f * dy_stride), rows * dim),
                    slice(stats.add(f * stats_stride), rows * 2),
                )
            };
            let mut done = 0;
            if dim == BLOCK {
                let blocks = x.as_chunks().0.as_chunks().0;
                let gradients = dy.as_chunks().0.as_chunks().0;
                let targets = dx.as_chunks_mut().0.as_chunks_mut().0;
                let stats = stats.as_chunks::<2>().0.as_chunks().0;
                for (((x, stats), dy), dx) in blocks.iter().zip(stats).zip(gradients).zip(targets) {
                    norm_block_backward(simd, x, stats, scale, dy, dx, [dscale, dshift]);
                    done += BLOCK;
                }
            }
            for r in done..rows {
                let row = r * dim..(r + 1) * dim;
                let (stats, dx) = (&stats[2 * r..2 * r + 2], &mut dx[row.clone()]);
                norm_backward(&x[row.clone()], stats, scale, &dy[row], dx, dscale, dshift);
            }
            for input in &chunk.program.inputs[self.inputs.range()] {
                if !input.grad {
                    continue;
                }
                let (target, stride) = chunk.field_grads_of(input.buffer, dim);
                // SAFETY: this chunk's rows of one field.
                let target = unsafe { slice_mut(target.add(f * stride), rows * dim) };
                for (target, &dx) in target.iter_mut().zip(dx.iter()) {
                    put(target, dx, input.accumulate);
                }
            }
        }
    }
}

/// Sixteen rows of sixteen channels.
type Block<T> = [[T; BLOCK]; BLOCK];

/// [`norm_forward`] for sixteen rows of sixteen channels.
#[inline(always)]
fn norm_block<T: Real, S: Simd>(
    simd: S,
    x: &Block<T>,
    scale: &[T],
    shift: &[T],
    y: &mut Block<T>,
    stats: &mut [[T; 2]; BLOCK],
) {
    let inverse = T::from_f64(1.0 / BLOCK as f64);
    let sums = T::row_sums(simd, x);
    let mut squares = [[T::ZERO; BLOCK]; BLOCK];
    for r in 0..BLOCK {
        let mean = sums[r] * inverse;
        stats[r][0] = mean;
        for c in (0..BLOCK).step_by(T::width::<S>()) {
            // SAFETY: channels from `c` fill a register.
            unsafe {
                let d = T::minus(simd, T::load(simd, x[r][c..].as_ptr()), T::splat(simd, mean));
                T::store(simd, squares[r][c..].as_mut_ptr(), T::times(simd, d, d));
            }
        }
    }
    let mut rstds = T::row_sums(simd, &squares);
    rstds[..].iter_mut().for_each(|s| {
        *s = T::ONE / s.mul_add(inverse, T::from_f64(NORM_EPSILON)).sqrt();
    });
    for r in 0..BLOCK {
        let [mean, rstd] = [stats[r][0], rstds[r]];
        stats[r][1] = rstd;
        for c in (0..BLOCK).step_by(T::width::<S>()) {
            // SAFETY: as above.
            unsafe {
                let d = T::minus(simd, T::load(simd, x[r][c..].as_ptr()), T::splat(simd, mean));
                let xhat = T::times(simd, d, T::splat(simd, rstd));
                let scale = T::load(simd, scale[c..].as_ptr());
                let value = T::fma(simd, xhat, scale, T::load(simd, shift[c..].as_ptr()));
                T::store(simd, y[r][c..].as_mut_ptr(), value);
            }
        }
    }
}

/// [`norm_block`] for one row of sixteen fields, with the elements from field to field.
///
/// # Safety
/// All three must have sixteen channels (two statistics) of sixteen fields.
#[inline(always)]
unsafe fn norm_fields<T: Real, S: Simd>(
    simd: S,
    (x, x_stride): (*const T, usize),
    [scale, shift]: [&[T]; 2],
    (y, y_stride): (*mut T, usize),
    (stats, stats_stride): (*mut T, usize),
) {
    let mut vectors = [[T::ZERO; BLOCK]; BLOCK];
    let (mut normal, mut kept) = (vectors, [[T::ZERO; 2]; BLOCK]);
    for (f, vector) in vectors.iter_mut().enumerate() {
        // SAFETY: field `f`.
        vector.copy_from_slice(unsafe { slice(x.add(f * x_stride), BLOCK) });
    }
    norm_block(simd, &vectors, scale, shift, &mut normal, &mut kept);
    for f in 0..BLOCK {
        // SAFETY: field `f`.
        unsafe {
            slice_mut(y.add(f * y_stride), BLOCK).copy_from_slice(&normal[f]);
            slice_mut(stats.add(f * stats_stride), 2).copy_from_slice(&kept[f]);
        }
    }
}

/// [`norm_backward`] for sixteen rows of sixteen channels.
#[inline(always)]
fn norm_block_backward<T: Real, S: Simd>(
    simd: S,
    x: &Block<T>,
    stats: &[[T; 2]; BLOCK],
    scale: &[T],
    dy: &Block<T>,
    dx: &mut Block<T>,
    [dscale, dshift]: [&mut [T]; 2],
) {
    let mut g = [[T::ZERO; BLOCK]; BLOCK];
    let mut gx = [[T::ZERO; BLOCK]; BLOCK];
    for c in (0..BLOCK).step_by(T::width::<S>()) {
        // SAFETY: channels from `c` fill a register.
        unsafe {
            let scale = T::load(simd, scale[c..].as_ptr());
            // Two chains of additions each, since one would wait for its latency.
            let mut dscales = [T::splat(simd, T::ZERO); 2];
            let mut dshifts = dscales;
            for r in 0..BLOCK {
                let [mean, rstd] = stats[r];
                let d = T::minus(simd, T::load(simd, x[r][c..].as_ptr()), T::splat(simd, mean));
                let xhat = T::times(simd, d, T::splat(simd, rstd));
                let dy = T::load(simd, dy[r][c..].as_ptr());
                dscales[r % 2] = T::fma(simd, dy, xhat, dscales[r % 2]);
                dshifts[r % 2] = T::plus(simd, dy, dshifts[r % 2]);
                let scaled = T::times(simd, dy, scale);
                T::store(simd, g[r][c..].as_mut_ptr(), scaled);
                T::store(simd, gx[r][c..].as_mut_ptr(), T::times(simd, scaled, xhat));
            }
            for (target, sums) in [(&mut *dscale, dscales), (&mut *dshift, dshifts)] {
                let place = target[c..].as_mut_ptr();
                let sum = T::plus(simd, sums[0], sums[1]);
                T::store(simd, place, T::plus(simd, T::load(simd, place), sum));
            }
        }
    }
    let inverse = T::from_f64(1.0 / BLOCK as f64);
    let (g_sums, gx_sums) = (T::row_sums(simd, &g), T::row_sums(simd, &gx));
    for r in 0..BLOCK {
        let [mean, rstd] = stats[r];
        // dx = rstd (g - mean(g) - xhat mean(g xhat)) with xhat = (x - mean) rstd
        let slope = T::ZERO - gx_sums[r] * inverse * rstd;
        for c in (0..BLOCK).step_by(T::width::<S>()) {
            // SAFETY: as above.
            unsafe {
                let d = T::minus(simd, T::load(simd, x[r][c..].as_ptr()), T::splat(simd, mean));
                let g = T::load(simd, g[r][c..].as_ptr());
                let centred = T::minus(simd, g, T::splat(simd, g_sums[r] * inverse));
                let value = T::fma(simd, d, T::splat(simd, slope), centred);
                let value = T::times(simd, value, T::splat(simd, rstd));
                T::store(simd, dx[r][c..].as_mut_ptr(), value);
            }
        }
    }
}
