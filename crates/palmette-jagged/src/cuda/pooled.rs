//! Pooled target attention on a GPU: the targets are the queries of cross attention.

use std::sync::Arc;

use super::attention::GpuAttention;
use super::compile::gpu_error;
use super::device::Gpu;
use super::options::{GpuElement, GpuOptions};
use crate::{Attention, JaggedError, Mask, Offsets, PooledAttention};

impl GpuAttention {
    /// Plans [`PooledAttention`] with one head of `d` columns: in the buffers `q` are the targets
    /// `[B, S, D]`, `k` and `v` the history `[T, D]`, the output is `[B, S, D]` and the
    /// log-sum-exp `[B, S]`. With `bias`, a bias `[B, N, S]` in f32 is read, and its gradient
    /// can be had.
    ///
    /// It is cross attention from rows of `S` targets each, so every path, both backward
    /// modes and all checks are those of [`GpuAttention`].
    pub fn pooled(
        gpu: &Arc<Gpu>,
        pooled: PooledAttention,
        d: usize,
        element: GpuElement,
        history: &Offsets,
        bias: bool,
        options: GpuOptions,
    ) -> Result<Self, JaggedError> {
        let targets = pooled.targets();
        let length = i64::try_from(targets).map_err(|_| gpu_error("there are too many targets"))?;
        let rows = Offsets::from_lengths(&vec![length; history.rows()])?;
        let attention = Attention::new(1, 1, d, Mask::Full)?.with_scale(pooled.scale())?;
        let shape = [history.rows(), 1, targets, history.max_len()];
        let options = GpuOptions { bias: bias.then_some(shape), bias_transposed: bias, ..options };
        Self::new(gpu, attention, element, &rows, history, options)
    }
}
