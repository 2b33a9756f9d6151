//! Embedding fully connected layer (EFC): mixes the field axis.

use pulp::Simd;

use crate::Real;
use crate::chunk::{Chunk, slice, slice_mut};
use crate::executor::GradTile;
use crate::lanes::update;
use crate::matmul::{Product, Strided, matmul};
use crate::program::{BufferId, NORM_EPSILON, NormSlices, Program, SliceId, Span};

/// `Y[:, :, e] = relu?(norm?(sum_j W_j X_j[:, :, e] + b?))` for every channel e.
///
/// Shapes: `X_j: [n_j, rows, dim]`, `W_j: [s, n_j]`, `Y: [s, rows, dim]`; the
/// weights are shared by the channels, the norm runs over the field axis.
#[derive(Clone, Debug)]
pub struct FieldMix {
    pub(crate) inputs: Span,
    /// W_j, parallel to the inputs.
    pub weights: Span,
    /// Output.
    pub out: BufferId,
    pub(crate) pre: BufferId,
    /// b: one a field, if any.
    pub bias: Option<SliceId>,
    /// Layer normalisation over the s fields, if any.
    pub norm: Option<NormSlices>,
    /// Whether a ReLU comes last.
    pub relu: bool,
    /// Channels of a field.
    pub dim: usize,
}

/// Columns (row, channel pairs) normalised at a time.
const STRIP: usize = 64;

impl FieldMix {
    pub(crate) fn inputs(&self) -> Span {
        self.inputs
    }

    pub(crate) fn macs(&self, program: &Program) -> u64 {
        program
            .weights(self.weights)
            .iter()
            .map(|&w| program.slice(w))
            .map(|(_, s, n)| (s * n * self.dim) as u64)
            .sum()
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, simd: S, chunk: &Chunk<'_, T>) {
        let fields = chunk.program.width(self.out);
        let columns = chunk.rows * self.dim;
        let (pre, pre_stride) = chunk.fields_of(self.pre, self.dim);
        let uses = &chunk.program.inputs[self.inputs.range()];
        for (j, (input, &weight)) in
            uses.iter().zip(chunk.program.weights(self.weights)).enumerate()
        {
            let (x, x_stride) = chunk.fields_of(input.buffer, self.dim);
            let inner = chunk.program.width(input.buffer);
            // SAFETY: operands and output are different buffers of this chunk.
            unsafe {
                matmul(
                    simd,
                    chunk.precision,
                    Product {
                        shape: [fields, columns, inner],
                        c: (pre, pre_stride),
                        accumulate: j > 0,
                        a: chunk.weight(weight),
                        b: Strided::row_major(x.cast_const(), x_stride),
                        ..Product::empty()
                    },
                );
            }
        }
        match self.norm {
            Some(norm) => {
                self.add_bias(chunk, (pre, pre_stride), fields, columns, false);
                self.normalise(chunk, &norm, fields, columns);
            }
            None => self.add_bias(chunk, (pre, pre_stride), fields, columns, self.relu),
        }
    }

    /// Bias and ReLU in one pass: with few terms a pass costs as much as a third of the product.
    #[inline(always)]
    fn add_bias<T: Real>(
        &self,
        chunk: &Chunk<'_, T>,
        (pre, stride): (*mut T, usize),
        fields: usize,
        columns: usize,
        relu: bool,
    ) {
        if self.bias.is_none() && !relu {
            return;
        }
        let floor = if relu { T::ZERO } else { T::from_f64(f64::NEG_INFINITY) };
        for f in 0..fields {
            let b = self.bias.map_or(T::ZERO, |bias| chunk.vector(bias)[f]);
            // SAFETY: this chunk's rows of field `f`.
            let z = unsafe { slice_mut(pre.add(f * stride), columns) };
            for z in z {
                let sum = *z + b;
                *z = if sum < floor { floor } else { sum };
            }
        }
    }

    #[inline(always)]
    fn normalise<T: Real>(
        &self,
        chunk: &Chunk<'_, T>,
        norm: &NormSlices,
        fields: usize,
        columns: usize,
    ) {
        let (x, x_stride) = chunk.fields_of(self.pre, self.dim);
        let (y, y_stride) = chunk.fields_of(self.out, self.dim);
        let (stats, stats_stride) = chunk.fields_of(norm.stats, self.dim);
        let (scale, shift) = (chunk.vector(norm.scale), chunk.vector(norm.shift));
        let inverse = T::ONE / T::from_f64(fields as f64);
        let floor = if self.relu { T::ZERO } else { T::from_f64(f64::NEG_INFINITY) };
        for start in (0..columns).step_by(STRIP) {
            let width = STRIP.min(columns - start);
            let mut mean = [T::ZERO; STRIP];
            let mut square = [T::ZERO; STRIP];
            // SAFETY: columns `start .. start + width` of this chunk in each field.
            unsafe {
                for f in 0..fields {
                    let x = slice(x.add(f * x_stride + start), width);
                    update(&mut mean[..width], x, |x, m| m + x);
                }
                mean.iter_mut().for_each(|m| *m *= inverse);
                for f in 0..fields {
                    let x = slice(x.add(f * x_stride + start), width);
                    for ((s, &x), &m) in square[..width].iter_mut().zip(x).zip(&mean) {
                        *s = (x - m).mul_add(x - m, *s);
                    }
                }
                for s in &mut square {
                    *s = T::ONE / s.mul_add(inverse, T::from_f64(NORM_EPSILON)).sqrt();
                }
                for f in 0..fields {
                    let x = slice(x.add(f * x_stride + start), width);
                    let y = slice_mut(y.add(f * y_stride + start), width);
                    for (((y, &x), &m), &r) in y.iter_mut().zip(x).zip(&mean).zip(&square) {
                        let v = ((x - m) * r).mul_add(scale[f], shift[f]);
                        *y = if v < floor { floor } else { v };
                    }
                }
                slice_mut(stats.add(start), width).copy_from_slice(&mean[..width]);
                slice_mut(stats.add(stats_stride + start), width).copy_from_slice(&square[..width]);
            }
        }
    }

    #[inline(always)]
    pub(crate) fn backward<T: Real, S: Simd>(&self, simd: S, chunk: &Chunk<'_, T>) {
        let fields = chunk.program.width(self.out);
        let columns = chunk.rows * self.dim;
        let (y, y_stride) = chunk.fields_of(self.out, self.dim);
        let (dy, dy_stride) = chunk.field_grads_of(self.out, self.dim);
        let (dz, dz_stride) = chunk.field_grads_of(self.pre, self.dim);
        if let Some(norm) = self.norm {
            self.norm_gradient(chunk, &norm, fields, columns);
        }
        for f in 0..fields {
            if self.relu && self.norm.is_none() {
                // SAFETY: this chunk's rows of field `f`.
                unsafe {
                    let y = slice(y.add(f * y_stride), columns);
                    let dy = slice_mut(dy.add(f * dy_stride), columns);
                    update(dy, y, |y, dy| if y > T::ZERO { dy } else { T::ZERO });
                }
            }
            if let Some(bias) = self.bias {
                // SAFETY: as above; without a norm `dz` is `dy`.
                let sum = crate::lanes::sum(unsafe { slice(dz.add(f * dz_stride), columns) });
                chunk.partial(bias)[f] += sum;
            }
        }
        let uses = &chunk.program.inputs[self.inputs.range()];
        for (input, &weight) in uses.iter().zip(chunk.program.weights(self.weights)) {
            if !input.grad {
                continue;
            }
            let (dx, dx_stride) = chunk.field_grads_of(input.buffer, self.dim);
            // SAFETY: gradients of different buffers.
            unsafe {
                matmul(
                    simd,
                    chunk.precision,
                    Product {
                        shape: [chunk.program.width(input.buffer), columns, fields],
                        c: (dx, dx_stride),
                        accumulate: input.accumulate,
                        a: chunk.weight(weight).transposed(),
                        b: Strided::row_major(dz.cast_const(), dz_stride),
                        ..Product::empty()
                    },
                );
            }
        }
    }

    #[inline(always)]
    fn norm_gradient<T: Real>(
        &self,
        chunk: &Chunk<'_, T>,
        norm: &NormSlices,
        fields: usize,
        columns: usize,
    ) {
        let (x, x_stride) = chunk.fields_of(self.pre, self.dim);
        let (dx, dx_stride) = chunk.field_grads_of(self.pre, self.dim);
        let (y, y_stride) = chunk.fields_of(self.out, self.dim);
        let (dy, dy_stride) = chunk.field_grads_of(self.out, self.dim);
        let (stats, stats_stride) = chunk.fields_of(norm.stats, self.dim);
        let scale = chunk.vector(norm.scale);
        let (dscale, dshift) = (chunk.partial(norm.scale), chunk.partial(norm.shift));
        let inverse = T::ONE / T::from_f64(fields as f64);
        for start in (0..columns).step_by(STRIP) {
            let width = STRIP.min(columns - start);
            // SAFETY: columns `start .. start + width` of this chunk in each field.
            unsafe {
                let mean = slice(stats.add(start), width);
                let rstd = slice(stats.add(stats_stride + start), width);
                let mut g_mean = [T::ZERO; STRIP];
                let mut gx_mean = [T::ZERO; STRIP];
                for f in 0..fields {
                    let x = slice(x.add(f * x_stride + start), width);
                    let dy = slice_mut(dy.add(f * dy_stride + start), width);
                    if self.relu {
                        let y = slice(y.add(f * y_stride + start), width);
                        update(dy, y, |y, dy| if y > T::ZERO { dy } else { T::ZERO });
                    }
                    let mut scale_sum = [T::ZERO; STRIP];
                    for c in 0..width {
                        let xhat = (x[c] - mean[c]) * rstd[c];
                        let g = dy[c] * scale[f];
                        g_mean[c] += g;
                        gx_mean[c] = g.mul_add(xhat, gx_mean[c]);
                        scale_sum[c] = dy[c] * xhat;
                    }
                    dscale[f] += crate::lanes::sum(&scale_sum);
                    dshift[f] += crate::lanes::sum(dy);
                }
                for c in 0..width {
                    g_mean[c] *= inverse;
                    gx_mean[c] *= inverse;
                }
                for f in 0..fields {
                    let x = slice(x.add(f * x_stride + start), width);
                    let dy = slice(dy.add(f * dy_stride + start), width);
                    let dx = slice_mut(dx.add(f * dx_stride + start), width);
                    for c in 0..width {
                        let xhat = (x[c] - mean[c]) * rstd[c];
                        dx[c] = rstd[c] * (dy[c] * scale[f] - g_mean[c] - xhat * gx_mean[c]);
                    }
                }
            }
        }
    }

    /// A tile of `dW_j = dZ X_j^T` over the whole batch and all channels.
    #[inline(always)]
    pub(crate) fn weight_gradient<T: Real, S: Simd>(
        &self,
        simd: S,
        batch: &Chunk<'_, T>,
        input: usize,
        tile: GradTile<T>,
    ) {
        let source = batch.program.inputs[self.inputs.range()][input].buffer;
        let (x, x_stride) = batch.fields_of(source, self.dim);
        let (dz, dz_stride) = batch.field_grads_of(self.pre, self.dim);
        // SAFETY: the caller owns these rows of the gradient; operands are read only.
        unsafe {
            matmul(
                simd,
                batch.precision,
                Product {
                    shape: [tile.rows, tile.columns, batch.rows * self.dim],
                    c: tile.grad,
                    accumulate: false,
                    a: Strided::row_major(dz.add(tile.row * dz_stride).cast_const(), dz_stride),
                    b: Strided::row_major(x.add(tile.column * x_stride).cast_const(), x_stride)
                        .transposed(),
                    ..Product::empty()
                },
            );
        }
    }
}
