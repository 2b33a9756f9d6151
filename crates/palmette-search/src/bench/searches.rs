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
    let mut experimenter = TableExperimenter::new(domain, quality, None)
        .ok_or_else(|| unknown_quality(domain.table(), quality))?;
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
        _ => Err(unknown_quality(table, quality)),
    }
}

fn unknown_quality(table: &Table, quality: &str) -> SearchError {
    let is = match table.column(quality).map(|column| column.role) {
        Some(Role::Validation) => "a score of the table",
        Some(Role::Test) => "a test column of the table",
        Some(Role::Cost) => "a cost column of the table",
        None => "no column of the table",
    };
    SearchError::BadSetting {
        setting: "quality",
        got: format!("`{quality}`, {is}"),
        needed: "a score of the table".into(),
    }
}

/// Refuses numbers of evaluations that no study of the table can use: more than its networks and
/// than 10,000, which is room enough for a surrogate of a small pool. Curves hold one number per
/// evaluation and seed.
pub fn check_evaluations(table: &Table, evaluations: &[usize]) -> Result<(), SearchError> {
    let (networks, asked) = (table.genotypes().len(), evaluations.iter().copied().max());
    let most = networks.max(10_000);
    match asked.filter(|&asked| asked > most) {
        None => Ok(()),
        Some(asked) => Err(SearchError::BadSetting {
            setting: "evaluations",
            got: asked.to_string(),
            needed: format!("at most {most}; {} has {networks} networks", table.name()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palmette_space::Space;

    #[test]
    fn absurd_numbers_of_evaluations_are_refused() {
        let mut builder = Space::builder("one");
        builder.integer("x", 0, 3);
        let space = builder.finish().unwrap();
        let genotypes = space.enumerate(4).unwrap();
        let table = Table::new("own.csv", space, genotypes, Vec::new());
        assert_eq!(check_evaluations(&table, &[50, 10_000]), Ok(()));
        let error = check_evaluations(&table, &[50, 1_000_000_000]).unwrap_err().to_string();
        assert!(error.contains("1000000000; needed: at most 10000; own.csv has 4"), "{error}");
    }
}
