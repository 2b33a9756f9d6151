//! Phase one: chunks of rows run forward, loss and backward.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Batch, CHUNK_ROWS, Executor, Model, Shared, Trainable};
use crate::Real;
use crate::chunk::{Chunk, slice_mut};
use crate::clock::{Clock, kind};
use crate::ops::Head;
use crate::params::ParamStore;
use crate::program::Program;

/// All operators on one chunk, which leaves its part of each head's loss.
pub struct RunChunk<'a, 'c, T> {
    chunk: &'a Chunk<'c, T>,
    losses: &'a mut [f64],
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
        let ops = &self.chunk.program.ops;
        for op in ops {
            let start = self.clock.start();
            op.forward(simd, self.chunk);
            self.clock.stop(start, kind(op.work()));
        }
        let Mode::Gradients(trainable) = self.mode else { return };
        for (head, loss) in self.chunk.program.heads().zip(self.losses) {
            *loss = logit_gradients(self.chunk, head, self.weight_sum);
            if trainable == Trainable::Head {
                head.weight_partials(self.chunk);
            }
        }
        if trainable != Trainable::Head {
            for op in ops.iter().rev() {
                let start = self.clock.start();
                op.backward(simd, self.chunk);
                self.clock.stop(start, kind(op.work()));
            }
        }
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
        heads: &ParamStore<T>,
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
        let run = |(c, losses): (usize, &mut [f64])| {
            let first = c * CHUNK_ROWS;
            // SAFETY: chunk `c` alone uses these partial sums and this scratch.
            let (partials, scratch) = unsafe {
                let partials = partials.get().add(c * program.partial_len);
                if mode != Mode::Forward {
                    slice_mut(partials, program.partial_len).fill(T::ZERO);
                }
                (partials, scratch.get().add(c * program.scratch()))
            };
            let chunk = Chunk {
                program,
                params: &model.params,
                heads,
                tables: &model.tables,
                batch,
                values: values.get(),
                grads: grads.get(),
                partials,
                scratch,
                first,
                rows: CHUNK_ROWS.min(batch.rows - first),
                precision,
                panels: panels.get(),
            };
            T::run_chunk(arch, RunChunk { chunk: &chunk, losses, mode, weight_sum, clock });
        };
        let per_chunk = self.losses.len() / self.chunks.max(1);
        match self.chunks {
            // Handing one chunk to another thread takes a tenth of a small prediction's time.
            1 => run((0, &mut self.losses)),
            _ => {
                let losses = self.losses.par_chunks_mut(per_chunk.max(1));
                losses.enumerate().with_max_len(1).for_each(run);
            }
        }
        weight_sum
    }

    /// Logits of all heads, `[heads, rows]`.
    pub(super) fn read_logits(&mut self, program: &Program, rows: usize) {
        self.logits.clear();
        let values = self.values.as_slice();
        for head in program.heads() {
            let buffer = program.buffer(head.out);
            self.logits.extend((0..rows).map(|r| values[buffer.offset + r * buffer.stride]));
        }
    }
}
