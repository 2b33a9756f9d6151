//! Final fits on training and validation rows; each reads the test part once.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use palmette_cost::{CostSheet, format_bytes};
use palmette_ctr::nasrec::ArchitectureFile;
use palmette_ctr::train::TrainSettings;
use palmette_data::Split;
use serde::Deserialize;

use super::context::RunContext;
use super::export::{export_run, write_json};
use super::files::RunFiles;
use super::plan::Plan;
use super::results::{FinalFit, ModelResult, Summary};
use super::retraining::{Chosen, Tuned};
use super::setup::Run;
use super::store::RunStore;
use super::trials::{Contender, FitRequest, ScoredPart, Trial, diverged, fit};
use super::workers::{in_order, table_bytes, trainings_at_a_time};
use crate::console::Progress;
use crate::measured::SEARCH_BYTES;

impl Run<'_, '_> {
    /// Final fits on train and validation rows; each reads the test part once.
    pub(super) fn finish(
        &self,
        store: &mut RunStore,
        plan: &Plan,
        tuned: &Tuned,
    ) -> Result<Summary> {
        let Some((searched, _)) = tuned.chosen.split_first() else { bail!("nothing was searched") };
        let Contender::Network(architecture) = searched.trial.contender.clone() else {
            bail!("the searched model is a network");
        };
        self.write_random_network(store, &tuned.chosen)?;
        self.note_memory(plan, &tuned.chosen)?;
        self.final_fits(store, plan, &tuned.chosen)?;
        let mut diverged = tuned.diverged.clone();
        let mut models = Vec::new();
        for chosen in &tuned.chosen {
            match self.result_of(store, chosen)? {
                Some(result) => models.push(result),
                None if chosen.name == "searched" => bail!(
                    "the final fit of the searched network diverged at the rate {} that validation \
                     rows chose; lower train.learning_rates in a new run",
                    chosen.trial.learning_rate
                ),
                None => diverged.push(chosen.name.clone()),
            }
        }
        self.summarise(store, architecture, models, diverged)
    }

    /// Says what the final fits will hold, now that their networks are known.
    fn note_memory(&self, plan: &Plan, chosen: &[Chosen]) -> Result<()> {
        let fits = self.training_phases(plan.top_k, rayon::current_num_threads())?.fits;
        let models: Vec<_> = chosen.iter().map(|chosen| chosen.trial.contender.clone()).collect();
        let models = fits.of_all(&models)?;
        let exported = models.first().map_or(0, |searched| searched.export);
        let held = SEARCH_BYTES + fits.held_by(&models, self.final_seeds() as usize) + exported;
        self.context.console.note(&format!("memory: {} during final fits", format_bytes(held)));
        Ok(())
    }

    /// The best random network stands beside `best/`: `palmette train --arch` makes a model of it.
    fn write_random_network(&self, store: &RunStore, chosen: &[Chosen]) -> Result<()> {
        let Some(random) = chosen.iter().find(|chosen| chosen.name == "random-search") else {
            return Ok(());
        };
        let Contender::Network(path) = &random.trial.contender else { return Ok(()) };
        let file = ArchitectureFile {
            test_loss: random.trial.validation_log_loss,
            ..ArchitectureFile::new(path.clone(), self.space.nasrec().config())
        };
        write_json(&store.dir().join("random-search.json"), &file.to_json()?)
    }

    fn final_seeds(&self) -> u64 {
        self.context.config.train.final_seeds.max(1) as u64
    }

    /// Every final fit that the journal does not hold.
    fn final_fits(&self, store: &mut RunStore, plan: &Plan, chosen: &[Chosen]) -> Result<()> {
        let RunContext { config, dataset, .. } = *self.context;
        let rows = dataset.rows(Split::Train) + dataset.rows(Split::Validation);
        let all = chosen.iter().flat_map(|c| (0..self.final_seeds()).map(move |n| (c, n)));
        let open: Vec<(&Chosen, u64)> = all
            .filter(|(chosen, n)| store.find("final", &format!("{}/{n}", chosen.name)).is_none())
            .collect();
        let samples = rows as f64 * config.train.network.epochs * open.len() as f64;
        let progress = self.context.console.progress(samples as u64, "final fits");
        let batch_rows = config.train.final_batch_size.unwrap_or(config.train.network.batch_size);
        let tables = self.context.final_tables(self.space.table_cap());
        let files = store.files().clone();
        in_order(
            &open,
            trainings_at_a_time(batch_rows, table_bytes(&tables, config.numbers)),
            |&(chosen, n)| {
                let begin = Instant::now();
                let fitted = self.final_fit(&files, plan, chosen, n, &progress)?;
                Ok((fitted, begin.elapsed()))
            },
            |i, (fitted, took)| {
                let id = format!("{}/{}", open[i].0.name, open[i].1);
                store.append("final", &id, serde_json::to_value(fitted)?, took.as_secs_f64())?;
                files.drop_checkpoint(&format!("final/{id}"));
                Ok(())
            },
        )?;
        progress.finish();
        Ok(())
    }

    /// Trains on train and validation rows, keeps the logits of the test rows; the first fit of
    /// the searched model is the one that is exported.
    fn final_fit(
        &self,
        files: &RunFiles,
        plan: &Plan,
        chosen: &Chosen,
        n: u64,
        progress: &Progress,
    ) -> Result<FinalFit> {
        let RunContext { config, dataset, .. } = *self.context;
        let tables = self.context.final_tables(self.space.table_cap());
        let settings = TrainSettings {
            learning_rate: chosen.trial.learning_rate,
            batch_size: config.train.final_batch_size.unwrap_or(config.train.network.batch_size),
            ..config.train.network.clone()
        };
        let compiled = {
            let inputs = self.context.inputs(&tables);
            chosen.trial.contender.compile(&inputs, settings.layer_norm)?
        };
        let tensors = compiled.tensors.clone();
        let request = FitRequest {
            task: &format!("final/{}/{n}", chosen.name),
            settings: &settings,
            parts: &[Split::Train, Split::Validation],
            table_rows: &tables,
            seed: config.run.seed + 1000 * (n + 1),
            checkpoint_every: plan.checkpoint_every,
        };
        let mut fitted = FinalFit {
            model: chosen.name.clone(),
            seed: request.seed,
            learning_rate: settings.learning_rate,
            log_loss: None,
            auc: None,
            normalised_entropy: None,
            predictions: None,
        };
        let mut training = match fit(self.context, files, &request, compiled, progress, |_| Ok(()))
        {
            Ok(training) => training,
            Err(error) if diverged(&error) => return Ok(fitted),
            Err(error) => return Err(error),
        };
        if chosen.name == "searched" && n == 0 {
            let trial = &chosen.trial;
            export_run(self.context, files, &self.space, trial, &tensors, &training, &tables)?;
        }
        let logits = training.predict(dataset, Split::Test)?;
        let file = prediction_file(&chosen.name, n);
        files.write(&file, |out| {
            let bytes: Vec<u8> = logits.iter().flat_map(|z| z.to_le_bytes()).collect();
            Ok(out.write_all(&bytes)?)
        })?;
        let evaluation = ScoredPart::new(dataset, Split::Test, logits)?.evaluate(None)?;
        fitted.log_loss = Some(evaluation.log_loss);
        fitted.auc = evaluation.auc;
        fitted.normalised_entropy = evaluation.normalised_entropy;
        fitted.predictions = Some(files.sha256(&file)?);
        Ok(fitted)
    }

    /// Final fits of one model with the test logits of each; nothing where one of them diverged.
    fn result_of(&self, store: &mut RunStore, chosen: &Chosen) -> Result<Option<Tested>> {
        let mut result = ModelResult {
            name: chosen.name.clone(),
            macs: Some(chosen.trial.macs),
            params: Some(chosen.trial.params),
            learning_rate: Some(chosen.trial.learning_rate),
            validation_log_loss: chosen.trial.validation_log_loss,
            log_losses: Vec::new(),
            aucs: Vec::new(),
            normalised_entropies: Vec::new(),
            over_limit: !(self.keeps_limits(&chosen.trial)?
                && self.keeps_latency(store, &chosen.name, &chosen.trial.contender)?),
            difference: None,
        };
        let mut logits = Vec::new();
        for n in 0..self.final_seeds() {
            let event = store.find("final", &format!("{}/{n}", chosen.name));
            let fitted =
                FinalFit::deserialize(&event.context("a final fit is missing")?["result"])?;
            let Some(log_loss) = fitted.log_loss else { return Ok(None) };
            result.log_losses.push(log_loss);
            result.aucs.extend(fitted.auc);
            result.normalised_entropies.extend(fitted.normalised_entropy);
            logits.push(read_logits(store, &prediction_file(&chosen.name, n))?);
        }
        Ok(Some(Tested { result, logits }))
    }

    /// Whether a model meets the run's hard limits.
    fn keeps_limits(&self, trial: &Trial) -> Result<bool> {
        let limits = self.context.config.cost.limits()?.counted;
        if limits.is_empty() {
            return Ok(true);
        }
        let inputs = self.context.inputs(&self.context.final_tables(self.space.table_cap()));
        let compiled = trial.contender.compile(&inputs, false)?;
        let memory = self.context.config.numbers.memory();
        let sheet = CostSheet::new(trial.macs, trial.params, compiled.table_sizes(), &memory);
        Ok(limits.is_met(&sheet))
    }
}

/// A model's row of the table and the test logits of each of its fits.
pub(super) struct Tested {
    pub(super) result: ModelResult,
    pub(super) logits: Vec<Vec<f64>>,
}

/// Where the test logits of a final fit lie.
fn prediction_file(model: &str, n: u64) -> String {
    format!("predictions/{model}-{n}.f64")
}

fn read_logits(store: &RunStore, file: &str) -> Result<Vec<f64>> {
    let path = store.dir().join(file);
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect())
}
