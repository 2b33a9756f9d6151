//! A linear map of the channels of every field and row (projections and feed-forward of attention).

use pulp::Simd;

use crate::Real;
use crate::chunk::{Chunk, slice, slice_mut};
use crate::lanes::{put, update};
use crate::matmul::Strided;
use crate::program::{BufferId, Program, SliceId, Span};
use crate::simd::BLOCK;

/// `y[f, r, :] = relu?(W x[f, r, :] + b?)`.
///
/// Shapes: `x: [fields, rows, m]`, `W: [d, m]`, `y: [fields, rows, d]`; or over the values of a
/// list, `[values, m]` to `[values, d]`.
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

impl RowMap {
    pub(crate) fn inputs(&self) -> Span {
        self.inputs
    }

    pub(crate) fn macs(&self, program: &Program) -> u64 {
        (program.width(self.out) * self.dim_in * self.dim_out) as u64
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, simd: S, chunk: &Chunk<'_, T>) {
        let (fields, rows) = (chunk.program.width(self.out), chunk.vectors(self.out));
        let source = chunk.program.inputs[self.inputs.range()][0].buffer;
        let (x, x_stride) = chunk.fields_of(source, self.dim_in);
        let (y, y_stride) = chunk.fields_of(self.out, self.dim_out);
        let map = Map::new(chunk.weight(self.weight).transposed(), self.dim_in, self.dim_out);
        let bias = self.bias.map(|b| chunk.vector(b));
        for f in 0..fields {
            // SAFETY: this chunk's rows of field `f` in two different buffers.
            let (x, y) = unsafe {
                (
                    slice(x.add(f * x_stride), rows * self.dim_in),
                    slice_mut(y.add(f * y_stride), rows * self.dim_out),
                )
            };
            map.apply(simd, x, y, bias, self.relu, false);
        }
        crate::matmul::count_macs(fields * rows * self.dim_in * self.dim_out);
    }

    /// The weights' gradient is summed chunk by chunk, while both its operands are in the cache.
    #[inline(always)]
    pub(crate) fn backward<T: Real, S: Simd>(&self, simd: S, chunk: &Chunk<'_, T>) {
        let (fields, rows) = (chunk.program.width(self.out), chunk.vectors(self.out));
        let input = chunk.program.inputs[self.inputs.range()][0];
        let (x, x_stride) = chunk.fields_of(input.buffer, self.dim_in);
        let (y, y_stride) = chunk.fields_of(self.out, self.dim_out);
        let (dy, dy_stride) = chunk.field_grads_of(self.out, self.dim_out);
        let map = Map::new(chunk.weight(self.weight), self.dim_out, self.dim_in);
        for f in 0..fields {
            // SAFETY: this chunk's rows of field `f` in each buffer.
            let (x, y, dy) = unsafe {
                (
                    slice(x.add(f * x_stride), rows * self.dim_in),
                    slice(y.add(f * y_stride), rows * self.dim_out),
                    slice_mut(dy.add(f * dy_stride), rows * self.dim_out),
                )
            };
            if self.relu {
                update(dy, y, |y, dy| if y > T::ZERO { dy } else { T::ZERO });
            }
            let dw = chunk.partial(self.weight);
            let db = self.bias.map(|bias| chunk.partial(bias));
            if (self.dim_in, self.dim_out) == (BLOCK, BLOCK) {
                outer_sums(simd, dy, x, dw);
                if let Some(db) = db {
                    vector_sums(simd, dy, db);
                }
            } else {
                for (dy, x) in dy.chunks_exact(self.dim_out).zip(x.chunks_exact(self.dim_in)) {
                    for (dw, &dy) in dw.chunks_exact_mut(self.dim_in).zip(dy) {
                        update(dw, x, |x, dw| x.mul_add(dy, dw));
                    }
                }
                if let Some(db) = db {
                    dy.chunks_exact(self.dim_out).for_each(|dy| update(db, dy, |dy, db| db + dy));
                }
            }
            if input.grad {
                let (dx, dx_stride) = chunk.field_grads_of(input.buffer, self.dim_in);
                // SAFETY: this chunk's rows of field `f`.
                let dx = unsafe { slice_mut(dx.add(f * dx_stride), rows * self.dim_in) };
                map.apply(simd, dy, dx, None, false, input.accumulate);
            }
        }
    }
}

/// A small matrix with its input axis first, so that one input scales a register of outputs.
struct Map<T> {
    data: [[T; 64]; 64],
    inputs: usize,
    outputs: usize,
}

impl<T: Real> Map<T> {
    /// Row `i` of `matrix` holds what input `i` adds to each output.
    #[inline(always)]
    fn new(matrix: Strided<*const T>, inputs: usize, outputs: usize) -> Self {
        assert!(inputs <= 64 && outputs <= 64, "channels are at most 64");
        let mut data = [[T::ZERO; 64]; 64];
        for (i, row) in data.iter_mut().enumerate().take(inputs) {
            for (o, w) in row.iter_mut().enumerate().take(outputs) {
                // SAFETY: the weight slice has this element.
                *w = unsafe { *matrix.pointer.add(i * matrix.row + o * matrix.col) };
            }
        }
        Self { data, inputs, outputs }
    }

    /// `y (+)= relu?(M x + b?)` for every vector of `x`.
    #[inline(always)]
    fn apply<S: Simd>(
        &self,
        simd: S,
        x: &[T],
        y: &mut [T],
        bias: Option<&[T]>,
        relu: bool,
        accumulate: bool,
    ) {
        if self.inputs == BLOCK && self.outputs == BLOCK {
            let mut start = [T::ZERO; BLOCK];
            if let Some(bias) = bias {
                start.copy_from_slice(&bias[..BLOCK]);
            }
            for o in (0..BLOCK).step_by(T::width::<S>()) {
                self.apply_block(simd, o, &start, x, y, relu, accumulate);
            }
            return;
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

    /// A register of outputs from `o` for all vectors, the weights in sixteen registers.
    #[inline(always)]
    fn apply_block<S: Simd>(
        &self,
        simd: S,
        o: usize,
        start: &[T; BLOCK],
        x: &[T],
        y: &mut [T],
        relu: bool,
        accumulate: bool,
    ) {
        // SAFETY: outputs from `o` fill a register.
        let (weights, start) = unsafe {
            let mut weights = [T::splat(simd, T::ZERO); BLOCK];
            for (weight, row) in weights.iter_mut().zip(&self.data) {
                *weight = T::load(simd, row[o..].as_ptr());
            }
            (weights, T::load(simd, start[o..].as_ptr()))
        };
        let (xs, ys) = (x.as_chunks::<BLOCK>().0, y.as_chunks_mut::<BLOCK>().0);
        let (rows, mut r) = (xs.len().min(ys.len()), 0);
        // SAFETY: rows `r ..` exist in both.
        unsafe {
            while r + 8 <= rows {
                let (x, y) = (xs[r..].as_ptr().cast(), ys[r..].as_mut_ptr().cast::<T>().add(o));
                map_rows::<T, S, 8>(simd, &weights, start, x, y, relu, accumulate);
                r += 8;
            }
            while r < rows {
                let (x, y) = (xs[r..].as_ptr().cast(), ys[r..].as_mut_ptr().cast::<T>().add(o));
                map_rows::<T, S, 1>(simd, &weights, start, x, y, relu, accumulate);
                r += 1;
            }
        }
    }
}

/// `R` vectors of sixteen inputs; eight hide the latency of a multiply-add.
///
/// # Safety
/// `x` must hold `R` vectors of sixteen elements, `y` as many starts of registers.
#[inline(always)]
unsafe fn map_rows<T: Real, S: Simd, const R: usize>(
    simd: S,
    weights: &[T::Register<S>; BLOCK],
    start: T::Register<S>,
    x: *const T,
    y: *mut T,
    relu: bool,
    accumulate: bool,
) {
    let mut acc = [start; R];
    for i in 0..BLOCK {
        for r in 0..R {
            // SAFETY: element `i` of vector `r`.
            let x = T::splat(simd, unsafe { *x.add(r * BLOCK + i) });
            acc[r] = T::fma(simd, x, weights[i], acc[r]);
        }
    }
    for r in 0..R {
        // SAFETY: a register of vector `r`.
        unsafe {
            let y = y.add(r * BLOCK);
            let mut value = acc[r];
            if relu {
                value = T::larger(simd, T::splat(simd, T::ZERO), value);
            }
            if accumulate {
                value = T::plus(simd, T::load(simd, y), value);
            }
            T::store(simd, y, value);
        }
    }
}

/// `sums[o][i] += sum_r dy[r][o] x[r][i]` for vectors of sixteen elements.
#[inline(always)]
fn outer_sums<T: Real, S: Simd>(simd: S, dy: &[T], x: &[T], sums: &mut [T]) {
    let (dys, xs) = (dy.as_chunks::<BLOCK>().0, x.as_chunks::<BLOCK>().0);
    let sums = sums.as_chunks_mut::<BLOCK>().0;
    for i in (0..BLOCK).step_by(T::width::<S>()) {
        // SAFETY: inputs from `i` fill a register.
        unsafe {
            let mut acc = [T::splat(simd, T::ZERO); BLOCK];
            for (acc, row) in acc.iter_mut().zip(sums.iter()) {
                *acc = T::load(simd, row[i..].as_ptr());
            }
            for (dy, x) in dys.iter().zip(xs) {
                let x = T::load(simd, x[i..].as_ptr());
                for o in 0..BLOCK {
                    acc[o] = T::fma(simd, T::splat(simd, dy[o]), x, acc[o]);
                }
            }
            for (acc, row) in acc.iter().zip(sums.iter_mut()) {
                T::store(simd, row[i..].as_mut_ptr(), *acc);
            }
        }
    }
}

/// `sums[o] += sum_r dy[r][o]` for vectors of sixteen elements, four sums at a time.
#[inline(always)]
fn vector_sums<T: Real, S: Simd>(simd: S, dy: &[T], sums: &mut [T]) {
    let dys = dy.as_chunks::<BLOCK>().0;
    for o in (0..BLOCK).step_by(T::width::<S>()) {
        // SAFETY: outputs from `o` fill a register.
        unsafe {
            let mut acc = [T::splat(simd, T::ZERO); 4];
            for dys in dys.chunks(4) {
                for (acc, dy) in acc.iter_mut().zip(dys) {
                    *acc = T::plus(simd, *acc, T::load(simd, dy[o..].as_ptr()));
                }
            }
            let sum = T::plus(simd, T::plus(simd, acc[0], acc[1]), T::plus(simd, acc[2], acc[3]));
            let place = sums[o..].as_mut_ptr();
            T::store(simd, place, T::plus(simd, T::load(simd, place), sum));
        }
    }
}
