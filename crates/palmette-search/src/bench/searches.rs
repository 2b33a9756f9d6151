//! One search of a study, and many of them.

use palmette_space::Genotype;
use rayon::prelude::*;

use super::Method;
use crate::{
    Ask, SearchError,
    tables::{Experimenter, Role, Table, TableDomain, TableExperimenter},
};

/// Distinct candidates that one search evaluates, in order, with their qualities (higher is
/// better). It ends after `evaluations` distinct ones, with the first quality of at least `enough`,
/// or where the strategy does.
pub fn search(
    experimenter: &mut dyn Experimenter,
    method: Method,
    evaluations: usize,
    seed: u64,
    enough: f64,
) -> Result<Vec<(Genotype, f64)>, SearchError> {
    let mut strategy = method.make(evaluations, seed)?;
    let mut found = Vec::with_capacity(evaluations);
    while experimenter.distinct_queries() < evaluations {
        let Ask::Try(suggestion) = strategy.suggest(experimenter.domain()) else { break };
        let before = experimenter.distinct_queries();
        let outcome = experimenter.evaluate(&suggestion.genotype);
        if experimenter.distinct_queries() > before
            && let Some(score) = outcome.first()
        {
            found.push((suggestion.genotype, -score));
            if -score >= enough {
                break;
            }
        }
        strategy.observe(experimenter.domain(), suggestion.trial, outcome)?;
    }
    Ok(found)
}

/// Rows of a table that one search evaluates, in order, each once.
pub fn search_rows(
    domain: &TableDomain<'_>,
    quality: &str,
    method: Method,
    evaluations: usize,
    seed: u64,
) -> Result<Vec<usize>, SearchError> {
    let mut experimenter =
        TableExperimenter::new(domain, quality, None).ok_or_else(|| unknown_quality(quality))?;
    let found = search(&mut experimenter, method, evaluations, seed, f64::INFINITY)?;
    Ok(found.iter().filter_map(|(genotype, _)| domain.table().row(genotype)).collect())
}

/// Called when a search of a study is done, from any thread.
pub type Tick<'a> = &'a (dyn Fn() + Sync);

/// `run` for seeds `0..seeds`, in parallel; results in the order of seeds.
pub(super) fn for_seeds<T: Send>(
    seeds: usize,
    tick: Tick<'_>,
    run: impl Fn(u64) -> Result<T, SearchError> + Sync,
) -> Result<Vec<T>, SearchError> {
    let ticking = |seed| {
        let done = run(seed);
        tick();
        done
    };
    (0..seeds as u64).into_par_iter().map(ticking).collect()
}

/// The values of a validation column.
pub(super) fn validation<'a>(table: &'a Table, quality: &str) -> Result<&'a [f64], SearchError> {
    match table.column(quality) {
        Some(column) if column.role == Role::Validation => Ok(&column.values),
        _ => Err(unknown_quality(quality)),
    }
}

fn unknown_quality(quality: &str) -> SearchError {
    SearchError::BadSetting {
        setting: "quality",
        got: quality.into(),
        needed: "a validation column of the table".into(),
    }
}
