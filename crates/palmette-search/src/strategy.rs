use palmette_space::{Domain, Genotype};
use serde::{Deserialize, Serialize};

use crate::SearchError;

/// How a trial ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// One score per objective; lower is better. Strategies for one objective use the first.
    Scored(Vec<f64>),
    /// Over a hard limit; it was not evaluated, or its evaluation showed it.
    Infeasible,
    /// The evaluation broke (a NaN loss).
    Failed,
}

impl Outcome {
    /// A single score; NaN or infinite is a failure.
    pub fn score(score: f64) -> Self {
        Self::scores(vec![score])
    }

    /// Several scores; any NaN or infinite one is a failure.
    pub fn scores(scores: Vec<f64>) -> Self {
        if !scores.is_empty() && scores.iter().all(|score| score.is_finite()) {
            Self::Scored(scores)
        } else {
            Self::Failed
        }
    }

    /// The first score.
    pub fn first(&self) -> Option<f64> {
        match self {
            Self::Scored(scores) => scores.first().copied(),
            _ => None,
        }
    }
}

/// A candidate to be evaluated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Suggestion {
    /// Number of the trial, counted from 0.
    pub trial: u64,
    /// The candidate, feasible and new.
    pub genotype: Genotype,
    /// The share of a full evaluation to spend on it, in (0, 1]; 1 except under successive halving.
    pub fidelity: f64,
}

/// What a strategy answers when asked for a candidate.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Evaluate this.
    Try(Suggestion),
    /// Nothing before pending trials are observed.
    Wait,
    /// Nothing any more: the plan is done or the space exhausted.
    Finished,
}

/// A trial with its outcome, from this search or an older one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The candidate.
    pub genotype: Genotype,
    /// How it did.
    pub outcome: Outcome,
}

/// Proposes candidates from what it has seen.
///
/// Whatever the order in which pending trials are observed, the suggestions are
/// the same. The domain must be the same in every call.
pub trait Strategy {
    /// Its name in configurations and saved states.
    fn name(&self) -> &'static str;

    /// The next candidate.
    fn suggest(&mut self, domain: &dyn Domain) -> Ask;

    /// Tells how a suggested trial ended.
    fn observe(
        &mut self,
        domain: &dyn Domain,
        trial: u64,
        outcome: Outcome,
    ) -> Result<(), SearchError>;

    /// Hands over trials of an older search, before the first suggestion. They cost nothing
    /// of this search's budget; several outcomes of one network are averaged.
    fn warm_start(&mut self, domain: &dyn Domain, trials: &[Trial]) -> Result<(), SearchError>;

    /// The whole state as a value.
    fn save(&self) -> serde_json::Value;

    /// Continues from a saved state with the same bits.
    fn load(&mut self, domain: &dyn Domain, state: &serde_json::Value) -> Result<(), SearchError>;
}
