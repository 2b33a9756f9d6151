//! What every strategy keeps: trials, outcomes in order, and keys that were seen.

use std::collections::{BTreeMap, HashMap};

use palmette_random::ChaCha8Rng;
use palmette_space::{Domain, Genotype};
use serde::{Deserialize, Serialize};

use crate::{Outcome, SearchError, Suggestion, Trial};

/// Draws before a strategy gives a space up as exhausted.
const MOST_DRAWS: usize = 200_000;

/// Trials of a search in their order.
///
/// Trials of a warm start come first; `warm` says how many. Outcomes that arrive
/// early wait, so that `folded` only ever moves forward through the trials.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    warm: usize,
    genotypes: Vec<Genotype>,
    outcomes: Vec<Option<Outcome>>,
    folded: usize,
    #[serde(skip)]
    seen: HashMap<u128, u32>,
}

impl Ledger {
    /// Number of trials suggested.
    pub fn suggested(&self) -> usize {
        self.genotypes.len() - self.warm
    }

    /// Number of trials handed over at the start.
    pub fn warm(&self) -> usize {
        self.warm
    }

    /// Trials suggested whose outcome is not folded yet.
    pub fn pending(&self) -> usize {
        self.genotypes.len() - self.folded
    }

    /// The genotype at a position (a warm trial, or `warm` + trial).
    pub fn genotype(&self, position: usize) -> &Genotype {
        &self.genotypes[position]
    }

    /// The first score at a position.
    pub fn score(&self, position: usize) -> Option<f64> {
        self.outcomes[position].as_ref().and_then(Outcome::first)
    }

    /// All scores at a position.
    pub fn scores(&self, position: usize) -> Option<&[f64]> {
        match self.outcomes[position].as_ref()? {
            Outcome::Scored(scores) => Some(scores),
            _ => None,
        }
    }

    /// Whether the network was suggested or handed over.
    pub fn has_seen(&self, key: u128) -> bool {
        self.seen.contains_key(&key)
    }

    /// Records a suggestion.
    pub fn suggest(&mut self, key: u128, genotype: Genotype) -> Suggestion {
        let trial = self.suggested() as u64;
        self.seen.insert(key, self.genotypes.len() as u32);
        self.genotypes.push(genotype.clone());
        self.outcomes.push(None);
        Suggestion { trial, genotype, fidelity: 1.0 }
    }

    /// Records an outcome; the next call of [`fold`](Self::fold) tells what it completes.
    pub fn observe(&mut self, trial: u64, outcome: Outcome) -> Result<(), SearchError> {
        let trials = self.suggested() as u64;
        if trial >= trials {
            return Err(SearchError::UnknownTrial { trial, trials });
        }
        let slot = &mut self.outcomes[self.warm + trial as usize];
        if slot.is_some() {
            return Err(SearchError::ObservedTwice(trial));
        }
        *slot = Some(match outcome {
            Outcome::Scored(scores) => Outcome::scores(scores),
            other => other,
        });
        Ok(())
    }

    /// The next position in order whose outcome is known, once.
    pub fn fold(&mut self) -> Option<usize> {
        let position = self.folded;
        self.outcomes.get(position)?.as_ref()?;
        self.folded += 1;
        Some(position)
    }

    /// Folds whatever is known, for strategies that read the ledger alone.
    pub fn fold_all(&mut self) {
        while self.fold().is_some() {}
    }

    /// Records old trials; several outcomes of one network become one with mean scores.
    pub fn warm_start(&mut self, domain: &dyn Domain, trials: &[Trial]) -> Result<(), SearchError> {
        if self.suggested() > 0 {
            return Err(SearchError::WarmStartTooLate(self.suggested() as u64));
        }
        let mut groups: BTreeMap<usize, Vec<&[f64]>> = BTreeMap::new();
        for (index, trial) in trials.iter().enumerate() {
            let problem = |e: palmette_space::SpaceError| SearchError::BadWarmStart {
                index,
                problem: e.to_string(),
            };
            domain.space().check(&trial.genotype).map_err(problem)?;
            let key = domain.key(&trial.genotype);
            let position = *self.seen.entry(key).or_insert(self.genotypes.len() as u32) as usize;
            if position == self.genotypes.len() {
                self.genotypes.push(trial.genotype.clone());
                self.outcomes.push(Some(trial.outcome.clone()));
                self.warm += 1;
            }
            if let Outcome::Scored(scores) = &trial.outcome {
                groups.entry(position).or_default().push(scores);
            }
        }
        for (position, scores) in groups {
            self.outcomes[position] = Some(Outcome::scores(mean(&scores)));
        }
        Ok(())
    }

    /// Rebuilds what is not saved, and checks that the state belongs to the domain; the number of
    /// trials, warm ones included.
    pub fn restore(
        &mut self,
        domain: &dyn Domain,
        strategy: &'static str,
    ) -> Result<usize, SearchError> {
        let bad = |problem: String| SearchError::BadState { strategy, problem };
        if self.outcomes.len() != self.genotypes.len()
            || self.warm > self.genotypes.len()
            || self.folded > self.genotypes.len()
        {
            return Err(bad("its lists have different lengths".into()));
        }
        self.seen.clear();
        for (position, genotype) in self.genotypes.iter().enumerate() {
            domain.space().check(genotype).map_err(|e| bad(e.to_string()))?;
            self.seen.insert(domain.key(genotype), position as u32);
        }
        Ok(self.genotypes.len())
    }

    /// The candidate itself if it is feasible, else its repair; with its key if it is new.
    pub fn admit(
        &self,
        domain: &dyn Domain,
        candidate: Genotype,
        rng: &mut ChaCha8Rng,
    ) -> Option<(u128, Genotype)> {
        if let Some(nearest) = domain.snap(&candidate, &|key| !self.has_seen(key)) {
            return Some((domain.key(&nearest), nearest));
        }
        let feasible = if domain.is_feasible(&candidate) {
            candidate
        } else {
            domain.repair(&candidate, rng)?
        };
        let key = domain.key(&feasible);
        (!self.has_seen(key)).then_some((key, feasible))
    }

    /// A new feasible random candidate, or `None` where the space is exhausted.
    pub fn draw(&self, domain: &dyn Domain, rng: &mut ChaCha8Rng) -> Option<(u128, Genotype)> {
        if self.is_exhausted(domain) {
            return None;
        }
        (0..MOST_DRAWS).find_map(|_| {
            let candidate = domain.sample(rng);
            self.admit(domain, candidate, rng)
        })
    }

    /// Whether every distinct network was seen.
    pub fn is_exhausted(&self, domain: &dyn Domain) -> bool {
        domain.distinct().is_some_and(|distinct| self.seen.len() as u128 >= distinct)
    }

    /// Positions and first scores of all folded trials that have one, in order.
    pub fn scored(&self) -> Vec<(usize, f64)> {
        (0..self.folded).filter_map(|position| Some((position, self.score(position)?))).collect()
    }
}

/// The mean of each objective; lists of another length than the first are left out.
fn mean(scores: &[&[f64]]) -> Vec<f64> {
    let objectives = scores[0].len();
    let scores: Vec<&&[f64]> = scores.iter().filter(|s| s.len() == objectives).collect();
    (0..objectives)
        .map(|i| scores.iter().map(|s| s[i]).sum::<f64>() / scores.len() as f64)
        .collect()
}
