//! Pooled attention, a tile of targets and keys at a time.

use std::ops::Range;

use super::{Forward, PooledAttention, PooledGradients, PooledInput};
use crate::block::{Block, BlockMut, multiply};
use crate::lanes;
use crate::tasks::{Scattered, for_each_task};
use crate::widen::{Widened, narrow_into};
use crate::{Element, Real};

/// Keys of a tile and targets of a tile: 64 x 128 scores in `f32` are 32 KiB.
const KEYS: usize = 128;
const TARGETS: usize = 64;

/// Tiles of up to `size` that cover `0..length`.
fn tiles(length: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..length).step_by(size).map(move |start| start..(start + size).min(length))
}

/// Operands of one tile, widened; targets are widened a row at a time.
struct Operands<S> {
    keys: Widened<S>,
    values: Widened<S>,
    targets: Widened<S>,
}

impl<S: Real> Operands<S> {
    fn new() -> Self {
        Self { keys: Widened::new(), values: Widened::new(), targets: Widened::new() }
    }
}

/// A tile's place: row of the batch, its targets and its keys.
struct Tile {
    row: usize,
    targets: Range<usize>,
    keys: Range<usize>,
}

impl Tile {
    fn shape(&self) -> (usize, usize) {
        (self.targets.len(), self.keys.len())
    }
}

/// `[targets, keys]` scores of a tile.
fn scores<T: Element>(
    pooled: &PooledAttention,
    input: &PooledInput<'_, T>,
    tile: &Tile,
    targets: Block<'_, T::Sum>,
    keys: Block<'_, T::Sum>,
    out: &mut [T::Sum],
) {
    let (s, n) = tile.shape();
    let scale = T::Sum::of(pooled.scale);
    multiply(BlockMut::new(out, s, n, n), false, targets, keys.transposed(), scale);
    if let Some(bias) = input.bias {
        let start = tile.row * input.keys.offsets().max_len() + tile.keys.start;
        for i in 0..n {
            let bias = &bias[(start + i) * pooled.targets..][tile.targets.clone()];
            for (t, bias) in bias.iter().enumerate() {
                out[t * n + i] += bias.widen();
            }
        }
    }
}

/// Elements `range` of a row's `[.., width]` matrix.
fn part<'a, T>(row: &'a [T], range: &Range<usize>, width: usize) -> &'a [T] {
    &row[range.start * width..range.end * width]
}

/// Running softmax of the targets of a tile.
struct Running<S> {
    scores: Vec<S>,
    /// Weighted sums of values, `[TARGETS, D]`.
    sums: Vec<S>,
    largest: [S; TARGETS],
    total: [S; TARGETS],
}

impl<S: Real> Running<S> {
    fn new(d: usize) -> Self {
        Self {
            scores: vec![S::ZERO; TARGETS * KEYS],
            sums: vec![S::ZERO; TARGETS * d],
            largest: [S::NEG_INFINITY; TARGETS],
            total: [S::ZERO; TARGETS],
        }
    }

    fn clear(&mut self, targets: usize, d: usize) {
        self.sums[..targets * d].fill(S::ZERO);
        self.largest[..targets].fill(S::NEG_INFINITY);
        self.total[..targets].fill(S::ZERO);
    }

    /// Turns target `t`'s scores of a tile into weights under the maximum so far.
    fn weigh(&mut self, t: usize, n: usize, d: usize) {
        let row = &mut self.scores[t * n..][..n];
        let before = self.largest[t];
        let largest = before.larger(lanes::largest(row));
        if largest == S::NEG_INFINITY {
            row.fill(S::ZERO);
            return;
        }
        let total = S::exp_sum(row, largest);
        if before == largest {
            self.total[t] += total;
            return;
        }
        let factor = (before - largest).exp();
        self.total[t] = self.total[t] * factor + total;
        lanes::scale(&mut self.sums[t * d..][..d], factor);
        self.largest[t] = largest;
    }
}

pub(super) fn forward<T: Element>(
    pooled: &PooledAttention,
    input: &PooledInput<'_, T>,
    output: &mut [T],
    lse: &mut [T::Sum],
) {
    let (s, d, offsets) = (pooled.targets, input.keys.width(), input.keys.offsets());
    let (output, lse) = (Scattered::new(output), Scattered::new(lse));
    let rows = offsets.longest_first();
    let scratch = || (Operands::new(), Running::new(d));
    for_each_task(rows.len(), scratch, |(operands, running), task| {
        let row = rows[task] as usize;
        let (n, own) = (offsets.length(row), &input.targets[row * s * d..][..s * d]);
        let (all_keys, all_values) = (input.keys.row(row), input.values.row(row));
        for targets in tiles(s, TARGETS) {
            let (first, count) = (row * s + targets.start, targets.len());
            running.clear(count, d);
            let wide = operands.targets.all(part(own, &targets, d));
            let queries = Block::new(wide, count, d, d);
            for keys in tiles(n, KEYS) {
                let tile = Tile { row, targets: targets.clone(), keys };
                let n = tile.keys.len();
                let keys = Block::new(operands.keys.all(part(all_keys, &tile.keys, d)), n, d, d);
                scores(pooled, input, &tile, queries, keys, &mut running.scores);
                (0..count).for_each(|t| running.weigh(t, n, d));
                let values = operands.values.all(part(all_values, &tile.keys, d));
                let weights = Block::new(&running.scores, count, n, n);
                let sums = BlockMut::new(&mut running.sums, count, d, d);
                multiply(sums, true, weights, Block::new(values, n, d, d), T::Sum::ONE);
            }
            // SAFETY: these targets of the row belong to this task.
            let (output, lse) =
                unsafe { (output.slice(first * d, count * d), lse.slice(first, count)) };
            for (t, lse) in lse.iter_mut().enumerate() {
                let (largest, total) = (running.largest[t], running.total[t]);
                *lse = largest;
                if largest != T::Sum::NEG_INFINITY {
                    *lse += total.ln();
                    lanes::scale(&mut running.sums[t * d..][..d], T::Sum::ONE / total);
                }
            }
            narrow_into(output, &running.sums);
        }
    });
}

/// Scratch of one thread's backward.
struct Gradients<S> {
    operands: Operands<S>,
    d_output: Widened<S>,
    weights: Vec<S>,
    scores: Vec<S>,
    /// `[KEYS, D]` each.
    keys: Vec<S>,
    values: Vec<S>,
    /// `[S, D]` and `[S]`.
    targets: Vec<S>,
    delta: Vec<S>,
}

impl<S: Real> Gradients<S> {
    fn new(s: usize, d: usize) -> Self {
        let zeros = |n| vec![S::ZERO; n];
        Self {
            operands: Operands::new(),
            d_output: Widened::new(),
            weights: zeros(TARGETS * KEYS),
            scores: zeros(TARGETS * KEYS),
            keys: zeros(KEYS * d),
            values: zeros(KEYS * d),
            targets: zeros(s * d),
            delta: zeros(s),
        }
    }
}

pub(super) fn backward<T: Element>(
    pooled: &PooledAttention,
    input: &PooledInput<'_, T>,
    forward: &Forward<'_, T>,
    gradients: PooledGradients<'_, T>,
) {
    let (s, d, offsets) = (pooled.targets, input.keys.width(), input.keys.offsets());
    let (scale, max_len) = (T::Sum::of(pooled.scale), offsets.max_len());
    let PooledGradients { keys: dk, values: dv, targets: dt, bias: mut d_bias } = gradients;
    dk.fill(T::default());
    dv.fill(T::default());
    if let Some(d_bias) = &mut d_bias {
        d_bias.fill(T::default());
    }
    let (dk, dv, dt) = (Scattered::new(dk), Scattered::new(dv), Scattered::new(dt));
    let d_bias = d_bias.map(Scattered::new);
    let rows = offsets.longest_first();
    for_each_task(
        rows.len(),
        || Gradients::new(s, d),
        |scratch, task| {
            let row = rows[task] as usize;
            let (n, own) = (offsets.length(row), row * s * d..(row + 1) * s * d);
            let (all_keys, all_values) = (input.keys.row(row), input.values.row(row));
            let lse = &forward.lse[row * s..][..s];
            let Gradients { operands, d_output, weights, scores: ds, keys, values, targets, delta } =
                scratch;
            let all_queries = operands.targets.all(&input.targets[own.clone()]);
            let d_output = d_output.all(&forward.d_output[own.clone()]);
            let output = &forward.output[own.clone()];
            for (t, delta) in delta.iter_mut().enumerate() {
                let pairs = output[t * d..][..d].iter().zip(&d_output[t * d..][..d]);
                *delta = pairs.fold(T::Sum::ZERO, |sum, (o, &g)| sum + o.widen() * g);
            }
            targets.fill(T::Sum::ZERO);
            for key_tile in tiles(n, KEYS) {
                let count = key_tile.len();
                let k = Block::new(operands.keys.all(part(all_keys, &key_tile, d)), count, d, d);
                let v =
                    Block::new(operands.values.all(part(all_values, &key_tile, d)), count, d, d);
                keys[..count * d].fill(T::Sum::ZERO);
                values[..count * d].fill(T::Sum::ZERO);
                for target_tile in tiles(s, TARGETS) {
                    let tile = Tile { row, targets: target_tile, keys: key_tile.clone() };
                    let m = tile.targets.len();
                    let queries = Block::new(part(all_queries, &tile.targets, d), m, d, d);
                    let g = Block::new(part(d_output, &tile.targets, d), m, d, d);
                    scores(pooled, input, &tile, queries, k, weights);
                    let out = BlockMut::new(ds, m, count, count);
                    multiply(out, false, g, v.transposed(), T::Sum::ONE);
                    for (t, target) in tile.targets.clone().enumerate() {
                        let weights = &mut weights[t * count..][..count];
                        if lse[target] == T::Sum::NEG_INFINITY {
                            weights.fill(T::Sum::ZERO);
                        } else {
                            T::Sum::exp_sum(weights, lse[target]);
                        }
                        let ds = &mut ds[t * count..][..count];
                        lanes::softmax_gradient(weights, ds, delta[target]);
                    }
                    if let Some(d_bias) = &d_bias {
                        for i in 0..count {
                            let at = (row * max_len + tile.keys.start + i) * s + tile.targets.start;
                            // SAFETY: row `row` of the bias belongs to this task.
                            let out = unsafe { d_bias.slice(at, m) };
                            for (t, out) in out.iter_mut().enumerate() {
                                *out = T::narrow(ds[t * count + i]);
                            }
                        }
                    }
                    let weights = Block::new(weights, m, count, count).transposed();
                    let ds = Block::new(ds, m, count, count);
                    let out = BlockMut::new(values, count, d, d);
                    multiply(out, true, weights, g, T::Sum::ONE);
                    let out = BlockMut::new(keys, count, d, d);
                    multiply(out, true, ds.transposed(), queries, scale);
                    let out = &mut targets[tile.targets.start * d..tile.targets.end * d];
                    multiply(BlockMut::new(out, m, d, d), true, ds, k, scale);
                }
                let (at, size) = ((offsets.active(row).start + key_tile.start) * d, count * d);
                // SAFETY: row `row` of each buffer belongs to this task.
                unsafe {
                    narrow_into(dv.slice(at, size), values);
                    narrow_into(dk.slice(at, size), keys);
                }
            }
            // SAFETY: as above.
            narrow_into(unsafe { dt.slice(own.start, s * d) }, targets);
        },
    );
}
