//! Attention on a GPU: everything is planned once for a batch's offsets, a call only launches.

use std::fmt;
use std::sync::Arc;

use cudarc::driver::result::memset_d8_async;
use cudarc::driver::{CudaFunction, CudaSlice, CudaStream, LaunchConfig, PushKernelArg};

use super::arguments::{Arguments, TensorMap};
use super::compile::{Source, gpu_error};
use super::device::{Gpu, driver};
use super::fast::Fast;
use super::launch::{Launch, address};
use super::options::{
    BackwardBuffers, BackwardMode, ForwardBuffers, GpuElement, GpuOptions, GpuPath,
};
use super::tiles::{
    BackwardTile, ForwardTile, base, delta_lanes, mma_shared_bytes, registers_fit, support,
};
use crate::{Attention, JaggedError, Mask, Offsets};

/// Attention planned for one batch's offsets.
///
/// Construction compiles kernels (or takes them from the cache) and uploads offsets and
/// lists of work, longest row first. Calls launch on the given stream, allocate nothing
/// and do not synchronise, so they can be captured in a CUDA graph. Backward is
/// deterministic unless [`BackwardMode::Fast`] is asked for.
pub struct GpuAttention {
    gpu: Arc<Gpu>,
    attention: Attention,
    element: GpuElement,
    path: GpuPath,
    backward_path: GpuPath,
    arguments: Arguments,
    truncates: (bool, bool),
    tokens: (usize, usize),
    longest: (usize, usize),
    // Kept alive for the addresses in `arguments`.
    _offsets: [CudaSlice<i64>; 2],
    forward: Launch,
    queries: Launch,
    keys: Launch,
    fast: Option<Fast>,
    bias: Option<CudaFunction>,
    delta: CudaFunction,
    fill_lse: CudaFunction,
}

/// Tile and bytes of shared memory of the plain kernels.
fn plain_tile(head_dim: usize) -> (u32, u32) {
    let (tile, d) = (if head_dim > 128 { 16 } else { 32 }, head_dim as u32);
    (tile, 4 * (4 * tile * (d + 1) + 2 * tile * (tile + 1)))
}

/// A mask's reach before and after a query's own position, as kernels take it.
fn reach(mask: Mask) -> (i32, i32) {
    // Larger than any row, and far enough from overflow that kernels can add to it.
    const ANY: i32 = 1 << 30;
    let clamp = |n: usize| i32::try_from(n).unwrap_or(ANY).min(ANY);
    match mask {
        Mask::Full => (ANY, ANY),
        Mask::Causal => (ANY, 0),
        Mask::Window { left, right } => (clamp(left), clamp(right)),
    }
}

impl GpuAttention {
    /// Plans `attention` on rows of queries and keys.
    pub fn new(
        gpu: &Arc<Gpu>,
        attention: Attention,
        element: GpuElement,
        offsets_q: &Offsets,
        offsets_k: &Offsets,
        options: GpuOptions,
    ) -> Result<Self, JaggedError> {
        let d = attention.head_dim();
        crate::error::check_equal(
            "the number of key rows",
            offsets_k.rows(),
            offsets_q.rows(),
            "the queries",
        )?;
        if let Some(bias) = options.bias {
            check_bias(bias, &attention, offsets_q, offsets_k)?;
        }
        for offsets in [offsets_q, offsets_k] {
            if offsets.total() > i32::MAX as usize || offsets.rows() > i32::MAX as usize {
                return Err(gpu_error("a batch has at most 2^31 - 1 tokens and rows on a GPU"));
            }
        }
        let scale = attention.scale() as f32;
        if !scale.is_finite() || (scale == 0.0) != (attention.scale() == 0.0) {
            return Err(gpu_error(format!(
                "the scale {} has no f32, in which scores are scaled",
                attention.scale()
            )));
        }
        let portable = element != GpuElement::F32 && scale > 0.0;
        let fast = portable && gpu.is_hopper() && options.bias.is_none();
        let path = match options.path {
            None if fast => GpuPath::Wgmma,
            None if portable => GpuPath::Mma,
            None => GpuPath::Plain,
            Some(GpuPath::Wgmma) if !fast => {
                return Err(gpu_error(
                    "the wgmma path needs a Hopper GPU, bf16 or f16, a positive scale and no bias",
                ));
            }
            Some(GpuPath::Mma) if !portable => {
                return Err(gpu_error("the mma path needs bf16 or f16 and a positive scale"));
            }
            Some(path) => path,
        };
        // The sums of two gradients do not fit the registers of wider heads.
        let backward_path = if d <= 128 { path } else { GpuPath::Plain };

        let backward_tiles = [options.backward_keys, options.backward_queries];
        let fits = options.forward.is_none_or(|t| registers_fit(t.groups, t.blocks, t.registers))
            && backward_tiles
                .into_iter()
                .flatten()
                .all(|t| registers_fit(t.groups, t.blocks, t.registers));
        if !fits {
            return Err(gpu_error("a tile moves more registers than its blocks start with"));
        }

        let stream = gpu.stream();
        let upload = |offsets: &Offsets| stream.clone_htod(offsets.as_slice()).map_err(driver);
        let device_offsets = [upload(offsets_q)?, upload(offsets_k)?];
        let (left, right) = reach(attention.mask());
        let limit = |offsets: &Offsets| i32::try_from(offsets.max_len()).unwrap_or(i32::MAX);
        let [bias_batch, bias_heads, bias_q, bias_k] = options.bias.unwrap_or_default();
        let arguments = Arguments {
            offsets_q: address(stream, &device_offsets[0]),
            offsets_k: address(stream, &device_offsets[1]),
            tokens_q: offsets_q.total() as i64,
            max_q: limit(offsets_q),
            max_k: limit(offsets_k),
            heads: attention.heads() as i32,
            group: attention.group() as i32,
            head_dim: d as i32,
            left,
            right,
            bias_batch: bias_batch as i32,
            bias_heads: bias_heads as i32,
            bias_q: bias_q as i32,
            bias_k: bias_k as i32,
            bias_transposed: i32::from(options.bias_transposed),
            rows: offsets_q.rows() as i32,
            scale,
            ..Arguments::default()
        };

        let mask = attention.mask();
        let lengths = |b| (offsets_q.length(b), offsets_k.length(b));
        let keys_of = |b: usize, start: usize, end: usize| {
            let (n_q, n_k) = lengths(b);
            mask.union(start..end.min(n_q), n_q, n_k).len()
        };
        let queries_of = |b: usize, start: usize, end: usize| {
            let (n_q, n_k) = lengths(b);
            mask.seen_by(start..end.min(n_k), n_q, n_k).len()
        };

        let code = element.code();
        let plain =
            |offsets: &Offsets, heads, name, work: &dyn Fn(usize, usize, usize) -> usize| {
                let tile = if d > 128 { 16u32 } else { 32 };
                let shared_bytes = 4 * (4 * tile * (d as u32 + 1) + 2 * tile * (tile + 1));
                let function = gpu.kernel(Source::Plain, base(code, d), name, shared_bytes)?;
                Launch::new(
                    stream,
                    function,
                    offsets,
                    heads,
                    tile,
                    (128, shared_bytes, 0),
                    (0, 0),
                    work,
                )
            };
        let (mma_forward_bytes, mma_backward_bytes) = mma_shared_bytes(d);
        let mma =
            |offsets: &Offsets, heads, name, bytes, work: &dyn Fn(usize, usize, usize) -> usize| {
                let function = gpu.kernel(Source::Mma, base(code, d), name, bytes)?;
                Launch::new(stream, function, offsets, heads, 64, (128, bytes, 0), (0, 0), work)
            };
        let (heads, kv_heads) = (attention.heads(), attention.kv_heads());
        let forward = if path == GpuPath::Mma {
            mma(offsets_q, heads, "mma_forward", mma_forward_bytes, &keys_of)?
        } else if path == GpuPath::Wgmma {
            let best = || ForwardTile::for_rows(&attention, offsets_q, offsets_k);
            let tile = options.forward.unwrap_or_else(best);
            let shared_bytes = tile.shared_bytes(d);
            let definitions = tile.definitions(code, d);
            let function =
                gpu.kernel(Source::HopperForward, definitions, "hopper_forward", shared_bytes)?;
            let persistent = gpu.processors() * tile.blocks;
            let shape = (tile.threads(), shared_bytes, persistent);
            // Each warpgroup's queries are loaded by themselves.
            let boxes = (64, tile.keys);
            Launch::new(stream, function, offsets_q, heads, tile.queries(), shape, boxes, &keys_of)?
        } else {
            plain(offsets_q, heads, "plain_forward", &keys_of)?
        };
        let backward = |tile: BackwardTile, for_keys: bool, offsets: &Offsets, heads| {
            let work: &dyn Fn(usize, usize, usize) -> usize =
                if for_keys { &queries_of } else { &keys_of };
            let shared_bytes = tile.shared_bytes(d);
            let definitions = tile.definitions(code, d, for_keys);
            let function =
                gpu.kernel(Source::HopperBackward, definitions, "hopper_backward", shared_bytes)?;
            let shape = (tile.threads(), shared_bytes, gpu.processors() * tile.blocks);
            let boxes = (tile.rows(), tile.tile);
            Launch::new(stream, function, offsets, heads, tile.rows(), shape, boxes, work)
        };
        let (queries, keys) = if backward_path == GpuPath::Wgmma {
            let for_queries = options.backward_queries.unwrap_or(BackwardTile::best_for_queries(d));
            let for_keys = options.backward_keys.unwrap_or(BackwardTile::best_for_keys(d));
            (
                backward(for_queries, false, offsets_q, heads)?,
                backward(for_keys, true, offsets_k, kv_heads)?,
            )
        } else if backward_path == GpuPath::Mma {
            let bytes = mma_backward_bytes;
            (
                mma(offsets_q, heads, "mma_backward_queries", bytes, &keys_of)?,
                mma(offsets_k, kv_heads, "mma_backward_keys", bytes, &queries_of)?,
            )
        } else {
            (
                plain(offsets_q, heads, "plain_backward_queries", &keys_of)?,
                plain(offsets_k, kv_heads, "plain_backward_keys", &queries_of)?,
            )
        };
        let fast = if backward_path == GpuPath::Wgmma && options.mode == BackwardMode::Fast {
            let shape = (code, d, heads, kv_heads);
            Some(Fast::new(gpu, shape, options.fast, offsets_q, offsets_k, &queries_of)?)
        } else {
            None
        };
        let bias = match options.bias {
            Some(_) => {
                let shared = plain_tile(d).1;
                Some(gpu.kernel(Source::Plain, base(code, d), "plain_backward_bias", shared)?)
            }
            None => None,
        };
        let support = |name| gpu.kernel(Source::Support, support(code, d), name, 0);
        let plan = Self {
            gpu: gpu.clone(),
            attention,
            element,
            path,
            backward_path,
            arguments,
            truncates: (offsets_q.truncates(), offsets_k.truncates()),
            tokens: (offsets_q.total(), offsets_k.total()),
            longest: (offsets_q.longest(), offsets_k.longest()),
            _offsets: device_offsets,
            forward,
            queries,
            keys,
            fast,
            bias,
            delta: support("attention_delta")?,
            fill_lse: support("fill_lse")?,
        };
        stream.synchronize().map_err(driver)?;
        Ok(plan)
    }

    /// The path that forward takes.
    pub fn path(&self) -> GpuPath {
        self.path
    }

    /// The path that backward takes.
    pub fn backward_path(&self) -> GpuPath {
        self.backward_path
    }

    /// Bytes of scratch that backward takes besides `delta`: 0 in the deterministic mode.
    pub fn workspace_bytes(&self) -> usize {
        self.fast.as_ref().map_or(0, Fast::workspace_bytes)
    }

    /// Launches forward on `stream`.
    ///
    /// # Safety
    /// The addresses are device memory of the sizes their documentation gives, valid
    /// until the stream has run the kernels, and no other stream writes them meanwhile.
    pub unsafe fn forward(
        &self,
        stream: &Arc<CudaStream>,
        buffers: &ForwardBuffers,
    ) -> Result<(), JaggedError> {
        check_addresses(&[buffers.q, buffers.k, buffers.v, buffers.output])?;
        let mut arguments = self.arguments;
        (arguments.q, arguments.k, arguments.v) = (buffers.q, buffers.k, buffers.v);
        (arguments.out, arguments.lse, arguments.bias) =
            (buffers.output, buffers.lse, buffers.bias);
        // SAFETY: the caller's promise.
        unsafe {
            if self.truncates.0 {
                self.zero(stream, buffers.output, self.tokens.0 * self.attention.heads())?;
                self.per_query(stream, &self.fill_lse, arguments, 256)?;
            }
            let maps =
                [(buffers.q, true, true), (buffers.k, false, false), (buffers.v, false, false)];
            self.launch(stream, &self.forward, arguments, &maps, self.path)
        }
    }

    /// Launches backward on `stream`.
    ///
    /// # Safety
    /// As for [`GpuAttention::forward`].
    pub unsafe fn backward(
        &self,
        stream: &Arc<CudaStream>,
        buffers: &BackwardBuffers,
    ) -> Result<(), JaggedError> {
        let (f, mut arguments) = (&buffers.forward, self.arguments);
        check_addresses(&[f.q, f.k, f.v, f.output, buffers.d_output])?;
        check_addresses(&[buffers.dq, buffers.dk, buffers.dv, buffers.workspace])?;
        (arguments.q, arguments.k, arguments.v) = (f.q, f.k, f.v);
        (arguments.o, arguments.lse, arguments.bias) = (f.output, f.lse, f.bias);
        (arguments.d_o, arguments.delta) = (buffers.d_output, buffers.delta);
        (arguments.dq, arguments.dk, arguments.dv) = (buffers.dq, buffers.dk, buffers.dv);
        arguments.dbias = buffers.dbias;
        // SAFETY: the caller's promise.
        unsafe {
            if self.truncates.0 {
                self.zero(stream, buffers.dq, self.tokens.0 * self.attention.heads())?;
            }
            if self.truncates.1 {
                let rows = self.tokens.1 * self.attention.kv_heads();
                self.zero(stream, buffers.dk, rows)?;
                self.zero(stream, buffers.dv, rows)?;
            }
            self.per_query(
                stream,
                &self.delta,
                arguments,
                256 / delta_lanes(self.attention.head_dim()),
            )?;
            let (q, k) = ((f.q, true), (f.k, false));
            let (g, v) = ((buffers.d_output, true), (f.v, false));
            let stay = |(address, queries): (u64, bool)| (address, queries, true);
            let pass = |(address, queries): (u64, bool)| (address, queries, false);
            let maps = [stay(k), stay(v), pass(q), pass(g)];
            if self.fast.as_ref().is_some_and(|fast| fast.queries() == 0) {
                // No queries: nothing is added to the gradients of keys, and there is no workspace.
                let rows = self.tokens.1 * self.attention.kv_heads();
                self.zero(stream, buffers.dk, rows)?;
                self.zero(stream, buffers.dv, rows)?;
            } else if let Some(fast) = &self.fast {
                let bytes = fast.workspace_bytes();
                if bytes > 0 && buffers.workspace == 0 {
                    return Err(gpu_error(format!(
                        "the fast backward needs a workspace of {bytes} bytes"
                    )));
                }
                let (start, bytes) = fast.to_zero(buffers.workspace);
                memset_d8_async(start, 0, bytes, stream.cu_stream()).map_err(driver)?;
                fast.describe(stream, buffers.workspace, &mut arguments);
                self.launch(stream, &fast.keys, arguments, &maps, self.backward_path)?;
                self.launch(stream, &fast.finish, arguments, &[], GpuPath::Plain)?;
            } else {
                self.launch(stream, &self.keys, arguments, &maps, self.backward_path)?;
                let maps = [stay(q), stay(g), pass(k), pass(v)];
                self.launch(stream, &self.queries, arguments, &maps, self.backward_path)?;
            }
            if let (Some(function), true) = (&self.bias, buffers.dbias != 0) {
                self.bias_gradient(stream, function, arguments)?;
            }
        }
        Ok(())
    }

    /// Launches one kernel; `maps` are (address, of queries, stationary).
    unsafe fn launch(
        &self,
        stream: &Arc<CudaStream>,
        launch: &Launch,
        mut arguments: Arguments,
        maps: &[(u64, bool, bool)],
        path: GpuPath,
    ) -> Result<(), JaggedError> {
        if launch.count == 0 {
            return Ok(());
        }
        arguments.tasks = address(stream, &launch.tasks);
        arguments.task_count = launch.count as i32;
        let blocks = (launch.count * launch.heads) as u32;
        let mut grid = blocks;
        let mut tensor_maps = Vec::with_capacity(4);
        if path == GpuPath::Wgmma {
            grid = blocks.min(launch.persistent);
            arguments.counter =
                launch.counter.as_ref().map_or(0, |counter| address(stream, counter));
            for &(pointer, of_queries, stationary) in maps {
                let (tokens, heads) = if of_queries {
                    (self.tokens.0, self.attention.heads())
                } else {
                    (self.tokens.1, self.attention.kv_heads())
                };
                let rows = if stationary { launch.boxes.0 } else { launch.boxes.1 };
                // A kernel with blocks for queries never reads keys that are not there, but the
                // map of an empty tensor, which may have no address, would be refused.
                let pointer = if tokens == 0 { arguments.tasks } else { pointer };
                let shape = [tokens.max(1), heads, self.attention.head_dim()];
                let bfloat = self.element == GpuElement::Bf16;
                tensor_maps.push(TensorMap::new(pointer, bfloat, shape, rows)?);
            }
        }
        let config = LaunchConfig {
            grid_dim: (grid, 1, 1),
            block_dim: (launch.threads, 1, 1),
            shared_mem_bytes: launch.shared_bytes,
        };
        let mut builder = stream.launch_builder(&launch.function);
        builder.arg(&arguments);
        tensor_maps.iter().for_each(|map| {
            builder.arg(map);
        });
        // SAFETY: arguments match the kernel's, addresses are the caller's promise.
        unsafe { builder.launch(config) }.map_err(driver)?;
        Ok(())
    }

    /// A kernel over all (query, head) pairs, `each` of them a block.
    unsafe fn per_query(
        &self,
        stream: &Arc<CudaStream>,
        function: &CudaFunction,
        arguments: Arguments,
        each: usize,
    ) -> Result<(), JaggedError> {
        let blocks = (self.tokens.0 * self.attention.heads()).div_ceil(each) as u32;
        if blocks == 0 {
            return Ok(());
        }
        let config =
            LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (256, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: as in `launch`.
        unsafe { stream.launch_builder(function).arg(&arguments).launch(config) }
            .map_err(driver)?;
        Ok(())
    }

    unsafe fn bias_gradient(
        &self,
        stream: &Arc<CudaStream>,
        function: &CudaFunction,
        arguments: Arguments,
    ) -> Result<(), JaggedError> {
        let (tile, shared_mem_bytes) = plain_tile(self.attention.head_dim());
        let grid = (
            (arguments.bias_k as u32).div_ceil(tile),
            (arguments.bias_q as u32).div_ceil(tile),
            (arguments.bias_batch * arguments.bias_heads) as u32,
        );
        if grid.0 * grid.1 * grid.2 == 0 {
            return Ok(());
        }
        let config = LaunchConfig { grid_dim: grid, block_dim: (128, 1, 1), shared_mem_bytes };
        // SAFETY: as in `launch`.
        unsafe { stream.launch_builder(function).arg(&arguments).launch(config) }
            .map_err(driver)?;
        Ok(())
    }

    /// Zeroes `rows` rows of `D` elements.
    unsafe fn zero(
        &self,
        stream: &Arc<CudaStream>,
        pointer: u64,
        rows: usize,
    ) -> Result<(), JaggedError> {
        let bytes = rows * self.attention.head_dim() * self.element.bytes();
        // SAFETY: the caller's promise about the buffer's size.
        unsafe { memset_d8_async(pointer, 0, bytes, stream.cu_stream()) }.map_err(driver)
    }

    /// The GPU of the plan.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Longest rows of queries and keys.
    pub fn longest(&self) -> (usize, usize) {
        self.longest
    }
}

impl fmt::Debug for GpuAttention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GpuAttention")
            .field("attention", &self.attention)
            .field("element", &self.element)
            .field("path", &self.path)
            .field("backward_path", &self.backward_path)
            .finish_non_exhaustive()
    }
}

/// Kernels read and write 16 bytes at once.
fn check_addresses(addresses: &[u64]) -> Result<(), JaggedError> {
    match addresses.iter().find(|&address| address % 16 != 0) {
        None => Ok(()),
        Some(address) => Err(gpu_error(format!(
            "a tensor lies at {address:#x}: addresses must be multiples of 16 bytes"
        ))),
    }
}

fn check_bias(
    [batch, heads, max_q, max_k]: [usize; 4],
    attention: &Attention,
    offsets_q: &Offsets,
    offsets_k: &Offsets,
) -> Result<(), JaggedError> {
    let fits = (batch == 1 || batch == offsets_q.rows())
        && (heads == 1 || heads == attention.heads())
        && max_q >= offsets_q.longest()
        && max_k >= offsets_k.longest();
    if fits && batch * heads <= 65_535 {
        return Ok(());
    }
    Err(JaggedError::Unsupported {
        what: "the bias's shape [batch, heads, max_q, max_k]",
        found: format!("[{batch}, {heads}, {max_q}, {max_k}]"),
        accepted: "1 or B, 1 or H, at least the longest rows, and batch x heads up to 65535",
    })
}
