//! Phase one: chunks of rows run forward, loss and backward.

use pulp::{Simd, WithSimd};

use super::sums::in_slots;
use super::{Batch, CHUNK_ROWS, Executor, Model, Shared, Trainable};
use crate::Real;
use crate::chunk::{Chunk, slice_mut};
use crate::clock::{Clock, kind};
use crate::ops::Op;
use crate::program::Program;

/// All operators on one chunk; returns its part of the loss.
pub struct RunChunk<'a, 'c, T> {
    chunk: &'a Chunk<'c, T>,
    mode: Mode,
    weight_sum: f64,
    clock: &'a Clock,
}

/// How far a chunk runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
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

impl<T: Real> Executor<T> {
    pub(super) fn run_chunks(
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
        let backward = matches!(mode, Mode::Gradients(t) if t != Trainable::Head);
        let panels = self.panel_arenas(backward);
        let (arch, clock, precision) = (self.arch, &self.clock, self.precision);
        let losses = Shared(self.losses.as_mut_ptr());
        let run = |slot: usize, c: usize| {
            let first = c * CHUNK_ROWS;
            // SAFETY: chunk `c` alone uses these partial sums, and its slot's scratch.
            let (partials, scratch) = unsafe {
                let partials = partials.get().add(c * program.partial_len);
                if mode != Mode::Forward {
                    slice_mut(partials, program.partial_len).fill(T::ZERO);
                }
                (partials, scratch.get().add(slot * program.scratch()))
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
                slot_row: slot * CHUNK_ROWS,
                precision,
                panels: panels.get(),
            };
            let loss = T::run_chunk(arch, RunChunk { chunk: &chunk, mode, weight_sum, clock });
            // SAFETY: each chunk has a place of its own.
            unsafe { *losses.get().add(c) = loss };
        };
        match self.losses.len() {
            // Handing one chunk to another thread takes a tenth of a small prediction's time.
            1 => run(0, 0),
            chunks => in_slots(program.slots, chunks, run),
        }
        weight_sum
    }

    pub(super) fn read_logits(&mut self, program: &Program, rows: usize) {
        self.logits.clear();
        if let Some(Op::Head(head)) = program.ops.last() {
            let buffer = program.buffer(head.out);
            let values = self.values.as_slice();
            self.logits.extend((0..rows).map(|r| values[buffer.offset + r * buffer.stride]));
        }
    }
}
