//! Quick look: `cargo run --release -p palmette-search --example regrets -- FILE SEEDS`.
use palmette_search::{
    bench::{Method, regret_study},
    tables::{TableDomain, nas_bench_201},
};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let table = nas_bench_201(args[1].as_ref()).unwrap();
    let seeds = args[2].parse().unwrap();
    let domain = TableDomain::new(&table);
    for quality in ["cifar10-val@12ep", "cifar100-val@12ep", "imagenet-val@12ep"] {
        {
            let method = Method::PredictorGuided;
            let start = std::time::Instant::now();
            let study =
                regret_study(&domain, quality, &[method], &[50, 75, 100, 150], seeds, |_| {})
                    .unwrap();
            let m = &study.methods[0];
            let r: Vec<String> =
                m.regret.iter().map(|s| format!("{:.3}±{:.3}", s.mean, s.standard_error)).collect();
            println!(
                "{quality} {:<20} {} median {:?} found {:?} {:.2}s",
                m.method,
                r.join(" "),
                m.median_to_best,
                m.found_best,
                start.elapsed().as_secs_f64()
            );
        }
    }
}
