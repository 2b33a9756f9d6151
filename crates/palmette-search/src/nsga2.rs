use palmette_random::{ChaCha8Rng, Draw, stream};
use palmette_space::{Domain, Genotype};
use serde::{Deserialize, Serialize};

use crate::{Ask, SearchError, ledger::Ledger, pareto::pareto_order, state::Stateful};

/// Mutations of one child before a random candidate takes its place.
const MOST_MUTATIONS: usize = 200;

/// NSGA-II (Deb et al., 2002) over genotypes, for any number of objectives.
///
/// A generation has as many children as the population; parents win binary
/// tournaments by rank and crowding, cross gene by gene with probability 0.9, and
/// the child is mutated at least once. Parents and children compete for the next
/// population. Constraint domination: whatever is infeasible or failed loses
/// against everything that is not, and never enters the population.
#[derive(Clone, Debug)]
pub struct Nsga2 {
    state: State,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    size: usize,
    seed: u64,
    ledger: Ledger,
    /// Positions, best first.
    population: Vec<usize>,
    children: Vec<usize>,
    open: usize,
    is_starting: bool,
}

impl Nsga2 {
    /// A search with a population of this size (at least 2).
    pub fn new(population: usize, seed: u64) -> Result<Self, SearchError> {
        if population < 2 {
            return Err(SearchError::BadSetting {
                setting: "population",
                got: population.to_string(),
                needed: "at least 2".into(),
            });
        }
        Ok(Self {
            state: State {
                size: population,
                seed,
                ledger: Ledger::default(),
                population: Vec::new(),
                children: Vec::new(),
                open: 0,
                is_starting: true,
            },
        })
    }

    /// Genotypes and scores of everything found that nothing dominates, in order of the trials.
    pub fn front(&self) -> Vec<(&Genotype, &[f64])> {
        let ledger = &self.state.ledger;
        let all: Vec<(usize, &[f64])> = ledger
            .scored()
            .into_iter()
            .filter_map(|(position, _)| Some((position, ledger.scores(position)?)))
            .collect();
        let dominated =
            |scores: &[f64]| all.iter().any(|(_, other)| crate::pareto::dominates(other, scores));
        all.iter()
            .filter(|(_, scores)| !dominated(scores))
            .map(|&(position, scores)| (ledger.genotype(position), scores))
            .collect()
    }
}

impl State {
    fn fold(&mut self) {
        while let Some(position) = self.ledger.fold() {
            if self.ledger.scores(position).is_some() {
                self.children.push(position);
            }
        }
    }

    fn close_generation(&mut self) {
        let mut all = std::mem::take(&mut self.population);
        all.append(&mut self.children);
        let scores: Vec<&[f64]> = all.iter().filter_map(|&p| self.ledger.scores(p)).collect();
        self.population =
            pareto_order(&scores).into_iter().take(self.size).map(|i| all[i]).collect();
        self.open = 0;
        self.is_starting = self.population.len() < 2;
    }

    fn parent(&self, rng: &mut ChaCha8Rng) -> &Genotype {
        let members = self.population.len() as u64;
        // The population is sorted, so the smaller index wins the tournament.
        let winner = rng.below(members).min(rng.below(members));
        self.ledger.genotype(self.population[winner as usize])
    }

    fn child(&self, domain: &dyn Domain, rng: &mut ChaCha8Rng) -> Option<(u128, Genotype)> {
        if self.is_starting || self.ledger.is_exhausted(domain) {
            return None;
        }
        let mut child = self.parent(rng).clone();
        let other = self.parent(rng);
        if rng.chance(0.9) {
            for (gene, &theirs) in child.genes_mut().iter_mut().zip(other.genes()) {
                if rng.chance(0.5) {
                    *gene = theirs;
                }
            }
            domain.space().settle(&mut child);
        }
        (0..MOST_MUTATIONS).find_map(|_| {
            child = domain.mutate(&child, rng);
            self.ledger.admit(domain, child.clone(), rng)
        })
    }

    fn suggest(&mut self, domain: &dyn Domain) -> Ask {
        if self.open >= self.size {
            if self.ledger.pending() > 0 {
                return Ask::Wait;
            }
            self.close_generation();
        }
        let mut rng = stream(self.seed, "search/nsga2", self.ledger.suggested() as u64);
        let found = self.child(domain, &mut rng).or_else(|| self.ledger.draw(domain, &mut rng));
        match found {
            Some((key, genotype)) => {
                self.open += 1;
                Ask::Try(self.ledger.suggest(key, genotype))
            }
            None if self.ledger.pending() > 0 => Ask::Wait,
            None => Ask::Finished,
        }
    }
}

impl Stateful for Nsga2 {
    const NAME: &'static str = "nsga2";
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
        state.population.iter().chain(&state.children).copied().collect()
    }

    fn next(&mut self, domain: &dyn Domain) -> Ask {
        self.state.suggest(domain)
    }

    fn fold(&mut self) {
        self.state.fold();
    }
}
