//! A linear map of the channels of every field and row (projections and feed-forward of attention).

use std::mem::MaybeUninit;

use pulp::Simd;

use crate::Real;
use crate::chunk::{Chunk, slice, slice_mut};
use crate::lanes::{self, put, update};
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
        let mut memory = Memory::new();
        let weight = chunk.weight(self.weight).transposed();
        let map = Map::new(simd, &mut memory, weight, self.dim_in, self.dim_out);
        let bias = self.bias.map(|b| chunk.vector(b));
        let vectors = Vectors { fields, rows, x: (x.cast_const(), x_stride), y: (y, y_stride) };
        map.apply(simd, vectors, bias, self.relu, false);
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
        let mut memory = Memory::new();
        let weight = chunk.weight(self.weight);
        let map = Map::new(simd, &mut memory, weight, self.dim_out, self.dim_in);
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
                let dx = (dx.wrapping_add(f * dx_stride), dx_stride);
                let vectors = Vectors { fields: 1, rows, x: (dy.as_ptr(), dy_stride), y: dx };
                map.apply(simd, vectors, None, false, input.accumulate);
            }
        }
    }
}

/// Vectors that a map is applied to: `rows` of each field, one behind the other.
#[derive(Clone, Copy)]
struct Vectors<T> {
    fields: usize,
    rows: usize,
    /// The first input, and elements from field to field.
    x: (*const T, usize),
    /// The first output, and elements from field to field.
    y: (*mut T, usize),
}

/// Channels at most.
const CHANNELS: usize = 64;

/// Memory for a map, aligned to a cache line.
#[repr(align(64))]
struct Memory<T>([[MaybeUninit<T>; CHANNELS]; CHANNELS]);

impl<T: Copy> Memory<T> {
    #[inline(always)]
    fn new() -> Self {
        Self([[MaybeUninit::uninit(); CHANNELS]; CHANNELS])
    }
}

/// A small matrix with its input axis first, so that one input scales a register of outputs.
struct Map<T> {
    /// `inputs` rows of `outputs` elements, [`CHANNELS`] apart.
    data: *const T,
    inputs: usize,
    outputs: usize,
}

impl<T: Real> Map<T> {
    /// Row `i` of `matrix` holds what input `i` adds to each output. The map lives as long as its
    /// memory.
    #[inline(always)]
    fn new<S: Simd>(
        simd: S,
        memory: &mut Memory<T>,
        matrix: Strided<*const T>,
        inputs: usize,
        outputs: usize,
    ) -> Self {
        assert!(inputs <= CHANNELS && outputs <= CHANNELS, "channels are at most {CHANNELS}");
        let data = memory.0.as_mut_ptr().cast::<T>();
        // SAFETY: elements of the weight slice and of the memory.
        unsafe {
            if matrix.row == 1 && (inputs, outputs) == (BLOCK, BLOCK) {
                T::transpose(simd, (matrix.pointer, matrix.col), (data, CHANNELS));
            } else {
                for i in 0..inputs {
                    for o in 0..outputs {
                        *data.add(i * CHANNELS + o) =
                            *matrix.pointer.add(i * matrix.row + o * matrix.col);
                    }
                }
            }
        }
        Self { data, inputs, outputs }
    }

    /// What input `i` adds to the outputs.
    #[inline(always)]
    fn column(&self, i: usize) -> &[T] {
        // SAFETY: `new` has written these elements.
        unsafe { slice(self.data.add(i * CHANNELS), self.outputs) }
    }

    /// `y (+)= relu?(M x + b?)` for all vectors.
    #[inline(always)]
    fn apply<S: Simd>(
        &self,
        simd: S,
        vectors: Vectors<T>,
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
                self.apply_block(simd, o, &start, vectors, relu, accumulate);
            }
            return;
        }
        let mut acc = [T::ZERO; CHANNELS];
        let acc = &mut acc[..self.outputs];
        for f in 0..vectors.fields {
            // SAFETY: all rows of field `f` of two different buffers.
            let (x, y) = unsafe {
                let (x, y) = (vectors.x.0.add(f * vectors.x.1), vectors.y.0.add(f * vectors.y.1));
                (slice(x, vectors.rows * self.inputs), slice_mut(y, vectors.rows * self.outputs))
            };
            for (x, y) in x.chunks_exact(self.inputs).zip(y.chunks_exact_mut(self.outputs)) {
                match bias {
                    Some(bias) => acc.copy_from_slice(bias),
                    None => acc.fill(T::ZERO),
                }
                for (i, x) in x.iter().enumerate() {
                    update(acc, self.column(i), |w, a| w.mul_add(*x, a));
                }
                for (y, &a) in y.iter_mut().zip(acc.iter()) {
                    put(y, if relu { lanes::relu(a) } else { a }, accumulate);
                }
            }
        }
    }

    /// A register of outputs from `o` for all vectors, the weights in sixteen registers: along
    /// the rows of a field, or along the fields of a row where these are more.
    #[inline(always)]
    fn apply_block<S: Simd>(
        &self,
        simd: S,
        o: usize,
        start: &[T; BLOCK],
        vectors: Vectors<T>,
        relu: bool,
        accumulate: bool,
    ) {
        // SAFETY: outputs from `o` fill a register.
        let (weights, start) = unsafe {
            let mut weights = [T::splat(simd, T::ZERO); BLOCK];
            for (i, weight) in weights.iter_mut().enumerate() {
                *weight = T::load(simd, self.column(i)[o..].as_ptr());
            }
            (weights, T::load(simd, start[o..].as_ptr()))
        };
        let Vectors { fields, rows, x, y } = vectors;
        // Lines of vectors: how many, vectors of each, and elements from line to line and along.
        let along_rows = rows >= fields.min(TOGETHER);
        let (lines, len) = if along_rows { (fields, rows) } else { (rows, fields) };
        let strides = |field| if along_rows { [field, BLOCK] } else { [BLOCK, field] };
        let ([x_line, x_stride], [y_line, y_stride]) = (strides(x.1), strides(y.1));
        for line in 0..lines {
            let mut v = 0;
            // SAFETY: vectors `v ..` of this line.
            unsafe {
                let (x, y) = (x.0.add(line * x_line), y.0.add(line * y_line + o));
                while v + TOGETHER <= len {
                    let (x, y) = ((x.add(v * x_stride), x_stride), (y.add(v * y_stride), y_stride));
                    map_vectors::<T, S, TOGETHER>(simd, &weights, start, x, y, relu, accumulate);
                    v += TOGETHER;
                }
                while v < len {
                    let (x, y) = ((x.add(v * x_stride), x_stride), (y.add(v * y_stride), y_stride));
                    map_vectors::<T, S, 1>(simd, &weights, start, x, y, relu, accumulate);
                    v += 1;
                }
            }
        }
    }
}

/// Vectors that are mapped together: eight hide the latency of a multiply-add.
const TOGETHER: usize = 8;

/// `R` vectors of sixteen inputs, with the elements from one to the next.
///
/// # Safety
/// `x` must hold `R` vectors of sixteen elements, `y` as many starts of registers.
#[inline(always)]
unsafe fn map_vectors<T: Real, S: Simd, const R: usize>(
    simd: S,
    weights: &[T::Register<S>; BLOCK],
    start: T::Register<S>,
    (x, x_stride): (*const T, usize),
    (y, y_stride): (*mut T, usize),
    relu: bool,
    accumulate: bool,
) {
    let mut acc = [start; R];
    for i in 0..BLOCK {
        for r in 0..R {
            // SAFETY: element `i` of vector `r`.
            let x = T::splat(simd, unsafe { *x.add(r * x_stride + i) });
            acc[r] = T::fma(simd, x, weights[i], acc[r]);
        }
    }
    for r in 0..R {
        // SAFETY: a register of vector `r`.
        unsafe {
            let y = y.add(r * y_stride);
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
