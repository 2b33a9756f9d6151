//! HSTU attention on the CPU: the tiles of softmax attention, keys as rows and queries as lanes.

use std::ops::Range;

use super::{HstuAttention, HstuInput, RowMask, Seen};
use crate::attention::tile::{KEYS, QUERIES, blocks, query_blocks};
use crate::block::{Block, BlockMut};
use crate::columns::silu;
use crate::panel::{Panel, transpose};
use crate::product::product;
use crate::registers::LANES;
use crate::tasks::{Scattered, for_each_task};
use crate::widen::{Widened, narrow_scaled};
use crate::{Element, Real};

/// Rows up to this length are one task a head in backward, with the sums of all their keys and
/// values as scratch; longer ones are cut as those of softmax attention are.
const FUSED: usize = 1024;

/// One row and head.
#[derive(Clone, Copy)]
struct Head<'a, 'b, T: Element> {
    attention: &'b HstuAttention<'b>,
    input: &'b HstuInput<'a, T>,
    b: usize,
    h: usize,
}

impl<T: Element> Head<'_, '_, T> {
    /// Position of the head's part, `width` elements, of token `i` of the row.
    fn at(&self, i: usize, width: usize) -> usize {
        ((self.input.offsets.active(self.b).start + i) * self.attention.heads + self.h) * width
    }

    fn mask(&self) -> RowMask<'_> {
        RowMask::new(self.attention.mask, self.b, self.input.offsets.length(self.b))
    }

    /// Tiles of `keys` of which `rows` see anything.
    fn tiles(&self, rows: Range<usize>, keys: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let mask = self.mask();
        blocks(keys, KEYS)
            .filter(move |keys| mask.tile(rows.clone(), keys.clone()) != Seen::Nothing)
    }

    fn rows<'c>(
        &self,
        buffer: &'c mut Widened<T::Sum>,
        values: &'c [T],
        tokens: Range<usize>,
        width: usize,
    ) -> Block<'c, T::Sum> {
        let values = &values[self.at(tokens.start, width)..];
        let stride = self.attention.heads * width;
        let (values, stride) = buffer.rows(values, tokens.len(), width, stride);
        Block::new(values, tokens.len(), width, stride)
    }
}

/// Scratch of one thread: a few tiles, and the sums of one task's keys.
struct Scratch<S> {
    queries: Panel<S>,
    d_output: Panel<S>,
    k: Widened<S>,
    v: Widened<S>,
    weights: Vec<S>,
    slopes: Vec<S>,
    /// Gradients of the scores, `[keys, queries]`.
    gradients: Vec<S>,
    /// Output or `dq`, `[columns, queries]`.
    sums: Vec<S>,
    turned: Vec<S>,
    /// `[keys, columns]`
    dk: Vec<S>,
    dv: Vec<S>,
}

impl<S: Real> Scratch<S> {
    fn new(attention: &HstuAttention<'_>) -> Self {
        let width = attention.key_dim.max(attention.value_dim).next_multiple_of(LANES);
        let tile = || vec![S::ZERO; QUERIES * KEYS];
        Self {
            queries: Panel::new(),
            d_output: Panel::new(),
            k: Widened::new(),
            v: Widened::new(),
            weights: tile(),
            slopes: tile(),
            gradients: tile(),
            sums: vec![S::ZERO; QUERIES * width],
            turned: vec![S::ZERO; QUERIES * width],
            dk: Vec::new(),
            dv: Vec::new(),
        }
    }

    /// Makes ready for tiles of the queries `rows`; their sums are zero.
    fn take_queries<T: Element<Sum = S>>(&mut self, head: &Head<'_, '_, T>, rows: Range<usize>) {
        let (d, heads) = (head.attention.key_dim, head.attention.heads);
        let values = &head.input.q[head.at(rows.start, d)..];
        self.queries.fill(values, [rows.len(), d, heads * d], S::of(head.attention.alpha));
        self.sums.fill(S::ZERO);
    }

    /// Weights `norm silu(s)` and slopes `norm silu'(s)` of a tile, 0 where masked.
    fn weigh<T: Element<Sum = S>>(
        &mut self,
        head: &Head<'_, '_, T>,
        rows: Range<usize>,
        keys: Range<usize>,
    ) {
        let (count, lanes) = (keys.len(), self.queries.lanes());
        let k = head.rows(&mut self.k, head.input.k, keys.clone(), head.attention.key_dim);
        let weights = &mut self.weights[..count * lanes];
        let slopes = &mut self.slopes[..count * lanes];
        product(BlockMut::new(weights, count, lanes, lanes), false, k, self.queries.turned());
        silu(weights, slopes, S::of(head.attention.norm));
        let mask = head.mask();
        if mask.tile(rows.clone(), keys.clone()) == Seen::Everything {
            return;
        }
        for (j, key) in keys.enumerate() {
            for (r, i) in rows.clone().enumerate() {
                if !mask.sees(i, key) {
                    (weights[j * lanes + r], slopes[j * lanes + r]) = (S::ZERO, S::ZERO);
                }
            }
        }
    }

    /// Gradients of the scores of the tile just weighed.
    fn differentiate<T: Element<Sum = S>>(&mut self, head: &Head<'_, '_, T>, keys: Range<usize>) {
        let (count, lanes) = (keys.len(), self.queries.lanes());
        let v = head.rows(&mut self.v, head.input.v, keys, head.attention.value_dim);
        let gradients = &mut self.gradients[..count * lanes];
        product(BlockMut::new(gradients, count, lanes, lanes), false, v, self.d_output.turned());
        for (gradient, slope) in gradients.iter_mut().zip(&self.slopes) {
            *gradient *= *slope;
        }
    }

    /// Adds the tile's part of `dk` and `dv`, of the keys from `first` of the sums on.
    fn add_keys(&mut self, first: usize, count: usize) {
        let lanes = self.queries.lanes();
        for (sums, tile, right) in [
            (&mut self.dv, &self.weights, self.d_output.rows()),
            (&mut self.dk, &self.gradients, self.queries.rows()),
        ] {
            let [live, width] = right.shape();
            let out = BlockMut::new(&mut sums[first * width..], count, width, width);
            product(out, true, Block::new(tile, count, live, lanes), right);
        }
    }

    /// Adds the tile's part of `dq`.
    fn add_queries<T: Element<Sum = S>>(&mut self, head: &Head<'_, '_, T>, keys: Range<usize>) {
        let (count, lanes, d) = (keys.len(), self.queries.lanes(), head.attention.key_dim);
        let k = head.rows(&mut self.k, head.input.k, keys, d);
        let gradients = Block::new(&self.gradients, count, lanes, lanes);
        product(BlockMut::new(&mut self.sums, d, lanes, lanes), true, k.transposed(), gradients);
    }

    /// Writes the queries' sums of `width` columns, times `factor`.
    fn write_queries<T: Element<Sum = S>>(
        &mut self,
        head: &Head<'_, '_, T>,
        (rows, width, factor): (Range<usize>, usize, f64),
        out: &Scattered<'_, T>,
    ) {
        let (lanes, filled) = (self.queries.lanes(), width.next_multiple_of(LANES));
        transpose(&self.sums[..filled * lanes], lanes, &mut self.turned[..filled * lanes]);
        for (r, i) in rows.enumerate() {
            // SAFETY: each position of each head belongs to one task.
            let out = unsafe { out.slice(head.at(i, width), width) };
            narrow_scaled(out, &self.turned[r * filled..], S::of(factor));
        }
    }
}

/// Blocks of queries of every head, longest row first.
fn query_tasks<T: Element>(
    attention: &HstuAttention<'_>,
    input: &HstuInput<'_, T>,
    wanted: impl Fn(usize) -> bool,
) -> Vec<(usize, usize, Range<usize>)> {
    let mut tasks = Vec::new();
    for &b in input.offsets.longest_first() {
        let length = input.offsets.length(b as usize);
        for h in 0..if wanted(length) { attention.heads } else { 0 } {
            tasks.extend(query_blocks(length).map(|rows| (b as usize, h, rows)));
        }
    }
    tasks
}

pub(super) fn forward<T: Element>(
    attention: &HstuAttention<'_>,
    input: &HstuInput<'_, T>,
    output: &mut [T],
) {
    if input.offsets.truncates() {
        output.fill(T::default());
    }
    let e = attention.value_dim;
    let tasks = query_tasks(attention, input, |_| true);
    let output = Scattered::new(output);
    for_each_task(
        tasks.len(),
        || Scratch::new(attention),
        |scratch, task| {
            let (b, h, rows) = tasks[task].clone();
            let head = Head { attention, input, b, h };
            scratch.take_queries(&head, rows.clone());
            for keys in head.tiles(rows.clone(), 0..input.offsets.length(b)) {
                scratch.weigh(&head, rows.clone(), keys.clone());
                let (count, lanes) = (keys.len(), scratch.queries.lanes());
                let v = head.rows(&mut scratch.v, input.v, keys, e);
                let weights = Block::new(&scratch.weights, count, lanes, lanes);
                product(
                    BlockMut::new(&mut scratch.sums, e, lanes, lanes),
                    true,
                    v.transposed(),
                    weights,
                );
            }
            scratch.write_queries(&head, (rows, e, 1.0), &output);
        },
    );
}

pub(super) fn backward<T: Element>(
    attention: &HstuAttention<'_>,
    input: &HstuInput<'_, T>,
    d_output: &[T],
    [dq, dk, dv]: [&mut [T]; 3],
) {
    let offsets = input.offsets;
    if offsets.truncates() {
        [&mut *dq, &mut *dk, &mut *dv].into_iter().for_each(|out| out.fill(T::default()));
    }
    let (d, e) = (attention.key_dim, attention.value_dim);
    let (dq, dk, dv) = (Scattered::new(dq), Scattered::new(dk), Scattered::new(dv));
    let take = |scratch: &mut Scratch<T::Sum>, head: &Head<'_, '_, T>, rows: Range<usize>| {
        let shape = [rows.len(), e, attention.heads * e];
        scratch.d_output.fill(&d_output[head.at(rows.start, e)..], shape, T::Sum::ONE);
        scratch.take_queries(head, rows);
    };

    let mut tasks = Vec::new();
    for &b in offsets.longest_first() {
        let length = offsets.length(b as usize);
        let size = if length <= FUSED { FUSED } else { 4 * KEYS };
        for h in 0..attention.heads {
            tasks.extend(blocks(0..length, size).map(|keys| (b as usize, h, keys)));
        }
    }
    for_each_task(
        tasks.len(),
        || Scratch::new(attention),
        |scratch, task| {
            let (b, h, keys) = tasks[task].clone();
            let (head, length) = (Head { attention, input, b, h }, offsets.length(b));
            let [wide_d, wide_e] = [d, e].map(|width| width.next_multiple_of(LANES));
            for (sums, width) in [(&mut scratch.dk, wide_d), (&mut scratch.dv, wide_e)] {
                sums.clear();
                sums.resize(keys.len() * width, T::Sum::ZERO);
            }
            for rows in query_blocks(length) {
                take(scratch, &head, rows.clone());
                for tile in head.tiles(rows.clone(), keys.clone()) {
                    scratch.weigh(&head, rows.clone(), tile.clone());
                    scratch.differentiate(&head, tile.clone());
                    scratch.add_keys(tile.start - keys.start, tile.len());
                    if length <= FUSED {
                        scratch.add_queries(&head, tile);
                    }
                }
                if length <= FUSED {
                    scratch.write_queries(&head, (rows, d, attention.alpha), &dq);
                }
            }
            for (r, j) in keys.enumerate() {
                // SAFETY: each key of each head belongs to one task. The queries in the sums of `dk`
                // are times alpha.
                unsafe {
                    let (dk, dv) = (dk.slice(head.at(j, d), d), dv.slice(head.at(j, e), e));
                    narrow_scaled(dk, &scratch.dk[r * wide_d..], T::Sum::ONE);
                    narrow_scaled(dv, &scratch.dv[r * wide_e..], T::Sum::ONE);
                }
            }
        },
    );

    let tasks = query_tasks(attention, input, |length| length > FUSED);
    for_each_task(
        tasks.len(),
        || Scratch::new(attention),
        |scratch, task| {
            let (b, h, rows) = tasks[task].clone();
            let head = Head { attention, input, b, h };
            take(scratch, &head, rows.clone());
            for keys in head.tiles(rows.clone(), 0..offsets.length(b)) {
                scratch.weigh(&head, rows.clone(), keys.clone());
                scratch.differentiate(&head, keys.clone());
                scratch.add_queries(&head, keys);
            }
            scratch.write_queries(&head, (rows, d, attention.alpha), &dq);
        },
    );
}
