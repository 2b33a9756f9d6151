//! The score of a sub-network with weights from the supernet.

use palmette_data::{Dataset, Split};
use palmette_engine::{
    EngineError, Executor, Model, Optimizer, ParamStore, Program, Schedule, Step, Trainable,
};
use serde::{Deserialize, Serialize};

use super::ranking_rows::{RankingRows, WeightedSum};
use super::standalone::as_engine;
use super::{Batches, Numbers, Order, TrainError, groups};
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

    /// Step `index` of `steps`.
    fn step(&self, index: u64, steps: u64, trainable: Trainable) -> Step {
        Step {
            index,
            learning_rate: Schedule::new(self.learning_rate, steps.max(1)).at(index),
            optimizer: self.optimizer(),
            clip_norm: Some(5.0),
            trainable,
        }
    }
}

/// Scores paths by the log loss on validation rows, after a few steps on training rows.
///
/// With shared weights everything but the head is frozen, and every path starts from the supernet's
/// own head; with fresh weights the tables are frozen. Either way a score depends on nothing but the
/// path, whatever was scored before it or together with it.
pub struct SubnetRanker<'a> {
    network: Network,
    model: Model<f32>,
    settings: RankingSettings,
    seed: u64,
    numbers: Numbers,
    executor: Executor<f32>,
    program: Program,
    rows: RankingRows<'a>,
}

/// One a path: its validation log loss, or that it diverged.
pub type Scores = Vec<Result<f64, EngineError>>;

/// Bytes of decoded rows at most, of either kind; what is left out is decoded for every candidate.
pub const DECODED_BYTES: usize = 512 << 20;

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
        // Heads and fresh weights have state of their own.
        model.params.drop_state();
        let mut rows = RankingRows::new(dataset, batches, settings.validation_rows)?;
        rows.keep_decoded(settings.finetune_steps, DECODED_BYTES)?;
        let executor = numbers.executor();
        let program = Program::new();
        Ok(Self { network, model, settings, seed, numbers, executor, program, rows })
    }

    /// A second ranker with the same weights, for another thread.
    ///
    /// # Errors
    /// When the system has not enough memory.
    pub fn try_clone(&self) -> Result<Self, TrainError> {
        Ok(Self {
            network: self.network.clone(),
            model: self.model.try_clone()?,
            settings: self.settings.clone(),
            seed: self.seed,
            numbers: self.numbers,
            executor: self.numbers.executor(),
            program: Program::new(),
            rows: self.rows.share(),
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
        self.rows.set_batches(Batches::new(
            self.rows.dataset(),
            &[Split::Train],
            settings.batch_size,
            Order::Shuffled,
            self.seed,
            self.rows.table_rows().to_vec(),
        )?);
        self.settings = settings;
        self.keep_decoded(DECODED_BYTES)
    }

    /// Decodes the rows that every candidate reads, at most `bytes` of the batches of steps and as
    /// many of validation rows; scores do not depend on it.
    ///
    /// # Errors
    /// What reading rows reports.
    pub fn keep_decoded(&mut self, bytes: usize) -> Result<(), TrainError> {
        self.rows.keep_decoded(self.settings.finetune_steps, bytes)
    }

    /// Bytes that a copy of this ranker takes.
    pub fn bytes(&self) -> u64 {
        self.model.params.bytes() + self.model.tables.bytes()
    }

    /// Which of `paths` are worth scoring together, as [`groups()`] says: with fresh weights none,
    /// they have nothing in common.
    pub fn groups(&self, paths: &[&Path], most: usize) -> Vec<Vec<usize>> {
        match self.settings.weights {
            RankingWeights::Shared => groups(&self.network, paths, self.settings.batch_size, most),
            RankingWeights::Fresh => (0..paths.len()).map(|i| vec![i]).collect(),
        }
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
        let go_on = || true;
        let scores = match weights {
            RankingWeights::Shared => self.tune_heads(&[path], finetune_steps, &go_on)?,
            RankingWeights::Fresh => {
                self.train_fresh(path, finetune_steps, &go_on)?.map(|s| vec![s])
            }
        };
        let score = scores.and_then(|mut scores| scores.pop());
        // `go_on` never ends the work, and one path has one score.
        Ok(score.unwrap_or_else(|| unreachable!("a path without a score"))?)
    }

    /// Validation log losses of several paths; with shared weights, what they compute alike is
    /// computed once a batch. Bit for bit those that each has alone.
    ///
    /// Asks before every batch whether to go on; `None` where the answer was no.
    pub fn score_together(
        &mut self,
        paths: &[&Path],
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Scores>, TrainError> {
        let steps = self.settings.finetune_steps;
        match self.settings.weights {
            RankingWeights::Shared => self.tune_heads(paths, steps, go_on),
            RankingWeights::Fresh => {
                paths.iter().map(|path| self.train_fresh(path, steps, go_on)).collect()
            }
        }
    }

    /// The supernet's weights, and a head for each path that starts as the supernet's.
    fn tune_heads(
        &mut self,
        paths: &[&Path],
        steps: u64,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Scores>, TrainError> {
        let layout = self.network.build_group(paths.iter().copied(), &mut self.program);
        let slots = self.settings.optimizer().state_slots();
        let mut heads = self.network.heads(layout, &self.model.params, slots)?;
        let mut scores: Scores = paths.iter().map(|_| Ok(f64::NAN)).collect();
        let (model, program, executor) = (&self.model, &mut self.program, &mut self.executor);
        for index in 0..steps {
            if !go_on() {
                return Ok(None);
            }
            let step = self.settings.step(index, steps, Trainable::Head);
            let batch = as_engine(self.rows.tuning(index)?, &[]);
            executor.tune_heads(model, &mut heads, program, &batch, &step, &mut scores)?;
            if scores.iter().all(Result::is_err) {
                return Ok(Some(scores));
            }
        }
        let mut sums = vec![WeightedSum::default(); paths.len()];
        for index in 0..self.rows.validation_batches() {
            if !go_on() {
                return Ok(None);
            }
            let batch = as_engine(self.rows.validation(index)?, &[]);
            let rows = batch.rows;
            let logits = executor.forward_heads(model, &heads, program, &batch)?;
            for (sum, logits) in sums.iter_mut().zip(logits.chunks_exact(rows)) {
                self.rows.add_losses(index, logits, sum);
            }
        }
        for (score, sum) in scores.iter_mut().zip(sums) {
            if let Ok(score) = score {
                *score = sum.mean();
            }
        }
        Ok(Some(scores))
    }

    /// Weights of the path's own over the supernet's tables.
    fn train_fresh(
        &mut self,
        path: &Path,
        steps: u64,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Result<f64, EngineError>>, TrainError> {
        let own = Network::standalone(path, self.network.shape(), false);
        own.build(path, &mut self.program);
        let slots = self.settings.optimizer().state_slots();
        let fresh = ParamStore::new(own.layout().clone(), self.seed, slots)?;
        let shared = std::mem::replace(&mut self.model.params, fresh);
        let outcome = self.train_and_measure(steps, go_on);
        self.model.params = shared;
        match outcome {
            Ok(score) => Ok(score.map(Ok)),
            Err(TrainError::Engine(error @ EngineError::Diverged { .. })) => Ok(Some(Err(error))),
            Err(error) => Err(error),
        }
    }

    fn train_and_measure(
        &mut self,
        steps: u64,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<f64>, TrainError> {
        for index in 0..steps {
            if !go_on() {
                return Ok(None);
            }
            let step = self.settings.step(index, steps, Trainable::Network);
            let batch = as_engine(self.rows.tuning(index)?, &[]);
            self.executor.train_step(&mut self.model, &mut self.program, &batch, &step)?;
        }
        let mut sum = WeightedSum::default();
        for index in 0..self.rows.validation_batches() {
            if !go_on() {
                return Ok(None);
            }
            let batch = as_engine(self.rows.validation(index)?, &[]);
            let logits = self.executor.forward(&self.model, &mut self.program, &batch)?;
            self.rows.add_losses(index, logits, &mut sum);
        }
        Ok(Some(sum.mean()))
    }
}
