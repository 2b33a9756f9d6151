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
use super::softmax::Softmax;
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
    let vector = vector_of(element, width);
    gpu.kernel(Source::Operators, definitions_of(element, vector), name, 0)
}

pub(super) fn definitions_of(element: GpuElement, vector: usize) -> Vec<String> {
    vec![format!("ELEMENT={}", element.code()), format!("VECTOR={vector}")]
}

/// Elements of the widest access, up to 16 bytes, that divides rows of `width`.
pub(super) fn vector_of(element: GpuElement, width: usize) -> usize {
    let most = 16 / element.bytes();
    [8, 4, 2].into_iter().find(|v| *v <= most && width.is_multiple_of(*v)).unwrap_or(1)
}

/// Launches `blocks` blocks of 256 threads; no block, no launch.
pub(super) unsafe fn launch(
    stream: &Arc<CudaStream>,
    function: &CudaFunction,
    operands: &Operands,
    blocks: usize,
) -> Result<(), JaggedError> {
    if blocks == 0 || operands.width == 0 {
        return Ok(());
    }
    let grid = u32::try_from(blocks)
        .ok()
        .filter(|&blocks| blocks <= i32::MAX as u32)
        .ok_or_else(|| gpu_error("an operator has at most 2^31 - 1 blocks of positions"))?;
    let config =
        LaunchConfig { grid_dim: (grid, 1, 1), block_dim: (256, 1, 1), shared_mem_bytes: 0 };
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
    softmax: Softmax,
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
        let plan = Self {
            gpu: gpu.clone(),
            element,
            offsets: stream.clone_htod(offsets.as_slice()).map_err(driver)?,
            softmax: Softmax::new(gpu, offsets)?,
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
        let shape = (self.element, width);
        // SAFETY: the caller's promise.
        unsafe {
            self.clear(stream, y, width)?;
            self.softmax.run(&self.gpu, stream, shape, "softmax_forward", [x, 0, y])
        }
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
        let shape = (self.element, width);
        // SAFETY: the caller's promise.
        unsafe {
            self.clear(stream, dx, width)?;
            self.softmax.run(&self.gpu, stream, shape, "softmax_backward", [y, dy, dx])
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
