use palmette_random::{ChaCha8Rng, stream};
use palmette_space::{Domain, Genotype};
use serde::{Deserialize, Serialize};

use crate::{
    Ask, SearchError,
    ledger::Ledger,
    predictor_guided::{draw_pool, fit_ridge, labelled},
    state::Stateful,
};

/// Farthest greedy selection (the sampler of FGPS): `count` of `n` items that are good and far
/// from one another.
///
/// Items are given in order of quality, best first. The first is taken; then, again and again,
/// the item with the largest
/// `lambda * min distance to those taken / largest distance - (1 - lambda) * rank / n`.
/// lambda = 1 is Gonzalez's k-centre, lambda = 0 the plain top. Takes O(count n) distances.
pub fn farthest_greedy(
    n: usize,
    count: usize,
    lambda: f64,
    distance: impl Fn(usize, usize) -> f64,
) -> Vec<usize> {
    if n == 0 || count == 0 {
        return Vec::new();
    }
    // The largest distance is over all pairs; half of it is at most the largest from one item, so
    // that one pass from the first item gives the scale within a factor of two.
    let largest = (0..n).map(|i| distance(0, i)).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let mut taken = vec![0];
    let mut is_taken = vec![false; n];
    is_taken[0] = true;
    let mut nearest: Vec<f64> = (0..n).map(|i| distance(0, i)).collect();
    while taken.len() < count.min(n) {
        let merit = |i: usize| lambda * nearest[i] / largest - (1.0 - lambda) * i as f64 / n as f64;
        let next = (0..n)
            .filter(|&i| !is_taken[i])
            .max_by(|&a, &b| merit(a).total_cmp(&merit(b)).then(b.cmp(&a)))
            .unwrap_or(0);
        is_taken[next] = true;
        taken.push(next);
        for (i, nearest) in nearest.iter_mut().enumerate() {
            *nearest = nearest.min(distance(next, i));
        }
    }
    taken
}

/// Settings of [`FarthestGreedy`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FarthestConfig {
    /// Random candidates before the first fit.
    pub initial: usize,
    /// Candidates selected per fit.
    pub batch: usize,
    /// Candidates that the predictor scores per fit.
    pub pool: usize,
    /// Share of the pool that counts as well-performing.
    pub share: f64,
    /// Weight of distance against rank.
    pub lambda: f64,
}

impl Default for FarthestConfig {
    fn default() -> Self {
        Self { initial: 20, batch: 10, pool: 2_000, share: 0.05, lambda: 0.5 }
    }
}

/// FGPS's sampler as a strategy: a predictor finds well-performing candidates in a pool, and
/// [`farthest_greedy`] picks a batch of them by quality and distance.
#[derive(Clone, Debug)]
pub struct FarthestGreedy {
    state: State,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    config: FarthestConfig,
    seed: u64,
    ledger: Ledger,
    queue: Vec<Genotype>,
}

impl FarthestGreedy {
    /// A search; the error names the setting that cannot be.
    pub fn new(config: FarthestConfig, seed: u64) -> Result<Self, SearchError> {
        let bad = |setting, got: f64, needed: &str| {
            Err(SearchError::BadSetting { setting, got: got.to_string(), needed: needed.into() })
        };
        if config.initial == 0 || config.batch == 0 || config.pool == 0 {
            return bad("initial, batch and pool", 0.0, "at least 1 each");
        }
        if !(config.share > 0.0 && config.share <= 1.0) {
            return bad("share", config.share, "above 0, at most 1");
        }
        if !(0.0..=1.0).contains(&config.lambda) {
            return bad("lambda", config.lambda, "from 0 to 1");
        }
        let state = State { config, seed, ledger: Ledger::default(), queue: Vec::new() };
        Ok(Self { state })
    }
}

impl State {
    fn select(&self, domain: &dyn Domain, rng: &mut ChaCha8Rng) -> Vec<Genotype> {
        let labelled = labelled(&self.ledger, 400);
        if labelled.is_empty() {
            return Vec::new();
        }
        let ridge = fit_ridge(domain, &self.ledger, &labelled, 0.02);
        let mut keys = std::collections::HashSet::new();
        let mut pool: Vec<(f64, Genotype)> =
            draw_pool(domain, &self.ledger, &labelled, self.config.pool, rng)
                .into_iter()
                .filter_map(|candidate| self.ledger.admit(domain, candidate, rng))
                .filter(|(key, _)| keys.insert(*key))
                .map(|(_, genotype)| (ridge.predict(&domain.space().slots(&genotype)), genotype))
                .collect();
        pool.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        let well_performing = (pool.len() as f64 * self.config.share).ceil() as usize;
        pool.truncate(well_performing.max(self.config.batch));
        let distance = |i: usize, j: usize| domain.space().distance(&pool[i].1, &pool[j].1);
        let mut queue: Vec<Genotype> =
            farthest_greedy(pool.len(), self.config.batch, self.config.lambda, distance)
                .into_iter()
                .map(|i| pool[i].1.clone())
                .collect();
        queue.reverse();
        queue
    }

    fn suggest(&mut self, domain: &dyn Domain) -> Ask {
        let trial = self.ledger.suggested() as u64;
        let mut rng = stream(self.seed, "search/farthest", trial);
        loop {
            while let Some(candidate) = self.queue.pop() {
                if let Some((key, genotype)) = self.ledger.admit(domain, candidate, &mut rng) {
                    return Ask::Try(self.ledger.suggest(key, genotype));
                }
            }
            if self.ledger.warm() + self.ledger.suggested() < self.config.initial {
                break;
            }
            if self.ledger.pending() > 0 {
                return Ask::Wait;
            }
            self.queue = self.select(domain, &mut rng);
            if self.queue.is_empty() {
                break;
            }
        }
        match self.ledger.draw(domain, &mut rng) {
            Some((key, genotype)) => Ask::Try(self.ledger.suggest(key, genotype)),
            None if self.ledger.pending() > 0 => Ask::Wait,
            None => Ask::Finished,
        }
    }
}

impl Stateful for FarthestGreedy {
    const NAME: &'static str = "farthest-greedy";
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

    fn positions(_: &State) -> Vec<usize> {
        Vec::new()
    }

    fn queued(state: &State) -> &[Genotype] {
        &state.queue
    }

    fn next(&mut self, domain: &dyn Domain) -> Ask {
        self.state.suggest(domain)
    }

    fn fold(&mut self) {
        self.state.ledger.fold_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palmette_random::Draw;

    /// Every step of the definition, spelled out.
    fn brute_force(n: usize, count: usize, lambda: f64, distance: &[Vec<f64>]) -> Vec<usize> {
        let largest = distance[0].iter().copied().fold(0.0, f64::max);
        let mut taken = vec![0];
        while taken.len() < count {
            let mut best = (f64::NEG_INFINITY, 0);
            for a in 0..n {
                if taken.contains(&a) {
                    continue;
                }
                let near = taken.iter().map(|&c| distance[a][c]).fold(f64::INFINITY, f64::min);
                let merit = lambda * near / largest - (1.0 - lambda) * a as f64 / n as f64;
                if merit > best.0 {
                    best = (merit, a);
                }
            }
            taken.push(best.1);
        }
        taken
    }

    #[test]
    fn selection_agrees_with_brute_force_on_200_items() {
        let mut rng = stream(3, "test/farthest", 0);
        let points: Vec<[f64; 3]> =
            (0..200).map(|_| [rng.unit(), rng.unit(), rng.unit()]).collect();
        let between =
            |a: &[f64; 3], b: &[f64; 3]| a.iter().zip(b).map(|(x, y)| (x - y).abs()).sum::<f64>();
        let table: Vec<Vec<f64>> =
            points.iter().map(|a| points.iter().map(|b| between(a, b)).collect()).collect();
        for lambda in [0.0, 0.3, 0.5, 1.0] {
            let got = farthest_greedy(200, 40, lambda, |i, j| table[i][j]);
            assert_eq!(got, brute_force(200, 40, lambda, &table));
        }
        assert_eq!(farthest_greedy(200, 5, 0.0, |i, j| table[i][j]), [0, 1, 2, 3, 4]);
        assert_eq!(farthest_greedy(0, 5, 0.5, |_, _| 0.0), Vec::<usize>::new());
    }
}
