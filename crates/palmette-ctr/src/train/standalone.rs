//! Training a network of its own, and predicting with it.

use palmette_data::{Batch, Dataset, Split};
use palmette_engine::{
    self as engine, Executor, JaggedIds, Model, Optimizer, ParamLayout, ParamStore, Precision,
    Program, Schedule, Step, TableSpec, Trainable,
};
use serde::{Deserialize, Serialize};

use super::{Batches, Keeping, Order, TrainError, TrainingProgress};

/// How a network is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSettings {
    /// Highest learning rate of the schedule (10 % linear warm-up, then cosine).
    pub learning_rate: f64,
    /// Adagrad's epsilon, outside the root.
    pub epsilon: f64,
    /// Rows of a batch.
    pub batch_size: usize,
    /// Passes over the training rows; embeddings overfit from the second on.
    pub epochs: f64,
    /// Largest global gradient norm.
    pub clip_norm: f64,
    /// Order of the rows.
    pub order: Order,
    /// Layer norm in the standalone network (the published final fit has none).
    pub layer_norm: bool,
}

impl Default for TrainSettings {
    /// NASRec's: Adagrad 0.12, epsilon 1e-2, batch 512, one epoch, clip 5, no layer norm.
    fn default() -> Self {
        Self {
            learning_rate: 0.12,
            epsilon: 1e-2,
            batch_size: 512,
            epochs: 1.0,
            clip_norm: 5.0,
            order: Order::Shuffled,
            layer_norm: false,
        }
    }
}

impl TrainSettings {
    /// The optimiser.
    pub fn optimizer(&self) -> Optimizer {
        Optimizer::Adagrad { epsilon: self.epsilon }
    }
}

/// A network in training: its weights and how many steps they have seen.
pub struct NetworkTraining<'a> {
    /// Weights.
    pub model: Model<f32>,
    /// Steps done and the loss along the way.
    pub progress: TrainingProgress,
    settings: TrainSettings,
    batches: Batches<'a>,
    schedule: Schedule,
    program: Program,
    executor: Executor<f32>,
    batch: Batch,
    rows: Vec<u32>,
}

/// Points of a loss curve.
const CURVE_POINTS: u64 = 20;

impl<'a> NetworkTraining<'a> {
    /// Declares weights from `seed` for `program` and plans the steps.
    pub fn new(
        layout: ParamLayout,
        tables: Vec<TableSpec>,
        program: Program,
        batches: Batches<'a>,
        settings: TrainSettings,
        keeping: &Keeping,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let slots = settings.optimizer().state_slots();
        let steps =
            ((batches.rows() as f64 * settings.epochs) / batches.batch_rows() as f64).max(1.0);
        Ok(Self {
            model: Model {
                params: ParamStore::new(layout, seed, slots)?,
                tables: keeping.tables(tables, slots, seed)?,
            },
            progress: TrainingProgress::default(),
            schedule: Schedule::new(settings.learning_rate, steps as u64),
            settings,
            batches,
            program,
            executor: keeping.numbers.executor(),
            batch: Batch::default(),
            rows: Vec::new(),
        })
    }

    /// Steps in all.
    pub fn steps(&self) -> u64 {
        self.schedule.steps
    }

    /// Rows of a batch.
    pub fn batch_rows(&self) -> usize {
        self.batches.batch_rows()
    }

    /// The program, for export.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Does one step.
    pub fn advance(&mut self) -> Result<(), TrainError> {
        self.batches.fill(self.progress.step, &mut self.rows, &mut self.batch)?;
        let step = Step {
            index: self.progress.step,
            learning_rate: self.schedule.at(self.progress.step),
            optimizer: self.settings.optimizer(),
            clip_norm: Some(self.settings.clip_norm),
            trainable: Trainable::Everything,
        };
        let lists = engine_lists(&self.batch);
        let batch = as_engine(&self.batch, &lists);
        let loss = self.executor.train_step(&mut self.model, &mut self.program, &batch, &step)?;
        self.progress.record(loss, self.steps(), CURVE_POINTS);
        Ok(())
    }

    /// Logits of a part, with products in f32 whatever training uses: as every reader of the
    /// exported weights computes them.
    pub fn predict(&mut self, dataset: &Dataset, split: Split) -> Result<Vec<f64>, TrainError> {
        let tables = self.batches.table_rows().to_vec();
        let n = dataset.rows(split);
        let precision = self.executor.precision();
        self.executor.set_precision(Precision::F32);
        let logits = predict_rows(
            &mut self.executor,
            &self.model,
            &mut self.program,
            dataset,
            split,
            0..n,
            &tables,
        );
        self.executor.set_precision(precision);
        logits
    }
}

/// The lists of a batch in the layout of the engine.
pub fn engine_lists(batch: &Batch) -> Vec<JaggedIds<'_>> {
    let lists = batch.lists.iter();
    lists.map(|list| JaggedIds { offsets: &list.offsets, ids: &list.values }).collect()
}

/// A batch in the layout of the engine.
pub(super) fn as_engine<'a>(
    batch: &'a Batch,
    lists: &'a [JaggedIds<'a>],
) -> engine::Batch<'a, f32> {
    engine::Batch {
        rows: batch.rows,
        dense: &batch.dense,
        ids: &batch.ids,
        labels: &batch.labels,
        weights: &batch.weights,
        lists,
    }
}

/// Rows predicted at a time; 1,024 keep the activations of wide networks in a few megabytes.
pub const PREDICT_ROWS: usize = 1024;

/// Logits of consecutive rows of a part.
pub fn predict_rows(
    executor: &mut Executor<f32>,
    model: &Model<f32>,
    program: &mut Program,
    dataset: &Dataset,
    split: Split,
    rows: std::ops::Range<usize>,
    table_rows: &[u32],
) -> Result<Vec<f64>, TrainError> {
    let mut logits = Vec::with_capacity(rows.len());
    let mut batch = Batch::default();
    for start in rows.clone().step_by(PREDICT_ROWS) {
        let end = rows.end.min(start + PREDICT_ROWS);
        dataset.fill_range(split, start..end, table_rows, &mut batch)?;
        let lists = engine_lists(&batch);
        let part = executor.forward(model, program, &as_engine(&batch, &lists))?;
        logits.extend(part.iter().map(|&z| f64::from(z)));
    }
    Ok(logits)
}
