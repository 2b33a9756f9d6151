use serde::Serialize;

use super::searches::{Tick, for_seeds, search_rows, validation};
use super::{Method, regret::PairedDifference};
use crate::{SearchError, tables::TableDomain};

/// Methods on permuted labels: whatever still beats random search has seen something that it
/// should not.
#[derive(Clone, Debug, Serialize)]
pub struct LeakageStudy {
    /// The quality, dealt to other networks anew for every seed.
    pub quality: String,
    /// Distinct evaluations of a search.
    pub evaluations: usize,
    /// Seeds 0..seeds, the same for every method.
    pub seeds: usize,
    /// One entry per method.
    pub methods: Vec<MethodLeakage>,
}

/// One method on permuted labels.
#[derive(Clone, Debug, Serialize)]
pub struct MethodLeakage {
    /// The method's name.
    pub method: String,
    /// Its regret minus random search's on the same seed.
    pub against_random: PairedDifference,
    /// That difference in standard errors.
    pub standard_errors: f64,
    /// Whether it is within four standard errors of nothing.
    pub is_clean: bool,
}

/// Runs every method on the whole table with permuted qualities.
pub fn leakage_study(
    domain: &TableDomain<'_>,
    quality: &str,
    methods: &[Method],
    evaluations: usize,
    seeds: usize,
    tick: Tick<'_>,
) -> Result<LeakageStudy, SearchError> {
    validation(domain.table(), quality)?;
    // One permutation serves all methods of a seed: copying a table is dear.
    let all: Vec<Method> = [Method::Random].iter().chain(methods).copied().collect();
    let best: Vec<Vec<f64>> = for_seeds(seeds, tick, |seed| {
        let table = domain.table().permuted(seed);
        let values = validation(&table, quality)?;
        let permuted = TableDomain::new(&table);
        all.iter()
            .map(|&method| {
                let rows = search_rows(&permuted, quality, method, evaluations, seed)?;
                Ok(rows.iter().map(|&row| -values[row]).fold(f64::INFINITY, f64::min))
            })
            .collect()
    })?;
    let of = |m: usize| best.iter().map(|seed| seed[m]).collect::<Vec<f64>>();
    let random = of(0);
    let methods = methods.iter().enumerate().map(|(m, method)| {
        let against_random = PairedDifference::of(&of(m + 1), &random);
        let difference = against_random.difference;
        let standard_errors = match difference.standard_error {
            0.0 => 0.0,
            error => difference.mean / error,
        };
        MethodLeakage {
            method: method.name().to_owned(),
            against_random,
            standard_errors,
            is_clean: standard_errors.abs() <= 4.0,
        }
    });
    Ok(LeakageStudy { quality: quality.to_owned(), evaluations, seeds, methods: methods.collect() })
}
