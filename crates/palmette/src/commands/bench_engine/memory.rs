//! `palmette bench memory`: what tables take beyond their numbers.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use palmette::console::Console;
use palmette_cost::format_bytes;
use palmette_ctr::nasrec::DatasetPreset;
use serde::Serialize;

use super::system::{available_memory, peak_memory};
use super::workloads::dlrm_of;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  palmette bench memory
  palmette bench memory --table-cap 500000

Trains a DLRM over tables of Criteo Kaggle's sizes (33.8 million rows of 16, with Adagrad's state)
and compares the most memory that the process ever held with what the tables' numbers alone take.")]
pub struct Args {
    /// Rows that each table keeps at most
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(2..))]
    table_cap: Option<u64>,
    /// Training steps
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Rows of a batch
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    table_rows: u64,
    /// Bytes of the tables' weights and state.
    tables: u64,
    /// Largest resident size of the process.
    peak: u64,
    /// `peak / tables`.
    ratio: f64,
    milliseconds_a_step: f64,
}

pub fn run(args: &Args, console: &Console) -> Result<ExitCode> {
    let preset = DatasetPreset::find("criteo").context("a preset is missing")?;
    let cap = args.table_cap.unwrap_or(u64::MAX);
    let sizes: Vec<usize> =
        preset.table_rows.iter().map(|&n| usize::try_from(n.min(cap)).unwrap_or(0)).collect();
    let table_rows = sizes.iter().map(|&n| n as u64).sum::<u64>();
    let tables = table_rows * 16 * 2 * 4;
    if available_memory().is_some_and(|left| tables + tables / 5 > left) {
        bail!(
            "the tables take {}, which is more than is available; lower --table-cap",
            format_bytes(tables)
        );
    }
    let mut case = dlrm_of(&sizes, args.batch as usize)?;
    let stretch = case.timed(args.steps)?;
    let peak = peak_memory().context("this system does not tell the peak of a process")?;
    let report = Report {
        table_rows,
        tables,
        peak,
        ratio: peak as f64 / tables as f64,
        milliseconds_a_step: stretch.seconds * 1e3 / args.steps as f64,
    };
    console.result(&report, || {
        format!(
            "{} table rows: {} of weights and state, peak of the process {}, {:.3} times that; \
             {:.2} ms a step",
            report.table_rows,
            format_bytes(report.tables),
            format_bytes(report.peak),
            report.ratio,
            report.milliseconds_a_step
        )
    })?;
    Ok(ExitCode::SUCCESS)
}
