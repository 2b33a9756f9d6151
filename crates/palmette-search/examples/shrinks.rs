//! Shrinking NAS-Bench-201 without an oracle:
//! `cargo run --release -p palmette-search --example shrinks -- TABLE.parquet SEEDS`.

use palmette_search::{
    bench::shrink_study,
    shrink::ShrinkConfig,
    tables::{TableDomain, open_parquet},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, file, seeds] = &arguments[..] else { return Err("usage: TABLE.parquet SEEDS".into()) };
    let table = open_parquet(file.as_ref())?;
    let seeds = seeds.parse()?;
    let domain = TableDomain::new(&table);
    let columns = ["cifar10-val@12ep", "cifar100-val@12ep", "imagenet-val@12ep"];
    for column in columns {
        let others: Vec<String> =
            columns.iter().filter(|c| **c != column).map(|c| (*c).to_owned()).collect();
        let study = shrink_study(&domain, column, &others, &ShrinkConfig::default(), seeds)?;
        println!("{}", serde_json::to_string_pretty(&study)?);
    }
    Ok(())
}
