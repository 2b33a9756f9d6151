use palmette_random::{ChaCha8Rng, Draw, stream};
use palmette_space::{Domain, Genotype};
use serde::{Deserialize, Serialize};

use crate::{
    Ask, SearchError,
    ledger::Ledger,
    predictors::{PairwiseRidge, normal_scores},
    state::Stateful,
};

/// Spaces up to this size are scored as a whole.
const WHOLE_SPACE: usize = 20_000;
/// Settings of [`PredictorGuided`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuidedConfig {
    /// Random candidates before the first fit.
    pub initial: usize,
    /// Candidates between fits.
    pub batch: usize,
    /// Candidates scored per fit where the space is too large to score as a whole: half are random,
    /// half are mutations of the best.
    pub pool: usize,
    /// Standard deviations added to the predicted quality.
    pub exploration: f64,
    /// Candidates with the best predicted qualities whose deviations are computed.
    pub short_list: usize,
    /// Standard deviations for one candidate of each batch instead; 0 for none such.
    pub bold_exploration: f64,
    /// Whether one candidate of each batch is the best predicted new neighbour of the best known.
    pub is_local: bool,
    /// Variance of a label's noise beside a signal of 1.
    pub noise: f64,
    /// Old labels that a fit keeps at most: the best and the newest.
    pub most_labels: usize,
}

impl Default for GuidedConfig {
    fn default() -> Self {
        Self {
            initial: 20,
            batch: 5,
            pool: 1_000,
            exploration: 1.0,
            short_list: 1_024,
            bold_exploration: 3.0,
            is_local: true,
            noise: 0.1,
            most_labels: 200,
        }
    }
}

/// Search guided by a predictor: a [`PairwiseRidge`] on normal scores of the ranks, and the best
/// upper confidence bounds of a pool.
#[derive(Clone, Debug)]
pub struct PredictorGuided {
    state: State,
    /// Slots of the whole space; a cache.
    whole: Option<Vec<(Genotype, Vec<u16>)>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    config: GuidedConfig,
    seed: u64,
    ledger: Ledger,
    /// Candidates of the open batch that were not suggested yet; the last is next.
    queue: Vec<Genotype>,
    open: usize,
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
        let state = State { config, seed, ledger: Ledger::default(), queue: Vec::new(), open: 0 };
        Ok(Self { state, whole: None })
    }

    fn suggest_next(&mut self, domain: &dyn Domain) -> Ask {
        let state = &mut self.state;
        let trial = state.ledger.suggested() as u64;
        let mut rng = stream(state.seed, "search/guided", trial);
        loop {
            while let Some(candidate) = state.queue.pop() {
                if let Some((key, genotype)) = state.ledger.admit(domain, candidate, &mut rng) {
                    state.open += 1;
                    return Ask::Try(state.ledger.suggest(key, genotype));
                }
            }
            let known = state.ledger.warm() + state.ledger.suggested();
            if known < state.config.initial {
                break;
            }
            if state.ledger.pending() > 0 {
                return Ask::Wait;
            }
            state.queue = best_of_pool(state, domain, &mut self.whole, &mut rng);
            state.open = 0;
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

/// Labelled positions for a fit: everything, or the best half and the newest half.
pub(crate) fn labelled(ledger: &Ledger, most: usize) -> Vec<(usize, f64)> {
    let mut scored = ledger.scored();
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

fn best_of_pool(
    state: &State,
    domain: &dyn Domain,
    whole: &mut Option<Vec<(Genotype, Vec<u16>)>>,
    rng: &mut ChaCha8Rng,
) -> Vec<Genotype> {
    let labelled = labelled(&state.ledger, state.config.most_labels);
    if labelled.is_empty() {
        return Vec::new();
    }
    let ridge = fit_ridge(domain, &state.ledger, &labelled, state.config.noise);
    if whole.is_none() {
        let all = domain.enumerate(WHOLE_SPACE).unwrap_or_default();
        *whole = Some(
            all.into_iter().map(|g| (domain.space().slots(&g), g)).map(|(s, g)| (g, s)).collect(),
        );
    }
    let drawn: Vec<(Genotype, Vec<u16>)>;
    let pool: &[(Genotype, Vec<u16>)] = match whole.as_deref() {
        Some(all) if !all.is_empty() => all,
        _ => {
            let size = state.config.pool;
            let candidates = draw_pool(domain, &state.ledger, &labelled, size, rng);
            // Repaired here, so that what is scored is what is suggested.
            drawn = candidates
                .into_iter()
                .filter_map(|candidate| state.ledger.admit(domain, candidate, rng))
                .map(|(_, g)| (domain.space().slots(&g), g))
                .map(|(slots, g)| (g, slots))
                .collect();
            &drawn
        }
    };
    let is_new = |genotype: &Genotype| {
        !state.ledger.has_seen(domain.key(genotype)) && domain.is_feasible(genotype)
    };
    let by_quality = |a: &(f64, usize), b: &(f64, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    let mut means: Vec<(f64, usize)> =
        pool.iter().enumerate().map(|(i, (_, slots))| (ridge.predict(slots), i)).collect();
    // Infeasible and known candidates are dropped late: most are never looked at.
    let mut short: Vec<(f64, usize)> = Vec::new();
    let mut taken = 0;
    let wanted = state.config.short_list.max(state.config.batch);
    while short.len() < wanted && taken < means.len() {
        let next = (taken + 2 * wanted).min(means.len());
        if next < means.len() {
            means[taken..].select_nth_unstable_by(next - taken - 1, by_quality);
        }
        means[taken..next].sort_unstable_by(by_quality);
        let fresh = means[taken..next].iter().filter(|&&(_, i)| is_new(&pool[i].0));
        short.extend(fresh.take(wanted - short.len()));
        taken = next;
    }
    let deviations: Vec<f64> = short.iter().map(|&(_, i)| ridge.deviation(&pool[i].1)).collect();
    let ranked = |weight: f64| {
        let bounds = short.iter().zip(&deviations);
        let mut order: Vec<(f64, usize)> =
            bounds.map(|(&(mean, i), deviation)| (mean + weight * deviation, i)).collect();
        order.sort_unstable_by(by_quality);
        order.into_iter().map(|(_, i)| pool[i].0.clone()).collect::<Vec<Genotype>>()
    };
    let is_bold = state.config.bold_exploration > 0.0;
    let extra = usize::from(is_bold) + usize::from(state.config.is_local);
    let mut queue: Vec<Genotype> = ranked(state.config.exploration);
    queue.truncate(state.config.batch.saturating_sub(extra).max(1));
    if is_bold {
        let mut bold = ranked(state.config.bold_exploration);
        bold.retain(|candidate| !queue.contains(candidate));
        queue.extend(bold.into_iter().take(1));
    }
    if state.config.is_local {
        let mut best = labelled.clone();
        best.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        let beside = best.iter().take(5).find_map(|&(position, _)| {
            let near = domain.neighbours(state.ledger.genotype(position));
            near.into_iter()
                .filter(|neighbour| is_new(neighbour) && !queue.contains(neighbour))
                .map(|neighbour| (ridge.predict(&domain.space().slots(&neighbour)), neighbour))
                .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(&a.1)))
        });
        queue.extend(beside.map(|(_, neighbour)| neighbour));
    }
    queue.truncate(state.config.batch);
    queue.reverse();
    queue
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
        *self = Self { state, whole: None };
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
