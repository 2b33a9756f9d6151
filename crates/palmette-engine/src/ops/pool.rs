//! A list as one vector.

use std::cmp::Ordering;

use pulp::Simd;

use crate::Real;
use crate::chunk::{Chunk, slice, slice_mut};
use crate::lanes::{put, update};
use crate::program::{BufferId, Program, Span};

/// How the values of a row become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their sum.
    Sum,
    /// Their mean.
    Mean,
    /// The largest of each channel; the gradient goes to the first value that has it.
    Max,
}

/// `y[0, r, :] = pool over the values i of row r of x[i, :]`, zeros for a row without values.
///
/// Shapes: `x: [values, dim]`, `y: [1, rows, dim]`. With [`JaggedEmbedding`](super::JaggedEmbedding)
/// in front it is an embedding bag.
#[derive(Clone, Debug)]
pub struct Pool {
    pub(crate) inputs: Span,
    /// Output.
    pub out: BufferId,
    /// Index of the list in the batch.
    pub list: usize,
    /// Channels.
    pub dim: usize,
    /// Sum, mean or maximum.
    pub pooling: Pooling,
}

impl Pool {
    pub(crate) fn inputs(&self) -> Span {
        self.inputs
    }

    pub(crate) fn macs(&self, _: &Program) -> u64 {
        0
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let source = chunk.program.inputs[self.inputs.range()][0].buffer;
        let (x, _) = chunk.fields_of(source, self.dim);
        let (y, _) = chunk.fields_of(self.out, self.dim);
        for r in 0..chunk.rows {
            let values = chunk.list_row(self.list, r);
            // SAFETY: row `r` and its values, in two different buffers of this chunk.
            let (x, y) = unsafe {
                (
                    slice(x.add(values.start * self.dim), values.len() * self.dim),
                    slice_mut(y.add(r * self.dim), self.dim),
                )
            };
            let Some((first, rest)) = x.split_at_checked(self.dim) else {
                y.fill(T::ZERO);
                continue;
            };
            y.copy_from_slice(first);
            for x in rest.chunks_exact(self.dim) {
                match self.pooling {
                    Pooling::Sum | Pooling::Mean => update(y, x, |x, y| y + x),
                    Pooling::Max => update(y, x, larger),
                }
            }
            if self.pooling == Pooling::Mean {
                let scale = T::from_f64(1.0 / values.len() as f64);
                y.iter_mut().for_each(|y| *y *= scale);
            }
        }
    }

    #[inline(always)]
    pub(crate) fn backward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let input = chunk.program.inputs[self.inputs.range()][0];
        if !input.grad {
            return;
        }
        let (x, _) = chunk.fields_of(input.buffer, self.dim);
        let (dx, _) = chunk.field_grads_of(input.buffer, self.dim);
        let (dy, _) = chunk.field_grads_of(self.out, self.dim);
        for r in 0..chunk.rows {
            let values = chunk.list_row(self.list, r);
            let (start, len) = (values.start * self.dim, values.len() * self.dim);
            // SAFETY: row `r` and its values, in different buffers of this chunk.
            let (x, dx, dy) = unsafe {
                (
                    slice(x.add(start), len),
                    slice_mut(dx.add(start), len),
                    slice(dy.add(r * self.dim), self.dim),
                )
            };
            if self.pooling == Pooling::Max {
                if !input.accumulate {
                    dx.fill(T::ZERO);
                }
                for c in 0..self.dim {
                    let mut best = None;
                    for i in (c..len).step_by(self.dim) {
                        if best.is_none_or(|best: usize| x[i] > x[best]) {
                            best = Some(i);
                        }
                    }
                    if let Some(best) = best {
                        dx[best] += dy[c];
                    }
                }
                continue;
            }
            let scale = match self.pooling {
                Pooling::Mean if len > 0 => T::from_f64(1.0 / values.len() as f64),
                _ => T::ONE,
            };
            for dx in dx.chunks_exact_mut(self.dim) {
                for (dx, &dy) in dx.iter_mut().zip(dy) {
                    put(dx, dy * scale, input.accumulate);
                }
            }
        }
    }
}

/// What is not a number stays so.
#[inline(always)]
fn larger<T: Real>(x: T, y: T) -> T {
    match x.partial_cmp(&y) {
        Some(Ordering::Greater) => x,
        Some(_) => y,
        None => x + y,
    }
}

#[cfg(test)]
mod tests {
    use super::larger;

    #[test]
    fn the_larger_hides_nothing() {
        assert_eq!([larger(2.0, 1.0), larger(1.0, 2.0), larger(-1.0, -1.0)], [2.0, 2.0, -1.0]);
        assert!(larger(f32::NAN, 1.0).is_nan() && larger(1.0, f32::NAN).is_nan());
        assert_eq!(larger(f64::NEG_INFINITY, f64::INFINITY), f64::INFINITY);
    }
}
