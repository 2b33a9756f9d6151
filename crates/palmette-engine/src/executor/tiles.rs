//! Phase two for dense weights: tiles of gradient slices, and their update.

use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Executor, Shared, TILE_ROWS, Trainable};
use crate::Real;
use crate::chunk::{Chunk, slice, slice_mut};
use crate::lanes::sum_of_squares;
use crate::matmul::COLUMNS;
use crate::ops::Op;
use crate::optimizer::Rule;
use crate::params::{ParamLayout, ParamSpec, ParamStore};
use crate::program::{GradSource, Program, WeightSlice};

/// A part of a weight slice: `rows` rows from `first`.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    slice: u32,
    first: u32,
    rows: u32,
}

impl Tile {
    /// Products a row of the batch.
    pub fn products(self, program: &Program) -> usize {
        let slice = &program.slices[self.slice as usize];
        match slice.source {
            GradSource::Product { .. } => self.rows as usize * slice.cols,
            GradSource::Partial { .. } => 0,
        }
    }
}

/// A part of a gradient: rows and columns of the slice, and where they are wanted.
#[derive(Clone, Copy)]
pub(crate) struct GradTile<T> {
    pub row: usize,
    pub rows: usize,
    pub column: usize,
    pub columns: usize,
    /// The first element, and elements from row to row.
    pub grad: (*mut T, usize),
}

impl<T: Real> GradTile<T> {
    #[inline(always)]
    fn sum_of_squares(&self) -> f64 {
        // No closure: it would lose the instruction set, and this was 5 % of a step.
        let mut squares = 0.0;
        for r in 0..self.rows {
            // SAFETY: row `r` of the tile.
            let row = unsafe { slice(self.grad.0.add(r * self.grad.1), self.columns) };
            squares += sum_of_squares(row);
        }
        squares
    }
}

/// Moves weights along gradients.
#[derive(Clone, Copy)]
pub(super) struct Mover<T> {
    values: *mut T,
    state: [*mut T; 2],
    rule: Rule<T>,
}

// SAFETY: tiles of one program are disjoint, since a parameter occurs in one slice
// (`Uses::check_gradients`).
unsafe impl<T> Send for Mover<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mover<T> {}

impl<T: Real> Mover<T> {
    pub fn new(params: &mut ParamStore<T>, rule: Rule<T>) -> Self {
        let mut state = [std::ptr::null_mut(); 2];
        for (slot, array) in state.iter_mut().zip(&mut params.state) {
            *slot = array.as_mut_slice().as_mut_ptr();
        }
        Self { values: params.values.as_mut_slice().as_mut_ptr(), state, rule }
    }

    /// Moves the tile's weights along `scale` times its gradient.
    ///
    /// # Safety
    /// No other thread may touch these weights.
    #[inline(always)]
    unsafe fn apply(&self, spec: &ParamSpec, tile: GradTile<T>, scale: T) {
        for r in 0..tile.rows {
            let start = spec.offset + (tile.row + r) * spec.stride + tile.column;
            // SAFETY: these columns of a row of the parameter, of its state and of the gradient.
            unsafe {
                let [first, second] = self.state.map(|state| match state.is_null() {
                    true => slice_mut(self.values, 0),
                    false => slice_mut(state.add(start), tile.columns),
                });
                let weights = slice_mut(self.values.add(start), tile.columns);
                let grads = slice(tile.grad.0.add(r * tile.grad.1), tile.columns);
                self.rule.apply(weights, first, second, grads, scale);
            }
        }
    }
}

/// Columns of a tile whose gradient is used up at once: 96 KiB of it stay in the cache.
const STRIP: usize = 4 * COLUMNS;

/// Fills one tile of the gradient, or moves its weights.
pub struct RunTile<'a, 'c, T> {
    batch: &'a Chunk<'c, T>,
    tile: Tile,
    weight_grads: *mut T,
    chunks: usize,
    at_once: Option<Mover<T>>,
}

impl<'a, 'c, T> RunTile<'a, 'c, T> {
    pub(super) fn new(
        batch: &'a Chunk<'c, T>,
        tile: Tile,
        weight_grads: *mut T,
        chunks: usize,
        at_once: Option<Mover<T>>,
    ) -> Self {
        Self { batch, tile, weight_grads, chunks, at_once }
    }
}

impl<T: Real> WithSimd for RunTile<'_, '_, T> {
    type Output = f64;

    /// Returns the gradient's sum of squares.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let target = &self.batch.program.slices[self.tile.slice as usize];
        let (row, rows) = (self.tile.first as usize, self.tile.rows as usize);
        // SAFETY: the tile's rows lie within the slice's gradient.
        let grad = unsafe { self.weight_grads.add(target.grad + row * target.grad_stride) };
        let grad = (grad, target.grad_stride);
        let whole = GradTile { row, rows, column: 0, columns: target.cols, grad };
        let is_product = matches!(target.source, GradSource::Product { .. });
        if !is_product || self.at_once.is_none() {
            return self.of_columns(simd, target, whole);
        }
        let mut strip = [const { MaybeUninit::<T>::uninit() }; TILE_ROWS * STRIP];
        let grad = (strip.as_mut_ptr().cast::<T>(), STRIP);
        let mut squares = 0.0;
        for column in (0..target.cols).step_by(STRIP) {
            let columns = STRIP.min(target.cols - column);
            squares += self.of_columns(simd, target, GradTile { column, columns, grad, ..whole });
        }
        squares
    }
}

impl<T: Real> RunTile<'_, '_, T> {
    #[inline(always)]
    fn of_columns<S: Simd>(&self, simd: S, target: &WeightSlice, tile: GradTile<T>) -> f64 {
        let program = self.batch.program;
        match target.source {
            GradSource::Partial { offset } => {
                for r in 0..tile.rows {
                    // SAFETY: row `r` of the tile and of every chunk's partial sums.
                    let sums = unsafe { slice_mut(tile.grad.0.add(r * tile.grad.1), target.cols) };
                    sums.fill(T::ZERO);
                    for c in 0..self.chunks {
                        let start = c * program.partial_len + offset + (tile.row + r) * target.cols;
                        let part = unsafe { slice(self.batch.partials.add(start), target.cols) };
                        crate::lanes::update(sums, part, |p, s| s + p);
                    }
                }
            }
            GradSource::Product { op, input } => match &program.ops[op as usize] {
                Op::Linear(op) => op.weight_gradient(simd, self.batch, input as usize, tile),
                Op::FieldMix(op) => op.weight_gradient(simd, self.batch, input as usize, tile),
                _ => unreachable!("only products have product gradients"),
            },
        }
        if let Some(mover) = &self.at_once {
            // SAFETY: see `Mover`.
            unsafe { mover.apply(self.batch.params.layout().spec(target.param), tile, T::ONE) };
        }
        tile.sum_of_squares()
    }
}

/// Moves the weights of one tile.
pub struct UpdateTile<'a, T> {
    program: &'a Program,
    params: &'a ParamLayout,
    tile: Tile,
    weight_grads: *mut T,
    mover: Mover<T>,
    scale: T,
}

impl<T: Real> WithSimd for UpdateTile<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let target = &self.program.slices[self.tile.slice as usize];
        let (row, rows) = (self.tile.first as usize, self.tile.rows as usize);
        // SAFETY: the tile's rows lie within the slice's gradient; for the rest see `Mover`.
        unsafe {
            let grad = self.weight_grads.add(target.grad + row * target.grad_stride);
            let grad = (grad, target.grad_stride);
            let tile = GradTile { row, rows, column: 0, columns: target.cols, grad };
            self.mover.apply(self.params.spec(target.param), tile, self.scale);
        }
    }
}

impl<T: Real> Executor<T> {
    /// The tiles of all slices, or of the heads' alone: those of a head then follow one another.
    pub(super) fn list_tiles(&mut self, program: &Program, trainable: Trainable) {
        self.tiles.clear();
        self.head_tiles.clear();
        if trainable == Trainable::Head {
            for head in program.heads() {
                let first = self.tiles.len();
                self.push_tiles(program, head.slices.range());
                self.head_tiles.push(first..self.tiles.len());
            }
        } else {
            self.push_tiles(program, 0..program.slices.len());
        }
        self.tile_squares.clear();
        self.tile_squares.resize(self.tiles.len(), 0.0);
        self.order_tiles(program);
    }

    fn push_tiles(&mut self, program: &Program, slices: Range<usize>) {
        for index in slices {
            let slice = &program.slices[index];
            for first in (0..slice.rows).step_by(TILE_ROWS) {
                let rows = TILE_ROWS.min(slice.rows - first) as u32;
                self.tiles.push(Tile { slice: index as u32, first: first as u32, rows });
            }
        }
    }

    /// Moves these tiles of parameters that are laid out as `params`.
    pub(super) fn update_tiles(
        &mut self,
        params: &ParamLayout,
        program: &Program,
        tiles: Range<usize>,
        mover: Mover<T>,
        scale: T,
    ) {
        let weight_grads = Shared(self.weight_grads.as_mut_slice().as_mut_ptr());
        let (arch, clock) = (self.arch, &self.clock);
        self.tiles[tiles].par_iter().with_max_len(1).for_each(|&tile| {
            let weight_grads = weight_grads.get();
            let start = clock.start();
            T::update_tile(arch, UpdateTile { program, params, tile, weight_grads, mover, scale });
            clock.stop(start, 3);
        });
    }
}
