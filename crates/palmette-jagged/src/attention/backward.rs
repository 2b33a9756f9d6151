//! Backward on the CPU.

use std::ops::Range;

use super::bias_gradient::bias_gradient;
use super::forward::query_tasks;
use super::tile::{Head, KEYS, QUERIES, blocks, rows_of};
use super::{Attention, AttentionGradients, AttentionInput};
use crate::block::{Block, BlockMut, multiply};
use crate::lanes::{dot, softmax_gradient};
use crate::tasks::{Scattered, for_each_task};
use crate::widen::Widened;
use crate::{Element, Real};

/// Rows up to this many scores are one task that computes each score once, with
/// a whole row of query sums as scratch; longer ones are cut into blocks of queries
/// and blocks of keys that compute the scores twice and need only a tile. The
/// choice depends on the lengths alone, so the bits do not depend on the threads.
const FUSED_SCORES: usize = 1 << 20;

/// Forward's results, which backward reads.
#[derive(Clone, Copy)]
pub(super) struct Saved<'a, T: Element> {
    pub(super) lse: &'a [T::Sum],
    /// `delta_i = o_i . do_i`, `[H, T_q]`.
    pub(super) delta: &'a [T::Sum],
    pub(super) d_output: &'a [T],
}

/// Scratch of one thread for one tile.
pub(super) struct Scratch<S> {
    q: Widened<S>,
    k: Widened<S>,
    v: Widened<S>,
    d_output: Widened<S>,
    pub(super) weights: Vec<S>,
    pub(super) score_gradients: Vec<S>,
    dq: Vec<S>,
    dk: Vec<S>,
    dv: Vec<S>,
}

impl<S: Real> Scratch<S> {
    pub(super) fn new() -> Self {
        Self {
            q: Widened::new(),
            k: Widened::new(),
            v: Widened::new(),
            d_output: Widened::new(),
            weights: vec![S::ZERO; QUERIES * KEYS],
            score_gradients: vec![S::ZERO; QUERIES * KEYS],
            dq: Vec::new(),
            dk: Vec::new(),
            dv: Vec::new(),
        }
    }
}

/// Which sums of a tile to add to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Queries,
    Keys,
    Both,
    Scores,
}

pub(super) fn backward<T: Element>(
    attention: &Attention,
    input: &AttentionInput<'_, T>,
    output: &[T],
    lse: &[T::Sum],
    d_output: &[T],
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
    let delta = deltas(attention, input, output, d_output);
    let saved = Saved { lse, delta: &delta, d_output };
    let fused = |b: usize| {
        let group = input.offsets_q.length(b).saturating_mul(input.offsets_k.length(b));
        group <= FUSED_SCORES
    };

    let mut tasks = Vec::new();
    for &b in input.offsets_k.longest_first() {
        let n_k = input.offsets_k.length(b as usize);
        for g in 0..attention.kv_heads as u32 {
            if fused(b as usize) {
                tasks.push((b, g, 0..n_k, Wanted::Both));
            } else {
                tasks.extend(blocks(0..n_k, KEYS).map(|keys| (b, g, keys, Wanted::Keys)));
            }
        }
    }
    let (dq, dk, dv) = (Scattered::new(dq), Scattered::new(dk), Scattered::new(dv));
    for_each_task(tasks.len(), Scratch::new, |scratch, task| {
        let (b, g, keys, wanted) = tasks[task].clone();
        let h = g as usize * attention.group();
        let head = Head { attention, input, b: b as usize, h };
        keys_task(&head, saved, keys, wanted, scratch, [&dq, &dk, &dv]);
    });

    let tasks: Vec<_> = query_tasks(input.offsets_q, attention.heads)
        .into_iter()
        .filter(|&(b, ..)| !fused(b as usize))
        .collect();
    for_each_task(tasks.len(), Scratch::new, |scratch, task| {
        let (b, h, block) = tasks[task];
        let head = Head { attention, input, b: b as usize, h: h as usize };
        let start = block as usize * QUERIES;
        queries_task(&head, saved, start..(start + QUERIES).min(head.n_q()), scratch, &dq);
    });

    if let (Some(dbias), Some(bias)) = (dbias, &input.bias) {
        bias_gradient(attention, input, bias, saved, dbias);
    }
}

/// `delta_i = o_i . do_i`, `[H, T_q]`.
fn deltas<T: Element>(
    attention: &Attention,
    input: &AttentionInput<'_, T>,
    output: &[T],
    d_output: &[T],
) -> Vec<T::Sum> {
    let (heads, d, tokens) = (attention.heads, attention.head_dim, input.offsets_q.total());
    let mut delta = vec![T::Sum::ZERO; heads * tokens];
    let shared = Scattered::new(&mut delta);
    for_each_task(
        tokens.div_ceil(1024),
        || [Widened::new(), Widened::new()],
        |scratch, chunk| {
            let [o, g] = scratch;
            for token in chunk * 1024..((chunk + 1) * 1024).min(tokens) {
                for h in 0..heads {
                    let at = (token * heads + h) * d;
                    let (o, g) = (o.all(&output[at..at + d]), g.all(&d_output[at..at + d]));
                    // SAFETY: each token belongs to one chunk.
                    unsafe { shared.slice(h * tokens + token, 1)[0] = dot(o, g) };
                }
            }
        },
    );
    delta
}

/// `dk` and `dv` of `keys` for the key head of `head`, and `dq` of all its queries where wanted.
fn keys_task<T: Element>(
    head: &Head<'_, '_, T>,
    saved: Saved<'_, T>,
    keys: Range<usize>,
    wanted: Wanted,
    scratch: &mut Scratch<T::Sum>,
    [dq, dk, dv]: [&Scattered<'_, T>; 3],
) {
    let (d, n_q, group) = (head.attention.head_dim, head.n_q(), head.attention.group());
    scratch.dq.clear();
    if wanted == Wanted::Both {
        scratch.dq.resize(group * n_q * d, T::Sum::ZERO);
    }
    for keys in blocks(keys, KEYS) {
        scratch.dk.clear();
        scratch.dk.resize(keys.len() * d, T::Sum::ZERO);
        scratch.dv.clear();
        scratch.dv.resize(keys.len() * d, T::Sum::ZERO);
        for member in 0..group {
            let head = Head { h: head.h + member, ..*head };
            for rows in blocks(0..n_q, QUERIES) {
                let seen = head.keys(rows.clone());
                if seen.start < keys.end && keys.start < seen.end {
                    let at = (member * n_q + rows.start) * d;
                    tile(&head, saved, rows, keys.clone(), wanted, at, scratch);
                }
            }
        }
        for (r, j) in keys.enumerate() {
            // SAFETY: each key of each key head belongs to exactly one task.
            let (dk, dv) = unsafe { (dk.slice(head.at_k(j), d), dv.slice(head.at_k(j), d)) };
            crate::widen::narrow_into(dk, &scratch.dk[r * d..][..d]);
            crate::widen::narrow_into(dv, &scratch.dv[r * d..][..d]);
        }
    }
    if wanted == Wanted::Both {
        for member in 0..group {
            let head = Head { h: head.h + member, ..*head };
            for i in 0..n_q {
                // SAFETY: a fused row's key head is one task and owns its queries.
                let out = unsafe { dq.slice(head.at_q(i), d) };
                crate::widen::narrow_into(out, &scratch.dq[(member * n_q + i) * d..][..d]);
            }
        }
    }
}

/// `dq` of a block of queries.
fn queries_task<T: Element>(
    head: &Head<'_, '_, T>,
    saved: Saved<'_, T>,
    rows: Range<usize>,
    scratch: &mut Scratch<T::Sum>,
    dq: &Scattered<'_, T>,
) {
    let d = head.attention.head_dim;
    scratch.dq.clear();
    scratch.dq.resize(rows.len() * d, T::Sum::ZERO);
    for keys in blocks(head.keys(rows.clone()), KEYS) {
        tile(head, saved, rows.clone(), keys, Wanted::Queries, 0, scratch);
    }
    for (r, i) in rows.enumerate() {
        // SAFETY: each query of each head belongs to exactly one task.
        let out = unsafe { dq.slice(head.at_q(i), d) };
        crate::widen::narrow_into(out, &scratch.dq[r * d..][..d]);
    }
}

/// Recomputes one tile's weights and score gradients and adds to the wanted sums;
/// `dq_at` is where the tile's queries start in `scratch.dq`.
pub(super) fn tile<T: Element>(
    head: &Head<'_, '_, T>,
    saved: Saved<'_, T>,
    rows: Range<usize>,
    keys: Range<usize>,
    wanted: Wanted,
    dq_at: usize,
    scratch: &mut Scratch<T::Sum>,
) {
    let d = head.attention.head_dim;
    let (n, m) = (rows.len(), keys.len());
    let (at_q, at_k) = (head.at_q(rows.start), head.at_k(keys.start));
    let Scratch { q, k, v, d_output, weights, score_gradients, dq, dk, dv } = scratch;
    let q = rows_of(q, head.input.q, at_q, n, d, head.stride_q());
    let g = rows_of(d_output, saved.d_output, at_q, n, d, head.stride_q());
    let k = rows_of(k, head.input.k, at_k, m, d, head.stride_k());
    let v = rows_of(v, head.input.v, at_k, m, d, head.stride_k());

    head.scores(q, k, rows.clone(), keys, weights);
    multiply(BlockMut::new(score_gradients, n, m, KEYS), false, g, v.transposed(), T::Sum::ONE);
    for (r, i) in rows.enumerate() {
        let weights = &mut weights[r * KEYS..][..m];
        let lse = saved.lse[head.at_lse(i)];
        if lse == T::Sum::NEG_INFINITY {
            weights.fill(T::Sum::ZERO);
        } else {
            T::Sum::exp_sum(weights, lse);
        }
        let delta = saved.delta[head.at_lse(i)];
        softmax_gradient(weights, &mut score_gradients[r * KEYS..][..m], delta);
    }

    let weights = Block::new(weights, n, m, KEYS);
    let score_gradients = Block::new(score_gradients, n, m, KEYS);
    let scale = head.attention.scale_as();
    if matches!(wanted, Wanted::Keys | Wanted::Both) {
        multiply(BlockMut::new(dv, m, d, d), true, weights.transposed(), g, T::Sum::ONE);
        multiply(BlockMut::new(dk, m, d, d), true, score_gradients.transposed(), q, scale);
    }
    if matches!(wanted, Wanted::Queries | Wanted::Both) {
        multiply(BlockMut::new(&mut dq[dq_at..], n, d, d), true, score_gradients, k, scale);
    }
}
