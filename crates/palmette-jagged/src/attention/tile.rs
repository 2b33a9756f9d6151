//! Scores of one tile: what forward, backward and the bias gradient share.

use std::ops::Range;

use super::{Attention, AttentionInput, Bias};
use crate::block::{Block, BlockMut, multiply};
use crate::widen::Widened;
use crate::{Element, Real};

/// Queries in a tile.
pub(crate) const QUERIES: usize = 64;
/// Keys in a tile: 64 x 256 `f32` scores are 64 KiB and stay in the L2 cache.
pub(crate) const KEYS: usize = 256;

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

    /// `scale q k^T + bias` of a tile into `scores` (row stride `KEYS`), masked entries minus infinity.
    pub(crate) fn scores(
        &self,
        q: Block<'_, T::Sum>,
        k: Block<'_, T::Sum>,
        rows: Range<usize>,
        keys: Range<usize>,
        scores: &mut [T::Sum],
    ) {
        let out = BlockMut::new(scores, rows.len(), keys.len(), KEYS);
        multiply(out, false, q, k.transposed(), self.attention.scale_as());
        for (row, i) in scores.chunks_mut(KEYS).zip(rows) {
            let row = &mut row[..keys.len()];
            if let Some(bias) = &self.input.bias {
                self.add_bias(bias, i, keys.start, row);
            }
            let allowed = self.attention.mask.interval(i, self.n_q(), self.n_k());
            let start = allowed.start.clamp(keys.start, keys.end) - keys.start;
            let end = allowed.end.clamp(keys.start, keys.end) - keys.start;
            row[..start.min(end)].fill(T::Sum::NEG_INFINITY);
            row[end..].fill(T::Sum::NEG_INFINITY);
            if start >= end {
                row.fill(T::Sum::NEG_INFINITY);
            }
        }
    }

    fn add_bias(&self, bias: &Bias<'a, T::Sum>, i: usize, first: usize, row: &mut [T::Sum]) {
        let start = bias.start(self.b, self.h, i) + first;
        for (score, &bias) in row.iter_mut().zip(&bias.values[start..]) {
            *score += bias;
        }
    }
}

/// A widened block of rows of one head.
pub(crate) fn rows_of<'a, T: Element>(
    buffer: &'a mut Widened<T::Sum>,
    values: &'a [T],
    at: usize,
    rows: usize,
    columns: usize,
    stride: usize,
) -> Block<'a, T::Sum> {
    let (values, stride) = buffer.rows(&values[at..], rows, columns, stride);
    Block::new(values, rows, columns, stride)
}

/// Cuts `range` into blocks of `size` at multiples of `size`.
pub(crate) fn blocks(range: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let (start, end) = (range.start, range.end);
    let first = start / size;
    let last = if start >= end { first } else { end.div_ceil(size) };
    (first..last).map(move |block| (block * size).max(start)..((block + 1) * size).min(end))
}
