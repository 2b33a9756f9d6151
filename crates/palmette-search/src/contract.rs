//! What every strategy must do, whatever its method.

use std::collections::HashSet;

use palmette_random::{ChaCha8Rng, Draw, stream};
use palmette_space::{Domain, Genotype, Space};

use crate::{Ask, Outcome, SearchError, Strategy, Suggestion, Trial};

/// A cube of 4 x 4 x 4 x 4 with equal networks (the last gene is dead where the first is 0) and
/// infeasible ones (a sum above 9).
struct Cube(Space);

impl Cube {
    fn new() -> Self {
        let mut builder = Space::builder("cube");
        for name in ["a", "b", "c", "d"] {
            builder.integer(name, 0, 3);
        }
        Self(builder.finish().unwrap())
    }

    fn live(genotype: &Genotype) -> [u32; 4] {
        let genes = genotype.genes();
        let dead = genes[0] == 0;
        [genes[0], genes[1], genes[2], if dead { 0 } else { genes[3] }]
    }

    fn score(genotype: &Genotype) -> f64 {
        let [a, b, c, d] = Self::live(genotype).map(f64::from);
        (a - 2.0).powi(2) + (b - 1.0).powi(2) + (c - 3.0).powi(2) + 0.1 * (d - 2.0).powi(2)
    }
}

impl Domain for Cube {
    fn space(&self) -> &Space {
        &self.0
    }

    fn key(&self, genotype: &Genotype) -> u128 {
        Self::live(genotype).iter().fold(0, |key, &gene| key * 4 + u128::from(gene))
    }

    fn is_feasible(&self, genotype: &Genotype) -> bool {
        Self::live(genotype).iter().sum::<u32>() <= 9
    }

    fn repair(&self, genotype: &Genotype, rng: &mut ChaCha8Rng) -> Option<Genotype> {
        let mut genotype = genotype.clone();
        while !self.is_feasible(&genotype) {
            let gene = &mut genotype.genes_mut()[rng.below(4) as usize];
            *gene = gene.saturating_sub(1);
        }
        Some(genotype)
    }
}

/// Feasible networks of the cube, counted one by one.
fn networks(cube: &Cube) -> HashSet<u128> {
    (0..256u32)
        .map(|n| Genotype::new([n & 3, n >> 2 & 3, n >> 4 & 3, n >> 6 & 3]))
        .filter(|genotype| cube.is_feasible(genotype))
        .map(|genotype| cube.key(&genotype))
        .collect()
}

/// Runs with up to `workers` trials pending; arrival order is drawn from `order`.
fn run(
    strategy: &mut dyn Strategy,
    cube: &Cube,
    trials: usize,
    workers: usize,
    order: u64,
    outcome: impl Fn(&Suggestion) -> Outcome,
) -> Vec<Genotype> {
    let mut rng = stream(order, "test/arrival", 0);
    let mut pending: Vec<Suggestion> = Vec::new();
    let mut suggested = Vec::new();
    loop {
        let mut stuck = suggested.len() == trials;
        while pending.len() < workers && suggested.len() < trials {
            match strategy.suggest(cube) {
                Ask::Try(suggestion) => {
                    suggested.push(suggestion.genotype.clone());
                    pending.push(suggestion);
                }
                Ask::Wait => {
                    assert!(!pending.is_empty(), "waits for nothing");
                    break;
                }
                Ask::Finished => {
                    stuck = true;
                    break;
                }
            }
        }
        if pending.is_empty() {
            assert!(stuck);
            return suggested;
        }
        let suggestion = pending.swap_remove(rng.below(pending.len() as u64) as usize);
        strategy.observe(cube, suggestion.trial, outcome(&suggestion)).unwrap();
    }
}

fn good(suggestion: &Suggestion) -> Outcome {
    Outcome::score(Cube::score(&suggestion.genotype))
}

/// Every promise of [`Strategy`], for strategies that `make` makes from a seed.
///
/// `make(seed)` must plan for at least 60 trials; `exhausts` says whether it goes on until the
/// space is used up, `repeats` whether it evaluates a network at several fidelities.
pub(crate) fn check(exhausts: bool, repeats: bool, make: impl Fn(u64) -> Box<dyn Strategy>) {
    let cube = Cube::new();
    let plain = |seed: u64| run(&mut *make(seed), &cube, 60, 1, 0, good);

    // Determinism, and dependence on the seed.
    let reference = plain(1);
    assert_eq!(reference.len(), 60);
    assert_eq!(plain(1), reference);
    assert_ne!(plain(2), reference);

    // New, feasible, accepted.
    if !repeats {
        let keys: HashSet<u128> = reference.iter().map(|genotype| cube.key(genotype)).collect();
        assert_eq!(keys.len(), 60, "a network was suggested twice");
    }
    for genotype in &reference {
        assert!(cube.0.check(genotype).is_ok() && cube.is_feasible(genotype));
    }

    // Several pending trials in any order of arrival: the same search.
    for (workers, order) in [(2, 1), (3, 2), (7, 3), (64, 4)] {
        let parallel = run(&mut *make(1), &cube, 60, workers, order, good);
        assert_eq!(parallel, reference, "{workers} workers");
    }

    // Saved and loaded at every moment, with trials pending: the same bits.
    for cut in 0..60 {
        let mut first = make(1);
        let mut head = Vec::new();
        let mut pending = Vec::new();
        while head.len() < cut {
            let Ask::Try(suggestion) = first.suggest(&cube) else {
                let Suggestion { trial, .. } = pending.remove(0);
                let genotype: &Genotype = &head[trial as usize];
                first.observe(&cube, trial, Outcome::score(Cube::score(genotype))).unwrap();
                continue;
            };
            head.push(suggestion.genotype.clone());
            pending.push(suggestion);
            if pending.len() == 3 {
                let last = pending.remove(1);
                first.observe(&cube, last.trial, good(&last)).unwrap();
            }
        }
        let text = first.save().to_string();
        let mut second = make(99);
        second.load(&cube, &serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(second.save().to_string(), text);
        for suggestion in pending {
            second.observe(&cube, suggestion.trial, good(&suggestion)).unwrap();
        }
        head.extend(run(&mut *second, &cube, 60 - cut, 1, 0, good));
        assert_eq!(head, reference, "cut at {cut}");
    }

    // A state whose trials were cut off is refused, or else goes on with what is left.
    let mut whole = make(1);
    run(&mut *whole, &cube, 40, 1, 0, good);
    let mut broken = whole.save();
    let ledger = if broken.is_array() { &mut broken[1] } else { &mut broken["ledger"] };
    for list in ["genotypes", "outcomes"] {
        ledger[list].as_array_mut().unwrap().truncate(3);
    }
    ledger["folded"] = 0.into();
    if whole.load(&cube, &broken).is_ok() {
        let _ = whole.suggest(&cube);
    }

    // A state of something else is refused.
    assert!(make(1).load(&cube, &serde_json::json!({"x": 1})).is_err());

    // Wrong trials are refused by number.
    let mut strategy = make(3);
    let unknown = strategy.observe(&cube, 5, Outcome::score(1.0));
    assert_eq!(unknown, Err(SearchError::UnknownTrial { trial: 5, trials: 0 }));
    let Ask::Try(first) = strategy.suggest(&cube) else { panic!("no first suggestion") };
    strategy.observe(&cube, first.trial, Outcome::score(1.0)).unwrap();
    let twice = strategy.observe(&cube, first.trial, Outcome::score(1.0));
    assert_eq!(twice, Err(SearchError::ObservedTwice(first.trial)));

    // Infeasible and failed trials: the search goes on and finds the optimum's neighbourhood.
    let rough = |suggestion: &Suggestion| match suggestion.trial % 3 {
        0 => Outcome::Infeasible,
        1 if suggestion.trial.is_multiple_of(2) => Outcome::Failed,
        1 => Outcome::score(f64::NAN),
        _ => good(suggestion),
    };
    assert_eq!(run(&mut *make(4), &cube, 60, 2, 0, rough).len(), 60);
    let hopeless = |_: &Suggestion| Outcome::Infeasible;
    assert!(run(&mut *make(4), &cube, 60, 2, 0, hopeless).len() >= 10);

    // A warm start with noisy repeats: accepted, never suggested again, deterministic.
    let old: Vec<Trial> = reference[..20]
        .iter()
        .chain(&reference[..5])
        .enumerate()
        .map(|(i, genotype)| Trial {
            genotype: genotype.clone(),
            outcome: match i {
                7 => Outcome::Infeasible,
                i => Outcome::score(Cube::score(genotype) + i as f64 * 1e-3),
            },
        })
        .collect();
    let warm = |workers| {
        let mut strategy = make(5);
        strategy.warm_start(&cube, &old).unwrap();
        run(&mut *strategy, &cube, 40, workers, 9, good)
    };
    let warmed = warm(1);
    assert_eq!(warmed.len(), 40);
    assert_eq!(warm(4), warmed);
    let old_keys: HashSet<u128> = old.iter().map(|trial| cube.key(&trial.genotype)).collect();
    assert!(warmed.iter().all(|genotype| !old_keys.contains(&cube.key(genotype))));
    let late = strategy.warm_start(&cube, &old);
    assert_eq!(late, Err(SearchError::WarmStartTooLate(1)));
    let foreign = [Trial { genotype: Genotype::new([9, 0, 0, 0]), outcome: Outcome::Failed }];
    let error = make(1).warm_start(&cube, &foreign).unwrap_err().to_string();
    assert_eq!(error, "warm start, trial 0: gene `a` is 9; accepted: an integer from 0 to 3");

    // An exhausted space ends the search, every network found once.
    let all = networks(&cube);
    let everything = run(&mut *make(6), &cube, 1000, 3, 5, good);
    let found: HashSet<u128> = everything.iter().map(|genotype| cube.key(genotype)).collect();
    assert!(repeats || found.len() == everything.len());
    if exhausts {
        assert_eq!(found, all);
    }
}

mod tests {
    use super::*;
    use crate::{
        EvolutionConfig, FarthestConfig, FarthestGreedy, GuidedConfig, HalvingConfig, LocalSearch,
        MetropolisConfig, MetropolisEvolution, Nsga2, PredictorGuided, RandomSearch,
        RegularisedEvolution, SuccessiveHalving,
    };

    #[test]
    fn random_search() {
        check(true, false, |seed| Box::new(RandomSearch::new(seed)));
    }

    #[test]
    fn local_search() {
        for batch in [1, 4] {
            check(true, false, move |seed| Box::new(LocalSearch::new(batch, seed)));
        }
    }

    #[test]
    fn regularised_evolution() {
        let config = EvolutionConfig {
            population: 10,
            tournament: 5,
            children: 4,
            generations: 100,
            logged: 2,
            most_mutations: 6,
        };
        check(true, false, move |seed| Box::new(RegularisedEvolution::new(config, seed).unwrap()));
    }

    #[test]
    fn metropolis_evolution() {
        let config = MetropolisConfig { burn_in: 10, ..MetropolisConfig::for_budget(60) };
        check(true, false, move |seed| Box::new(MetropolisEvolution::new(config, seed).unwrap()));
    }

    #[test]
    fn nsga2() {
        check(true, false, |seed| Box::new(Nsga2::new(8, seed).unwrap()));
    }

    #[test]
    fn predictor_guided() {
        let config = GuidedConfig { initial: 10, ..GuidedConfig::default() };
        check(true, false, move |seed| Box::new(PredictorGuided::new(config, seed).unwrap()));
    }

    #[test]
    fn farthest_greedy() {
        let config = FarthestConfig { pool: 50, batch: 4, ..FarthestConfig::default() };
        check(true, false, move |seed| Box::new(FarthestGreedy::new(config, seed).unwrap()));
    }

    #[test]
    fn successive_halving() {
        let config = HalvingConfig { candidates: 9, reduction: 3, rungs: 3 };
        check(true, true, move |seed| Box::new(SuccessiveHalving::new(config, seed).unwrap()));
    }
}
