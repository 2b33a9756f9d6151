//! The verbs, one file each: `Args`, what `--help` says, and `run`.

use std::process::ExitCode;

use clap::Subcommand;

use crate::console::Console;

mod cost;
mod prepare;

/// What the user asked for.
#[derive(Subcommand)]
pub enum Verb {
    /// Turn click logs into a dataset of columnar shards
    Prepare(prepare::Args),
    /// Print multiply-accumulates, parameters and memory of an architecture
    Cost(cost::Args),
}

/// Runs a verb.
pub fn run(verb: Verb, console: &Console) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Prepare(args) => prepare::run(&args, console),
        Verb::Cost(args) => cost::run(&args, console),
    }
}
