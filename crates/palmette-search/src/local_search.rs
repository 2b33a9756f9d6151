use palmette_random::{Draw, stream};
use palmette_space::{Domain, Genotype};
use serde::{Deserialize, Serialize};

use crate::{Ask, ledger::Ledger, state::Stateful};

/// Local search with restarts (White et al., 2005.02960, in first-improvement form).
///
/// From a random candidate, neighbours are tried in random order; the first that
/// is better becomes the current one. Where no new neighbour is left, the search
/// starts again from a new random candidate. `batch` neighbours may be pending
/// together; then the best of the batch counts.
#[derive(Clone, Debug)]
pub struct LocalSearch {
    state: State,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    seed: u64,
    batch: usize,
    ledger: Ledger,
    /// Position of the current candidate, once it has a score.
    current: Option<usize>,
    /// Neighbours of the current candidate that were not tried yet; the last is next.
    queue: Vec<Genotype>,
    /// Trials of the open batch.
    open: usize,
    /// Scored positions of the open batch.
    batch_scores: Vec<(f64, usize)>,
    /// Whether the open batch is a restart's single candidate.
    is_restart: bool,
}

impl LocalSearch {
    /// A local search that keeps at most `batch` neighbours pending (at least 1).
    pub fn new(batch: usize, seed: u64) -> Self {
        Self {
            state: State {
                seed,
                batch: batch.max(1),
                ledger: Ledger::default(),
                current: None,
                queue: Vec::new(),
                open: 0,
                batch_scores: Vec::new(),
                is_restart: true,
            },
        }
    }
}

impl State {
    fn move_to(&mut self, domain: &dyn Domain, position: usize) {
        self.current = Some(position);
        self.queue = domain.neighbours(self.ledger.genotype(position));
        let mut rng = stream(self.seed, "search/local/order", position as u64);
        rng.shuffle(&mut self.queue);
    }

    fn fold(&mut self) {
        while let Some(position) = self.ledger.fold() {
            if let Some(score) = self.ledger.score(position) {
                self.batch_scores.push((score, position));
            }
        }
    }

    /// Moves to the best of a batch whose outcomes are all known, if it is better.
    fn close_batch(&mut self, domain: &dyn Domain) {
        let best =
            self.batch_scores.drain(..).min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let current = self.current.and_then(|position| self.ledger.score(position));
        if let Some((score, position)) = best
            && (self.is_restart || current.is_none_or(|current| score < current))
        {
            self.move_to(domain, position);
        }
        self.open = 0;
        self.is_restart = false;
    }

    fn suggest(&mut self, domain: &dyn Domain) -> Ask {
        let trial = self.ledger.suggested() as u64;
        let mut rng = stream(self.seed, "search/local", trial);
        if self.current.is_none() && self.ledger.warm() > 0 && self.open == 0 {
            // A warm start begins at its best trial.
            self.close_batch(domain);
        }
        loop {
            let size = if self.is_restart { 1 } else { self.batch };
            if self.open < size {
                while let Some(neighbour) = self.queue.pop() {
                    if let Some((key, genotype)) = self.ledger.admit(domain, neighbour, &mut rng) {
                        self.open += 1;
                        return Ask::Try(self.ledger.suggest(key, genotype));
                    }
                }
            }
            if self.open > 0 {
                if self.ledger.pending() > 0 {
                    return Ask::Wait;
                }
                self.close_batch(domain);
                continue;
            }
            let Some((key, genotype)) = self.ledger.draw(domain, &mut rng) else {
                return Ask::Finished;
            };
            self.is_restart = true;
            self.open = 1;
            return Ask::Try(self.ledger.suggest(key, genotype));
        }
    }
}

impl Stateful for LocalSearch {
    const NAME: &'static str = "local-search";
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
        state.current.into_iter().chain(state.batch_scores.iter().map(|s| s.1)).collect()
    }

    fn queued(state: &State) -> &[Genotype] {
        &state.queue
    }

    fn next(&mut self, domain: &dyn Domain) -> Ask {
        self.state.suggest(domain)
    }

    fn fold(&mut self) {
        self.state.fold();
    }
}
