//! Training the supernet: one path a batch.

use palmette_data::Batch;
use palmette_engine::{
    Executor, Model, Optimizer, ParamStore, Program, Schedule, Step, TableSpec, Trainable,
};
use serde::{Deserialize, Serialize};

use super::standalone::as_engine;
use super::{Batches, Keeping, Order, TrainError, TrainingProgress};
use crate::nasrec::{NasRecSpace, Network, PathStrategy, Shape, supernet_path};

/// How a supernet is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SupernetSettings {
    /// How paths are drawn.
    pub paths: PathStrategy,
    /// Steps in all.
    pub steps: u64,
    /// Steps over which the probability of a full path falls from 1 to 0.
    pub warmup_steps: u64,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Adagrad's epsilon.
    pub epsilon: f64,
    /// Rows of a batch.
    pub batch_size: usize,
    /// Largest global gradient norm.
    pub clip_norm: f64,
    /// Order of the rows.
    pub order: Order,
    /// Layer norm in the operators, as published; without it the shared weights are closer to
    /// those of the norm-free final networks.
    pub layer_norm: bool,
}

impl Default for SupernetSettings {
    /// NASRec's on Criteo: 71,625 steps of 512, 15,000 of warm-up, Adagrad 0.12, epsilon 1e-2, clip 5.
    fn default() -> Self {
        Self {
            paths: PathStrategy::SingleOperatorAnyConnection,
            steps: 71_625,
            warmup_steps: 15_000,
            learning_rate: 0.12,
            epsilon: 1e-2,
            batch_size: 512,
            clip_norm: 5.0,
            order: Order::Shuffled,
            layer_norm: true,
        }
    }
}

/// A supernet in training.
pub struct SupernetTraining<'a> {
    /// Shared weights.
    pub model: Model<f32>,
    /// Steps done and the loss along the way.
    pub progress: TrainingProgress,
    settings: SupernetSettings,
    space: NasRecSpace,
    network: Network,
    batches: Batches<'a>,
    schedule: Schedule,
    seed: u64,
    executor: Executor<f32>,
    program: Program,
    batch: Batch,
    rows: Vec<u32>,
}

/// Points of the loss curve.
const CURVE_POINTS: u64 = 50;

impl<'a> SupernetTraining<'a> {
    /// Allocates shared weights from `seed`.
    pub fn new(
        space: NasRecSpace,
        shape: Shape,
        tables: Vec<TableSpec>,
        batches: Batches<'a>,
        settings: SupernetSettings,
        keeping: &Keeping,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let network = Network::supernet(space.config(), shape, settings.layer_norm);
        let slots = Optimizer::Adagrad { epsilon: settings.epsilon }.state_slots();
        Ok(Self {
            model: Model {
                params: ParamStore::new(network.layout().clone(), seed, slots)?,
                tables: keeping.tables(tables, slots, seed)?,
            },
            progress: TrainingProgress::default(),
            schedule: Schedule::new(settings.learning_rate, settings.steps),
            settings,
            space,
            network,
            batches,
            seed,
            executor: keeping.numbers.executor(),
            program: Program::new(),
            batch: Batch::default(),
            rows: Vec::new(),
        })
    }

    /// The shared network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Steps in all.
    pub fn steps(&self) -> u64 {
        self.settings.steps
    }

    /// Changes the plan before the first step (after a calibration).
    pub fn set_steps(&mut self, steps: u64, warmup_steps: u64) {
        self.settings.steps = steps;
        self.settings.warmup_steps = warmup_steps;
        self.schedule = Schedule::new(self.settings.learning_rate, steps);
    }

    /// Does one step; returns the multiply-accumulates of its path.
    pub fn advance(&mut self) -> Result<u64, TrainError> {
        let s = &self.settings;
        let path =
            supernet_path(&self.space, s.paths, self.progress.step, s.warmup_steps, self.seed);
        self.network.build(&path, &mut self.program);
        self.batches.fill(self.progress.step, &mut self.rows, &mut self.batch)?;
        let step = Step {
            index: self.progress.step,
            learning_rate: self.schedule.at(self.progress.step),
            optimizer: Optimizer::Adagrad { epsilon: s.epsilon },
            clip_norm: Some(s.clip_norm),
            trainable: Trainable::Everything,
        };
        let batch = as_engine(&self.batch, &[]);
        let loss = self.executor.train_step(&mut self.model, &mut self.program, &batch, &step)?;
        self.progress.record(loss, self.steps(), CURVE_POINTS);
        Ok(self.program.macs())
    }

    /// Multiply-accumulates of the full path.
    pub fn full_path_macs(&self) -> u64 {
        let path = supernet_path(&self.space, PathStrategy::FullPath, 0, 0, 0);
        crate::nasrec::supernet_macs(&path, self.network.shape())
    }

    /// Ends the training and hands over the weights.
    pub fn finish(self) -> (Network, Model<f32>) {
        (self.network, self.model)
    }
}
