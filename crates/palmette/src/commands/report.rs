//! `palmette report`: the page about a run, rendered again.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use palmette::console::Console;
use palmette::report::{ReportData, render};
use palmette::run::write_whole;
use serde::Serialize;

/// Render a run's report again
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  palmette report runs/log-1
  palmette report runs/log-1 -o /srv/reports/log-1.html

A run writes its report at its end, with everything that it shows in report.json; this verb renders
that file, which a newer version of palmette may do better.")]
pub struct Args {
    /// A finished run
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Page to write [default: report.html of the run]
    #[arg(short, long, value_name = "FILE.html")]
    output: Option<PathBuf>,
}

/// What is printed.
#[derive(Serialize)]
struct Rendered {
    report: PathBuf,
}

pub fn run(args: &Args, console: &Console) -> Result<ExitCode> {
    if !args.run.join("journal.jsonl").is_file() {
        bail!("{} is no run folder (no journal.jsonl)", args.run.display());
    }
    let file = args.run.join("report.json");
    let text = std::fs::read_to_string(&file).with_context(|| {
        format!(
            "{} has no report yet; a run writes it at its end: palmette search --resume {0}",
            args.run.display()
        )
    })?;
    let data: ReportData =
        serde_json::from_str(&text).with_context(|| file.display().to_string())?;
    let page = render(&data)?;
    let report = args.output.clone().unwrap_or_else(|| args.run.join("report.html"));
    write_whole(&report, |out| Ok(out.write_all(page.as_bytes())?))?;
    let rendered = Rendered { report };
    console.result(&rendered, || format!("report: {}", rendered.report.display()))?;
    Ok(ExitCode::SUCCESS)
}
