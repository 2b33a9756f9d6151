//! One kernel with the list of what its blocks do.

use std::sync::Arc;

use std::ffi::c_void;

use cudarc::driver::sys::{
    CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig,
    cuLaunchKernelEx,
};
use cudarc::driver::{CudaFunction, CudaSlice, CudaStream, DevicePtr, LaunchConfig};

use super::compile::gpu_error;
use super::device::driver;
use crate::{JaggedError, Offsets};

/// One kernel with its list of blocks.
pub(super) struct Launch {
    pub(super) function: CudaFunction,
    pub(super) tasks: CudaSlice<[i32; 2]>,
    pub(super) count: usize,
    pub(super) heads: usize,
    pub(super) threads: u32,
    pub(super) shared_bytes: u32,
    /// Blocks that stay resident and take work from a counter, or 0 for one block a task.
    pub(super) persistent: u32,
    pub(super) counter: Option<CudaSlice<u32>>,
    /// Rows of the boxes of stationary and streamed operands.
    pub(super) boxes: (u32, u32),
}

impl Launch {
    /// The blocks of `rows` rows, longest row first and a row's largest work first.
    pub(super) fn new(
        stream: &Arc<CudaStream>,
        function: CudaFunction,
        offsets: &Offsets,
        heads: usize,
        rows: u32,
        (threads, shared_bytes, persistent): (u32, u32, u32),
        boxes: (u32, u32),
        work: &dyn Fn(usize, usize, usize) -> usize,
    ) -> Result<Self, JaggedError> {
        let mut tasks = Vec::new();
        for &b in offsets.longest_first() {
            let blocks = offsets.length(b as usize).div_ceil(rows as usize) as i32;
            let first = tasks.len();
            tasks.extend((0..blocks).map(|block| [b as i32, block]));
            // Masks make the blocks of a row unequal. Rows stay together, so that their
            // keys stay in the cache: sorting over rows made causal masks slower than none.
            tasks[first..].sort_by_key(|&[b, block]| {
                let start = block as usize * rows as usize;
                std::cmp::Reverse(work(b as usize, start, start + rows as usize))
            });
        }
        let count = tasks.len();
        if count.saturating_mul(heads) > i32::MAX as usize {
            return Err(gpu_error("a batch has at most 2^31 - 1 blocks of queries over all heads"));
        }
        if tasks.is_empty() {
            tasks.push([0, 0]);
        }
        let tasks = stream.clone_htod(&tasks).map_err(driver)?;
        let counter = match persistent {
            0 => None,
            _ => Some(stream.alloc_zeros::<u32>(1).map_err(driver)?),
        };
        Ok(Self {
            function,
            tasks,
            count,
            heads,
            threads,
            shared_bytes,
            persistent,
            counter,
            boxes,
        })
    }
}

/// The device address of a slice.
pub(super) fn address<T>(stream: &Arc<CudaStream>, slice: &CudaSlice<T>) -> u64 {
    slice.device_ptr(stream).0
}

/// Launches a kernel that waits by itself (`griddepcontrol.wait`) for what is before it in the
/// stream; where `early`, which needs Hopper or later, its blocks start while that ends.
///
/// # Safety
/// `arguments` point to the kernel's, which name memory that is valid until it has run.
pub(super) unsafe fn launch_early(
    stream: &CudaStream,
    function: &CudaFunction,
    config: LaunchConfig,
    arguments: &mut [*mut c_void],
    early: bool,
) -> Result<(), JaggedError> {
    stream.context().bind_to_thread().map_err(driver)?;
    let mut attribute = CUlaunchAttribute {
        id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
    };
    let config = CUlaunchConfig {
        gridDimX: config.grid_dim.0,
        gridDimY: config.grid_dim.1,
        gridDimZ: config.grid_dim.2,
        blockDimX: config.block_dim.0,
        blockDimY: config.block_dim.1,
        blockDimZ: config.block_dim.2,
        sharedMemBytes: config.shared_mem_bytes,
        hStream: stream.cu_stream(),
        attrs: &mut attribute,
        numAttrs: u32::from(early),
    };
    let none = std::ptr::null_mut();
    // SAFETY: the caller's promise; configuration and attribute outlive the call.
    unsafe { cuLaunchKernelEx(&config, function.cu_function(), arguments.as_mut_ptr(), none) }
        .result()
        .map_err(driver)
}
