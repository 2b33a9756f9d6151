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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Outcome, Strategy, dominates, hypervolume};
    use palmette_space::Space;

    /// Two opposed objectives over six genes, and a region that is refused.
    fn square() -> (Space, impl Fn(&Genotype) -> Outcome) {
        let mut builder = Space::builder("square");
        for i in 0..6 {
            builder.integer(&format!("x{i}"), 0, 9);
        }
        let outcome = |genotype: &Genotype| {
            let x: Vec<f64> = genotype.genes().iter().map(|&gene| f64::from(gene) / 9.0).collect();
            let rest: f64 = x[1..].iter().sum();
            match x[0] > 0.8 {
                true => Outcome::Infeasible,
                false => Outcome::scores(vec![x[0] + 0.2 * rest, (1.0 - x[0]).powi(2) + rest]),
            }
        };
        (builder.finish().unwrap(), outcome)
    }

    fn run(trials: usize) -> (Nsga2, Vec<Vec<f64>>) {
        let (space, outcome) = square();
        let mut search = Nsga2::new(20, 1).unwrap();
        let mut seen = Vec::new();
        for _ in 0..trials {
            let Ask::Try(suggestion) = Strategy::suggest(&mut search, &space) else { break };
            let outcome = outcome(&suggestion.genotype);
            if let Outcome::Scored(scores) = &outcome {
                seen.push(scores.clone());
            }
            search.observe(&space, suggestion.trial, outcome).unwrap();
        }
        (search, seen)
    }

    #[test]
    fn the_front_is_what_nothing_seen_dominates() {
        let (search, seen) = run(400);
        let front: Vec<&[f64]> = search.front().iter().map(|member| member.1).collect();
        assert!(front.len() > 3);
        for point in &seen {
            let is_dominated = seen.iter().any(|other| dominates(other, point));
            assert_eq!(front.contains(&&point[..]), !is_dominated, "{point:?}");
        }
    }

    #[test]
    fn what_is_refused_never_enters_the_population_and_the_front_comes_near_the_optimum() {
        let (search, seen) = run(600);
        let ledger = &search.state.ledger;
        assert!(search.state.population.iter().all(|&p| ledger.scores(p).is_some()));
        let volume = |points: &[Vec<f64>]| {
            let points: Vec<[f64; 2]> = points.iter().map(|p| [p[0], p[1]]).collect();
            hypervolume(&points, [2.0, 6.0])
        };
        // The optimum: all genes but the first at 0, eight values of the first.
        let best: Vec<Vec<f64>> =
            (0..8).map(|g| f64::from(g) / 9.0).map(|x| vec![x, (1.0 - x).powi(2)]).collect();
        let (start, end) = (volume(&seen[..15]) / volume(&best), volume(&seen) / volume(&best));
        assert!(start < 0.8 && end > 0.97, "{start} {end}");
    }
}
