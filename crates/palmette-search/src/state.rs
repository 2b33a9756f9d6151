//! The part that strategies share: folding, warm starts, saving and loading.

use palmette_space::{Domain, Genotype};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::ledger::Ledger;
use crate::{Ask, Outcome, SearchError, Strategy, Trial};

/// A strategy whose whole state is one value with a [`Ledger`] in it; [`Strategy`] follows.
pub(crate) trait Stateful {
    /// Its name in configurations and saved states.
    const NAME: &'static str;
    /// All that suggestions depend on.
    type State: Serialize + DeserializeOwned;

    fn state(&self) -> &Self::State;

    fn state_mut(&mut self) -> &mut Self::State;

    /// Takes up another state; caches of the old one are dropped.
    fn set_state(&mut self, state: Self::State) {
        *self.state_mut() = state;
    }

    fn ledger(state: &mut Self::State) -> &mut Ledger;

    /// Positions in the ledger that a state names, for the check of a loaded one.
    fn positions(state: &Self::State) -> Vec<usize>;

    /// Genotypes that a state holds beside the ledger, for the same check.
    fn queued(_: &Self::State) -> &[Genotype] {
        &[]
    }

    /// The next candidate.
    fn next(&mut self, domain: &dyn Domain) -> Ask;

    /// Takes in every outcome that is known, in order of the trials.
    fn fold(&mut self);

    /// Comes between a warm start and its fold.
    fn warmed(&mut self) {}
}

#[allow(private_bounds)] // the bound is how strategies of this crate share their plumbing
impl<S: Stateful> Strategy for S {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn suggest(&mut self, domain: &dyn Domain) -> Ask {
        self.next(domain)
    }

    fn observe(&mut self, _: &dyn Domain, trial: u64, outcome: Outcome) -> Result<(), SearchError> {
        S::ledger(self.state_mut()).observe(trial, outcome)?;
        self.fold();
        Ok(())
    }

    fn warm_start(&mut self, domain: &dyn Domain, trials: &[Trial]) -> Result<(), SearchError> {
        S::ledger(self.state_mut()).warm_start(domain, trials)?;
        self.warmed();
        self.fold();
        Ok(())
    }

    fn save(&self) -> Value {
        // Only maps with keys that are no text fail, and states have none.
        serde_json::to_value(self.state()).unwrap_or(Value::Null)
    }

    fn load(&mut self, domain: &dyn Domain, state: &Value) -> Result<(), SearchError> {
        let bad = |problem: String| SearchError::BadState { strategy: S::NAME, problem };
        let mut state = serde::Deserialize::deserialize(state)
            .map_err(|e: serde_json::Error| bad(e.to_string()))?;
        let trials = S::ledger(&mut state).restore(domain, S::NAME)?;
        if let Some(position) = S::positions(&state).into_iter().find(|&p| p >= trials) {
            return Err(bad(format!("it names trial {position} of {trials}")));
        }
        for genotype in S::queued(&state) {
            domain.space().check(genotype).map_err(|e| bad(e.to_string()))?;
        }
        self.set_state(state);
        Ok(())
    }
}
