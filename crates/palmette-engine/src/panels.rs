//! Panels: the factors of fully connected layers, laid out once a step.
//!
//! A product with a large second factor reads it in panels of [`COLUMNS`](crate::matmul::COLUMNS)
//! columns. Weights would otherwise be shuffled (and rounded to bf16) again for every chunk of rows,
//! the factors of a weight gradient for every one of its tiles; or they would be read in short
//! pieces of rows far apart, which no prefetcher follows into the third-level cache.
//!
//! A layer `y = x W^T` has four such factors: `W^T` (forward) and `W` (the gradient of x), laid out
//! before the chunks run; x and the gradient of y over the whole batch (the gradient of W), of which
//! each chunk lays out its own rows while they are in its cache.
//!
//! In f32 the panels of x and of the gradient of y are rows of 48 elements as they are, which a
//! product reads and writes no slower than longer ones. What passes from one such layer to others
//! alone is kept in them and nowhere else: the products write it there, bias and ReLU and the
//! gradients of both included.

use std::collections::HashMap;

use crate::matmul::panels_len;
use crate::ops::Op;
use crate::params::ParamId;
use crate::program::{Program, WeightSlice};

/// Index of [`WeightSlice::panels`](crate::program::WeightSlice).
pub(crate) const FORWARD: usize = 0;
/// Index of [`WeightSlice::panels`](crate::program::WeightSlice).
pub(crate) const BACKWARD: usize = 1;

/// No place yet.
pub(crate) const NOWHERE: usize = usize::MAX;

impl WeightSlice {
    /// Which weights it is a slice of.
    pub(crate) fn weights(&self) -> (ParamId, usize, usize) {
        (self.param, self.rows, self.cols)
    }
}

impl Program {
    /// Gives all factors of fully connected layers their places for `rows` rows.
    pub(crate) fn place_panels(&mut self, rows: usize) {
        let [mut forward, mut backward, mut buffers] = [0usize; 3];
        // Sums that have no address saturate, and then no memory is found for them.
        let take = |len: &mut usize, terms, columns| {
            let start = *len;
            *len = start.saturating_add(panels_len(terms, columns));
            start
        };
        for buffer in &mut self.buffers {
            (buffer.panels, buffer.layer) = (NOWHERE, None);
        }
        self.seen.fill(false);
        let shared = self.is_shared();
        let mut equal = HashMap::new();
        for (index, op) in self.ops.iter().enumerate() {
            let Op::Linear(op) = op else {
                let read = &self.inputs[op.inputs().range()];
                read.iter().for_each(|input| self.buffers[input.buffer.0 as usize].layer = None);
                continue;
            };
            let uses = &mut self.inputs[op.inputs.range()];
            let mut width = 0;
            for (input, weight) in uses.iter_mut().zip(&self.weights[op.weights.range()]) {
                let slice = &mut self.slices[weight.0 as usize];
                width = slice.rows;
                let earlier = equal.get(&slice.weights()).copied();
                slice.packs = earlier.is_none();
                slice.panels = earlier.unwrap_or_else(|| {
                    let place = take(&mut forward, slice.cols, width);
                    // The networks of a shared program run forward only.
                    if shared {
                        equal.insert(slice.weights(), [place, NOWHERE]);
                        return [place, NOWHERE];
                    }
                    [place, take(&mut backward, width, slice.cols)]
                });
                if shared {
                    continue;
                }
                let source = input.buffer.0 as usize;
                input.packs = !std::mem::replace(&mut self.seen[source], true);
                // The output of an earlier layer has its place, in the other of two arenas.
                if self.buffers[source].panels == NOWHERE {
                    self.buffers[source].panels = take(&mut buffers, rows, slice.cols);
                }
            }
            if !shared {
                let pre = &mut self.buffers[op.pre.0 as usize];
                pre.panels = take(&mut buffers, rows, width);
                pre.layer = op.norm.is_none().then_some(index as u32);
            }
        }
        // Those for backward come last: predictions then write nothing between gaps.
        for slice in &mut self.slices {
            slice.panels[BACKWARD] = slice.panels[BACKWARD].saturating_add(forward);
        }
        self.panels_len = [forward.saturating_add(backward), buffers];
    }

    /// Numbers that a step keeps in panels beside weights, values and gradients, at most, for the
    /// rows that the program was last placed for. A batch of one chunk keeps none.
    pub fn panel_numbers(&self) -> usize {
        let [weights, buffers] = self.panels_len;
        weights.saturating_add(buffers.saturating_mul(2))
    }
}
