use serde::Serialize;

use super::searches::{Tick, for_seeds};
use super::{Method, Summary};
use crate::{
    Ask, SearchError, hypervolume,
    tables::{Experimenter, TableDomain, TableExperimenter},
};

/// Hypervolume against evaluations for two objectives: a quality and a cost.
#[derive(Clone, Debug, Serialize)]
pub struct ParetoStudy {
    /// The table.
    pub table: String,
    /// The quality.
    pub quality: String,
    /// The cost.
    pub cost: String,
    /// Seeds 0..seeds.
    pub seeds: usize,
    /// Numbers of evaluations.
    pub checkpoints: Vec<usize>,
    /// Per method, the share of the whole table's hypervolume at each checkpoint.
    pub methods: Vec<(String, Vec<Summary>)>,
}

/// Runs methods under two objectives. Both are scaled to 0..1 over the table, and the reference
/// point is the worst of both.
pub fn pareto_study(
    domain: &TableDomain<'_>,
    quality: &str,
    cost: &str,
    methods: &[Method],
    checkpoints: &[usize],
    seeds: usize,
    tick: Tick<'_>,
) -> Result<ParetoStudy, SearchError> {
    let unknown = || SearchError::BadSetting {
        setting: "quality and cost",
        got: format!("{quality} and {cost}"),
        needed: "a validation column and a cost column of the table".into(),
    };
    let new_experimenter =
        || TableExperimenter::new(domain, quality, Some(cost)).ok_or_else(unknown);
    let mut judge = new_experimenter()?;
    let genotypes = domain.table().genotypes();
    let mut point = |row: usize| match judge.evaluate(&genotypes[row]) {
        crate::Outcome::Scored(scores) if scores.len() == 2 => Some([scores[0], scores[1]]),
        _ => None,
    };
    let points: Vec<[f64; 2]> =
        domain.feasible_rows().iter().filter_map(|&row| point(row)).collect();
    let range = |i: usize| {
        let low = points.iter().map(|p| p[i]).fold(f64::INFINITY, f64::min);
        let high = points.iter().map(|p| p[i]).fold(f64::NEG_INFINITY, f64::max);
        (low, (high - low).max(f64::MIN_POSITIVE))
    };
    let ranges = [range(0), range(1)];
    let scale =
        |p: [f64; 2]| [(p[0] - ranges[0].0) / ranges[0].1, (p[1] - ranges[1].0) / ranges[1].1];
    let whole: Vec<[f64; 2]> = points.iter().map(|&p| scale(p)).collect();
    let whole = hypervolume(&whole, [1.0, 1.0]);
    let evaluations = checkpoints.iter().copied().max().unwrap_or(0);
    let mut found = Vec::new();
    for &method in methods {
        let runs = for_seeds(seeds, tick, |seed| {
            let mut experimenter = new_experimenter()?;
            let mut strategy = method.make(evaluations, seed)?;
            let mut seen: Vec<[f64; 2]> = Vec::new();
            let mut shares = vec![f64::NAN; checkpoints.len()];
            for evaluation in 1..=evaluations {
                if let Ask::Try(suggestion) = strategy.suggest(domain) {
                    let outcome = experimenter.evaluate(&suggestion.genotype);
                    if let crate::Outcome::Scored(scores) = &outcome {
                        seen.push(scale([scores[0], scores[1]]));
                    }
                    strategy.observe(domain, suggestion.trial, outcome)?;
                }
                for (share, &at) in shares.iter_mut().zip(checkpoints) {
                    if at == evaluation {
                        *share = hypervolume(&seen, [1.0, 1.0]) / whole;
                    }
                }
            }
            Ok(shares)
        })?;
        let summaries = (0..checkpoints.len())
            .map(|i| Summary::of(&runs.iter().map(|run| run[i]).collect::<Vec<f64>>()))
            .collect();
        found.push((method.name().to_owned(), summaries));
    }
    Ok(ParetoStudy {
        table: domain.table().name().to_owned(),
        quality: quality.to_owned(),
        cost: cost.to_owned(),
        seeds,
        checkpoints: checkpoints.to_vec(),
        methods: found,
    })
}
