//! Forward on the CPU.

use std::ops::Range;

use super::tile::{Head, KEYS, QUERIES, blocks, query_blocks};
use super::{Attention, AttentionInput};
use crate::block::{Block, BlockMut};
use crate::columns::{largest, powers, scale};
use crate::panel::{Panel, transpose};
use crate::product::product;
use crate::registers::LANES;
use crate::tasks::{Scattered, for_each_task};
use crate::widen::Widened;
use crate::{Element, Offsets, Real};

/// A query's shift follows its maximum only when that has grown by 2^8, because a new shift
/// multiplies all its sums: weights then are up to 256, whose sums `f32` holds as well.
const SLACK: f64 = 8.0;

/// A block of queries of one row and head.
pub(super) type QueryTask = (u32, u32, Range<usize>);

/// Blocks of queries, longest row first; a head's blocks lie together.
pub(super) fn query_tasks(offsets: &Offsets, heads: usize) -> Vec<QueryTask> {
    let mut tasks = Vec::new();
    for &b in offsets.longest_first() {
        for h in 0..heads as u32 {
            tasks.extend(query_blocks(offsets.length(b as usize)).map(|rows| (b, h, rows)));
        }
    }
    tasks
}

/// Scratch of one thread: a few tiles.
struct Scratch<S> {
    queries: Panel<S>,
    biases: Panel<S>,
    k: Widened<S>,
    v: Widened<S>,
    scores: Vec<S>,
    /// Weighted sums of values, `[D, queries]`, `D` filled up for the transpose.
    sums: Vec<S>,
    turned: Vec<S>,
    /// What each query's exponents are less.
    shift: [S; QUERIES],
    total: [S; QUERIES],
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
    let width = d.next_multiple_of(LANES);
    let scratch = || Scratch {
        queries: Panel::new(),
        biases: Panel::new(),
        k: Widened::new(),
        v: Widened::new(),
        scores: vec![T::Sum::ZERO; QUERIES * KEYS],
        sums: vec![T::Sum::ZERO; QUERIES * width],
        turned: vec![T::Sum::ZERO; QUERIES * width],
        shift: [T::Sum::ZERO; QUERIES],
        total: [T::Sum::ZERO; QUERIES],
    };
    for_each_task(tasks.len(), scratch, |scratch, task| {
        let (b, h, rows) = tasks[task].clone();
        let head = Head { attention, input, b: b as usize, h: h as usize };
        accumulate(&head, rows.clone(), scratch);
        let Scratch { queries, sums, turned, shift, total, .. } = scratch;
        let size = width * queries.lanes();
        transpose(&sums[..size], queries.lanes(), &mut turned[..size]);
        for (r, i) in rows.enumerate() {
            // SAFETY: each query of each head belongs to exactly one task.
            let (out, lse) =
                unsafe { (output.slice(head.at_q(i), d), lse.slice(head.at_lse(i), 1)) };
            let (inverse, log) = if total[r] == T::Sum::ZERO {
                (T::Sum::ZERO, T::Sum::NEG_INFINITY)
            } else {
                let shift = shift[r] * T::Sum::of(std::f64::consts::LN_2);
                (T::Sum::ONE / total[r], shift + total[r].ln())
            };
            lse[0] = log;
            for (out, &sum) in out.iter_mut().zip(&turned[r * width..]) {
                *out = T::narrow(sum * inverse);
            }
        }
    });
}

/// The weighted sums of values, the shift and the sum of weights of each query.
fn accumulate<T: Element>(
    head: &Head<'_, '_, T>,
    rows: Range<usize>,
    scratch: &mut Scratch<T::Sum>,
) {
    let d = head.attention.head_dim;
    let Scratch { queries, biases, k, v, scores, sums, shift, total, .. } = scratch;
    head.fill_queries(queries, rows.clone());
    let lanes = queries.lanes();
    shift.fill(T::Sum::NEG_INFINITY);
    total.fill(T::Sum::ZERO);
    let seen = head.keys(rows.clone());
    if seen.is_empty() {
        sums.fill(T::Sum::ZERO);
    }
    let slack = T::Sum::of(SLACK);
    for (tile, keys) in blocks(seen, KEYS).enumerate() {
        let scores = &mut scores[..keys.len() * lanes];
        let k = head.key_rows(k, head.input.k, keys.clone());
        head.scores(queries, k, rows.clone(), keys.clone(), (scores, biases));

        let mut largest_scores = [T::Sum::NEG_INFINITY; QUERIES];
        largest(scores, lanes, &mut largest_scores);
        let (mut shrink, mut grown) = ([T::Sum::ONE; QUERIES], false);
        for r in 0..lanes {
            if shift[r] == T::Sum::NEG_INFINITY {
                // Nothing seen yet: the sums are zero.
                shift[r] = largest_scores[r];
            } else if largest_scores[r] > shift[r] + slack {
                let ln_2 = T::Sum::of(std::f64::consts::LN_2);
                shrink[r] = ((shift[r] - largest_scores[r]) * ln_2).exp();
                (shift[r], grown) = (largest_scores[r], true);
            }
        }
        if grown {
            scale(&mut sums[..d * lanes], lanes, &shrink);
            scale(&mut total[..lanes], lanes, &shrink);
        }
        // Scores of minus infinity less a shift of minus infinity would be NaN.
        let shift = shift.map(|x| if x == T::Sum::NEG_INFINITY { T::Sum::ZERO } else { x });
        powers(scores, lanes, &shift, &mut total[..lanes]);

        let count = keys.len();
        let v = head.key_rows(v, head.input.v, keys);
        let weights = Block::new(scores, count, lanes, lanes);
        product(BlockMut::new(sums, d, lanes, lanes), tile > 0, v.transposed(), weights);
    }
}
