//! Targets that look at a list: pooled target attention.

use pulp::Simd;

use crate::Real;
use crate::chunk::{Chunk, slice, slice_mut};
use crate::lanes::{dot, sum, update};
use crate::program::{BufferId, Program, Span};

/// `s_i = q_h . k_ih / sqrt(head_dim)`, `p = softmax(s)` over the values i of the row,
/// `o_h = sum_i p_i v_ih`, for every target (field of q) and head h.
///
/// Shapes: `q, o: [targets, rows, dim]`, `k, v: [values, dim]`, `dim = heads * head_dim`. A row
/// without values gives zeros. DIN's activation unit is a small network without softmax (Zhou et
/// al., KDD 2018, section 4.3); this is its dot-product form, the pooled attention of Xu et al.
/// 2024 with a scale. Costs `2 dim` multiply-accumulates a value and target, which depends on the
/// data and is not counted.
#[derive(Clone, Debug)]
pub struct TargetAttention {
    pub(crate) inputs: Span,
    /// Output.
    pub out: BufferId,
    /// Largest score and reciprocal sum of each head, `[targets, rows, 2 heads]`.
    pub(crate) stats: BufferId,
    /// Index of the list in the batch.
    pub list: usize,
    /// Channels.
    pub dim: usize,
    /// Heads.
    pub heads: usize,
}

impl TargetAttention {
    pub(crate) fn inputs(&self) -> Span {
        self.inputs
    }

    pub(crate) fn macs(&self, _: &Program) -> u64 {
        0
    }

    /// Elements of scratch: a weight for every value of a row.
    pub(crate) fn scratch_len(longest: usize) -> usize {
        longest
    }

    fn scale<T: Real>(&self) -> T {
        T::from_f64(1.0 / ((self.dim / self.heads) as f64).sqrt())
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let (dim, width) = (self.dim, self.dim / self.heads);
        let uses = &chunk.program.inputs[self.inputs.range()];
        let (q, q_stride) = chunk.fields_of(uses[0].buffer, dim);
        let ((k, _), (v, _)) =
            (chunk.fields_of(uses[1].buffer, dim), chunk.fields_of(uses[2].buffer, dim));
        let (out, out_stride) = chunk.fields_of(self.out, dim);
        let (stats, stats_stride) = chunk.fields_of(self.stats, 2 * self.heads);
        let scale = self.scale::<T>();
        for r in 0..chunk.rows {
            let values = chunk.list_row(self.list, r);
            // SAFETY: row `r`, its values and this chunk's scratch, all of them different places.
            let (k, v, weights) = unsafe {
                (
                    slice(k.add(values.start * dim), values.len() * dim),
                    slice(v.add(values.start * dim), values.len() * dim),
                    slice_mut(chunk.scratch, values.len()),
                )
            };
            for target in 0..chunk.program.width(self.out) {
                // SAFETY: as above.
                let (q, out, stats) = unsafe {
                    (
                        slice(q.add(target * q_stride + r * dim), dim),
                        slice_mut(out.add(target * out_stride + r * dim), dim),
                        slice_mut(
                            stats.add(target * stats_stride + r * 2 * self.heads),
                            2 * self.heads,
                        ),
                    )
                };
                out.fill(T::ZERO);
                for (head, stats) in stats.chunks_exact_mut(2).enumerate() {
                    let part = head * width..(head + 1) * width;
                    let mut largest = None;
                    for (weight, k) in weights.iter_mut().zip(k.chunks_exact(dim)) {
                        *weight = dot(&q[part.clone()], &k[part.clone()]) * scale;
                        largest = Some(largest.map_or(*weight, |largest: T| largest.max(*weight)));
                    }
                    let largest = largest.unwrap_or(T::ZERO);
                    weights.iter_mut().for_each(|weight| *weight = (*weight - largest).exp());
                    let inverse = match weights.is_empty() {
                        true => T::ZERO,
                        false => T::ONE / sum(weights),
                    };
                    stats.copy_from_slice(&[largest, inverse]);
                    for (weight, v) in weights.iter().zip(v.chunks_exact(dim)) {
                        let share = *weight * inverse;
                        update(&mut out[part.clone()], &v[part.clone()], |v, o| {
                            v.mul_add(share, o)
                        });
                    }
                }
            }
        }
    }

    /// With `ds_i = p_i (do . v_i - do . o) scale`: `dv_i = p_i do`, `dk_i = ds_i q`,
    /// `dq = sum_i ds_i k_i`.
    #[inline(always)]
    pub(crate) fn backward<T: Real, S: Simd>(&self, _: S, chunk: &Chunk<'_, T>) {
        let (dim, width) = (self.dim, self.dim / self.heads);
        let uses = [0, 1, 2].map(|j| chunk.program.inputs[self.inputs.range()][j]);
        let [(q, q_stride), (k, _), (v, _)] = uses.map(|used| chunk.fields_of(used.buffer, dim));
        let [(dq, _), (dk, _), (dv, _)] = uses.map(|used| chunk.field_grads_of(used.buffer, dim));
        let (out, out_stride) = chunk.fields_of(self.out, dim);
        let (d_out, _) = chunk.field_grads_of(self.out, dim);
        let (stats, stats_stride) = chunk.fields_of(self.stats, 2 * self.heads);
        let (scale, targets) = (self.scale::<T>(), chunk.program.width(self.out));
        for r in 0..chunk.rows {
            let values = chunk.list_row(self.list, r);
            let (start, len) = (values.start * dim, values.len() * dim);
            // What does not add to an earlier gradient starts at zero; keys and values may be one
            // buffer, whose first use alone does so.
            // SAFETY: the gradients of row `r`; one slice at a time.
            unsafe {
                if uses[0].grad && !uses[0].accumulate {
                    for target in 0..targets {
                        slice_mut(dq.add(target * q_stride + r * dim), dim).fill(T::ZERO);
                    }
                }
                for (used, grad) in [(uses[1], dk), (uses[2], dv)] {
                    if used.grad && !used.accumulate {
                        slice_mut(grad.add(start), len).fill(T::ZERO);
                    }
                }
            }
            // SAFETY: values of row `r` are read only.
            let (k, v) = unsafe { (slice(k.add(start), len), slice(v.add(start), len)) };
            for target in 0..targets {
                let at = target * q_stride + r * dim;
                // SAFETY: row `r` of this target.
                let (q, o, d_o, stats) = unsafe {
                    (
                        slice(q.add(at), dim),
                        slice(out.add(target * out_stride + r * dim), dim),
                        slice(d_out.add(target * out_stride + r * dim), dim),
                        slice(
                            stats.add(target * stats_stride + r * 2 * self.heads),
                            2 * self.heads,
                        ),
                    )
                };
                for (head, stats) in stats.chunks_exact(2).enumerate() {
                    let part = head * width..(head + 1) * width;
                    let (q, d_o) = (&q[part.clone()], &d_o[part.clone()]);
                    let delta = dot(&o[part.clone()], d_o);
                    for i in 0..values.len() {
                        let place = i * dim + part.start..i * dim + part.end;
                        let (k, v) = (&k[place.clone()], &v[place.clone()]);
                        let p = (dot(q, k) * scale - stats[0]).exp() * stats[1];
                        let ds = p * (dot(d_o, v) - delta) * scale;
                        // SAFETY: one vector of channels of row `r`, one slice at a time.
                        unsafe {
                            let at_value = start + place.start;
                            if uses[0].grad {
                                let dq = slice_mut(dq.add(at + part.start), width);
                                update(dq, k, |k, dq| k.mul_add(ds, dq));
                            }
                            if uses[1].grad {
                                let dk = slice_mut(dk.add(at_value), width);
                                update(dk, q, |q, dk| q.mul_add(ds, dk));
                            }
                            if uses[2].grad {
                                let dv = slice_mut(dv.add(at_value), width);
                                update(dv, d_o, |d_o, dv| d_o.mul_add(p, dv));
                            }
                        }
                    }
                }
            }
        }
    }
}
