//! Element-wise sums and products.

use pulp::Simd;

use crate::Real;
use crate::chunk::{Chunk, slice, slice_mut};
use crate::lanes::{put, relu, update};
use crate::program::{BufferId, Extent, Program, Span};

/// `y = relu?(sum_j x_j)`.
///
/// Shapes: all rows buffers (shorter ones are continued with zeros) or all
/// fields buffers of one shape. A buffer may occur twice.
#[derive(Clone, Debug)]
pub struct Add {
    pub(crate) inputs: Span,
    /// Output.
    pub out: BufferId,
    /// Whether a ReLU comes last.
    pub relu: bool,
}

/// Runs `f(start of y, start of x, length of y, length of x)` over contiguous runs of the chunk.
#[inline(always)]
fn runs<T: Real>(
    chunk: &Chunk<'_, T>,
    y: BufferId,
    x: BufferId,
    mut f: impl FnMut(usize, usize, usize, usize),
) {
    let (yb, xb) = (chunk.program.buffer(y), chunk.program.buffer(x));
    // One call: a closure with several callers is not inlined, and loses the instruction set.
    let (count, skipped, y_len, x_len) = match yb.extent {
        Extent::Rows { width } => {
            let x_width = chunk.program.width(x).min(width);
            let skipped = [yb, xb].map(|b| chunk.first_row(b) * b.stride);
            (chunk.rows, skipped, width, x_width)
        }
        Extent::Fields { fields, dim } => {
            let skipped = [yb, xb].map(|b| chunk.first_row(b) * dim);
            (fields, skipped, chunk.rows * dim, chunk.rows * dim)
        }
        Extent::Jagged { dim, .. } => {
            let (start, len) = (chunk.first_vector(yb) * dim, chunk.vectors(y) * dim);
            (1, [start; 2], len, len)
        }
    };
    for run in 0..count {
        let y = yb.offset + skipped[0] + run * yb.stride;
        let x = xb.offset + skipped[1] + run * xb.stride;
        f(y, x, y_len, x_len);
    }
}

impl Add {
    pub(crate) fn inputs(&self) -> Span {
        self.inputs
    }

    pub(crate) fn macs(&self, _: &Program) -> u64 {
        0
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let uses = &chunk.program.inputs[self.inputs.range()];
        for (j, input) in uses.iter().enumerate() {
            let last = j + 1 == uses.len();
            runs(chunk, self.out, input.buffer, |y, x, y_len, x_len| {
                // SAFETY: runs of this chunk; the output is no input.
                let (y, x) = unsafe {
                    (slice_mut(chunk.values.add(y), y_len), slice(chunk.values.add(x), x_len))
                };
                for (y, &x) in y.iter_mut().zip(x) {
                    put(y, x, j > 0);
                }
                if j == 0 {
                    y[x_len..].fill(T::ZERO);
                }
                if last && self.relu {
                    y.iter_mut().for_each(|y| *y = relu(*y));
                }
            });
        }
    }

    #[inline(always)]
    pub(crate) fn backward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        if self.relu {
            runs(chunk, self.out, self.out, |y, _, len, _| {
                // SAFETY: runs of this chunk in two arenas.
                let (y, dy) = unsafe {
                    (slice(chunk.values.add(y), len), slice_mut(chunk.grads.add(y), len))
                };
                update(dy, y, |y, dy| if y > T::ZERO { dy } else { T::ZERO });
            });
        }
        for input in &chunk.program.inputs[self.inputs.range()] {
            if input.grad {
                runs(chunk, input.buffer, self.out, |x, y, x_len, y_len| {
                    // SAFETY: runs of this chunk in different buffers.
                    let (dx, dy) = unsafe {
                        (slice_mut(chunk.grads.add(x), x_len), slice(chunk.grads.add(y), y_len))
                    };
                    for (dx, &dy) in dx.iter_mut().zip(dy) {
                        put(dx, dy, input.accumulate);
                    }
                    if !input.accumulate && x_len > y_len {
                        dx[y_len..].fill(T::ZERO);
                    }
                });
            }
        }
    }
}

/// `y = a * b`, element by element. Shapes: all equal.
#[derive(Clone, Debug)]
pub struct Multiply {
    pub(crate) inputs: Span,
    /// Output.
    pub out: BufferId,
}

impl Multiply {
    pub(crate) fn inputs(&self) -> Span {
        self.inputs
    }

    pub(crate) fn macs(&self, _: &Program) -> u64 {
        0
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let uses = &chunk.program.inputs[self.inputs.range()];
        for (j, input) in uses.iter().enumerate() {
            runs(chunk, self.out, input.buffer, |y, x, len, _| {
                // SAFETY: runs of this chunk; the output is no input.
                let (y, x) = unsafe {
                    (slice_mut(chunk.values.add(y), len), slice(chunk.values.add(x), len))
                };
                update(y, x, |x, y| if j == 0 { x } else { x * y });
            });
        }
    }

    #[inline(always)]
    pub(crate) fn backward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let uses = &chunk.program.inputs[self.inputs.range()];
        for (input, other) in [(uses[0], uses[1]), (uses[1], uses[0])] {
            if !input.grad {
                continue;
            }
            let other_buffer = chunk.program.buffer(other.buffer);
            let own = chunk.program.buffer(input.buffer);
            runs(chunk, input.buffer, self.out, |x, y, len, _| {
                // Equal shapes have equal strides and pass or stay alike, so the runs lie at equal
                // distances.
                let place = other_buffer.offset + (x - own.offset);
                // SAFETY: runs of this chunk in different buffers or arenas.
                let (dx, dy, b) = unsafe {
                    (
                        slice_mut(chunk.grads.add(x), len),
                        slice(chunk.grads.add(y), len),
                        slice(chunk.values.add(place), len),
                    )
                };
                for ((dx, &dy), &b) in dx.iter_mut().zip(dy).zip(b) {
                    put(dx, dy * b, input.accumulate);
                }
            });
        }
    }
}
