//! Multi-head attention over the fields of a row.

use pulp::Simd;

use crate::Real;
use crate::chunk::Chunk;
use crate::ops::attend::{UNSHIFTED, attend_all, largest_score};
use crate::ops::attention_row::RowAttention;
use crate::ops::panel::{Panel, Rows, one_by_one};
use crate::program::{BufferId, Program, Span};
use crate::simd::BLOCK;

/// `O_h = softmax(Q_h K_h^T / sqrt(head_dim)) V_h` for every head h and row.
///
/// Shapes: `Q, K, V, O: [fields, rows, dim]`, `dim = heads * head_dim`. No
/// score is ever stored: forward keeps each query's shift and the reciprocal of
/// its sum, from which backward computes the probabilities again (Vaswani et
/// al. 2017; no mask, no dropout).
#[derive(Clone, Debug)]
pub struct AttentionCore {
    pub(crate) inputs: Span,
    /// Output.
    pub out: BufferId,
    /// Negated shifts and reciprocal sums of the softmax, `[fields, rows, 2 heads]`.
    pub(crate) stats: BufferId,
    /// Channels.
    pub dim: usize,
    /// Heads.
    pub heads: usize,
}

/// One head's first channel in each panel.
type HeadPanels<T, const N: usize> = [Panel<T>; N];

impl AttentionCore {
    pub(crate) fn inputs(&self) -> Span {
        self.inputs
    }

    /// `Q K^T` and the weighted sum of V: `2 dim fields^2`.
    pub(crate) fn macs(&self, program: &Program) -> u64 {
        (2 * self.dim * program.width(self.out).pow(2)) as u64
    }

    /// Elements of scratch: panels of q, k, v, the output's gradient, dq, dk, dv; the statistics;
    /// and `dO . O`.
    pub(crate) fn scratch_len(fields: usize, dim: usize, heads: usize) -> usize {
        (7 * dim + 3 * heads) * (fields + 1) * BLOCK
    }

    /// Panels of the given numbers of channels, one behind the other in the chunk's scratch.
    #[inline(always)]
    fn panels<T: Real, const N: usize>(
        chunk: &Chunk<'_, T>,
        fields: usize,
        channels: [usize; N],
    ) -> [Panel<T>; N] {
        let mut next = chunk.scratch;
        channels.map(|channels| {
            let panel = Panel { data: next, fields };
            // SAFETY: `scratch_len` elements belong to this chunk.
            next = unsafe { next.add(channels * panel.stride()) };
            panel
        })
    }

    /// Rows `first .. first + count` of this chunk.
    #[inline(always)]
    fn rows<T: Real>(
        (start, field_stride): (*mut T, usize),
        (fields, dim): (usize, usize),
        first: usize,
        count: usize,
    ) -> Rows<T> {
        // SAFETY: the chunk has these rows.
        Rows {
            first: unsafe { start.add(first * dim) },
            field_stride,
            row_stride: dim,
            fields,
            dim,
            count,
        }
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, simd: S, chunk: &Chunk<'_, T>) {
        match self.dim / self.heads {
            1 => self.forward_heads::<T, S, 1>(simd, chunk),
            2 => self.forward_heads::<T, S, 2>(simd, chunk),
            4 => self.forward_heads::<T, S, 4>(simd, chunk),
            8 => self.forward_heads::<T, S, 8>(simd, chunk),
            16 => self.forward_heads::<T, S, 16>(simd, chunk),
            other => unreachable!("the builder refuses head dimension {other}"),
        }
    }

    #[inline(always)]
    fn forward_heads<T: Real, S: Simd, const D: usize>(&self, simd: S, chunk: &Chunk<'_, T>) {
        let (fields, dim) = (chunk.program.width(self.out), self.dim);
        let uses = &chunk.program.inputs[self.inputs.range()];
        let sources = [0, 1, 2].map(|j| chunk.fields_of(uses[j].buffer, dim));
        let out = chunk.fields_of(self.out, dim);
        let kept = chunk.fields_of(self.stats, 2 * self.heads);
        let panels = Self::panels(chunk, fields, [dim, dim, dim, dim, 2 * self.heads]);
        let [q, _, _, o, stats] = panels;
        // Powers of two instead of e: the logarithm goes into the scale of the queries.
        let scale = T::from_f64(std::f64::consts::LOG2_E / (D as f64).sqrt());
        for first in (0..chunk.rows).step_by(BLOCK) {
            let count = BLOCK.min(chunk.rows - first);
            if one_by_one(count, fields) {
                for lane in 0..count {
                    let tensors = [sources[0], sources[1], sources[2], out];
                    // SAFETY: row `first + lane` of this chunk, whose statistics lie between those
                    // of its block.
                    simd.vectorize(unsafe {
                        let row = (first + lane) * dim;
                        let stats = kept.0.add(first * 2 * self.heads + lane);
                        RowAttention::<T, S, D> {
                            simd,
                            shape: [fields, dim],
                            tensors: tensors.map(|(start, stride)| (start.add(row), stride)),
                            stats: (stats, [kept.1, count]),
                            scratch: chunk.scratch,
                        }
                    });
                }
                continue;
            }
            for (source, panel) in sources.into_iter().zip(panels) {
                Self::rows(source, (fields, dim), first, count).load(simd, panel, 0);
            }
            q.elements(dim).iter_mut().for_each(|q| *q *= scale);
            for head in 0..self.heads {
                let stats = Panel { data: stats.at(2 * head, 0), fields };
                let [q, k, v, o] =
                    [0, 1, 2, 3].map(|i| Panel { data: panels[i].at(head * D, 0), fields });
                let bounded = largest_score::<T, D>(q, |c| k.largest(c)) < UNSHIFTED;
                // SAFETY: all panels have these channels, fields and rows.
                unsafe { attend_all::<T, S, _, D>(simd, [q, o], [k, v], stats, bounded) };
            }
            Self::rows(out, (fields, dim), first, count).store(simd, o, 0, T::ONE, false);
            Self::rows(kept, (fields, 2 * self.heads), first, count).copy_lanes(stats, false);
        }
        crate::matmul::count_macs(chunk.rows * 2 * dim * fields * fields);
    }

    #[inline(always)]
    pub(crate) fn backward<T: Real, S: Simd>(&self, simd: S, chunk: &Chunk<'_, T>) {
        match self.dim / self.heads {
            1 => self.backward_heads::<T, S, 1>(simd, chunk),
            2 => self.backward_heads::<T, S, 2>(simd, chunk),
            4 => self.backward_heads::<T, S, 4>(simd, chunk),
            8 => self.backward_heads::<T, S, 8>(simd, chunk),
            16 => self.backward_heads::<T, S, 16>(simd, chunk),
            other => unreachable!("the builder refuses head dimension {other}"),
        }
    }

    /// With P the softmax and `D_i = dO_i . O_i`: `dV = P^T dO`, `dS = P (dO V^T - D)`,
    /// `dQ = dS K / sqrt(d)`, `dK = dS^T Q / sqrt(d)`.
    ///
    /// P is `e_ij / sum_i` and the reciprocal sums go into dO and D once a query instead of into
    /// P once a pair.
    #[inline(always)]
    fn backward_heads<T: Real, S: Simd, const D: usize>(&self, simd: S, chunk: &Chunk<'_, T>) {
        let (fields, dim) = (chunk.program.width(self.out), self.dim);
        let uses = &chunk.program.inputs[self.inputs.range()];
        let sources = [0, 1, 2].map(|j| chunk.fields_of(uses[j].buffer, dim));
        let targets = [0, 1, 2].map(|j| chunk.field_grads_of(uses[j].buffer, dim));
        let (out, dout) = (chunk.fields_of(self.out, dim), chunk.field_grads_of(self.out, dim));
        let kept = chunk.fields_of(self.stats, 2 * self.heads);
        let channels = [dim, dim, dim, dim, dim, dim, dim, 2 * self.heads, self.heads];
        let panels = Self::panels(chunk, fields, channels);
        let [q, k, v, g, dq, dk, dv, stats, delta] = panels;
        let scale = std::f64::consts::LOG2_E / (D as f64).sqrt();
        // dq and dk are sums of ds k and ds q' with q' = q log2(e) / sqrt(d).
        let factors = [1.0 / (D as f64).sqrt(), 1.0 / std::f64::consts::LOG2_E, 1.0];
        for first in (0..chunk.rows).step_by(BLOCK) {
            let count = BLOCK.min(chunk.rows - first);
            let rows = |place| Self::rows(place, (fields, dim), first, count);
            for (source, panel) in sources.into_iter().zip([q, k, v]) {
                rows(source).load(simd, panel, 0);
            }
            rows(dout).load(simd, g, 0);
            // The outputs wait where dq will be.
            rows(out).load(simd, dq, 0);
            q.elements(dim).iter_mut().for_each(|q| *q *= T::from_f64(scale));
            Self::rows(kept, (fields, 2 * self.heads), first, count).copy_lanes(stats, true);
            dk.elements(dim).fill(T::ZERO);
            dv.elements(dim).fill(T::ZERO);
            for head in 0..self.heads {
                let delta = Panel { data: delta.at(head, 0), fields };
                let stats = Panel { data: stats.at(2 * head, 0), fields };
                let of_head = [0, 1, 2, 3, 4, 5, 6]
                    .map(|i| Panel { data: panels[i].at(head * D, 0), fields });
                for lane in (0..BLOCK).step_by(T::width::<S>()) {
                    // SAFETY: all panels have these channels, fields and rows.
                    unsafe {
                        scale_gradients::<T, S, D>(simd, of_head, stats, delta, lane);
                        let mut i = 0;
                        while i + 2 <= fields {
                            attend_backward::<T, S, D, 2>(simd, of_head, stats, delta, i, lane);
                            i += 2;
                        }
                        if i < fields {
                            attend_backward::<T, S, D, 1>(simd, of_head, stats, delta, i, lane);
                        }
                    }
                }
            }
            for (j, panel) in [dq, dk, dv].into_iter().enumerate() {
                if uses[j].grad {
                    let factor = T::from_f64(factors[j]);
                    rows(targets[j]).store(simd, panel, 0, factor, uses[j].accumulate);
                }
            }
        }
    }
}

/// `delta = -(dO . O) / sum` and `dO / sum` for every query of a head; O is where dq will be.
///
/// # Safety
/// As for [`attend`].
#[inline(always)]
unsafe fn scale_gradients<T: Real, S: Simd, const D: usize>(
    simd: S,
    [_, _, _, g, o, _, _]: HeadPanels<T, 7>,
    stats: Panel<T>,
    delta: Panel<T>,
    lane: usize,
) {
    for i in 0..g.fields {
        // SAFETY: as the caller promises.
        unsafe {
            let inverse = T::load(simd, stats.at(1, i).add(lane));
            let mut sum = T::splat(simd, T::ZERO);
            for c in 0..D {
                let place = g.at(c, i).add(lane);
                let scaled = T::times(simd, T::load(simd, place), inverse);
                sum = T::fma(simd, scaled, T::load(simd, o.at(c, i).add(lane)), sum);
                T::store(simd, place, scaled);
            }
            let negative = T::minus(simd, T::splat(simd, T::ZERO), sum);
            T::store(simd, delta.at(0, i).add(lane), negative);
        }
    }
}

/// Gradients of `B` queries from `i` and their parts of dk and dv, for a register of rows.
///
/// # Safety
/// As for [`attend`].
#[inline(always)]
unsafe fn attend_backward<T: Real, S: Simd, const D: usize, const B: usize>(
    simd: S,
    [q, k, v, g, dq, dk, dv]: HeadPanels<T, 7>,
    stats: Panel<T>,
    delta: Panel<T>,
    i: usize,
    lane: usize,
) {
    let zero = T::splat(simd, T::ZERO);
    let (mut queries, mut gradients) = ([[zero; B]; D], [[zero; B]; D]);
    let (mut shifts, mut deltas) = ([zero; B], [zero; B]);
    for b in 0..B {
        shifts[b] = stats.get(simd, 0, i + b, lane);
        deltas[b] = delta.get(simd, 0, i + b, lane);
        for c in 0..D {
            queries[c][b] = q.get(simd, c, i + b, lane);
            gradients[c][b] = g.get(simd, c, i + b, lane);
        }
    }
    let mut query_gradients = [[zero; B]; D];
    for j in 0..k.fields {
        let (mut e, mut ds) = (shifts, deltas);
        let (mut keys, mut values) = ([zero; D], [zero; D]);
        for c in 0..D {
            (keys[c], values[c]) = (k.get(simd, c, j, lane), v.get(simd, c, j, lane));
            for b in 0..B {
                e[b] = T::fma(simd, queries[c][b], keys[c], e[b]);
                ds[b] = T::fma(simd, gradients[c][b], values[c], ds[b]);
            }
        }
        for b in 0..B {
            e[b] = T::exp2(simd, e[b]);
            ds[b] = T::times(simd, ds[b], e[b]);
        }
        for c in 0..D {
            let (mut key_gradient, mut value_gradient) =
                (dk.get(simd, c, j, lane), dv.get(simd, c, j, lane));
            for b in 0..B {
                query_gradients[c][b] = T::fma(simd, ds[b], keys[c], query_gradients[c][b]);
                key_gradient = T::fma(simd, ds[b], queries[c][b], key_gradient);
                value_gradient = T::fma(simd, e[b], gradients[c][b], value_gradient);
            }
            // SAFETY: as the caller promises.
            unsafe {
                T::store(simd, dk.at(c, j).add(lane), key_gradient);
                T::store(simd, dv.at(c, j).add(lane), value_gradient);
            }
        }
    }
    for c in 0..D {
        for b in 0..B {
            // SAFETY: as the caller promises.
            unsafe { T::store(simd, dq.at(c, i + b).add(lane), query_gradients[c][b]) };
        }
    }
}
