//! `palmette bench candidates`: the search loop without training, on one core.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use palmette::console::Console;
use palmette_cost::{Limits, MemoryModel};
use palmette_ctr::nasrec::{
    DatasetPreset, LimitedSpace, NasRecSpace, Operators, canonical_key, macs,
};
use palmette_random::stream;
use palmette_search::{
    Ask, EvolutionConfig, Outcome, RandomSearch, RegularisedEvolution, Strategy,
};
use palmette_space::{Domain, Genotype};
use serde::Serialize;

use super::compare::spread;

#[derive(clap::Args)]
#[command(after_help = "\
Example:
  palmette bench candidates --rounds 7

Candidates of NASRec-Full on Criteo a second, on one core: drawn, turned into paths, given their
canonical keys, counted and ranked; and whole strategies with multiply-accumulates as the objective,
free and under a hard limit.")]
pub struct Args {
    /// Candidates in a round
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1000..))]
    candidates: u32,
    /// Rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(3..))]
    rounds: u32,
}

#[derive(Serialize)]
struct Rate {
    work: &'static str,
    /// Candidates a second.
    median: f64,
    least: f64,
    most: f64,
}

pub fn run(args: &Args, console: &Console) -> Result<ExitCode> {
    let space = NasRecSpace::published(Operators::Full);
    let preset = DatasetPreset::find("criteo").context("a preset is missing")?;
    let (shape, memory) = (preset.shape, MemoryModel::default());
    let limits = Limits::parse("macs=2M")?;
    let limited = LimitedSpace::new(space.clone(), shape, preset.table_rows, limits, memory)?;
    let n = args.candidates;
    let rank = |round: u64| -> Result<()> {
        let mut rng = stream(2, "bench/candidates", round);
        let mut ranked: Vec<(u64, u128, Genotype)> = (0..n)
            .map(|_| {
                let genotype = space.sample(&mut rng);
                let path = space.path(&genotype);
                (macs(&path, shape), canonical_key(&path), genotype)
            })
            .collect();
        ranked.sort_unstable_by_key(|candidate| (candidate.0, candidate.1));
        black_box(&ranked);
        Ok(())
    };
    let strategy = |mut strategy: Box<dyn Strategy>, domain: &dyn Domain| -> Result<()> {
        for _ in 0..n {
            let Ask::Try(suggestion) = strategy.suggest(domain) else { break };
            let score = macs(&space.path(&suggestion.genotype), shape) as f64;
            strategy.observe(domain, suggestion.trial, Outcome::score(-score))?;
        }
        Ok(())
    };
    let evolution = |seed| -> Result<Box<dyn Strategy>> {
        let config = EvolutionConfig { generations: 1_000_000, ..EvolutionConfig::published() };
        Ok(Box::new(RegularisedEvolution::new(config, seed)?))
    };
    type Work<'a> = (&'static str, &'a dyn Fn(u64) -> Result<()>);
    let works: [Work<'_>; 4] = [
        ("drawn, canonical, counted and ranked", &rank),
        ("random search", &|seed| strategy(Box::new(RandomSearch::new(seed)), &space)),
        ("evolution", &|seed| strategy(evolution(seed)?, &space)),
        ("evolution under macs=2M", &|seed| strategy(evolution(seed)?, &limited)),
    ];
    let mut rates = Vec::new();
    for (work, body) in works {
        let mut found = Vec::new();
        for round in 0..u64::from(args.rounds) {
            let start = Instant::now();
            body(round)?;
            found.push(f64::from(n) / start.elapsed().as_secs_f64());
        }
        let [median, least, most] = spread(&found);
        rates.push(Rate { work, median, least, most });
    }
    console.result(&rates, || {
        let line = |r: &Rate| {
            format!("{:<40} {:>9.0} a second ({:.0}-{:.0})\n", r.work, r.median, r.least, r.most)
        };
        rates.iter().map(line).collect()
    })?;
    Ok(ExitCode::SUCCESS)
}
