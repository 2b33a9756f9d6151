//! Pooled target attention: dense targets attend to a jagged history.

use rayon::prelude::*;

use crate::block::{Block, BlockMut, multiply};
use crate::error::{check_equal, check_size};
use crate::tasks::Scattered;
use crate::widen::{Widened, narrow_into};
use crate::{Element, JaggedError, JaggedView, Offsets, Real};

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

/// Attention pooling of a jagged history by `S` dense targets a row:
///
/// `s_is = scale k_i . t_s + bias_is`, `p = softmax` of `s` over the *jagged* axis `i`,
/// `out_s = sum_i p_is v_i`, `lse_s = ln sum_i exp(s_is)`.
///
/// The scale is 1 unless set, as in FBGEMM's `jagged_dense_flash_attention`, whose
/// targets are stored `[B, D, S]`; here they are `[B, S, D]`, one target contiguous.
/// An empty row gives zeros and `lse = -inf`. Costs `4 n_b S D` operations a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PooledAttention {
    targets: usize,
    scale: f64,
}

/// Scratch of one thread.
struct Scratch<S> {
    keys: Widened<S>,
    values: Widened<S>,
    targets: Widened<S>,
    d_output: Widened<S>,
    weights: Vec<S>,
    gradients: Vec<S>,
    sums: Vec<S>,
}

impl<S: Real> Scratch<S> {
    fn new() -> Self {
        Self {
            keys: Widened::new(),
            values: Widened::new(),
            targets: Widened::new(),
            d_output: Widened::new(),
            weights: Vec::new(),
            gradients: Vec::new(),
            sums: Vec::new(),
        }
    }
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
        let (s, d) = (self.targets, input.keys.width());
        check_equal("the size of the output", output.len(), input.targets.len(), "the targets")?;
        check_size("lse", lse.len(), &[("B", offsets.rows()), ("S", s)])?;
        let output = Scattered::new(output);
        lse.par_chunks_mut(s).enumerate().for_each_init(Scratch::new, |scratch, (b, lse)| {
            let n = offsets.length(b);
            self.scores(input, b, scratch);
            for (s, lse) in lse.iter_mut().enumerate() {
                let row = &mut scratch.weights[s * n..][..n];
                let largest = crate::lanes::largest(row);
                if largest == T::Sum::NEG_INFINITY {
                    row.fill(T::Sum::ZERO);
                    *lse = largest;
                    continue;
                }
                let total = T::Sum::exp_sum(row, largest);
                crate::lanes::scale(row, T::Sum::ONE / total);
                *lse = largest + total.ln();
            }
            scratch.sums.resize(s * d, T::Sum::ZERO);
            let values = Block::new(scratch.values.all(input.values.row(b)), n, d, d);
            let weights = Block::new(&scratch.weights, s, n, n);
            let out = BlockMut::new(&mut scratch.sums, s, d, d);
            multiply(out, false, weights, values, T::Sum::ONE);
            // SAFETY: row `b` of the output belongs to this task.
            narrow_into(unsafe { output.slice(b * s * d, s * d) }, &scratch.sums);
        });
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
        let (s, d, max_len) = (self.targets, input.keys.width(), offsets.max_len());
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
        let PooledGradients { keys: dk, values: dv, targets: dt, bias: d_bias } = gradients;
        dk.fill(T::default());
        dv.fill(T::default());
        let mut d_bias = d_bias;
        if let Some(d_bias) = &mut d_bias {
            d_bias.fill(T::default());
        }
        let (dk, dv, dt) = (Scattered::new(dk), Scattered::new(dv), Scattered::new(dt));
        let d_bias = d_bias.map(Scattered::new);
        (0..offsets.rows()).into_par_iter().for_each_init(Scratch::new, |scratch, b| {
            let (n, row) = (offsets.length(b), offsets.active(b).start * d);
            self.scores(input, b, scratch);
            let Scratch { keys, values, targets, d_output: g, weights, gradients, sums } = scratch;
            let own = b * s * d..(b + 1) * s * d;
            let keys = Block::new(keys.all(input.keys.row(b)), n, d, d);
            let values = Block::new(values.all(input.values.row(b)), n, d, d);
            let targets = Block::new(targets.all(&input.targets[own.clone()]), s, d, d);
            let wide = g.all(&d_output[own.clone()]);
            let g = Block::new(wide, s, d, d);
            gradients.resize(s * n, T::Sum::ZERO);
            let out = BlockMut::new(gradients, s, n, n);
            multiply(out, false, g, values.transposed(), T::Sum::ONE);
            for t in 0..s {
                let weights = &mut weights[t * n..][..n];
                if lse[b * s + t] == T::Sum::NEG_INFINITY {
                    weights.fill(T::Sum::ZERO);
                } else {
                    T::Sum::exp_sum(weights, lse[b * s + t]);
                }
                let mut delta = T::Sum::ZERO;
                for c in 0..d {
                    delta += wide[t * d + c] * output[own.start + t * d + c].widen();
                }
                crate::lanes::softmax_gradient(weights, &mut gradients[t * n..][..n], delta);
            }
            if let Some(d_bias) = &d_bias {
                // SAFETY: row `b` of the bias belongs to this task.
                let out = unsafe { d_bias.slice(b * max_len * s, n * s) };
                for i in 0..n {
                    for t in 0..s {
                        out[i * s + t] = T::narrow(gradients[t * n + i]);
                    }
                }
            }
            let scale = T::Sum::of(self.scale);
            let weights = Block::new(weights, s, n, n).transposed();
            let gradients = Block::new(gradients, s, n, n);
            sums.resize(n.max(s) * d, T::Sum::ZERO);
            let mut write = |rows, left, right, factor, out: &mut [T]| {
                multiply(BlockMut::new(sums, rows, d, d), false, left, right, factor);
                narrow_into(out, sums);
            };
            // SAFETY: row `b` of each buffer belongs to this task.
            unsafe {
                write(n, weights, g, T::Sum::ONE, dv.slice(row, n * d));
                write(n, gradients.transposed(), targets, scale, dk.slice(row, n * d));
                write(s, gradients, keys, scale, dt.slice(own.start, s * d));
            }
        });
        Ok(())
    }

    /// `[S, n_b]` scores of row `b` into `scratch.weights`.
    fn scores<T: Element>(
        &self,
        input: &PooledInput<'_, T>,
        b: usize,
        scratch: &mut Scratch<T::Sum>,
    ) {
        let (s, d, offsets) = (self.targets, input.keys.width(), input.keys.offsets());
        let n = offsets.length(b);
        let keys = Block::new(scratch.keys.all(input.keys.row(b)), n, d, d);
        let targets = scratch.targets.all(&input.targets[b * s * d..][..s * d]);
        scratch.weights.resize(s * n, T::Sum::ZERO);
        let out = BlockMut::new(&mut scratch.weights, s, n, n);
        let targets = Block::new(targets, s, d, d);
        multiply(out, false, targets, keys.transposed(), T::Sum::of(self.scale));
        if let Some(bias) = input.bias {
            let bias = &bias[b * offsets.max_len() * s..];
            for i in 0..n {
                for t in 0..s {
                    scratch.weights[t * n + i] += bias[i * s + t].widen();
                }
            }
        }
    }
}
