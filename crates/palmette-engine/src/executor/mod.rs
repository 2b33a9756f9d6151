//! The CPU executor: forward, backward and update of a program.
//!
//! A training step has three parallel phases, and no sum depends on how many
//! threads share them:
//!
//! 1. *Chunks.* The batch is cut into chunks of [`CHUNK_ROWS`] rows; each runs
//!    forward, loss and backward of all operators by itself, so activations
//!    stay in a core's cache and there is no barrier between operators; those that
//!    no later phase reads are kept only while their chunk runs. Small
//!    parameters (biases, norms, head) leave partial sums per chunk. The
//!    weights are laid out for the products first.
//! 2. *Weight gradients.* Every weight slice is cut into tiles of
//!    [`TILE_ROWS`] rows; a tile is one product over the whole batch, hence no
//!    reduction. Tables sum the gradients of equal rows in sample order.
//! 3. *Update.* Clip by the global norm and move the same tiles and rows. A
//!    step without a clip moves every tile, and the rows of every table, in
//!    phase two, while their gradients are in the cache.

mod chunks;
mod heads;
mod panels;
mod sums;
mod tables;
mod tiles;

use std::ops::Range;
use std::sync::atomic::Ordering;

use pulp::Arch;

pub(crate) use chunks::RunChunk;
pub(crate) use tables::{SumRows, UpdateRows};
pub(crate) use tiles::{GradTile, RunTile, UpdateTile};

use crate::clock::{Clock, TimeSplit};
use crate::fit::{Uses, check_forward, check_single_head, check_state};
use crate::matmul::Precision;
use crate::memory::Zeroed;
use crate::optimizer::{Optimizer, Rule};
use crate::params::ParamStore;
use crate::program::{Program, slots};
use crate::tables::Tables;
use crate::{EngineError, Real};
use chunks::Mode;
use sums::Movers;
use tables::{RowMover, TouchedRows};
use tiles::{Mover, Tile};

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
    /// Features of varying length.
    pub lists: &'a [JaggedIds<'a>],
}

/// A list of a batch: row `r` has the values `ids[offsets[r]..offsets[r + 1]]`.
#[derive(Clone, Copy, Debug)]
pub struct JaggedIds<'a> {
    /// `[rows + 1]`, from 0 up to the number of values.
    pub offsets: &'a [usize],
    /// Rows of the table, one a value.
    pub ids: &'a [u32],
}

impl JaggedIds<'_> {
    /// Number of values and the most that a row has.
    fn extent(&self) -> (usize, usize) {
        let lengths = self.offsets.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
        (self.ids.len(), lengths.max().unwrap_or(0))
    }
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

/// Runs programs; owns the arenas, which the next program reuses.
pub struct Executor<T> {
    arch: Arch,
    precision: Precision,
    values: Zeroed<T>,
    grads: Zeroed<T>,
    weight_grads: Zeroed<T>,
    partials: Zeroed<T>,
    scratch: Zeroed<T>,
    /// Panels of weights, values and gradients.
    panels: [Zeroed<T>; 3],
    layouts: Vec<panels::Layout>,
    /// Chunks of the present batch, and how many run at a time: each has a slot in scratch and in
    /// buffers whose rows pass.
    chunks: usize,
    slots: usize,
    /// What each chunk adds to the loss of each head, `[chunks, heads]`.
    losses: Vec<f64>,
    tiles: Vec<Tile>,
    /// Which of the tiles are those of each head, where heads alone are trained.
    head_tiles: Vec<Range<usize>>,
    /// Tiles in the order in which they are begun.
    order: Vec<u32>,
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

/// What a gradient of this norm is multiplied by: PyTorch's `clip_grad_norm_`, whose 1e-6 is part of
/// the published training.
fn clipped<T: Real>(clip: f64, norm: f64) -> T {
    T::from_f64((clip / (norm + 1e-6)).min(1.0))
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
            precision: Precision::F32,
            values: empty(),
            grads: empty(),
            weight_grads: empty(),
            partials: empty(),
            scratch: empty(),
            panels: [empty(), empty(), empty()],
            layouts: Vec::new(),
            chunks: 0,
            slots: 0,
            losses: Vec::new(),
            tiles: Vec::new(),
            head_tiles: Vec::new(),
            order: Vec::new(),
            tile_squares: Vec::new(),
            touched: Vec::new(),
            n_touched: 0,
            table_squares: Vec::new(),
            logits: Vec::new(),
            uses: Uses::default(),
            clock: Clock::default(),
        }
    }

    /// Chooses the number type of matrix products, from the next step on.
    ///
    /// What this processor cannot do is [`Precision::F32`]: see [`Executor::precision`].
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = T::precision(precision);
    }

    /// The number type that matrix products have.
    pub fn precision(&self) -> Precision {
        self.precision
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
    /// A program with several heads; a program, model and batch that do not fit, ids outside their tables, and memory.
    pub fn forward(
        &mut self,
        model: &Model<T>,
        program: &mut Program,
        batch: &Batch<'_, T>,
    ) -> Result<&[T], EngineError> {
        check_single_head(program)?;
        self.run_forward(model, &model.params, program, batch)?;
        Ok(&self.logits)
    }

    fn run_forward(
        &mut self,
        model: &Model<T>,
        heads: &ParamStore<T>,
        program: &mut Program,
        batch: &Batch<'_, T>,
    ) -> Result<(), EngineError> {
        self.prepare(model, heads, program, batch, true)?;
        self.lay_out_weights(model, program, false)?;
        self.run_chunks(model, heads, program, batch, Mode::Forward);
        Ok(())
    }

    /// One optimiser step; returns the mean loss before it.
    ///
    /// # Errors
    /// [`EngineError::Diverged`] when loss or gradient is not finite: then nothing is updated, but
    /// for what moves without a clip where a gradient overflowed while the loss was finite;
    /// a program, model and batch that do not fit, ids outside their tables, and memory.
    pub fn train_step(
        &mut self,
        model: &mut Model<T>,
        program: &mut Program,
        batch: &Batch<'_, T>,
        step: &Step,
    ) -> Result<f64, EngineError> {
        check_state(model, step.optimizer)?;
        check_single_head(program)?;
        // Each phase would wake the pool's threads anew from outside.
        rayon::scope(|_| self.step(model, program, batch, step))
    }

    /// [`Executor::train_step`] on a thread of the pool.
    fn step(
        &mut self,
        model: &mut Model<T>,
        program: &mut Program,
        batch: &Batch<'_, T>,
        step: &Step,
    ) -> Result<f64, EngineError> {
        let weight_sum =
            self.chunk_gradients(model, &model.params, program, batch, step.trainable)?;
        let loss = self.losses.iter().sum::<f64>() / weight_sum;
        if !loss.is_finite() {
            return Err(EngineError::Diverged { step: step.index, what: "loss" });
        }
        let rule = Rule::new(step.optimizer, step.learning_rate, step.index);
        // Nothing waits for the norm: what has its gradient moves while that is in the cache.
        let at_once = step.clip_norm.is_none().then(|| Movers {
            tiles: Mover::new(&mut model.params, rule),
            rows: RowMover::new(model, rule, step.index, T::ONE),
        });
        let squares =
            self.sums_over_chunks(model, program, batch, step.trainable, at_once.as_ref());
        let norm = squares.sqrt();
        if !norm.is_finite() {
            return Err(EngineError::Diverged { step: step.index, what: "gradient norm" });
        }
        if let Some(clip) = step.clip_norm {
            let scale = clipped(clip, norm);
            let mover = Mover::new(&mut model.params, rule);
            let all = 0..self.tiles.len();
            self.update_tiles(model.params.layout(), program, all, mover, scale);
            self.update_rows(&RowMover::new(model, rule, step.index, scale));
        }
        Ok(loss)
    }

    /// Loss and squared gradient norm of a batch; the gradients stay in the executor.
    ///
    /// # Errors
    /// A program with several heads; a program, model and batch that do not fit, ids outside their
    /// tables, and memory.
    pub fn gradients(
        &mut self,
        model: &Model<T>,
        program: &mut Program,
        batch: &Batch<'_, T>,
        trainable: Trainable,
    ) -> Result<(f64, f64), EngineError> {
        check_single_head(program)?;
        let weight_sum = self.chunk_gradients(model, &model.params, program, batch, trainable)?;
        let loss = self.losses.iter().sum::<f64>() / weight_sum;
        Ok((loss, self.sums_over_chunks(model, program, batch, trainable, None)))
    }

    /// Phase one with all that comes before it; leaves losses, and returns what they are divided by.
    fn chunk_gradients(
        &mut self,
        model: &Model<T>,
        heads: &ParamStore<T>,
        program: &mut Program,
        batch: &Batch<'_, T>,
        trainable: Trainable,
    ) -> Result<f64, EngineError> {
        self.prepare(model, heads, program, batch, false)?;
        self.uses.check_gradients(program, batch, trainable)?;
        self.weight_grads.reserve(program.grad_len)?;
        self.lay_out_weights(model, program, trainable != Trainable::Head)?;
        Ok(self.run_chunks(model, heads, program, batch, Mode::Gradients(trainable)))
    }

    fn prepare(
        &mut self,
        model: &Model<T>,
        heads: &ParamStore<T>,
        program: &mut Program,
        batch: &Batch<'_, T>,
        predicting: bool,
    ) -> Result<(), EngineError> {
        check_forward(model, heads, program, batch)?;
        let lists = || batch.lists.iter().map(JaggedIds::extent);
        let chunks = batch.rows.div_ceil(CHUNK_ROWS);
        let slots = slots(batch.rows, rayon::current_num_threads());
        // Outputs of the whole batch, or of a chunk for each slot.
        let (rows, arenas) = match program.is_shared() {
            true => (batch.rows.min(CHUNK_ROWS), slots),
            false => (batch.rows, 1),
        };
        if !program.is_placed(rows, predicting, lists()) {
            program.place_lists(rows, predicting, lists())?;
        }
        (self.chunks, self.slots) = (chunks, slots);
        self.values.reserve(arenas * program.arena_len)?;
        self.grads.reserve(arenas * program.arena_len)?;
        self.partials.reserve(chunks * program.partial_len)?;
        self.scratch.reserve(slots * program.scratch())?;
        let heads = program.heads().count();
        self.losses.clear();
        self.losses.resize(chunks * heads, 0.0);
        self.logits.clear();
        self.logits.resize(heads * batch.rows, T::ZERO);
        Ok(())
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
        self.panels.iter_mut().for_each(|arena| arena.as_mut_slice().fill(T::nan()));
    }
}
