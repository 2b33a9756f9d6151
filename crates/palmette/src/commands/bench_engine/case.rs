//! A training or forward step that both sides compute: model, programs, batches.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use palmette::onnx::{Export, ExternalData, export};
use palmette_ctr::nasrec::{NasRecSpace, Network, PathStrategy, supernet_path};
use palmette_data::DenseTransform;
use palmette_engine::ops::Op;
use palmette_engine::{
    Batch, Executor, Model, Optimizer, Precision, Program, Step, Trainable, counted_macs,
};
use palmette_random::{Draw, stream};
use serde_json::{Value, json};

use super::describe::describe;

/// What a step does.
#[derive(Clone, Copy)]
pub enum Work {
    /// Forward, backward, clip and update.
    Train { optimizer: Optimizer, learning_rate: f64, clip: Option<f64> },
    /// Forward and backward.
    Gradients,
    /// Forward and loss.
    Forward,
}

/// Which program a step runs.
pub enum Plan {
    /// The same one every time.
    Fixed,
    /// A fresh path through a supernet: drawn, built and placed inside the step.
    Paths { space: Box<NasRecSpace>, network: Box<Network>, strategy: PathStrategy, count: u64 },
}

/// One batch.
pub struct Rows {
    pub dense: Vec<f32>,
    /// `[fields, rows]`.
    pub ids: Vec<u32>,
    pub labels: Vec<f32>,
}

/// A step with everything that it reads.
pub struct Case {
    pub rows: usize,
    pub model: Model<f32>,
    pub program: Program,
    pub plan: Plan,
    pub batches: Vec<Rows>,
    pub work: Work,
    executor: Executor<f32>,
    next: u64,
}

/// Seed of paths: every side and every run sees the same list.
const PATH_SEED: u64 = 3;

/// What a stretch of steps took.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    pub seconds: f64,
    /// Multiply-accumulates of the products, counted where they are done.
    pub macs: u64,
}

impl Case {
    pub fn new(
        rows: usize,
        model: Model<f32>,
        program: Program,
        plan: Plan,
        batches: Vec<Rows>,
        work: Work,
    ) -> Self {
        Self { rows, model, program, plan, batches, work, executor: Executor::new(), next: 0 }
    }

    /// Steps after which the programs repeat.
    pub fn period(&self) -> u64 {
        match self.plan {
            Plan::Fixed => 1,
            Plan::Paths { count, .. } => count,
        }
    }

    /// Number type of the factors of products from now on.
    pub fn set_precision(&mut self, precision: Precision) {
        self.executor.set_precision(precision);
    }

    /// Runs the next step and returns its loss.
    pub fn step(&mut self) -> Result<f64> {
        let index = self.next;
        self.next += 1;
        self.plan(index)?;
        let rows = &self.batches[index as usize % self.batches.len()];
        let batch = Batch {
            rows: self.rows,
            dense: &rows.dense,
            ids: &rows.ids,
            labels: &rows.labels,
            weights: &[],
            lists: &[],
        };
        let (executor, model, program) = (&mut self.executor, &mut self.model, &mut self.program);
        Ok(match self.work {
            Work::Train { optimizer, learning_rate, clip } => {
                let step = Step {
                    index,
                    learning_rate,
                    optimizer,
                    clip_norm: clip,
                    trainable: Trainable::Everything,
                };
                executor.train_step(model, program, &batch, &step)?
            }
            Work::Gradients => executor.gradients(model, program, &batch, Trainable::Everything)?.0,
            Work::Forward => {
                let logits = executor.forward(model, program, &batch)?;
                mean_loss(logits, &rows.labels)
            }
        })
    }

    /// Losses of the next steps.
    pub fn losses(&mut self, steps: u64) -> Result<Vec<f64>> {
        (0..steps).map(|_| self.step()).collect()
    }

    /// Goes back to the first step with other weights.
    pub fn restart(&mut self, model: Model<f32>) {
        self.model = model;
        self.next = 0;
    }

    /// Writes the program of step `index` where it is not the same every time.
    fn plan(&mut self, index: u64) -> Result<()> {
        if let Plan::Paths { space, network, strategy, count } = &self.plan {
            let path = supernet_path(space, *strategy, index % count, 0, PATH_SEED);
            network.build(&path, &mut self.program);
        }
        Ok(self.program.place(self.rows)?)
    }

    /// Runs `steps` steps and measures them.
    pub fn timed(&mut self, steps: u64) -> Result<Stretch> {
        let before = all_counted_macs();
        let start = Instant::now();
        for _ in 0..steps {
            self.step()?;
        }
        let seconds = start.elapsed().as_secs_f64();
        Ok(Stretch { seconds, macs: all_counted_macs() - before })
    }

    /// What the first step computes, in the order in which the peer writes its own: the gradient
    /// of every weight slice, then the distinct rows of the tables, numbered through, and their
    /// sums. Of a forward step, the logits.
    pub fn first_results(&mut self) -> Result<Gradients> {
        self.plan(0)?;
        let rows = &self.batches[0];
        let batch = Batch {
            rows: self.rows,
            dense: &rows.dense,
            ids: &rows.ids,
            labels: &rows.labels,
            weights: &[],
            lists: &[],
        };
        if let Work::Forward = self.work {
            let logits = self.executor.forward(&self.model, &mut self.program, &batch)?;
            return Ok(Gradients { slices: vec![logits.to_vec()], rows: Vec::new() });
        }
        self.executor.gradients(&self.model, &mut self.program, &batch, Trainable::Everything)?;
        let slices = self
            .program
            .slice_ids()
            .map(|id| self.executor.slice_gradient(&self.program, id).flatten().copied().collect());
        let slices: Vec<Vec<f32>> = slices.collect();
        let mut starts = vec![0u32];
        for table in 0..self.model.tables.len() {
            starts.push(starts[table] + self.model.tables.table(table).spec().rows as u32);
        }
        let mut rows = Vec::new();
        for (table, ids, sums) in self.executor.table_gradients() {
            let dim = self.model.tables.table(table).spec().dim;
            let sums = sums.chunks_exact(dim).map(<[f32]>::to_vec);
            rows.extend(ids.iter().map(|id| starts[table] + id).zip(sums));
        }
        rows.sort_by_key(|row| row.0);
        Ok(Gradients { slices, rows })
    }

    /// Writes the model as a user would get it: `model.onnx` in `folder`, raw inputs to probability.
    pub fn export(&self, folder: &Path) -> Result<()> {
        let dense = match self.program.ops().first() {
            Some(Op::DenseInput(op)) => self.program.width(op.out),
            _ => 0,
        };
        let transforms = vec![DenseTransform::None; dense];
        let encoded = export(&Export {
            name: "bench",
            program: &self.program,
            model: &self.model,
            transforms: &transforms,
            lists: &[],
            logit_shift: 0.0,
            metadata: &[],
        })?
        .encode(&ExternalData::default())?;
        let file = folder.join("model.onnx");
        std::fs::write(&file, encoded.model.to_vec()).with_context(|| file.display().to_string())
    }

    /// Writes everything that the peer needs into `folder`: `case.json` and `arrays.bin`.
    pub fn write(&mut self, folder: &Path) -> Result<()> {
        let file = folder.join("arrays.bin");
        let out = File::create(&file).with_context(|| file.display().to_string())?;
        let mut arrays = Arrays { out: BufWriter::with_capacity(1 << 20, out), len: 0 };
        let mut params = Vec::new();
        for (id, spec) in self.model.params.layout().iter() {
            let place = arrays.start();
            for row in 0..spec.rows {
                arrays.push(self.model.params.row(id, row))?;
            }
            params.push(json!({
                "name": spec.name, "rows": spec.rows, "cols": spec.cols, "place": arrays.end(place)
            }));
        }
        let mut tables = Vec::new();
        for index in 0..self.model.tables.len() {
            let (table, place) = (self.model.tables.table(index), arrays.start());
            for row in 0..table.spec().rows {
                arrays.push(table.row(row))?;
            }
            tables.push(json!({
                "rows": table.spec().rows, "dim": table.spec().dim, "place": arrays.end(place)
            }));
        }
        let mut batches = Vec::new();
        for batch in &self.batches {
            let place = arrays.start();
            arrays.push(&batch.dense)?;
            let dense = arrays.end(place);
            let place = arrays.start();
            arrays.push_ids(&batch.ids)?;
            let ids = arrays.end(place);
            let place = arrays.start();
            arrays.push(&batch.labels)?;
            let labels = arrays.end(place);
            batches.push(json!({ "dense": dense, "ids": ids, "labels": labels }));
        }
        arrays.out.flush()?;
        let mut programs = Vec::new();
        for index in 0..self.period() {
            self.plan(index)?;
            programs.push(describe(&self.program, self.model.params.layout())?);
        }
        let case = json!({
            "rows": self.rows,
            "work": self.work.describe(),
            "params": params,
            "tables": tables,
            "batches": batches,
            "programs": programs,
        });
        let file = folder.join("case.json");
        std::fs::write(&file, case.to_string()).with_context(|| file.display().to_string())
    }
}

impl Work {
    /// Numbers that the optimiser keeps beside each weight.
    pub fn state_slots(self) -> usize {
        match self {
            Self::Train { optimizer, .. } => optimizer.state_slots(),
            Self::Gradients | Self::Forward => 0,
        }
    }

    fn describe(self) -> Value {
        match self {
            Self::Gradients => json!({ "kind": "gradients" }),
            Self::Forward => json!({ "kind": "forward" }),
            Self::Train { optimizer, learning_rate, clip } => {
                let (name, epsilon) = match optimizer {
                    Optimizer::Sgd => ("sgd", 0.0),
                    Optimizer::Adagrad { epsilon } => ("adagrad", epsilon),
                    Optimizer::Adam { epsilon, .. } => ("adam", epsilon),
                };
                json!({
                    "kind": "train",
                    "optimizer": name,
                    "epsilon": epsilon,
                    "learning_rate": learning_rate,
                    "clip": clip,
                })
            }
        }
    }
}

/// Gradients of one step, or its logits.
pub struct Gradients {
    pub slices: Vec<Vec<f32>>,
    /// Distinct rows of all tables, numbered through, with their sums.
    pub rows: Vec<(u32, Vec<f32>)>,
}

/// The binary file beside `case.json`: little-endian numbers of four bytes.
struct Arrays {
    out: BufWriter<File>,
    len: u64,
}

impl Arrays {
    fn start(&self) -> u64 {
        self.len
    }

    /// Offset in bytes and length in numbers.
    fn end(&self, start: u64) -> Value {
        json!([start, (self.len - start) / 4])
    }

    fn push(&mut self, numbers: &[f32]) -> Result<()> {
        for number in numbers {
            self.out.write_all(&number.to_le_bytes())?;
        }
        self.len += 4 * numbers.len() as u64;
        Ok(())
    }

    fn push_ids(&mut self, ids: &[u32]) -> Result<()> {
        for id in ids {
            self.out.write_all(&id.to_le_bytes())?;
        }
        self.len += 4 * ids.len() as u64;
        Ok(())
    }
}

/// Products that all threads of the pool have counted so far.
fn all_counted_macs() -> u64 {
    let pool: u64 = rayon::broadcast(|_| counted_macs()).into_iter().sum();
    let outside = rayon::current_thread_index().is_none();
    pool + if outside { counted_macs() } else { 0 }
}

/// Mean binary cross-entropy with logits.
fn mean_loss(logits: &[f32], labels: &[f32]) -> f64 {
    let loss = |(&z, &y): (&f32, &f32)| {
        let (z, y) = (f64::from(z), f64::from(y));
        z.max(0.0) - z * y + (-z.abs()).exp().ln_1p()
    };
    logits.iter().zip(labels).map(loss).sum::<f64>() / logits.len() as f64
}

/// Batches of a click log's shape: dense values in [0, 3), ids that crowd at the start of each
/// table (the cube of a uniform number), a quarter of clicks.
pub fn batches(count: u64, rows: usize, dense: usize, table_rows: &[usize]) -> Vec<Rows> {
    let batch = |index| {
        let mut rng = stream(2, "bench/batch", index);
        let dense = (0..rows * dense).map(|_| rng.unit() as f32 * 3.0).collect();
        let mut ids = Vec::with_capacity(rows * table_rows.len());
        for (field, &n) in table_rows.iter().enumerate() {
            let mut rng = stream(2, "bench/ids", index * 64 + field as u64);
            ids.extend(
                (0..rows).map(|_| ((rng.unit().powi(3) * n as f64) as u32).min(n as u32 - 1)),
            );
        }
        let labels = (0..rows).map(|_| f32::from(rng.chance(0.25))).collect();
        Rows { dense, ids, labels }
    };
    (0..count).map(batch).collect()
}
