//! Settings that have the right type and still cannot be.

use anyhow::{Result, bail};

use super::config::Config;

/// Fails at the first setting out of range and says what would be right.
pub(super) fn check(config: &Config) -> Result<()> {
    let (search, train) = (&config.search, &config.train);
    for (key, value) in [
        ("search.evaluations", search.evaluations as u64),
        ("search.top_k", search.top_k as u64),
        ("search.table_cap", search.table_cap.into()),
        ("search.supernet.steps", search.supernet.steps),
        ("search.supernet.batch_size", search.supernet.batch_size as u64),
        ("search.ranking.batch_size", search.ranking.batch_size as u64),
        ("train.network.batch_size", train.network.batch_size as u64),
        ("train.final_seeds", train.final_seeds as u64),
        ("train.final_batch_size", train.final_batch_size.unwrap_or(1) as u64),
        ("run.checkpoint_every", config.run.checkpoint_every),
    ] {
        if value == 0 {
            bail!("configuration: {key} is 0; give a number from 1");
        }
    }
    let rates = train.learning_rates.iter().map(|&rate| ("train.learning_rates", rate));
    let positive = [
        ("search.supernet.learning_rate", search.supernet.learning_rate),
        ("search.supernet.epsilon", search.supernet.epsilon),
        ("search.supernet.clip_norm", search.supernet.clip_norm),
        ("search.ranking.learning_rate", search.ranking.learning_rate),
        ("search.ranking.epsilon", search.ranking.epsilon),
        ("train.network.learning_rate", train.network.learning_rate),
        ("train.network.epsilon", train.network.epsilon),
        ("train.network.clip_norm", train.network.clip_norm),
        ("train.network.epochs", train.network.epochs),
    ];
    let budget = config.run.budget_seconds.map(|seconds| ("run.budget_seconds", seconds));
    for (key, value) in positive.into_iter().chain(rates).chain(budget) {
        if !(value > 0.0 && value.is_finite()) {
            bail!("configuration: {key} is {value}; give a number above 0");
        }
    }
    if train.learning_rates.is_empty() {
        bail!("configuration: train.learning_rates is empty; give at least one, e.g. [0.04, 0.12]");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_named() {
        let check = |set: &str, expect: &str| {
            let error = Config::load(None, &[set.into()]).unwrap_err().to_string();
            assert!(error.contains(expect), "{set}: {error:?} lacks {expect:?}");
        };
        check("search.top_k=0", "search.top_k is 0; give a number from 1");
        check("search.table_cap=0", "search.table_cap is 0");
        check("train.network.batch_size=0", "train.network.batch_size is 0");
        check("run.checkpoint_every=0", "run.checkpoint_every is 0");
        check("train.network.epochs=-1.0", "train.network.epochs is -1; give a number above 0");
        check("train.network.learning_rate=nan", "learning_rate is NaN");
        check("train.learning_rates=[0.1, 0.0]", "train.learning_rates is 0");
        check("train.learning_rates=[]", "train.learning_rates is empty");
        check("run.budget_seconds=inf", "run.budget_seconds is inf");
    }
}
