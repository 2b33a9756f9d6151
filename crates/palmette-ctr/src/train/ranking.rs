//! The score of a sub-network with weights from the supernet.

use palmette_data::{Batch, Dataset, Split};
use palmette_engine::{Executor, Model, Optimizer, ParamId, Program, Schedule, Step, Trainable};
use serde::{Deserialize, Serialize};

use super::standalone::as_engine;
use super::{Batches, Order, TrainError, predict_rows};
use crate::nasrec::{Network, Path};

/// How a sub-network is scored (NASRec, post-training fine-tuning).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RankingSettings {
    /// Steps of last-layer fine-tuning; 0 for none.
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
    /// NASRec's on Criteo: 500 steps of 512 at 0.04, then 150 x 8,192 validation rows.
    fn default() -> Self {
        Self {
            finetune_steps: 500,
            learning_rate: 0.04,
            epsilon: 1e-2,
            batch_size: 512,
            validation_rows: 150 * 8192,
        }
    }
}

/// Scores paths: freezes everything but the head, tunes that on training rows with a fresh
/// optimiser, and takes the log loss on validation rows. The supernet's own head comes back
/// after every path, so scores do not depend on the order of the paths.
pub struct SubnetRanker<'a> {
    network: Network,
    model: Model<f32>,
    head: Vec<(ParamId, Vec<Vec<f32>>)>,
    dataset: &'a Dataset,
    batches: Batches<'a>,
    settings: RankingSettings,
    executor: Executor<f32>,
    program: Program,
    batch: Batch,
    rows: Vec<u32>,
    labels: Vec<f32>,
    weights: Vec<f64>,
}

impl<'a> SubnetRanker<'a> {
    /// Takes over a trained supernet.
    pub fn new(
        network: Network,
        mut model: Model<f32>,
        dataset: &'a Dataset,
        table_rows: Vec<u32>,
        settings: RankingSettings,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let batches = Batches::new(
            dataset,
            &[Split::Train],
            settings.batch_size,
            Order::Shuffled,
            seed ^ 0x7261_6e6b, // another permutation than the supernet's
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
            executor: Executor::new(),
            program: Program::new(),
            batch: Batch::default(),
            rows: Vec::new(),
            labels,
            weights: Vec::new(),
        };
        ranker.weights = ranker.validation_weights()?;
        Ok(ranker)
    }

    fn validation_weights(&mut self) -> Result<Vec<f64>, TrainError> {
        let n = self.labels.len();
        self.dataset.fill_range(
            Split::Validation,
            0..n.min(1),
            self.batches.table_rows(),
            &mut self.batch,
        )?;
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
        let finetune = self.settings.finetune_steps;
        self.score_with(path, finetune)
    }

    /// Validation log loss after `finetune_steps` steps on the head.
    pub fn score_with(&mut self, path: &Path, finetune_steps: u64) -> Result<f64, TrainError> {
        self.network.build(path, &mut self.program);
        let schedule = Schedule::new(self.settings.learning_rate, finetune_steps.max(1));
        let mut outcome = Ok(());
        for index in 0..finetune_steps {
            self.batches.fill(index, &mut self.rows, &mut self.batch)?;
            let step = Step {
                index,
                learning_rate: schedule.at(index),
                optimizer: Optimizer::Adagrad { epsilon: self.settings.epsilon },
                clip_norm: Some(5.0),
                trainable: Trainable::Head,
            };
            let batch = as_engine(&self.batch);
            outcome = self
                .executor
                .train_step(&mut self.model, &mut self.program, &batch, &step)
                .map(drop);
            if outcome.is_err() {
                break;
            }
        }
        let logits = outcome.map_err(TrainError::from).and_then(|()| {
            predict_rows(
                &mut self.executor,
                &self.model,
                &mut self.program,
                self.dataset,
                Split::Validation,
                0..self.labels.len(),
                self.batches.table_rows(),
            )
        });
        self.restore_head()?;
        let (mut sum, mut total) = (0.0, 0.0);
        for ((&logit, &label), &weight) in logits?.iter().zip(&self.labels).zip(&self.weights) {
            sum += weight * (crate::metrics::softplus(logit) - f64::from(label) * logit);
            total += weight;
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
