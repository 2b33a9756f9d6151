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
    blocks: usize,
    bytes_a_block: usize,
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
        let mut first_block = Vec::with_capacity(offsets_q.rows() + 1);
        let mut blocks = 0usize;
        for b in 0..offsets_q.rows() {
            first_block.push(i32::try_from(blocks).unwrap_or(i32::MAX));
            blocks += offsets_q.length(b).div_ceil(BLOCK);
        }
        first_block.push(i32::try_from(blocks).unwrap_or(i32::MAX));
        let width = if d <= 64 { 64 } else { 128 };
        Ok(Self {
            keys,
            finish,
            first_block: stream.clone_htod(&first_block).map_err(driver)?,
            blocks,
            bytes_a_block: heads * BLOCK * width * 4,
        })
    }

    /// Size of the sums.
    pub(super) fn workspace_bytes(&self) -> usize {
        self.blocks * self.bytes_a_block
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
        arguments.query_blocks = self.blocks as i32;
    }
}
