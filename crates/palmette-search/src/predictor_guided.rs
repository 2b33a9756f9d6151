use palmette_random::{ChaCha8Rng, Draw, stream};
use palmette_space::{Domain, Genotype};
use serde::{Deserialize, Serialize};

use crate::{
    Ask, SearchError,
    ledger::Ledger,
    predictors::{Features, Field, GaussianProcess, PairwiseRidge, ProcessConfig, normal_scores},
    state::Stateful,
};

/// Spaces up to this size are scored as a whole.
const WHOLE_SPACE: usize = 20_000;
/// Labels for each candidate of a batch.
const LABELS_A_CANDIDATE: usize = 20;
/// The labels that a fit keeps are chosen anew after so many trials, so that most fits only add.
const KEPT_FOR: usize = 50;

/// Settings of [`PredictorGuided`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuidedConfig {
    /// Random candidates before the first fit.
    pub initial: usize,
    /// Candidates between fits at first, and at least one for every twenty labels later; each counts
    /// as evaluated, at its predicted quality, when the next is chosen.
    pub batch: usize,
    /// Candidates scored per fit where the space is too large to score as a whole: half are random,
    /// half are mutations of the best.
    pub pool: usize,
    /// Standard deviations added to the predicted quality.
    pub exploration: f64,
    /// Variance of a label's noise beside a signal of 1.
    pub noise: f64,
    /// Labels that a fit keeps at most: the best and the newest, and those of the last 50 trials.
    pub most_labels: usize,
}

impl Default for GuidedConfig {
    fn default() -> Self {
        Self { initial: 20, batch: 1, pool: 1_000, exploration: 1.0, noise: 0.1, most_labels: 500 }
    }
}

/// Search guided by a predictor: a [`GaussianProcess`] on normal scores of the ranks, and the best
/// upper confidence bound of the whole space, or of a pool of it.
#[derive(Clone, Debug)]
pub struct PredictorGuided {
    state: State,
    cache: Option<Cache>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    config: GuidedConfig,
    seed: u64,
    ledger: Ledger,
    /// Candidates of the open batch that were not suggested yet; the last is next.
    queue: Vec<Genotype>,
}

/// What fits have in common. It follows from the state alone, to the bit.
#[derive(Clone, Debug)]
struct Cache {
    process: GaussianProcess,
    /// Genotypes of the process.
    rows: Vec<Genotype>,
    /// All genotypes of a small space, with what the process knows of them.
    whole: Option<Whole>,
}

#[derive(Clone, Debug)]
struct Whole {
    genotypes: Vec<Genotype>,
    field: Field,
    /// Suggested before, or infeasible.
    is_closed: Vec<bool>,
}

impl PredictorGuided {
    /// A search; the error names the setting that cannot be.
    pub fn new(config: GuidedConfig, seed: u64) -> Result<Self, SearchError> {
        let counts = [
            ("initial", config.initial),
            ("batch", config.batch),
            ("most_labels", config.most_labels),
        ];
        for (setting, count) in counts {
            if count == 0 {
                let needed = "at least 1".into();
                return Err(SearchError::BadSetting { setting, got: "0".into(), needed });
            }
        }
        if !(config.noise > 0.0 && config.exploration >= 0.0) {
            return Err(SearchError::BadSetting {
                setting: "noise and exploration",
                got: format!("{} and {}", config.noise, config.exploration),
                needed: "noise above 0, exploration 0 or more".into(),
            });
        }
        let state = State { config, seed, ledger: Ledger::default(), queue: Vec::new() };
        Ok(Self { state, cache: None })
    }

    fn suggest_next(&mut self, domain: &dyn Domain) -> Ask {
        let state = &mut self.state;
        let trial = state.ledger.suggested() as u64;
        let mut rng = stream(state.seed, "search/guided", trial);
        loop {
            while let Some(candidate) = state.queue.pop() {
                if let Some((key, genotype)) = state.ledger.admit(domain, candidate, &mut rng) {
                    return Ask::Try(state.ledger.suggest(key, genotype));
                }
            }
            if state.ledger.warm() + state.ledger.suggested() < state.config.initial {
                break;
            }
            if state.ledger.pending() > 0 {
                return Ask::Wait;
            }
            let cache = self.cache.get_or_insert_with(|| Cache::new(domain, &state.config));
            state.queue = cache.best_batch(state, domain, &mut rng);
            state.queue.reverse();
            if state.queue.is_empty() {
                break;
            }
        }
        match state.ledger.draw(domain, &mut rng) {
            Some((key, genotype)) => Ask::Try(state.ledger.suggest(key, genotype)),
            None if state.ledger.pending() > 0 => Ask::Wait,
            None => Ask::Finished,
        }
    }
}

impl Cache {
    fn new(domain: &dyn Domain, config: &GuidedConfig) -> Self {
        let process = ProcessConfig { noise: config.noise, ..ProcessConfig::default() };
        let whole = domain.enumerate(WHOLE_SPACE).map(|genotypes| Whole {
            field: Field::new(genotypes.iter().map(|g| Features::of(domain, g)).collect()),
            is_closed: genotypes.iter().map(|g| !domain.is_feasible(g)).collect(),
            genotypes,
        });
        Self { process: GaussianProcess::new(domain, process), rows: Vec::new(), whole }
    }

    /// The next candidates, best first; none where nothing is labelled.
    fn best_batch(
        &mut self,
        state: &State,
        domain: &dyn Domain,
        rng: &mut ChaCha8Rng,
    ) -> Vec<Genotype> {
        let labelled = kept(&state.ledger, state.config.most_labels);
        if labelled.is_empty() {
            return Vec::new();
        }
        self.follow(&state.ledger, &labelled, domain);
        let qualities: Vec<f64> = labelled.iter().map(|(_, score)| -score).collect();
        let white = self.process.whiten(&normal_scores(&qualities));
        let mut drawn = None;
        let Whole { genotypes, field, is_closed } = match &mut self.whole {
            Some(whole) => whole,
            None => drawn.insert(pool(state, domain, &labelled, &self.process, rng)),
        };
        let means = field.means(&white);
        let size = state.config.batch.max(labelled.len() / LABELS_A_CANDIDATE);
        let weight = state.config.exploration as f32;
        let mut batch = Vec::with_capacity(size);
        while batch.len() < size {
            let best = (0..genotypes.len())
                .filter(|&i| !is_closed[i])
                .map(|i| (means[i] + weight * field.deviation(i), i))
                .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
            let Some((_, best)) = best else { break };
            is_closed[best] = true;
            if state.ledger.has_seen(domain.key(&genotypes[best])) {
                continue;
            }
            batch.push(genotypes[best].clone());
            if batch.len() < size {
                // Its label will only change the means: the deviations around it shrink now.
                self.rows.push(genotypes[best].clone());
                self.process.push(field.candidates()[best].clone());
                field.catch_up(&self.process, self.process.len());
            }
        }
        batch
    }

    /// Brings the process to the labelled genotypes.
    fn follow(&mut self, ledger: &Ledger, labelled: &[(usize, f64)], domain: &dyn Domain) {
        let same = self.rows.iter().zip(labelled);
        let kept =
            same.take_while(|(row, (position, _))| *row == ledger.genotype(*position)).count();
        self.rows.truncate(kept);
        self.process.truncate(kept);
        for &(position, _) in &labelled[kept..] {
            let genotype = ledger.genotype(position);
            self.rows.push(genotype.clone());
            self.process.push(Features::of(domain, genotype));
        }
        if let Some(whole) = &mut self.whole {
            whole.field.catch_up(&self.process, kept);
        }
    }
}

/// A pool of new feasible candidates.
fn pool(
    state: &State,
    domain: &dyn Domain,
    labelled: &[(usize, f64)],
    process: &GaussianProcess,
    rng: &mut ChaCha8Rng,
) -> Whole {
    let drawn = draw_pool(domain, &state.ledger, labelled, state.config.pool, rng);
    // Repaired here, so that what is scored is what is suggested.
    let genotypes: Vec<Genotype> = drawn
        .into_iter()
        .filter_map(|candidate| state.ledger.admit(domain, candidate, rng))
        .map(|(_, genotype)| genotype)
        .collect();
    let mut field = Field::new(genotypes.iter().map(|g| Features::of(domain, g)).collect());
    field.catch_up(process, 0);
    Whole { is_closed: vec![false; genotypes.len()], genotypes, field }
}

/// Labelled positions for a fit: everything up to `most`, then a choice that lasts
/// [`KEPT_FOR`] trials and what came since.
fn kept(ledger: &Ledger, most: usize) -> Vec<(usize, f64)> {
    let mut scored = ledger.scored();
    if scored.len() <= most {
        return scored;
    }
    let newer = scored.split_off(most + (scored.len() - most) / KEPT_FOR * KEPT_FOR);
    let mut chosen = best_and_newest(scored, most);
    chosen.extend(newer);
    chosen
}

/// Labelled positions for a fit: everything, or the best half and the newest half.
pub(crate) fn labelled(ledger: &Ledger, most: usize) -> Vec<(usize, f64)> {
    best_and_newest(ledger.scored(), most)
}

fn best_and_newest(mut scored: Vec<(usize, f64)>, most: usize) -> Vec<(usize, f64)> {
    if scored.len() <= most {
        return scored;
    }
    let newest = scored.split_off(scored.len() - most / 2);
    scored.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
    scored.truncate(most - newest.len());
    scored.sort_unstable_by_key(|s| s.0);
    scored.extend(newest);
    scored
}

/// Fits a ridge to what the ledger knows; labels are qualities, higher is better.
pub(crate) fn fit_ridge(
    domain: &dyn Domain,
    ledger: &Ledger,
    labelled: &[(usize, f64)],
    noise: f64,
) -> PairwiseRidge {
    let qualities: Vec<f64> = labelled.iter().map(|(_, score)| -score).collect();
    let genotypes: Vec<&Genotype> = labelled.iter().map(|&(p, _)| ledger.genotype(p)).collect();
    let mut ridge = PairwiseRidge::new(domain.space(), noise);
    ridge.fit(domain.space(), &genotypes, &normal_scores(&qualities));
    ridge
}

/// Candidates to score: random ones, and walks of one to three mutations from the best tenth.
pub(crate) fn draw_pool(
    domain: &dyn Domain,
    ledger: &Ledger,
    labelled: &[(usize, f64)],
    size: usize,
    rng: &mut ChaCha8Rng,
) -> Vec<Genotype> {
    let mut best: Vec<(usize, f64)> = labelled.to_vec();
    best.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
    best.truncate(labelled.len().div_ceil(10));
    (0..size)
        .map(|i| {
            if i % 2 == 0 || best.is_empty() {
                return domain.sample(rng);
            }
            let (parent, _) = best[rng.below(best.len() as u64) as usize];
            let mut walker = ledger.genotype(parent).clone();
            for _ in 0..=rng.below(3) {
                walker = domain.mutate(&walker, rng);
            }
            walker
        })
        .collect()
}

impl Stateful for PredictorGuided {
    const NAME: &'static str = "predictor-guided";
    type State = State;

    fn state(&self) -> &State {
        &self.state
    }

    fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    fn set_state(&mut self, state: State) {
        *self = Self { state, cache: None };
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
        self.suggest_next(domain)
    }

    fn fold(&mut self) {
        self.state.ledger.fold_all();
    }
}
