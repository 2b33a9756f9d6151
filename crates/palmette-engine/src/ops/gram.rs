//! Dot products of all pairs (DP, factorisation-machine style interactions).

use pulp::Simd;

use crate::Real;
use crate::chunk::{Chunk, slice, slice_mut};
use crate::lanes::{LANES, put};
use crate::program::{BufferId, Program, Span};

/// `G = T T^T`, of which the strict lower triangle leaves row by row.
///
/// T stacks an optional vector `x: [rows, dim]` (row 0) and fields
/// `Y_j: [n_j, rows, dim]`; with k + 1 vectors the output is `[rows, k (k + 1) / 2]`,
/// pairs in the order (1,0), (2,0), (2,1), ...
#[derive(Clone, Debug)]
pub struct Gram {
    pub(crate) inputs: Span,
    /// Whether the first input is the vector.
    pub has_vector: bool,
    /// Output.
    pub out: BufferId,
    /// Channels, at most 16 lanes wide blocks of which are multiplied at a time.
    pub dim: usize,
    /// Vectors stacked, k + 1.
    pub vectors: usize,
}

impl Gram {
    pub(crate) fn inputs(&self) -> Span {
        self.inputs
    }

    /// Counted as the whole product, `dim (k + 1)^2`, as NASRec counts it.
    pub(crate) fn macs(&self, _: &Program) -> u64 {
        (self.dim * self.vectors * self.vectors) as u64
    }

    /// Elements of scratch: the stacked vectors, their transpose, and gradients of the former.
    pub(crate) fn scratch_len(vectors: usize, dim: usize) -> usize {
        3 * (vectors.next_multiple_of(LANES) + LANES) * dim.next_multiple_of(LANES)
    }

    /// Calls `each(index of the stacked vector, pointer, input index)` for one row.
    #[inline(always)]
    fn stack<T: Real>(
        &self,
        chunk: &Chunk<'_, T>,
        grads: bool,
        r: usize,
        mut each: impl FnMut(usize, *mut T, usize),
    ) {
        let mut position = 0;
        for (j, input) in chunk.program.inputs[self.inputs.range()].iter().enumerate() {
            if j == 0 && self.has_vector {
                let (x, stride) = if grads {
                    chunk.row_grads_of(input.buffer)
                } else {
                    chunk.rows_of(input.buffer)
                };
                // SAFETY: row `r` of this chunk.
                each(0, unsafe { x.add(r * stride) }, j);
                position = 1;
                continue;
            }
            let (y, stride) = if grads {
                chunk.field_grads_of(input.buffer, self.dim)
            } else {
                chunk.fields_of(input.buffer, self.dim)
            };
            for f in 0..chunk.program.width(input.buffer) {
                // SAFETY: row `r` of field `f` of this chunk.
                each(position, unsafe { y.add(f * stride + r * self.dim) }, j);
                position += 1;
            }
        }
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let (vectors, dim) = (self.vectors, self.dim);
        let columns = vectors.next_multiple_of(LANES);
        // SAFETY: `scratch_len` elements belong to this chunk.
        let transposed = unsafe { slice_mut(chunk.scratch, dim * columns) };
        let (out, out_stride) = chunk.rows_of(self.out);
        for r in 0..chunk.rows {
            self.stack(chunk, false, r, |v, x, _| {
                // SAFETY: `dim` channels of one vector.
                for (e, &x) in unsafe { slice(x, dim) }.iter().enumerate() {
                    transposed[e * columns + v] = x;
                }
            });
            let width = vectors * (vectors - 1) / 2;
            // SAFETY: row `r` of the output.
            let out = unsafe { slice_mut(out.add(r * out_stride), width) };
            let mut start = 0;
            for i in 1..vectors {
                for block in (0..i).step_by(LANES) {
                    let mut acc = [T::ZERO; LANES];
                    for e in 0..dim {
                        let x = transposed[e * columns + i];
                        let row: &[T; LANES] = lanes_at(transposed, e * columns + block);
                        for l in 0..LANES {
                            acc[l] = x.mul_add(row[l], acc[l]);
                        }
                    }
                    let count = LANES.min(i - block);
                    out[start + block..start + block + count].copy_from_slice(&acc[..count]);
                }
                start += i;
            }
        }
        crate::matmul::count_macs(chunk.rows * dim * vectors * vectors);
    }

    /// `dT_i = sum_{j<i} g_ij T_j + sum_{j>i} g_ji T_j`.
    #[inline(always)]
    pub(crate) fn backward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let (vectors, dim) = (self.vectors, self.dim);
        // SAFETY: `scratch_len` elements belong to this chunk.
        let (stacked, grads) =
            unsafe { slice_mut(chunk.scratch, 2 * vectors * dim) }.split_at_mut(vectors * dim);
        let (dout, dout_stride) = chunk.row_grads_of(self.out);
        for r in 0..chunk.rows {
            self.stack(chunk, false, r, |v, x, _| {
                // SAFETY: `dim` channels of one vector.
                stacked[v * dim..(v + 1) * dim].copy_from_slice(unsafe { slice(x, dim) });
            });
            grads.fill(T::ZERO);
            // SAFETY: row `r` of the output's gradient.
            let dout = unsafe { slice(dout.add(r * dout_stride), vectors * (vectors - 1) / 2) };
            if dim == LANES {
                pairs16(stacked, grads, dout, vectors);
            } else {
                let mut start = 0;
                for i in 1..vectors {
                    for j in 0..i {
                        let g = dout[start + j];
                        for e in 0..dim {
                            let (ti, tj) = (stacked[i * dim + e], stacked[j * dim + e]);
                            grads[i * dim + e] = g.mul_add(tj, grads[i * dim + e]);
                            grads[j * dim + e] = g.mul_add(ti, grads[j * dim + e]);
                        }
                    }
                    start += i;
                }
            }
            let uses = &chunk.program.inputs[self.inputs.range()];
            self.stack(chunk, true, r, |v, dx, j| {
                if uses[j].grad {
                    // SAFETY: `dim` channels of one vector's gradient.
                    let dx = unsafe { slice_mut(dx, dim) };
                    for (dx, &g) in dx.iter_mut().zip(&grads[v * dim..(v + 1) * dim]) {
                        put(dx, g, uses[j].accumulate);
                    }
                }
            });
        }
    }
}

/// The sixteen elements from `start`.
#[inline(always)]
fn lanes_at<T>(data: &[T], start: usize) -> &[T; LANES] {
    data[start..].first_chunk().expect("scratch rows are padded to whole lanes")
}

/// The pair sums for sixteen channels: one register a vector.
#[inline(always)]
fn pairs16<T: Real>(stacked: &[T], grads: &mut [T], dout: &[T], vectors: usize) {
    let (t, _) = stacked.as_chunks::<LANES>();
    let (g, _) = grads.as_chunks_mut::<LANES>();
    let mut start = 0;
    for i in 1..vectors {
        let ti = t[i];
        let mut own = [T::ZERO; LANES];
        for ((tj, gj), &d) in t[..i].iter().zip(&mut g[..i]).zip(&dout[start..start + i]) {
            for l in 0..LANES {
                own[l] = d.mul_add(tj[l], own[l]);
                gj[l] = d.mul_add(ti[l], gj[l]);
            }
        }
        for l in 0..LANES {
            g[i][l] += own[l];
        }
        start += i;
    }
}
