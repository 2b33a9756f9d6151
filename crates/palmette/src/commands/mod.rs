//! The verbs, one file each: `Args`, what `--help` says, and `run`.

use std::process::ExitCode;

use clap::Subcommand;

use palmette::console::Console;

pub mod bench;
mod check_golden;
mod cost;
mod prepare;
mod quickstart;
mod search;

/// What the user asked for.
#[derive(Subcommand)]
pub enum Verb {
    /// Turn click logs into a dataset of columnar shards
    Prepare(prepare::Args),
    /// Make a click log, search, train, compare and report, in about two minutes
    Quickstart(quickstart::Args),
    /// Search an architecture, train it, compare it, export it
    Search(search::Args),
    /// Print multiply-accumulates, parameters and memory of an architecture
    Cost(cost::Args),
    /// Compare an architecture's arithmetic with what the released NASRec code computes
    CheckGolden(check_golden::Args),
    /// Compare search strategies on tables of trained networks
    Bench(bench::Args),
}

/// Runs a verb.
pub fn run(verb: Verb, console: &Console) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Prepare(args) => prepare::run(&args, console),
        Verb::Quickstart(args) => quickstart::run(&args, console),
        Verb::Search(args) => search::run(&args, console),
        Verb::Cost(args) => cost::run(&args, console),
        Verb::CheckGolden(args) => check_golden::run(&args, console),
        Verb::Bench(args) => bench::run(&args, console),
    }
}
