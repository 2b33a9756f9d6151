//! Rows and the shapes of operators as Python objects.

use palmette_jagged::{HstuAttention, HstuMask, JaggedError, Mask, Offsets, Overflow};
use pyo3::prelude::*;

use crate::{Buffer, exception};

/// Checked offsets.
#[pyclass(frozen, module = "palmette._native")]
pub struct Rows {
    pub(crate) offsets: Offsets,
}

#[pymethods]
impl Rows {
    /// From int64 offsets in host memory.
    #[new]
    fn new(offsets: Buffer, max_len: usize, truncate: bool) -> PyResult<Self> {
        // SAFETY: the Python side passes a contiguous int64 tensor on the CPU that it holds.
        let offsets = unsafe { crate::cpu::read::<i64>(offsets) };
        let overflow = if truncate { Overflow::Truncate } else { Overflow::Error };
        let offsets = Offsets::new(offsets, max_len, overflow).map_err(exception)?;
        Ok(Self { offsets })
    }

    /// The longest row that operators see.
    #[getter]
    fn longest(&self) -> usize {
        self.offsets.longest()
    }
}

/// The shape of attention; a negative reach means no limit.
#[pyclass(frozen, module = "palmette._native")]
pub struct Attention {
    pub(crate) attention: palmette_jagged::Attention,
}

#[pymethods]
impl Attention {
    #[new]
    fn new(
        heads: usize,
        kv_heads: usize,
        head_dim: usize,
        left: i64,
        right: i64,
        scale: f64,
    ) -> PyResult<Self> {
        let reach = |n: i64| usize::try_from(n).unwrap_or(i32::MAX as usize);
        let mask = match (left, right) {
            (..0, ..0) => Mask::Full,
            (..0, 0) => Mask::Causal,
            _ => Mask::Window { left: reach(left), right: reach(right) },
        };
        let attention = palmette_jagged::Attention::new(heads, kv_heads, head_dim, mask)
            .and_then(|attention| attention.with_scale(scale))
            .map_err(exception)?;
        Ok(Self { attention })
    }
}

/// The shape of HSTU attention.
#[pyclass(frozen, module = "palmette._native")]
pub struct Hstu {
    heads: usize,
    dims: (usize, usize),
    factors: (f64, f64),
    contextual: usize,
    targets: Option<Vec<usize>>,
    max_attention: usize,
    min_full_attention: usize,
}

#[pymethods]
impl Hstu {
    #[new]
    fn new(
        heads: usize,
        dims: (usize, usize),
        factors: (f64, f64),
        contextual: usize,
        targets: Option<Vec<usize>>,
        max_attention: usize,
        min_full_attention: usize,
    ) -> PyResult<Self> {
        let hstu =
            Self { heads, dims, factors, contextual, targets, max_attention, min_full_attention };
        hstu.attention().map_err(exception)?;
        Ok(hstu)
    }
}

impl Hstu {
    pub(crate) fn attention(&self) -> Result<HstuAttention<'_>, JaggedError> {
        let mask = HstuMask {
            contextual: self.contextual,
            targets: self.targets.as_deref(),
            max_attention: self.max_attention,
            min_full_attention: self.min_full_attention,
        };
        let ((key_dim, value_dim), (alpha, norm)) = (self.dims, self.factors);
        HstuAttention::new(self.heads, key_dim, value_dim, alpha, norm, mask)
    }
}
