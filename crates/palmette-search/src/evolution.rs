use std::collections::VecDeque;

use palmette_random::{ChaCha8Rng, Draw, stream};
use palmette_space::{Domain, Genotype};
use serde::{Deserialize, Serialize};

use crate::{Ask, SearchError, ledger::Ledger, state::Stateful};

/// Mutations of one child before a random candidate takes its place.
const MOST_MUTATIONS: usize = 500;

/// Settings of [`RegularisedEvolution`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvolutionConfig {
    /// Members that are alive, and random candidates at the start.
    pub population: usize,
    /// Members drawn without replacement, of which the best is the parent.
    pub tournament: usize,
    /// Children of the one parent in a generation.
    pub children: usize,
    /// Generations.
    pub generations: usize,
    /// Best children of a generation that enter the history.
    pub logged: usize,
    /// Mutations of a child at most; 1 is plain regularised evolution, 6 the published schedule.
    pub most_mutations: usize,
}

impl EvolutionConfig {
    /// NASRec's: population 128, tournament 64, 240 generations of 8 children, top 2 logged; 2,048 evaluations.
    pub fn published() -> Self {
        Self {
            population: 128,
            tournament: 64,
            children: 8,
            generations: 240,
            logged: 2,
            most_mutations: 6,
        }
    }

    /// The same in proportion for fewer evaluations: an eighth of them are the random start (at
    /// most 128), half of the population competes, and there are as many generations of at most 8
    /// children as the rest allows (the last one may be short). For 256 evaluations: population 32,
    /// tournament 16, 4 children, 56 generations.
    pub fn for_budget(evaluations: usize) -> Self {
        let population = (evaluations / 8).clamp(1, 128);
        let children = (evaluations / 64).clamp(1, 8);
        Self {
            population,
            tournament: population.div_ceil(2),
            children,
            generations: evaluations.saturating_sub(population).div_ceil(children),
            logged: children.min(2),
            most_mutations: 6,
        }
    }

    /// Evaluations of a complete search.
    pub fn evaluations(&self) -> usize {
        self.population + self.generations * self.children
    }

    /// Mutations of each child of generation g: floor((G - g) / max(20, G / 5)) + 1.
    pub fn mutations(&self, generation: usize) -> usize {
        let left = self.generations.saturating_sub(generation) as f64;
        let mutations = (left / f64::max(20.0, self.generations as f64 / 5.0)).floor() as usize + 1;
        mutations.min(self.most_mutations.max(1))
    }
}

/// Regularised evolution (Real et al., 1802.01548) in NASRec's form (2207.07187).
///
/// A random population; then generations: the best of a tournament is the only
/// parent, its children are mutated ever fewer times, and as many of the oldest
/// members leave as children enter, good ones among them: winners live in the
/// history. A child that was seen before, or breaks a hard limit beyond repair,
/// is mutated again. A generation is evaluated as a whole, so its children may
/// be pending together; infeasible and failed trials never enter the population.
#[derive(Clone, Debug)]
pub struct RegularisedEvolution {
    state: State,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    config: EvolutionConfig,
    seed: u64,
    ledger: Ledger,
    /// Positions in the ledger, oldest first.
    population: VecDeque<usize>,
    /// Children of the current generation that were folded.
    children: Vec<usize>,
    /// Children suggested in the current generation.
    suggested: usize,
    parent: Option<usize>,
    /// Generations begun after the random start.
    generation: usize,
    history: Vec<usize>,
}

impl RegularisedEvolution {
    /// An evolution; the error names the setting that cannot be.
    pub fn new(config: EvolutionConfig, seed: u64) -> Result<Self, SearchError> {
        let positive = [
            ("population", config.population),
            ("tournament", config.tournament),
            ("children", config.children),
        ];
        for (setting, value) in positive {
            let most = if setting == "tournament" { config.population } else { usize::MAX };
            if value == 0 || value > most {
                return Err(SearchError::BadSetting {
                    setting,
                    got: value.to_string(),
                    needed: match setting {
                        "tournament" => "from 1 to the population".into(),
                        _ => "at least 1".into(),
                    },
                });
            }
        }
        Ok(Self {
            state: State {
                config,
                seed,
                ledger: Ledger::default(),
                population: VecDeque::new(),
                children: Vec::new(),
                suggested: 0,
                parent: None,
                generation: 0,
                history: Vec::new(),
            },
        })
    }

    /// Generations begun after the random start.
    pub fn generation(&self) -> usize {
        self.state.generation
    }

    /// The members alive, oldest first, with their scores.
    pub fn population(&self) -> Vec<(&Genotype, f64)> {
        self.state.scored(self.state.population.iter().copied())
    }

    /// The random start and the best children of each generation, in order, with their scores.
    pub fn history(&self) -> Vec<(&Genotype, f64)> {
        self.state.scored(self.state.history.iter().copied())
    }
}

impl State {
    fn scored(&self, positions: impl Iterator<Item = usize>) -> Vec<(&Genotype, f64)> {
        positions
            .filter_map(|position| {
                Some((self.ledger.genotype(position), self.ledger.score(position)?))
            })
            .collect()
    }

    fn is_starting(&self) -> bool {
        self.generation == 0
    }

    /// Takes in everything that is known, in order of the trials.
    fn fold(&mut self) {
        while let Some(position) = self.ledger.fold() {
            let scored = self.ledger.score(position).is_some();
            if position < self.ledger.warm() || self.is_starting() {
                if scored {
                    self.population.push_back(position);
                    self.history.push(position);
                }
            } else {
                self.children.push(position);
            }
        }
        if self.is_starting() {
            // A warm start may hold more than the population: the best of it stay.
            while self.population.len() > self.config.population {
                let worst = (0..self.population.len()).max_by(|&a, &b| {
                    let score = |i: usize| self.ledger.score(self.population[i]);
                    score(a).partial_cmp(&score(b)).unwrap_or(std::cmp::Ordering::Equal)
                });
                self.population.remove(worst.unwrap_or(0));
            }
        }
    }

    /// Closes a generation whose children are all known.
    fn close_generation(&mut self) {
        let mut children: Vec<(f64, usize)> = std::mem::take(&mut self.children)
            .into_iter()
            .filter_map(|position| Some((self.ledger.score(position)?, position)))
            .collect();
        self.population.extend(children.iter().map(|&(_, position)| position));
        for _ in 0..children.len() {
            if self.population.len() > self.config.population {
                self.population.pop_front();
            }
        }
        children.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        self.history.extend(children.iter().take(self.config.logged).map(|&(_, p)| p));
    }

    fn begin_generation(&mut self) {
        self.generation += 1;
        self.suggested = 0;
        let mut rng = stream(self.seed, "search/evolution/parent", self.generation as u64);
        let drawn = rng.distinct(self.population.len(), self.config.tournament);
        self.parent = drawn
            .into_iter()
            .map(|i| self.population[i])
            .filter_map(|position| Some((self.ledger.score(position)?, position)))
            .min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))
            .map(|(_, position)| position);
    }

    /// A new feasible child of the parent, or a random candidate where its surroundings are used up.
    fn child(&self, domain: &dyn Domain, rng: &mut ChaCha8Rng) -> Option<(u128, Genotype)> {
        if self.ledger.is_exhausted(domain) {
            return None;
        }
        if let Some(parent) = self.parent {
            // Generation 1 of ours is g = 0 of the schedule.
            let mutations = self.config.mutations(self.generation - 1);
            let mut child = self.ledger.genotype(parent).clone();
            for step in 1..=MOST_MUTATIONS {
                child = domain.mutate(&child, rng);
                if step >= mutations
                    && let Some(admitted) = self.ledger.admit(domain, child.clone(), rng)
                {
                    return Some(admitted);
                }
            }
        }
        self.ledger.draw(domain, rng)
    }

    fn suggest(&mut self, domain: &dyn Domain) -> Ask {
        if self.is_starting() {
            let alive = self.population.len() + self.ledger.pending();
            if alive < self.config.population && !self.is_spent() {
                return self.propose(domain);
            }
            if self.ledger.pending() > 0 {
                return Ask::Wait;
            }
            if self.config.generations == 0 || self.is_spent() {
                return Ask::Finished;
            }
            self.begin_generation();
        } else if self.suggested == self.config.children {
            if self.ledger.pending() > 0 {
                return Ask::Wait;
            }
            self.close_generation();
            if self.generation == self.config.generations {
                // Stays closed: a second call finds no children and the same answer.
                return Ask::Finished;
            }
            self.begin_generation();
        }
        self.propose(domain)
    }

    /// Whether the evaluations of the plan are used up.
    fn is_spent(&self) -> bool {
        self.ledger.suggested() >= self.config.evaluations()
    }

    fn propose(&mut self, domain: &dyn Domain) -> Ask {
        let trial = self.ledger.suggested() as u64;
        let mut rng = stream(self.seed, "search/evolution/candidate", trial);
        let found = if self.is_starting() {
            self.ledger.draw(domain, &mut rng)
        } else {
            self.child(domain, &mut rng)
        };
        match found {
            Some((key, genotype)) => {
                self.suggested += usize::from(!self.is_starting());
                Ask::Try(self.ledger.suggest(key, genotype))
            }
            None if self.ledger.pending() > 0 => Ask::Wait,
            None => Ask::Finished,
        }
    }
}

impl Stateful for RegularisedEvolution {
    const NAME: &'static str = "regularised-evolution";
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
        state
            .population
            .iter()
            .chain(&state.children)
            .chain(&state.parent)
            .chain(&state.history)
            .copied()
            .collect()
    }

    fn next(&mut self, domain: &dyn Domain) -> Ask {
        self.state.suggest(domain)
    }

    fn fold(&mut self) {
        self.state.fold();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Outcome, Strategy};
    use palmette_space::Space;

    #[test]
    fn the_published_schedule_mutates_six_times_down_to_once() {
        let config = EvolutionConfig::published();
        assert_eq!(config.evaluations(), 2048);
        let mutations: Vec<usize> = (0..240).map(|g| config.mutations(g)).collect();
        assert_eq!((mutations[0], mutations[1], mutations[48], mutations[239]), (6, 5, 5, 1));
        assert!(mutations.is_sorted_by(|a, b| a >= b));
        assert_eq!(mutations.iter().filter(|&&m| m == 1).count(), 47);
    }

    #[test]
    fn small_budgets_keep_their_count() {
        let config = EvolutionConfig::for_budget(256);
        assert_eq!(
            config,
            EvolutionConfig {
                population: 32,
                tournament: 16,
                children: 4,
                generations: 56,
                logged: 2,
                most_mutations: 6
            }
        );
        for evaluations in 1..3000 {
            let config = EvolutionConfig::for_budget(evaluations);
            let planned = config.evaluations();
            assert!(planned >= evaluations && planned < evaluations + config.children);
        }
    }

    #[test]
    fn a_generation_has_one_parent_and_ages() {
        let mut builder = Space::builder("wide");
        for i in 0..30 {
            builder.integer(&format!("x{i}"), 0, 999);
        }
        let space = builder.finish().unwrap();
        let config = EvolutionConfig {
            population: 10,
            tournament: 10,
            children: 3,
            generations: 4,
            logged: 1,
            most_mutations: 6,
        };
        let mut evolution = RegularisedEvolution::new(config, 1).unwrap();
        let mut trials = Vec::new();
        while let Ask::Try(suggestion) = evolution.suggest(&space) {
            // The first trial stays the best: it is the parent as long as it lives.
            let score = suggestion.trial as f64;
            trials.push(suggestion.genotype);
            evolution.observe(&space, suggestion.trial, Outcome::score(score)).unwrap();
        }
        assert_eq!(trials.len(), 22);
        for (i, child) in trials.iter().enumerate().skip(10) {
            // Members 0, 3, 6 and 9 are the oldest, and so the best, of the four generations.
            let parent = [0, 3, 6, 9][(i - 10) / 3];
            assert_eq!(space.hamming(&trials[parent], child), 1, "trial {i}");
        }
        let alive: Vec<f64> = evolution.population().iter().map(|m| m.1).collect();
        assert_eq!(alive, (12..22).map(f64::from).collect::<Vec<_>>());
        let history: Vec<f64> = evolution.history().iter().map(|m| m.1).skip(10).collect();
        assert_eq!(history, [10.0, 13.0, 16.0, 19.0]);
        assert_eq!(evolution.suggest(&space), Ask::Finished);
    }

    #[test]
    fn bad_settings_are_named() {
        let config = EvolutionConfig { tournament: 129, ..EvolutionConfig::published() };
        let error = RegularisedEvolution::new(config, 1).unwrap_err().to_string();
        assert_eq!(error, "setting `tournament` is 129; needed: from 1 to the population");
    }
}
