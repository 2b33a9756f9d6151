use std::time::Instant;

use rayon::prelude::*;
use serde::Serialize;

use super::{Method, searches::search_rows};
use crate::{Ask, Outcome, SearchError, Strategy, tables::TableDomain};

/// How fast methods are on a table. The only study that looks at a clock.
#[derive(Clone, Debug, Serialize)]
pub struct SpeedStudy {
    /// Threads that share the searches.
    pub threads: usize,
    /// Searches timed together.
    pub searches: usize,
    /// Distinct evaluations of each.
    pub evaluations: usize,
    /// One entry per method.
    pub methods: Vec<MethodSpeed>,
}

/// One method's speed.
#[derive(Clone, Debug, Serialize)]
pub struct MethodSpeed {
    /// The method's name.
    pub method: String,
    /// Rounds of suggest and observe a second on one core, without looking anything up.
    pub rounds_a_second: f64,
    /// Seconds for all searches on all threads.
    pub seconds: f64,
}

/// Times `searches` complete searches on all threads, and rounds on one.
pub fn speed_study(
    domain: &TableDomain<'_>,
    quality: &str,
    methods: &[Method],
    searches: usize,
    evaluations: usize,
) -> Result<SpeedStudy, SearchError> {
    let mut timed = Vec::new();
    for &method in methods {
        let start = Instant::now();
        (0..searches as u64).into_par_iter().try_for_each(|seed| {
            search_rows(domain, quality, method, evaluations, seed).map(|_| ())
        })?;
        let seconds = start.elapsed().as_secs_f64();
        timed.push(MethodSpeed {
            method: method.name().to_owned(),
            rounds_a_second: rounds_a_second(domain, method, evaluations)?,
            seconds,
        });
    }
    let threads = rayon::current_num_threads();
    Ok(SpeedStudy { threads, searches, evaluations, methods: timed })
}

/// Searches again and again for at least half a second.
fn rounds_a_second(
    domain: &TableDomain<'_>,
    method: Method,
    evaluations: usize,
) -> Result<f64, SearchError> {
    let start = Instant::now();
    let mut rounds = 0u32;
    for seed in 0.. {
        let mut strategy: Box<dyn Strategy> = method.make(evaluations, seed)?;
        for _ in 0..evaluations {
            let Ask::Try(suggestion) = strategy.suggest(domain) else { break };
            // Some number of the genotype: the rounds are timed, not the objective.
            let score: f64 = suggestion.genotype.genes().iter().map(|&gene| f64::from(gene)).sum();
            strategy.observe(domain, suggestion.trial, Outcome::score(score))?;
            rounds += 1;
        }
        if start.elapsed().as_secs_f64() > 0.5 {
            break;
        }
    }
    Ok(f64::from(rounds) / start.elapsed().as_secs_f64())
}
