//! Candidates a second of the search loop without training, on one core:
//! `cargo bench -p palmette-ctr --bench candidates`.

use std::hint::black_box;
use std::time::Instant;

use palmette_cost::{Limits, MemoryModel};
use palmette_ctr::nasrec::{
    DatasetPreset, LimitedSpace, NasRecSpace, Operators, canonical_key, macs,
};
use palmette_random::stream;
use palmette_search::{
    Ask, EvolutionConfig, Outcome, RandomSearch, RegularisedEvolution, Strategy,
};
use palmette_space::{Domain, Genotype};

fn main() {
    let space = NasRecSpace::published(Operators::Full);
    let preset = DatasetPreset::find("criteo").expect("criteo is a preset");
    let shape = preset.shape;

    let rate = |name: &str, n: u64, mut body: Box<dyn FnMut(u64) -> u64 + '_>| {
        let start = Instant::now();
        let sum = (0..n).fold(0u64, |sum, i| sum.wrapping_add(body(i)));
        let seconds = start.elapsed().as_secs_f64();
        println!("{name:<44} {:>10.0} /s   ({sum:x})", n as f64 / seconds);
    };

    let mut rng = stream(1, "bench", 0);
    let genotypes: Vec<Genotype> = (0..10_000).map(|_| space.sample(&mut rng)).collect();
    let paths: Vec<_> = genotypes.iter().map(|genotype| space.path(genotype)).collect();
    let n = 400_000;
    let at = |i: u64| (i % 10_000) as usize;
    rate("sample", n, Box::new(|_| space.sample(&mut rng).genes()[0].into()));
    rate("genotype -> path", n, Box::new(|i| space.path(&genotypes[at(i)]).blocks.len() as u64));
    rate("canonical key", n, Box::new(|i| canonical_key(&paths[at(i)]) as u64));
    rate("macs", n, Box::new(|i| macs(&paths[at(i)], shape)));

    let start = Instant::now();
    let mut rng = stream(2, "bench", 0);
    let mut ranked: Vec<(u64, u128, Genotype)> = (0..n)
        .map(|_| {
            let genotype = space.sample(&mut rng);
            let path = space.path(&genotype);
            (macs(&path, shape), canonical_key(&path), genotype)
        })
        .collect();
    ranked.sort_unstable_by_key(|candidate| (candidate.0, candidate.1));
    let seconds = start.elapsed().as_secs_f64();
    println!("{:<44} {:>10.0} /s", "sample + path + key + macs + rank", n as f64 / seconds);
    black_box(&ranked[0]);

    let limits = Limits::parse("macs=2M").expect("a limit");
    let limited =
        LimitedSpace::new(space.clone(), shape, preset.table_rows, limits, MemoryModel::default())
            .expect("2 M multiply-accumulates are possible");
    let evolution = |_| {
        let config = EvolutionConfig { generations: 100_000, ..EvolutionConfig::published() };
        Box::new(RegularisedEvolution::new(config, 1).expect("published settings"))
    };
    let strategies: [(&str, Box<dyn Strategy>, &dyn Domain); 4] = [
        ("random, macs as the objective", Box::new(RandomSearch::new(1)), &space),
        ("evolution, macs as the objective", evolution(()), &space),
        ("random, limit macs=2M", Box::new(RandomSearch::new(1)), &limited),
        ("evolution, limit macs=2M", evolution(()), &limited),
    ];
    for (name, mut strategy, domain) in strategies {
        let n = 200_000;
        let start = Instant::now();
        for _ in 0..n {
            let Ask::Try(suggestion) = strategy.suggest(domain) else { break };
            let score = macs(&space.path(&suggestion.genotype), shape) as f64;
            let outcome = Outcome::score(-score);
            strategy.observe(domain, suggestion.trial, outcome).expect("a pending trial");
        }
        let rate = f64::from(n) / start.elapsed().as_secs_f64();
        println!("{name:<44} {rate:>10.0} /s   suggest + observe");
    }
}
