//! One network from scratch: fit, validate, predict.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use palmette_ctr::baselines::Baseline;
use palmette_ctr::metrics::{Evaluation, Scores, evaluate};
use palmette_ctr::nasrec::{self, Path, Shape};
use palmette_ctr::train::{Batches, NetworkTraining, TrainError, TrainSettings};
use palmette_ctr::{CompiledModel, ModelInputs};
use palmette_data::{Dataset, Split};
use palmette_engine::{EngineError, Model};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::context::RunContext;
use super::files::RunFiles;
use super::store::RunStore;
use super::workers::{in_order, table_bytes, trainings_at_a_time};
use crate::console::Progress;

/// A model that can be trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// A path of a NASRec space.
    Network(Path),
    /// A hand-made model.
    Baseline(Baseline),
}

impl Contender {
    /// Declares its parameters and builds its program.
    pub fn compile(&self, inputs: &ModelInputs, layer_norm: bool) -> Result<CompiledModel> {
        match self {
            Self::Network(path) => {
                check_sides(inputs.dense, inputs.fields.len())?;
                Ok(CompiledModel::nasrec(path, inputs, layer_norm))
            }
            Self::Baseline(baseline) => {
                baseline.compile(inputs).with_context(|| format!("baseline {}", baseline.kind()))
            }
        }
    }
}

/// Fails unless a NASRec network has something to read on both of its sides.
pub(super) fn check_sides(dense: usize, fields: usize) -> Result<()> {
    if dense == 0 || fields == 0 {
        bail!(
            "NASRec networks read at least one dense input and one categorical field, the data have \
             {dense} and {fields}; a constant column serves (NASRec gives Avazu, which has no dense \
             input, a zero)"
        );
    }
    Ok(())
}

impl Contender {
    /// Multiply-accumulates and weights: of a network by the closed form that the limits use.
    fn cost(&self, compiled: &CompiledModel, context: &RunContext<'_>) -> (u64, u64) {
        match self {
            Self::Network(path) => {
                let dataset = context.dataset;
                let shape =
                    Shape { dense: dataset.dense_fields(), fields: dataset.categorical_fields() };
                (nasrec::macs(path, shape), nasrec::params(path, shape))
            }
            Self::Baseline(_) => (compiled.macs(), compiled.params()),
        }
    }
}

/// A contender trained once on the training part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// What was trained.
    pub contender: Contender,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Seed of weights and order.
    pub seed: u64,
    /// Multiply-accumulates a sample.
    pub macs: u64,
    /// Weights outside the tables.
    pub params: u64,
    /// Log loss on the validation part; none when training diverged.
    pub validation_log_loss: Option<f64>,
    /// AUC on the validation part.
    pub validation_auc: Option<f64>,
    /// Mean training losses along the way.
    pub curve: Vec<f64>,
}

/// What a training depends on beside the model.
pub struct FitRequest<'r> {
    /// Names the checkpoint.
    pub task: &'r str,
    /// How.
    pub settings: &'r TrainSettings,
    /// Parts of the dataset to train on.
    pub parts: &'r [Split],
    /// Rows of each embedding table.
    pub table_rows: &'r [u32],
    /// Seed of weights and order.
    pub seed: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
}

impl FitRequest<'_> {
    /// Rows that the training will see, repetitions counted.
    pub fn samples(&self, dataset: &Dataset) -> u64 {
        let rows: usize = self.parts.iter().map(|&part| dataset.rows(part)).sum();
        (rows as f64 * self.settings.epochs) as u64
    }
}

/// Trains a compiled model from its checkpoint where there is one, else from fresh weights as
/// `initialise` leaves them; `progress` counts samples.
///
/// # Errors
/// A training that diverges, a stop by the user, a file that cannot be written.
pub fn fit<'a>(
    context: &RunContext<'a>,
    files: &RunFiles,
    request: &FitRequest<'_>,
    compiled: CompiledModel,
    progress: &Progress,
    initialise: impl FnOnce(&mut Model<f32>) -> Result<()>,
) -> Result<NetworkTraining<'a>> {
    let FitRequest { task, settings, parts, table_rows, seed, checkpoint_every } = *request;
    let CompiledModel { layout, tables, program, .. } = compiled;
    let batches = Batches::new(
        context.dataset,
        parts,
        settings.batch_size,
        settings.order,
        seed,
        table_rows.to_vec(),
    )?;
    let settings = settings.clone();
    let keeping = context.config.keeping();
    let mut training =
        NetworkTraining::new(layout, tables, program, batches, settings, &keeping, seed)?;
    match files.load_checkpoint(task, &mut training.model)? {
        Some(done) => training.progress = done,
        None => initialise(&mut training.model)?,
    }
    let batch_rows = training.batch_rows() as u64;
    progress.add(training.progress.step * batch_rows);
    while training.progress.step < training.steps() {
        if context.stop.is_set() {
            files.save_checkpoint(task, &training.progress, &training.model)?;
            context.stop.check()?;
        }
        training.advance()?;
        progress.add(batch_rows);
        if training.progress.step % checkpoint_every == 0
            && training.progress.step < training.steps()
        {
            files.save_checkpoint(task, &training.progress, &training.model)?;
        }
    }
    Ok(training)
}

/// Whether an error is a training that diverged, which is a result and not a failure of the run.
pub(super) fn diverged(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<TrainError>(),
        Some(TrainError::Engine(EngineError::Diverged { .. }))
    )
}

/// Logits with labels and weights of a part.
pub struct ScoredPart {
    /// Logits.
    pub logits: Vec<f64>,
    /// Labels.
    pub labels: Vec<bool>,
    /// Sample weights, where the log has any.
    pub weights: Option<Vec<f64>>,
}

impl ScoredPart {
    /// Pairs logits with the labels of a part.
    pub fn new(dataset: &Dataset, split: Split, logits: Vec<f64>) -> Result<Self> {
        let labels = dataset.labels(split).iter().map(|&y| y > 0.5).collect();
        Ok(Self { logits, labels, weights: sample_weights(dataset, split)? })
    }

    /// For the metrics.
    pub fn scores(&self) -> Result<Scores<'_>> {
        let scores = Scores::new(&self.logits, &self.labels)?;
        Ok(match &self.weights {
            Some(weights) => scores.weighted(weights)?,
            None => scores,
        })
    }

    /// All metrics.
    pub fn evaluate(&self, groups: Option<&[u64]>) -> Result<Evaluation> {
        Ok(evaluate(&self.scores()?, groups)?)
    }
}

/// Sample weights of a part, where the log has any.
pub fn sample_weights(dataset: &Dataset, split: Split) -> Result<Option<Vec<f64>>> {
    if !dataset.manifest().weighted {
        return Ok(None);
    }
    let tables = dataset.table_rows(None);
    let mut batch = palmette_data::Batch::default();
    let mut weights = Vec::new();
    let rows = dataset.rows(split);
    for start in (0..rows).step_by(8192) {
        dataset.fill_range(split, start..rows.min(start + 8192), &tables, &mut batch)?;
        weights.extend(batch.weights.iter().map(|&w| f64::from(w)));
    }
    Ok(Some(weights))
}

/// A contender to be trained on the training part and measured on the validation part, once.
#[derive(Clone, Debug)]
pub struct TrialRequest {
    /// Names the trial in the journal.
    pub id: String,
    /// What is trained.
    pub contender: Contender,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Seed of weights and order.
    pub seed: u64,
}

/// The trials that are asked for, from the journal or else trained now, several at a time where
/// the batches are small; the journal holds them in the order of `requests`.
///
/// # Errors
/// What [`fit`] reports, but for trainings that diverge: their trials have no loss.
pub fn validate(
    context: &RunContext<'_>,
    store: &mut RunStore,
    what: &str,
    requests: &[TrialRequest],
    table_rows: &[u32],
    checkpoint_every: u64,
) -> Result<Vec<Trial>> {
    let settings = &context.config.train.network;
    let mut open: Vec<&TrialRequest> = Vec::new();
    for request in requests {
        if recorded(store, request)?.is_none() {
            open.push(request);
        }
    }
    let samples = context.dataset.rows(Split::Train) as f64 * settings.epochs;
    let progress = context.console.progress((samples * open.len() as f64) as u64, what);
    let files = store.files().clone();
    in_order(
        &open,
        trainings_at_a_time(settings.batch_size, table_bytes(table_rows, context.config.numbers)),
        |request| {
            let begin = Instant::now();
            let trial =
                try_contender(context, &files, request, table_rows, checkpoint_every, &progress)?;
            Ok((trial, begin.elapsed()))
        },
        |i, (trial, took)| {
            let id = &open[i].id;
            store.append("trial", id, serde_json::to_value(trial)?, took.as_secs_f64())?;
            files.drop_checkpoint(&format!("trial/{id}"));
            Ok(())
        },
    )?;
    progress.finish();
    requests.iter().map(|request| recorded(store, request)?.context("a trial is missing")).collect()
}

/// The journal's trial of a request; the folder may be that of other settings.
fn recorded(store: &RunStore, request: &TrialRequest) -> Result<Option<Trial>> {
    let Some(event) = store.find("trial", &request.id) else { return Ok(None) };
    let trial = Trial::deserialize(&event["result"])?;
    let is_asked = trial.contender == request.contender
        && (trial.learning_rate, trial.seed) == (request.learning_rate, request.seed);
    if !is_asked {
        let (dir, id) = (store.dir().display(), &request.id);
        bail!("{dir}: trial {id} is of another search (edited settings?)");
    }
    Ok(Some(trial))
}

fn try_contender(
    context: &RunContext<'_>,
    files: &RunFiles,
    request: &TrialRequest,
    table_rows: &[u32],
    checkpoint_every: u64,
    progress: &Progress,
) -> Result<Trial> {
    let TrialRequest { id, contender, learning_rate, seed } = request;
    let seed = *seed;
    let settings =
        TrainSettings { learning_rate: *learning_rate, ..context.config.train.network.clone() };
    let compiled = contender.compile(&context.inputs(table_rows), settings.layer_norm)?;
    let (macs, params) = contender.cost(&compiled, context);
    let mut trial = Trial {
        contender: contender.clone(),
        learning_rate: *learning_rate,
        seed,
        macs,
        params,
        validation_log_loss: None,
        validation_auc: None,
        curve: Vec::new(),
    };
    let fit_request = FitRequest {
        task: &format!("trial/{id}"),
        settings: &settings,
        parts: &[Split::Train],
        table_rows,
        seed,
        checkpoint_every,
    };
    match fit(context, files, &fit_request, compiled, progress, |_| Ok(())) {
        Ok(mut training) => {
            let logits = training.predict(context.dataset, Split::Validation)?;
            let evaluation =
                ScoredPart::new(context.dataset, Split::Validation, logits)?.evaluate(None)?;
            trial.validation_log_loss = Some(evaluation.log_loss).filter(|l| l.is_finite());
            trial.validation_auc = evaluation.auc;
            trial.curve = training.progress.curve;
        }
        Err(error) if diverged(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(trial)
}

/// Appends a result to the journal.
pub fn record<T: Serialize>(
    store: &mut RunStore,
    kind: &str,
    id: &str,
    result: &T,
    begin: Instant,
) -> Result<Value> {
    store.append(kind, id, serde_json::to_value(result)?, begin.elapsed().as_secs_f64())
}

/// The trial with the lowest validation log loss, the first of equals.
pub fn best(trials: &[Trial]) -> Option<&Trial> {
    trials.iter().filter(|t| t.validation_log_loss.is_some()).min_by(|a, b| {
        a.validation_log_loss
            .partial_cmp(&b.validation_log_loss)
            .unwrap_or(std::cmp::Ordering::Equal)
    })
}
