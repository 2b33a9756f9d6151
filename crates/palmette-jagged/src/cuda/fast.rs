//! The fast backward: f32 sums of the queries' gradient in a workspace.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream};

use super::arguments::Arguments;
use super::compile::{Source, gpu_error};
use super::device::{Gpu, driver};
use super::launch::{Launch, address};
use super::tiles::{FastTile, registers_fit, support};
use crate::{JaggedError, Offsets};

/// Queries of a block of sums.
const BLOCK: usize = 64;

/// The two kernels of the fast backward and where each row's sums lie.
pub(super) struct Fast {
    pub(super) keys: Launch,
    pub(super) finish: Launch,
    first_block: CudaSlice<i32>,
    sums_bytes: usize,
    flag_bytes: usize,
}

impl Fast {
    /// Plans it; `shape` is the element's code, head dimension, query heads and key heads.
    pub(super) fn new(
        gpu: &Arc<Gpu>,
        (code, d, heads, kv_heads): (u32, usize, usize, usize),
        tile: Option<FastTile>,
        offsets_q: &Offsets,
        offsets_k: &Offsets,
        queries_of: &dyn Fn(usize, usize, usize) -> usize,
    ) -> Result<Self, JaggedError> {
        let mean = offsets_k.total() / offsets_k.rows().max(1);
        let tile = tile.unwrap_or(FastTile::best(d, mean));
        if !tile.fits(d) || !registers_fit(tile.groups, tile.blocks, Some(tile.registers)) {
            return Err(gpu_error("the fast backward's tile does not fit its warpgroups"));
        }
        let stream = gpu.stream();
        let shared_bytes = tile.shared_bytes(d);
        let function = gpu.kernel(
            Source::HopperBackwardFast,
            tile.definitions(code, d),
            "hopper_backward_fast",
            shared_bytes,
        )?;
        let shape = (tile.threads(), shared_bytes, gpu.processors() * tile.blocks);
        let boxes = (tile.rows(), tile.tile);
        let keys = Launch::new(
            stream,
            function,
            offsets_k,
            kv_heads,
            tile.rows(),
            shape,
            boxes,
            queries_of,
        )?;
        let function = gpu.kernel(Source::Support, support(code, d), "finish_queries", 0)?;
        let whole = |_: usize, start: usize, end: usize| end - start;
        let finish = Launch::new(
            stream,
            function,
            offsets_q,
            heads,
            BLOCK as u32,
            (256, 0, 0),
            (0, 0),
            &whole,
        )?;
        let mut first_block = vec![0; offsets_q.rows() + 1];
        let mut blocks = 0usize;
        for &b in offsets_q.longest_first() {
            first_block[b as usize] = i32::try_from(blocks).unwrap_or(i32::MAX);
            blocks += offsets_q.length(b as usize).div_ceil(BLOCK);
        }
        let width = if d <= 64 { 64 } else { 128 };
        Ok(Self {
            keys,
            finish,
            first_block: stream.clone_htod(&first_block).map_err(driver)?,
            sums_bytes: blocks * heads * BLOCK * width * 4,
            flag_bytes: if blocks > 0 { 4 * (offsets_q.rows() + 1) } else { 0 },
        })
    }

    /// Size of the sums and of what says how much of them is zero.
    pub(super) fn workspace_bytes(&self) -> usize {
        self.sums_bytes + self.flag_bytes
    }

    /// Blocks of 64 queries.
    pub(super) fn queries(&self) -> usize {
        self.finish.count
    }

    /// What of the workspace is to be zeroed before the first kernel, which zeroes the sums where it
    /// runs: start and bytes.
    pub(super) fn to_zero(&self, workspace: u64) -> (u64, usize) {
        match self.keys.count {
            0 => (workspace, self.workspace_bytes()),
            _ => (workspace + self.sums_bytes as u64, self.flag_bytes),
        }
    }

    /// Tells kernels where the sums are.
    pub(super) fn describe(
        &self,
        stream: &Arc<CudaStream>,
        workspace: u64,
        arguments: &mut Arguments,
    ) {
        arguments.dq_sums = workspace;
        arguments.first_block = address(stream, &self.first_block);
        arguments.blocks = address(stream, &self.finish.tasks);
        arguments.block_count = self.finish.count as i32;
        arguments.zeroed = workspace + self.sums_bytes as u64;
    }
}
