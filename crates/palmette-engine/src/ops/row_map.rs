//! A linear map of the channels of every field and row (projections and feed-forward of attention).

use crate::Real;
use crate::chunk::{Chunk, slice, slice_mut};
use crate::lanes::{LANES, put, update};
use crate::matmul::{Strided, matmul};
use crate::program::{BufferId, Program, SliceId, Span};

/// `y[f, r, :] = relu?(W x[f, r, :] + b?)`.
///
/// Shapes: `x: [fields, rows, m]`, `W: [d, m]`, `y: [fields, rows, d]`.
#[derive(Clone, Debug)]
pub struct RowMap {
    pub(crate) inputs: Span,
    /// W.
    pub weight: SliceId,
    /// Output.
    pub out: BufferId,
    /// b, if any.
    pub bias: Option<SliceId>,
    /// Whether a ReLU comes last.
    pub relu: bool,
    /// Channels in, m.
    pub dim_in: usize,
    /// Channels out, d.
    pub dim_out: usize,
}

/// Rows that share one load of the weights.
const ROWS: usize = 4;

impl RowMap {
    pub(crate) fn inputs(&self) -> Span {
        self.inputs
    }

    pub(crate) fn macs(&self, program: &Program) -> u64 {
        (program.width(self.out) * self.dim_in * self.dim_out) as u64
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real>(&self, chunk: &Chunk<'_, T>) {
        let fields = chunk.program.width(self.out);
        let source = chunk.program.inputs[self.inputs.range()][0].buffer;
        let (x, x_stride) = chunk.fields_of(source, self.dim_in);
        let (y, y_stride) = chunk.fields_of(self.out, self.dim_out);
        let weight = chunk.weight(self.weight);
        // SAFETY: the weight slice has dim_out rows of dim_in elements.
        let row = |o: usize| unsafe { slice(weight.pointer.add(o * weight.row), self.dim_in) };
        let mut transposed = Panel::new(self.dim_in, self.dim_out);
        for o in 0..self.dim_out {
            for (i, &w) in row(o).iter().enumerate() {
                transposed.set(i, o, w);
            }
        }
        let bias = self.bias.map(|b| chunk.vector(b));
        for f in 0..fields {
            // SAFETY: this chunk's rows of field `f` in two different buffers.
            let (x, y) = unsafe {
                (
                    slice(x.add(f * x_stride), chunk.rows * self.dim_in),
                    slice_mut(y.add(f * y_stride), chunk.rows * self.dim_out),
                )
            };
            transposed.apply(x, y, bias, self.relu, false);
        }
        crate::matmul::count_macs(fields * chunk.rows * self.dim_in * self.dim_out);
    }

    #[inline(always)]
    pub(crate) fn backward<T: Real>(&self, chunk: &Chunk<'_, T>) {
        let fields = chunk.program.width(self.out);
        let input = chunk.program.inputs[self.inputs.range()][0];
        let (y, y_stride) = chunk.fields_of(self.out, self.dim_out);
        let (dy, dy_stride) = chunk.field_grads_of(self.out, self.dim_out);
        let weight = chunk.weight(self.weight);
        let mut panel = Panel::new(self.dim_out, self.dim_in);
        for o in 0..self.dim_out {
            // SAFETY: the weight slice has dim_out rows of dim_in elements.
            let row = unsafe { slice(weight.pointer.add(o * weight.row), self.dim_in) };
            for (i, &w) in row.iter().enumerate() {
                panel.set(o, i, w);
            }
        }
        for f in 0..fields {
            // SAFETY: this chunk's rows of field `f`.
            let (y, dy) = unsafe {
                (
                    slice(y.add(f * y_stride), chunk.rows * self.dim_out),
                    slice_mut(dy.add(f * dy_stride), chunk.rows * self.dim_out),
                )
            };
            if self.relu {
                update(dy, y, |y, dy| if y > T::ZERO { dy } else { T::ZERO });
            }
            if let Some(bias) = self.bias {
                let db = chunk.partial(bias);
                for dy in dy.chunks_exact(self.dim_out) {
                    update(db, dy, |dy, db| db + dy);
                }
            }
            if input.grad {
                let (dx, dx_stride) = chunk.field_grads_of(input.buffer, self.dim_in);
                // SAFETY: this chunk's rows of field `f`.
                let dx = unsafe { slice_mut(dx.add(f * dx_stride), chunk.rows * self.dim_in) };
                panel.apply(dy, dx, None, false, input.accumulate);
            }
        }
    }

    /// Rows `first .. first + rows` of `dW = sum over fields and rows of dy x^T`.
    #[inline(always)]
    pub(crate) fn weight_gradient<T: Real>(
        &self,
        batch: &Chunk<'_, T>,
        first: usize,
        rows: usize,
        grad: *mut T,
        grad_stride: usize,
    ) {
        let fields = batch.program.width(self.out);
        let source = batch.program.inputs[self.inputs.range()][0].buffer;
        let (x, x_stride) = batch.fields_of(source, self.dim_in);
        let (dy, dy_stride) = batch.field_grads_of(self.out, self.dim_out);
        for f in 0..fields {
            // SAFETY: the caller owns these rows of the gradient; operands are read only.
            unsafe {
                matmul(
                    rows,
                    self.dim_in,
                    batch.rows,
                    Strided { pointer: grad, row: grad_stride, col: 1 },
                    f > 0,
                    Strided::row_major(dy.add(f * dy_stride + first).cast_const(), self.dim_out)
                        .transposed(),
                    Strided::row_major(x.add(f * x_stride).cast_const(), self.dim_in),
                );
            }
        }
    }
}

/// A small matrix with its input axis first, so that one input scales a register of outputs.
struct Panel<T> {
    data: [[T; 64]; 64],
    inputs: usize,
    outputs: usize,
}

impl<T: Real> Panel<T> {
    #[inline(always)]
    fn new(inputs: usize, outputs: usize) -> Self {
        assert!(inputs <= 64 && outputs <= 64, "channels are at most 64");
        Self { data: [[T::ZERO; 64]; 64], inputs, outputs }
    }

    #[inline(always)]
    fn set(&mut self, input: usize, output: usize, value: T) {
        self.data[input][output] = value;
    }

    /// `y (+)= relu?(M x + b?)` for every vector of `x`.
    #[inline(always)]
    fn apply(&self, x: &[T], y: &mut [T], bias: Option<&[T]>, relu: bool, accumulate: bool) {
        if self.inputs == LANES && self.outputs == LANES {
            return self.apply16(x, y, bias, relu, accumulate);
        }
        let mut acc = [T::ZERO; 64];
        for (x, y) in x.chunks_exact(self.inputs).zip(y.chunks_exact_mut(self.outputs)) {
            let acc = &mut acc[..self.outputs];
            match bias {
                Some(bias) => acc.copy_from_slice(bias),
                None => acc.fill(T::ZERO),
            }
            for (x, column) in x.iter().zip(&self.data) {
                update(acc, &column[..], |w, a| w.mul_add(*x, a));
            }
            for (y, &a) in y.iter_mut().zip(acc.iter()) {
                put(y, if relu { a.max(T::ZERO) } else { a }, accumulate);
            }
        }
    }

    #[inline(always)]
    fn apply16(&self, x: &[T], y: &mut [T], bias: Option<&[T]>, relu: bool, accumulate: bool) {
        let mut matrix = [[T::ZERO; LANES]; LANES];
        for (row, data) in matrix.iter_mut().zip(&self.data) {
            row.copy_from_slice(&data[..LANES]);
        }
        let mut start = [T::ZERO; LANES];
        if let Some(bias) = bias {
            start.copy_from_slice(&bias[..LANES]);
        }
        let (xs, _) = x.as_chunks::<LANES>();
        let (ys, _) = y.as_chunks_mut::<LANES>();
        let mut blocks = xs.chunks_exact(ROWS);
        let mut targets = ys.chunks_exact_mut(ROWS);
        for (x, y) in blocks.by_ref().zip(targets.by_ref()) {
            let mut acc = [start; ROWS];
            for i in 0..LANES {
                for r in 0..ROWS {
                    for l in 0..LANES {
                        acc[r][l] = x[r][i].mul_add(matrix[i][l], acc[r][l]);
                    }
                }
            }
            for r in 0..ROWS {
                store16(&mut y[r], &acc[r], relu, accumulate);
            }
        }
        for (x, y) in blocks.remainder().iter().zip(targets.into_remainder()) {
            let mut acc = start;
            for i in 0..LANES {
                for l in 0..LANES {
                    acc[l] = x[i].mul_add(matrix[i][l], acc[l]);
                }
            }
            store16(y, &acc, relu, accumulate);
        }
    }
}

#[inline(always)]
fn store16<T: Real>(y: &mut [T; LANES], acc: &[T; LANES], relu: bool, accumulate: bool) {
    for l in 0..LANES {
        let value = if relu { acc[l].max(T::ZERO) } else { acc[l] };
        put(&mut y[l], value, accumulate);
    }
}
