//! Batched products of jagged and dense matrices on a GPU.

use std::cmp::Reverse;
use std::sync::Arc;

use cudarc::driver::result::memset_d8_async;
use cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, DeviceRepr, LaunchConfig, PushKernelArg,
};

use super::compile::{Source, gpu_error};
use super::device::{Gpu, driver};
use super::hopper_products::{Form, HopperProduct};
use super::launch::address;
use super::options::{GpuElement, GpuPath};
use crate::{JaggedError, Offsets, product_offsets};

/// The twin of `Task` in `kernels/products.cu`: an `[m, k] x [k, n]` product, or the part of one
/// from a tile's corner on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C, align(16))]
struct Task {
    a: i64,
    b: i64,
    c: i64,
    m: i32,
    n: i32,
    k: i32,
    a_i: i32,
    a_l: i32,
    b_l: i32,
    b_j: i32,
    c_i: i32,
}

/// The twin of `Products` there.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Products {
    a: u64,
    b: u64,
    c: u64,
    tasks: u64,
    first: u64,
}

// SAFETY: `repr(C)`, plain numbers, the layouts of the structs in the kernels.
unsafe impl DeviceRepr for Task {}
// SAFETY: as above.
unsafe impl DeviceRepr for Products {}

/// A planned list of products `C_b = A_b B_b`, sums in f32.
///
/// bf16 and f16 matrices whose rows are multiples of 16 bytes are multiplied by tensor
/// cores, all others by ordinary ones; Hopper has kernels of its own for jagged with dense and
/// jagged with jagged up to 256 terms, where rows have 32 tokens in the mean. The plan holds the list of tiles; a call launches
/// and allocates nothing. Addresses are multiples of 16 bytes.
#[derive(Debug)]
pub struct GpuProduct {
    kernel: Kernel,
    /// Bytes of the output that are zeroed first, because products do not cover it.
    clear: usize,
}

#[derive(Debug)]
enum Kernel {
    Hopper(HopperProduct),
    Tiles(Tiles),
}

/// Tiles of products, on any GPU.
#[derive(Debug)]
struct Tiles {
    function: CudaFunction,
    tasks: CudaSlice<Task>,
    /// Each block's first task, and the end.
    first: CudaSlice<i32>,
    blocks: usize,
    shared_bytes: u32,
    tensor_cores: bool,
}

impl Task {
    /// What is left of the product from a tile's corner on.
    fn from(&self, i0: i32, j0: i32) -> Self {
        let (i, j) = (i64::from(i0), i64::from(j0));
        Self {
            a: self.a + i * i64::from(self.a_i),
            b: self.b + j * i64::from(self.b_j),
            c: self.c + i * i64::from(self.c_i) + j,
            m: self.m - i0,
            n: self.n - j0,
            ..*self
        }
    }
}

/// Deals tiles to blocks in turn; returns them block by block, with each block's first and the end.
fn dealt(tiles: &[Task], blocks: usize) -> (Vec<Task>, Vec<i32>) {
    let (mut tasks, mut first) = (Vec::with_capacity(tiles.len()), vec![0]);
    for block in 0..blocks {
        tasks.extend(tiles.iter().skip(block).step_by(blocks));
        first.push(tasks.len() as i32);
    }
    (tasks, first)
}

/// A size or stride, which problems hold in 32 bits.
fn small(size: usize) -> Result<i32, JaggedError> {
    i32::try_from(size)
        .map_err(|_| gpu_error(format!("a matrix of {size} rows or columns is too large")))
}

/// The plan for Hopper where that is possible and no other path is asked for.
fn hopper(
    gpu: &Gpu,
    element: GpuElement,
    offsets: &Offsets,
    sizes: [usize; 2],
    form: Form,
    path: Option<GpuPath>,
) -> Result<Option<HopperProduct>, JaggedError> {
    if path.is_some_and(|path| path != GpuPath::Wgmma) {
        return Ok(None);
    }
    HopperProduct::new(gpu, element, offsets, sizes, form)
}

impl GpuProduct {
    fn new(
        gpu: &Gpu,
        element: GpuElement,
        problems: Vec<Task>,
        clear: usize,
        path: Option<GpuPath>,
    ) -> Result<Self, JaggedError> {
        let work: Vec<&Task> = problems.iter().filter(|p| p.m > 0 && p.n > 0).collect();
        let a_transposed = work.iter().all(|p| p.a_i == 1) && work.iter().any(|p| p.a_l != 1);
        let b_transposed = work.iter().all(|p| p.b_l == 1) && work.iter().any(|p| p.b_j != 1);
        let whole = |values: [i64; 3]| values.iter().all(|value| value % 8 == 0);
        let tensor_cores = element != GpuElement::F32
            && path != Some(GpuPath::Plain)
            && work.iter().all(|p| {
                let (a_unit, a_pitch, a_row) =
                    if a_transposed { (p.a_i, p.a_l, p.m) } else { (p.a_l, p.a_i, p.k) };
                let (b_unit, b_pitch, b_row) =
                    if b_transposed { (p.b_l, p.b_j, p.k) } else { (p.b_j, p.b_l, p.n) };
                a_unit == 1
                    && b_unit == 1
                    && whole([p.a, i64::from(a_pitch), i64::from(a_row)])
                    && whole([p.b, i64::from(b_pitch), i64::from(b_row)])
                    && whole([p.c, i64::from(p.c_i), i64::from(p.n)])
            });
        let found = if tensor_cores { GpuPath::Mma } else { GpuPath::Plain };
        if let Some(path) = path.filter(|&path| path != found) {
            return Err(gpu_error(format!("these products cannot take the path {path}")));
        }
        let columns = if work.iter().all(|p| p.n <= 64) { 64 } else { 128 };
        let (tile_m, tile_n) = if tensor_cores { (128, columns) } else { (32, 32) };
        let mut definitions = vec![format!("ELEMENT={}", element.code())];
        let mut shared_bytes = 0;
        let name = if tensor_cores {
            definitions.extend([
                "PLAIN=0".into(),
                format!("COLUMNS={columns}"),
                format!("A_TRANSPOSED={}", u32::from(a_transposed)),
                format!("B_TRANSPOSED={}", u32::from(b_transposed)),
            ]);
            let a = if a_transposed { 32 * 136 } else { 128 * 40 };
            let columns = columns as u32;
            let b = if b_transposed { columns * 40 } else { 32 * (columns + 8) };
            let stages = if b_transposed && !a_transposed { 3 } else { 4 };
            shared_bytes = 2 * (stages * (a + b) + 128 * (columns + 8));
            "product_mma"
        } else {
            definitions.push("PLAIN=1".into());
            "product_plain"
        };
        let function = gpu.kernel(Source::Products, definitions, name, shared_bytes)?;
        let mut tasks = Vec::new();
        for p in &problems {
            for i0 in (0..p.m).step_by(tile_m) {
                let rows = (p.m - i0).min(tile_m as i32);
                tasks.extend((0..p.n).step_by(tile_n).map(|j0| Task { m: rows, ..p.from(i0, j0) }));
            }
        }
        if tasks.len() > i32::MAX as usize {
            return Err(gpu_error("at most 2^31 - 1 tiles fit one call"));
        }
        // Tiles of equal depth are dealt in turn to blocks that stay, so that blocks read neighbouring
        // tiles at the same time; where depths differ, a block a tile, the deepest first, is dealt
        // better by the device. (Consecutive tiles for a block took a fifth longer on an H200, equal
        // bytes for a block a tenth.)
        let even = tensor_cores && work.iter().all(|p| p.k == work[0].k);
        let blocks = if even {
            let each = if columns == 64 && a_transposed { 3 } else { 2 };
            tasks.len().min(gpu.processors() as usize * each)
        } else {
            // Equal ones keep their order, and with it their cache.
            tasks.sort_by_key(|task| Reverse(task.k));
            tasks.len()
        };
        let (mut tasks, first) = dealt(&tasks, blocks);
        tasks.resize(tasks.len().max(1), Task::default());
        let tiles = Tiles {
            function,
            tasks: gpu.upload(&tasks)?,
            first: gpu.upload(&first)?,
            blocks,
            shared_bytes,
            tensor_cores,
        };
        Ok(Self { kernel: Kernel::Tiles(tiles), clear: clear * element.bytes() })
    }

    /// [`crate::jagged_dense_bmm`]: `x [T, K]`, `y [B, K, M]` (or `[B, M, K]`), `z [T, M]`.
    pub fn dense(
        gpu: &Gpu,
        element: GpuElement,
        offsets: &Offsets,
        sizes: [usize; 2],
        y_transposed: bool,
    ) -> Result<Self, JaggedError> {
        Self::dense_by(gpu, element, offsets, sizes, y_transposed, None)
    }

    /// The same by a path; an error where that cannot run.
    pub fn dense_by(
        gpu: &Gpu,
        element: GpuElement,
        offsets: &Offsets,
        [k, columns]: [usize; 2],
        y_transposed: bool,
        path: Option<GpuPath>,
    ) -> Result<Self, JaggedError> {
        let (k_, m) = (small(k)?, small(columns)?);
        let clear = if offsets.truncates() { offsets.total() * columns } else { 0 };
        let form = Form::Dense { transposed: y_transposed };
        if let Some(product) = hopper(gpu, element, offsets, [k, columns], form, path)? {
            return Ok(Self { kernel: Kernel::Hopper(product), clear: clear * element.bytes() });
        }
        let mut problems = Vec::with_capacity(offsets.rows());
        for b in 0..offsets.rows() {
            let start = offsets.range(b).start;
            problems.push(Task {
                a: (start * k) as i64,
                b: (b * k * columns) as i64,
                c: (start * columns) as i64,
                m: small(offsets.length(b))?,
                k: k_,
                n: m,
                a_i: k_,
                a_l: 1,
                b_l: if y_transposed { 1 } else { m },
                b_j: if y_transposed { k_ } else { 1 },
                c_i: m,
            });
        }
        Self::new(gpu, element, problems, clear, path)
    }

    /// [`crate::jagged_jagged_bmm`]: `x [T, K]`, `y [T, M]`, `z [B, K, M]`, 0 for empty rows.
    pub fn jagged(
        gpu: &Gpu,
        element: GpuElement,
        offsets: &Offsets,
        sizes: [usize; 2],
    ) -> Result<Self, JaggedError> {
        Self::jagged_by(gpu, element, offsets, sizes, None)
    }

    /// The same by a path; an error where that cannot run.
    pub fn jagged_by(
        gpu: &Gpu,
        element: GpuElement,
        offsets: &Offsets,
        [k, columns]: [usize; 2],
        path: Option<GpuPath>,
    ) -> Result<Self, JaggedError> {
        let (k_, m) = (small(k)?, small(columns)?);
        let form = Form::Jagged;
        if let Some(product) = hopper(gpu, element, offsets, [k, columns], form, path)? {
            return Ok(Self { kernel: Kernel::Hopper(product), clear: 0 });
        }
        let mut problems = Vec::with_capacity(offsets.rows());
        for b in 0..offsets.rows() {
            let start = offsets.range(b).start;
            problems.push(Task {
                a: (start * k) as i64,
                b: (start * columns) as i64,
                c: (b * k * columns) as i64,
                m: k_,
                k: small(offsets.length(b))?,
                n: m,
                a_i: 1,
                a_l: k_,
                b_l: m,
                b_j: 1,
                c_i: m,
            });
        }
        Self::new(gpu, element, problems, 0, path)
    }

    /// [`crate::jagged_jagged_bmm_jagged_out`]: `x [T1, K]`, `y [T2, K]`, `z` the matrices
    /// `[M_b, N_b]`.
    pub fn jagged_out(
        gpu: &Gpu,
        element: GpuElement,
        rows: &Offsets,
        columns: &Offsets,
        k: usize,
    ) -> Result<Self, JaggedError> {
        let (products, k_) = (product_offsets(rows, columns)?, small(k)?);
        let mut problems = Vec::with_capacity(rows.rows());
        for b in 0..rows.rows() {
            let n = small(columns.length(b))?;
            problems.push(Task {
                a: (rows.range(b).start * k) as i64,
                b: (columns.range(b).start * k) as i64,
                c: products.range(b).start as i64,
                m: small(rows.length(b))?,
                k: k_,
                n,
                a_i: k_,
                a_l: 1,
                b_l: 1,
                b_j: k_,
                c_i: n,
            });
        }
        Self::new(gpu, element, problems, 0, None)
    }

    /// [`crate::array_jagged_bmm`]: matrices `[M_b, N_b]` of `rows` and `columns`, or their
    /// transposes, times `x`; the output has the rows of `rows` (of `columns` if transposed).
    pub fn array(
        gpu: &Gpu,
        element: GpuElement,
        rows: &Offsets,
        columns: &Offsets,
        a_transposed: bool,
        k: usize,
    ) -> Result<Self, JaggedError> {
        let (products, k_) = (product_offsets(rows, columns)?, small(k)?);
        let (out, inner) = if a_transposed { (columns, rows) } else { (rows, columns) };
        let mut problems = Vec::with_capacity(rows.rows());
        for b in 0..rows.rows() {
            let pitch = small(columns.length(b))?;
            problems.push(Task {
                a: products.range(b).start as i64,
                b: (inner.range(b).start * k) as i64,
                c: (out.range(b).start * k) as i64,
                m: small(out.length(b))?,
                k: small(inner.length(b))?,
                n: k_,
                a_i: if a_transposed { 1 } else { pitch },
                a_l: if a_transposed { pitch } else { 1 },
                b_l: k_,
                b_j: 1,
                c_i: k_,
            });
        }
        let clear = if out.truncates() { out.total() * k } else { 0 };
        Self::new(gpu, element, problems, clear, None)
    }

    /// [`crate::batched_dense_vec_jagged_2d_mul`] (`VectorProduct::Output`: `v`, `a` to `out`)
    /// or one of its gradients (`Vectors`: `dout`, `a` to `dv`; `Matrices`: `v`, `dout` to `da`).
    pub fn vectors(
        gpu: &Gpu,
        element: GpuElement,
        offsets: &Offsets,
        [heads, d]: [usize; 2],
        which: VectorProduct,
    ) -> Result<Self, JaggedError> {
        let max_len = offsets.max_len();
        let (d_, pitch) = (small(d)?, small(heads * d)?);
        let mut problems = Vec::with_capacity(offsets.rows() * heads);
        for b in 0..offsets.rows() {
            for h in 0..heads {
                let vector = ((b * heads + h) * max_len) as i64;
                let matrix = ((offsets.range(b).start * heads + h) * d) as i64;
                let (out, n) = (((b * heads + h) * d) as i64, small(offsets.length(b))?);
                let one = Task { m: 1, a_i: 1, a_l: 1, c_i: 1, ..Task::default() };
                problems.push(match which {
                    VectorProduct::Output => Task {
                        a: vector,
                        b: matrix,
                        c: out,
                        k: n,
                        n: d_,
                        b_l: pitch,
                        b_j: 1,
                        ..one
                    },
                    VectorProduct::Vectors => {
                        Task { a: out, b: matrix, c: vector, k: d_, n, b_l: 1, b_j: pitch, ..one }
                    }
                    VectorProduct::Matrices => Task {
                        a: vector,
                        b: out,
                        c: matrix,
                        m: n,
                        k: 1,
                        n: d_,
                        b_l: 1,
                        b_j: 1,
                        c_i: pitch,
                        ..one
                    },
                });
            }
        }
        let clear = match which {
            VectorProduct::Output => 0,
            VectorProduct::Vectors => offsets.rows() * heads * max_len,
            VectorProduct::Matrices if offsets.truncates() => offsets.total() * heads * d,
            VectorProduct::Matrices => 0,
        };
        Self::new(gpu, element, problems, clear, None)
    }

    /// The family of kernels that multiplies.
    pub fn path(&self) -> GpuPath {
        match &self.kernel {
            Kernel::Hopper(_) => GpuPath::Wgmma,
            Kernel::Tiles(tiles) if tiles.tensor_cores => GpuPath::Mma,
            Kernel::Tiles(_) => GpuPath::Plain,
        }
    }

    /// Writes the output from the left and the right operand.
    ///
    /// # Safety
    /// Addresses are device memory of the sizes of the CPU operator's buffers, valid until
    /// the stream has run the kernel, and no other stream writes them meanwhile. Calls of one
    /// plan follow each other, as on one stream: on Hopper it counts the tasks handed out.
    pub unsafe fn run(
        &self,
        stream: &Arc<CudaStream>,
        a: u64,
        b: u64,
        c: u64,
    ) -> Result<(), JaggedError> {
        if self.clear > 0 {
            // SAFETY: the caller's promise about the buffer's size.
            unsafe { memset_d8_async(c, 0, self.clear, stream.cu_stream()) }.map_err(driver)?;
        }
        match &self.kernel {
            // SAFETY: the caller's promise.
            Kernel::Hopper(product) => unsafe { product.run(stream, [a, b, c]) },
            // SAFETY: as above.
            Kernel::Tiles(tiles) => unsafe { tiles.run(stream, [a, b, c]) },
        }
    }
}

impl Tiles {
    /// # Safety
    /// As for [`GpuProduct::run`].
    unsafe fn run(&self, stream: &Arc<CudaStream>, [a, b, c]: [u64; 3]) -> Result<(), JaggedError> {
        if self.blocks == 0 {
            return Ok(());
        }
        let (tasks, first) = (address(stream, &self.tasks), address(stream, &self.first));
        let products = Products { a, b, c, tasks, first };
        let config = LaunchConfig {
            grid_dim: (self.blocks as u32, 1, 1),
            block_dim: (256, 1, 1),
            shared_mem_bytes: self.shared_bytes,
        };
        // SAFETY: the struct is the kernel's, its addresses are the caller's promise.
        unsafe { stream.launch_builder(&self.function).arg(&products).launch(config) }
            .map_err(driver)?;
        Ok(())
    }
}

/// Which product of a dense vector with a jagged matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VectorProduct {
    /// `out[b, h] = sum_i v[b, h, i] a_b[i, h]`.
    Output,
    /// `dv[b, h, i] = dout[b, h] . a_b[i, h]`.
    Vectors,
    /// `da_b[i, h] = v[b, h, i] dout[b, h]`.
    Matrices,
}
