//! Between the dense and the sparse side: reshapes and the factorisation machine.

use pulp::Simd;

use crate::Real;
use crate::chunk::{Chunk, slice, slice_mut};
use crate::lanes::{put, sum};
use crate::program::{BufferId, Program, Span};

/// Reads a vector as fields: `y[f, r, e] = x[r, f dim + e]` (dense-to-sparse merge).
///
/// Shapes: `x: [rows, fields dim]`, `y: [fields, rows, dim]`.
#[derive(Clone, Debug)]
pub struct FieldsFromRows {
    pub(crate) inputs: Span,
    /// Output.
    pub out: BufferId,
    /// Channels.
    pub dim: usize,
}

/// Flattens fields: `y[r, f dim + e] = x[f, r, e]`. The inverse of [`FieldsFromRows`].
#[derive(Clone, Debug)]
pub struct RowsFromFields {
    pub(crate) inputs: Span,
    /// Output.
    pub out: BufferId,
    /// Channels.
    pub dim: usize,
}

/// Copies between the two layouts, one vector of channels at a time.
#[inline(always)]
fn transpose<T: Real>(
    (rows, fields, dim): (usize, usize, usize),
    (by_row, row_stride): (*mut T, usize),
    (by_field, field_stride): (*mut T, usize),
    to_fields: bool,
    accumulate: bool,
) {
    for f in 0..fields {
        for r in 0..rows {
            // SAFETY: one vector of channels in each of two different buffers of this chunk.
            unsafe {
                let (a, b) = (
                    by_row.add(r * row_stride + f * dim),
                    by_field.add(f * field_stride + r * dim),
                );
                let (source, target) = if to_fields { (a, b) } else { (b, a) };
                for (y, &x) in slice_mut(target, dim).iter_mut().zip(slice(source, dim)) {
                    put(y, x, accumulate);
                }
            }
        }
    }
}

impl FieldsFromRows {
    pub(crate) fn inputs(&self) -> Span {
        self.inputs
    }

    pub(crate) fn macs(&self, _: &Program) -> u64 {
        0
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let source = chunk.program.inputs[self.inputs.range()][0].buffer;
        let shape = (chunk.rows, chunk.program.width(self.out), self.dim);
        transpose(shape, chunk.rows_of(source), chunk.fields_of(self.out, self.dim), true, false);
    }

    #[inline(always)]
    pub(crate) fn backward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let input = chunk.program.inputs[self.inputs.range()][0];
        if input.grad {
            let shape = (chunk.rows, chunk.program.width(self.out), self.dim);
            let grads = chunk.field_grads_of(self.out, self.dim);
            transpose(shape, chunk.row_grads_of(input.buffer), grads, false, input.accumulate);
        }
    }
}

impl RowsFromFields {
    pub(crate) fn inputs(&self) -> Span {
        self.inputs
    }

    pub(crate) fn macs(&self, _: &Program) -> u64 {
        0
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let source = chunk.program.inputs[self.inputs.range()][0].buffer;
        let shape = (chunk.rows, chunk.program.width(source), self.dim);
        transpose(shape, chunk.rows_of(self.out), chunk.fields_of(source, self.dim), false, false);
    }

    #[inline(always)]
    pub(crate) fn backward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let input = chunk.program.inputs[self.inputs.range()][0];
        if input.grad {
            let shape = (chunk.rows, chunk.program.width(input.buffer), self.dim);
            let grads = chunk.field_grads_of(input.buffer, self.dim);
            transpose(shape, chunk.row_grads_of(self.out), grads, true, input.accumulate);
        }
    }
}

/// `f = (sum_j x_j)^2 - sum_j x_j^2` over the fields, channel by channel.
///
/// Shapes: `x: [fields, rows, dim]`, `f: [rows, dim]`. There is no factor 1/2
/// (NASRec, sparse-to-dense merge).
#[derive(Clone, Debug)]
pub struct FactorizationMachine {
    pub(crate) inputs: Span,
    /// Output.
    pub out: BufferId,
    /// Sum over the fields, kept for backward: `[rows, dim]`.
    pub(crate) sums: BufferId,
    /// Channels.
    pub dim: usize,
}

impl FactorizationMachine {
    pub(crate) fn inputs(&self) -> Span {
        self.inputs
    }

    pub(crate) fn macs(&self, _: &Program) -> u64 {
        0
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let dim = self.dim;
        let (sums, sums_stride) = chunk.rows_of(self.sums);
        let (out, out_stride) = chunk.rows_of(self.out);
        for r in 0..chunk.rows {
            // SAFETY: row `r` of this chunk in two different buffers.
            let (s, y) = unsafe {
                (slice_mut(sums.add(r * sums_stride), dim), slice_mut(out.add(r * out_stride), dim))
            };
            s.fill(T::ZERO);
            y.fill(T::ZERO);
            for input in &chunk.program.inputs[self.inputs.range()] {
                let (x, stride) = chunk.fields_of(input.buffer, dim);
                for f in 0..chunk.program.width(input.buffer) {
                    // SAFETY: row `r` of field `f`.
                    let x = unsafe { slice(x.add(f * stride + r * dim), dim) };
                    for ((s, y), &x) in s.iter_mut().zip(y.iter_mut()).zip(x) {
                        *s += x;
                        *y = x.mul_add(x, *y);
                    }
                }
            }
            for (y, &s) in y.iter_mut().zip(s.iter()) {
                *y = s.mul_add(s, -*y);
            }
        }
    }

    /// `dx_j = 2 (sum - x_j) df`.
    #[inline(always)]
    pub(crate) fn backward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let dim = self.dim;
        let (sums, sums_stride) = chunk.rows_of(self.sums);
        let (dout, dout_stride) = chunk.row_grads_of(self.out);
        let two = T::from_f64(2.0);
        for input in &chunk.program.inputs[self.inputs.range()] {
            if !input.grad {
                continue;
            }
            let (x, stride) = chunk.fields_of(input.buffer, dim);
            let (dx, dx_stride) = chunk.field_grads_of(input.buffer, dim);
            for f in 0..chunk.program.width(input.buffer) {
                for r in 0..chunk.rows {
                    // SAFETY: row `r` of this chunk in each buffer.
                    unsafe {
                        let x = slice(x.add(f * stride + r * dim), dim);
                        let dx = slice_mut(dx.add(f * dx_stride + r * dim), dim);
                        let s = slice(sums.add(r * sums_stride), dim);
                        let df = slice(dout.add(r * dout_stride), dim);
                        for (((dx, &x), &s), &df) in dx.iter_mut().zip(x).zip(s).zip(df) {
                            put(dx, two * (s - x) * df, input.accumulate);
                        }
                    }
                }
            }
        }
    }
}

/// `y[r, f] = sum_e x[f, r, e]` (sum pooling of xDeepFM's compressed interactions).
///
/// Shapes: `x: [fields, rows, dim]`, `y: [rows, fields]`.
#[derive(Clone, Debug)]
pub struct FieldSums {
    pub(crate) inputs: Span,
    /// Output.
    pub out: BufferId,
    /// Channels.
    pub dim: usize,
}

impl FieldSums {
    pub(crate) fn inputs(&self) -> Span {
        self.inputs
    }

    pub(crate) fn macs(&self, _: &Program) -> u64 {
        0
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let source = chunk.program.inputs[self.inputs.range()][0].buffer;
        let (x, stride) = chunk.fields_of(source, self.dim);
        let (y, y_stride) = chunk.rows_of(self.out);
        for f in 0..chunk.program.width(source) {
            for r in 0..chunk.rows {
                // SAFETY: row `r` of this chunk in two different buffers.
                unsafe {
                    *y.add(r * y_stride + f) =
                        sum(slice(x.add(f * stride + r * self.dim), self.dim))
                };
            }
        }
    }

    #[inline(always)]
    pub(crate) fn backward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let input = chunk.program.inputs[self.inputs.range()][0];
        if !input.grad {
            return;
        }
        let (dx, stride) = chunk.field_grads_of(input.buffer, self.dim);
        let (dy, dy_stride) = chunk.row_grads_of(self.out);
        for f in 0..chunk.program.width(input.buffer) {
            for r in 0..chunk.rows {
                // SAFETY: row `r` of this chunk in two different buffers.
                unsafe {
                    let dy = *dy.add(r * dy_stride + f);
                    for dx in slice_mut(dx.add(f * stride + r * self.dim), self.dim) {
                        put(dx, dy, input.accumulate);
                    }
                }
            }
        }
    }
}
