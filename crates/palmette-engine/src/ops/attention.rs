//! Multi-head attention over the fields of a row.

use crate::Real;
use crate::chunk::{Chunk, slice, slice_mut};
use crate::lanes::{LANES, put, total};
use crate::program::{BufferId, Program, Span};

/// `O_h = softmax(Q_h K_h^T / sqrt(head_dim)) V_h` for every head h and row.
///
/// Shapes: `Q, K, V, O: [fields, rows, dim]`, `dim = heads * head_dim`. The
/// scores of one head of one row live in scratch and are computed again for
/// backward (Vaswani et al. 2017; no mask, no dropout).
#[derive(Clone, Debug)]
pub struct AttentionCore {
    pub(crate) inputs: Span,
    /// Output.
    pub out: BufferId,
    /// Channels.
    pub dim: usize,
    /// Heads.
    pub heads: usize,
}

/// One head of one row with channels first: `[head_dim][padded fields]`.
struct Head<'a, T> {
    data: &'a mut [T],
    stride: usize,
}

impl<T: Real> Head<'_, T> {
    #[inline(always)]
    fn load(&mut self, source: *const T, field_stride: usize, fields: usize, head_dim: usize) {
        for f in 0..fields {
            // SAFETY: `head_dim` channels of one field of one row of this chunk.
            let x = unsafe { slice(source.add(f * field_stride), head_dim) };
            for (c, &x) in x.iter().enumerate() {
                self.data[c * self.stride + f] = x;
            }
        }
    }

    #[inline(always)]
    fn lanes(&self, channel: usize, block: usize) -> &[T; LANES] {
        let start = channel * self.stride + block;
        self.data[start..].first_chunk().expect("fields are padded to whole lanes")
    }
}

impl AttentionCore {
    pub(crate) fn inputs(&self) -> Span {
        self.inputs
    }

    /// `Q K^T` and the weighted sum of V: `2 dim fields^2`.
    pub(crate) fn macs(&self, program: &Program) -> u64 {
        (2 * self.dim * program.width(self.out).pow(2)) as u64
    }

    /// Elements of scratch for one head of one row.
    pub(crate) fn scratch_len(fields: usize, dim: usize, heads: usize) -> usize {
        let padded = fields.next_multiple_of(LANES);
        // q, k, v, o, do with channels first; probabilities and their gradients; row sums.
        (5 * (dim / heads) + 2 * fields + 2) * padded
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real>(&self, chunk: &Chunk<'_, T>) {
        match self.dim / self.heads {
            1 => self.forward_heads::<T, 1>(chunk),
            2 => self.forward_heads::<T, 2>(chunk),
            4 => self.forward_heads::<T, 4>(chunk),
            8 => self.forward_heads::<T, 8>(chunk),
            16 => self.forward_heads::<T, 16>(chunk),
            other => unreachable!("the builder refuses head dimension {other}"),
        }
    }

    #[inline(always)]
    fn forward_heads<T: Real, const D: usize>(&self, chunk: &Chunk<'_, T>) {
        let fields = chunk.program.width(self.out);
        let padded = fields.next_multiple_of(LANES);
        let uses = &chunk.program.inputs[self.inputs.range()];
        let sources = [0, 1, 2].map(|j| chunk.fields_of(uses[j].buffer, self.dim));
        let (out, out_stride) = chunk.fields_of(self.out, self.dim);
        // SAFETY: `scratch_len` elements belong to this chunk.
        let scratch = unsafe { slice_mut(chunk.scratch, (3 * D + 1) * padded) };
        let [q, k, v, _] = split(scratch, [D * padded, D * padded, D * padded, padded]);
        q.fill(T::ZERO);
        let [mut q, mut k, mut v] = [q, k, v].map(|data| Head { data, stride: padded });
        let scale = T::ONE / T::from_f64(D as f64).sqrt();
        for r in 0..chunk.rows {
            for head in 0..self.heads {
                let at = r * self.dim + head * D;
                for (target, (pointer, stride)) in [&mut q, &mut k, &mut v].into_iter().zip(sources)
                {
                    // SAFETY: row `r` of this chunk.
                    target.load(unsafe { pointer.add(at) }.cast_const(), stride, fields, D);
                }
                q.data.iter_mut().for_each(|q| *q *= scale);
                for block in (0..fields).step_by(LANES) {
                    let (weights, _, sum) = attend::<T, D>(&q, &k, &v, block, fields, None);
                    for l in 0..LANES.min(fields - block) {
                        // SAFETY: one field of row `r` of the output.
                        let o = unsafe { slice_mut(out.add((block + l) * out_stride + at), D) };
                        for c in 0..D {
                            o[c] = weights[c][l] / sum[l];
                        }
                    }
                }
            }
        }
        crate::matmul::count_macs(chunk.rows * 2 * self.dim * fields * fields);
    }

    #[inline(always)]
    pub(crate) fn backward<T: Real>(&self, chunk: &Chunk<'_, T>) {
        match self.dim / self.heads {
            1 => self.backward_heads::<T, 1>(chunk),
            2 => self.backward_heads::<T, 2>(chunk),
            4 => self.backward_heads::<T, 4>(chunk),
            8 => self.backward_heads::<T, 8>(chunk),
            16 => self.backward_heads::<T, 16>(chunk),
            other => unreachable!("the builder refuses head dimension {other}"),
        }
    }

    /// With P the softmax and `D_i = dO_i . O_i`: `dV = P^T dO`, `dS = P (dO V^T - D)`,
    /// `dQ = dS K / sqrt(d)`, `dK = dS^T Q / sqrt(d)`.
    #[inline(always)]
    fn backward_heads<T: Real, const D: usize>(&self, chunk: &Chunk<'_, T>) {
        let fields = chunk.program.width(self.out);
        let padded = fields.next_multiple_of(LANES);
        let uses = &chunk.program.inputs[self.inputs.range()];
        let sources = [0, 1, 2].map(|j| chunk.fields_of(uses[j].buffer, self.dim));
        let targets = [0, 1, 2].map(|j| chunk.field_grads_of(uses[j].buffer, self.dim));
        let (dout, dout_stride) = chunk.field_grads_of(self.out, self.dim);
        // SAFETY: `scratch_len` elements belong to this chunk.
        let scratch = unsafe { slice_mut(chunk.scratch, (4 * D + 2 * fields) * padded) };
        let [q, k, v, dout_head, matrices] =
            split(scratch, [D * padded, D * padded, D * padded, D * padded, 2 * fields * padded]);
        q.fill(T::ZERO);
        dout_head.fill(T::ZERO);
        let (probabilities, gradients) = matrices.split_at_mut(fields * padded);
        let [mut q, mut k, mut v, mut g] =
            [q, k, v, dout_head].map(|data| Head { data, stride: padded });
        let scale = T::ONE / T::from_f64(D as f64).sqrt();
        for r in 0..chunk.rows {
            for head in 0..self.heads {
                let at = r * self.dim + head * D;
                for (target, (pointer, stride)) in [&mut q, &mut k, &mut v, &mut g]
                    .into_iter()
                    .zip([sources[0], sources[1], sources[2], (dout, dout_stride)])
                {
                    // SAFETY: row `r` of this chunk.
                    target.load(unsafe { pointer.add(at) }.cast_const(), stride, fields, D);
                }
                q.data.iter_mut().for_each(|q| *q *= scale);
                for block in (0..fields).step_by(LANES) {
                    let dq = query_block::<T, D>(
                        [&q, &k, &v, &g],
                        block,
                        fields,
                        padded,
                        probabilities,
                        gradients,
                    );
                    if !uses[0].grad {
                        continue;
                    }
                    for l in 0..LANES.min(fields - block) {
                        let start = (block + l) * targets[0].1 + at;
                        // SAFETY: one field of row `r` of the gradient.
                        let t = unsafe { slice_mut(targets[0].0.add(start), D) };
                        for c in 0..D {
                            put(&mut t[c], dq[c][l] * scale, uses[0].accumulate);
                        }
                    }
                }
                // Lanes past the last field hold queries that do not exist.
                for j in 0..fields {
                    let (mut dk, mut dv) = ([[T::ZERO; LANES]; D], [[T::ZERO; LANES]; D]);
                    for block in (0..fields).step_by(LANES) {
                        let p: &[T; LANES] =
                            probabilities[j * padded + block..].first_chunk().expect("padded");
                        let ds: &[T; LANES] =
                            gradients[j * padded + block..].first_chunk().expect("padded");
                        for c in 0..D {
                            let (q, g) = (q.lanes(c, block), g.lanes(c, block));
                            for l in 0..LANES {
                                dk[c][l] = ds[l].mul_add(q[l], dk[c][l]);
                                dv[c][l] = p[l].mul_add(g[l], dv[c][l]);
                            }
                        }
                    }
                    for (index, sums) in [(1, &dk), (2, &dv)] {
                        if uses[index].grad {
                            let (pointer, stride) = targets[index];
                            // SAFETY: one field of row `r` of the gradient.
                            let t = unsafe { slice_mut(pointer.add(j * stride + at), D) };
                            for c in 0..D {
                                put(&mut t[c], total(&sums[c]), uses[index].accumulate);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Probabilities and score gradients of sixteen queries against all keys, and their dQ.
#[inline(always)]
fn query_block<T: Real, const D: usize>(
    [q, k, v, g]: [&Head<'_, T>; 4],
    block: usize,
    fields: usize,
    padded: usize,
    probabilities: &mut [T],
    gradients: &mut [T],
) -> [[T; LANES]; D] {
    let (weights, _, sum) =
        attend::<T, D>(q, k, v, block, fields, Some((&mut *probabilities, padded)));
    let mut delta = [T::ZERO; LANES];
    let mut inverse = [T::ZERO; LANES];
    let live = LANES.min(fields - block);
    for l in 0..LANES {
        inverse[l] = if l < live { T::ONE / sum[l] } else { T::ZERO };
    }
    for c in 0..D {
        let g = g.lanes(c, block);
        for l in 0..LANES {
            delta[l] = g[l].mul_add(weights[c][l] * inverse[l], delta[l]);
        }
    }
    let mut dq = [[T::ZERO; LANES]; D];
    for j in 0..fields {
        let p: &mut [T; LANES] =
            probabilities[j * padded + block..].first_chunk_mut().expect("padded");
        let ds: &mut [T; LANES] =
            gradients[j * padded + block..].first_chunk_mut().expect("padded");
        let mut dp = [T::ZERO; LANES];
        for c in 0..D {
            let (v, g) = (v.data[c * v.stride + j], g.lanes(c, block));
            for l in 0..LANES {
                dp[l] = g[l].mul_add(v, dp[l]);
            }
        }
        for l in 0..LANES {
            p[l] *= inverse[l];
            ds[l] = p[l] * (dp[l] - delta[l]);
        }
        for c in 0..D {
            let k = k.data[c * k.stride + j];
            for l in 0..LANES {
                dq[c][l] = ds[l].mul_add(k, dq[c][l]);
            }
        }
    }
    dq
}

/// Sixteen queries against all keys: `sum_j e_j v_j`, the maximal score, and `sum_j e_j` with
/// `e_j = exp(s_j - max)`; the `e_j` go to `keep` where asked.
#[inline(always)]
fn attend<T: Real, const D: usize>(
    q: &Head<'_, T>,
    k: &Head<'_, T>,
    v: &Head<'_, T>,
    block: usize,
    fields: usize,
    mut keep: Option<(&mut [T], usize)>,
) -> ([[T; LANES]; D], [T; LANES], [T; LANES]) {
    let mut queries = [[T::ZERO; LANES]; D];
    for c in 0..D {
        queries[c] = *q.lanes(c, block);
    }
    let mut maximum = score(&queries, k, 0);
    for j in 1..fields {
        let s = score(&queries, k, j);
        for l in 0..LANES {
            maximum[l] = maximum[l].max(s[l]);
        }
    }
    let mut sum = [T::ZERO; LANES];
    let mut weighted = [[T::ZERO; LANES]; D];
    for j in 0..fields {
        let mut e = score(&queries, k, j);
        for l in 0..LANES {
            e[l] = (e[l] - maximum[l]).exp();
            sum[l] += e[l];
        }
        for c in 0..D {
            let v = v.data[c * v.stride + j];
            for l in 0..LANES {
                weighted[c][l] = e[l].mul_add(v, weighted[c][l]);
            }
        }
        if let Some((kept, padded)) = &mut keep {
            kept[j * *padded + block..][..LANES].copy_from_slice(&e);
        }
    }
    (weighted, maximum, sum)
}

/// Scores of sixteen queries against key `j`.
#[inline(always)]
fn score<T: Real, const D: usize>(
    queries: &[[T; LANES]; D],
    k: &Head<'_, T>,
    j: usize,
) -> [T; LANES] {
    let mut s = [T::ZERO; LANES];
    for c in 0..D {
        let k = k.data[c * k.stride + j];
        for l in 0..LANES {
            s[l] = queries[c][l].mul_add(k, s[l]);
        }
    }
    s
}

/// Cuts `data` into parts of the given lengths.
#[inline(always)]
fn split<T, const N: usize>(mut data: &mut [T], lens: [usize; N]) -> [&mut [T]; N] {
    lens.map(|len| {
        let (part, rest) = std::mem::take(&mut data).split_at_mut(len);
        data = rest;
        part
    })
}
