//! HSTU attention on a GPU.

use std::sync::Arc;

use cudarc::driver::result::memset_d8_async;
use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, LaunchConfig, PushKernelArg};

use super::arguments::Arguments;
use super::compile::{Source, gpu_error};
use super::device::{Gpu, driver};
use super::launch::{Launch, address};
use super::options::GpuElement;
use super::tiles::{base, mma_shared_bytes};
use crate::{HstuAttention, JaggedError, Offsets};

/// The twin of `Hstu` in `kernels/hstu.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Numbers {
    targets: u64,
    norm: f32,
    contextual: i32,
    max_attention: i32,
    min_full_attention: i32,
}

// SAFETY: `repr(C)`, plain numbers, the layout of the struct in the kernel.
unsafe impl DeviceRepr for Numbers {}

/// [`HstuAttention`] planned for one batch's offsets: bf16 and f16, keys and values of one
/// width from 16 to 256 (backward to 128), on mma.sync tiles.
///
/// As in [`super::GpuAttention`], calls only launch; backward is deterministic.
pub struct GpuHstu {
    element: GpuElement,
    width: usize,
    heads: usize,
    tokens: usize,
    truncates: bool,
    arguments: Arguments,
    numbers: Numbers,
    // Kept alive for the addresses in `arguments` and `numbers`.
    _offsets: CudaSlice<i64>,
    _targets: CudaSlice<i32>,
    forward: Launch,
    backward: Option<[Launch; 2]>,
}

/// Device addresses of HSTU's operands, all `[T, H, D]`; the last four only for backward.
#[derive(Debug, Clone, Copy, Default)]
pub struct HstuBuffers {
    /// Queries.
    pub q: u64,
    /// Keys.
    pub k: u64,
    /// Values.
    pub v: u64,
    /// Written by forward.
    pub output: u64,
    /// The output's gradient.
    pub d_output: u64,
    /// Written by backward.
    pub dq: u64,
    /// Written by backward.
    pub dk: u64,
    /// Written by backward.
    pub dv: u64,
}

impl GpuHstu {
    /// Plans `hstu` on the rows of `offsets`.
    pub fn new(
        gpu: &Arc<Gpu>,
        hstu: &HstuAttention<'_>,
        element: GpuElement,
        offsets: &Offsets,
    ) -> Result<Self, JaggedError> {
        let (heads, d, mask) = (hstu.heads(), hstu.key_dim(), hstu.mask());
        if element == GpuElement::F32 || hstu.value_dim() != d {
            return Err(gpu_error("HSTU takes bf16 or f16, and values as wide as keys"));
        }
        if !(16..=256).contains(&d) || !d.is_multiple_of(8) {
            return Err(JaggedError::Unsupported {
                what: "the head dimension",
                found: d.to_string(),
                accepted: "a multiple of 8 from 16 to 256",
            });
        }
        if offsets.total() > i32::MAX as usize || offsets.rows() > i32::MAX as usize {
            return Err(gpu_error("a batch has at most 2^31 - 1 tokens and rows on a GPU"));
        }
        hstu.check_targets(offsets)?;
        let small = |n: usize| i32::try_from(n).unwrap_or(i32::MAX / 2);
        let stream = gpu.stream();
        let device_offsets = stream.clone_htod(offsets.as_slice()).map_err(driver)?;
        let mut targets: Vec<i32> =
            mask.targets.unwrap_or_default().iter().map(|&n| small(n)).collect();
        targets.push(0);
        let device_targets = stream.clone_htod(&targets).map_err(driver)?;
        let numbers = Numbers {
            targets: if mask.targets.is_some() { address(stream, &device_targets) } else { 0 },
            norm: hstu.norm() as f32,
            contextual: small(mask.contextual),
            max_attention: small(mask.max_attention),
            min_full_attention: small(mask.min_full_attention),
        };
        let max_len = i32::try_from(offsets.max_len()).unwrap_or(i32::MAX);
        let row_offsets = address(stream, &device_offsets);
        let arguments = Arguments {
            offsets_q: row_offsets,
            offsets_k: row_offsets,
            tokens_q: offsets.total() as i64,
            max_q: max_len,
            max_k: max_len,
            heads: heads as i32,
            group: 1,
            head_dim: d as i32,
            rows: offsets.rows() as i32,
            scale: hstu.alpha() as f32,
            ..Arguments::default()
        };
        let (forward_bytes, backward_bytes) = mma_shared_bytes(d);
        let contextual = mask.contextual;
        let length = |b: usize| offsets.length(b);
        let queries = move |_: usize, start: usize, end: usize| {
            if start < contextual { usize::MAX } else { end }
        };
        let keys = move |b: usize, start: usize, _: usize| length(b).saturating_sub(start);
        let plan = |name, bytes, work: &dyn Fn(usize, usize, usize) -> usize| {
            let function = gpu.kernel(Source::Hstu, base(element.code(), d), name, bytes)?;
            Launch::new(stream, function, offsets, heads, 64, (128, bytes, 0), (0, 0), work)
        };
        let forward = plan("hstu_forward", forward_bytes, &queries)?;
        let backward = match d {
            ..=128 => Some([
                plan("hstu_backward_keys", backward_bytes, &keys)?,
                plan("hstu_backward_queries", backward_bytes, &queries)?,
            ]),
            _ => None,
        };
        stream.synchronize().map_err(driver)?;
        Ok(Self {
            element,
            width: d,
            heads,
            tokens: offsets.total(),
            truncates: offsets.truncates(),
            arguments,
            numbers,
            _offsets: device_offsets,
            _targets: device_targets,
            forward,
            backward,
        })
    }

    /// Launches forward on `stream`.
    ///
    /// # Safety
    /// Addresses are device memory of the sizes their documentation gives, valid until the
    /// stream has run the kernels, and no other stream writes them meanwhile.
    pub unsafe fn forward(
        &self,
        stream: &Arc<CudaStream>,
        buffers: &HstuBuffers,
    ) -> Result<(), JaggedError> {
        let HstuBuffers { q, k, v, output: out, .. } = *buffers;
        let arguments = Arguments { q, k, v, out, ..self.arguments };
        // SAFETY: the caller's promise.
        unsafe {
            self.clear(stream, &[out])?;
            self.launch(stream, &self.forward, arguments)
        }
    }

    /// Launches backward on `stream`; the forward pass's output is not read.
    ///
    /// # Safety
    /// As for [`GpuHstu::forward`].
    pub unsafe fn backward(
        &self,
        stream: &Arc<CudaStream>,
        buffers: &HstuBuffers,
    ) -> Result<(), JaggedError> {
        let [keys, queries] = self
            .backward
            .as_ref()
            .ok_or_else(|| gpu_error("HSTU's backward takes head dimensions up to 128 on a GPU"))?;
        let HstuBuffers { q, k, v, d_output: d_o, dq, dk, dv, .. } = *buffers;
        let arguments = Arguments { q, k, v, d_o, dq, dk, dv, ..self.arguments };
        // SAFETY: the caller's promise.
        unsafe {
            self.clear(stream, &[dq, dk, dv])?;
            self.launch(stream, keys, arguments)?;
            self.launch(stream, queries, arguments)
        }
    }

    /// What is past a cut row reads as zero afterwards.
    unsafe fn clear(&self, stream: &Arc<CudaStream>, buffers: &[u64]) -> Result<(), JaggedError> {
        let bytes = self.tokens * self.heads * self.width * self.element.bytes();
        for &buffer in buffers.iter().filter(|_| self.truncates) {
            // SAFETY: the caller's promise about the buffer's size.
            unsafe { memset_d8_async(buffer, 0, bytes, stream.cu_stream()) }.map_err(driver)?;
        }
        Ok(())
    }

    unsafe fn launch(
        &self,
        stream: &Arc<CudaStream>,
        launch: &Launch,
        arguments: Arguments,
    ) -> Result<(), JaggedError> {
        if launch.count == 0 {
            return Ok(());
        }
        let tasks = address(stream, &launch.tasks);
        let arguments = Arguments { tasks, task_count: launch.count as i32, ..arguments };
        let config = LaunchConfig {
            grid_dim: ((launch.count * launch.heads) as u32, 1, 1),
            block_dim: (launch.threads, 1, 1),
            shared_mem_bytes: launch.shared_bytes,
        };
        // SAFETY: arguments match the kernel's, addresses are the caller's promise.
        unsafe {
            stream
                .launch_builder(&launch.function)
                .arg(&arguments)
                .arg(&self.numbers)
                .launch(config)
        }
        .map_err(driver)?;
        Ok(())
    }
}

impl std::fmt::Debug for GpuHstu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GpuHstu")
            .field("heads", &self.heads)
            .field("width", &self.width)
            .field("element", &self.element)
            .finish_non_exhaustive()
    }
}
