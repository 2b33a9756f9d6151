//! `palmette bench`: strategies compared on tables of trained networks, rankings with training.

use std::process::ExitCode;

use clap::Subcommand;
use palmette::console::Console;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  palmette bench search nb201_all.parquet --seeds 300 -o bench/
  palmette bench ranking log --networks 100 --seeds 2

Each has its own --help.")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Compare search strategies on a table of trained networks
    Search(super::bench_search::Args),
    /// Compare a supernet's ranking of random networks with training each from scratch
    Ranking(super::bench_ranking::Args),
}

pub fn run(args: &Args, console: &Console) -> anyhow::Result<ExitCode> {
    match &args.what {
        What::Search(args) => super::bench_search::run(args, console),
        What::Ranking(args) => super::bench_ranking::run(args, console),
    }
}
