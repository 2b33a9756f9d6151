//! How well a supernet ranks random networks, against training each from scratch.

use std::path::Path as FilePath;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use palmette_ctr::train::{RankingSettings, RankingWeights, SubnetRanker, TrainError};
use palmette_data::Split;
use palmette_engine::EngineError;
use palmette_search::{bootstrap_interval, kendall_tau_b};
use palmette_space::Genotype;
use serde::{Deserialize, Serialize};

use super::context::RunContext;
use super::export::write_json;
use super::plan::Plan;
use super::setup::Run;
use super::store::RunStore;
use super::trials::{TrialRequest, record, validate};

/// How much is compared; fixed by the first start of a study.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankingStudy {
    /// Random feasible networks, no two alike.
    pub networks: usize,
    /// Trainings from scratch of each.
    pub seeds: usize,
}

/// One network: what the supernet says and what training from scratch finds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StudiedNetwork {
    /// Its genes.
    pub genotype: Genotype,
    /// Multiply-accumulates a sample.
    pub macs: u64,
    /// Weights outside the tables.
    pub params: u64,
    /// Validation log loss with the supernet's weights; none where that diverged.
    pub supernet: Option<f64>,
    /// The same after last-layer fine-tuning.
    pub fine_tuned: Option<f64>,
    /// Validation log loss of fresh weights trained shortly over the supernet's tables, where the
    /// configuration ranks by them.
    pub fresh: Option<f64>,
    /// Validation log loss of each training from scratch.
    pub from_scratch: Vec<Option<f64>>,
}

/// Kendall's tau-b with its percentile bootstrap interval over networks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// Tau-b; 1 where the order is the same.
    pub tau: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// What a study found: `ranking.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RankingReport {
    /// What was asked for.
    pub study: RankingStudy,
    /// Networks whose every score and training is finite; the figures are over these.
    pub compared: usize,
    /// Supernet without fine-tuning against the mean loss from scratch.
    pub supernet: Option<Agreement>,
    /// Supernet with last-layer fine-tuning.
    pub fine_tuned: Option<Agreement>,
    /// Fresh weights trained shortly over the supernet's tables; none where the configuration
    /// does not rank by them.
    pub fresh: Option<Agreement>,
    /// log(MACs) alone, larger first.
    pub log_macs: Option<Agreement>,
    /// Between two trainings from scratch, mean over pairs of seeds: what one training knows.
    pub seed_to_seed: Option<Agreement>,
    /// Every network, in the order of drawing.
    pub networks: Vec<StudiedNetwork>,
}

/// Scores of one network with weights of the supernet, as the journal keeps them.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Scores {
    genotype: Genotype,
    macs: u64,
    params: u64,
    supernet: Option<f64>,
    fine_tuned: Option<f64>,
    fresh: Option<f64>,
}

/// Steps on the head that are compared where the configuration ranks by fresh weights: NASRec's
/// learning rate and batch, and few enough of them for 256 candidates in a minute.
const HEAD_STEPS: u64 = 40;

/// Trains one supernet and every network, compares; continues where the journal ends.
///
/// # Errors
/// A folder that holds another study, a space with fewer networks, and what training may meet.
pub fn study_ranking(
    context: &RunContext<'_>,
    dir: &FilePath,
    study: RankingStudy,
) -> Result<RankingReport> {
    let mut run = Run::new(context)?;
    let mut store = run.open(dir)?;
    if let Err(error) = run.calibrate_latency(&mut store) {
        store.discard_if_empty();
        return Err(error);
    }
    let genotypes = run.random_genotypes(study.networks);
    if genotypes.len() < study.networks {
        store.discard_if_empty();
        bail!("{} different feasible networks were found, not {}", genotypes.len(), study.networks);
    }
    check_or_record(&mut store, study)?;
    let plan = plan(context, &mut store)?;
    let mut ranker = None;
    let mut networks = Vec::new();
    let progress = context.console.progress(study.networks as u64, "ranking");
    for (i, genotype) in genotypes.iter().enumerate() {
        let scores = score(&run, &mut store, &plan, &mut ranker, i, genotype)?;
        progress.set(i as u64 + 1);
        networks.push(StudiedNetwork {
            genotype: scores.genotype,
            macs: scores.macs,
            params: scores.params,
            supernet: scores.supernet,
            fine_tuned: scores.fine_tuned,
            fresh: scores.fresh,
            from_scratch: Vec::new(),
        });
    }
    progress.finish();
    // The supernet's memory is free for the networks.
    drop(ranker);
    let requests: Vec<TrialRequest> = networks
        .iter()
        .enumerate()
        .flat_map(|(i, network)| {
            let contender = run.network(&network.genotype);
            (0..study.seeds as u64).map(move |n| TrialRequest {
                id: format!("network/{i}/{n}"),
                contender: contender.clone(),
                learning_rate: context.config.train.network.learning_rate,
                seed: context.config.run.seed + n,
            })
        })
        .collect();
    let (what, tables, every) = ("from scratch", run.search_tables(), plan.checkpoint_every);
    let trials = validate(context, &mut store, what, &requests, &tables, every)?;
    for (network, trials) in networks.iter_mut().zip(trials.chunks(study.seeds)) {
        network.from_scratch = trials.iter().map(|trial| trial.validation_log_loss).collect();
    }
    let report = report(study, networks, context.config.run.seed);
    write_json(&store.dir().join("ranking.json"), &report)?;
    Ok(report)
}

fn check_or_record(store: &mut RunStore, study: RankingStudy) -> Result<()> {
    match store.find("study", "") {
        None if store.events().is_empty() => {
            record(store, "study", "", &study, Instant::now())?;
            Ok(())
        }
        Some(event) if RankingStudy::deserialize(&event["result"])? == study => Ok(()),
        Some(event) => bail!(
            "{} holds a study of {}; choose another folder",
            store.dir().display(),
            event["result"]
        ),
        None => bail!("{} holds a search; choose another folder", store.dir().display()),
    }
}

/// The configured counts; a budget is not asked for, since networks and seeds are given.
fn plan(context: &RunContext<'_>, store: &mut RunStore) -> Result<Plan> {
    if let Some(event) = store.find("plan", "") {
        return Ok(Plan::deserialize(&event["result"])?);
    }
    let validation = context.dataset.rows(Split::Validation);
    if validation == 0 {
        bail!("the dataset has no validation rows; networks are compared on them");
    }
    let plan = Plan::configured(context.config, validation);
    record(store, "plan", "", &plan, Instant::now())?;
    Ok(plan)
}

fn score<'c>(
    run: &Run<'_, 'c>,
    store: &mut RunStore,
    plan: &Plan,
    ranker: &mut Option<SubnetRanker<'c>>,
    index: usize,
    genotype: &Genotype,
) -> Result<Scores> {
    let id = format!("network/{index}");
    if let Some(event) = store.find("score", &id) {
        let scores = Scores::deserialize(&event["result"])?;
        if scores.genotype != *genotype {
            bail!("{}: score {id} is of another study (edited settings?)", store.dir().display());
        }
        return Ok(scores);
    }
    run.context.stop.check()?;
    if ranker.is_none() {
        *ranker = Some(run.ranker(store, plan)?);
    }
    let ranker = ranker.as_mut().context("the supernet was not trained")?;
    let begin = Instant::now();
    let path = run.space.nasrec().path(genotype);
    let sheet = run.space.sheet(genotype);
    let own = &run.context.config.search.ranking;
    let (fine_tuned, fresh) = match own.weights {
        RankingWeights::Shared => (finite(ranker.score(&path))?, None),
        RankingWeights::Fresh => {
            let fresh = finite(ranker.score(&path))?;
            let (validation_rows, epsilon) = (own.validation_rows, own.epsilon);
            let head = RankingSettings {
                finetune_steps: HEAD_STEPS,
                validation_rows,
                epsilon,
                ..RankingSettings::default()
            };
            let back = ranker.settings().clone();
            ranker.set_settings(head)?;
            let fine_tuned = finite(ranker.score(&path))?;
            ranker.set_settings(back)?;
            (fine_tuned, fresh)
        }
    };
    let scores = Scores {
        genotype: genotype.clone(),
        macs: sheet.macs,
        params: sheet.params,
        supernet: finite(ranker.score_with(&path, RankingWeights::Shared, 0))?,
        fine_tuned,
        fresh,
    };
    record(store, "score", &id, &scores, begin)?;
    Ok(scores)
}

/// A network that diverges is a result and not a failure of the study.
fn finite(score: Result<f64, TrainError>) -> Result<Option<f64>> {
    match score {
        Ok(score) => Ok(Some(score).filter(|s| s.is_finite())),
        Err(TrainError::Engine(EngineError::Diverged { .. })) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Resamples of an interval.
const RESAMPLES: usize = 2_000;
const CONFIDENCE: f64 = 0.95;

fn report(study: RankingStudy, networks: Vec<StudiedNetwork>, seed: u64) -> RankingReport {
    let complete = |n: &&StudiedNetwork| {
        n.supernet.is_some() && n.fine_tuned.is_some() && n.from_scratch.iter().all(Option::is_some)
    };
    let compared: Vec<&StudiedNetwork> = networks.iter().filter(complete).collect();
    let trained = |n: usize| -> Vec<f64> {
        compared.iter().filter_map(|network| network.from_scratch[n]).collect()
    };
    let by_seed: Vec<Vec<f64>> = (0..study.seeds).map(trained).collect();
    let means: Vec<f64> = (0..compared.len())
        .map(|i| by_seed.iter().map(|losses| losses[i]).sum::<f64>() / study.seeds as f64)
        .collect();
    let against_means = |scores: Vec<f64>| {
        agreement(compared.len(), seed, |drawn| {
            let pick = |values: &[f64]| drawn.iter().map(|&i| values[i]).collect::<Vec<f64>>();
            kendall_tau_b(&pick(&scores), &pick(&means))
        })
    };
    let supernet = against_means(compared.iter().filter_map(|n| n.supernet).collect());
    let fresh: Vec<f64> = compared.iter().filter_map(|n| n.fresh).collect();
    let fresh = if fresh.len() == compared.len() { against_means(fresh) } else { None };
    let fine_tuned = against_means(compared.iter().filter_map(|n| n.fine_tuned).collect());
    let log_macs = against_means(compared.iter().map(|n| -(n.macs.max(1) as f64).ln()).collect());
    let seed_to_seed = agreement(compared.len(), seed, |drawn| {
        let picked: Vec<Vec<f64>> =
            by_seed.iter().map(|losses| drawn.iter().map(|&i| losses[i]).collect()).collect();
        let pairs = (0..picked.len()).flat_map(|b| (0..b).map(move |a| (a, b)));
        let taus: Vec<f64> = pairs.map(|(a, b)| kendall_tau_b(&picked[a], &picked[b])).collect();
        taus.iter().sum::<f64>() / taus.len() as f64
    });
    RankingReport {
        study,
        compared: compared.len(),
        supernet,
        fine_tuned,
        fresh,
        log_macs,
        seed_to_seed,
        networks,
    }
}

/// `tau` of all networks and of resamples; nothing where it is no number.
fn agreement(
    networks: usize,
    seed: u64,
    mut tau: impl FnMut(&[usize]) -> f64,
) -> Option<Agreement> {
    let all: Vec<usize> = (0..networks).collect();
    let value = tau(&all);
    if !value.is_finite() {
        return None;
    }
    let (low, high) = bootstrap_interval(networks, RESAMPLES, CONFIDENCE, seed, tau);
    Some(Agreement { tau: value, low, high })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(macs: u64, supernet: f64, fine_tuned: f64, losses: [f64; 2]) -> StudiedNetwork {
        StudiedNetwork {
            genotype: Genotype::new(vec![]),
            macs,
            params: 0,
            supernet: Some(supernet),
            fine_tuned: Some(fine_tuned),
            fresh: None,
            from_scratch: losses.map(|loss| Some(loss).filter(|l| l.is_finite())).into(),
        }
    }

    #[test]
    fn orders_are_compared_where_everything_is_finite() {
        // Fine-tuned scores have the order of the means, plain scores the reverse; cheap is bad.
        let networks = vec![
            network(8, 0.4, 0.1, [0.50, 0.52]),
            network(4, 0.3, 0.2, [0.53, 0.51]),
            network(2, 0.2, 0.3, [0.56, 0.55]),
            network(1, 0.1, 0.4, [0.57, 0.58]),
            network(9, 0.0, 0.0, [f64::NAN, 0.1]),
        ];
        let report = report(RankingStudy { networks: 5, seeds: 2 }, networks, 1);
        assert_eq!(report.compared, 4);
        let tau = |agreement: Option<Agreement>| agreement.unwrap().tau;
        assert_eq!(tau(report.supernet), -1.0);
        assert_eq!(tau(report.fine_tuned), 1.0);
        assert_eq!(tau(report.log_macs), 1.0);
        // One of six pairs is in another order with the second seed.
        assert!((tau(report.seed_to_seed) - 4.0 / 6.0).abs() < 1e-12);
        let interval = report.seed_to_seed.unwrap();
        assert!(interval.low < interval.tau && interval.tau <= interval.high, "{interval:?}");
    }

    #[test]
    fn one_seed_has_no_ceiling_and_equal_scores_no_order() {
        let networks = (0..4).map(|i| network(5, i as f64, 0.3, [i as f64, 0.0])).collect();
        let report = report(RankingStudy { networks: 4, seeds: 1 }, networks, 1);
        assert_eq!(report.supernet.unwrap().tau, 1.0);
        assert!(report.seed_to_seed.is_none() && report.fine_tuned.is_none());
        assert!(report.log_macs.is_none(), "MACs are all equal");
    }
}
