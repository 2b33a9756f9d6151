use palmette_space::{Domain, Genotype};

use crate::{Ask, Outcome, SearchError, Strategy};

/// The best trial of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct Best {
    /// Its number.
    pub trial: u64,
    /// The candidate.
    pub genotype: Genotype,
    /// Its score.
    pub score: f64,
}

/// Lets a strategy minimise `objective` for at most `evaluations` trials, one after another.
///
/// `None` where no trial had a finite score.
pub fn minimise(
    domain: &dyn Domain,
    strategy: &mut dyn Strategy,
    evaluations: u64,
    mut objective: impl FnMut(&Genotype) -> f64,
) -> Result<Option<Best>, SearchError> {
    let mut best: Option<Best> = None;
    for _ in 0..evaluations {
        let Ask::Try(suggestion) = strategy.suggest(domain) else { break };
        let score = objective(&suggestion.genotype);
        if score.is_finite() && best.as_ref().is_none_or(|best| score < best.score) {
            best = Some(Best {
                trial: suggestion.trial,
                genotype: suggestion.genotype.clone(),
                score,
            });
        }
        strategy.observe(domain, suggestion.trial, Outcome::score(score))?;
    }
    Ok(best)
}
