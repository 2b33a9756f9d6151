//! One model trained on its own, outside a search, into a folder like a run's `best/`.

use std::path::Path;

use anyhow::{Context, Result};
use palmette_cost::CostSheet;
use palmette_ctr::nasrec::ArchitectureFile;
use palmette_ctr::train::{Numbers, TrainSettings};
use palmette_data::Split;
use serde::{Deserialize, Serialize};

use super::context::RunContext;
use super::environment::Environment;
use super::export::{
    ModelDescription, export_model, load_weights, transforms, write_drawing, write_json,
};
use super::files::file_sha256;
use super::folder::ModelFolder;
use super::store::RunStore;
use super::trials::{Contender, FitRequest, ScoredPart, fit};
use crate::onnx::EncodersFile;

/// Checkpoints and the request of a training that is not finished.
const STATE: &str = ".training";
/// Written last: its presence means that the model is complete.
const RECORD: &str = "training.json";

/// What is to be trained; a folder holds the answer to exactly one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainRequest {
    /// The network or hand-made model.
    pub contender: Contender,
    /// How.
    pub settings: TrainSettings,
    /// With which number types.
    #[serde(default)]
    pub numbers: Numbers,
    /// Seed of weights and order.
    pub seed: u64,
    /// Whether validation rows are trained on too.
    pub all: bool,
    /// Rows of each embedding table.
    pub table_rows: Vec<u32>,
    /// Fingerprint of the dataset.
    pub dataset: String,
    /// SHA-256 of the weights that training starts from.
    pub from: Option<String>,
}

/// What came out: `training.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainedModel {
    /// What was trained.
    pub request: TrainRequest,
    /// Steps done.
    pub steps: u64,
    /// Multiply-accumulates a sample.
    pub macs: u64,
    /// Weights outside the tables.
    pub params: u64,
    /// Log loss on the validation part, unless it was trained on.
    pub validation_log_loss: Option<f64>,
    /// AUC on the validation part.
    pub validation_auc: Option<f64>,
    /// Mean training losses along the way.
    pub curve: Vec<f64>,
    /// SHA-256 of `model.safetensors`.
    pub weights: String,
}

/// Trains what `request` asks for into `dir`, from the checkpoint of an interrupted training or
/// from the weights of `earlier`; a finished training is read and not repeated.
///
/// # Errors
/// A folder that answers another request, a training that diverges, a stop by the user.
pub fn train_one(
    context: &RunContext<'_>,
    request: &TrainRequest,
    architecture: Option<&ArchitectureFile>,
    earlier: Option<&ModelFolder>,
    dir: &Path,
) -> Result<TrainedModel> {
    if let Ok(text) = std::fs::read_to_string(dir.join(RECORD)) {
        let done: TrainedModel =
            serde_json::from_str(&text).with_context(|| dir.join(RECORD).display().to_string())?;
        return if done.request == *request { Ok(done) } else { Err(other_request(dir)) };
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let store = RunStore::open(&dir.join(STATE))?;
    match std::fs::read_to_string(store.dir().join("request.json")) {
        Ok(text) if serde_json::from_str::<TrainRequest>(&text)? != *request => {
            return Err(other_request(dir));
        }
        Ok(_) => {}
        Err(_) => write_json(&store.dir().join("request.json"), request)?,
    }
    Environment::here(context.dataset, request.numbers, &serde_json::to_string(request)?)?
        .check_or_record(&store)?;
    let inputs = context.inputs(&request.table_rows);
    let compiled = request.contender.compile(&inputs, request.settings.layer_norm)?;
    let (macs, params, tensors) = (compiled.macs(), compiled.params(), compiled.tensors.clone());
    let sheet = CostSheet::new(macs, params, compiled.table_sizes(), &request.numbers.memory());
    let parts: &[Split] =
        if request.all { &[Split::Train, Split::Validation] } else { &[Split::Train] };
    let fit_request = FitRequest {
        task: "training",
        settings: &request.settings,
        parts,
        table_rows: &request.table_rows,
        seed: request.seed,
        checkpoint_every: context.config.run.checkpoint_every,
    };
    let progress = context.console.progress(fit_request.samples(context.dataset), "training");
    let mut training = fit(context, store.files(), &fit_request, compiled, &progress, |model| {
        earlier.map_or(Ok(()), |earlier| load_weights(&earlier.dir, &tensors, model))
    })?;
    progress.finish();
    let mut trained = TrainedModel {
        request: request.clone(),
        steps: training.steps(),
        macs,
        params,
        validation_log_loss: None,
        validation_auc: None,
        curve: training.progress.curve.clone(),
        weights: String::new(),
    };
    if !request.all && context.dataset.rows(Split::Validation) > 0 {
        let logits = training.predict(context.dataset, Split::Validation)?;
        let evaluation =
            ScoredPart::new(context.dataset, Split::Validation, logits)?.evaluate(None)?;
        trained.validation_log_loss = Some(evaluation.log_loss);
        trained.validation_auc = evaluation.auc;
    }
    let description = ModelDescription {
        contender: request.contender.clone(),
        inputs,
        layer_norm: request.settings.layer_norm,
        transforms: transforms(context.dataset),
        dataset: std::path::absolute(context.dataset.dir())?,
        logit_shift: earlier.map_or(0.0, |earlier| earlier.description.logit_shift),
    };
    if let (Contender::Network(path), Some(file)) = (&request.contender, architecture) {
        write_json(&dir.join("arch.json"), &file.to_json()?)?;
        let subtitle = format!("{} multiply-accumulates", palmette_cost::format_count(macs));
        let shape = description.inputs.shape();
        write_drawing(&dir.join("arch.svg"), path, shape, "Trained architecture", &subtitle)?;
    }
    write_json(&dir.join("cost.json"), &sheet)?;
    if description.logit_shift != 0.0 {
        context.console.note(&format!(
            "the earlier model's correction for kept negatives stays: {:+.3} on every logit",
            description.logit_shift
        ));
    }
    if let (Some(first), Some(last)) = (trained.curve.first(), trained.curve.last())
        && last > first
    {
        context.console.note(&format!(
            "the training loss rose from {first:.4} to {last:.4}; a lower rate usually helps: \
             --set train.network.learning_rate={}",
            request.settings.learning_rate / 10.0
        ));
    }
    let encoders = EncodersFile::from_dataset(context.dataset)?;
    let (program, model) = (training.program(), &training.model);
    export_model(dir, "palmette", &description, &tensors, program, model, &encoders)?;
    trained.weights = file_sha256(&dir.join("model.safetensors"))?;
    write_json(&dir.join(RECORD), &trained)?;
    // The model is complete; a leftover of the state costs disk and nothing else.
    let _ = std::fs::remove_dir_all(store.dir());
    Ok(trained)
}

fn other_request(dir: &Path) -> anyhow::Error {
    anyhow::anyhow!(
        "{} holds a model of other data, settings or architecture; choose another folder, or remove it",
        dir.display()
    )
}
