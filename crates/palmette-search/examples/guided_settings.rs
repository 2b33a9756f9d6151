//! Settings of predictor-guided search on NAS-Bench-201:
//! `cargo run --release -p palmette-search --example guided_settings -- FILE SEEDS`.

use palmette_search::{
    Ask, GuidedConfig, PredictorGuided, Strategy,
    tables::{Experimenter, TableDomain, TableExperimenter, open_parquet},
};
use rayon::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, file, seeds] = &arguments[..] else { return Err("usage: FILE SEEDS".into()) };
    let table = open_parquet(file.as_ref())?;
    let seeds: u64 = seeds.parse()?;
    let domain = TableDomain::new(&table);
    for (bold_exploration, is_local, noise, exploration, batch) in [
        (0.0, false, 0.02, 0.5, 5),
        (2.0, false, 0.02, 0.5, 5),
        (2.0, true, 0.02, 0.5, 5),
        (1.0, true, 0.1, 0.5, 5),
        (0.0, false, 0.1, 1.0, 5),
        (3.0, true, 0.1, 1.0, 5),
    ] {
        let config = GuidedConfig {
            bold_exploration,
            is_local,
            noise,
            exploration,
            batch,
            ..GuidedConfig::default()
        };
        for quality in ["cifar10-val@12ep", "cifar100-val@12ep", "imagenet-val@12ep"] {
            let column = table.column(quality).ok_or("no such column")?;
            let best = column.values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mut counts: Vec<u32> = (0..seeds)
                .into_par_iter()
                .filter_map(|seed| {
                    let mut strategy = PredictorGuided::new(config, seed).ok()?;
                    let mut experimenter = TableExperimenter::new(&domain, quality, None)?;
                    for evaluation in 1..=150 {
                        let Ask::Try(suggestion) = strategy.suggest(&domain) else { break };
                        let outcome = experimenter.evaluate(&suggestion.genotype);
                        if outcome.first().is_some_and(|score| -score >= best) {
                            return Some(evaluation);
                        }
                        strategy.observe(&domain, suggestion.trial, outcome).ok()?;
                    }
                    Some(u32::MAX)
                })
                .collect();
            counts.sort_unstable();
            let found = counts.partition_point(|&count| count <= 150) as f64 / counts.len() as f64;
            println!(
                "bold {bold_exploration} noise {noise} exploration {exploration} batch {batch} \
                 {quality}: median {} found by 150 {found:.3}",
                counts[counts.len() / 2]
            );
        }
    }
    Ok(())
}
