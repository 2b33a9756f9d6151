//! Phase one: chunks of rows run forward, loss and backward.

use pulp::{Simd, WithSimd};

use super::sums::in_slots;
use super::{Batch, CHUNK_ROWS, Executor, Model, Shared, Trainable};
use crate::Real;
use crate::chunk::{Chunk, slice_mut};
use crate::clock::{Clock, kind};
use crate::ops::{Head, Op};
use crate::params::ParamStore;
use crate::program::Program;

/// All operators on one chunk, which leaves its part of each head's loss.
pub struct RunChunk<'a, 'c, T> {
    chunk: &'a Chunk<'c, T>,
    /// One a head.
    losses: &'a mut [f64],
    /// `[heads, rows]`, of all chunks.
    logits: *mut T,
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
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (ops, clock) = (&self.chunk.program.ops, self.clock);
        let mut heads = 0;
        for op in ops {
            let start = clock.start();
            op.forward(simd, self.chunk);
            clock.stop(start, kind(op.work()));
            let Op::Head(head) = op else { continue };
            // SAFETY: this chunk's rows of this head's logits.
            unsafe {
                copy_logits(self.chunk, head, self.logits.add(heads * self.chunk.batch.rows))
            };
            if let Mode::Gradients(trainable) = self.mode {
                self.losses[heads] = logit_gradients(self.chunk, head, self.weight_sum);
                if trainable == Trainable::Head {
                    head.weight_partials(self.chunk);
                }
            }
            heads += 1;
        }
        if matches!(self.mode, Mode::Gradients(trainable) if trainable != Trainable::Head) {
            for op in ops.iter().rev() {
                let start = clock.start();
                op.backward(simd, self.chunk);
                clock.stop(start, kind(op.work()));
            }
        }
    }
}

/// Puts this chunk's logits where those of all rows are wanted.
///
/// # Safety
/// `logits` holds one element a row of the batch, and no other thread touches this chunk's.
#[inline(always)]
unsafe fn copy_logits<T: Real>(chunk: &Chunk<'_, T>, head: &Head, logits: *mut T) {
    let (z, stride) = chunk.rows_of(head.out);
    for r in 0..chunk.rows {
        // SAFETY: row `r` of this chunk.
        unsafe { *logits.add(chunk.first + r) = *z.add(r * stride) };
    }
}

/// Mean binary cross-entropy with logits: `loss = sum_r w_r (softplus(z_r) - y_r z_r) / sum w`,
/// `dz_r = w_r (sigmoid(z_r) - y_r) / sum w`. Returns this chunk's part of the sum.
#[inline(always)]
fn logit_gradients<T: Real>(chunk: &Chunk<'_, T>, head: &Head, weight_sum: f64) -> f64 {
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
        head_params: &ParamStore<T>,
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
        let (chunks, heads) = (self.chunks, program.heads().count());
        let losses = Shared(self.losses.as_mut_ptr());
        let logits = Shared(self.logits.as_mut_ptr());
        let run = |slot: usize, c: usize| {
            let first = c * CHUNK_ROWS;
            // A slot of a shared program has arenas of its own.
            let (at, slot_row, arena) = match program.is_shared() {
                true => (0, 0, slot * program.arena_len),
                false => (first, slot * CHUNK_ROWS, 0),
            };
            // SAFETY: chunk `c` alone uses these partial sums and losses, and its slot's scratch; and
            // the arenas hold so much for each slot of a shared program.
            let (partials, scratch, losses, values, grads) = unsafe {
                let partials = partials.get().add(c * program.partial_len);
                if mode != Mode::Forward {
                    slice_mut(partials, program.partial_len).fill(T::ZERO);
                }
                let scratch = scratch.get().add(slot * program.scratch());
                let losses = slice_mut(losses.get().add(c * heads), heads);
                (partials, scratch, losses, values.get().add(arena), grads.get().add(arena))
            };
            let chunk = Chunk {
                program,
                params: &model.params,
                heads: head_params,
                tables: &model.tables,
                batch,
                values,
                grads,
                partials,
                scratch,
                first,
                at,
                rows: CHUNK_ROWS.min(batch.rows - first),
                slot_row,
                precision,
                panels: panels.get(),
            };
            let logits = logits.get();
            T::run_chunk(arch, RunChunk { chunk: &chunk, losses, logits, mode, weight_sum, clock });
        };
        match chunks {
            // Handing one chunk to another thread takes a tenth of a small prediction's time.
            1 => run(0, 0),
            _ => in_slots(self.slots, chunks, run),
        }
        weight_sum
    }
}
