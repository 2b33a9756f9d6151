//! Regret of strategies on a public table:
//! `cargo run --release -p palmette-search --example regrets -- TABLE.parquet SEEDS`.

use palmette_search::{
    bench::{Method, regret_study},
    tables::{Role, TableDomain, open_parquet},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, file, seeds] = &arguments[..] else { return Err("usage: TABLE.parquet SEEDS".into()) };
    let table = open_parquet(file.as_ref())?;
    let seeds = seeds.parse()?;
    let domain = TableDomain::new(&table);
    let methods = [
        Method::Random,
        Method::Evolution,
        Method::NasRecEvolution,
        Method::Metropolis,
        Method::Nsga2,
        Method::LocalSearch,
    ];
    for column in table.columns().iter().filter(|column| column.role == Role::Validation) {
        let checkpoints = [50, 75, 100, 150, 300, 500];
        let study = regret_study(&domain, &column.name, &methods, &checkpoints, seeds, |_| {})?;
        for found in &study.methods {
            let regrets: Vec<String> = found
                .regret
                .iter()
                .map(|regret| format!("{:.3}±{:.3}", regret.mean, regret.standard_error))
                .collect();
            println!(
                "{} {:<20} {} median to best {:?}",
                column.name,
                found.method,
                regrets.join(" "),
                found.median_to_best
            );
        }
    }
    Ok(())
}
