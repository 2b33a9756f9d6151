use serde::Serialize;

use super::searches::{Tick, for_seeds, search_rows, validation};
use super::{Method, Summary};
use crate::{SearchError, tables::TableDomain};

/// Methods on permuted labels: whatever is still better than chance has seen something that it
/// should not.
///
/// Qualities are dealt to networks, not to classes of isomorphic ones, anew for every seed. What a
/// method has seen then says nothing about what it has not: whichever distinct networks it chooses,
/// and however, its best has the distribution of the best of as many drawn without replacement.
/// That is known exactly, so every method is held to it alone and not to a random search that all of
/// them would share.
#[derive(Clone, Debug, Serialize)]
pub struct LeakageStudy {
    /// The quality, dealt to other networks anew for every seed.
    pub quality: String,
    /// Distinct evaluations of a search.
    pub evaluations: usize,
    /// Seeds 0..seeds, the same for every method.
    pub seeds: usize,
    /// Mean regret of that many distinct networks drawn at random, exactly.
    pub expected_regret: f64,
    /// The standard deviation of one such regret, exactly.
    pub deviation: f64,
    /// One entry per method.
    pub methods: Vec<MethodLeakage>,
}

/// One method on permuted labels.
#[derive(Clone, Debug, Serialize)]
pub struct MethodLeakage {
    /// The method's name.
    pub method: String,
    /// Its regret.
    pub regret: Summary,
    /// Mean regret minus the exact one, in exact standard errors of the mean.
    pub standard_errors: f64,
    /// Whether that is within four of nothing.
    pub is_clean: bool,
}

/// Runs every method on the table with permuted qualities.
pub fn leakage_study(
    domain: &TableDomain<'_>,
    quality: &str,
    methods: &[Method],
    evaluations: usize,
    seeds: usize,
    tick: Tick<'_>,
) -> Result<LeakageStudy, SearchError> {
    let mut sorted = validation(domain.table(), quality)?.to_vec();
    sorted.sort_by(f64::total_cmp);
    let evaluations = evaluations.min(domain.feasible_rows().len());
    let best = sorted.last().copied().unwrap_or(f64::NAN);
    let (expected, deviation) = best_of_drawn(&sorted, evaluations);
    // One permutation serves all methods of a seed.
    let regrets: Vec<Vec<f64>> = for_seeds(seeds, tick, |seed| {
        let table = domain.table().permuted(seed);
        let values = validation(&table, quality)?;
        let permuted = domain.of_permuted(&table);
        let regret = |&method: &Method| {
            let rows = search_rows(&permuted, quality, method, evaluations, seed)?;
            Ok(best - rows.iter().map(|&row| values[row]).fold(f64::NEG_INFINITY, f64::max))
        };
        methods.iter().map(regret).collect()
    })?;
    let expected_regret = best - expected;
    let methods = methods.iter().enumerate().map(|(m, method)| {
        let regret = Summary::of(&regrets.iter().map(|seed| seed[m]).collect::<Vec<f64>>());
        let error = deviation / (seeds as f64).sqrt();
        let standard_errors = match regret.mean - expected_regret {
            0.0 => 0.0,
            difference => difference / error,
        };
        let is_clean = standard_errors.abs() <= 4.0;
        MethodLeakage { method: method.name().to_owned(), regret, standard_errors, is_clean }
    });
    let (quality, methods) = (quality.to_owned(), methods.collect());
    Ok(LeakageStudy { quality, evaluations, seeds, expected_regret, deviation, methods })
}

/// Mean and standard deviation of the largest of `drawn` values drawn without replacement.
///
/// The largest is the k-th smallest of all N with probability C(k - 1, drawn - 1) / C(N, drawn).
fn best_of_drawn(sorted: &[f64], drawn: usize) -> (f64, f64) {
    let total = sorted.len();
    let mut chance = drawn as f64 / total as f64;
    let (mut mean, mut square) = (0.0, 0.0);
    for k in (drawn.max(1)..=total).rev() {
        mean += chance * sorted[k - 1];
        square += chance * sorted[k - 1].powi(2);
        chance *= (k - drawn) as f64 / (k - 1).max(1) as f64;
    }
    (mean, (square - mean * mean).max(0.0).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_drawn_values_agrees_with_counting() {
        let values = [0.5, 1.0, 1.0, 2.5, 4.0, 7.0];
        for drawn in 1..=6u32 {
            let best: Vec<f64> = (0..64u32)
                .filter(|mask| mask.count_ones() == drawn)
                .map(|mask| {
                    let chosen = (0..6).filter(|i| mask >> i & 1 == 1).map(|i| values[i]);
                    chosen.fold(0.0, f64::max)
                })
                .collect();
            let mean = best.iter().sum::<f64>() / best.len() as f64;
            let squares = best.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
            let got = best_of_drawn(&values, drawn as usize);
            assert!((got.0 - mean).abs() < 1e-12, "{drawn}");
            assert!((got.1 - (squares / best.len() as f64).sqrt()).abs() < 1e-7, "{drawn}");
        }
    }
}
