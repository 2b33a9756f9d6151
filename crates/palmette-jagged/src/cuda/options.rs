//! What a plan is told and what a call is given.

use std::fmt;

use super::tiles::{BackwardTile, FastTile, ForwardTile};

/// Element types that the GPU executor takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuElement {
    /// 32-bit floats, on the plain path.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl GpuElement {
    pub(super) fn code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::Bf16 => 1,
            Self::F16 => 2,
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }
}

/// A family of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuPath {
    /// `f32` arithmetic on ordinary cores: every type, mask and bias.
    Plain,
    /// `mma.sync` on bf16 and f16: Ampere and later, every mask and bias.
    Mma,
    /// Hopper's warpgroup products (wgmma) fed by the tensor copy engine.
    Wgmma,
}

impl fmt::Display for GpuPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Mma => "mma",
            Self::Wgmma => "wgmma",
        })
    }
}

/// How the gradients are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackwardMode {
    /// One order of sums, so the same bits in every run; no workspace. Scores are computed
    /// once for the keys' gradients and once for the queries'.
    #[default]
    Deterministic,
    /// Scores are computed once, and the queries' gradient is added to f32 sums in device
    /// memory in any order: faster on long rows, with the last bits open, and with a workspace
    /// ([`super::GpuAttention::workspace_bytes`]). Only the wgmma path has it, for head
    /// dimensions up to 128; the others take the deterministic way.
    Fast,
}

/// What a plan may be told; the default lets it choose.
#[derive(Debug, Clone, Copy, Default)]
pub struct GpuOptions {
    /// Force a path; refused where it cannot run.
    pub path: Option<GpuPath>,
    /// Shape of the forward kernel.
    pub forward: Option<ForwardTile>,
    /// Shape of the kernel for the gradients of keys and values.
    pub backward_keys: Option<BackwardTile>,
    /// Shape of the kernel for the gradient of queries.
    pub backward_queries: Option<BackwardTile>,
    /// How backward sums.
    pub mode: BackwardMode,
    /// Shape of the fast mode's kernel.
    pub fast: Option<FastTile>,
    /// A bias `[batch, heads, max_q, max_k]` in f32.
    pub bias: Option<[usize; 4]>,
    /// Whether the bias is stored `[batch, heads, max_k, max_q]` instead.
    pub bias_transposed: bool,
}

/// Device addresses of forward's operands, in the layouts of [`crate::AttentionInput`]; multiples
/// of 16 bytes, but for `bias` and `lse`.
#[derive(Debug, Clone, Copy, Default)]
pub struct ForwardBuffers {
    /// `[T_q, H, D]`
    pub q: u64,
    /// `[T_k, G, D]`
    pub k: u64,
    /// `[T_k, G, D]`
    pub v: u64,
    /// The bias, f32; 0 without one.
    pub bias: u64,
    /// Written: `[T_q, H, D]`.
    pub output: u64,
    /// Written: `[H, T_q]`, f32.
    pub lse: u64,
}

/// Device addresses of backward's operands; `forward` as in the forward call.
#[derive(Debug, Clone, Copy, Default)]
pub struct BackwardBuffers {
    /// The operands and results of forward.
    pub forward: ForwardBuffers,
    /// `[T_q, H, D]`
    pub d_output: u64,
    /// Scratch, written: `[H, T_q]`, f32.
    pub delta: u64,
    /// Written: `[T_q, H, D]`.
    pub dq: u64,
    /// Written: `[T_k, G, D]`.
    pub dk: u64,
    /// Written: `[T_k, G, D]`.
    pub dv: u64,
    /// Written, f32; 0 where not wanted.
    pub dbias: u64,
    /// Scratch of [`super::GpuAttention::workspace_bytes`]; 0 where that is 0.
    pub workspace: u64,
}
