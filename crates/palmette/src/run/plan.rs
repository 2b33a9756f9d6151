//! From a budget to integer counts, once, before the first step.

use std::time::Instant;

use anyhow::{Result, bail};
use palmette_ctr::train::{RankingWeights, SupernetTraining};
use serde::{Deserialize, Serialize};

use super::config::Config;
use super::workers::trainings_at_a_time;

/// What a run will do; written to the journal and never changed by a clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Steps of the supernet.
    pub supernet_steps: u64,
    /// Of them with full paths, falling linearly.
    pub warmup_steps: u64,
    /// Candidates ranked.
    pub evaluations: usize,
    /// Steps of last-layer fine-tuning for each.
    pub finetune_steps: u64,
    /// Validation rows that a score reads.
    pub validation_rows: usize,
    /// Candidates trained from scratch, and as many random ones.
    pub top_k: usize,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// What candidates are held to, where peak memory has a limit: a resumed run keeps to it,
    /// whatever threads it has itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryBound>,
}

/// What the trainings of a candidate may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryBound {
    /// Bytes at their peak.
    pub bytes: u64,
    /// Threads that they are foretold for.
    pub threads: usize,
}

/// Seconds that a plan is expected to take, by phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Prediction {
    /// Training the supernet.
    pub supernet: f64,
    /// Of them with full paths, of the warm-up.
    pub warmup: f64,
    /// Ranking candidates.
    pub ranking: f64,
    /// Training from scratch: searched, random and hand-made.
    pub networks: f64,
}

impl Prediction {
    /// All phases.
    pub fn total(&self) -> f64 {
        self.supernet + self.ranking + self.networks
    }
}

/// Rates of this machine on this space and data.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Training samples a second over random paths.
    pub training: f64,
    /// Multiply-accumulates a sample of those paths.
    pub path_macs: f64,
    /// A full path costs this many average ones.
    pub full_path: f64,
    /// Bytes of the tables of one model, optimiser state included.
    pub model_bytes: u64,
}

impl Rates {
    /// Measures a few steps of a supernet that is thrown away afterwards.
    pub fn measure(supernet: &mut SupernetTraining<'_>, batch_rows: usize) -> Result<Self> {
        supernet.advance()?;
        let start = Instant::now();
        let mut macs = 0;
        let mut steps = 0u64;
        while steps < 8 || start.elapsed().as_secs_f64() < 1.0 && steps < 100 {
            macs += supernet.advance()?;
            steps += 1;
        }
        let seconds = start.elapsed().as_secs_f64();
        let path_macs = macs as f64 / steps as f64;
        Ok(Self {
            training: (steps as usize * batch_rows) as f64 / seconds,
            path_macs,
            full_path: supernet.full_path_macs() as f64 / path_macs,
            model_bytes: supernet.model.tables.bytes(),
        })
    }
}

/// Steps on the head and validation run forward only, in 1 / 2.5 of the time of a training step.
const FORWARD_SPEEDUP: f64 = 2.5;
/// Full-path steps take at most this share of the supernet's time.
const WARMUP_SHARE: f64 = 0.1;
/// Epochs of a supernet whose tables are all that is used of it; more of them overfit the tables.
const MOST_TABLE_EPOCHS: f64 = 4.0;

/// Share of a step's time that does not depend on the products: networks of 16 k, 100 k and 314 k
/// multiply-accumulates took 4.3, 13 and 28 us a sample beside 24 us of paths of 200 k.
const FIXED_SHARE: f64 = 0.12;

/// Multiply-accumulates a sample of the networks that a run trains from scratch.
#[derive(Clone, Debug, Default)]
pub struct NetworkMacs {
    /// Of networks of the space, on average.
    pub searched: f64,
    /// Of each hand-made model.
    pub baselines: Vec<f64>,
}

impl Rates {
    /// Seconds of all trainings from scratch with `top_k` networks a side.
    fn networks(&self, config: &Config, macs: &NetworkMacs, rows: [usize; 2], top_k: usize) -> f64 {
        let train = &config.train;
        let [training, validation] = rows.map(|n| n as f64 * train.network.epochs);
        let fits = |trials: usize| {
            trials as f64 * training + train.final_seeds as f64 * (training + validation)
        };
        let a_sample = |macs: f64| {
            (FIXED_SHARE + (1.0 - FIXED_SHARE) * macs / self.path_macs)
                / self.side_by_side(train.network.batch_size)
        };
        let sides = if config.search.random_search { 2.0 } else { 1.0 };
        // A network was trained at one of the learning rates before it was chosen.
        let trials = top_k + train.learning_rates.len().saturating_sub(1);
        let searched = sides * fits(trials) * a_sample(macs.searched);
        let baselines: f64 = macs.baselines.iter().map(|&macs| a_sample(macs)).sum();
        searched + fits(train.learning_rates.len()) * baselines
    }

    /// Training samples a second with small networks side by side.
    fn side_by_side(&self, batch_rows: usize) -> f64 {
        self.training * trainings_at_a_time(batch_rows, self.model_bytes) as f64
    }

    /// Seconds that scoring one candidate takes.
    fn score(&self, config: &Config, finetune_steps: u64, validation_rows: usize) -> f64 {
        let ranking = &config.search.ranking;
        let tuned = (finetune_steps * ranking.batch_size as u64) as f64;
        let validated = validation_rows as f64 / FORWARD_SPEEDUP;
        let tuned = match ranking.weights {
            RankingWeights::Shared => tuned / FORWARD_SPEEDUP,
            RankingWeights::Fresh => tuned,
        };
        (tuned + validated) / self.side_by_side(ranking.batch_size)
    }
}

impl Plan {
    /// The counts that the configuration names.
    pub fn configured(config: &Config, validation_rows: usize) -> Self {
        let search = &config.search;
        let wanted = search.ranking.validation_rows;
        Self {
            supernet_steps: search.supernet.steps,
            warmup_steps: search.supernet.warmup_steps.min(search.supernet.steps),
            evaluations: search.evaluations,
            finetune_steps: search.ranking.finetune_steps,
            validation_rows: if wanted == 0 {
                validation_rows
            } else {
                wanted.min(validation_rows)
            },
            top_k: search.top_k.min(search.evaluations),
            checkpoint_every: config.run.checkpoint_every,
            memory: None,
        }
    }

    /// Fits the counts to `seconds`; `rows` are those of training and validation.
    ///
    /// # Errors
    /// A budget that does not even pay for training two networks.
    pub fn for_budget(
        config: &Config,
        rates: Rates,
        macs: &NetworkMacs,
        rows: [usize; 2],
        seconds: f64,
    ) -> Result<Self> {
        let [train_rows, validation_rows] = rows;
        let mut plan = Self::configured(config, validation_rows);
        let networks = |top_k| rates.networks(config, macs, rows, top_k);
        plan.top_k = 8;
        while plan.top_k > 1 && networks(plan.top_k) > 0.6 * seconds {
            plan.top_k -= 1;
        }
        let networks = networks(plan.top_k);
        let rest = seconds - networks;
        if rest < 0.2 * seconds {
            bail!(
                "a budget of {seconds:.0} s is too small: training the networks to compare takes {networks:.0} s here. \
                 Give at least {:.0} s, or fewer baselines (--set train.baselines=[\"fm\"])",
                networks / 0.8
            );
        }
        let batch = config.search.supernet.batch_size as f64;
        // The linear decay makes half of the warm-up steps full paths.
        let per_step = batch / rates.training;
        plan.supernet_steps = ((0.55 * rest) / (per_step * (1.0 + WARMUP_SHARE))).max(20.0) as u64;
        let full_steps = WARMUP_SHARE * plan.supernet_steps as f64 / rates.full_path;
        plan.warmup_steps = (2.0 * full_steps) as u64;
        let mut supernet_seconds = 0.55 * rest;
        if config.search.ranking.weights == RankingWeights::Fresh {
            let most = (MOST_TABLE_EPOCHS * train_rows as f64 / batch).max(20.0);
            let share = (most / plan.supernet_steps as f64).min(1.0);
            plan.supernet_steps = plan.supernet_steps.min(most as u64);
            plan.warmup_steps = plan.warmup_steps.min(plan.supernet_steps / 100);
            supernet_seconds *= share;
        } else {
            plan.finetune_steps = plan.finetune_steps.min(40);
        }
        plan.validation_rows = plan.validation_rows.min(20_000);
        let one = rates.score(config, plan.finetune_steps, plan.validation_rows);
        plan.evaluations = (((rest - supernet_seconds) / one) as usize).clamp(16, 2048);
        Ok(plan)
    }

    /// What it is expected to take; `rows` are those of training and validation.
    pub fn predict(
        &self,
        config: &Config,
        rates: Rates,
        macs: &NetworkMacs,
        rows: [usize; 2],
    ) -> Prediction {
        let batch = config.search.supernet.batch_size as f64;
        let full_steps = self.warmup_steps as f64 / 2.0;
        let warmup = full_steps * rates.full_path * batch / rates.training;
        let supernet = self.supernet_steps as f64 * batch / rates.training + warmup;
        let one_score = rates.score(config, self.finetune_steps, self.validation_rows);
        let ranking = self.evaluations as f64 * one_score;
        let networks = rates.networks(config, macs, rows, self.top_k);
        Prediction { supernet, warmup, ranking, networks }
    }
}

/// Parses `90s`, `20m`, `1.5h`.
pub fn parse_duration(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` is not a duration; write e.g. 90s, 20m or 1.5h");
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let scale = match unit {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    match number * scale {
        seconds if seconds.is_finite() && seconds > 0.0 => Ok(seconds),
        _ => Err(format!("`{text}` leaves no time; a duration is above zero, e.g. 90s or 20m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("20m"), Ok(1200.0));
        assert_eq!(parse_duration("1.5h"), Ok(5400.0));
        for bad in ["", "20", "m", "-3s", "20x", "nans", "5µ"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_time_is_said_to_be_none() {
        assert!(parse_duration("0s").unwrap_err().contains("above zero"));
        assert!(parse_duration("ten").unwrap_err().contains("write e.g."));
    }

    #[test]
    fn a_budget_keeps_full_paths_to_a_tenth() {
        let (config, rows) = (Config::default(), [100_000, 10_000]);
        let rates =
            Rates { training: 10_000.0, path_macs: 1e6, full_path: 90.0, model_bytes: 1 << 20 };
        let macs =
            NetworkMacs { searched: 1e6, baselines: vec![1e6; config.train.baselines.len()] };
        let plan = Plan::for_budget(&config, rates, &macs, rows, 3600.0).unwrap();
        let full = plan.warmup_steps as f64 / 2.0 * rates.full_path;
        assert!(full <= 0.11 * plan.supernet_steps as f64, "{plan:?}");
        let prediction = plan.predict(&config, rates, &macs, rows);
        assert!(prediction.total() < 1.3 * 3600.0, "{prediction:?}");
        assert!(Plan::for_budget(&config, rates, &macs, [10_000_000, 10_000], 60.0).is_err());
    }

    #[test]
    fn small_networks_take_less_than_average_paths() {
        let rates =
            Rates { training: 10_000.0, path_macs: 2e5, full_path: 90.0, model_bytes: 1 << 20 };
        let mut config = Config::default();
        config.train.network.batch_size = 512;
        config.train.network.epochs = 1.0;
        config.train.learning_rates = vec![0.1];
        config.train.final_seeds = 1;
        config.search.random_search = false;
        let networks = |searched: f64, baselines: &[f64]| {
            let macs = NetworkMacs { searched, baselines: baselines.into() };
            rates.networks(&config, &macs, [100_000, 0], 1)
        };
        // One trial and one final fit of 100,000 rows at 10,000 a second.
        assert!((networks(2e5, &[]) - 20.0).abs() < 1e-9);
        assert!((networks(0.0, &[]) - 2.4).abs() < 1e-9);
        assert!((networks(0.0, &[2e5]) - 22.4).abs() < 1e-9);
    }
}
