//! The CPU executor: forward, backward and update of a program.
//!
//! A training step has three parallel phases, and no sum depends on how many
//! threads share them:
//!
//! 1. *Chunks.* The batch is cut into chunks of [`CHUNK_ROWS`] rows; each runs
//!    forward, loss and backward of all operators by itself, so activations
//!    stay in a core's cache and there is no barrier between operators. Small
//!    parameters (biases, norms, head) leave partial sums per chunk.
//! 2. *Weight gradients.* Every weight slice is cut into tiles of
//!    [`TILE_ROWS`] rows; a tile is one product over the whole batch, hence no
//!    reduction. Tables sum the gradients of equal rows in sample order.
//! 3. *Update.* Clip by the global norm and move the same tiles and rows.

use std::sync::atomic::Ordering;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::chunk::{Chunk, slice, slice_mut};
use crate::clock::{Clock, TimeSplit, kind};
use crate::fit::{Uses, check_forward, check_state};
use crate::memory::Zeroed;
use crate::ops::Op;
use crate::optimizer::{Optimizer, Rule};
use crate::params::ParamStore;
use crate::program::{GradSource, Program};
use crate::table_rows::{SumRows, TouchedRows, UpdateRows};
use crate::tables::Tables;
use crate::{EngineError, Real};

/// Name of the instruction set that kernels use on this processor.
pub fn instruction_set() -> &'static str {
    match Arch::new() {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        Arch::V4(_) => "x86-64-v4",
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        Arch::V3(_) => "x86-64-v3",
        _ => "portable",
    }
}

/// Rows of a chunk: large enough for full register tiles, small enough that a
/// layer's activations (128 x 1024 x 4 B) fit a second-level cache.
pub const CHUNK_ROWS: usize = 128;
/// Rows of a weight-gradient tile.
pub const TILE_ROWS: usize = 128;

/// A batch in the layout of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a, T> {
    /// Samples.
    pub rows: usize,
    /// `[rows, nd]`.
    pub dense: &'a [T],
    /// Rows of the tables, `[fields, rows]`.
    pub ids: &'a [u32],
    /// 0 or 1, `[rows]`; empty when only predictions are wanted.
    pub labels: &'a [f32],
    /// Sample weights, `[rows]`; empty for equal weights.
    pub weights: &'a [f32],
}

/// Weights and tables of a model.
pub struct Model<T> {
    /// Dense parameters.
    pub params: ParamStore<T>,
    /// Embedding tables.
    pub tables: Tables<T>,
}

/// Which parameters a step moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trainable {
    /// All that the program uses.
    Everything,
    /// All but the embedding tables.
    Network,
    /// The head alone; the rest runs forward only.
    Head,
}

/// Constants of one step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Number of the step, from 0 (bias correction, messages).
    pub index: u64,
    /// Learning rate.
    pub learning_rate: f64,
    /// The optimiser whose state the model holds.
    pub optimizer: Optimizer,
    /// Largest global gradient norm over all that moves.
    pub clip_norm: Option<f64>,
    /// What moves.
    pub trainable: Trainable,
}

/// A part of a weight slice: `rows` rows from `first`.
#[derive(Clone, Copy)]
struct Tile {
    slice: u32,
    first: u32,
    rows: u32,
}

/// Runs programs; owns the arenas, which the next program reuses.
pub struct Executor<T> {
    arch: Arch,
    values: Zeroed<T>,
    grads: Zeroed<T>,
    weight_grads: Zeroed<T>,
    partials: Zeroed<T>,
    scratch: Zeroed<T>,
    losses: Vec<f64>,
    tiles: Vec<Tile>,
    tile_squares: Vec<f64>,
    touched: Vec<TouchedRows<T>>,
    n_touched: usize,
    table_squares: Vec<f64>,
    logits: Vec<T>,
    uses: Uses,
    clock: Clock,
}

/// A pointer that threads may share because they write to disjoint places.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);
// SAFETY: every use below states why its accesses are disjoint.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    #[inline(always)]
    fn get(&self) -> *mut T {
        self.0
    }
}

struct RunChunk<'a, 'c, T> {
    chunk: &'a Chunk<'c, T>,
    mode: Mode,
    weight_sum: f64,
    clock: &'a Clock,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Forward,
    Gradients(Trainable),
}

impl<T: Real> WithSimd for RunChunk<'_, '_, T> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let ops = &self.chunk.program.ops;
        for op in ops {
            let start = self.clock.start();
            op.forward(simd, self.chunk);
            self.clock.stop(start, kind(op.work()));
        }
        let Mode::Gradients(trainable) = self.mode else { return 0.0 };
        let loss = logit_gradients(self.chunk, self.weight_sum);
        match (trainable, ops.last()) {
            (Trainable::Head, Some(Op::Head(head))) => head.weight_partials(self.chunk),
            _ => {
                for op in ops.iter().rev() {
                    let start = self.clock.start();
                    op.backward(simd, self.chunk);
                    self.clock.stop(start, kind(op.work()));
                }
            }
        }
        loss
    }
}

/// Mean binary cross-entropy with logits: `loss = sum_r w_r (softplus(z_r) - y_r z_r) / sum w`,
/// `dz_r = w_r (sigmoid(z_r) - y_r) / sum w`. Returns this chunk's part of the sum.
#[inline(always)]
fn logit_gradients<T: Real>(chunk: &Chunk<'_, T>, weight_sum: f64) -> f64 {
    let Some(Op::Head(head)) = chunk.program.ops.last() else { return 0.0 };
    let (z, stride) = chunk.rows_of(head.out);
    let (dz, _) = chunk.row_grads_of(head.out);
    let mut loss = 0.0;
    for r in 0..chunk.rows {
        let row = chunk.first + r;
        let label = f64::from(chunk.batch.labels[row]);
        let weight = chunk.batch.weights.get(row).map_or(1.0, |&w| f64::from(w));
        // SAFETY: row `r` of the logits.
        unsafe {
            let logit = (*z.add(r * stride)).to_f64();
            let tail = (-logit.abs()).exp();
            loss += weight * (logit.max(0.0) - logit * label + tail.ln_1p());
            let probability = if logit >= 0.0 { 1.0 / (1.0 + tail) } else { tail / (1.0 + tail) };
            *dz.add(r * stride) = T::from_f64(weight * (probability - label) / weight_sum);
        }
    }
    loss
}

struct RunTile<'a, 'c, T> {
    batch: &'a Chunk<'c, T>,
    tile: Tile,
    weight_grads: *mut T,
    chunks: usize,
}

impl<T: Real> WithSimd for RunTile<'_, '_, T> {
    type Output = f64;

    /// Fills the tile of the gradient and returns its sum of squares.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let program = self.batch.program;
        let target = &program.slices[self.tile.slice as usize];
        let (first, rows) = (self.tile.first as usize, self.tile.rows as usize);
        // SAFETY: the tile's rows lie within the slice's gradient.
        let grad = unsafe { self.weight_grads.add(target.grad + first * target.grad_stride) };
        match target.source {
            GradSource::Partial { offset } => {
                for r in 0..rows {
                    // SAFETY: row `first + r` of the gradient and of every chunk's partial sums.
                    let sums = unsafe { slice_mut(grad.add(r * target.grad_stride), target.cols) };
                    sums.fill(T::ZERO);
                    for c in 0..self.chunks {
                        let start = c * program.partial_len + offset + (first + r) * target.cols;
                        let part = unsafe { slice(self.batch.partials.add(start), target.cols) };
                        crate::lanes::update(sums, part, |p, s| s + p);
                    }
                }
            }
            GradSource::Product { op, input } => match &program.ops[op as usize] {
                Op::Linear(op) => {
                    op.weight_gradient(
                        self.batch,
                        input as usize,
                        first,
                        rows,
                        grad,
                        target.grad_stride,
                    );
                }
                Op::FieldMix(op) => {
                    op.weight_gradient(
                        self.batch,
                        input as usize,
                        first,
                        rows,
                        grad,
                        target.grad_stride,
                    );
                }
                _ => unreachable!("only products have product gradients"),
            },
        }
        let mut squares = 0.0;
        for r in 0..rows {
            // SAFETY: as above.
            let row = unsafe { slice(grad.add(r * target.grad_stride), target.cols) };
            squares += sum_of_squares(row);
        }
        squares
    }
}

#[inline(always)]
pub(crate) fn sum_of_squares<T: Real>(row: &[T]) -> f64 {
    crate::lanes::sum2(row, row, |x, y, acc| x.mul_add(y, acc)).to_f64()
}

struct UpdateTile<'a, T> {
    program: &'a Program,
    params: &'a crate::params::ParamLayout,
    tile: Tile,
    weight_grads: *const T,
    values: *mut T,
    state: [*mut T; 2],
    rule: Rule<T>,
    scale: T,
}

impl<T: Real> WithSimd for UpdateTile<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let target = &self.program.slices[self.tile.slice as usize];
        let spec = self.params.spec(target.param);
        for r in self.tile.first as usize..(self.tile.first + self.tile.rows) as usize {
            let start = spec.offset + r * spec.stride;
            // SAFETY: tiles of one program are disjoint, since a parameter occurs in one slice
            // (`Uses::check_gradients`).
            unsafe {
                let state = self.state.map(|state| {
                    if state.is_null() {
                        slice_mut(self.values, 0)
                    } else {
                        slice_mut(state.add(start), target.cols)
                    }
                });
                let [first, second] = state;
                let grads =
                    slice(self.weight_grads.add(target.grad + r * target.grad_stride), target.cols);
                self.rule.apply(
                    slice_mut(self.values.add(start), target.cols),
                    first,
                    second,
                    grads,
                    self.scale,
                );
            }
        }
    }
}

impl<T: Real> Default for Executor<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Real> Executor<T> {
    /// An executor for the best instruction set of this processor.
    pub fn new() -> Self {
        let empty = || {
            Zeroed::new(0).unwrap_or_else(|_| unreachable!("nothing is allocated for no elements"))
        };
        Self {
            arch: Arch::new(),
            values: empty(),
            grads: empty(),
            weight_grads: empty(),
            partials: empty(),
            scratch: empty(),
            losses: Vec::new(),
            tiles: Vec::new(),
            tile_squares: Vec::new(),
            touched: Vec::new(),
            n_touched: 0,
            table_squares: Vec::new(),
            logits: Vec::new(),
            uses: Uses::default(),
            clock: Clock::default(),
        }
    }

    /// Starts or stops measuring [`TimeSplit`].
    pub fn measure(&mut self, on: bool) {
        self.clock.on = on;
    }

    /// Time measured so far.
    pub fn time_split(&self) -> TimeSplit {
        let [products, attention, embedding, update, other] =
            [0, 1, 2, 3, 4].map(|i| self.clock.nanos[i].load(Ordering::Relaxed));
        TimeSplit { products, attention, embedding, update, other }
    }

    /// Logits of a batch, `[rows]`.
    ///
    /// # Errors
    /// A program, model and batch that do not fit, ids outside their tables, and memory.
    pub fn forward(
        &mut self,
        model: &Model<T>,
        program: &mut Program,
        batch: &Batch<'_, T>,
    ) -> Result<&[T], EngineError> {
        self.prepare(model, program, batch)?;
        self.run_chunks(model, program, batch, Mode::Forward);
        self.read_logits(program, batch.rows);
        Ok(&self.logits)
    }

    /// One optimiser step; returns the mean loss before it.
    ///
    /// # Errors
    /// [`EngineError::Diverged`] when loss or gradient is not finite (nothing is updated then),
    /// a program, model and batch that do not fit, ids outside their tables, and memory.
    pub fn train_step(
        &mut self,
        model: &mut Model<T>,
        program: &mut Program,
        batch: &Batch<'_, T>,
        step: &Step,
    ) -> Result<f64, EngineError> {
        check_state(model, step.optimizer)?;
        let (loss, squares) = self.gradients(model, program, batch, step.trainable)?;
        if !loss.is_finite() {
            return Err(EngineError::Diverged { step: step.index, what: "loss" });
        }
        let norm = squares.sqrt();
        if !norm.is_finite() {
            return Err(EngineError::Diverged { step: step.index, what: "gradient norm" });
        }
        // PyTorch's clip_grad_norm_: the 1e-6 is part of the published training.
        let scale = step.clip_norm.map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0));
        self.update(model, program, step, T::from_f64(scale));
        Ok(loss)
    }

    /// Loss and squared gradient norm of a batch; the gradients stay in the executor.
    ///
    /// # Errors
    /// A program, model and batch that do not fit, ids outside their tables, and memory.
    pub fn gradients(
        &mut self,
        model: &Model<T>,
        program: &mut Program,
        batch: &Batch<'_, T>,
        trainable: Trainable,
    ) -> Result<(f64, f64), EngineError> {
        self.prepare(model, program, batch)?;
        self.uses.check_gradients(program, batch, trainable)?;
        self.weight_grads.reserve(program.grad_len)?;
        let weight_sum = self.run_chunks(model, program, batch, Mode::Gradients(trainable));
        let loss = self.losses.iter().sum::<f64>() / weight_sum;
        let first_slice = match trainable {
            Trainable::Everything | Trainable::Network => 0,
            Trainable::Head => program.first_head_slice,
        };
        self.list_tiles(program, first_slice);
        self.fill_weight_gradients(model, program, batch);
        self.n_touched = 0;
        if trainable == Trainable::Everything {
            self.sum_table_rows(program, batch);
        }
        let squares = self.tile_squares.iter().sum::<f64>()
            + self.table_squares[..self.n_touched].iter().sum::<f64>();
        Ok((loss, squares))
    }

    fn prepare(
        &mut self,
        model: &Model<T>,
        program: &mut Program,
        batch: &Batch<'_, T>,
    ) -> Result<(), EngineError> {
        if program.placed != Some(batch.rows) {
            program.place(batch.rows)?;
        }
        check_forward(model, program, batch)?;
        let chunks = batch.rows.div_ceil(CHUNK_ROWS);
        self.values.reserve(program.arena_len)?;
        self.grads.reserve(program.arena_len)?;
        self.partials.reserve(chunks * program.partial_len)?;
        self.scratch.reserve(chunks * program.scratch_len)?;
        self.losses.clear();
        self.losses.resize(chunks, 0.0);
        Ok(())
    }

    fn run_chunks(
        &mut self,
        model: &Model<T>,
        program: &Program,
        batch: &Batch<'_, T>,
        mode: Mode,
    ) -> f64 {
        let weight_sum = match batch.weights {
            [] => batch.rows as f64,
            weights => weights.iter().map(|&w| f64::from(w)).sum(),
        };
        let values = Shared(self.values.as_mut_slice().as_mut_ptr());
        let grads = Shared(self.grads.as_mut_slice().as_mut_ptr());
        let partials = Shared(self.partials.as_mut_slice().as_mut_ptr());
        let scratch = Shared(self.scratch.as_mut_slice().as_mut_ptr());
        let (arch, clock) = (self.arch, &self.clock);
        self.losses.par_iter_mut().enumerate().with_max_len(1).for_each(|(c, loss)| {
            let first = c * CHUNK_ROWS;
            // SAFETY: chunk `c` alone uses these partial sums and this scratch.
            let (partials, scratch) = unsafe {
                let partials = partials.get().add(c * program.partial_len);
                if mode != Mode::Forward {
                    slice_mut(partials, program.partial_len).fill(T::ZERO);
                }
                (partials, scratch.get().add(c * program.scratch_len))
            };
            let chunk = Chunk {
                program,
                params: &model.params,
                tables: &model.tables,
                batch,
                values: values.get(),
                grads: grads.get(),
                partials,
                scratch,
                first,
                rows: CHUNK_ROWS.min(batch.rows - first),
            };
            *loss = arch.dispatch(RunChunk { chunk: &chunk, mode, weight_sum, clock });
        });
        weight_sum
    }

    fn read_logits(&mut self, program: &Program, rows: usize) {
        self.logits.clear();
        if let Some(Op::Head(head)) = program.ops.last() {
            let buffer = program.buffer(head.out);
            let values = self.values.as_slice();
            self.logits.extend((0..rows).map(|r| values[buffer.offset + r * buffer.stride]));
        }
    }

    fn list_tiles(&mut self, program: &Program, first_slice: usize) {
        self.tiles.clear();
        for (i, slice) in program.slices.iter().enumerate().skip(first_slice) {
            for first in (0..slice.rows).step_by(TILE_ROWS) {
                let rows = TILE_ROWS.min(slice.rows - first) as u32;
                self.tiles.push(Tile { slice: i as u32, first: first as u32, rows });
            }
        }
        self.tile_squares.clear();
        self.tile_squares.resize(self.tiles.len(), 0.0);
    }

    fn fill_weight_gradients(&mut self, model: &Model<T>, program: &Program, batch: &Batch<'_, T>) {
        let values = Shared(self.values.as_mut_slice().as_mut_ptr());
        let grads = Shared(self.grads.as_mut_slice().as_mut_ptr());
        let partials = Shared(self.partials.as_mut_slice().as_mut_ptr());
        let weight_grads = Shared(self.weight_grads.as_mut_slice().as_mut_ptr());
        let (arch, clock, chunks) = (self.arch, &self.clock, self.losses.len());
        self.tiles.par_iter().zip(&mut self.tile_squares).with_max_len(1).for_each(
            |(&tile, squares)| {
                let batch = Chunk {
                    program,
                    params: &model.params,
                    tables: &model.tables,
                    batch,
                    values: values.get(),
                    grads: grads.get(),
                    partials: partials.get(),
                    scratch: std::ptr::null_mut(),
                    first: 0,
                    rows: batch.rows,
                };
                // SAFETY of the shared gradients: a tile writes its own rows only.
                let run = RunTile { batch: &batch, tile, weight_grads: weight_grads.get(), chunks };
                let start = clock.start();
                *squares = arch.dispatch(run);
                clock.stop(start, 0);
            },
        );
    }

    fn sum_table_rows(&mut self, program: &Program, batch: &Batch<'_, T>) {
        for op in &program.ops {
            let Op::Embedding(op) = op else { continue };
            let buffer = program.buffer(op.out);
            if !buffer.read {
                continue;
            }
            for f in 0..program.width(op.out) {
                if self.n_touched == self.touched.len() {
                    self.touched.push(TouchedRows {
                        table: 0,
                        buffer_field: (0, 0),
                        dim: 0,
                        keys: Vec::new(),
                        ids: Vec::new(),
                        sums: Vec::new(),
                    });
                }
                let touched = &mut self.touched[self.n_touched];
                touched.table = op.first_table + f;
                touched.buffer_field = (buffer.offset + f * buffer.stride, f);
                touched.dim = op.dim;
                touched.keys.reserve(batch.rows);
                touched.ids.reserve(batch.rows);
                touched.sums.reserve(batch.rows * op.dim);
                self.n_touched += 1;
            }
        }
        self.table_squares.resize(self.touched.len(), 0.0);
        let grads = Shared(self.grads.as_mut_slice().as_mut_ptr());
        let (arch, clock) = (self.arch, &self.clock);
        let touched = &mut self.touched[..self.n_touched];
        touched.par_iter_mut().zip(&mut self.table_squares).with_max_len(1).for_each(
            |(touched, squares)| {
                let (offset, field) = touched.buffer_field;
                let ids = &batch.ids[field * batch.rows..(field + 1) * batch.rows];
                // SAFETY: phase one is over; the gradients are read only.
                let grads = unsafe { grads.get().add(offset) }.cast_const();
                let start = clock.start();
                *squares = arch.dispatch(SumRows { touched, grads, ids });
                clock.stop(start, 2);
            },
        );
    }

    fn update(&mut self, model: &mut Model<T>, program: &Program, step: &Step, scale: T) {
        let rule = Rule::new(step.optimizer, step.learning_rate, step.index);
        let weight_grads = Shared(self.weight_grads.as_mut_slice().as_mut_ptr());
        let values = Shared(model.params.values.as_mut_slice().as_mut_ptr());
        let mut state = [Shared(std::ptr::null_mut()); 2];
        for (slot, array) in state.iter_mut().zip(&mut model.params.state) {
            *slot = Shared(array.as_mut_slice().as_mut_ptr());
        }
        let (arch, clock, layout) = (self.arch, &self.clock, model.params.layout());
        self.tiles.par_iter().with_max_len(1).for_each(|&tile| {
            let run = UpdateTile {
                program,
                params: layout,
                tile,
                weight_grads: weight_grads.get(),
                values: values.get(),
                state: [state[0].get(), state[1].get()],
                rule,
                scale,
            };
            let start = clock.start();
            arch.dispatch(run);
            clock.stop(start, 3);
        });
        let tables = Shared(model.tables.tables.as_mut_ptr());
        self.touched[..self.n_touched].par_iter().with_max_len(1).for_each(|touched| {
            // SAFETY: every touched entry names another table (`Uses::check_gradients`).
            let table = unsafe { &mut *tables.get().add(touched.table) };
            let stride = table.stride();
            let table = table.data.as_mut_slice().as_mut_ptr();
            let start = clock.start();
            arch.dispatch(UpdateRows { touched, table, stride, rule, scale });
            clock.stop(start, 2);
        });
    }

    /// The gradient of one slice after [`Executor::gradients`], rows of `cols` elements.
    pub fn slice_gradient<'a>(
        &'a self,
        program: &Program,
        id: crate::SliceId,
    ) -> impl Iterator<Item = &'a [T]> + 'a {
        let s = *program.weight_slice(id);
        let data = self.weight_grads.as_slice();
        (0..s.rows).map(move |r| &data[s.grad + r * s.grad_stride..][..s.cols])
    }

    /// Tables touched by the last batch: `(table, distinct rows, summed gradients)`.
    pub fn table_gradients(&self) -> impl Iterator<Item = (usize, &[u32], &[T])> {
        self.touched[..self.n_touched].iter().map(|t| (t.table, &t.ids[..], &t.sums[..]))
    }

    /// Overwrites all arenas with NaN, so that a test sees whatever is read before it was written.
    pub fn poison(&mut self) {
        for arena in [
            &mut self.values,
            &mut self.grads,
            &mut self.weight_grads,
            &mut self.partials,
            &mut self.scratch,
        ] {
            arena.as_mut_slice().fill(T::nan());
        }
    }
}
