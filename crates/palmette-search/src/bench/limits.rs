use serde::Serialize;

use super::searches::{Tick, for_seeds, search, validation};
use super::{Method, Summary};
use crate::{
    SearchError,
    tables::{Role, TableDomain, TableExperimenter},
};

/// Searches under a hard limit on each cost of a table in turn.
#[derive(Clone, Debug, Serialize)]
pub struct LimitStudy {
    /// The quality searched.
    pub quality: String,
    /// Share of the networks that each limit admits.
    pub admitted: f64,
    /// Distinct evaluations of a search.
    pub evaluations: usize,
    /// Seeds 0..seeds, the same for every method.
    pub seeds: usize,
    /// The methods.
    pub methods: Vec<String>,
    /// One entry per cost.
    pub costs: Vec<CostLimit>,
}

/// Searches under one limit.
#[derive(Clone, Debug, Serialize)]
pub struct CostLimit {
    /// The cost.
    pub cost: String,
    /// The largest cost admitted.
    pub most: f64,
    /// Networks admitted.
    pub networks: usize,
    /// Best quality among them.
    pub best_quality: f64,
    /// Per method, regret against that best after all evaluations.
    pub regret: Vec<Summary>,
    /// Trials, over all methods and seeds, that a search proposed over the limit; must be 0.
    pub infeasible: usize,
}

/// For every cost of the table, searches among the cheapest `admitted` share of its networks.
pub fn limit_study(
    domain: &TableDomain<'_>,
    quality: &str,
    methods: &[Method],
    admitted: f64,
    evaluations: usize,
    seeds: usize,
    tick: Tick<'_>,
) -> Result<LimitStudy, SearchError> {
    let table = domain.table();
    let values = validation(table, quality)?;
    if !table.columns().iter().any(|column| column.role == Role::Cost) {
        return Err(SearchError::BadSetting {
            setting: "cost",
            got: format!("missing: {} has no cost column", table.name()),
            needed: "at least one, which the limits study goes through".into(),
        });
    }
    let mut costs = Vec::new();
    for column in table.columns().iter().filter(|column| column.role == Role::Cost) {
        let mut sorted = column.values.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        let most = sorted[((sorted.len() as f64 * admitted) as usize).min(last)];
        let Some(limited) = TableDomain::limited(table, &column.name, most) else { continue };
        let rows = limited.feasible_rows();
        let best_quality = rows.iter().map(|&row| values[row]).fold(f64::NEG_INFINITY, f64::max);
        let mut regret = Vec::new();
        let mut infeasible = 0;
        for &method in methods {
            let runs = for_seeds(seeds, tick, |seed| {
                let most = evaluations.min(rows.len());
                run(&limited, quality, method, most, seed, best_quality)
            })?;
            regret.push(Summary::of(
                &runs.iter().map(|(best, _)| best_quality - best).collect::<Vec<f64>>(),
            ));
            infeasible += runs.iter().map(|run| run.1).sum::<usize>();
        }
        costs.push(CostLimit {
            cost: column.name.clone(),
            most,
            networks: rows.len(),
            best_quality,
            regret,
            infeasible,
        });
    }
    Ok(LimitStudy {
        quality: quality.to_owned(),
        admitted,
        evaluations,
        seeds,
        methods: methods.iter().map(|method| method.name().to_owned()).collect(),
        costs,
    })
}

/// The best quality of one search, and its trials over the limit.
fn run(
    limited: &TableDomain<'_>,
    quality: &str,
    method: Method,
    evaluations: usize,
    seed: u64,
    best: f64,
) -> Result<(f64, usize), SearchError> {
    let Some(mut experimenter) = TableExperimenter::new(limited, quality, None) else {
        return Ok((f64::NAN, 0));
    };
    let found = search(&mut experimenter, method, evaluations, seed, best)?;
    let qualities = found.iter().map(|(_, quality)| *quality);
    Ok((qualities.fold(f64::NEG_INFINITY, f64::max), experimenter.infeasible_queries()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{Column, Table};
    use palmette_space::Space;

    #[test]
    fn a_table_without_costs_is_refused() {
        let mut builder = Space::builder("one");
        builder.integer("x", 0, 3);
        let space = builder.finish().unwrap();
        let genotypes = space.enumerate(4).unwrap();
        let values = vec![0.0; 4];
        let column = Column { name: "acc".into(), role: Role::Validation, values };
        let table = Table::new("own.csv", space, genotypes, vec![column]);
        let domain = TableDomain::new(&table);
        let error = limit_study(&domain, "acc", &[Method::Random], 0.5, 2, 1, &|| ()).unwrap_err();
        assert!(error.to_string().contains("own.csv has no cost column"), "{error}");
    }
}
