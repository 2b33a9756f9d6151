use palmette_random::stream;
use palmette_space::{Domain, Genotype};
use serde::{Deserialize, Serialize};

use crate::{Ask, SearchError, Suggestion, ledger::Ledger, pareto::pareto_order, state::Stateful};

/// Settings of [`SuccessiveHalving`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HalvingConfig {
    /// Random candidates of a bracket's first rung.
    pub candidates: usize,
    /// One of `reduction` candidates goes on to the next rung, which spends `reduction` times as much.
    pub reduction: usize,
    /// Rungs; the last has fidelity 1.
    pub rungs: usize,
}

/// Successive halving (Jamieson and Talwalkar, 2016), also with several objectives.
///
/// Brackets follow one another until nobody asks any more. In a rung all
/// candidates are evaluated at the same fidelity; the best by non-dominated
/// ranking, then crowding (for one objective: by score) go on. A network is
/// drawn once, and evaluated once per fidelity.
#[derive(Clone, Debug)]
pub struct SuccessiveHalving {
    state: State,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    config: HalvingConfig,
    seed: u64,
    ledger: Ledger,
    rung: usize,
    /// Promoted candidates that wait for their evaluation at this rung; the last is next.
    queue: Vec<usize>,
    open: usize,
    scored: Vec<usize>,
}

impl SuccessiveHalving {
    /// A search; the error names the setting that cannot be.
    pub fn new(config: HalvingConfig, seed: u64) -> Result<Self, SearchError> {
        let bad = |setting, got: usize, needed: &str| {
            Err(SearchError::BadSetting { setting, got: got.to_string(), needed: needed.into() })
        };
        if config.candidates == 0 {
            return bad("candidates", 0, "at least 1");
        }
        if config.reduction < 2 {
            return bad("reduction", config.reduction, "at least 2");
        }
        if config.rungs == 0 {
            return bad("rungs", 0, "at least 1");
        }
        Ok(Self {
            state: State {
                config,
                seed,
                ledger: Ledger::default(),
                rung: 0,
                queue: Vec::new(),
                open: 0,
                scored: Vec::new(),
            },
        })
    }
}

impl State {
    fn fidelity(&self) -> f64 {
        let steps = self.config.rungs - 1 - self.rung;
        (self.config.reduction as f64).powi(-(steps as i32))
    }

    fn fold(&mut self) {
        while let Some(position) = self.ledger.fold() {
            if position >= self.ledger.warm() && self.ledger.scores(position).is_some() {
                self.scored.push(position);
            }
        }
    }

    /// Promotes the best of a rung whose outcomes are all known, or begins a new bracket.
    fn close_rung(&mut self) {
        let scored = std::mem::take(&mut self.scored);
        let points: Vec<&[f64]> = scored.iter().filter_map(|&p| self.ledger.scores(p)).collect();
        let promoted = self.open.div_ceil(self.config.reduction).min(scored.len());
        self.open = 0;
        self.rung += 1;
        if self.rung == self.config.rungs || promoted == 0 {
            self.rung = 0;
            return;
        }
        self.queue = pareto_order(&points).into_iter().take(promoted).map(|i| scored[i]).collect();
        self.queue.reverse();
    }

    fn suggest(&mut self, domain: &dyn Domain) -> Ask {
        loop {
            if let Some(position) = self.queue.pop() {
                let genotype = self.ledger.genotype(position).clone();
                return self.propose(domain.key(&genotype), genotype);
            }
            if self.rung == 0 && self.open < self.config.candidates {
                let trial = self.ledger.suggested() as u64;
                let mut rng = stream(self.seed, "search/halving", trial);
                if let Some((key, genotype)) = self.ledger.draw(domain, &mut rng) {
                    return self.propose(key, genotype);
                }
            }
            if self.ledger.pending() > 0 {
                return Ask::Wait;
            }
            if self.open == 0 {
                return Ask::Finished;
            }
            self.close_rung();
        }
    }

    fn propose(&mut self, key: u128, genotype: Genotype) -> Ask {
        self.open += 1;
        let fidelity = self.fidelity();
        Ask::Try(Suggestion { fidelity, ..self.ledger.suggest(key, genotype) })
    }
}

impl Stateful for SuccessiveHalving {
    const NAME: &'static str = "successive-halving";
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
        state.queue.iter().chain(&state.scored).copied().collect()
    }

    fn next(&mut self, domain: &dyn Domain) -> Ask {
        self.state.suggest(domain)
    }

    /// Trials of a warm start are only never drawn again: their fidelity is unknown.
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
    fn rungs_keep_the_best_and_spend_more_on_them() {
        let mut builder = Space::builder("line");
        builder.integer("x", 0, 999);
        let space = builder.finish().unwrap();
        let config = HalvingConfig { candidates: 9, reduction: 3, rungs: 3 };
        let mut halving = SuccessiveHalving::new(config, 1).unwrap();
        let mut rungs: Vec<Vec<(u32, f64)>> = vec![Vec::new(); 3];
        for i in 0..13 {
            let Ask::Try(suggestion) = halving.suggest(&space) else { panic!("trial {i}") };
            let x = suggestion.genotype.genes()[0];
            let rung = match i {
                0..9 => 0,
                9..12 => 1,
                _ => 2,
            };
            rungs[rung].push((x, suggestion.fidelity));
            let outcome = Outcome::scores(vec![f64::from(x), 1.0]);
            halving.observe(&space, suggestion.trial, outcome).unwrap();
        }
        rungs[0].sort_by_key(|r| r.0);
        let best: Vec<u32> = rungs[0].iter().take(3).map(|r| r.0).collect();
        let mut second: Vec<u32> = rungs[1].iter().map(|r| r.0).collect();
        second.sort_unstable();
        assert_eq!(second, best);
        assert_eq!(rungs[2], [(best[0], 1.0)]);
        assert!((rungs[0][0].1 - 1.0 / 9.0).abs() < 1e-12);
        assert!((rungs[1][0].1 - 1.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn rungs_of_two_objectives_promote_by_fronts_and_crowding() {
        let mut builder = Space::builder("square");
        builder.integer("x", 0, 99);
        builder.integer("y", 0, 99);
        let space = builder.finish().unwrap();
        let config = HalvingConfig { candidates: 16, reduction: 4, rungs: 2 };
        let mut halving = SuccessiveHalving::new(config, 3).unwrap();
        let scores = |genotype: &Genotype| genotype.genes().iter().map(|&g| f64::from(g)).collect();
        let mut rungs: [Vec<Vec<f64>>; 2] = [Vec::new(), Vec::new()];
        for i in 0..20 {
            let Ask::Try(suggestion) = halving.suggest(&space) else { panic!("trial {i}") };
            let point: Vec<f64> = scores(&suggestion.genotype);
            rungs[i / 16].push(point.clone());
            halving.observe(&space, suggestion.trial, Outcome::scores(point)).unwrap();
        }
        let [first, second] = rungs;
        // Front by front, by definition; a front that does not fit gives its ends first.
        let mut left = first;
        let mut promoted: Vec<Vec<f64>> = Vec::new();
        while promoted.len() < 4 {
            let is_first = |p: &&Vec<f64>| !left.iter().any(|q| crate::dominates(q, p));
            let mut front: Vec<Vec<f64>> = left.iter().filter(is_first).cloned().collect();
            left.retain(|p| !front.contains(p));
            front.sort_by(|a, b| a[0].total_cmp(&b[0]));
            let room = 4 - promoted.len();
            if front.len() > room {
                assert!(room >= 2, "choose another seed: the front is cut to one");
                for end in [front.remove(0), front.pop().unwrap()] {
                    assert!(second.contains(&end), "{end:?} is at an end of the last front");
                }
                assert_eq!(second.iter().filter(|p| front.contains(p)).count(), room - 2);
                break;
            }
            assert!(front.iter().all(|p| second.contains(p)), "{front:?} in {second:?}");
            promoted.extend(front);
        }
        assert_eq!(second.len(), 4);
        // The sum is not what decides: somebody with a worse sum than one left behind goes on.
        let sum = |p: &Vec<f64>| p[0] + p[1];
        let worst = second.iter().map(sum).fold(0.0, f64::max);
        assert!(left.iter().any(|p| sum(p) < worst), "choose another seed");
    }
}
