//! Networks from scratch: the best candidates, random ones, and everybody's learning rate.

use anyhow::{Result, anyhow, bail};
use palmette_ctr::baselines::{Baseline, Mlp};
use palmette_space::Genotype;

use super::plan::{NetworkMacs, Plan};
use super::ranking::Ranked;
use super::setup::Run;
use super::store::RunStore;
use super::trials::{Contender, Trial, TrialRequest, best, validate};

/// The best trials of one contender and the setting chosen for it.
pub(super) struct Chosen {
    pub(super) name: String,
    pub(super) trial: Trial,
}
/// Every contender that could be trained, the searched one first.
#[derive(Default)]
pub(super) struct Tuned {
    pub(super) chosen: Vec<Chosen>,
    /// Names of those that diverged at every learning rate.
    pub(super) diverged: Vec<String>,
}

impl Run<'_, '_> {
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

    /// The random networks that are scored and trained beside the search's best.
    pub(super) fn random_side(&self, store: &mut RunStore, plan: &Plan) -> Result<Vec<Genotype>> {
        // More are drawn where some may turn out too slow; the first of them are the same.
        let limited = !self.context.config.cost.limits()?.latency.is_empty();
        let count = if limited { 2 * plan.top_k } else { plan.top_k };
        self.fast_enough(store, self.random_genotypes(count), plan.top_k)
    }

    /// Trains the best candidates and as many random networks; returns the best of either side.
    pub(super) fn retrain(
        &self,
        store: &mut RunStore,
        plan: &Plan,
        ranked: &[Ranked],
    ) -> Result<(Trial, Option<Trial>)> {
        let learning_rate = self.context.config.train.network.learning_rate;
        let seed = self.context.config.run.seed;
        let searched = self.fast_enough(store, self.best_candidates(ranked)?, plan.top_k)?;
        let random = match self.context.config.search.random_search {
            true => self.random_side(store, plan)?,
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
    pub(super) fn tune(
        &self,
        store: &mut RunStore,
        plan: &Plan,
        searched: Trial,
        random: Option<Trial>,
    ) -> Result<Tuned> {
        let train = &self.context.config.train;
        // The rate of the first trainings counts only where everybody may try it.
        let known = |trial: &Trial| {
            train.learning_rates.contains(&trial.learning_rate).then(|| trial.clone())
        };
        let mut contenders = vec![("searched", searched.contender.clone(), known(&searched))];
        contenders
            .extend(random.map(|trial| ("random-search", trial.contender.clone(), known(&trial))));
        for name in &train.baselines {
            let baseline = self.baseline(name, searched.macs)?;
            contenders.push((name, Contender::Baseline(baseline), None));
        }
        let mut requests = Vec::new();
        for (name, contender, known) in &contenders {
            for &learning_rate in &train.learning_rates {
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
        let mut tuned = Tuned::default();
        for (name, _, known) in contenders {
            let prefix = format!("{name}/");
            let own = requests.iter().zip(&trials).filter(|(r, _)| r.id.starts_with(&prefix));
            let all: Vec<Trial> =
                known.into_iter().chain(own.map(|(_, trial)| trial.clone())).collect();
            match best(&all) {
                Some(trial) => {
                    tuned.chosen.push(Chosen { name: name.into(), trial: trial.clone() });
                }
                None if name == "searched" => {
                    bail!(
                        "the searched network diverged at every learning rate of {:?}; lower them \
                         (--set train.learning_rates=[...]) in a new run",
                        train.learning_rates
                    );
                }
                None => tuned.diverged.push(name.into()),
            }
        }
        Ok(tuned)
    }

    /// What the networks to be trained from scratch will cost: 64 random ones of the space stand for
    /// those that a search will choose.
    pub(super) fn network_macs(&self) -> Result<NetworkMacs> {
        let random = self.random_genotypes(64);
        let sum: u64 = random.iter().map(|genotype| self.space.sheet(genotype).macs).sum();
        let searched = sum as f64 / random.len().max(1) as f64;
        let inputs = self.context.inputs(&self.search_tables());
        let macs = |name: &String| {
            let contender = Contender::Baseline(self.baseline(name, searched as u64)?);
            Ok(contender.compile(&inputs, false)?.macs() as f64)
        };
        let baselines = self.context.config.train.baselines.iter().map(macs);
        Ok(NetworkMacs { searched, baselines: baselines.collect::<Result<_>>()? })
    }

    /// The hand-made model of this name; `searched_macs` is what `mlp-equal` may cost.
    pub(super) fn baseline(&self, name: &str, searched_macs: u64) -> Result<Baseline> {
        Ok(match name {
            "mlp-equal" => {
                let inputs = self.context.inputs(&self.search_tables());
                Baseline::Mlp(Mlp::with_macs(&inputs, searched_macs))
            }
            name => Baseline::named(name).map_err(|e| {
                anyhow!("[train] baselines: {e}, and mlp-equal, as large as the searched network")
            })?,
        })
    }
}
