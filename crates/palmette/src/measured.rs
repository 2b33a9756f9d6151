/*!
What only a machine can tell of a network: the memory that its training peaks at, and how long a
prediction takes.

Both are for the network on its own, as `palmette train` trains and exports it and as `palmette
predict` runs it: through this crate's engine, which is what the exported weights were trained with
and gives the same numbers as the exported ONNX model.
*/

use std::time::Instant;

use anyhow::Result;
use palmette_ctr::CompiledModel;
use palmette_engine::ops::Op;
use palmette_engine::{Batch, Executor, Extent, Program};
use palmette_random::{Draw, stream};

use crate::onnx::ExternalData;

/// Bytes held at the peak of one training with its export, by what holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PeakMemory {
    /// Code, buffers of readers, thread stacks: what the process takes with a tiny network.
    pub program: u64,
    /// Weights and tables with the optimiser's state.
    pub model: u64,
    /// Activations of a batch and their gradients.
    pub activations: u64,
    /// Copies of the weights in the exported graph.
    pub export: u64,
}

/// Fitted, not derived: what the other terms leave of the peaks in `docs/performance.md`, "Memory of
/// a training".
const PROGRAM_BYTES: u64 = 30 << 20;
/// Rows in one forward pass of validation.
const PREDICTED_ROWS: u64 = 1024;

impl PeakMemory {
    /// Predicts the peak of training `compiled` with Adagrad on batches of `batch_rows`.
    pub fn of_training(compiled: &CompiledModel, batch_rows: u64) -> Self {
        const F32: u64 = size_of::<f32>() as u64;
        // Rows are padded to whole cache lines; one accumulator beside each weight.
        let padded: u64 =
            compiled.layout.iter().map(|(_, spec)| (spec.rows * spec.stride) as u64).sum();
        let model = (padded + compiled.table_params()) * 2 * F32;
        // A step keeps values and gradients, validation values alone.
        let rows = (2 * batch_rows).max(PREDICTED_ROWS);
        let activations = F32 * rows * activation_width(&compiled.program);
        let weights = (compiled.params() + compiled.table_params()) * F32;
        // The graph's message is built and then encoded; what goes to a second file is streamed.
        let inside = weights <= ExternalData::default().above as u64;
        let export = if inside { 2 * weights } else { compiled.params() * F32 };
        Self { program: PROGRAM_BYTES, model, activations, export }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.program + self.model + self.activations + self.export
    }
}

/// Elements that operators leave for a row, with what they keep for backward: the input of a norm,
/// and of attention two numbers for each head and field.
fn activation_width(program: &Program) -> u64 {
    let width = |op: &Op| {
        let own = match program.extent(output(op)) {
            Extent::Rows { width } => width,
            Extent::Fields { fields, dim } => fields * dim,
            // How long lists are, the data decide; architectures in a file read none.
            Extent::Jagged { dim, .. } => dim,
        };
        let kept = match op {
            Op::Linear(op) if op.norm.is_some() => own,
            Op::FieldMix(op) if op.norm.is_some() => own,
            Op::AddNorm(_) => own,
            Op::Attention(op) => own / op.dim * 2 * op.heads,
            _ => 0,
        };
        (own + kept) as u64
    };
    program.ops().iter().map(width).sum()
}

fn output(op: &Op) -> palmette_engine::BufferId {
    match op {
        Op::DenseInput(op) => op.out,
        Op::Embedding(op) => op.out,
        Op::Linear(op) => op.out,
        Op::FieldMix(op) => op.out,
        Op::RowMap(op) => op.out,
        Op::Gram(op) => op.out,
        Op::Gate(op) => op.out,
        Op::Add(op) => op.out,
        Op::Multiply(op) => op.out,
        Op::Attention(op) => op.out,
        Op::AddNorm(op) => op.out,
        Op::FieldsFromRows(op) => op.out,
        Op::RowsFromFields(op) => op.out,
        Op::FactorizationMachine(op) => op.out,
        Op::FieldSums(op) => op.out,
        Op::Outer(op) => op.out,
        Op::Zeros(op) => op.out,
        Op::Head(op) => op.out,
        Op::JaggedEmbedding(op) => op.out,
        Op::Pool(op) => op.out,
        Op::TargetAttention(op) => op.out,
        Op::JaggedAttention(op) => op.out,
    }
}

/// Microseconds of a prediction: median and 95th percentile.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Latency {
    /// Rows predicted at once.
    pub batch: usize,
    /// Median.
    pub median: f64,
    /// 19 of 20 predictions are as fast.
    pub p95: f64,
}

/// Times predictions of `batch` rows: at least 30, for about half a second, after five that warm
/// up. Rows of the tables are drawn anew for each of eight batches, so that tables larger than the
/// caches cost what they cost in service.
///
/// # Errors
/// When the system has not enough memory for the tables.
pub fn latency(compiled: &mut CompiledModel, batch: usize) -> Result<Latency> {
    let model = compiled.initialise::<f32>(1, 0)?;
    let dense = match compiled.program.ops().first() {
        Some(Op::DenseInput(op)) => compiled.program.width(op.out),
        _ => 0,
    };
    let inputs: Vec<(Vec<f32>, Vec<u32>)> = (0..8)
        .map(|index| {
            let mut rng = stream(1, "latency", index);
            let dense = (0..batch * dense).map(|_| rng.unit() as f32).collect();
            let tables = compiled.tables.iter().flat_map(|table| std::iter::repeat_n(table, batch));
            let ids = tables.map(|table| rng.below(table.rows as u64) as u32).collect();
            (dense, ids)
        })
        .collect();
    let mut executor = Executor::new();
    let mut times = Vec::new();
    let start = Instant::now();
    for run in 0.. {
        let (dense, ids) = &inputs[run % inputs.len()];
        let batch = Batch { rows: batch, dense, ids, labels: &[], weights: &[], lists: &[] };
        let begun = Instant::now();
        executor.forward(&model, &mut compiled.program, &batch)?;
        if run >= 5 {
            times.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        let enough = times.len() >= 30 && start.elapsed().as_secs_f64() > 0.5;
        if enough || times.len() >= 100_000 {
            break;
        }
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    Ok(Latency { batch, median: at(0.5), p95: at(0.95) })
}
