//! HSTU's pointwise attention.

use std::ops::Range;

use crate::block::{Block, BlockMut, multiply};
use crate::error::{check_equal, check_size};
use crate::tasks::{Scattered, for_each_task};
use crate::widen::{Widened, narrow_into};
use crate::{Element, JaggedError, Offsets, Real};

/// Which earlier positions a position of an HSTU row may see.
///
/// Positions are renumbered first: the `contextual` first ones collapse to id 0, the
/// rest count from there, and the last `targets[b]` (candidates to score) all
/// take the id after the history's last. Then a position sees itself, and every
/// position of smaller id, no farther back than `max_attention` ids unless it
/// stands among the last `min_full_attention` of the history, or all contextual
/// ones where it is contextual itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HstuMask<'a> {
    /// Length of the contextual prefix.
    pub contextual: usize,
    /// Number of targets at the end of each row, `[B]`; none if absent.
    pub targets: Option<&'a [usize]>,
    /// Farthest distance in ids, 0 for no limit.
    pub max_attention: usize,
    /// The last so many ids of the history see everything before them.
    pub min_full_attention: usize,
}

/// A row's mask with its numbers resolved.
#[derive(Clone, Copy)]
struct RowMask<'a> {
    mask: HstuMask<'a>,
    /// The id that targets share, one more than the history's last.
    last: usize,
}

impl RowMask<'_> {
    fn new<'a>(mask: HstuMask<'a>, b: usize, n: usize) -> RowMask<'a> {
        let targets = mask.targets.map_or(0, |targets| targets[b]).min(n);
        let ids = n.saturating_sub(mask.contextual.saturating_sub(1));
        RowMask { mask, last: ids.saturating_sub(targets) }
    }

    fn id(&self, i: usize) -> usize {
        let shifted = if self.mask.contextual == 0 {
            i
        } else {
            (i + 1).saturating_sub(self.mask.contextual)
        };
        shifted.min(self.last)
    }

    fn sees(&self, i: usize, j: usize) -> bool {
        if i == j {
            return true;
        }
        let (row, column) = (self.id(i), self.id(j));
        if self.mask.contextual > 0 && row == 0 {
            // A contextual position sees the whole history, the targets excepted.
            return column < self.last;
        }
        if column >= row {
            return false;
        }
        let HstuMask { max_attention, min_full_attention, .. } = self.mask;
        max_attention == 0
            || row - column <= max_attention
            || row + min_full_attention >= self.last && min_full_attention > 0
    }
}

/// HSTU attention: `p_ij = silu(alpha q_i . k_j) norm` where position `i` may see
/// `j`, `o_i = sum_j p_ij v_j`; no softmax, so no log-sum-exp.
///
/// `silu(s) = s / (1 + exp(-s))`; `norm` is usually one over the maximal length.
/// Zhai et al., Actions Speak Louder than Words, 2024, equation 2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HstuAttention<'a> {
    heads: usize,
    key_dim: usize,
    value_dim: usize,
    alpha: f64,
    norm: f64,
    mask: HstuMask<'a>,
}

/// The operands, token-major over the same rows.
#[derive(Debug, Clone, Copy)]
pub struct HstuInput<'a, T: Element> {
    /// `[T, H, D]`
    pub q: &'a [T],
    /// `[T, H, D]`
    pub k: &'a [T],
    /// `[T, H, E]`
    pub v: &'a [T],
    /// The rows.
    pub offsets: &'a Offsets,
}

const QUERIES: usize = 64;

/// Scratch of one thread.
struct Scratch<S> {
    wide: [Widened<S>; 4],
    /// Scores, then weights.
    weights: Vec<S>,
    /// The slopes of silu, 0 where masked.
    slopes: Vec<S>,
    /// Gradients of the weights, then of the scores.
    gradients: Vec<S>,
    sums: [Vec<S>; 3],
}

impl<S: Real> Scratch<S> {
    fn new() -> Self {
        Self {
            wide: std::array::from_fn(|_| Widened::new()),
            weights: Vec::new(),
            slopes: Vec::new(),
            gradients: Vec::new(),
            sums: std::array::from_fn(|_| Vec::new()),
        }
    }
}

impl<'m> HstuAttention<'m> {
    /// Heads of `key_dim` `D` and `value_dim` `E`; `alpha` scales the scores, `norm` the weights.
    pub fn new(
        heads: usize,
        key_dim: usize,
        value_dim: usize,
        alpha: f64,
        norm: f64,
        mask: HstuMask<'m>,
    ) -> Result<Self, JaggedError> {
        if heads == 0 || key_dim == 0 || value_dim == 0 || !alpha.is_finite() || !norm.is_finite() {
            return Err(JaggedError::Unsupported {
                what: "the shape and factors of HSTU attention",
                found: format!("{heads} heads of {key_dim} and {value_dim}, {alpha}, {norm}"),
                accepted: "positive sizes and finite factors",
            });
        }
        Ok(Self { heads, key_dim, value_dim, alpha, norm, mask })
    }

    /// Number of heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Columns of a query or key.
    pub fn key_dim(&self) -> usize {
        self.key_dim
    }

    /// Columns of a value.
    pub fn value_dim(&self) -> usize {
        self.value_dim
    }

    /// The factor on `q . k`.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// The factor on the weights.
    pub fn norm(&self) -> f64 {
        self.norm
    }

    /// The mask.
    pub fn mask(&self) -> HstuMask<'m> {
        self.mask
    }

    /// Whether position `i` sees `j` in row `b` of length `n`.
    pub fn sees(&self, b: usize, n: usize, i: usize, j: usize) -> bool {
        RowMask::new(self.mask, b, n).sees(i, j)
    }

    fn check<T: Element>(&self, input: &HstuInput<'_, T>) -> Result<(), JaggedError> {
        let (tokens, heads) = (("T", input.offsets.total()), ("H", self.heads));
        check_size("q", input.q.len(), &[tokens, heads, ("D", self.key_dim)])?;
        check_size("k", input.k.len(), &[tokens, heads, ("D", self.key_dim)])?;
        check_size("v", input.v.len(), &[tokens, heads, ("E", self.value_dim)])?;
        self.check_targets(input.offsets)
    }

    /// Whether there is a target count for each row.
    pub(crate) fn check_targets(&self, offsets: &Offsets) -> Result<(), JaggedError> {
        match self.mask.targets {
            None => Ok(()),
            Some(targets) => {
                check_equal("the number of target counts", targets.len(), offsets.rows(), "rows")
            }
        }
    }

    /// Writes the output `[T, H, E]`; cut positions are zero.
    pub fn forward<T: Element>(
        &self,
        input: &HstuInput<'_, T>,
        output: &mut [T],
    ) -> Result<(), JaggedError> {
        self.check(input)?;
        check_equal("the size of the output", output.len(), input.v.len(), "v")?;
        let (offsets, e) = (input.offsets, self.value_dim);
        if offsets.truncates() {
            output.fill(T::default());
        }
        let mut tasks = Vec::new();
        for &b in offsets.longest_first() {
            for h in 0..self.heads {
                let count = offsets.length(b as usize).div_ceil(QUERIES);
                tasks.extend((0..count).map(|block| (b as usize, h, block * QUERIES)));
            }
        }
        let output = Scattered::new(output);
        for_each_task(tasks.len(), Scratch::new, |scratch, task| {
            let (b, h, start) = tasks[task];
            let rows = start..(start + QUERIES).min(offsets.length(b));
            let Scratch { wide: [q, k, v, _], weights, slopes, sums: [sums, ..], .. } = scratch;
            let [q, k, v] = self.blocks(input, [q, k, v], b, h, rows.clone());
            self.weights::<T>(b, offsets.length(b), rows.clone(), q, k, weights, slopes);
            sums.resize(rows.len() * e, T::Sum::ZERO);
            let left = Block::new(weights, rows.len(), offsets.length(b), offsets.length(b));
            multiply(BlockMut::new(sums, rows.len(), e, e), false, left, v, T::Sum::ONE);
            for (r, i) in rows.enumerate() {
                let at = ((offsets.active(b).start + i) * self.heads + h) * e;
                // SAFETY: each position of each head belongs to one task.
                narrow_into(unsafe { output.slice(at, e) }, &sums[r * e..]);
            }
        });
        Ok(())
    }

    /// Writes `dq`, `dk`, `dv` from the output's gradient.
    ///
    /// With `s = alpha q_i . k_j` and `g_ij = do_i . v_j norm`:
    /// `dv_j = sum_i p_ij do_i`, `ds_ij = g_ij (sig(s) + s sig(s) (1 - sig(s)))`,
    /// `dq_i = alpha sum_j ds_ij k_j`, `dk_j = alpha sum_i ds_ij q_i`.
    pub fn backward<T: Element>(
        &self,
        input: &HstuInput<'_, T>,
        d_output: &[T],
        [dq, dk, dv]: [&mut [T]; 3],
    ) -> Result<(), JaggedError> {
        self.check(input)?;
        check_equal("the size of the output gradient", d_output.len(), input.v.len(), "v")?;
        check_equal("the size of dq", dq.len(), input.q.len(), "q")?;
        check_equal("the size of dk", dk.len(), input.k.len(), "k")?;
        check_equal("the size of dv", dv.len(), input.v.len(), "v")?;
        let (offsets, d, e) = (input.offsets, self.key_dim, self.value_dim);
        if offsets.truncates() {
            [&mut *dq, &mut *dk, &mut *dv].into_iter().for_each(|out| out.fill(T::default()));
        }
        let mut tasks = Vec::new();
        for &b in offsets.longest_first() {
            tasks.extend((0..self.heads).map(|h| (b as usize, h)));
        }
        let (dq, dk, dv) = (Scattered::new(dq), Scattered::new(dk), Scattered::new(dv));
        let (alpha, norm) = (T::Sum::of(self.alpha), T::Sum::of(self.norm));
        for_each_task(tasks.len(), Scratch::new, |scratch, task| {
            let (b, h) = tasks[task];
            let (n, first) = (offsets.length(b), offsets.active(b).start);
            let Scratch { wide: [q, k, v, g], weights, slopes, gradients, sums } = scratch;
            let [sq, sk, sv] = sums;
            for (sums, width) in [(&mut *sk, d), (&mut *sv, e)] {
                sums.clear();
                sums.resize(n * width, T::Sum::ZERO);
            }
            sq.resize(QUERIES * d, T::Sum::ZERO);
            let mut start = 0;
            while start < n {
                let rows = start..(start + QUERIES).min(n);
                let count = rows.len();
                let [q, k, v] = self.blocks(input, [q, k, v], b, h, rows.clone());
                let at = ((first + start) * self.heads + h) * e;
                let (g, stride) = g.rows(&d_output[at..], count, e, self.heads * e);
                let g = Block::new(g, count, e, stride);
                self.weights::<T>(b, n, rows.clone(), q, k, weights, slopes);
                gradients.resize(count * n, T::Sum::ZERO);
                multiply(BlockMut::new(gradients, count, n, n), false, g, v.transposed(), norm);
                for (ds, slope) in gradients.iter_mut().zip(slopes.iter()) {
                    *ds *= *slope;
                }
                let weights = Block::new(weights, count, n, n);
                let ds = Block::new(gradients, count, n, n);
                multiply(BlockMut::new(sv, n, e, e), true, weights.transposed(), g, T::Sum::ONE);
                multiply(BlockMut::new(sk, n, d, d), true, ds.transposed(), q, alpha);
                multiply(BlockMut::new(sq, count, d, d), false, ds, k, alpha);
                for (r, i) in rows.clone().enumerate() {
                    let at = ((first + i) * self.heads + h) * d;
                    // SAFETY: each head of each row belongs to one task.
                    narrow_into(unsafe { dq.slice(at, d) }, &sq[r * d..]);
                }
                start = rows.end;
            }
            for j in 0..n {
                let at = (first + j) * self.heads + h;
                // SAFETY: as above.
                unsafe {
                    narrow_into(dk.slice(at * d, d), &sk[j * d..]);
                    narrow_into(dv.slice(at * e, e), &sv[j * e..]);
                }
            }
        });
        Ok(())
    }

    /// A block of queries and all keys and values of one head.
    fn blocks<'a, T: Element>(
        &self,
        input: &HstuInput<'a, T>,
        [q, k, v]: [&'a mut Widened<T::Sum>; 3],
        b: usize,
        h: usize,
        rows: Range<usize>,
    ) -> [Block<'a, T::Sum>; 3] {
        let (first, n) = (input.offsets.active(b).start, input.offsets.length(b));
        let (d, e) = (self.key_dim, self.value_dim);
        let block = |buffer: &'a mut Widened<T::Sum>, values: &'a [T], token, count, width| {
            let at = ((first + token) * self.heads + h) * width;
            let (values, stride) = buffer.rows(&values[at..], count, width, self.heads * width);
            Block::new(values, count, width, stride)
        };
        [
            block(q, input.q, rows.start, rows.len(), d),
            block(k, input.k, 0, n, d),
            block(v, input.v, 0, n, e),
        ]
    }

    /// Weights `norm silu(s)` and slopes `silu'(s)` of a block of queries, 0 where masked.
    fn weights<T: Element>(
        &self,
        b: usize,
        n: usize,
        rows: Range<usize>,
        q: Block<'_, T::Sum>,
        k: Block<'_, T::Sum>,
        weights: &mut Vec<T::Sum>,
        slopes: &mut Vec<T::Sum>,
    ) {
        let (one, norm) = (T::Sum::ONE, T::Sum::of(self.norm));
        weights.resize(rows.len() * n, T::Sum::ZERO);
        slopes.resize(rows.len() * n, T::Sum::ZERO);
        let out = BlockMut::new(weights, rows.len(), n, n);
        multiply(out, false, q, k.transposed(), T::Sum::of(self.alpha));
        let mask = RowMask::new(self.mask, b, n);
        for (r, i) in rows.enumerate() {
            for j in 0..n {
                let at = r * n + j;
                let s = weights[at];
                let sigmoid = one / (one + (-s).exp());
                (weights[at], slopes[at]) = if mask.sees(i, j) {
                    (s * sigmoid * norm, sigmoid + s * sigmoid * (one - sigmoid))
                } else {
                    (T::Sum::ZERO, T::Sum::ZERO)
                };
            }
        }
    }
}
