//! Phase two: gradients over all chunks, of weights and of table rows.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::tables::RowMover;
use super::tiles::{Mover, RunTile};
use super::{Batch, Executor, Model, Shared, Trainable};
use crate::Real;
use crate::chunk::Chunk;
use crate::program::Program;

/// Moves weights and table rows.
pub(super) struct Movers<T> {
    pub tiles: Mover<T>,
    pub rows: RowMover<T>,
}

/// Does `task` for all numbers below `tasks`, begun in their order by whichever thread is free.
///
/// A parallel iterator deals halves out instead; where large tasks come first and small ones last,
/// threads wait for each other no longer than a small one takes.
pub(super) fn in_turn(tasks: usize, task: impl Fn(usize) + Sync) {
    in_slots(rayon::current_num_threads().min(tasks), tasks, |_, number| task(number));
}

/// [`in_turn`] for `task(slot, number)`: no two tasks that run at a time have the same of `slots`
/// slots.
pub(super) fn in_slots(slots: usize, tasks: usize, task: impl Fn(usize, usize) + Sync) {
    let next = AtomicUsize::new(0);
    (0..slots).into_par_iter().with_max_len(1).for_each(|slot| {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= tasks {
                break;
            }
            task(slot, number);
        }
    });
}

impl<T: Real> Executor<T> {
    /// Gradients of weights and of table rows, and the sum of their squares. With `at_once` both
    /// move, and the gradients of weights are kept nowhere.
    pub(super) fn sums_over_chunks(
        &mut self,
        model: &Model<T>,
        program: &Program,
        batch: &Batch<'_, T>,
        trainable: Trainable,
        at_once: Option<&Movers<T>>,
    ) -> f64 {
        self.list_tiles(program, trainable);
        self.n_touched = 0;
        if trainable == Trainable::Everything {
            self.list_tables(program);
        }
        let panels = self.panel_arenas(trainable != Trainable::Head);
        let values = Shared(self.values.as_mut_slice().as_mut_ptr());
        let grads = Shared(self.grads.as_mut_slice().as_mut_ptr());
        let partials = Shared(self.partials.as_mut_slice().as_mut_ptr());
        let weight_grads = Shared(self.weight_grads.as_mut_slice().as_mut_ptr());
        let tile_squares = Shared(self.tile_squares.as_mut_ptr());
        let touched = Shared(self.touched.as_mut_ptr());
        let table_squares = Shared(self.table_squares.as_mut_ptr());
        let (arch, clock, chunks) = (self.arch, &self.clock, self.chunks);
        let (precision, tiles, order) = (self.precision, &self.tiles, &self.order);
        in_turn(tiles.len() + self.n_touched, |task| {
            let start = clock.start();
            let Some(&tile) = order.get(task) else {
                let table = task - order.len();
                let at_once = at_once.map(|movers| &movers.rows);
                // SAFETY: each table has a task of its own; phase one is over, so that the gradients
                // are only read.
                unsafe {
                    let touched = &mut *touched.get().add(table);
                    let squares = touched.sum(arch, grads.get().cast_const(), batch, at_once);
                    *table_squares.get().add(table) = squares;
                }
                clock.stop(start, 2);
                return;
            };
            let batch = Chunk {
                program,
                params: &model.params,
                heads: &model.params,
                tables: &model.tables,
                batch,
                values: values.get(),
                grads: grads.get(),
                partials: partials.get(),
                scratch: std::ptr::null_mut(),
                first: 0,
                at: 0,
                rows: batch.rows,
                slot_row: 0,
                precision,
                panels: panels.get(),
            };
            let at_once = at_once.map(|movers| movers.tiles);
            let run =
                RunTile::new(&batch, tiles[tile as usize], weight_grads.get(), chunks, at_once);
            // SAFETY: each tile has a task of its own, and writes its own rows only.
            unsafe { *tile_squares.get().add(tile as usize) = T::run_tile(arch, run) };
            clock.stop(start, 0);
        });
        self.tile_squares.iter().sum::<f64>()
            + self.table_squares[..self.n_touched].iter().sum::<f64>()
    }

    /// Begins with the largest tiles.
    pub(super) fn order_tiles(&mut self, program: &Program) {
        self.order.clear();
        self.order.extend(0..self.tiles.len() as u32);
        let tiles = &self.tiles;
        self.order.sort_by_key(|&tile| Reverse(tiles[tile as usize].products(program)));
    }
}
