//! Backward on the CPU.

use std::ops::Range;

use super::bias_gradient::bias_gradient;
use super::forward::query_tasks;
use super::tile::{Head, KEYS, QUERIES, blocks, query_blocks};
use super::{Attention, AttentionGradients, AttentionInput};
use crate::block::{Block, BlockMut};
use crate::columns::{dots, gradients as gradients_of_scores};
use crate::panel::{Panel, transpose};
use crate::product::product;
use crate::registers::LANES;
use crate::tasks::{Scattered, for_each_task};
use crate::widen::{Widened, narrow_scaled};
use crate::{Element, Real};

/// Rows whose keys have up to so many elements are one task a key head that computes each score
/// once, with the sums of all its keys and values as scratch (2 MiB of `f32`); longer ones are cut
/// into blocks of keys and blocks of queries that compute the scores twice and need only so much
/// of it. The choice depends on the lengths alone, so the bits do not depend on the threads.
const FUSED_ELEMENTS: usize = 1 << 18;

/// Keys of a block of a longer row.
const BLOCK_OF_KEYS: usize = 4 * KEYS;

/// Forward's results, which backward reads.
#[derive(Clone, Copy)]
pub(super) struct Saved<'a, T: Element> {
    pub(super) output: &'a [T],
    pub(super) lse: &'a [T::Sum],
    pub(super) d_output: &'a [T],
}

/// Scratch of one thread.
pub(super) struct Scratch<S> {
    queries: Panel<S>,
    d_output: Panel<S>,
    biases: Panel<S>,
    output: Panel<S>,
    k: Widened<S>,
    v: Widened<S>,
    /// The log-sum-exp of each query in powers of 2, plus infinity where it sees no key.
    shift: [S; QUERIES],
    /// `delta_i = o_i . do_i`
    delta: [S; QUERIES],
    weights: Vec<S>,
    /// Gradients of the scores, `[keys, queries]`.
    score_gradients: Vec<S>,
    /// `[D, queries]`, `D` filled up for the transpose.
    dq: Vec<S>,
    turned: Vec<S>,
    /// `[keys, D]`, `D` filled up.
    dk: Vec<S>,
    dv: Vec<S>,
}

impl<S: Real> Scratch<S> {
    pub(super) fn new(head_dim: usize) -> Self {
        let width = head_dim.next_multiple_of(LANES);
        Self {
            queries: Panel::new(),
            d_output: Panel::new(),
            biases: Panel::new(),
            output: Panel::new(),
            k: Widened::new(),
            v: Widened::new(),
            shift: [S::ZERO; QUERIES],
            delta: [S::ZERO; QUERIES],
            weights: vec![S::ZERO; QUERIES * KEYS],
            score_gradients: vec![S::ZERO; QUERIES * KEYS],
            dq: vec![S::ZERO; QUERIES * width],
            turned: vec![S::ZERO; QUERIES * width.max(KEYS)],
            dk: Vec::new(),
            dv: Vec::new(),
        }
    }
}

pub(super) fn backward<T: Element>(
    attention: &Attention,
    input: &AttentionInput<'_, T>,
    saved: Saved<'_, T>,
    gradients: AttentionGradients<'_, T>,
) {
    let AttentionGradients { dq, dk, dv, dbias } = gradients;
    if input.offsets_q.truncates() {
        dq.fill(T::default());
    }
    if input.offsets_k.truncates() {
        dk.fill(T::default());
        dv.fill(T::default());
    }
    let d = attention.head_dim;
    let scratch = || Scratch::new(d);
    let fused = |b: usize| input.offsets_k.length(b) * d <= FUSED_ELEMENTS;

    let mut tasks = Vec::new();
    for &b in input.offsets_k.longest_first() {
        let n_k = input.offsets_k.length(b as usize);
        for g in 0..attention.kv_heads as u32 {
            if fused(b as usize) {
                tasks.push((b, g, 0..n_k));
            } else {
                tasks.extend(blocks(0..n_k, BLOCK_OF_KEYS).map(|keys| (b, g, keys)));
            }
        }
    }
    let (dq, dk, dv) = (Scattered::new(dq), Scattered::new(dk), Scattered::new(dv));
    for_each_task(tasks.len(), scratch, |scratch, task| {
        let (b, g, keys) = tasks[task].clone();
        let h = g as usize * attention.group();
        let head = Head { attention, input, b: b as usize, h };
        let dq = fused(b as usize).then_some(&dq);
        keys_task(&head, saved, keys, scratch, dq, [&dk, &dv]);
    });

    let tasks: Vec<_> = query_tasks(input.offsets_q, attention.heads)
        .into_iter()
        .filter(|&(b, ..)| !fused(b as usize))
        .collect();
    for_each_task(tasks.len(), scratch, |scratch, task| {
        let (b, h, rows) = tasks[task].clone();
        let head = Head { attention, input, b: b as usize, h: h as usize };
        scratch.take_queries(&head, saved, rows.clone());
        for (tile, keys) in blocks(head.keys(rows.clone()), KEYS).enumerate() {
            scratch.scores(&head, rows.clone(), keys.clone());
            scratch.add_queries(&head, keys, tile > 0);
        }
        scratch.write_queries(&head, rows, &dq);
    });

    if let (Some(dbias), Some(bias)) = (dbias, &input.bias) {
        bias_gradient(attention, input, bias, saved, dbias);
    }
}

/// `dk` and `dv` of `keys` for the key head of `head`, and `dq` of all its queries where wanted.
fn keys_task<T: Element>(
    head: &Head<'_, '_, T>,
    saved: Saved<'_, T>,
    keys: Range<usize>,
    scratch: &mut Scratch<T::Sum>,
    dq: Option<&Scattered<'_, T>>,
    [dk, dv]: [&Scattered<'_, T>; 2],
) {
    let d = head.attention.head_dim;
    let width = d.next_multiple_of(LANES);
    for sums in [&mut scratch.dk, &mut scratch.dv] {
        sums.clear();
        sums.resize(keys.len() * width, T::Sum::ZERO);
    }
    for member in 0..head.attention.group() {
        let head = Head { h: head.h + member, ..*head };
        for rows in query_blocks(head.n_q()) {
            let seen = head.keys(rows.clone());
            let seen = seen.start.max(keys.start)..seen.end.min(keys.end);
            if seen.is_empty() && dq.is_none() {
                continue;
            }
            scratch.take_queries(&head, saved, rows.clone());
            for (tile, block) in blocks(seen, KEYS).enumerate() {
                scratch.scores(&head, rows.clone(), block.clone());
                scratch.add_keys(block.start - keys.start, block.len());
                if dq.is_some() {
                    scratch.add_queries(&head, block, tile > 0);
                }
            }
            if let Some(dq) = dq {
                scratch.write_queries(&head, rows, dq);
            }
        }
    }
    // The queries in the sums are times `scale log2 e`.
    let factor = T::Sum::of(std::f64::consts::LN_2);
    for (r, j) in keys.enumerate() {
        // SAFETY: each key of each key head belongs to exactly one task.
        let (dk, dv) = unsafe { (dk.slice(head.at_k(j), d), dv.slice(head.at_k(j), d)) };
        narrow_scaled(dk, &scratch.dk[r * width..], factor);
        narrow_scaled(dv, &scratch.dv[r * width..], T::Sum::ONE);
    }
}

impl<S: Real> Scratch<S> {
    /// Makes ready for tiles of the queries `rows`.
    pub(super) fn take_queries<T: Element<Sum = S>>(
        &mut self,
        head: &Head<'_, '_, T>,
        saved: Saved<'_, T>,
        rows: Range<usize>,
    ) {
        let (d, start) = (head.attention.head_dim, head.at_q(rows.start));
        head.fill_queries(&mut self.queries, rows.clone());
        let shape = [rows.len(), d, head.stride_q()];
        self.d_output.fill(&saved.d_output[start..], shape, S::ONE);
        self.output.fill(&saved.output[start..], shape, S::ONE);
        // A query of one key has `delta = do . v` to the last bit, so its score's gradient is zero.
        let (output, d_output) = (self.output.turned(), self.d_output.turned());
        dots(output.data(), d_output.data(), self.queries.lanes(), &mut self.delta);
        for (r, i) in rows.enumerate() {
            let lse = saved.lse[head.at_lse(i)];
            self.shift[r] =
                if lse == S::NEG_INFINITY { -lse } else { lse * S::of(std::f64::consts::LOG2_E) };
        }
        self.dq.fill(S::ZERO);
    }

    /// Weights and gradients of the scores of the tile of the queries taken and `keys`.
    pub(super) fn scores<T: Element<Sum = S>>(
        &mut self,
        head: &Head<'_, '_, T>,
        rows: Range<usize>,
        keys: Range<usize>,
    ) {
        let (count, lanes) = (keys.len(), self.queries.lanes());
        let weights = &mut self.weights[..count * lanes];
        let k = head.key_rows(&mut self.k, head.input.k, keys.clone());
        let v = head.key_rows(&mut self.v, head.input.v, keys.clone());
        head.scores(&self.queries, k, rows, keys, (weights, &mut self.biases));
        let gradients = &mut self.score_gradients[..count * lanes];
        let out = BlockMut::new(gradients, count, lanes, lanes);
        product(out, false, v, self.d_output.turned());
        gradients_of_scores(weights, gradients, lanes, &self.shift, &self.delta);
    }

    /// Adds the tile's part of `dk` and `dv`, of the keys from `first` of the sums on.
    fn add_keys(&mut self, first: usize, count: usize) {
        let (lanes, queries) = (self.queries.lanes(), self.queries.rows());
        let [live, width] = queries.shape();
        for (sums, tile, right) in [
            (&mut self.dv, &self.weights, self.d_output.rows()),
            (&mut self.dk, &self.score_gradients, queries),
        ] {
            let out = BlockMut::new(&mut sums[first * width..], count, width, width);
            product(out, true, Block::new(tile, count, live, lanes), right);
        }
    }

    /// Adds the tile's part of `dq`, or starts it.
    fn add_queries<T: Element<Sum = S>>(
        &mut self,
        head: &Head<'_, '_, T>,
        keys: Range<usize>,
        accumulate: bool,
    ) {
        let (count, lanes, d) = (keys.len(), self.queries.lanes(), head.attention.head_dim);
        let k = head.key_rows(&mut self.k, head.input.k, keys);
        let gradients = Block::new(&self.score_gradients, count, lanes, lanes);
        let out = BlockMut::new(&mut self.dq, d, lanes, lanes);
        product(out, accumulate, k.transposed(), gradients);
    }

    /// Writes `dq` of the queries taken.
    fn write_queries<T: Element<Sum = S>>(
        &mut self,
        head: &Head<'_, '_, T>,
        rows: Range<usize>,
        dq: &Scattered<'_, T>,
    ) {
        let (d, lanes) = (head.attention.head_dim, self.queries.lanes());
        let width = d.next_multiple_of(LANES);
        transpose(&self.dq[..width * lanes], lanes, &mut self.turned[..width * lanes]);
        for (r, i) in rows.enumerate() {
            // SAFETY: each query of each head belongs to exactly one task.
            let out = unsafe { dq.slice(head.at_q(i), d) };
            narrow_scaled(out, &self.turned[r * width..], S::of(head.attention.scale));
        }
    }

    /// The scores' gradients of the tile, `[queries, keys]`, and the elements between its rows.
    pub(super) fn gradients_by_query(&mut self) -> (&[S], usize) {
        let lanes = self.queries.lanes();
        transpose(&self.score_gradients[..KEYS * lanes], lanes, &mut self.turned[..KEYS * lanes]);
        (&self.turned, KEYS)
    }
}
