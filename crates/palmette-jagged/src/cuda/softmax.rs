//! Softmax over the rows of a jagged tensor, and its gradient.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, LaunchConfig};

use super::compile::{Source, gpu_error};
use super::device::Gpu;
use super::launch::{address, launch_early};
use super::operators::{definitions_of, vector_of};
use super::options::GpuElement;
use crate::{JaggedError, Offsets};

/// The twin of `Rows` in `kernels/softmax.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Rows {
    x: u64,
    y: u64,
    out: u64,
    list: u64,
    ends: [i32; 4],
    vectors: i32,
    parts: i32,
    columns_log: i32,
}

// SAFETY: `repr(C)`, plain numbers, the layout of the struct in the kernels.
unsafe impl DeviceRepr for Rows {}

const WARP: usize = 32;

/// Tokens of a row to a warp, at most, where more warps can share it.
const EACH: usize = 64;

/// The shape of the kernels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    threads: usize,
    /// Vectors that a thread has in shared memory.
    slots: usize,
    /// Batches that these are.
    depth: usize,
    /// Blocks on a multiprocessor.
    blocks: usize,
}

impl Shape {
    /// Any GPU: 48 KiB of shared memory a block.
    const PORTABLE: Self = Self { threads: 256, slots: 12, depth: 3, blocks: 4 };
    /// Hopper: more of a row stays.
    const HOPPER: Self = Self { threads: 256, slots: 16, depth: 4, blocks: 3 };
    /// Hopper, long rows of whole lines.
    const LONG: Self = Self { threads: 512, slots: 12, depth: 3, blocks: 2 };

    /// Definitions beside the element and the access.
    pub(super) fn definitions(&self) -> [(&'static str, usize); 4] {
        let Self { threads, slots, depth, blocks } = *self;
        [("THREADS", threads), ("SLOTS", slots), ("DEPTH", depth), ("BLOCKS", blocks)]
    }

    /// All that an architecture uses.
    pub(super) fn all(arch: &str) -> &'static [Self] {
        if arch.starts_with("sm_90") { &[Self::HOPPER, Self::LONG] } else { &[Self::PORTABLE] }
    }
}

/// The rows of a batch as the kernels take them.
#[derive(Debug)]
pub(super) struct Softmax {
    /// First element and length of each row, longest first.
    list: CudaSlice<[i64; 2]>,
    /// Lengths of the rows, longest first.
    lengths: Vec<i64>,
    mean: usize,
    hopper: bool,
}

impl Softmax {
    pub(super) fn new(gpu: &Gpu, offsets: &Offsets) -> Result<Self, JaggedError> {
        let row =
            |&b: &u32| [offsets.range(b as usize).start as i64, offsets.length(b as usize) as i64];
        let mut list: Vec<[i64; 2]> = offsets.longest_first().iter().map(row).collect();
        let lengths: Vec<i64> = list.iter().map(|&[_, length]| length).collect();
        list.push([0, 0]);
        Ok(Self {
            list: gpu.upload(&list)?,
            mean: offsets.total() / lengths.len().max(1),
            lengths,
            hopper: gpu.is_hopper(),
        })
    }

    /// What measured best for these rows, of columns that fill a line of memory or not.
    fn shape(&self, whole_lines: bool) -> Shape {
        match self.hopper {
            false => Shape::PORTABLE,
            true if whole_lines && self.mean > 600 => Shape::LONG,
            true => Shape::HOPPER,
        }
    }

    /// Whether a call starts while the one before it ends: a gain where calls are short, a loss
    /// where the blocks that wait take the place of those that work.
    fn starts_early(&self) -> bool {
        self.hopper && self.mean <= 300
    }

    /// `out` from `x` (and `y`) of `width` columns: `name` is `softmax_forward` or
    /// `softmax_backward`.
    ///
    /// # Safety
    /// As for [`super::GpuOperators::softmax`].
    pub(super) unsafe fn run(
        &self,
        gpu: &Gpu,
        stream: &Arc<CudaStream>,
        (element, width): (GpuElement, usize),
        name: &'static str,
        [x, y, out]: [u64; 3],
    ) -> Result<(), JaggedError> {
        const LINE_BYTES: usize = 128;
        let vector = vector_of(element, width);
        let (bytes, vectors) = (vector * element.bytes(), width / vector);
        // A power of two of a row's vectors, and of them as many as a line of memory or a warp has.
        let columns = vectors.next_power_of_two().min((LINE_BYTES / bytes).min(WARP));
        let parts = vectors.div_ceil(columns);
        let shape = self.shape(columns * bytes == LINE_BYTES);
        let Shape { threads, slots, .. } = shape;
        let warps = threads / WARP;
        // Rows that a block has side by side, and the ends of those that take so much of one.
        let sides = [1, 2, 4, warps];
        // A lane's vectors fit its slots, which backward has for two inputs.
        let inputs = if y == 0 { 1 } else { 2 };
        let each = (slots / inputs * (WARP / columns)).min(EACH);
        let longer = |warps: usize| self.lengths.partition_point(|&n| n > (each * warps) as i64);
        let ends = [longer(warps / 2), longer(warps / 4), longer(1), self.lengths.len()];
        let rows_of = |s: usize| ends[s] - if s == 0 { 0 } else { ends[s - 1] };
        let blocks: usize = (0..4).map(|s| rows_of(s).div_ceil(sides[s])).sum();
        let blocks = blocks.saturating_mul(parts);
        if blocks == 0 {
            return Ok(());
        }
        let too_many = || gpu_error("a softmax has at most 2^31 - 1 blocks of rows and columns");
        let grid = i32::try_from(blocks).map_err(|_| too_many())?;
        let operands = Rows {
            x,
            y,
            out,
            list: address(stream, &self.list),
            ends: ends.map(|end| end as i32),
            vectors: vectors as i32,
            parts: parts as i32,
            columns_log: columns.ilog2() as i32,
        };
        let mut definitions = definitions_of(element, vector);
        definitions
            .extend(shape.definitions().iter().map(|(name, value)| format!("{name}={value}")));
        let shared_mem_bytes = (threads * slots * bytes) as u32;
        let function = gpu.kernel(Source::Softmax, definitions, name, shared_mem_bytes)?;
        let config = LaunchConfig {
            grid_dim: (grid as u32, 1, 1),
            block_dim: (threads as u32, 1, 1),
            shared_mem_bytes,
        };
        let mut arguments = [(&raw const operands).cast_mut().cast()];
        // SAFETY: the struct is the kernel's, its addresses are the caller's promise.
        unsafe { launch_early(stream, &function, config, &mut arguments, self.starts_early()) }
    }
}
