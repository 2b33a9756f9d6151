//! `palmette bench`: strategies on tables of trained networks, rankings, and speed beside others.

use std::process::ExitCode;

use clap::Subcommand;
use palmette::console::Console;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  palmette bench search nb201_all.parquet --seeds 300 -o bench/
  palmette bench ranking log --networks 100 --seeds 2
  palmette bench generation mini
  palmette bench engine mlp dlrm-1m --peers target/peers-venv/bin/python
  palmette bench scaling -o docs/figures

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
    /// Show what candidates of one generation share, and time scoring them alone and together
    Generation(super::bench_generation::Args),
    /// Time training steps, beside PyTorch's where there is one
    Engine(super::bench_engine::Args),
    /// Time matrix products alone, as shares of the multiply-add peak
    Products(super::bench_engine::products::Args),
    /// Time training steps while threads, batch, tables or blocks grow
    Scaling(super::bench_engine::scaling::Args),
    /// Time the preparation of a log, beside polars where there is one
    Prepare(super::bench_engine::prepare::Args),
    /// Time the search loop without training
    Candidates(super::bench_engine::candidates::Args),
    /// Measure the peak memory of training over tables of Criteo's sizes
    Memory(super::bench_engine::memory::Args),
}

pub fn run(args: &Args, console: &Console) -> anyhow::Result<ExitCode> {
    match &args.what {
        What::Search(args) => super::bench_search::run(args, console),
        What::Ranking(args) => super::bench_ranking::run(args, console),
        What::Generation(args) => super::bench_generation::run(args, console),
        What::Engine(args) => super::bench_engine::run(args, console),
        What::Products(args) => super::bench_engine::products::run(args, console),
        What::Scaling(args) => super::bench_engine::scaling::run(args, console),
        What::Prepare(args) => super::bench_engine::prepare::run(args, console),
        What::Candidates(args) => super::bench_engine::candidates::run(args, console),
        What::Memory(args) => super::bench_engine::memory::run(args, console),
    }
}
