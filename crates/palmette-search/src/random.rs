use palmette_random::stream;
use palmette_space::Domain;
use serde_json::Value;

use crate::{Ask, Outcome, SearchError, Strategy, Trial, ledger::Ledger, state};

/// Random search without repeats.
///
/// Candidate i is a function of the seed, i and the networks suggested before it,
/// never of an outcome: any number of trials may be pending.
#[derive(Clone, Debug)]
pub struct RandomSearch {
    seed: u64,
    ledger: Ledger,
}

impl RandomSearch {
    /// A random search.
    pub fn new(seed: u64) -> Self {
        Self { seed, ledger: Ledger::default() }
    }
}

impl Strategy for RandomSearch {
    fn name(&self) -> &'static str {
        "random"
    }

    fn suggest(&mut self, domain: &dyn Domain) -> Ask {
        let mut rng = stream(self.seed, "search/random", self.ledger.suggested() as u64);
        match self.ledger.draw(domain, &mut rng) {
            Some((key, genotype)) => Ask::Try(self.ledger.suggest(key, genotype)),
            None => Ask::Finished,
        }
    }

    fn observe(
        &mut self,
        _domain: &dyn Domain,
        trial: u64,
        outcome: Outcome,
    ) -> Result<(), SearchError> {
        self.ledger.observe(trial, outcome)?;
        while self.ledger.fold().is_some() {}
        Ok(())
    }

    fn warm_start(&mut self, domain: &dyn Domain, trials: &[Trial]) -> Result<(), SearchError> {
        self.ledger.warm_start(domain, trials)
    }

    fn save(&self) -> Value {
        state::save(&(self.seed, &self.ledger))
    }

    fn load(&mut self, domain: &dyn Domain, state: &Value) -> Result<(), SearchError> {
        let (seed, mut ledger): (u64, Ledger) = state::load(self.name(), state)?;
        ledger.restore(domain, self.name())?;
        *self = Self { seed, ledger };
        Ok(())
    }
}
