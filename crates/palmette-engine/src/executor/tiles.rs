//! Phase two for dense weights: tiles of gradient slices, and their update.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Batch, Executor, Model, Shared, TILE_ROWS};
use crate::Real;
use crate::chunk::{Chunk, slice, slice_mut};
use crate::lanes::sum_of_squares;
use crate::ops::Op;
use crate::optimizer::Rule;
use crate::params::ParamLayout;
use crate::program::{GradSource, Program};

/// A part of a weight slice: `rows` rows from `first`.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    slice: u32,
    first: u32,
    rows: u32,
}

/// Fills one tile of the gradient.
pub struct RunTile<'a, 'c, T> {
    batch: &'a Chunk<'c, T>,
    tile: Tile,
    weight_grads: *mut T,
    chunks: usize,
}

impl<T: Real> WithSimd for RunTile<'_, '_, T> {
    type Output = f64;

    /// Fills the tile of the gradient and returns its sum of squares.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
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
                        simd,
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
                        simd,
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

/// Moves the weights of one tile.
pub struct UpdateTile<'a, T> {
    program: &'a Program,
    params: &'a ParamLayout,
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

impl<T: Real> Executor<T> {
    pub(super) fn list_tiles(&mut self, program: &Program, first_slice: usize) {
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

    pub(super) fn fill_weight_gradients(
        &mut self,
        model: &Model<T>,
        program: &Program,
        batch: &Batch<'_, T>,
    ) {
        let values = Shared(self.values.as_mut_slice().as_mut_ptr());
        let grads = Shared(self.grads.as_mut_slice().as_mut_ptr());
        let partials = Shared(self.partials.as_mut_slice().as_mut_ptr());
        let weight_grads = Shared(self.weight_grads.as_mut_slice().as_mut_ptr());
        let (arch, clock, chunks) = (self.arch, &self.clock, self.losses.len());
        let precision = self.precision;
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
                    precision,
                };
                // SAFETY of the shared gradients: a tile writes its own rows only.
                let run = RunTile { batch: &batch, tile, weight_grads: weight_grads.get(), chunks };
                let start = clock.start();
                *squares = T::run_tile(arch, run);
                clock.stop(start, 0);
            },
        );
    }

    /// Moves all tiles.
    pub(super) fn update_tiles(
        &mut self,
        model: &mut Model<T>,
        program: &Program,
        rule: Rule<T>,
        scale: T,
    ) {
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
            T::update_tile(arch, run);
            clock.stop(start, 3);
        });
    }
}
