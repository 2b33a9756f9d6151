/*!
Search strategies, predictors and rank statistics over any space.

A [`Strategy`] proposes genotypes and is told how they did; it never calls the
objective, knows no model, and its whole state is a value: saved and loaded at
any moment, it goes on with the same bits. Outcomes are folded in the order of
the trials, whatever the order of their arrival, so that the number of workers
changes nothing. Lower scores are better. A trial may also be infeasible or
have failed; neither counts as a bad score.

Where evaluations are dear, start with [`PredictorGuided`]: it ranks first on the
tables of trained networks of [`bench`] (`docs/search.md` of the repository has the
comparison). [`predictors`] guess at what was not evaluated, [`shrink`] makes a
smaller space of a space, and [`tables`] holds searches to what a table knows.

No network is proposed twice: strategies compare the keys of the
[`Domain`](palmette_space::Domain), which are equal for genotypes that are the
same network.

```
use palmette_search::{EvolutionConfig, RegularisedEvolution, minimise};
use palmette_space::Space;

let mut builder = Space::builder("toy");
for i in 0..12 {
    builder.integer(&format!("x{i}"), 0, 9);
}
let space = builder.finish()?;

// The sum of all genes; 0 is the best.
let mut evolution = RegularisedEvolution::new(EvolutionConfig::for_budget(300), 7)?;
let best = minimise(&space, &mut evolution, 300, |genotype| {
    genotype.genes().iter().map(|&gene| f64::from(gene)).sum()
})?;
assert!(best.unwrap().score < 20.0);
# Ok::<(), Box<dyn std::error::Error>>(())
```
*/

pub mod bench;
#[cfg(test)]
mod contract;
mod error;
mod evolution;
mod farthest;
mod halving;
mod ledger;
mod local_search;
mod mhes;
mod nsga2;
mod pareto;
mod predictor_guided;
pub mod predictors;
mod random;
mod rank;
mod run;
pub mod shrink;
mod state;
mod strategy;
pub mod tables;

pub use error::SearchError;
pub use evolution::{EvolutionConfig, RegularisedEvolution};
pub use farthest::{FarthestConfig, FarthestGreedy, farthest_greedy};
pub use halving::{HalvingConfig, SuccessiveHalving};
pub use local_search::LocalSearch;
pub use mhes::{MetropolisConfig, MetropolisEvolution};
pub use nsga2::Nsga2;
pub use pareto::{crowding_distances, dominates, hypervolume, pareto_order, pareto_ranks};
pub use predictor_guided::{GuidedConfig, PredictorGuided};
pub use random::RandomSearch;
pub use rank::{bootstrap_interval, kendall_tau_b, pearson, spearman};
pub use run::{Best, minimise};
pub use strategy::{Ask, Outcome, Strategy, Suggestion, Trial};
