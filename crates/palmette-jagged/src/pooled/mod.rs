//! Pooled target attention: dense targets attend to a jagged history.

mod tiles;

use crate::error::{check_equal, check_size};
use crate::{Element, JaggedError, JaggedView, Offsets};

/// The operands of [`PooledAttention`] over `B` rows.
#[derive(Debug, Clone, Copy)]
pub struct PooledInput<'a, T: Element> {
    /// The jagged history's keys `[T, D]` (FBGEMM calls this operand Q).
    pub keys: JaggedView<'a, T>,
    /// The jagged history's values `[T, D]`.
    pub values: JaggedView<'a, T>,
    /// The dense targets `[B, S, D]`, each a query.
    pub targets: &'a [T],
    /// Additive bias `[B, N, S]` with the offsets' maximal length `N`.
    pub bias: Option<&'a [T]>,
}

/// Gradients of [`PooledInput`]. Every element is written.
#[derive(Debug)]
pub struct PooledGradients<'a, T: Element> {
    /// `[T, D]`
    pub keys: &'a mut [T],
    /// `[T, D]`
    pub values: &'a mut [T],
    /// `[B, S, D]`
    pub targets: &'a mut [T],
    /// `[B, N, S]`, where wanted; zero past each row.
    pub bias: Option<&'a mut [T]>,
}

/// What forward left and the gradient that comes back.
struct Forward<'a, T: Element> {
    output: &'a [T],
    lse: &'a [T::Sum],
    d_output: &'a [T],
}

/// Attention pooling of a jagged history by `S` dense targets a row:
///
/// `s_is = scale k_i . t_s + bias_is`, `p = softmax` of `s` over the *jagged* axis `i`,
/// `out_s = sum_i p_is v_i`, `lse_s = ln sum_i exp(s_is)`.
///
/// The scale is 1 unless set, as in FBGEMM's `jagged_dense_flash_attention`, whose
/// targets are stored `[B, D, S]`; here they are `[B, S, D]`, one target contiguous.
/// An empty row gives zeros and `lse = -inf`. Costs `4 n_b S D` operations a row.
/// Scores are computed tile by tile with a running maximum and never stored, as in
/// [`Attention`](crate::Attention); threads share rows, longest first, and need one row's
/// targets and a few tiles each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PooledAttention {
    targets: usize,
    scale: f64,
}

impl PooledAttention {
    /// `targets` is `S`, the number of targets a row, at least 1.
    pub fn new(targets: usize, scale: f64) -> Result<Self, JaggedError> {
        if targets == 0 || !scale.is_finite() {
            return Err(JaggedError::Unsupported {
                what: "the number of targets and the scale",
                found: format!("{targets} and {scale}"),
                accepted: "at least one target and a finite scale",
            });
        }
        Ok(Self { targets, scale })
    }

    /// Number of targets a row, `S`.
    pub fn targets(&self) -> usize {
        self.targets
    }

    /// The factor on `k . t`.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    fn check<'a, T: Element>(
        &self,
        input: &PooledInput<'a, T>,
    ) -> Result<&'a Offsets, JaggedError> {
        let offsets = input.keys.offsets();
        if input.values.offsets() != offsets {
            check_equal(
                "the values' total",
                input.values.offsets().total(),
                offsets.total(),
                "keys",
            )?;
            return Err(JaggedError::Unsupported {
                what: "the values' offsets",
                found: "other rows than the keys'".into(),
                accepted: "the offsets of the keys",
            });
        }
        check_equal("the width of the values", input.values.width(), input.keys.width(), "keys")?;
        let s = ("S", self.targets);
        let rows = ("B", offsets.rows());
        check_size("the targets", input.targets.len(), &[rows, s, ("D", input.keys.width())])?;
        if let Some(bias) = input.bias {
            check_size("the bias", bias.len(), &[rows, ("N", offsets.max_len()), s])?;
        }
        Ok(offsets)
    }

    /// Writes the output `[B, S, D]` and the log-sum-exp `[B, S]`.
    pub fn forward<T: Element>(
        &self,
        input: &PooledInput<'_, T>,
        output: &mut [T],
        lse: &mut [T::Sum],
    ) -> Result<(), JaggedError> {
        let offsets = self.check(input)?;
        let s = self.targets;
        check_equal("the size of the output", output.len(), input.targets.len(), "the targets")?;
        check_size("lse", lse.len(), &[("B", offsets.rows()), ("S", s)])?;
        tiles::forward(self, input, output, lse);
        Ok(())
    }

    /// Writes the gradients from the output and log-sum-exp of [`PooledAttention::forward`].
    ///
    /// With `p_is = exp(s_is - lse_s)` and `ds_is = p_is (do_s . v_i - o_s . do_s)`:
    /// `dv_i = sum_s p_is do_s`, `dk_i = scale sum_s ds_is t_s`,
    /// `dt_s = scale sum_i ds_is k_i`, `dbias_is = ds_is`.
    pub fn backward<T: Element>(
        &self,
        input: &PooledInput<'_, T>,
        output: &[T],
        lse: &[T::Sum],
        d_output: &[T],
        gradients: PooledGradients<'_, T>,
    ) -> Result<(), JaggedError> {
        let offsets = self.check(input)?;
        let s = self.targets;
        let jagged = input.keys.values().len();
        check_equal("the size of the output", output.len(), input.targets.len(), "the targets")?;
        check_equal("the size of the output gradient", d_output.len(), output.len(), "the output")?;
        check_size("lse", lse.len(), &[("B", offsets.rows()), ("S", s)])?;
        check_equal("the size of the keys' gradient", gradients.keys.len(), jagged, "keys")?;
        check_equal("the size of the values' gradient", gradients.values.len(), jagged, "values")?;
        let targets = input.targets.len();
        check_equal(
            "the size of the targets' gradient",
            gradients.targets.len(),
            targets,
            "targets",
        )?;
        if let Some(bias) = &gradients.bias {
            let expected = input.bias.map_or(0, <[T]>::len);
            check_equal("the size of the bias's gradient", bias.len(), expected, "the bias")?;
        }
        tiles::backward(self, input, &Forward { output, lse, d_output }, gradients);
        Ok(())
    }
}
