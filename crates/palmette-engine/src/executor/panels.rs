//! Before the chunks: weights of fully connected layers are laid out in panels.

use super::sums::in_turn;
use super::{Executor, Model, Shared};
use crate::chunk::PanelArenas;
use crate::matmul::{COLUMNS, LayOut, Strided, panel_len};
use crate::ops::Op;
use crate::panels::{BACKWARD, FORWARD};
use crate::program::{Program, SliceId};
use crate::{EngineError, Real};

/// Panels of one task: a few hundred kilobytes of weights at most.
const GROUP: usize = 4;

/// A few panels of one weight slice, from `first`.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    slice: SliceId,
    direction: usize,
    first: usize,
}

/// Arenas that threads may share because each chunk lays its own rows out, and tiles only read.
#[derive(Clone, Copy)]
pub(super) struct SharedPanels<T>(PanelArenas<T>);
// SAFETY: as above.
unsafe impl<T> Send for SharedPanels<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for SharedPanels<T> {}

impl<T> SharedPanels<T> {
    #[inline(always)]
    pub fn get(&self) -> PanelArenas<T>
    where
        T: Copy,
    {
        self.0
    }
}

impl<T: Real> Executor<T> {
    /// Lays out what the chunks of `program` read: weights as forward needs them and, for
    /// gradients of everything, as backward does. The panels of buffers get their memory.
    ///
    /// A batch of one chunk has none: there every factor is read once.
    pub(super) fn lay_out_weights(
        &mut self,
        model: &Model<T>,
        program: &Program,
        backward: bool,
    ) -> Result<(), EngineError> {
        if self.chunks < 2 {
            return Ok(());
        }
        let [weights, buffers] = program.panels_len;
        self.panels[0].reserve(weights)?;
        if backward {
            self.panels[1].reserve(buffers)?;
            self.panels[2].reserve(buffers)?;
        }
        self.layouts.clear();
        for op in &program.ops {
            let Op::Linear(op) = op else { continue };
            let uses = &program.inputs[op.inputs.range()];
            for (input, &slice) in uses.iter().zip(program.weights(op.weights)) {
                let (_, rows, cols) = program.slice(slice);
                if !program.weight_slice(slice).packs {
                    continue;
                }
                for (direction, columns) in [(FORWARD, rows), (BACKWARD, cols)] {
                    if direction == FORWARD || backward && input.grad {
                        let firsts = (0..columns).step_by(GROUP * COLUMNS);
                        let layout = |first| Layout { slice, direction, first };
                        self.layouts.extend(firsts.map(layout));
                    }
                }
            }
        }
        let target = Shared(self.panels[0].as_mut_slice().as_mut_ptr());
        let (arch, clock, precision) = (self.arch, &self.clock, self.precision);
        let layouts = &self.layouts;
        in_turn(layouts.len(), |task| {
            let layout = layouts[task];
            let slice = program.weight_slice(layout.slice);
            let spec = model.params.layout().spec(slice.param);
            let weights = model.params.values.as_slice()[spec.offset..].as_ptr();
            let weights = Strided::row_major(weights, spec.stride);
            let (matrix, terms, columns) = match layout.direction {
                FORWARD => (weights.transposed(), slice.cols, slice.rows),
                _ => (weights, slice.rows, slice.cols),
            };
            let (first, stride) = (layout.first, panel_len(precision, terms));
            let place = slice.panels[layout.direction] + first / COLUMNS * stride;
            let start = clock.start();
            // SAFETY: the slice has these columns.
            let pointer = unsafe { matrix.pointer.add(first * matrix.col) };
            let source = Strided { pointer, ..matrix };
            let shape = [terms, (columns - first).min(GROUP * COLUMNS)];
            let target = (target.get().wrapping_add(place), stride);
            // No other task writes these panels.
            T::lay_out(arch, LayOut { precision, source, shape, target });
            clock.stop(start, 0);
        });
        Ok(())
    }

    /// Where chunks and tiles find panels.
    pub(super) fn panel_arenas(&mut self, backward: bool) -> SharedPanels<T> {
        let none = std::ptr::null_mut();
        let exist = self.chunks > 1;
        let [weights, values, grads] = self
            .panels
            .each_mut()
            .map(|arena| if exist { arena.as_mut_slice().as_mut_ptr() } else { none });
        let [values, grads] = [values, grads].map(|arena| if backward { arena } else { none });
        SharedPanels(PanelArenas { weights, values, grads })
    }
}
