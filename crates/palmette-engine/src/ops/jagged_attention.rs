//! Self-attention inside each row of a list.

use pulp::Simd;

use crate::Real;
use crate::chunk::{Chunk, slice, slice_mut};
use crate::lanes::{dot, sum};
use crate::matmul::{Precision, Product, Strided, matmul};
use crate::program::{BufferId, Program, Span};

/// Queries that are worked on together: their scores over a row of 4096 values take half a
/// megabyte of f32.
const TILE: usize = 32;

/// `o_i = sum_j p_ij v_j` with `p_i = softmax_j(q_i . k_j / sqrt(head_dim))` over the values j of
/// the same row and head; with `causal` over `j <= i` alone.
///
/// Shapes: `q, k, v, o: [values, dim]`, `dim = heads * head_dim`. Scores are computed a tile of
/// queries at a time and again in backward, never stored (Dao, FlashAttention-2, 2023); there is
/// no padding. Costs `2 dim n` multiply-accumulates a value of a row of `n`, which depends on the
/// data and is not counted.
#[derive(Clone, Debug)]
pub struct JaggedAttention {
    pub(crate) inputs: Span,
    /// Output.
    pub out: BufferId,
    /// Largest score and reciprocal sum of each head, `[values, 2 heads]`.
    pub(crate) stats: BufferId,
    /// Index of the list in the batch.
    pub list: usize,
    /// Channels.
    pub dim: usize,
    /// Heads.
    pub heads: usize,
    /// Whether a value sees itself and those before it alone.
    pub causal: bool,
}

/// A matrix over the values of one row: where it starts, and elements from value to value.
type Rows<T> = (*mut T, usize);

impl JaggedAttention {
    pub(crate) fn inputs(&self) -> Span {
        self.inputs
    }

    pub(crate) fn macs(&self, _: &Program) -> u64 {
        0
    }

    /// Elements of scratch: probabilities of a tile and their gradients.
    pub(crate) fn scratch_len(longest: usize) -> usize {
        2 * TILE * longest
    }

    fn scale<T: Real>(&self) -> T {
        T::from_f64(1.0 / ((self.dim / self.heads) as f64).sqrt())
    }

    /// Keys that the queries before `end` see, of `n`.
    fn seen(&self, end: usize, n: usize) -> usize {
        if self.causal { end } else { n }
    }

    /// `q_i . k_j` of a tile of queries: `scores[i, j]`.
    ///
    /// # Safety
    /// Queries `first .. first + tile` and keys `.. n` must exist and `scores` hold them all.
    #[inline(always)]
    unsafe fn products<T: Real, S: Simd>(
        simd: S,
        (q, k): (Rows<T>, Rows<T>),
        [first, tile, n, width]: [usize; 4],
        scores: *mut T,
    ) {
        // SAFETY: passed on to the caller.
        unsafe {
            let product = Product {
                shape: [tile, n, width],
                c: (scores, n),
                accumulate: false,
                a: Strided::row_major(q.0.add(first * q.1).cast_const(), q.1),
                b: Strided::row_major(k.0.cast_const(), k.1).transposed(),
                ..Product::empty()
            };
            matmul(simd, Precision::F32, product);
        }
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, simd: S, chunk: &Chunk<'_, T>) {
        let (dim, width) = (self.dim, self.dim / self.heads);
        let uses = &chunk.program.inputs[self.inputs.range()];
        let sources = [0, 1, 2].map(|j| chunk.fields_of(uses[j].buffer, dim).0);
        let (out, _) = chunk.fields_of(self.out, dim);
        let (stats, _) = chunk.fields_of(self.stats, 2 * self.heads);
        let (scale, scores) = (self.scale::<T>(), chunk.scratch);
        for r in 0..chunk.rows {
            let values = chunk.list_row(self.list, r);
            let n = values.len();
            for head in 0..self.heads {
                let start = values.start * dim + head * width;
                // SAFETY: this row's values in each buffer, and this chunk's scratch.
                let [q, k, v] = sources.map(|source| (unsafe { source.add(start) }, dim));
                for first in (0..n).step_by(TILE) {
                    let tile = TILE.min(n - first);
                    let seen = self.seen(first + tile, n);
                    // SAFETY: as above; the output overlaps no operand.
                    unsafe {
                        Self::products(simd, (q, k), [first, tile, seen, width], scores);
                        for i in 0..tile {
                            let row = slice_mut(scores.add(i * seen), seen);
                            let own = self.seen(first + i + 1, seen);
                            let at = (values.start + first + i) * 2 * self.heads + 2 * head;
                            let kept = softmax(row, own, scale);
                            slice_mut(stats.add(at), 2).copy_from_slice(&kept);
                        }
                        let product = Product {
                            shape: [tile, width, seen],
                            c: (out.add(start + first * dim), dim),
                            accumulate: false,
                            a: Strided::row_major(scores.cast_const(), seen),
                            b: Strided::row_major(v.0.cast_const(), dim),
                            ..Product::empty()
                        };
                        matmul(simd, Precision::F32, product);
                    }
                }
            }
        }
    }

    /// With `dp_ij = do_i . v_j` and `ds_ij = p_ij (dp_ij - do_i . o_i) scale`:
    /// `dv_j = sum_i p_ij do_i`, `dq_i = sum_j ds_ij k_j`, `dk_j = sum_i ds_ij q_i`.
    #[inline(always)]
    pub(crate) fn backward<T: Real, S: Simd>(&self, simd: S, chunk: &Chunk<'_, T>) {
        let (dim, width) = (self.dim, self.dim / self.heads);
        let uses = [0, 1, 2].map(|j| chunk.program.inputs[self.inputs.range()][j]);
        let sources = uses.map(|used| chunk.fields_of(used.buffer, dim).0);
        let grads = uses.map(|used| chunk.field_grads_of(used.buffer, dim).0);
        let ((out, _), (d_out, _)) =
            (chunk.fields_of(self.out, dim), chunk.field_grads_of(self.out, dim));
        let (stats, _) = chunk.fields_of(self.stats, 2 * self.heads);
        let scale = self.scale::<T>();
        for r in 0..chunk.rows {
            let values = chunk.list_row(self.list, r);
            let n = values.len();
            for (used, grad) in uses.iter().zip(grads) {
                // What does not add to an earlier gradient starts at zero; all three may be one
                // buffer, whose first use alone does so.
                if used.grad && !used.accumulate {
                    // SAFETY: this row's gradients.
                    unsafe { slice_mut(grad.add(values.start * dim), n * dim) }.fill(T::ZERO);
                }
            }
            // SAFETY: both fit `scratch_len`.
            let (p, ds) = unsafe { (chunk.scratch, chunk.scratch.add(TILE * n)) };
            for head in 0..self.heads {
                let start = values.start * dim + head * width;
                // SAFETY: this row's values in each buffer.
                let [q, k, v] = sources.map(|source| (unsafe { source.add(start) }, dim));
                for first in (0..n).step_by(TILE) {
                    let tile = TILE.min(n - first);
                    let seen = self.seen(first + tile, n);
                    let shape = [first, tile, seen, width];
                    // SAFETY: this row's values and gradients and this chunk's scratch; what is
                    // written overlaps no operand, since gradients have an arena of their own.
                    unsafe {
                        let d_tile = d_out.add(start);
                        Self::products(simd, (q, k), shape, p);
                        Self::products(simd, ((d_tile, dim), v), shape, ds);
                        for i in 0..tile {
                            let at = (values.start + first + i) * 2 * self.heads + 2 * head;
                            let kept = slice(stats.add(at), 2);
                            let place = start + (first + i) * dim;
                            let delta =
                                dot(slice(out.add(place), width), slice(d_out.add(place), width));
                            let own = self.seen(first + i + 1, seen);
                            let p = slice_mut(p.add(i * seen), seen);
                            let ds = slice_mut(ds.add(i * seen), seen);
                            for (p, ds) in p[..own].iter_mut().zip(&mut ds[..own]) {
                                *p = (*p * scale - kept[0]).exp() * kept[1];
                                *ds = *p * (*ds - delta) * scale;
                            }
                            p[own..].fill(T::ZERO);
                            ds[own..].fill(T::ZERO);
                        }
                        let queries = Strided::row_major(q.0.add(first * dim).cast_const(), dim);
                        let gradients =
                            Strided::row_major(d_tile.add(first * dim).cast_const(), dim);
                        let by_query =
                            |scores: *mut T| Strided::row_major(scores.cast_const(), seen);
                        let keys = Strided::row_major(k.0.cast_const(), dim);
                        let products = [
                            (0, first * dim, [tile, width, seen], by_query(ds), keys),
                            (1, 0, [seen, width, tile], by_query(ds).transposed(), queries),
                            (2, 0, [seen, width, tile], by_query(p).transposed(), gradients),
                        ];
                        for (input, offset, shape, a, b) in products {
                            if uses[input].grad {
                                let c = (grads[input].add(start + offset), dim);
                                let product = Product {
                                    shape,
                                    c,
                                    accumulate: true,
                                    a,
                                    b,
                                    ..Product::empty()
                                };
                                matmul(simd, Precision::F32, product);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Scores to probabilities in place, those from `own` on to zero; the largest scaled score and
/// the reciprocal of the sum.
#[inline(always)]
fn softmax<T: Real>(scores: &mut [T], own: usize, scale: T) -> [T; 2] {
    let (own, others) = scores.split_at_mut(own);
    others.fill(T::ZERO);
    let mut largest = own[0] * scale;
    for score in own.iter_mut() {
        *score *= scale;
        largest = largest.max(*score);
    }
    own.iter_mut().for_each(|score| *score = (*score - largest).exp());
    let inverse = T::ONE / sum(own);
    own.iter_mut().for_each(|score| *score *= inverse);
    [largest, inverse]
}
