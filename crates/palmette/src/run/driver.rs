//! The phases of a search, each a sequence of units that the journal remembers.

use std::path::Path as FilePath;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use palmette_ctr::baselines::{Baseline, Mlp, XDeepFm};
use palmette_ctr::metrics::{Bootstrap, log_loss, paired_bootstrap, row_log_losses};
use palmette_ctr::nasrec::Path;
use palmette_ctr::train::{
    Batches, RankingSettings, SubnetRanker, SupernetTraining, TrainError, TrainSettings,
    nasrec_tables,
};
use palmette_data::{Dataset, Split};
use palmette_engine::EngineError;
use palmette_search::{
    Ask, EvolutionConfig, Outcome as TrialOutcome, RandomSearch, RegularisedEvolution, Strategy,
};
use palmette_space::Genotype;
use serde::{Deserialize, Serialize};

use super::agreement::rank_agreement;
use super::context::RunContext;
use super::export::export_run;
use super::files::RunFiles;
use super::plan::{Plan, Prediction, Rates};
use super::results::{FinalFit, ModelResult, Summary};
use super::setup::Run;
use super::store::RunStore;
use super::trials::{
    Contender, FitRequest, ScoredPart, Trial, TrialRequest, best, fit, record, sample_weights,
    validate,
};
use super::workers::{in_order, table_bytes, trainings_at_a_time};
use crate::console::Progress;

/// A finished run.
pub struct Outcome {
    /// What was found.
    pub summary: Summary,
    /// Where.
    pub dir: std::path::PathBuf,
}

/// Suggestions taken at once from a strategy that never waits for scores.
const MOST_AT_ONCE: usize = 32;

/// A candidate with its score from the supernet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Ranked {
    pub genotype: Genotype,
    pub score: Option<f64>,
    pub macs: u64,
    pub params: u64,
}

/// Searches, retrains, compares, exports and reports; continues where the journal ends.
pub fn search(
    context: &RunContext<'_>,
    dir: &FilePath,
    budget_seconds: Option<f64>,
    command: &str,
) -> Result<Outcome> {
    let run = Run::new(context)?;
    // Limits that nobody can meet are said before the folder holds a run.
    let mut store = run.open(dir)?;
    let plan = match run.plan(&mut store, budget_seconds) {
        Ok(plan) => plan,
        Err(error) => {
            store.discard_if_empty();
            return Err(error);
        }
    };
    let ranked = run.rank(&mut store, &plan)?;
    let (searched, random) = run.retrain(&mut store, &plan, &ranked)?;
    let (searched, random, baselines) = run.tune(&mut store, &plan, searched, random)?;
    let summary = run.finish(&mut store, &plan, searched, random, baselines)?;
    super::export::write_summary(&store, &summary)?;
    super::report::write_report(context, &store, &run.space, &summary, command)?;
    Ok(Outcome { summary, dir: dir.into() })
}

/// The best trials of one contender and the setting chosen for it.
struct Chosen {
    name: String,
    trial: Trial,
}

impl<'c> Run<'_, 'c> {
    fn supernet(&self, plan: Option<&Plan>) -> Result<SupernetTraining<'c>> {
        let RunContext { config, dataset, .. } = *self.context;
        let mut settings = config.search.supernet.clone();
        if let Some(plan) = plan {
            settings.steps = plan.supernet_steps;
            settings.warmup_steps = plan.warmup_steps;
        }
        let tables = self.context.capped_tables(self.space.table_cap());
        let batches = Batches::new(
            dataset,
            &[Split::Train],
            settings.batch_size,
            settings.order,
            config.run.seed,
            tables.clone(),
        )?;
        let specs = nasrec_tables(&self.context.field_names(), &tables);
        let space = self.space.nasrec().clone();
        Ok(SupernetTraining::new(space, self.shape, specs, batches, settings, config.run.seed)?)
    }

    fn plan(&self, store: &mut RunStore, budget_seconds: Option<f64>) -> Result<Plan> {
        if let Some(event) = store.find("plan", "") {
            return Ok(Plan::deserialize(&event["result"])?);
        }
        let begin = Instant::now();
        let RunContext { config, dataset, .. } = *self.context;
        let (train, validation) = (dataset.rows(Split::Train), dataset.rows(Split::Validation));
        if validation == 0 {
            bail!("the dataset has no validation rows; the search chooses on them");
        }
        let mut probe = self.supernet(None)?;
        probe.set_steps(1000, 0);
        let rates = Rates::measure(&mut probe, config.search.supernet.batch_size.min(train))?;
        drop(probe);
        let plan = match budget_seconds {
            Some(seconds) => Plan::for_budget(config, rates, train, validation, seconds)?,
            None => Plan::configured(config, validation),
        };
        let prediction = plan.predict(config, rates, train);
        self.announce(&plan, &prediction);
        record(store, "plan", "", &plan, begin)?;
        Ok(plan)
    }

    fn announce(&self, plan: &Plan, prediction: &Prediction) {
        self.context.console.note(&format!(
            "plan: {} supernet steps ({} of warm-up), {} candidates, top {} retrained; \
             about {} (supernet {}, ranking {}, networks {})",
            plan.supernet_steps,
            plan.warmup_steps,
            plan.evaluations,
            plan.top_k,
            minutes(prediction.total()),
            minutes(prediction.supernet),
            minutes(prediction.ranking),
            minutes(prediction.networks),
        ));
        if let Some(cap) = self.space.table_cap() {
            self.context.console.note(&format!("limits: every table is cut to {cap} rows"));
        }
    }

    /// Trains the supernet unless that is done, and gives its weights to a ranker.
    pub(super) fn ranker(&self, store: &mut RunStore, plan: &Plan) -> Result<SubnetRanker<'c>> {
        let begin = Instant::now();
        let mut supernet = self.supernet(Some(plan))?;
        match store.files().load_checkpoint("supernet", &mut supernet.model)? {
            Some(progress) => supernet.restore(&progress)?,
            None => supernet = self.supernet(Some(plan))?,
        }
        let steps = supernet.steps();
        let progress = self.context.console.progress(steps, "supernet");
        while supernet.step < steps {
            if self.context.stop.is_set() {
                store.files().save_checkpoint("supernet", &supernet.progress(), &supernet.model)?;
                self.context.stop.check()?;
            }
            supernet.advance()?;
            progress.set(supernet.step);
            if supernet.step % plan.checkpoint_every == 0 || supernet.step == steps {
                store.files().save_checkpoint("supernet", &supernet.progress(), &supernet.model)?;
            }
        }
        progress.finish();
        if store.find("supernet", "").is_none() {
            let result = serde_json::json!({ "steps": steps, "curve": supernet.curve });
            record(store, "supernet", "", &result, begin)?;
        }
        let (network, model) = supernet.finish();
        let ranking = RankingSettings {
            finetune_steps: plan.finetune_steps,
            validation_rows: plan.validation_rows,
            ..self.context.config.search.ranking.clone()
        };
        let tables = self.context.capped_tables(self.space.table_cap());
        let seed = self.context.config.run.seed;
        Ok(SubnetRanker::new(network, model, self.context.dataset, tables, ranking, seed)?)
    }

    /// Scores of candidates, from the journal or else measured now, several at a time where the
    /// batches are small.
    fn score(
        &self,
        store: &mut RunStore,
        plan: &Plan,
        rankers: &mut Vec<SubnetRanker<'c>>,
        candidates: &[(String, Genotype)],
    ) -> Result<Vec<Ranked>> {
        let open: Vec<&(String, Genotype)> =
            candidates.iter().filter(|(id, _)| store.find("score", id).is_none()).collect();
        if !open.is_empty() && rankers.is_empty() {
            let ranker = self.ranker(store, plan)?;
            let batch_rows = self.context.config.search.ranking.batch_size;
            let copies = trainings_at_a_time(batch_rows, ranker.bytes());
            for _ in 1..copies {
                rankers.push(ranker.try_clone()?);
            }
            rankers.push(ranker);
        }
        let at_a_time = rankers.len();
        let idle = Mutex::new(std::mem::take(rankers));
        let lock = || idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        in_order(
            &open,
            at_a_time,
            |(_, genotype)| {
                self.context.stop.check()?;
                let begin = Instant::now();
                let mut ranker = lock().pop().context("more workers than rankers")?;
                let path = self.space.nasrec().path(genotype);
                let score = ranker.score(&path);
                lock().push(ranker);
                let score = match score {
                    Ok(score) => Some(score).filter(|s| s.is_finite()),
                    Err(TrainError::Engine(EngineError::Diverged { .. })) => None,
                    Err(error) => return Err(error.into()),
                };
                let sheet = self.space.sheet(genotype);
                let (macs, params) = (sheet.macs, sheet.params);
                Ok((Ranked { genotype: genotype.clone(), score, macs, params }, begin.elapsed()))
            },
            |i, (ranked, took)| {
                let result = serde_json::to_value(ranked)?;
                store.append("score", &open[i].0, result, took.as_secs_f64()).map(drop)
            },
        )?;
        *rankers = idle.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let recorded = |(id, genotype): &(String, Genotype)| {
            let event = store.find("score", id).context("a score is missing")?;
            let ranked = Ranked::deserialize(&event["result"])?;
            if ranked.genotype != *genotype {
                bail!(
                    "{}: score {id} is of another search (edited settings?)",
                    store.dir().display()
                );
            }
            Ok(ranked)
        };
        candidates.iter().map(recorded).collect()
    }

    /// Suggest, score, observe; a strategy that is asked again from the start with the journal's
    /// answers makes the same suggestions.
    fn rank(&self, store: &mut RunStore, plan: &Plan) -> Result<Vec<Ranked>> {
        let config = self.context.config;
        let mut strategy: Box<dyn Strategy> = match config.search.strategy.as_str() {
            "evolution" => {
                let settings = if plan.evaluations == EvolutionConfig::published().evaluations() {
                    EvolutionConfig::published()
                } else {
                    EvolutionConfig::for_budget(plan.evaluations)
                };
                Box::new(RegularisedEvolution::new(settings, config.run.seed)?)
            }
            "random" => Box::new(RandomSearch::new(config.run.seed)),
            other => bail!("search.strategy is `{other}`; there are evolution and random"),
        };
        let progress = self.context.console.progress(plan.evaluations as u64, "ranking");
        let mut rankers = Vec::new();
        let mut all = Vec::new();
        while all.len() < plan.evaluations {
            // All that may be scored before the strategy wants to see scores: a generation.
            let mut suggestions = Vec::new();
            while suggestions.len() < (plan.evaluations - all.len()).min(MOST_AT_ONCE) {
                let Ask::Try(suggestion) = strategy.suggest(&self.space) else { break };
                suggestions.push(suggestion);
            }
            if suggestions.is_empty() {
                break;
            }
            let candidates: Vec<_> = suggestions
                .iter()
                .map(|s| (format!("search/{}", s.trial), s.genotype.clone()))
                .collect();
            let scores = self.score(store, plan, &mut rankers, &candidates)?;
            for (suggestion, ranked) in suggestions.iter().zip(scores) {
                let outcome = ranked.score.map_or(TrialOutcome::Failed, TrialOutcome::score);
                strategy.observe(&self.space, suggestion.trial, outcome)?;
                all.push(ranked);
            }
            progress.set(all.len() as u64);
        }
        // Random networks are scored too: their ranks against training from scratch are honest,
        // those of the search's best would be cut off at one end.
        if config.search.random_search {
            let random = self.random_genotypes(plan.top_k).into_iter().enumerate();
            let candidates: Vec<_> = random.map(|(i, g)| (format!("random/{i}"), g)).collect();
            self.score(store, plan, &mut rankers, &candidates)?;
        }
        progress.finish();
        Ok(all)
    }

    /// Candidates with the best scores, no two of one function.
    fn best_candidates(&self, plan: &Plan, ranked: &[Ranked]) -> Result<Vec<Genotype>> {
        let mut order: Vec<&Ranked> = ranked.iter().filter(|r| r.score.is_some()).collect();
        order.sort_by(|a, b| a.score.partial_cmp(&b.score).unwrap_or(std::cmp::Ordering::Equal));
        // Scores closer than 1e-6 are the same function twice (NASRec's rule).
        order.dedup_by(|a, b| a.score.zip(b.score).is_some_and(|(a, b)| (a - b).abs() < 1e-6));
        if order.is_empty() {
            bail!(
                "no candidate could be scored: every one diverged; lower search.supernet.learning_rate"
            );
        }
        Ok(order.iter().take(plan.top_k).map(|r| r.genotype.clone()).collect())
    }

    fn validate(
        &self,
        store: &mut RunStore,
        plan: &Plan,
        what: &str,
        requests: &[TrialRequest],
    ) -> Result<Vec<Trial>> {
        let tables = self.search_tables();
        validate(self.context, store, what, requests, &tables, plan.checkpoint_every)
    }

    /// Trains the best candidates and as many random networks; returns the best of either side.
    fn retrain(
        &self,
        store: &mut RunStore,
        plan: &Plan,
        ranked: &[Ranked],
    ) -> Result<(Trial, Option<Trial>)> {
        let learning_rate = self.context.config.train.network.learning_rate;
        let seed = self.context.config.run.seed;
        let searched = self.best_candidates(plan, ranked)?;
        let random = match self.context.config.search.random_search {
            true => self.random_genotypes(plan.top_k),
            false => Vec::new(),
        };
        let sides = [("searched", &searched), ("random-search", &random)];
        let requests: Vec<TrialRequest> = sides
            .iter()
            .flat_map(|(name, genotypes)| {
                genotypes.iter().enumerate().map(move |(i, genotype)| TrialRequest {
                    id: format!("{name}/{i}"),
                    contender: self.network(genotype),
                    learning_rate,
                    seed,
                })
            })
            .collect();
        let trials = self.validate(store, plan, "training from scratch", &requests)?;
        let (of_search, of_chance) = trials.split_at(searched.len());
        let winner = |name: &str, trials: &[Trial]| {
            best(trials).cloned().ok_or_else(|| anyhow!("every network of {name} diverged"))
        };
        let of_chance =
            if random.is_empty() { None } else { Some(winner("random search", of_chance)?) };
        Ok((winner("the search", of_search)?, of_chance))
    }

    /// Tries the learning rates on validation rows, for both winners and all hand-made models.
    fn tune(
        &self,
        store: &mut RunStore,
        plan: &Plan,
        searched: Trial,
        random: Option<Trial>,
    ) -> Result<(Chosen, Option<Chosen>, Vec<Chosen>)> {
        let mut contenders = vec![("searched", searched.contender.clone(), Some(searched.clone()))];
        let has_random = random.is_some();
        contenders
            .extend(random.map(|trial| ("random-search", trial.contender.clone(), Some(trial))));
        for name in &self.context.config.train.baselines {
            let baseline = self.baseline(name, searched.macs)?;
            contenders.push((name, Contender::Baseline(baseline), None));
        }
        let mut requests = Vec::new();
        for (name, contender, known) in &contenders {
            for &learning_rate in &self.context.config.train.learning_rates {
                if known.as_ref().is_none_or(|trial| trial.learning_rate != learning_rate) {
                    requests.push(TrialRequest {
                        id: format!("{name}/learning-rate-{learning_rate}"),
                        contender: contender.clone(),
                        learning_rate,
                        seed: self.context.config.run.seed,
                    });
                }
            }
        }
        let trials = self.validate(store, plan, "learning rates", &requests)?;
        let mut chosen = contenders.into_iter().map(|(name, _, known)| {
            let prefix = format!("{name}/");
            let own = requests.iter().zip(&trials).filter(|(r, _)| r.id.starts_with(&prefix));
            let all: Vec<Trial> =
                known.into_iter().chain(own.map(|(_, trial)| trial.clone())).collect();
            let trial =
                best(&all).ok_or_else(|| anyhow!("{name} diverged at every learning rate"))?;
            Ok(Chosen { name: name.into(), trial: trial.clone() })
        });
        let searched = chosen.next().context("nothing was searched")??;
        let random = if has_random { chosen.next().transpose()? } else { None };
        let baselines = chosen.collect::<Result<_>>()?;
        Ok((searched, random, baselines))
    }

    /// The hand-made model of this name; `searched_macs` is what `mlp-equal` may cost.
    fn baseline(&self, name: &str, searched_macs: u64) -> Result<Baseline> {
        let [small, medium, large] = Mlp::three_sizes();
        Ok(match name {
            "mlp-small" => Baseline::Mlp(small),
            "mlp-medium" => Baseline::Mlp(medium),
            "mlp-large" => Baseline::Mlp(large),
            "mlp-equal" => {
                let inputs = self.context.inputs(&self.search_tables());
                Baseline::Mlp(Mlp::with_macs(&inputs, searched_macs))
            }
            // The published interaction layers cost 55 M multiply-accumulates a sample.
            "xdeepfm-small" => {
                Baseline::XDeepFm(XDeepFm { interaction: vec![24, 24], ..XDeepFm::default() })
            }
            name => Baseline::named(name).map_err(|e| anyhow!("[train] baselines: {e}"))?,
        })
    }

    /// Final fits on train and validation rows; each reads the test part once.
    fn finish(
        &self,
        store: &mut RunStore,
        plan: &Plan,
        searched: Chosen,
        random: Option<Chosen>,
        baselines: Vec<Chosen>,
    ) -> Result<Summary> {
        let Contender::Network(architecture) = searched.trial.contender.clone() else {
            bail!("the searched model is a network");
        };
        let chosen: Vec<&Chosen> =
            std::iter::once(&searched).chain(&random).chain(&baselines).collect();
        self.final_fits(store, plan, &chosen)?;
        let models = chosen.iter().map(|chosen| self.result_of(store, chosen));
        let models = models.collect::<Result<_>>()?;
        self.summarise(store, architecture, models)
    }

    fn final_seeds(&self) -> u64 {
        self.context.config.train.final_seeds.max(1) as u64
    }

    /// Every final fit that the journal does not hold.
    fn final_fits(&self, store: &mut RunStore, plan: &Plan, chosen: &[&Chosen]) -> Result<()> {
        let RunContext { config, dataset, .. } = *self.context;
        let rows = dataset.rows(Split::Train) + dataset.rows(Split::Validation);
        let all = chosen.iter().flat_map(|&c| (0..self.final_seeds()).map(move |n| (c, n)));
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
            trainings_at_a_time(batch_rows, table_bytes(&tables)),
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
        let mut training = fit(self.context, files, &request, compiled, progress, |_| Ok(()))?;
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
        Ok(FinalFit {
            model: chosen.name.clone(),
            seed: request.seed,
            learning_rate: settings.learning_rate,
            log_loss: evaluation.log_loss,
            auc: evaluation.auc,
            normalised_entropy: evaluation.normalised_entropy,
            predictions: files.sha256(&file)?,
        })
    }

    /// Final fits of one model, and the test logits of the first.
    fn result_of(&self, store: &RunStore, chosen: &Chosen) -> Result<(ModelResult, Vec<f64>)> {
        let mut result = ModelResult {
            name: chosen.name.clone(),
            macs: Some(chosen.trial.macs),
            params: Some(chosen.trial.params),
            learning_rate: Some(chosen.trial.learning_rate),
            validation_log_loss: chosen.trial.validation_log_loss,
            log_losses: Vec::new(),
            aucs: Vec::new(),
            normalised_entropies: Vec::new(),
            difference: None,
        };
        for n in 0..self.final_seeds() {
            let event = store.find("final", &format!("{}/{n}", chosen.name));
            let fitted =
                FinalFit::deserialize(&event.context("a final fit is missing")?["result"])?;
            result.log_losses.push(fitted.log_loss);
            result.aucs.extend(fitted.auc);
            result.normalised_entropies.extend(fitted.normalised_entropy);
        }
        Ok((result, read_logits(store, &prediction_file(&chosen.name, 0))?))
    }

    fn summarise(
        &self,
        store: &RunStore,
        architecture: Path,
        models: Vec<(ModelResult, Vec<f64>)>,
    ) -> Result<Summary> {
        let RunContext { config, dataset, .. } = *self.context;
        let mut rows: Vec<(ModelResult, Vec<f64>)> = Vec::new();
        let mut evaluation = None;
        for (result, logits) in models {
            let part = ScoredPart::new(dataset, Split::Test, logits)?;
            if result.name == "searched" {
                evaluation = Some(part.evaluate(None)?);
            }
            rows.push((result, row_log_losses(&part.scores()?)));
        }
        if let Some(column) = &config.data.baseline_column {
            rows.push(self.given_column(column)?);
        }
        let weights = sample_weights(dataset, Split::Test)?;
        let groups = interval_groups(dataset, config.data.interval_groups.as_deref())?;
        let Some(((_, searched), others)) = rows.split_first_mut() else {
            bail!("no model was trained")
        };
        for (result, losses) in others.iter_mut() {
            let options = Bootstrap { seed: config.run.seed, ..Bootstrap::default() };
            let difference =
                paired_bootstrap(searched, losses, weights.as_deref(), groups.as_deref(), options)?;
            result.difference = Some(difference);
        }
        let bayes_log_loss = match &config.data.bayes_column {
            Some(column) => {
                let (_, losses) = self.given_column(column)?;
                Some(losses.iter().sum::<f64>() / losses.len() as f64)
            }
            None => None,
        };
        let models: Vec<ModelResult> = rows.into_iter().map(|(result, _)| result).collect();
        let (verdict, sentence) = verdict(&models, config.data.baseline_column.is_some());
        Ok(Summary {
            verdict,
            sentence,
            architecture,
            models,
            evaluation: evaluation.context("the searched model was not trained")?,
            bayes_log_loss,
            rank_correlation: rank_agreement(store).map(|agreement| agreement.tau),
        })
    }

    /// A model that the log itself carries as a column of probabilities.
    fn given_column(&self, column: &str) -> Result<(ModelResult, Vec<f64>)> {
        let dataset = self.context.dataset;
        let probabilities = dataset.extra_f64(Split::Test, column)?;
        let logits = probabilities
            .iter()
            .enumerate()
            .map(|(row, &p)| {
                if !(0.0..=1.0).contains(&p) {
                    bail!("column {column}, test row {}: {p} is not a probability", row + 1);
                }
                let p = p.clamp(1e-7, 1.0 - 1e-7);
                Ok((p / (1.0 - p)).ln())
            })
            .collect::<Result<Vec<f64>>>()?;
        let part = ScoredPart::new(dataset, Split::Test, logits)?;
        let evaluation = part.evaluate(None)?;
        let result = ModelResult {
            name: column.into(),
            macs: None,
            params: None,
            learning_rate: None,
            validation_log_loss: None,
            log_losses: vec![log_loss(&part.scores()?)],
            aucs: evaluation.auc.into_iter().collect(),
            normalised_entropies: evaluation.normalised_entropy.into_iter().collect(),
            difference: None,
        };
        Ok((result, row_log_losses(&part.scores()?)))
    }
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

/// Groups of test rows that are resampled together; a time column is cut into days.
fn interval_groups(dataset: &Dataset, column: Option<&str>) -> Result<Option<Vec<u64>>> {
    let Some(column) = column else { return Ok(None) };
    if let Ok(keys) = dataset.extra_keys(Split::Test, column) {
        return Ok(Some(keys));
    }
    let seconds = dataset
        .extra_f64(Split::Test, column)
        .with_context(|| format!("[data] interval_groups = \"{column}\""))?;
    Ok(Some(seconds.iter().map(|s| (s / 86_400.0).floor() as i64 as u64).collect()))
}

/// Ship when the searched model beats the model to beat with the whole interval: the user's own
/// model where there is one, else the best of the others on the test rows.
fn verdict(models: &[ModelResult], own_model: bool) -> (String, String) {
    let Some((rival, difference)) =
        Summary::rival_of(models, own_model).and_then(|m| m.difference.map(|d| (m, d)))
    else {
        return ("undecided".into(), "There is nothing to compare with.".into());
    };
    let interval = format!(
        "log loss {:+.5} against {} (paired {:.0} % interval {:+.5} to {:+.5})",
        difference.difference,
        rival.name,
        difference.confidence * 100.0,
        difference.low,
        difference.high
    );
    if difference.first_is_better() {
        ("ship".into(), format!("Ship the searched model: {interval}."))
    } else if difference.second_is_better() {
        ("keep".into(), format!("Keep {}: {interval}.", rival.name))
    } else {
        let cost = match (models.first().and_then(|m| m.macs), rival.macs) {
            (Some(own), Some(other)) if own != other => format!(
                " The searched model costs {} multiply-accumulates a sample, {} {}.",
                palmette_cost::format_count(own),
                rival.name,
                palmette_cost::format_count(other)
            ),
            _ => String::new(),
        };
        let sentence = format!("No difference that this test part could show: {interval}.{cost}");
        ("undecided".into(), sentence)
    }
}

/// `95 s`, `12 min`.
fn minutes(seconds: f64) -> String {
    if seconds < 100.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}
