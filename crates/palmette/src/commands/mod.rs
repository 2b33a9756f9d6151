//! The verbs, one file each: `Args`, what `--help` says, and `run`.

use std::process::ExitCode;

use clap::Subcommand;

use palmette::console::Console;

pub mod bench;
mod bench_engine;
mod bench_generation;
mod bench_ranking;
mod bench_search;
mod check_golden;
mod cost;
mod eval;
mod export;
mod numbers;
mod predict;
mod prepare;
mod quickstart;
mod report;
mod repro;
mod repro_expected;
mod runs;
mod search;
mod show;
mod train;

/// What the user asked for.
#[derive(Subcommand)]
pub enum Verb {
    /// Turn click logs into a dataset of columnar shards
    Prepare(prepare::Args),
    /// Make a click log, search, train, compare and report, in about two minutes
    Quickstart(quickstart::Args),
    /// Search an architecture, train it, compare it, export it
    Search(search::Args),
    /// Train one architecture or hand-made model, also from an earlier one on newer days
    Train(train::Args),
    /// Measure a trained model on a part of a dataset
    Eval(eval::Args),
    /// Probabilities of a click for the rows of a raw log
    Predict(predict::Args),
    /// Describe an architecture in words and draw it
    Show(show::Args),
    /// Write ONNX, safetensors and encoders of a trained model into a folder
    Export(export::Args),
    /// Render a run's report again
    Report(report::Args),
    /// List recipes, or run one and compare it with its expected figures
    Repro(repro::Args),
    /// List, show and compare runs
    Runs(runs::Args),
    /// Print multiply-accumulates, parameters and memory of an architecture
    Cost(cost::Args),
    /// Compare an architecture's arithmetic with what the released NASRec code computes
    CheckGolden(check_golden::Args),
    /// Compare search strategies, rankings with training from scratch, the engine with PyTorch
    Bench(bench::Args),
}

/// Runs a verb.
pub fn run(verb: Verb, console: &Console) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Prepare(args) => prepare::run(&args, console),
        Verb::Quickstart(args) => quickstart::run(&args, console),
        Verb::Search(args) => search::run(&args, console),
        Verb::Train(args) => train::run(&args, console),
        Verb::Eval(args) => eval::run(&args, console),
        Verb::Predict(args) => predict::run(&args, console),
        Verb::Show(args) => show::run(&args, console),
        Verb::Export(args) => export::run(&args, console),
        Verb::Report(args) => report::run(&args, console),
        Verb::Repro(args) => repro::run(&args, console),
        Verb::Runs(args) => runs::run(&args, console),
        Verb::Cost(args) => cost::run(&args, console),
        Verb::CheckGolden(args) => check_golden::run(&args, console),
        Verb::Bench(args) => bench::run(&args, console),
    }
}
