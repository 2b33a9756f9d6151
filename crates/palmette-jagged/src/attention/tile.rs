//! One tile of scores: what forward, backward and the bias gradient share.
//!
//! Tiles are stored with keys as rows and queries as columns, so that everything that belongs to a
//! query (its maximum, its sum, its place in the mask) is a lane of a register.

use std::ops::Range;

use super::{Attention, AttentionInput, Bias, Mask};
use crate::block::{Block, BlockMut};
use crate::panel::Panel;
use crate::product::product;
use crate::registers::LANES;
use crate::widen::Widened;
use crate::{Element, Real};

/// Queries in a tile at most: four registers of `f32`.
pub(crate) const QUERIES: usize = 64;
/// Keys in a tile: a tile of `f32` scores is 16 KiB and stays in the first-level cache.
pub(crate) const KEYS: usize = 64;

/// One row and query head, with the lengths the operator sees.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a, 'b, T: Element> {
    pub(crate) attention: &'b Attention,
    pub(crate) input: &'b AttentionInput<'a, T>,
    pub(crate) b: usize,
    pub(crate) h: usize,
}

impl<'a, T: Element> Head<'a, '_, T> {
    pub(crate) fn n_q(&self) -> usize {
        self.input.offsets_q.length(self.b)
    }

    pub(crate) fn n_k(&self) -> usize {
        self.input.offsets_k.length(self.b)
    }

    /// Elements between a head's consecutive queries.
    pub(crate) fn stride_q(&self) -> usize {
        self.attention.heads * self.attention.head_dim
    }

    /// Elements between a head's consecutive keys.
    pub(crate) fn stride_k(&self) -> usize {
        self.attention.kv_heads * self.attention.head_dim
    }

    /// Position of query `i` in a `[T_q, H, D]` buffer.
    pub(crate) fn at_q(&self, i: usize) -> usize {
        let token = self.input.offsets_q.active(self.b).start + i;
        (token * self.attention.heads + self.h) * self.attention.head_dim
    }

    /// Position of key `j` in a `[T_k, G, D]` buffer.
    pub(crate) fn at_k(&self, j: usize) -> usize {
        let token = self.input.offsets_k.active(self.b).start + j;
        let g = self.h / self.attention.group();
        (token * self.attention.kv_heads + g) * self.attention.head_dim
    }

    /// Position of query `i` in a `[H, T_q]` buffer.
    pub(crate) fn at_lse(&self, i: usize) -> usize {
        let offsets = self.input.offsets_q;
        self.h * offsets.total() + offsets.active(self.b).start + i
    }

    /// The keys that queries `rows` see.
    pub(crate) fn keys(&self, rows: Range<usize>) -> Range<usize> {
        self.attention.mask.union(rows, self.n_q(), self.n_k())
    }

    /// Queries `rows` times `scale log2 e`: their products with keys are exponents of 2.
    pub(crate) fn fill_queries(&self, panel: &mut Panel<T::Sum>, rows: Range<usize>) {
        let shape = [rows.len(), self.attention.head_dim, self.stride_q()];
        let factor = self.attention.scale * std::f64::consts::LOG2_E;
        panel.fill(&self.input.q[self.at_q(rows.start)..], shape, T::Sum::of(factor));
    }

    /// `keys` of `values` (the keys or the values), `[keys, D]`.
    pub(crate) fn key_rows<'c>(
        &self,
        buffer: &'c mut Widened<T::Sum>,
        values: &'c [T],
        keys: Range<usize>,
    ) -> Block<'c, T::Sum> {
        let d = self.attention.head_dim;
        let values = &values[self.at_k(keys.start)..];
        let (values, stride) = buffer.rows(values, keys.len(), d, self.stride_k());
        Block::new(values, keys.len(), d, stride)
    }

    /// `(scale q k^T + bias) log2 e` of a tile into `scores`, masked entries minus infinity.
    pub(crate) fn scores(
        &self,
        queries: &Panel<T::Sum>,
        k: Block<'_, T::Sum>,
        rows: Range<usize>,
        keys: Range<usize>,
        (scores, biases): (&mut [T::Sum], &mut Panel<T::Sum>),
    ) {
        let lanes = queries.lanes();
        product(BlockMut::new(scores, keys.len(), lanes, lanes), false, k, queries.turned());
        if let Some(bias) = &self.input.bias {
            self.add_bias(bias, rows.clone(), keys.clone(), (scores, biases));
        }
        let (n_q, n_k) = (self.n_q(), self.n_k());
        let mask = self.attention.mask;
        let first = mask.interval(rows.start, n_q, n_k);
        let last = mask.interval(rows.end - 1, n_q, n_k);
        if mask == Mask::Full || first.end >= keys.end && last.start <= keys.start {
            return;
        }
        for (row, key) in scores.chunks_exact_mut(lanes).zip(keys) {
            let seen = mask.seen_by(key..key + 1, n_q, n_k);
            let [start, end] = [seen.start, seen.end].map(|i| i.clamp(rows.start, rows.end));
            row[..start - rows.start].fill(T::Sum::NEG_INFINITY);
            row[end.max(start) - rows.start..].fill(T::Sum::NEG_INFINITY);
        }
    }

    fn add_bias(
        &self,
        bias: &Bias<'a, T::Sum>,
        rows: Range<usize>,
        keys: Range<usize>,
        (scores, biases): (&mut [T::Sum], &mut Panel<T::Sum>),
    ) {
        let start = bias.start(self.b, self.h, rows.start) + keys.start;
        let shape = [rows.len(), keys.len(), bias.max_k];
        biases.fill(&bias.values[start..], shape, T::Sum::of(std::f64::consts::LOG2_E));
        for (score, &bias) in scores.iter_mut().zip(biases.turned().data()) {
            *score += bias;
        }
    }
}

/// Cuts `range` into blocks of `size` at multiples of `size`.
pub(crate) fn blocks(range: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let (start, end) = (range.start, range.end);
    let first = start / size;
    let last = if start >= end { first } else { end.div_ceil(size) };
    (first..last).map(move |block| (block * size).max(start)..((block + 1) * size).min(end))
}

/// Cuts `n` queries into as few blocks of at most [`QUERIES`] as there must be, of nearly equal
/// numbers of registers: 131 queries are three times 48, not 64, 64 and a register for three.
pub(crate) fn query_blocks(n: usize) -> impl Iterator<Item = Range<usize>> {
    let registers = n.div_ceil(LANES);
    let count = n.div_ceil(QUERIES);
    let border = move |block: usize| (block * registers / count.max(1) * LANES).min(n);
    (0..count).map(move |block| border(block)..border(block + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_queries_cover_them_all() {
        for n in 0..400 {
            let blocks: Vec<_> = query_blocks(n).collect();
            let lanes: usize = blocks.iter().map(|rows| rows.len().next_multiple_of(LANES)).sum();
            assert_eq!(lanes, n.next_multiple_of(LANES), "{n}");
            assert!(blocks.iter().all(|rows| (1..=QUERIES).contains(&rows.len())), "{n}");
            assert!(blocks.iter().flat_map(|rows| rows.clone()).eq(0..n), "{n}");
        }
        assert_eq!(query_blocks(131).map(|rows| rows.len()).collect::<Vec<_>>(), [48, 48, 35]);
    }
}
