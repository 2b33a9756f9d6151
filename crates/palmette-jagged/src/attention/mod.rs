//! Jagged flash attention: softmax attention inside each row, never over padding.

mod backward;
mod bias_gradient;
mod forward;
mod reference;
pub(crate) mod tile;

use std::ops::Range;

pub use reference::{ReferenceAttention, ReferenceGradients, reference_attention};

use crate::error::{check_equal, check_size};
use crate::{Element, JaggedError, Offsets};

/// Which keys a query may see. All masks are intervals of keys that move with the
/// query, aligned to the end of the row: with `n_q` queries and `n_k` keys, query
/// `i` stands at key `i + n_k - n_q`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mask {
    /// Every key of the row.
    #[default]
    Full,
    /// `j <= i + n_k - n_q`.
    Causal,
    /// `i + n_k - n_q - left <= j <= i + n_k - n_q + right`.
    Window {
        /// Keys before the query's own position.
        left: usize,
        /// Keys after it.
        right: usize,
    },
}

impl Mask {
    /// The keys that query `i` sees; empty where the mask leaves none.
    pub fn interval(self, i: usize, n_q: usize, n_k: usize) -> Range<usize> {
        let at = i as i128 + n_k as i128 - n_q as i128;
        let clamp = |j: i128| j.clamp(0, n_k as i128) as usize;
        let (start, end) = match self {
            Self::Full => (0, n_k),
            Self::Causal => (0, clamp(at + 1)),
            Self::Window { left, right } => {
                (clamp(at - left as i128), clamp(at + right as i128 + 1))
            }
        };
        start..end.max(start)
    }

    /// The queries that see any key of `keys`.
    pub(crate) fn seen_by(self, keys: Range<usize>, n_q: usize, n_k: usize) -> Range<usize> {
        let shift = n_k as i128 - n_q as i128;
        let clamp = |i: i128| i.clamp(0, n_q as i128) as usize;
        let (left, right) = match self {
            Self::Full => return 0..n_q,
            Self::Causal => (n_k + n_q, 0),
            Self::Window { left, right } => (left, right),
        };
        let start = clamp(keys.start as i128 - shift - right as i128);
        let end = clamp(keys.end as i128 - shift + left as i128);
        start..end.max(start)
    }

    /// The keys that any query of `rows` sees.
    pub(crate) fn union(self, rows: Range<usize>, n_q: usize, n_k: usize) -> Range<usize> {
        let (first, last) =
            (self.interval(rows.start, n_q, n_k), self.interval(rows.end - 1, n_q, n_k));
        first.start..last.end.max(first.start)
    }
}

/// An additive bias `[batch, heads, max_q, max_k]` on the scaled scores, where
/// `batch` is 1 (shared by all rows) or `B`, and `heads` 1 or the number of query
/// heads. Entries past a row's lengths are not read; their gradient is zero.
#[derive(Debug, Clone, Copy)]
pub struct Bias<'a, S> {
    /// The numbers.
    pub values: &'a [S],
    /// 1 or `B`.
    pub batch: usize,
    /// 1 or the number of query heads.
    pub heads: usize,
    /// Queries that the bias covers, at least the longest row's.
    pub max_q: usize,
    /// Keys that the bias covers, at least the longest row's.
    pub max_k: usize,
}

impl<S> Bias<'_, S> {
    /// Position of `[b, h, i, 0]`.
    pub(crate) fn start(&self, b: usize, h: usize, i: usize) -> usize {
        let (b, h) = (if self.batch == 1 { 0 } else { b }, if self.heads == 1 { 0 } else { h });
        ((b * self.heads + h) * self.max_q + i) * self.max_k
    }
}

/// The operands of attention over `B` rows, token-major.
#[derive(Debug, Clone, Copy)]
pub struct AttentionInput<'a, T: Element> {
    /// Queries `[T_q, H, D]`.
    pub q: &'a [T],
    /// Keys `[T_k, G, D]` of `G` key heads.
    pub k: &'a [T],
    /// Values `[T_k, G, D]`.
    pub v: &'a [T],
    /// Rows of the queries.
    pub offsets_q: &'a Offsets,
    /// Rows of keys and values; the same as `offsets_q` in self-attention.
    pub offsets_k: &'a Offsets,
    /// Additive bias.
    pub bias: Option<Bias<'a, T::Sum>>,
}

/// Where backward writes. Every element is written.
#[derive(Debug)]
pub struct AttentionGradients<'a, T: Element> {
    /// `[T_q, H, D]`
    pub dq: &'a mut [T],
    /// `[T_k, G, D]`
    pub dk: &'a mut [T],
    /// `[T_k, G, D]`
    pub dv: &'a mut [T],
    /// As the bias, where its gradient is wanted.
    pub dbias: Option<&'a mut [T::Sum]>,
}

/// Jagged flash attention with `H` query heads over `G` key heads (`G` divides `H`;
/// query head `h` reads key head `h / (H / G)`).
///
/// For row `b`, head `h`, query `i` and the keys `j` its mask allows:
///
/// `s_ij = scale q_i . k_j + bias_ij`, `lse_i = ln sum_j exp(s_ij)`,
/// `o_i = sum_j exp(s_ij - lse_i) v_j`.
///
/// A query that sees no key gives `o_i = 0` and `lse_i = -inf`; so does a query past
/// the truncation limit. Scores are computed tile by tile with a running maximum and
/// never stored (Dao et al., FlashAttention-2, 2023, algorithm 1); the rows' padding,
/// which costs most of dense attention's arithmetic, does not exist (Xu et al.,
/// Enhancing Performance and Scalability of Large-Scale Recommendation Systems with
/// Jagged Flash Attention, RecSys 2024).
///
/// ```
/// use palmette_jagged::{Attention, AttentionInput, Mask, Offsets};
///
/// let offsets = Offsets::from_lengths(&[2i64, 0, 1])?;
/// let x: Vec<f32> = (0..3 * 16).map(|i| (i as f32).sin()).collect();
/// let attention = Attention::new(1, 1, 16, Mask::Causal)?;
/// let input = AttentionInput {
///     q: &x, k: &x, v: &x, offsets_q: &offsets, offsets_k: &offsets, bias: None,
/// };
/// let (mut output, mut lse) = (vec![0f32; 3 * 16], vec![0f32; 3]);
/// attention.forward(&input, &mut output, &mut lse)?;
/// // The first query of each row sees only its own key.
/// assert!(output[..16].iter().zip(&x[..16]).all(|(o, v)| (o - v).abs() < 1e-6));
/// # Ok::<(), palmette_jagged::JaggedError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    mask: Mask,
    scale: f64,
}

impl Attention {
    /// Checks the shape; the scale is `1 / sqrt(D)`.
    pub fn new(
        heads: usize,
        kv_heads: usize,
        head_dim: usize,
        mask: Mask,
    ) -> Result<Self, JaggedError> {
        if !(16..=256).contains(&head_dim) || !head_dim.is_multiple_of(8) {
            return Err(JaggedError::Unsupported {
                what: "the head dimension",
                found: head_dim.to_string(),
                accepted: "a multiple of 8 from 16 to 256",
            });
        }
        if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(JaggedError::Unsupported {
                what: "the number of query and key heads",
                found: format!("{heads} and {kv_heads}"),
                accepted: "a positive number of query heads that the number of key heads divides",
            });
        }
        Ok(Self { heads, kv_heads, head_dim, mask, scale: (head_dim as f64).sqrt().recip() })
    }

    /// Another factor on `q . k`, finite.
    pub fn with_scale(self, scale: f64) -> Result<Self, JaggedError> {
        if !scale.is_finite() {
            return Err(JaggedError::Unsupported {
                what: "the scale",
                found: scale.to_string(),
                accepted: "a finite number",
            });
        }
        Ok(Self { scale, ..self })
    }

    /// Number of query heads `H`.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Number of key heads `G`.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Head dimension `D`.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// The mask.
    pub fn mask(&self) -> Mask {
        self.mask
    }

    /// The factor on `q . k`.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Query heads that share a key head.
    pub(crate) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Writes the output `[T_q, H, D]` and the log-sum-exp `[H, T_q]` on the CPU.
    ///
    /// Threads of the current rayon pool take blocks of 64 queries, longest row
    /// first; scratch is a tile a thread. The bits do not depend on the threads.
    pub fn forward<T: Element>(
        &self,
        input: &AttentionInput<'_, T>,
        output: &mut [T],
        lse: &mut [T::Sum],
    ) -> Result<(), JaggedError> {
        self.check_input(input)?;
        self.check_output(input, output.len(), lse.len())?;
        forward::forward(self, input, output, lse);
        Ok(())
    }

    /// Writes the gradients on the CPU, from the output and log-sum-exp of
    /// [`Attention::forward`] and the output's gradient `d_output` `[T_q, H, D]`.
    ///
    /// With `p_ij = exp(s_ij - lse_i)`, `delta_i = o_i . do_i` and
    /// `ds_ij = p_ij (do_i . v_j - delta_i)`: `dv_j = sum_i p_ij do_i`,
    /// `dq_i = scale sum_j ds_ij k_j`, `dk_j = scale sum_i ds_ij q_i`, `dbias_ij = ds_ij`.
    pub fn backward<T: Element>(
        &self,
        input: &AttentionInput<'_, T>,
        output: &[T],
        lse: &[T::Sum],
        d_output: &[T],
        gradients: AttentionGradients<'_, T>,
    ) -> Result<(), JaggedError> {
        self.check_input(input)?;
        self.check_output(input, output.len(), lse.len())?;
        check_equal("the size of the output gradient", d_output.len(), output.len(), "the output")?;
        check_equal("the size of dq", gradients.dq.len(), input.q.len(), "q")?;
        check_equal("the size of dk", gradients.dk.len(), input.k.len(), "k")?;
        check_equal("the size of dv", gradients.dv.len(), input.v.len(), "v")?;
        if let Some(dbias) = &gradients.dbias {
            let bias = input.bias.as_ref().map_or(0, |bias| bias.values.len());
            check_equal("the size of dbias", dbias.len(), bias, "the bias")?;
        }
        backward::backward(self, input, backward::Saved { output, lse, d_output }, gradients);
        Ok(())
    }

    /// Floating-point operations of the two products of forward, `4 D H` a score
    /// that the mask allows; backward has 2.5 times as many.
    pub fn forward_flops(&self, offsets_q: &Offsets, offsets_k: &Offsets) -> f64 {
        let mut scores = 0f64;
        for b in 0..offsets_q.rows().min(offsets_k.rows()) {
            let (n_q, n_k) = (offsets_q.length(b), offsets_k.length(b));
            scores += match self.mask {
                Mask::Full => n_q as f64 * n_k as f64,
                mask => (0..n_q).map(|i| mask.interval(i, n_q, n_k).len() as f64).sum(),
            };
        }
        4.0 * self.head_dim as f64 * self.heads as f64 * scores
    }

    pub(crate) fn check_input<T: Element>(
        &self,
        input: &AttentionInput<'_, T>,
    ) -> Result<(), JaggedError> {
        let (rows, rows_k) = (input.offsets_q.rows(), input.offsets_k.rows());
        check_equal("the number of key rows", rows_k, rows, "the queries")?;
        let d = self.head_dim;
        let queries = [("T_q", input.offsets_q.total()), ("H", self.heads), ("D", d)];
        let keys = [("T_k", input.offsets_k.total()), ("G", self.kv_heads), ("D", d)];
        check_size("q", input.q.len(), &queries)?;
        check_size("k", input.k.len(), &keys)?;
        check_size("v", input.v.len(), &keys)?;
        let Some(bias) = &input.bias else { return Ok(()) };
        let bad = |what, found: usize, accepted| {
            Err(JaggedError::Unsupported { what, found: found.to_string(), accepted })
        };
        if bias.batch != 1 && bias.batch != rows {
            return bad("the bias's batch", bias.batch, "1 or the number of rows");
        }
        if bias.heads != 1 && bias.heads != self.heads {
            return bad("the bias's number of heads", bias.heads, "1 or the number of query heads");
        }
        if bias.max_q < input.offsets_q.longest() {
            return bad("the bias's max_q", bias.max_q, "at least the longest row of the queries");
        }
        if bias.max_k < input.offsets_k.longest() {
            return bad("the bias's max_k", bias.max_k, "at least the longest row of the keys");
        }
        let shape = [
            ("batch", bias.batch),
            ("heads", bias.heads),
            ("max_q", bias.max_q),
            ("max_k", bias.max_k),
        ];
        check_size("the bias", bias.values.len(), &shape)
    }

    fn check_output<T: Element>(
        &self,
        input: &AttentionInput<'_, T>,
        output: usize,
        lse: usize,
    ) -> Result<(), JaggedError> {
        let tokens = ("T_q", input.offsets_q.total());
        check_size("the output", output, &[tokens, ("H", self.heads), ("D", self.head_dim)])?;
        check_size("lse", lse, &[("H", self.heads), tokens])
    }
}

#[cfg(test)]
mod tests;
