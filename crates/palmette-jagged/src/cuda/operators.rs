//! Small operators on a GPU that need only one set of offsets.

use std::sync::Arc;

use cudarc::driver::result::memset_d8_async;
use cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, DeviceRepr, LaunchConfig, PushKernelArg,
};

use super::compile::{Source, gpu_error};
use super::device::{Gpu, driver};
use super::launch::address;
use super::options::GpuElement;
use crate::{Elementwise, JaggedError, Offsets};

/// The twin of `Operands` in `kernels/operators.cu`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Operands {
    pub(super) x: u64,
    pub(super) y: u64,
    pub(super) z: u64,
    pub(super) out: u64,
    pub(super) out_2: u64,
    pub(super) offsets: u64,
    pub(super) list: u64,
    pub(super) rows: i64,
    pub(super) max_len: i32,
    pub(super) width: i32,
    pub(super) mode: i32,
    pub(super) padding: f32,
}

// SAFETY: `repr(C)`, plain numbers, the layout of the struct in the kernels.
unsafe impl DeviceRepr for Operands {}

/// A kernel of `operators.cu` for rows of `width` elements, with the widest accesses
/// that divide them.
pub(super) fn operator(
    gpu: &Gpu,
    element: GpuElement,
    width: usize,
    name: &'static str,
) -> Result<CudaFunction, JaggedError> {
    operator_of(gpu, element, vector_of(element, width, 16), name)
}

fn operator_of(
    gpu: &Gpu,
    element: GpuElement,
    vector: usize,
    name: &'static str,
) -> Result<CudaFunction, JaggedError> {
    let definitions = vec![format!("ELEMENT={}", element.code()), format!("VECTOR={vector}")];
    gpu.kernel(Source::Operators, definitions, name, 0)
}

/// Elements of the widest access, up to `bytes`, that divides rows of `width`.
fn vector_of(element: GpuElement, width: usize, bytes: usize) -> usize {
    let most = bytes / element.bytes();
    [8, 4, 2].into_iter().find(|v| *v <= most && width.is_multiple_of(*v)).unwrap_or(1)
}

/// Launches `blocks` blocks of 256 threads; no block, no launch.
pub(super) unsafe fn launch(
    stream: &Arc<CudaStream>,
    function: &CudaFunction,
    operands: &Operands,
    blocks: usize,
) -> Result<(), JaggedError> {
    // SAFETY: the caller's promise.
    unsafe { launch_of(stream, function, operands, blocks, 256) }
}

unsafe fn launch_of(
    stream: &Arc<CudaStream>,
    function: &CudaFunction,
    operands: &Operands,
    blocks: usize,
    threads: u32,
) -> Result<(), JaggedError> {
    if blocks == 0 || operands.width == 0 {
        return Ok(());
    }
    let grid = u32::try_from(blocks)
        .ok()
        .filter(|&blocks| blocks <= i32::MAX as u32)
        .ok_or_else(|| gpu_error("an operator has at most 2^31 - 1 blocks of positions"))?;
    let config =
        LaunchConfig { grid_dim: (grid, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the struct is the kernel's, its addresses are the caller's promise.
    unsafe { stream.launch_builder(function).arg(operands).launch(config) }.map_err(driver)?;
    Ok(())
}

/// Operators over one set of rows, of values `[T, width]` at device addresses.
///
/// Rows are uploaded once; a call launches and allocates nothing, except that the first call
/// of a kind compiles its kernel (or takes it from the cache). Addresses are multiples of 16
/// bytes. Results are the same bits in every run.
#[derive(Debug)]
pub struct GpuOperators {
    gpu: Arc<Gpu>,
    element: GpuElement,
    offsets: CudaSlice<i64>,
    /// First element and length of each row, longest first.
    longest_first: CudaSlice<[i64; 2]>,
    /// Rows of which a softmax takes a block, not a warp.
    long_rows: usize,
    rows: usize,
    total: usize,
    max_len: usize,
    truncates: bool,
}

impl GpuOperators {
    /// Uploads the rows.
    pub fn new(
        gpu: &Arc<Gpu>,
        element: GpuElement,
        offsets: &Offsets,
    ) -> Result<Self, JaggedError> {
        if offsets.rows() > i32::MAX as usize || offsets.max_len() > i32::MAX as usize {
            return Err(gpu_error(
                "a batch has at most 2^31 - 1 rows, and rows a maximal length up to that",
            ));
        }
        let stream = gpu.stream();
        let row =
            |&b: &u32| [offsets.range(b as usize).start as i64, offsets.length(b as usize) as i64];
        let mut longest_first: Vec<[i64; 2]> = offsets.longest_first().iter().map(row).collect();
        // 16 lanes and as many elements each, half of them in registers.
        const SHORT: i64 = 256;
        let long_rows = longest_first.partition_point(|&[_, length]| length > SHORT);
        longest_first.push([0, 0]);
        let plan = Self {
            gpu: gpu.clone(),
            element,
            offsets: stream.clone_htod(offsets.as_slice()).map_err(driver)?,
            longest_first: stream.clone_htod(&longest_first).map_err(driver)?,
            long_rows,
            rows: offsets.rows(),
            total: offsets.total(),
            max_len: offsets.max_len(),
            truncates: offsets.truncates(),
        };
        stream.synchronize().map_err(driver)?;
        Ok(plan)
    }

    fn operands(&self, stream: &Arc<CudaStream>, width: usize) -> Result<Operands, JaggedError> {
        let width = i32::try_from(width).map_err(|_| gpu_error("a row is too wide"))?;
        Ok(Operands {
            offsets: address(stream, &self.offsets),
            rows: self.rows as i64,
            max_len: self.max_len as i32,
            width,
            ..Operands::default()
        })
    }

    /// What is past a cut row reads as zero afterwards.
    unsafe fn clear(
        &self,
        stream: &Arc<CudaStream>,
        values: u64,
        width: usize,
    ) -> Result<(), JaggedError> {
        if !self.truncates {
            return Ok(());
        }
        let bytes = self.total * width * self.element.bytes();
        // SAFETY: the caller's promise about the buffer's size.
        unsafe { memset_d8_async(values, 0, bytes, stream.cu_stream()) }.map_err(driver)
    }

    /// [`crate::jagged_softmax`]: `x` and `y` are `[T, width]`.
    ///
    /// # Safety
    /// Addresses are device memory of these sizes, valid until the stream has run the
    /// kernel, and no other stream writes them meanwhile.
    pub unsafe fn softmax(
        &self,
        stream: &Arc<CudaStream>,
        width: usize,
        x: u64,
        y: u64,
    ) -> Result<(), JaggedError> {
        let operands = Operands { x, out: y, ..self.operands(stream, width)? };
        // SAFETY: the caller's promise.
        unsafe {
            self.clear(stream, y, width)?;
            self.softmax_of(stream, "softmax_forward", operands, width)
        }
    }

    /// A block for each long row and sector of its columns, a warp for each short one, as `part_of`
    /// in the kernels takes them.
    unsafe fn softmax_of(
        &self,
        stream: &Arc<CudaStream>,
        name: &'static str,
        mut operands: Operands,
        width: usize,
    ) -> Result<(), JaggedError> {
        const SECTOR_BYTES: usize = 32;
        const WARPS: usize = 4;
        // Wider accesses take so many registers that too few threads are there to wait for memory.
        let vector = vector_of(self.element, width, 8);
        let function = operator_of(&self.gpu, self.element, vector, name)?;
        let most = SECTOR_BYTES / (vector * self.element.bytes());
        let vectors = width / vector;
        let parts = vectors.div_ceil(vectors.next_power_of_two().min(most));
        operands.list = address(stream, &self.longest_first);
        operands.mode = self.long_rows as i32;
        let short_rows = self.rows - self.long_rows;
        let blocks = self.long_rows * parts + (short_rows * parts).div_ceil(WARPS);
        // SAFETY: the caller's promise.
        unsafe { launch_of(stream, &function, &operands, blocks, 32 * WARPS as u32) }
    }

    /// [`crate::jagged_softmax_backward`]: `y`, `dy` and `dx` are `[T, width]`.
    ///
    /// # Safety
    /// As for [`GpuOperators::softmax`].
    pub unsafe fn softmax_backward(
        &self,
        stream: &Arc<CudaStream>,
        width: usize,
        y: u64,
        dy: u64,
        dx: u64,
    ) -> Result<(), JaggedError> {
        let operands = Operands { x: y, y: dy, out: dx, ..self.operands(stream, width)? };
        // SAFETY: the caller's promise.
        unsafe {
            self.clear(stream, dx, width)?;
            self.softmax_of(stream, "softmax_backward", operands, width)
        }
    }

    unsafe fn padded(
        &self,
        stream: &Arc<CudaStream>,
        width: usize,
        operands: Operands,
    ) -> Result<(), JaggedError> {
        let function = operator(&self.gpu, self.element, width, "padded")?;
        // SAFETY: the caller's promise.
        unsafe { launch(stream, &function, &operands, (self.rows * self.max_len).div_ceil(8)) }
    }

    /// [`crate::jagged_to_padded_dense`]: `x [T, width]` to `dense [B, N, width]`.
    ///
    /// # Safety
    /// As for [`GpuOperators::softmax`].
    pub unsafe fn to_padded(
        &self,
        stream: &Arc<CudaStream>,
        width: usize,
        x: u64,
        padding: f32,
        dense: u64,
    ) -> Result<(), JaggedError> {
        let operands = Operands { x, out: dense, padding, ..self.operands(stream, width)? };
        // SAFETY: the caller's promise.
        unsafe { self.padded(stream, width, operands) }
    }

    /// [`crate::dense_to_jagged`]: `dense [B, N, width]` to `x [T, width]`.
    ///
    /// # Safety
    /// As for [`GpuOperators::softmax`].
    pub unsafe fn to_jagged(
        &self,
        stream: &Arc<CudaStream>,
        width: usize,
        dense: u64,
        x: u64,
    ) -> Result<(), JaggedError> {
        let operands = Operands { y: dense, out: x, mode: 1, ..self.operands(stream, width)? };
        // SAFETY: the caller's promise.
        unsafe {
            self.clear(stream, x, width)?;
            self.padded(stream, width, operands)
        }
    }

    /// [`crate::jagged_dense_elementwise`], `dense_output` says which of the two outputs:
    /// `x [T, width]`, `y [B, N, width]`, `z` as the one or the other.
    ///
    /// # Safety
    /// As for [`GpuOperators::softmax`].
    pub unsafe fn elementwise(
        &self,
        stream: &Arc<CudaStream>,
        operation: Elementwise,
        dense_output: bool,
        width: usize,
        [x, y, z]: [u64; 3],
    ) -> Result<(), JaggedError> {
        let multiply = i32::from(operation == Elementwise::Multiply);
        let mode = if dense_output { 4 } else { 2 } + multiply;
        let operands = Operands { x, y, out: z, mode, ..self.operands(stream, width)? };
        // SAFETY: the caller's promise.
        unsafe {
            if !dense_output {
                self.clear(stream, z, width)?;
            }
            self.padded(stream, width, operands)
        }
    }

    /// [`crate::jagged_dense_elementwise_backward`] for jagged outputs: `x`, `dz` and `dx` are
    /// `[T, width]`, `y` and `dy` `[B, N, width]`.
    ///
    /// # Safety
    /// As for [`GpuOperators::softmax`].
    pub unsafe fn elementwise_backward(
        &self,
        stream: &Arc<CudaStream>,
        operation: Elementwise,
        width: usize,
        [x, y, dz]: [u64; 3],
        [dx, dy]: [u64; 2],
    ) -> Result<(), JaggedError> {
        // SAFETY: the caller's promise; dx has the size of dz.
        unsafe {
            if operation == Elementwise::Add {
                // Through the padded gradient, so that cut positions become zero.
                self.to_padded(stream, width, dz, 0.0, dy)?;
                return self.to_jagged(stream, width, dy, dx);
            }
            self.clear(stream, dx, width)?;
            let operands = self.operands(stream, width)?;
            let operands = Operands { x, y, z: dz, out: dx, out_2: dy, mode: 6, ..operands };
            self.padded(stream, width, operands)
        }
    }
}
