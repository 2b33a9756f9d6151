//! Shrinks the NAS-Bench-201 space over many seeds and prints what is kept.

use palmette_search::{
    shrink::*,
    tables::{TableDomain, nas_bench_201},
};
use palmette_space::Subspace;
use rayon::prelude::*;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let table = nas_bench_201(args[1].as_ref()).unwrap();
    let seeds: u64 = args[2].parse().unwrap();
    let domain = TableDomain::new(&table);
    for (seeds_k, fresh, gate, most) in [
        (24usize, 100usize, 100usize, 240usize),
        (32, 100, 100, 240),
        (48, 120, 100, 250),
        (48, 120, 100, 200),
        (32, 140, 100, 220),
    ] {
        for quality in ["cifar10-val@12ep", "cifar100-val@12ep", "imagenet-val@12ep"] {
            let values = &table.column(quality).unwrap().values;
            let config = ShrinkConfig {
                seeds: seeds_k,
                fresh,
                gate,
                most_members: most,
                ..ShrinkConfig::default()
            };
            let runs: Vec<Option<(ShrinkReport, usize)>> = (0..seeds)
                .into_par_iter()
                .map(|seed| {
                    let l = lissnas(&domain, &config, seed, &mut |g| {
                        Some(values[table.row(g).unwrap()])
                    })
                    .ok()?;
                    Some((shrink_report(&l.space, table.genotypes(), values), l.evaluations))
                })
                .collect();
            let failed = runs.iter().filter(|r| r.is_none()).count();
            let ok = runs
                .iter()
                .flatten()
                .filter(|(r, e)| r.density >= 0.25 && r.recall >= 0.4 && r.size <= 250 && *e <= 700)
                .count();
            let n = runs.iter().flatten().count() as f64;
            let m = |f: &dyn Fn(&(ShrinkReport, usize)) -> f64| {
                runs.iter().flatten().map(f).sum::<f64>() / n
            };
            println!(
                "k{seeds_k} f{fresh} m{most} {quality}: ok {ok}/{seeds} gate-failed {failed} size {:.0} density {:.3} recall {:.3} evals {:.0} regret {:.3} mean {:.2} pockets {:.1}",
                m(&|r| r.0.size as f64),
                m(&|r| r.0.density),
                m(&|r| r.0.recall),
                m(&|r| r.1 as f64),
                m(&|r| r.0.regret),
                m(&|r| r.0.mean),
                m(&|r| r.0.pockets as f64)
            );
            let _: Option<Subspace> = None;
        }
    }
}
