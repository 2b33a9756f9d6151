use palmette_random::{ChaCha8Rng, Draw, stream};
use palmette_space::{Domain, Genotype};
use serde::{Deserialize, Serialize};

use crate::{Ask, SearchError, ledger::Ledger, state::Stateful};

/// Mutations of one child before the chain restarts.
const MOST_MUTATIONS: usize = 200;

/// Settings of [`MetropolisEvolution`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetropolisConfig {
    /// Random candidates of which the best starts the chain.
    pub burn_in: usize,
    /// Children of a round, of which the best is proposed.
    pub children: usize,
    /// Rounds over which the temperature falls; the chain then goes on at the lowest temperature.
    pub rounds: usize,
    /// Scale s of the temperature s (1 + cos(pi i / rounds)), in units of the score.
    pub temperature: f64,
    /// Added to minus the score to make a quality that is multiplied by the cost term.
    pub quality_offset: f64,
    /// Cost (the second score) above which the quality shrinks; none without a target.
    pub cost_target: Option<f64>,
    /// Exponent of cost / target, negative.
    pub cost_exponent: f64,
    /// Rounds without acceptance after which the chain restarts at a random candidate.
    pub restart_after: usize,
}

impl MetropolisConfig {
    /// Burn-in of 20, 4 children, s = 1 over as many rounds as `evaluations` allow; no cost term.
    pub fn for_budget(evaluations: usize) -> Self {
        let burn_in = 20.min(evaluations.div_ceil(4));
        Self {
            burn_in,
            children: 4,
            rounds: evaluations.saturating_sub(burn_in).div_ceil(4).max(1),
            temperature: 1.0,
            quality_offset: 0.0,
            cost_target: None,
            cost_exponent: -0.18,
            restart_after: 25,
        }
    }
}

/// MH-ES, the Metropolis-Hastings evolution of CSCO.
///
/// It proposes the best of a batch of children and has no Hastings ratio, so it
/// is annealing by batches and no sampler of a known distribution. The quality
/// is `(offset - score) * min(1, (cost / target)^exponent)`, without NaN: a cost at
/// or below zero shrinks nothing, and a negative quality is divided by the term.
#[derive(Clone, Debug)]
pub struct MetropolisEvolution {
    state: State,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    config: MetropolisConfig,
    seed: u64,
    ledger: Ledger,
    current: Option<usize>,
    /// Rounds closed.
    round: usize,
    rejected: usize,
    /// Trials suggested in the open batch (the burn-in, a round, or a restart).
    open: usize,
    batch: Vec<usize>,
    is_burning_in: bool,
    is_restart: bool,
}

impl MetropolisEvolution {
    /// A chain; the error names the setting that cannot be.
    pub fn new(config: MetropolisConfig, seed: u64) -> Result<Self, SearchError> {
        let bad = |setting, got: String, needed: &str| {
            Err(SearchError::BadSetting { setting, got, needed: needed.into() })
        };
        if config.burn_in == 0 || config.children == 0 || config.rounds == 0 {
            return bad("burn_in, children and rounds", "0 among them".into(), "at least 1 each");
        }
        if !(config.temperature > 0.0 && config.temperature.is_finite()) {
            return bad("temperature", config.temperature.to_string(), "a positive number");
        }
        if !(config.cost_exponent <= 0.0 && config.cost_exponent.is_finite()) {
            return bad("cost_exponent", config.cost_exponent.to_string(), "zero or less");
        }
        if config.cost_target.is_some_and(|target| !(target > 0.0 && target.is_finite())) {
            return bad("cost_target", format!("{:?}", config.cost_target), "a positive number");
        }
        Ok(Self {
            state: State {
                config,
                seed,
                ledger: Ledger::default(),
                current: None,
                round: 0,
                rejected: 0,
                open: 0,
                batch: Vec::new(),
                is_burning_in: true,
                is_restart: false,
            },
        })
    }
}

impl State {
    fn quality(&self, position: usize) -> Option<f64> {
        let scores = self.ledger.scores(position)?;
        let quality = self.config.quality_offset - scores.first()?;
        let Some((target, cost)) = self.config.cost_target.zip(scores.get(1)) else {
            return Some(quality);
        };
        if *cost <= target {
            return Some(quality);
        }
        // At least 1e-9, so that a huge cost orders candidates and divides nothing by zero.
        let term = (cost / target).powf(self.config.cost_exponent).clamp(1e-9, 1.0);
        Some(if quality >= 0.0 { quality * term } else { quality / term })
    }

    fn temperature(&self) -> f64 {
        let progress = (self.round as f64 / self.config.rounds as f64).min(1.0);
        let cosine = 1.0 + (std::f64::consts::PI * progress).cos();
        // It falls to zero; a millionth of the scale keeps the quotient finite.
        self.config.temperature * cosine.max(1e-6)
    }

    fn fold(&mut self) {
        while let Some(position) = self.ledger.fold() {
            self.batch.push(position);
        }
    }

    fn close_batch(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let best = batch
            .into_iter()
            .filter_map(|position| Some((self.quality(position)?, position)))
            .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        let current = self.current.and_then(|position| self.quality(position));
        self.open = 0;
        if self.is_burning_in || self.is_restart || current.is_none() {
            if let Some((_, position)) = best {
                self.current = Some(position);
                self.is_burning_in = false;
            }
            self.is_restart = false;
            return;
        }
        let mut rng = stream(self.seed, "search/metropolis/accept", self.round as u64);
        let drawn = rng.unit();
        let temperature = self.temperature();
        let accepted = best.zip(current).is_some_and(|((quality, _), current)| {
            quality != current && drawn < ((quality - current).min(0.0) / temperature).exp()
        });
        self.round += 1;
        if accepted {
            self.current = best.map(|(_, position)| position);
            self.rejected = 0;
        } else {
            self.rejected += 1;
        }
    }

    /// Trials of the open batch when it is full.
    fn batch_size(&self) -> usize {
        match (self.is_burning_in, self.is_restart) {
            (true, _) => self.config.burn_in,
            (_, true) => 1,
            _ => self.config.children,
        }
    }

    fn suggest(&mut self, domain: &dyn Domain) -> Ask {
        if self.open >= self.batch_size() {
            if self.ledger.pending() > 0 {
                return Ask::Wait;
            }
            self.close_batch();
        }
        if self.open == 0 && !self.is_burning_in && self.rejected >= self.config.restart_after {
            self.is_restart = true;
            self.rejected = 0;
        }
        let mut rng = stream(self.seed, "search/metropolis", self.ledger.suggested() as u64);
        let child = self.child(domain, &mut rng);
        match child.or_else(|| self.ledger.draw(domain, &mut rng)) {
            Some((key, genotype)) => {
                self.open += 1;
                Ask::Try(self.ledger.suggest(key, genotype))
            }
            None if self.ledger.pending() > 0 => Ask::Wait,
            None => Ask::Finished,
        }
    }

    /// A new feasible child of the current candidate: one mutation of it, or, where its
    /// neighbours are used up, a short walk away from it.
    fn child(&self, domain: &dyn Domain, rng: &mut ChaCha8Rng) -> Option<(u128, Genotype)> {
        if self.is_burning_in || self.is_restart || self.ledger.is_exhausted(domain) {
            return None;
        }
        let parent = self.ledger.genotype(self.current?);
        let mut walker = parent.clone();
        (0..MOST_MUTATIONS).find_map(|i| {
            // Fifteen draws on the spot, five steps away, and back.
            if i % 20 == 0 {
                walker = parent.clone();
            }
            let mutated = domain.mutate(&walker, rng);
            if i % 20 >= 15 {
                walker = mutated.clone();
            }
            self.ledger.admit(domain, mutated, rng)
        })
    }
}

impl Stateful for MetropolisEvolution {
    const NAME: &'static str = "mh-es";
    type State = State;

    fn state(&self) -> &State {
        &self.state
    }

    fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    fn ledger(state: &mut State) -> &mut Ledger {
        &mut state.ledger
    }

    fn positions(state: &State) -> Vec<usize> {
        state.current.iter().chain(&state.batch).copied().collect()
    }

    fn next(&mut self, domain: &dyn Domain) -> Ask {
        self.state.suggest(domain)
    }

    fn fold(&mut self) {
        self.state.fold();
    }

    /// Old trials join the burn-in.
    fn warmed(&mut self) {
        self.state.open = self.state.ledger.warm().min(self.state.config.burn_in);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Outcome, Trial};
    use palmette_space::Space;

    #[test]
    fn the_cost_term_is_capped_and_never_nan() {
        let config = MetropolisConfig {
            cost_target: Some(2.0),
            cost_exponent: -0.5,
            quality_offset: 1.0,
            ..MetropolisConfig::for_budget(100)
        };
        let mut builder = Space::builder("line");
        builder.integer("x", 0, 99);
        let space = builder.finish().unwrap();
        let quality = |loss: f64, cost: f64| {
            let mut state = MetropolisEvolution::new(config, 1).unwrap().state;
            let trial =
                Trial { genotype: Genotype::new([1]), outcome: Outcome::scores(vec![loss, cost]) };
            state.ledger.warm_start(&space, &[trial]).unwrap();
            state.quality(0).unwrap()
        };
        assert_eq!(quality(0.25, 1.0), 0.75);
        assert_eq!(quality(0.25, -3.0), 0.75);
        assert_eq!(quality(0.25, 8.0), 0.375);
        assert_eq!(quality(1.5, 8.0), -1.0);
        assert!(quality(0.25, f64::MAX) >= 0.0);
    }

    #[test]
    fn the_temperature_falls_to_almost_nothing() {
        let mut state =
            MetropolisEvolution::new(MetropolisConfig::for_budget(100), 1).unwrap().state;
        let temperatures: Vec<f64> = (0..30)
            .map(|round| {
                state.round = round;
                state.temperature()
            })
            .collect();
        assert_eq!(temperatures[0], 2.0);
        assert!(temperatures.is_sorted_by(|a, b| a >= b));
        assert!(temperatures[29] > 0.0 && temperatures[29] < 1e-5);
    }
}
