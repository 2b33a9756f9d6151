use rayon::prelude::*;
use serde::Serialize;

use super::{Method, Summary, summary::median};
use crate::{
    Ask, SearchError,
    tables::{Experimenter, Role, TableDomain, TableExperimenter},
};

/// Regret of methods against evaluations, over paired seeds.
#[derive(Clone, Debug, Serialize)]
pub struct RegretStudy {
    /// The table.
    pub table: String,
    /// The column that the searches saw.
    pub quality: String,
    /// Seeds 0..seeds, the same for every method.
    pub seeds: usize,
    /// Best quality within the limits.
    pub best_quality: f64,
    /// Numbers of distinct evaluations at which regret is told.
    pub checkpoints: Vec<usize>,
    /// One entry per method.
    pub methods: Vec<MethodRegret>,
}

/// One method of a study.
#[derive(Clone, Debug, Serialize)]
pub struct MethodRegret {
    /// The method's name.
    pub method: String,
    /// Regret at each checkpoint.
    pub regret: Vec<Summary>,
    /// Mean regret after every number of evaluations, for the chart.
    pub curve: Vec<f64>,
    /// Median number of evaluations until the best row was found (infinite is shown as null).
    pub median_to_best: Option<f64>,
    /// Share of seeds that found the best row, by checkpoint.
    pub found_best: Vec<f64>,
    /// This method's regret minus the first method's on the same seed, by checkpoint.
    pub against_first: Vec<PairedDifference>,
    /// For each test column: regret in it of the row chosen by the quality at the last checkpoint.
    pub test_regret: Vec<(String, Summary)>,
}

/// A mean difference over paired seeds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PairedDifference {
    /// Mean and interval of the difference.
    pub difference: Summary,
    /// Share of seeds on which it is below zero, ties counting half.
    pub wins: f64,
}

/// Rows that one search evaluates, in order, each once.
pub fn search_rows(
    domain: &TableDomain<'_>,
    quality: &str,
    method: Method,
    evaluations: usize,
    seed: u64,
) -> Result<Vec<usize>, SearchError> {
    let mut experimenter =
        TableExperimenter::new(domain, quality, None).ok_or_else(|| SearchError::BadSetting {
            setting: "quality",
            got: quality.into(),
            needed: "a validation column of the table".into(),
        })?;
    let mut strategy = method.make(evaluations, seed)?;
    let mut rows = Vec::with_capacity(evaluations);
    while experimenter.distinct_queries() < evaluations {
        let Ask::Try(suggestion) = strategy.suggest(domain) else { break };
        let before = experimenter.distinct_queries();
        let outcome = experimenter.evaluate(&suggestion.genotype);
        if experimenter.distinct_queries() > before {
            rows.extend(domain.table().row(&suggestion.genotype));
        }
        strategy.observe(domain, suggestion.trial, outcome)?;
    }
    Ok(rows)
}

/// Runs every method on seeds `0..seeds` with as many evaluations as the last checkpoint.
///
/// Seeds run in parallel and fold in their order. The first method is the one that the others are
/// compared with.
pub fn regret_study(
    domain: &TableDomain<'_>,
    quality: &str,
    methods: &[Method],
    checkpoints: &[usize],
    seeds: usize,
    mut progress: impl FnMut(&str),
) -> Result<RegretStudy, SearchError> {
    let table = domain.table();
    let evaluations =
        checkpoints.iter().copied().max().unwrap_or(0).min(domain.feasible_rows().len());
    let values = match table.column(quality) {
        Some(column) if column.role == Role::Validation => &column.values,
        _ => {
            return Err(SearchError::BadSetting {
                setting: "quality",
                got: quality.into(),
                needed: "a validation column of the table".into(),
            });
        }
    };
    let best_of = |values: &[f64]| {
        domain.feasible_rows().iter().map(|&row| values[row]).fold(f64::NEG_INFINITY, f64::max)
    };
    let best_quality = best_of(values);
    let mut first: Option<Vec<Vec<f64>>> = None;
    let mut found = Vec::new();
    for &method in methods {
        progress(method.name());
        let runs: Vec<Vec<usize>> = (0..seeds as u64)
            .into_par_iter()
            .map(|seed| search_rows(domain, quality, method, evaluations, seed))
            .collect::<Result<_, _>>()?;
        let curves: Vec<Vec<f64>> =
            runs.iter().map(|rows| regret_curve(rows, values, best_quality, evaluations)).collect();
        let at = |n: usize| -> Vec<f64> {
            let position = n.clamp(1, evaluations) - 1;
            curves.iter().map(|curve| curve[position]).collect()
        };
        let regrets: Vec<Vec<f64>> = checkpoints.iter().map(|&n| at(n)).collect();
        let to_best: Vec<f64> = curves
            .iter()
            .map(|curve| match curve.iter().position(|&regret| regret <= 0.0) {
                Some(position) => (position + 1) as f64,
                None => f64::INFINITY,
            })
            .collect();
        let reference = first.get_or_insert_with(|| regrets.clone());
        let against_first =
            regrets.iter().zip(reference.iter()).map(|(ours, theirs)| paired(ours, theirs));
        let test_columns = table.columns().iter().filter(|column| column.role == Role::Test);
        let test_regret = test_columns.map(|column| {
            let best = best_of(&column.values);
            let chosen: Vec<f64> = runs
                .iter()
                .map(|rows| best - chosen_row(rows, values).map_or(f64::NAN, |r| column.values[r]))
                .collect();
            (column.name.clone(), Summary::of(&chosen))
        });
        let median_to_best = Some(median(&to_best)).filter(|median| median.is_finite());
        found.push(MethodRegret {
            method: method.name().to_owned(),
            regret: regrets.iter().map(|values| Summary::of(values)).collect(),
            curve: (1..=evaluations).map(|n| at(n).iter().sum::<f64>() / seeds as f64).collect(),
            median_to_best,
            found_best: checkpoints
                .iter()
                .map(|&n| share(&to_best, |count| count <= n as f64))
                .collect(),
            against_first: against_first.collect(),
            test_regret: test_regret.collect(),
        });
    }
    Ok(RegretStudy {
        table: table.name().to_owned(),
        quality: quality.to_owned(),
        seeds,
        best_quality,
        checkpoints: checkpoints.to_vec(),
        methods: found,
    })
}

/// Best quality minus the best so far, after each evaluation; constant after the last.
fn regret_curve(rows: &[usize], values: &[f64], best: f64, evaluations: usize) -> Vec<f64> {
    let mut so_far = f64::NEG_INFINITY;
    let mut curve: Vec<f64> = rows
        .iter()
        .map(|&row| {
            so_far = so_far.max(values[row]);
            best - so_far
        })
        .collect();
    curve.resize(evaluations, best - so_far);
    curve
}

/// The row that the search would hand over.
fn chosen_row(rows: &[usize], values: &[f64]) -> Option<usize> {
    rows.iter().copied().max_by(|&a, &b| values[a].total_cmp(&values[b]).then(b.cmp(&a)))
}

fn paired(ours: &[f64], theirs: &[f64]) -> PairedDifference {
    let differences: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a - b).collect();
    let wins = share(&differences, |d| d < 0.0) + 0.5 * share(&differences, |d| d == 0.0);
    PairedDifference { difference: Summary::of(&differences), wins }
}

fn share(values: &[f64], test: impl Fn(f64) -> bool) -> f64 {
    values.iter().filter(|&&value| test(value)).count() as f64 / values.len().max(1) as f64
}
