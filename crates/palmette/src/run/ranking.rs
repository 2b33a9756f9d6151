//! The supernet's training, and the scores of candidates that its weights give.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use palmette_ctr::nasrec::Path;
use palmette_ctr::train::{
    Batches, RankingSettings, SubnetRanker, SupernetTraining, nasrec_tables,
};
use palmette_data::Split;
use palmette_engine::EngineError;
use palmette_search::{
    Ask, EvolutionConfig, GuidedConfig, LocalSearch, Outcome as TrialOutcome, PredictorGuided,
    RandomSearch, RegularisedEvolution, Strategy,
};
use palmette_space::Genotype;
use serde::{Deserialize, Serialize};

use super::context::{RunContext, Stopped};
use super::plan::Plan;
use super::setup::Run;
use super::store::RunStore;
use super::trials::record;
use super::workers::{in_order, trainings_at_a_time};

/// Suggestions taken at once from a strategy that never waits for scores.
const MOST_AT_ONCE: usize = 32;

/// Neighbours, or a predictor's candidates, that are scored side by side.
const PENDING: usize = 4;

/// The schedule of an evolution over so many evaluations.
fn evolution(evaluations: usize) -> EvolutionConfig {
    let published = EvolutionConfig::published();
    let is_published = evaluations == published.evaluations();
    if is_published { published } else { EvolutionConfig::for_budget(evaluations) }
}

/// The most candidates that have a parent in common and are scored together.
pub(super) fn siblings(strategy: &str, evaluations: usize) -> usize {
    match strategy {
        "evolution" => evolution(evaluations).children,
        "predictor-guided" | "local-search" => PENDING,
        _ => 1,
    }
}

/// The strategy that a configuration names, planned for `evaluations`.
fn strategy(name: &str, evaluations: usize, seed: u64) -> Result<Box<dyn Strategy>> {
    Ok(match name {
        "evolution" => Box::new(RegularisedEvolution::new(evolution(evaluations), seed)?),
        "predictor-guided" => {
            let settings = GuidedConfig { batch: PENDING, ..GuidedConfig::default() };
            Box::new(PredictorGuided::new(settings, seed)?)
        }
        "local-search" => Box::new(LocalSearch::new(PENDING, seed)),
        "random" => Box::new(RandomSearch::new(seed)),
        other => bail!(
            "search.strategy is `{other}`; there are evolution, predictor-guided, local-search and \
             random"
        ),
    })
}

/// A candidate with its score from the supernet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Ranked {
    pub genotype: Genotype,
    pub score: Option<f64>,
    pub macs: u64,
    pub params: u64,
}
impl<'c> Run<'_, 'c> {
    pub(super) fn supernet(&self, plan: Option<&Plan>) -> Result<SupernetTraining<'c>> {
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
        Ok(SupernetTraining::new(
            space,
            self.shape,
            specs,
            batches,
            settings,
            &config.keeping(),
            config.run.seed,
        )?)
    }

    /// Trains the supernet unless that is done, and gives its weights to a ranker.
    pub(super) fn ranker(&self, store: &mut RunStore, plan: &Plan) -> Result<SubnetRanker<'c>> {
        let begin = Instant::now();
        let mut supernet = self.supernet(Some(plan))?;
        if let Some(progress) = store.files().load_checkpoint("supernet", &mut supernet.model)? {
            supernet.progress = progress;
        }
        let steps = supernet.steps();
        let progress = self.context.console.progress(steps, "supernet");
        while supernet.progress.step < steps {
            if self.context.stop.is_set() {
                let bytes = palmette_cost::format_bytes(supernet.model.state_bytes());
                self.context.console.note(&format!("stopping: saving {bytes} of the supernet"));
                store.files().save_checkpoint("supernet", &supernet.progress, &supernet.model)?;
                self.context.stop.check()?;
            }
            supernet.advance().context(
                "the supernet (search.supernet.layer_norm=true or a lower \
                 search.supernet.learning_rate may help)",
            )?;
            progress.set(supernet.progress.step);
            if supernet.progress.step % plan.checkpoint_every == 0
                || supernet.progress.step == steps
            {
                store.files().save_checkpoint("supernet", &supernet.progress, &supernet.model)?;
            }
        }
        progress.finish();
        if store.find("supernet", "").is_none() {
            let result = serde_json::json!({ "steps": steps, "curve": supernet.progress.curve });
            record(store, "supernet", "", &result, begin)?;
        }
        let (network, model) = supernet.finish();
        let ranking = RankingSettings {
            finetune_steps: plan.finetune_steps,
            validation_rows: plan.validation_rows,
            ..self.context.config.search.ranking.clone()
        };
        let tables = self.context.capped_tables(self.space.table_cap());
        let RunContext { config, dataset, .. } = *self.context;
        let (numbers, seed) = (config.keeping().numbers, config.run.seed);
        Ok(SubnetRanker::new(network, model, dataset, tables, ranking, numbers, seed)?)
    }

    /// Scores of candidates, from the journal or else measured now: in groups that share what they
    /// compute alike, several at a time where the batches are small. The journal has them in the
    /// order of the candidates, whatever their groups.
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
        let paths: Vec<Path> = open.iter().map(|(_, g)| self.space.nasrec().path(g)).collect();
        let paths: Vec<&Path> = paths.iter().collect();
        let groups = rankers.last().map_or_else(Vec::new, |ranker| {
            // Not one group where others would wait for it.
            ranker.groups(&paths, open.len().div_ceil(at_a_time))
        });
        let idle = Mutex::new(std::mem::take(rankers));
        let lock = || idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (mut waiting, mut next) = (BTreeMap::new(), 0);
        in_order(
            &groups,
            at_a_time,
            |group| {
                let stop = &self.context.stop;
                let begin = Instant::now();
                let mut ranker = lock().pop().context("more workers than rankers")?;
                let members: Vec<&Path> = group.iter().map(|&i| paths[i]).collect();
                let scores = ranker.score_together(&members, &|| !stop.is_set());
                lock().push(ranker);
                let Some(scores) = scores? else { bail!(Stopped) };
                Ok((scores, begin.elapsed() / group.len() as u32))
            },
            |group, (scores, took)| {
                waiting.extend(
                    groups[group].iter().copied().zip(scores.into_iter().map(|s| (s, took))),
                );
                while let Some((score, took)) = waiting.remove(&next) {
                    let (id, genotype) = open[next];
                    let result = serde_json::to_value(self.ranked(genotype, score)?)?;
                    store.append("score", id, result, took.as_secs_f64())?;
                    next += 1;
                }
                Ok(())
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

    /// A candidate with what its scoring came to: none where it diverged.
    fn ranked(&self, genotype: &Genotype, score: Result<f64, EngineError>) -> Result<Ranked> {
        let score = match score {
            Ok(score) => Some(score).filter(|s| s.is_finite()),
            Err(EngineError::Diverged { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let sheet = self.space.sheet(genotype);
        Ok(Ranked { genotype: genotype.clone(), score, macs: sheet.macs, params: sheet.params })
    }

    /// Candidates that the strategy suggests before it has seen a score, `most` at most.
    pub(super) fn first_candidates(&self, plan: &Plan, most: usize) -> Result<Vec<Genotype>> {
        let search = &self.context.config.search;
        let mut strategy =
            strategy(&search.strategy, plan.evaluations, self.context.config.run.seed)?;
        let mut found = Vec::new();
        while found.len() < plan.evaluations.min(most) {
            let Ask::Try(suggestion) = strategy.suggest(&self.space) else { break };
            found.push(suggestion.genotype);
        }
        Ok(found)
    }

    /// Suggest, score, observe; a strategy that is asked again from the start with the journal's
    /// answers makes the same suggestions.
    pub(super) fn rank(&self, store: &mut RunStore, plan: &Plan) -> Result<Vec<Ranked>> {
        let config = self.context.config;
        let name = &config.search.strategy;
        let mut strategy = strategy(name, plan.evaluations, config.run.seed)?;
        let progress = self.context.console.progress(plan.evaluations as u64, "ranking");
        // Random networks are scored too: their ranks against training from scratch are honest,
        // those of the search's best would be cut off at one end. Those with a limit on latency are
        // timed now, while no ranker holds memory.
        let random = match config.search.random_search {
            true => self.random_side(store, plan)?,
            false => Vec::new(),
        };
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
        let candidates: Vec<_> =
            random.into_iter().enumerate().map(|(i, g)| (format!("random/{i}"), g)).collect();
        self.score(store, plan, &mut rankers, &candidates)?;
        progress.finish();
        Ok(all)
    }

    /// Candidates that could be scored, the best first, no two of one function.
    pub(super) fn best_candidates(&self, ranked: &[Ranked]) -> Result<Vec<Genotype>> {
        let mut order: Vec<&Ranked> = ranked.iter().filter(|r| r.score.is_some()).collect();
        order.sort_by(|a, b| a.score.partial_cmp(&b.score).unwrap_or(std::cmp::Ordering::Equal));
        // Scores closer than 1e-6 are the same function twice (NASRec's rule).
        order.dedup_by(|a, b| a.score.zip(b.score).is_some_and(|(a, b)| (a - b).abs() < 1e-6));
        if order.is_empty() {
            bail!(
                "no candidate could be scored: every one diverged; lower search.supernet.learning_rate"
            );
        }
        Ok(order.iter().map(|r| r.genotype.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies_have_the_names_of_the_configuration() {
        for name in ["evolution", "predictor-guided", "local-search", "random"] {
            assert!(strategy(name, 192, 1).is_ok(), "{name}");
        }
        let error = strategy("annealing", 192, 1).err().map(|e| e.to_string());
        assert!(error.is_some_and(|e| e.contains("`annealing`") && e.contains("local-search")));
    }
}
