//! The score of a sub-network with weights from the supernet.

use std::sync::Arc;

use palmette_data::{Batch, Dataset, Split};
use palmette_engine::{
    Executor, Model, Optimizer, ParamId, ParamStore, Program, Schedule, Step, Trainable,
};
use serde::{Deserialize, Serialize};

use super::standalone::{PREDICT_ROWS, as_engine};
use super::{Batches, Numbers, Order, TrainError};
use crate::nasrec::{Network, Path};

/// Which weights a candidate is scored with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RankingWeights {
    /// The supernet's, after a few steps on the head (NASRec, post-training fine-tuning).
    #[default]
    Shared,
    /// Its own, trained from scratch for a few steps over the supernet's embedding tables, which
    /// stay as they are. Ours, for logs of some 100,000 rows (docs/results.md).
    Fresh,
}

/// How a sub-network is scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RankingSettings {
    /// Which weights.
    pub weights: RankingWeights,
    /// Steps on the head (shared weights) or on the whole network (fresh ones); 0 for none.
    pub finetune_steps: u64,
    /// Learning rate of a fresh Adagrad.
    pub learning_rate: f64,
    /// Adagrad's epsilon.
    pub epsilon: f64,
    /// Rows of a batch.
    pub batch_size: usize,
    /// Validation rows that the score reads; 0 for all.
    pub validation_rows: usize,
}

impl Default for RankingSettings {
    /// NASRec's on Criteo: 500 steps of 512 at 0.04 on the head, then 150 x 8,192 validation rows.
    fn default() -> Self {
        Self {
            weights: RankingWeights::Shared,
            finetune_steps: 500,
            learning_rate: 0.04,
            epsilon: 1e-2,
            batch_size: 512,
            validation_rows: 150 * 8192,
        }
    }
}

impl RankingSettings {
    fn optimizer(&self) -> Optimizer {
        Optimizer::Adagrad { epsilon: self.epsilon }
    }
}

/// Scores paths by the log loss on validation rows, after a few steps on training rows.
///
/// With shared weights everything but the head is frozen and the supernet's own head comes back
/// after every path; with fresh weights the tables are frozen. Either way a score depends on
/// nothing but the path, whatever was scored before it.
pub struct SubnetRanker<'a> {
    network: Network,
    model: Model<f32>,
    head: Vec<(ParamId, Vec<Vec<f32>>)>,
    dataset: &'a Dataset,
    batches: Batches<'a>,
    settings: RankingSettings,
    seed: u64,
    numbers: Numbers,
    executor: Executor<f32>,
    program: Program,
    batch: Batch,
    rows: Vec<u32>,
    labels: Vec<f32>,
    weights: Vec<f64>,
    decoded: Arc<Decoded>,
}

/// Rows that every candidate reads, decoded once for all rankers.
#[derive(Default)]
struct Decoded {
    /// Batches of the first steps.
    tuning: Vec<Batch>,
    /// The first batches of validation rows.
    validation: Vec<Batch>,
}

/// Bytes of decoded rows at most, of either kind; what is left out is decoded for every candidate.
const DECODED_BYTES: usize = 512 << 20;

/// Fills batches until they are `count` or hold `most` bytes.
fn decode(
    count: u64,
    most: usize,
    mut fill: impl FnMut(u64, &mut Batch) -> Result<(), TrainError>,
) -> Result<Vec<Batch>, TrainError> {
    let (mut batches, mut bytes) = (Vec::new(), 0);
    for index in 0..count {
        let mut batch = Batch::default();
        fill(index, &mut batch)?;
        let words = batch.dense.len() + batch.ids.len() + batch.labels.len() + batch.weights.len();
        bytes += words * size_of::<f32>();
        if bytes > most {
            break;
        }
        batches.push(batch);
    }
    Ok(batches)
}

impl<'a> SubnetRanker<'a> {
    /// Takes over a trained supernet.
    pub fn new(
        network: Network,
        mut model: Model<f32>,
        dataset: &'a Dataset,
        table_rows: Vec<u32>,
        settings: RankingSettings,
        numbers: Numbers,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let seed = seed ^ 0x7261_6e6b; // another order and other weights than the supernet's
        let batches = Batches::new(
            dataset,
            &[Split::Train],
            settings.batch_size,
            Order::Shuffled,
            seed,
            table_rows,
        )?;
        model.params.reset_state()?;
        let head = network.head_params();
        let head = head
            .into_iter()
            .map(|id| {
                let rows = model.params.layout().spec(id).rows;
                (id, (0..rows).map(|r| model.params.row(id, r).to_vec()).collect())
            })
            .collect();
        let mut labels = dataset.labels(Split::Validation);
        if labels.is_empty() {
            return Err(TrainError::Empty("validation"));
        }
        if settings.validation_rows > 0 {
            labels.truncate(settings.validation_rows);
        }
        let mut ranker = Self {
            network,
            model,
            head,
            dataset,
            batches,
            settings,
            seed,
            numbers,
            executor: numbers.executor(),
            program: Program::new(),
            batch: Batch::default(),
            rows: Vec::new(),
            labels,
            weights: Vec::new(),
            decoded: Arc::default(),
        };
        ranker.keep_decoded(DECODED_BYTES)?;
        ranker.weights = ranker.validation_weights()?;
        Ok(ranker)
    }

    /// A second ranker with the same weights, for another thread.
    ///
    /// # Errors
    /// When the system has not enough memory.
    pub fn try_clone(&self) -> Result<Self, TrainError> {
        Ok(Self {
            network: self.network.clone(),
            model: self.model.try_clone()?,
            head: self.head.clone(),
            dataset: self.dataset,
            batches: self.batches.clone(),
            settings: self.settings.clone(),
            seed: self.seed,
            numbers: self.numbers,
            executor: self.numbers.executor(),
            program: Program::new(),
            batch: Batch::default(),
            rows: Vec::new(),
            labels: self.labels.clone(),
            weights: self.weights.clone(),
            decoded: Arc::clone(&self.decoded),
        })
    }

    /// How paths are scored.
    pub fn settings(&self) -> &RankingSettings {
        &self.settings
    }

    /// Scores in another way from now on, over the same validation rows.
    ///
    /// # Errors
    /// What reading the training rows reports.
    pub fn set_settings(&mut self, settings: RankingSettings) -> Result<(), TrainError> {
        self.batches = Batches::new(
            self.dataset,
            &[Split::Train],
            settings.batch_size,
            Order::Shuffled,
            self.seed,
            self.batches.table_rows().to_vec(),
        )?;
        self.settings = settings;
        self.keep_decoded(DECODED_BYTES)
    }

    /// Decodes the rows that every candidate reads, at most `bytes` of the batches of steps and as
    /// many of validation rows; scores do not depend on it.
    ///
    /// # Errors
    /// What reading rows reports.
    pub fn keep_decoded(&mut self, bytes: usize) -> Result<(), TrainError> {
        let mut rows = Vec::new();
        let tuning = decode(self.settings.finetune_steps, bytes, |index, batch| {
            self.batches.fill(index, &mut rows, batch)
        })?;
        let chunks = self.labels.len().div_ceil(PREDICT_ROWS) as u64;
        let validation = decode(chunks, bytes, |index, batch| self.fill_validation(index, batch))?;
        self.decoded = Arc::new(Decoded { tuning, validation });
        Ok(())
    }

    /// Validation rows `index * PREDICT_ROWS ..`.
    fn fill_validation(&self, index: u64, batch: &mut Batch) -> Result<(), TrainError> {
        let start = index as usize * PREDICT_ROWS;
        let rows = start..self.labels.len().min(start + PREDICT_ROWS);
        let tables = self.batches.table_rows();
        Ok(self.dataset.fill_range(Split::Validation, rows, tables, batch)?)
    }

    /// Bytes that a copy of this ranker takes.
    pub fn bytes(&self) -> u64 {
        self.model.params.bytes() + self.model.tables.bytes()
    }

    fn validation_weights(&mut self) -> Result<Vec<f64>, TrainError> {
        let n = self.labels.len();
        let mut weights = Vec::with_capacity(n);
        for start in (0..n).step_by(8192) {
            let rows = start..n.min(start + 8192);
            self.dataset.fill_range(
                Split::Validation,
                rows,
                self.batches.table_rows(),
                &mut self.batch,
            )?;
            weights.extend(self.batch.weights.iter().map(|&w| f64::from(w)));
        }
        Ok(weights)
    }

    /// Validation log loss of a path.
    pub fn score(&mut self, path: &Path) -> Result<f64, TrainError> {
        self.score_with(path, self.settings.weights, self.settings.finetune_steps)
    }

    /// Validation log loss with these weights, after `finetune_steps` steps.
    pub fn score_with(
        &mut self,
        path: &Path,
        weights: RankingWeights,
        finetune_steps: u64,
    ) -> Result<f64, TrainError> {
        match weights {
            RankingWeights::Shared => {
                self.network.build(path, &mut self.program);
                let outcome = self.tune_and_measure(finetune_steps, Trainable::Head);
                self.restore_head()?;
                outcome
            }
            RankingWeights::Fresh => {
                let own = Network::standalone(path, self.network.shape(), false);
                own.build(path, &mut self.program);
                let slots = self.settings.optimizer().state_slots();
                let fresh = ParamStore::new(own.layout().clone(), self.seed, slots)?;
                let shared = std::mem::replace(&mut self.model.params, fresh);
                let outcome = self.tune_and_measure(finetune_steps, Trainable::Network);
                self.model.params = shared;
                outcome
            }
        }
    }

    fn tune_and_measure(
        &mut self,
        finetune_steps: u64,
        trainable: Trainable,
    ) -> Result<f64, TrainError> {
        let schedule = Schedule::new(self.settings.learning_rate, finetune_steps.max(1));
        for index in 0..finetune_steps {
            let batch = match self.decoded.tuning.get(index as usize) {
                Some(batch) => batch,
                None => {
                    self.batches.fill(index, &mut self.rows, &mut self.batch)?;
                    &self.batch
                }
            };
            let step = Step {
                index,
                learning_rate: schedule.at(index),
                optimizer: self.settings.optimizer(),
                clip_norm: Some(5.0),
                trainable,
            };
            let batch = as_engine(batch, &[]);
            self.executor.train_step(&mut self.model, &mut self.program, &batch, &step)?;
        }
        let (mut sum, mut total) = (0.0, 0.0);
        for index in 0..self.labels.len().div_ceil(PREDICT_ROWS) {
            let known = Arc::clone(&self.decoded);
            let batch = match known.validation.get(index) {
                Some(batch) => batch,
                None => {
                    let mut batch = std::mem::take(&mut self.batch);
                    self.fill_validation(index as u64, &mut batch)?;
                    self.batch = batch;
                    &self.batch
                }
            };
            let input = as_engine(batch, &[]);
            let logits = self.executor.forward(&self.model, &mut self.program, &input)?;
            let from = index * PREDICT_ROWS;
            for ((&logit, &label), &weight) in
                logits.iter().zip(&self.labels[from..]).zip(&self.weights[from..])
            {
                let logit = f64::from(logit);
                sum += weight * (crate::metrics::softplus(logit) - f64::from(label) * logit);
                total += weight;
            }
        }
        Ok(sum / total)
    }

    fn restore_head(&mut self) -> Result<(), TrainError> {
        for (id, rows) in &self.head {
            for (r, row) in rows.iter().enumerate() {
                self.model.params.row_mut(*id, r).copy_from_slice(row);
            }
            self.model.params.reset_state_of(*id);
        }
        Ok(())
    }
}
