use std::collections::BTreeMap;

use palmette_random::{Draw, stream};
use palmette_space::{Domain, Genotype, Subspace};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::neighbour_correlation;
use crate::predictors::{PairwiseRidge, normal_scores};

/// Settings of [`lissnas`]; the defaults were chosen on NAS-Bench-201's CIFAR-10.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShrinkConfig {
    /// Random genotypes evaluated at the start.
    pub sample: usize,
    /// Of these, how many get one neighbour evaluated for the locality gate.
    pub gate: usize,
    /// Best genotypes whose neighbourhoods make the next space.
    pub seeds: usize,
    /// Genotypes drawn afresh from each new space, for the stopping rule and the next seeds.
    pub fresh: usize,
    /// A new space must have a mean normal score better by more than this.
    pub least_gain: f64,
    /// New spaces that may fail this before shrinking stops; each is made from more evaluations.
    pub patience: usize,
    /// Distinct evaluations at most.
    pub most_evaluations: usize,
    /// Members that a predictor, fitted to all evaluations, leaves at most.
    pub most_members: usize,
}

impl Default for ShrinkConfig {
    fn default() -> Self {
        Self {
            sample: 200,
            gate: 100,
            seeds: 32,
            fresh: 100,
            least_gain: 0.0,
            patience: 2,
            most_evaluations: 700,
            most_members: 240,
        }
    }
}

/// Why a space cannot be shrunk.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum ShrinkError {
    /// Neighbours are hardly more alike than strangers.
    #[error(
        "the space shows no locality: neighbours correlate by {correlation:.3}, needed: above \
         1/e = 0.368; shrinking around good genotypes would keep arbitrary ones"
    )]
    NoLocality {
        /// The estimate.
        correlation: f64,
    },
    /// Nothing could be evaluated.
    #[error("none of the {0} sampled genotypes has a quality")]
    NothingEvaluated(usize),
    /// What the space says.
    #[error(transparent)]
    Space(#[from] palmette_space::SpaceError),
}

/// What [`lissnas`] found.
#[derive(Clone, Debug)]
pub struct Lissnas {
    /// The smaller space.
    pub space: Subspace,
    /// Distinct evaluations.
    pub evaluations: usize,
    /// Estimated correlation of neighbours.
    pub locality: f64,
    /// Mean quality of the fresh sample of the full space and of each accepted space after it.
    pub means: Vec<f64>,
}

/// LISSNAS's locality-based shrinking (Gopal et al., IJCAI 2023; our reconstruction).
///
/// A random sample is evaluated; the gate checks that neighbours correlate above
/// 1/e. Then: the best genotypes known become seeds, the seeds and their
/// neighbours the next space, and a fresh sample of it decides: as long as its
/// mean (of normal scores) is better than the last one's, go on; after `patience` spaces that are
/// not, return the last that was. A fresh sample,
/// because the seeds' own mean is biased upwards. At the end a pairwise ridge on all
/// evaluations keeps the best `most_members`. No oracle is asked anywhere.
///
/// `evaluate` returns a quality, higher is better; it is called once per genotype.
pub fn lissnas(
    domain: &dyn Domain,
    config: &ShrinkConfig,
    seed: u64,
    evaluate: &mut dyn FnMut(&Genotype) -> Option<f64>,
) -> Result<Lissnas, ShrinkError> {
    let mut known: BTreeMap<Genotype, Option<f64>> = BTreeMap::new();
    let mut ask = |genotype: &Genotype, known: &mut BTreeMap<Genotype, Option<f64>>| {
        *known.entry(genotype.clone()).or_insert_with(|| evaluate(genotype))
    };
    let mut rng = stream(seed, "shrink/sample", 0);
    let mut first: Vec<(Genotype, f64)> = Vec::new();
    for _ in 0..50 * config.sample {
        if first.len() == config.sample {
            break;
        }
        let genotype = domain.sample(&mut rng);
        if domain.is_feasible(&genotype)
            && !known.contains_key(&genotype)
            && let Some(quality) = ask(&genotype, &mut known)
        {
            first.push((genotype, quality));
        }
    }
    if first.is_empty() {
        return Err(ShrinkError::NothingEvaluated(config.sample));
    }
    let gate = &first[..config.gate.min(first.len())];
    let (locality, _) =
        neighbour_correlation(domain, gate, seed, &mut |genotype| ask(genotype, &mut known));
    if locality.is_nan() || locality <= (-1.0f64).exp() {
        return Err(ShrinkError::NoLocality { correlation: locality });
    }

    let mut means = vec![mean(first.iter().map(|f| f.1))];
    let mut judged: Vec<Genotype> = first.into_iter().map(|(genotype, _)| genotype).collect();
    let mut accepted: Option<Vec<Genotype>> = None;
    let mut refused = 0;
    for round in 0.. {
        let members = around_best(domain, &known, config.seeds);
        let mut rng = stream(seed, "shrink/fresh", round);
        let drawn = rng.distinct(members.len(), config.fresh);
        let unknown = drawn.iter().filter(|&&i| !known.contains_key(&members[i])).count();
        if known.len() + unknown > config.most_evaluations {
            // Not enough left to judge this space: the last judged one stands, or the first.
            accepted.get_or_insert(members);
            break;
        }
        let fresh: Vec<Genotype> = drawn
            .iter()
            .filter(|&&i| ask(&members[i], &mut known).is_some())
            .map(|&i| members[i].clone())
            .collect();
        let scores = scores_of(&known);
        let level =
            |sample: &[Genotype]| mean(sample.iter().filter_map(|g| scores.get(g).copied()));
        let (fresh_level, bar) = (level(&fresh), level(&judged) + config.least_gain);
        if fresh_level.is_nan() || bar.is_nan() || fresh_level <= bar {
            accepted.get_or_insert(members);
            refused += 1;
            if refused == config.patience.max(1) {
                break;
            }
            continue;
        }
        refused = 0;
        means.push(mean(fresh.iter().filter_map(|genotype| known[genotype])));
        judged = fresh;
        accepted = Some(members);
    }
    let mut members = accepted.unwrap_or_default();
    keep_predicted_best(domain, &known, &mut members, config.most_members);
    Ok(Lissnas {
        space: Subspace::new(domain.space().clone(), members)?,
        evaluations: known.len(),
        locality,
        means,
    })
}

/// Normal scores of everything evaluated: means of them are not at the mercy of the few networks
/// that do not train at all, as means of accuracies are.
fn scores_of(known: &BTreeMap<Genotype, Option<f64>>) -> BTreeMap<&Genotype, f64> {
    let scored: Vec<(&Genotype, f64)> =
        known.iter().filter_map(|(genotype, quality)| Some((genotype, (*quality)?))).collect();
    let qualities: Vec<f64> = scored.iter().map(|s| s.1).collect();
    scored.iter().map(|s| s.0).zip(normal_scores(&qualities)).collect()
}

/// The best genotypes known and their neighbours, in the order of their genes.
fn around_best(
    domain: &dyn Domain,
    known: &BTreeMap<Genotype, Option<f64>>,
    seeds: usize,
) -> Vec<Genotype> {
    let mut scored: Vec<(&Genotype, f64)> =
        known.iter().filter_map(|(genotype, quality)| Some((genotype, (*quality)?))).collect();
    scored.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    let mut members: Vec<Genotype> = scored
        .iter()
        .take(seeds)
        .flat_map(|(genotype, _)| {
            let mut ball = domain.neighbours(genotype);
            ball.retain(|neighbour| domain.is_feasible(neighbour));
            ball.push((*genotype).clone());
            ball
        })
        .collect();
    members.sort_unstable();
    members.dedup();
    members
}

/// Keeps the members with the best evaluated, else predicted, quality.
fn keep_predicted_best(
    domain: &dyn Domain,
    known: &BTreeMap<Genotype, Option<f64>>,
    members: &mut Vec<Genotype>,
    most: usize,
) {
    if members.len() <= most {
        return;
    }
    let scored: Vec<(&Genotype, f64)> =
        known.iter().filter_map(|(genotype, quality)| Some((genotype, (*quality)?))).collect();
    let genotypes: Vec<&Genotype> = scored.iter().map(|s| s.0).collect();
    let qualities: Vec<f64> = scored.iter().map(|s| s.1).collect();
    let labels = normal_scores(&qualities);
    let mut ridge = PairwiseRidge::new(domain.space(), 0.02);
    ridge.fit(domain.space(), &genotypes, &labels);
    let label_of: BTreeMap<&Genotype, f64> = genotypes.into_iter().zip(labels).collect();
    members.sort_by_cached_key(|member| {
        let quality = label_of
            .get(member)
            .copied()
            .unwrap_or_else(|| ridge.predict(&domain.space().slots(member)));
        // Ascending by the bits of a float is descending by value after negation.
        ordered(-quality)
    });
    members.truncate(most);
}

/// A key that sorts as the float does.
fn ordered(value: f64) -> i64 {
    let bits = value.to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), value| (sum + value, count + 1));
    sum / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use palmette_space::Space;

    fn space() -> Space {
        let mut builder = Space::builder("hill");
        for i in 0..6 {
            builder.integer(&format!("x{i}"), 0, 4);
        }
        builder.finish().unwrap()
    }

    #[test]
    fn a_hill_is_shrunk_to_its_top() {
        let space = space();
        let quality = |g: &Genotype| -g.genes().iter().map(|&x| f64::from(x)).sum::<f64>();
        let mut asked = std::collections::HashSet::new();
        let found = lissnas(&space, &ShrinkConfig::default(), 3, &mut |genotype| {
            assert!(asked.insert(genotype.clone()), "evaluated twice");
            Some(quality(genotype))
        })
        .unwrap();
        assert_eq!(found.evaluations, asked.len());
        assert!(found.evaluations <= 700 && found.space.members().len() <= 240);
        let mean = mean(found.space.members().iter().map(quality));
        assert!(mean > -6.0, "{mean}");
    }

    #[test]
    fn noise_has_no_locality() {
        let space = space();
        let hash = |g: &Genotype| Some((palmette_space::key_of(g.genes()) % 1000) as f64);
        let refused = (0..20)
            .filter(|&seed| {
                let result = lissnas(&space, &ShrinkConfig::default(), seed, &mut |g| hash(g));
                matches!(result, Err(ShrinkError::NoLocality { .. }))
            })
            .count();
        assert!(refused >= 19, "{refused}");
    }
}
