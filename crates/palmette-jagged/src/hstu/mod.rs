//! HSTU's pointwise attention.

mod tiles;

use std::ops::Range;

use crate::error::{check_equal, check_size};
use crate::{Element, JaggedError, Offsets};

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

/// How much of a tile a mask leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nothing,
    Some,
    Everything,
}

impl RowMask<'_> {
    /// What positions `rows` see of `keys`; [`Seen::Some`] where that takes a closer look.
    fn tile(&self, rows: Range<usize>, keys: Range<usize>) -> Seen {
        if keys.start >= rows.end && rows.start >= self.mask.contextual {
            return Seen::Nothing;
        }
        // Ids do not decrease along a row.
        match self.mask.max_attention == 0 && self.id(keys.end - 1) < self.id(rows.start) {
            true => Seen::Everything,
            false => Seen::Some,
        }
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
        tiles::forward(self, input, output);
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
        gradients: [&mut [T]; 3],
    ) -> Result<(), JaggedError> {
        self.check(input)?;
        check_equal("the size of the output gradient", d_output.len(), input.v.len(), "v")?;
        check_equal("the size of dq", gradients[0].len(), input.q.len(), "q")?;
        check_equal("the size of dk", gradients[1].len(), input.k.len(), "k")?;
        check_equal("the size of dv", gradients[2].len(), input.v.len(), "v")?;
        tiles::backward(self, input, d_output, gradients);
        Ok(())
    }
}
