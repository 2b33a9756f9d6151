use palmette_random::stream;
use palmette_space::Domain;

use crate::{Ask, ledger::Ledger, state::Stateful};

/// Random search without repeats.
///
/// Candidate i is a function of the seed, i and the networks suggested before it,
/// never of an outcome: any number of trials may be pending.
#[derive(Clone, Debug)]
pub struct RandomSearch {
    /// Seed and trials.
    state: (u64, Ledger),
}

impl RandomSearch {
    /// A random search.
    pub fn new(seed: u64) -> Self {
        Self { state: (seed, Ledger::default()) }
    }
}

impl Stateful for RandomSearch {
    const NAME: &'static str = "random";
    type State = (u64, Ledger);

    fn state(&self) -> &Self::State {
        &self.state
    }

    fn state_mut(&mut self) -> &mut Self::State {
        &mut self.state
    }

    fn ledger(state: &mut Self::State) -> &mut Ledger {
        &mut state.1
    }

    fn positions(_: &Self::State) -> Vec<usize> {
        Vec::new()
    }

    fn next(&mut self, domain: &dyn Domain) -> Ask {
        let (seed, ledger) = &mut self.state;
        let mut rng = stream(*seed, "search/random", ledger.suggested() as u64);
        match ledger.draw(domain, &mut rng) {
            Some((key, genotype)) => Ask::Try(ledger.suggest(key, genotype)),
            None => Ask::Finished,
        }
    }

    fn fold(&mut self) {
        self.state.1.fold_all();
    }
}
