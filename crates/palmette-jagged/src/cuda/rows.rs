//! Moving and adding rows on a GPU, and softmax of ragged matrices.

use std::sync::Arc;

use cudarc::driver::result::memset_d8_async;
use cudarc::driver::{CudaFunction, CudaSlice, CudaStream};

use super::compile::gpu_error;
use super::device::{Gpu, driver};
use super::launch::address;
use super::operators::{Operands, launch, operator};
use super::options::GpuElement;
use crate::error::check_equal;
use crate::{
    JaggedError, MatrixAxis, Offsets, cat_offsets, product_offsets, select_offsets, slice_offsets,
};

/// A planned movement of whole runs of elements, each `width` wide.
///
/// The plan holds the list of runs; a call launches and allocates nothing.
#[derive(Debug)]
pub struct GpuRows {
    function: CudaFunction,
    list: CudaSlice<i64>,
    blocks: usize,
    width: usize,
    /// Bytes of the output that are zeroed first, because runs do not cover it.
    clear: usize,
}

impl GpuRows {
    fn new(
        gpu: &Gpu,
        element: GpuElement,
        width: usize,
        runs: &[[i64; 3]],
        clear: usize,
    ) -> Result<Self, JaggedError> {
        // A long row is cut, so that no block has much more than the others.
        const MOST: i64 = 1024;
        let mut list = Vec::with_capacity(runs.len() * 3);
        for &[from, to, count] in runs {
            for start in (0..count).step_by(MOST as usize) {
                list.extend([from + start, to + start, (count - start).min(MOST)]);
            }
        }
        let blocks = list.len() / 3;
        if list.is_empty() {
            list.push(0);
        }
        Ok(Self {
            function: operator(gpu, element, width, "move_rows")?,
            list: gpu.upload(&list)?,
            blocks,
            width,
            clear: clear * width * element.bytes(),
        })
    }

    /// [`crate::jagged_index_select`] of rows `indices` of `offsets`.
    pub fn select(
        gpu: &Gpu,
        element: GpuElement,
        width: usize,
        offsets: &Offsets,
        indices: &[i64],
    ) -> Result<Self, JaggedError> {
        let selected = select_offsets(offsets, indices)?;
        let run = |(i, &index): (usize, &i64)| {
            let from = offsets.active(index as usize);
            [from.start as i64, selected.range(i).start as i64, from.len() as i64]
        };
        let runs: Vec<_> = indices.iter().enumerate().map(run).collect();
        Self::new(gpu, element, width, &runs, 0)
    }

    /// [`crate::jagged_slice`]; with `backward`, [`crate::jagged_slice_backward`].
    pub fn slice(
        gpu: &Gpu,
        element: GpuElement,
        width: usize,
        offsets: &Offsets,
        starts: &[usize],
        length: usize,
        backward: bool,
    ) -> Result<Self, JaggedError> {
        let sliced = slice_offsets(offsets, starts, length)?;
        let run = |b: usize| {
            let whole = (offsets.range(b).start + starts[b]) as i64;
            let part = sliced.range(b).start as i64;
            let count = sliced.length(b) as i64;
            if backward { [part, whole, count] } else { [whole, part, count] }
        };
        let runs: Vec<_> = (0..offsets.rows()).map(run).collect();
        Self::new(gpu, element, width, &runs, if backward { offsets.total() } else { 0 })
    }

    /// [`crate::jagged_cat`] of `parts`, whose values lie one after the other in one buffer.
    pub fn cat(
        gpu: &Gpu,
        element: GpuElement,
        width: usize,
        parts: &[&Offsets],
    ) -> Result<Self, JaggedError> {
        let whole = cat_offsets(parts)?;
        let mut runs = Vec::new();
        for b in 0..whole.rows() {
            let (mut first, mut to) = (0, whole.range(b).start);
            for part in parts {
                let from = part.active(b);
                runs.push([(first + from.start) as i64, to as i64, from.len() as i64]);
                to += from.len();
                first += part.total();
            }
        }
        Self::new(gpu, element, width, &runs, 0)
    }

    /// Writes `out` from `x`.
    ///
    /// # Safety
    /// Addresses are device memory of the sizes of the CPU operator's buffers, valid until
    /// the stream has run the kernel, and no other stream writes them meanwhile.
    pub unsafe fn run(
        &self,
        stream: &Arc<CudaStream>,
        x: u64,
        out: u64,
    ) -> Result<(), JaggedError> {
        let list = address(stream, &self.list);
        let operands = Operands { x, out, list, width: self.width as i32, ..Operands::default() };
        // SAFETY: the caller's promise.
        unsafe {
            if self.clear > 0 {
                memset_d8_async(out, 0, self.clear, stream.cu_stream()).map_err(driver)?;
            }
            launch(stream, &self.function, &operands, self.blocks)
        }
    }
}

/// [`crate::jagged_index_add`] planned: rows are added in the order of the indices, so the
/// result is the same bits in every run.
#[derive(Debug)]
pub struct GpuIndexAdd {
    function: CudaFunction,
    list: CudaSlice<i64>,
    targets: usize,
    width: usize,
}

impl GpuIndexAdd {
    /// Row `i` of `rows` is added to row `indices[i]` of `out_offsets`.
    pub fn new(
        gpu: &Gpu,
        element: GpuElement,
        width: usize,
        rows: &Offsets,
        indices: &[i64],
        out_offsets: &Offsets,
    ) -> Result<Self, JaggedError> {
        check_equal("the number of rows", rows.rows(), indices.len(), "the indices")?;
        let mut sources: Vec<Vec<i64>> = vec![Vec::new(); out_offsets.rows()];
        for (position, &index) in indices.iter().enumerate() {
            let row = usize::try_from(index).ok().filter(|&row| row < out_offsets.rows());
            let bound = out_offsets.rows();
            let row = row.ok_or(JaggedError::Index { position, index, bound })?;
            let (found, expected) = (rows.length(position), out_offsets.length(row));
            check_equal("the length of an added row", found, expected, "the row it is added to")?;
            sources[row].push(rows.active(position).start as i64);
        }
        let targets = out_offsets.rows();
        let mut list = Vec::new();
        let mut at = 4 * targets as i64;
        for (b, sources) in sources.iter().enumerate() {
            let count = sources.len() as i64;
            let out = out_offsets.active(b);
            list.extend([at, count, out.start as i64, out.len() as i64]);
            at += count;
        }
        list.extend(sources.iter().flatten());
        list.push(0);
        Ok(Self {
            function: operator(gpu, element, width, "add_rows")?,
            list: gpu.upload(&list)?,
            targets,
            width,
        })
    }

    /// Adds to `out` from `x`.
    ///
    /// # Safety
    /// As for [`GpuRows::run`].
    pub unsafe fn run(
        &self,
        stream: &Arc<CudaStream>,
        x: u64,
        out: u64,
    ) -> Result<(), JaggedError> {
        let list = address(stream, &self.list);
        let operands = Operands { x, out, list, width: self.width as i32, ..Operands::default() };
        // SAFETY: the caller's promise.
        unsafe { launch(stream, &self.function, &operands, self.targets) }
    }
}

/// [`crate::jagged2_softmax`] and its gradient planned.
#[derive(Debug)]
pub struct GpuMatrixSoftmax {
    function: CudaFunction,
    list: CudaSlice<i64>,
    count: usize,
}

impl GpuMatrixSoftmax {
    /// Over the matrices `[M_b, N_b]` of two sets of rows.
    pub fn new(
        gpu: &Gpu,
        element: GpuElement,
        rows: &Offsets,
        columns: &Offsets,
        axis: MatrixAxis,
    ) -> Result<Self, JaggedError> {
        let products = product_offsets(rows, columns)?;
        let mut list = Vec::new();
        for b in 0..products.rows() {
            let (start, m, n) =
                (products.range(b).start as i64, rows.length(b) as i64, columns.length(b) as i64);
            match axis {
                MatrixAxis::Columns => (0..m).for_each(|i| list.extend([start + i * n, n, 1])),
                MatrixAxis::Rows => (0..n).for_each(|j| list.extend([start + j, m, n])),
            }
        }
        let count = list.len() / 3;
        if count > i32::MAX as usize {
            return Err(gpu_error("at most 2^31 - 1 distributions fit one call"));
        }
        list.push(0);
        Ok(Self {
            function: operator(gpu, element, 1, "softmax_strided")?,
            list: gpu.upload(&list)?,
            count,
        })
    }

    fn operands(&self, stream: &Arc<CudaStream>) -> Operands {
        let list = address(stream, &self.list);
        Operands { list, rows: self.count as i64, width: 1, ..Operands::default() }
    }

    /// Writes `y` from `x`.
    ///
    /// # Safety
    /// As for [`GpuRows::run`].
    pub unsafe fn forward(
        &self,
        stream: &Arc<CudaStream>,
        x: u64,
        y: u64,
    ) -> Result<(), JaggedError> {
        let operands = Operands { x, out: y, ..self.operands(stream) };
        // SAFETY: the caller's promise.
        unsafe { launch(stream, &self.function, &operands, self.count.div_ceil(8)) }
    }

    /// Writes `dx` from the output `y` and its gradient `dy`.
    ///
    /// # Safety
    /// As for [`GpuRows::run`].
    pub unsafe fn backward(
        &self,
        stream: &Arc<CudaStream>,
        y: u64,
        dy: u64,
        dx: u64,
    ) -> Result<(), JaggedError> {
        let operands = Operands { x: y, y: dy, out: dx, mode: 1, ..self.operands(stream) };
        // SAFETY: the caller's promise.
        unsafe { launch(stream, &self.function, &operands, self.count.div_ceil(8)) }
    }
}
