//! The gradient of the bias: a pass of its own, ordered over what shares an entry.

use super::backward::{Saved, Scratch};
use super::tile::{Head, KEYS, QUERIES, blocks};
use super::{Attention, AttentionInput, Bias};
use crate::tasks::{Scattered, for_each_task};
use crate::{Element, Real};

/// `dbias_ij = ds_ij`, summed over the rows and heads that share an entry, in
/// their order. Each task owns a block of query rows of the bias, so no two threads
/// add to one entry, and a broadcast over the batch needs no buffer of its own.
pub(super) fn bias_gradient<T: Element>(
    attention: &Attention,
    input: &AttentionInput<'_, T>,
    bias: &Bias<'_, T::Sum>,
    saved: Saved<'_, T>,
    dbias: &mut [T::Sum],
) {
    dbias.fill(T::Sum::ZERO);
    let blocks_q = input.offsets_q.longest().div_ceil(QUERIES);
    let dbias = Scattered::new(dbias);
    let scratch = || Scratch::new(attention.head_dim);
    for_each_task(bias.batch * bias.heads * blocks_q, scratch, |scratch, task| {
        let (block, rest) = (task % blocks_q, task / blocks_q);
        let (bias_h, bias_b) = (rest % bias.heads, rest / bias.heads);
        let rows = if bias.batch == 1 { 0..input.offsets_q.rows() } else { bias_b..bias_b + 1 };
        for b in rows {
            let heads = if bias.heads == 1 { 0..attention.heads } else { bias_h..bias_h + 1 };
            for h in heads {
                let head = Head { attention, input, b, h };
                let queries = block * QUERIES..((block + 1) * QUERIES).min(head.n_q());
                if queries.is_empty() {
                    continue;
                }
                scratch.take_queries(&head, saved, queries.clone());
                for keys in blocks(head.keys(queries.clone()), KEYS) {
                    scratch.scores(&head, queries.clone(), keys.clone());
                    let (gradients, stride) = scratch.gradients_by_query();
                    for (r, i) in queries.clone().enumerate() {
                        let at = bias.start(b, h, i) + keys.start;
                        // SAFETY: the task owns these rows of the bias.
                        let out = unsafe { dbias.slice(at, keys.len()) };
                        for (out, &ds) in out.iter_mut().zip(&gradients[r * stride..]) {
                            *out += ds;
                        }
                    }
                }
            }
        }
    });
}
