//! Forward on the CPU.

use super::tile::{Head, KEYS, QUERIES, blocks, rows_of};
use super::{Attention, AttentionInput};
use crate::block::{Block, BlockMut, multiply};
use crate::lanes::{largest, scale};
use crate::tasks::{Scattered, for_each_task};
use crate::widen::Widened;
use crate::{Element, Offsets, Real};

/// A block of queries: row, head, index of the block.
pub(super) type QueryTask = (u32, u32, u32);

/// Blocks of queries, longest row first; a head's blocks lie together.
pub(super) fn query_tasks(offsets: &Offsets, heads: usize) -> Vec<QueryTask> {
    let mut tasks = Vec::new();
    for &b in offsets.longest_first() {
        let count = offsets.length(b as usize).div_ceil(QUERIES) as u32;
        for h in 0..heads as u32 {
            tasks.extend((0..count).map(|block| (b, h, block)));
        }
    }
    tasks
}

/// Scratch of one thread.
struct Scratch<S> {
    q: Widened<S>,
    k: Widened<S>,
    v: Widened<S>,
    scores: Vec<S>,
    sums: Vec<S>,
}

pub(super) fn forward<T: Element>(
    attention: &Attention,
    input: &AttentionInput<'_, T>,
    output: &mut [T],
    lse: &mut [T::Sum],
) {
    let (d, offsets) = (attention.head_dim, input.offsets_q);
    if offsets.truncates() {
        output.fill(T::default());
        lse.fill(T::Sum::NEG_INFINITY);
    }
    let tasks = query_tasks(offsets, attention.heads);
    let (output, lse) = (Scattered::new(output), Scattered::new(lse));
    let scratch = || Scratch {
        q: Widened::new(),
        k: Widened::new(),
        v: Widened::new(),
        scores: vec![T::Sum::ZERO; QUERIES * KEYS],
        sums: vec![T::Sum::ZERO; QUERIES * d],
    };
    for_each_task(tasks.len(), scratch, |scratch, task| {
        let (b, h, block) = tasks[task];
        let head = Head { attention, input, b: b as usize, h: h as usize };
        let start = block as usize * QUERIES;
        let rows = start..(start + QUERIES).min(head.n_q());
        let mut largest = [T::Sum::NEG_INFINITY; QUERIES];
        let mut total = [T::Sum::ZERO; QUERIES];
        accumulate(&head, rows.clone(), scratch, &mut largest, &mut total);
        for (r, i) in rows.enumerate() {
            let inverse =
                if total[r] > T::Sum::ZERO { T::Sum::ONE / total[r] } else { T::Sum::ZERO };
            // SAFETY: each query of each head belongs to exactly one task.
            let (out, lse) =
                unsafe { (output.slice(head.at_q(i), d), lse.slice(head.at_lse(i), 1)) };
            for (out, &sum) in out.iter_mut().zip(&scratch.sums[r * d..]) {
                *out = T::narrow(sum * inverse);
            }
            lse[0] = if total[r] > T::Sum::ZERO {
                largest[r] + total[r].ln()
            } else {
                T::Sum::NEG_INFINITY
            };
        }
    });
}

/// The running maximum, the sum of exponentials and the weighted sum of values of each query.
fn accumulate<T: Element>(
    head: &Head<'_, '_, T>,
    rows: std::ops::Range<usize>,
    scratch: &mut Scratch<T::Sum>,
    maximum: &mut [T::Sum; QUERIES],
    total: &mut [T::Sum; QUERIES],
) {
    let (d, n) = (head.attention.head_dim, rows.len());
    let Scratch { q, k, v, scores, sums } = scratch;
    let sums = &mut sums[..n * d];
    sums.fill(T::Sum::ZERO);
    let q = rows_of(q, head.input.q, head.at_q(rows.start), n, d, head.stride_q());
    for keys in blocks(head.keys(rows.clone()), KEYS) {
        let (at, count, stride) = (head.at_k(keys.start), keys.len(), head.stride_k());
        let k = rows_of(k, head.input.k, at, count, d, stride);
        let v = rows_of(v, head.input.v, at, count, d, stride);
        head.scores(q, k, rows.clone(), keys.clone(), scores);
        for r in 0..n {
            let row = &mut scores[r * KEYS..][..count];
            let larger = largest(row).larger(maximum[r]);
            if larger == T::Sum::NEG_INFINITY {
                row.fill(T::Sum::ZERO);
                continue;
            }
            if larger > maximum[r] {
                let shrink = (maximum[r] - larger).exp();
                total[r] *= shrink;
                scale(&mut sums[r * d..][..d], shrink);
                maximum[r] = larger;
            }
            total[r] += T::Sum::exp_sum(row, larger);
        }
        let weights = Block::new(scores, n, count, KEYS);
        multiply(BlockMut::new(sums, n, d, d), true, weights, v, T::Sum::ONE);
    }
}
