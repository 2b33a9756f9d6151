//! Products of jagged and dense matrices by Hopper's warpgroup products.

use std::cmp::Reverse;
use std::sync::Arc;

use cudarc::driver::{CudaFunction, CudaSlice, CudaStream, DeviceRepr, LaunchConfig};

use super::arguments::TensorMap;
use super::compile::Source;
use super::device::{Gpu, driver};
use super::launch::{address, launch_early};
use super::options::GpuElement;
use crate::{JaggedError, Offsets};

/// Tokens of a slice, `TOKENS` in the kernels.
const TOKENS: usize = 64;
/// Shared memory that a multiprocessor gives to dynamic allocations, with room for the rest.
const SHARED_BYTES: usize = 226 * 1024;

/// The twin of `Task` in `kernels/hopper_products.cuh`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Task {
    row: i32,
    column: i32,
    token: i32,
    tokens: i32,
}

/// The twin of `Products` there.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Products {
    out: u64,
    tasks: u64,
    counter: u64,
    count: i32,
    terms: i32,
    columns: i32,
}

// SAFETY: `repr(C)`, plain numbers, the layouts of the structs in the kernels.
unsafe impl DeviceRepr for Task {}
// SAFETY: as above.
unsafe impl DeviceRepr for Products {}

/// Which operand is where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Jagged times dense, or times its transpose.
    Dense { transposed: bool },
    /// The transpose of jagged times jagged.
    Jagged,
}

/// What the kernels are compiled for.
#[derive(Debug, Clone, Copy)]
struct Shape {
    form: Form,
    /// Rounded up to whole panels of 64.
    terms: usize,
    /// Of a tile.
    columns: usize,
    groups: usize,
    stages: usize,
    shared_bytes: usize,
}

/// The source and definitions of the kernels for some usual sizes.
pub(super) fn usual(element: GpuElement) -> Vec<(Source, Vec<String>)> {
    let forms = [Form::Dense { transposed: false }, Form::Dense { transposed: true }, Form::Jagged];
    let shapes = [[64, 64], [128, 128], [256, 64]].into_iter().flat_map(|[terms, columns]| {
        forms.into_iter().filter_map(move |form| Shape::of(form, terms, columns))
    });
    shapes.map(|shape| (shape.form.source(), shape.definitions(element))).collect()
}

impl Form {
    fn source(self) -> Source {
        if self == Self::Jagged { Source::HopperJagged } else { Source::HopperDense }
    }
}

impl Shape {
    /// None where the operands do not fit the kernels.
    fn of(form: Form, terms: usize, columns: usize) -> Option<Self> {
        if terms == 0 || columns == 0 || !terms.is_multiple_of(8) || !columns.is_multiple_of(8) {
            return None;
        }
        let terms = terms.next_multiple_of(64);
        let columns = if columns <= 64 { 64 } else { 128 };
        if terms > 256 {
            return None;
        }
        // Elements of a slice and of what else lies in shared memory.
        let (groups, most, slice, kept) = match form {
            Form::Dense { .. } => (2, 8, TOKENS * terms, 2 * terms * columns),
            // (Two and four stages measured up to 2 % slower, and so did two blocks beside each other.)
            Form::Jagged => (terms / 64, 3, TOKENS * (terms + columns), 0),
        };
        let fixed = 1024 + 2 * (kept + groups * 64 * (columns + 8));
        let mut stages = (SHARED_BYTES.checked_sub(fixed)? / (2 * slice)).min(most);
        if form != Form::Jagged {
            // The kernel deals stages evenly to groups.
            stages -= stages % groups;
        }
        let shared_bytes = fixed + 2 * stages * slice;
        (stages >= 2).then_some(Self { form, terms, columns, groups, stages, shared_bytes })
    }

    fn definitions(&self, element: GpuElement) -> Vec<String> {
        let mut values = vec![
            ("ELEMENT", element.code() as usize),
            ("TERMS", self.terms),
            ("COLUMNS", self.columns),
            ("STAGES", self.stages),
            ("GROUPS", self.groups),
        ];
        if let Form::Dense { transposed } = self.form {
            values.push(("Y_TRANSPOSED", usize::from(transposed)));
        }
        values.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }
}

/// A planned `jagged_dense_bmm` or `jagged_jagged_bmm`.
#[derive(Debug)]
pub(super) struct HopperProduct {
    function: CudaFunction,
    shape: Shape,
    bfloat: bool,
    /// Rows, tokens, terms and columns of the operands.
    sizes: [usize; 4],
    tasks: CudaSlice<Task>,
    counter: CudaSlice<u32>,
    count: usize,
    processors: usize,
}

impl HopperProduct {
    /// None where these kernels cannot run, or would read far more than there is: a slice is of
    /// 64 tokens however short a row.
    pub(super) fn new(
        gpu: &Gpu,
        element: GpuElement,
        offsets: &Offsets,
        [terms, columns]: [usize; 2],
        form: Form,
    ) -> Result<Option<Self>, JaggedError> {
        const MEAN: usize = 32;
        let rows = offsets.rows();
        let fits = gpu.is_hopper()
            && element != GpuElement::F32
            && rows > 0
            && offsets.total() >= MEAN * rows
            && offsets.total() <= i32::MAX as usize
            && rows <= i32::MAX as usize;
        let Some(shape) = fits.then(|| Shape::of(form, terms, columns)).flatten() else {
            return Ok(None);
        };
        // A long row is cut, so that blocks end together. (256 took up to 4 % longer than 1024.)
        let most = 1024;
        let mut tasks = Vec::new();
        for row in 0..rows {
            let (start, length) = (offsets.range(row).start, offsets.length(row));
            let (pieces, each) = match form {
                Form::Jagged => (1, length),
                Form::Dense { .. } => {
                    let pieces = length.div_ceil(most);
                    (pieces, length.div_ceil(pieces.max(1)).next_multiple_of(TOKENS))
                }
            };
            for piece in 0..pieces {
                for column in (0..columns).step_by(shape.columns) {
                    tasks.push(Task {
                        row: row as i32,
                        column: column as i32,
                        token: (start + piece * each) as i32,
                        tokens: each.min(length.saturating_sub(piece * each)) as i32,
                    });
                }
            }
        }
        if form != Form::Jagged {
            tasks.retain(|task| task.tokens > 0);
        }
        // The largest first; equal ones keep their order, and with it their cache.
        tasks.sort_by_key(|task| Reverse(task.tokens));
        let count = tasks.len();
        if i32::try_from(count).is_err() {
            return Ok(None);
        }
        tasks.resize(count.max(1), Task::default());
        let name = if form == Form::Jagged { "hopper_jagged" } else { "hopper_dense" };
        let (definitions, shared_bytes) = (shape.definitions(element), shape.shared_bytes as u32);
        let function = gpu.kernel(form.source(), definitions, name, shared_bytes)?;
        let stream = gpu.stream();
        let (tasks, counter) = (
            stream.clone_htod(&tasks).map_err(driver)?,
            stream.alloc_zeros::<u32>(1).map_err(driver)?,
        );
        // A call on another stream, or one that starts early, finds them there.
        stream.synchronize().map_err(driver)?;
        Ok(Some(Self {
            function,
            shape,
            bfloat: element == GpuElement::Bf16,
            sizes: [rows, offsets.total(), terms, columns],
            tasks,
            counter,
            count,
            processors: gpu.processors() as usize,
        }))
    }

    /// # Safety
    /// As for [`super::GpuProduct::run`].
    pub(super) unsafe fn run(
        &self,
        stream: &Arc<CudaStream>,
        [a, b, c]: [u64; 3],
    ) -> Result<(), JaggedError> {
        if self.count == 0 {
            return Ok(());
        }
        let [rows, tokens, terms, columns] = self.sizes;
        let slices = TOKENS as u32;
        let map_a = TensorMap::new(a, self.bfloat, [tokens, 1, terms], slices)?;
        let map_b = match self.shape.form {
            Form::Jagged => TensorMap::new(b, self.bfloat, [tokens, 1, columns], slices)?,
            Form::Dense { transposed: false } => {
                let whole = self.shape.terms as u32;
                TensorMap::of_matrices(b, self.bfloat, [rows, terms, columns], whole)?
            }
            Form::Dense { transposed: true } => {
                let whole = self.shape.columns as u32;
                TensorMap::of_matrices(b, self.bfloat, [rows, columns, terms], whole)?
            }
        };
        let products = Products {
            out: c,
            tasks: address(stream, &self.tasks),
            counter: address(stream, &self.counter),
            count: self.count as i32,
            terms: terms as i32,
            columns: columns as i32,
        };
        let grid = self.count.min(self.processors);
        let config = LaunchConfig {
            grid_dim: (grid as u32, 1, 1),
            block_dim: (128 * self.shape.groups as u32 + 32, 1, 1),
            shared_mem_bytes: self.shape.shared_bytes as u32,
        };
        let mut arguments = [
            (&raw const products).cast_mut().cast(),
            (&raw const map_a).cast_mut().cast(),
            (&raw const map_b).cast_mut().cast(),
        ];
        // SAFETY: arguments match the kernel's, addresses are the caller's promise.
        unsafe { launch_early(stream, &self.function, config, &mut arguments, true) }
    }
}
