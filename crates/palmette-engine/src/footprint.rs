//! What the arenas of a step hold, foretold from a program.

use std::collections::HashSet;

use crate::executor::CHUNK_ROWS;
use crate::matmul::panels_len;
use crate::memory::HUGE_PAGES_FROM;
use crate::ops::Op;
use crate::program::{Extent, Program, passing_rows, slots};

/// Bytes of the executor's arenas that a program's steps write, for f32.
///
/// What an executor holds after several programs is more than any of them writes: see [`Arenas`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Outputs of all operators, of the chunks that run at a time where nothing reads them later.
    pub values: u64,
    /// The same of a prediction, which keeps no fields either.
    pub predicted_values: u64,
    /// Gradients of the outputs that need one.
    pub gradients: u64,
    /// Gradients of weight slices, and summed gradients of table rows.
    pub weight_gradients: u64,
    /// Partial sums of each chunk.
    pub partials: u64,
    /// Scratch of each chunk that runs at a time.
    pub scratch: u64,
    /// Weights of fully connected layers, laid out for forward.
    pub forward_panels: u64,
    /// What a step lays out besides: weights for backward, and both factors of their gradients.
    pub backward_panels: u64,
    /// Of values, and of gradients, what a step in f32 keeps in panels alone.
    pub in_panels: u64,
}

impl Footprint {
    /// All that a training step writes.
    pub fn of_step(self) -> u64 {
        let panels = self.forward_panels + self.backward_panels;
        let gradients = self.gradients + self.weight_gradients + self.partials;
        self.values + gradients + self.scratch + panels
    }

    /// All that a prediction writes.
    pub fn of_prediction(self) -> u64 {
        self.predicting().of_step()
    }

    /// A prediction alone.
    pub fn predicting(self) -> Self {
        let Self { predicted_values, scratch, forward_panels, .. } = self;
        Self {
            values: predicted_values,
            predicted_values,
            scratch,
            forward_panels,
            ..Self::default()
        }
    }

    /// A step on the heads alone: forward, and the heads' partial sums.
    pub fn tuning_heads(self) -> Self {
        Self { values: self.values, partials: self.partials, ..self.predicting() }
    }
}

/// The arenas of an executor that runs one program after the other, foretold from what they write.
///
/// Arenas are mapped a quarter larger than asked for, cost memory only where they are written, and
/// are kept until a program or a batch needs larger ones: then they start anew.
#[derive(Clone, Debug, Default)]
pub struct Arenas {
    /// Values, gradients, weight gradients, partial sums, scratch, panels for forward and backward.
    arenas: [Arena; 7],
    peak: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Arena {
    mapped: u64,
    written: u64,
}

impl Arena {
    fn write(&mut self, needed: u64, written: u64) {
        if needed > self.mapped {
            *self = Self { mapped: needed + needed / 4, written: 0 };
        }
        self.written = self.written.max(written);
    }

    /// What is written, with the rest of the huge pages at either end: half a page each on average.
    /// The first reaches into what is mapped before, the last into what is not written yet.
    fn held(&self) -> u64 {
        if self.mapped < HUGE_PAGES_FROM as u64 || self.written == 0 {
            return self.written;
        }
        self.written + HUGE_PAGE / 2 + (self.mapped - self.written).min(HUGE_PAGE / 2)
    }
}

impl Arenas {
    /// Runs a step, a prediction, or what else of a program is foretold.
    pub fn run(&mut self, step: Footprint) {
        let Footprint { values, gradients, weight_gradients, partials, scratch, .. } = step;
        // Values and gradients have arenas of equal length.
        let needed = [values, values, weight_gradients, partials, scratch];
        // Huge pages are held whole, with what is not written in them. (In bf16 it is written.)
        let left = if values + values / 4 < HUGE_PAGES_FROM as u64 { step.in_panels } else { 0 };
        let written =
            [values - left, gradients.saturating_sub(left), weight_gradients, partials, scratch];
        let panels = [step.forward_panels, step.backward_panels];
        let needed = needed.iter().chain(&panels);
        let written = written.iter().chain(&panels);
        for (arena, (&needed, &written)) in self.arenas.iter_mut().zip(needed.zip(written)) {
            arena.write(needed, written);
        }
        self.peak = self.peak.max(self.held());
    }

    /// Bytes held now.
    pub fn held(&self) -> u64 {
        self.arenas.iter().map(Arena::held).sum()
    }

    /// The most bytes that were held after any step.
    pub fn peak(&self) -> u64 {
        self.peak
    }
}

/// Bytes of a huge page, of which arenas of some size are made.
const HUGE_PAGE: u64 = 2 << 20;
const F32: u64 = size_of::<f32>() as u64;
/// Beside the sums of a table's row: its number, twice, with the place of a gradient.
const TOUCHED_ROW: u64 = (size_of::<u64>() + size_of::<u32>()) as u64;

impl Program {
    /// The arenas of steps of `rows` rows on `threads` threads; lists count as if they had no values.
    /// A shared program has outputs of one chunk for each of the chunks that run at a time.
    pub fn footprint(&self, rows: usize, threads: usize) -> Footprint {
        let slots = slots(rows, threads);
        let passing = passing_rows(rows, slots);
        let chunks = rows.div_ceil(CHUNK_ROWS) as u64;
        let mut found = Footprint {
            weight_gradients: F32 * self.grad_len as u64,
            partials: F32 * chunks * self.partial_len as u64,
            scratch: F32 * slots as u64 * self.scratch() as u64,
            ..Footprint::default()
        };
        if self.is_shared() {
            let (_, of_chunk) = self.compact_places(rows.min(CHUNK_ROWS));
            found.values = F32 * slots as u64 * of_chunk as u64;
            found.predicted_values = found.values;
        } else {
            for buffer in &self.buffers {
                let held = match buffer.extent {
                    Extent::Rows { .. } => passing,
                    Extent::Fields { .. } | Extent::Jagged { .. } => rows,
                };
                let bytes = F32 * buffer.elements(held);
                found.values += bytes;
                found.predicted_values += F32 * buffer.elements(passing);
                found.gradients += if buffer.needs_grad { bytes } else { 0 };
            }
        }
        for op in &self.ops {
            if let Op::Embedding(op) = op {
                let row = TOUCHED_ROW + F32 * op.dim as u64;
                found.weight_gradients += rows as u64 * self.width(op.out) as u64 * row;
            }
        }
        // A batch of one chunk lays nothing out.
        if chunks > 1 {
            self.add_panels(rows, passing, &mut found);
        }
        found
    }

    /// The panels that [`Program::place_panels`] gives places and that a step fills.
    fn add_panels(&self, rows: usize, passing: usize, found: &mut Footprint) {
        let bytes = |terms, columns| F32 * panels_len(terms, columns) as u64;
        // What products read of each buffer: its values, and its gradients.
        let mut factors = vec![[false; 2]; self.buffers.len()];
        let mut weights = HashSet::new();
        let mut of_others = vec![false; self.buffers.len()];
        for op in &self.ops {
            let Op::Linear(op) = op else {
                let read = &self.inputs[op.inputs().range()];
                read.iter().for_each(|input| of_others[input.buffer.0 as usize] = true);
                continue;
            };
            of_others[op.pre.0 as usize] |= op.norm.is_some();
            let uses = &self.inputs[op.inputs.range()];
            for (input, weight) in uses.iter().zip(&self.weights[op.weights.range()]) {
                let (_, width, columns) = self.slice(*weight);
                // The networks of a shared program run forward only.
                if self.is_shared() {
                    let is_new = weights.insert(self.weight_slice(*weight).weights());
                    found.forward_panels += if is_new { bytes(columns, width) } else { 0 };
                    continue;
                }
                found.forward_panels += bytes(columns, width);
                // An input learns that it needs a gradient only when it gets its place.
                if self.buffers[input.buffer.0 as usize].needs_grad {
                    found.backward_panels += bytes(width, columns);
                }
                factors[input.buffer.0 as usize][0] = true;
            }
            factors[op.pre.0 as usize][1] |= !self.is_shared();
        }
        let (mut places, mut written, mut gaps) = (0, 0, 0);
        for ((buffer, &uses), of_others) in self.buffers.iter().zip(&factors).zip(of_others) {
            let Extent::Rows { width } = buffer.extent else { continue };
            let factor = bytes(rows, width);
            let arenas = uses.into_iter().filter(|&used| used).count() as u64;
            places += factor * arenas.min(1);
            if arenas == 2 && !of_others {
                found.in_panels += F32 * buffer.elements(passing);
            }
            written += factor * arenas;
            gaps += if arenas == 1 { factor.min(HUGE_PAGE) } else { 0 };
        }
        // Values and gradients have arenas of equal length. What is written in one of them only is
        // left out in the other, where huge pages around it are held nevertheless.
        // Where arenas are smaller than that, trainings hold about one of the two: with both, batches
        // of 129 to 256 rows were foretold at 1.06 to 1.12 of what they held, with one at 1.02 to 1.09.
        let huge = places + places / 4 >= HUGE_PAGES_FROM as u64;
        found.backward_panels += if huge { written + gaps } else { places };
    }
}

#[cfg(test)]
mod tests {
    use crate::builder::HeadInput;
    use crate::footprint::{Arenas, Footprint};
    use crate::matmul::panels_len;
    use crate::params::{Init, ParamLayout};
    use crate::program::Program;

    /// The foretold arenas are those that `place` lays out.
    #[test]
    fn values_are_the_arena() {
        let mut layout = ParamLayout::default();
        let w = layout.matrix("w", 4, 3, Init::Constant(0.0));
        let w2 = layout.matrix("w2", 4, 4, Init::Constant(0.0));
        let v = layout.vector("v", 4, Init::Constant(0.0));
        let fields = layout.vector("fields", 5 * 16, Init::Constant(0.0));
        let mut program = Program::new();
        let x = program.dense_input(3);
        let h = program.linear(&[(x, w)], 4, crate::Epilogue::default());
        let h = program.linear(&[(h, w2)], 4, crate::Epilogue::default());
        let e = program.embedding(0, 5, 16);
        program.head(&[(h, HeadInput::Weight(v)), (e, HeadInput::Weight(fields))], None);
        let threads = rayon::current_num_threads();
        // Foretold before anything has its place.
        let foretold = [1, 7, 128, 1000].map(|rows| (rows, program.footprint(rows, threads)));
        for (rows, footprint) in foretold {
            program.place(rows).unwrap();
            // A chunk alone has no panels.
            let weights =
                [[3, 4], [4, 4], [4, 4]].map(|[terms, columns]| panels_len(terms, columns));
            let weights = weights.iter().sum::<usize>();
            // Values of the input, gradients of the last sums, one of both between.
            let factor = panels_len(rows, 4);
            let written = weights + 3 * factor;
            let panels = footprint.forward_panels + footprint.backward_panels;
            assert_eq!(panels, if rows > 128 { 4 * written as u64 } else { 0 }, "{rows}");
            // The first layer needs no gradient of its input; arenas of values and of gradients
            // have a place for each of the three.
            let places = weights + panels_len(4, 3) + 2 * 3 * factor;
            assert_eq!(program.panel_numbers(), places, "{rows}");
            assert_eq!(footprint.values, 4 * program.arena_len as u64, "{rows}");
            program.place_lists(rows, true, std::iter::empty()).unwrap();
            assert_eq!(footprint.predicted_values, 4 * program.arena_len as u64, "{rows}");
            // The dense input alone needs no gradient.
            let held = if rows <= 128 { rows } else { 128 * threads.min(rows.div_ceil(128)) };
            let input = 4 * held as u64 * 16;
            assert_eq!(footprint.gradients, footprint.values - input, "{rows}");
        }
    }

    /// Arenas are kept, and start anew where they grow, values and gradients together.
    #[test]
    fn arenas_are_kept_until_they_grow() {
        let of = |values, gradients, scratch| Footprint {
            values,
            gradients,
            scratch,
            ..Footprint::default()
        };
        let mut arenas = Arenas::default();
        for (step, held) in [
            (of(100, 80, 8), 188),
            // Less of one and more of another.
            (of(60, 60, 10), 190),
            // Within the quarter that was mapped besides.
            (of(120, 0, 0), 210),
            // Not any more: the old gradients are gone.
            (of(130, 0, 0), 140),
            (of(20, 20, 0), 160),
        ] {
            arenas.run(step);
            assert_eq!(arenas.held(), held, "{step:?}");
        }
        assert_eq!(arenas.peak(), 210);
        // Half a huge page at either end, where there are any.
        let mut arenas = Arenas::default();
        arenas.run(of(8 << 20, 0, 1 << 20));
        assert_eq!(arenas.held(), 11 << 20);
    }

    #[test]
    fn predictions_and_tuned_heads_write_less() {
        let step = Footprint {
            values: 4,
            predicted_values: 7,
            gradients: 4,
            partials: 2,
            scratch: 1,
            ..Footprint::default()
        };
        assert_eq!(step.of_step(), 11);
        assert_eq!(step.of_prediction(), 8);
        assert_eq!(step.tuning_heads().of_step(), 7);
    }

    /// Of a shared program each thread has one chunk of what is still read, and a logit more costs
    /// its place alone.
    #[test]
    fn a_shared_program_holds_one_chunk_a_thread() {
        let mut layout = ParamLayout::default();
        let w: Vec<_> =
            (0..40).map(|i| layout.matrix(format!("w{i}"), 64, 64, Init::Constant(0.0))).collect();
        let build = |program: &mut Program| {
            let mut x = program.dense_input(64);
            for &w in &w {
                x = program.linear(&[(x, w)], 64, crate::Epilogue::default());
            }
            program.head(&[(x, HeadInput::Weight(w[0]))], None);
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        pool.install(|| {
            for (rows, arenas, chunk) in [(7, 1, 7), (128, 1, 128), (300, 3, 128), (2000, 3, 128)] {
                let mut program = Program::new();
                program.share();
                build(&mut program);
                let one = program.footprint(rows, 3).values;
                program.place(rows.min(128)).unwrap();
                assert_eq!(one, 4 * arenas * program.arena_len as u64, "{rows}");
                assert_eq!(program.footprint(rows, 3).gradients, 0);
                // Two layers are held at a time, whatever their number; at the end the last one
                // and all logits.
                assert_eq!(one, 4 * arenas * chunk * (64 + 64), "{rows}");
                (1..10).for_each(|_| build(&mut program));
                let ten = program.footprint(rows, 3).values;
                assert_eq!(ten, 4 * arenas * chunk * (64 + 10 * 16), "{rows}");
            }
        });
    }
}
