//! `palmette runs`: what is in the run folders.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Subcommand;
use palmette::console::Console;
use palmette::run::{RunRecord, read_runs, write_index};
use serde::{Deserialize, Serialize};

/// List, show and compare runs
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  palmette runs
  palmette runs show log-1
  palmette runs compare log-1 log-2
  palmette runs best --runs experiments --format json
  palmette runs index
  sqlite3 runs/trials.sqlite 'select run, id, validation_log_loss from trials'

Everything is read from the runs' journals, also while they are going on. An index, where there is
one, makes a listing of many runs fast; runs that went on since are read from their journals.")]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    place: Place,
}

#[derive(clap::Args)]
struct Place {
    /// Folder that holds the runs
    #[arg(long, value_name = "DIR", default_value = "runs", global = true)]
    runs: PathBuf,
}

#[derive(Subcommand)]
enum Action {
    /// All runs with their state (the default)
    List,
    /// One run: counts, models, figures
    Show {
        /// Name of a run, or its folder
        run: String,
    },
    /// Test log losses side by side
    Compare {
        /// Names of runs, or their folders
        #[arg(value_name = "RUN", required = true, num_args = 2..)]
        names: Vec<String>,
    },
    /// Write trials.sqlite, an index of all runs and their events, anew from the journals
    Index,
    /// For each dataset the run whose searched network has the lowest validation log loss
    Best,
}

pub fn run(args: &Args, console: &Console) -> Result<ExitCode> {
    match &args.action {
        None | Some(Action::List) => list(args, console)?,
        Some(Action::Show { run }) => {
            let record = find(args, run)?;
            console.result(&record, || show(&record))?;
        }
        Some(Action::Compare { names }) => {
            if let Some(twice) = names.iter().enumerate().find(|(i, n)| names[..*i].contains(n)) {
                bail!("run `{}` is given twice", twice.1);
            }
            let records = names.iter().map(|run| find(args, run)).collect::<Result<Vec<_>>>()?;
            console.result(&records, || compare(&records))?;
        }
        Some(Action::Best) => best(args, console)?,
        Some(Action::Index) => {
            let (file, runs) = write_index(&args.place.runs)?;
            let result = serde_json::json!({ "file": file, "runs": runs });
            console.result(&result, || format!("{} ({runs} runs)", file.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A run by its folder or by its name.
fn find(args: &Args, run: &str) -> Result<RunRecord> {
    let named = args.place.runs.join(run);
    let folder = PathBuf::from(run);
    for dir in [&folder, &named] {
        if dir.join("journal.jsonl").is_file() {
            return RunRecord::read(dir);
        }
    }
    let known: Vec<String> = read_runs(&args.place.runs)
        .map(|runs| runs.into_iter().map(|r| r.name).collect())
        .unwrap_or_default();
    let near = known
        .iter()
        .map(|name| (strsim::jaro_winkler(run, name), name))
        .filter(|&(score, _)| score > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((_, name)) => bail!("there is no run `{run}`; did you mean `{name}`?"),
        None => bail!("there is no run `{run}` in {}", args.place.runs.display()),
    }
}

fn figure(value: Option<f64>) -> String {
    value.map_or("-".into(), |v| format!("{v:.6}"))
}

fn list(args: &Args, console: &Console) -> Result<()> {
    let records = read_runs(&args.place.runs)?;
    console.result(&records, || {
        if records.is_empty() {
            return format!("no runs in {}", args.place.runs.display());
        }
        let mut text = format!(
            "{:<24} {:<10} {:>7} {:>7} {:>12} {:>12}\n",
            "run", "state", "ranked", "trained", "validation", "test"
        );
        for r in &records {
            text += &format!(
                "{:<24} {:<10} {:>7} {:>7} {:>12} {:>12}\n",
                r.name,
                r.state,
                r.scores,
                r.trials,
                figure(r.validation_log_loss),
                figure(r.tested("searched").map(|t| t.log_loss))
            );
        }
        text
    })
}

fn show(r: &RunRecord) -> String {
    let mut lines = vec![
        format!("run        {} ({})", r.dir.display(), r.state),
        format!("dataset    {}", r.dataset.display()),
        format!("seed       {}", r.seed),
        format!("work       {} candidates ranked, {} networks trained", r.scores, r.trials),
        format!("time       {:.0} s", r.seconds),
        format!("validation {} (best searched network)", figure(r.validation_log_loss)),
    ];
    for t in &r.tested {
        lines.push(format!(
            "test       {:<22} log loss {:.6}  AUC {}  ({} seeds)",
            t.model,
            t.log_loss,
            figure(t.auc),
            t.seeds
        ));
    }
    lines.join("\n")
}

/// Paired differences, searched minus a model, of the runs that are finished.
fn differences(records: &[RunRecord], model: &str) -> Vec<Difference> {
    let read = |record: &RunRecord| {
        let text = std::fs::read_to_string(record.dir.join("summary.json")).ok()?;
        let summary: serde_json::Value = serde_json::from_str(&text).ok()?;
        let models = summary["models"].as_array()?;
        let found = models.iter().find(|m| m["name"] == model)?;
        Difference::deserialize(&found["difference"]).ok()
    };
    records.iter().filter_map(read).collect()
}

/// What a summary says of a pair.
#[derive(Deserialize)]
struct Difference {
    difference: f64,
    low: f64,
    high: f64,
}

/// Mean and standard deviation.
fn spread(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (squares / (values.len() as f64 - 1.0).max(1.0)).sqrt())
}

fn compare(records: &[RunRecord]) -> String {
    let mut models: Vec<&str> = Vec::new();
    for tested in records.iter().flat_map(|r| &r.tested) {
        if !models.contains(&tested.model.as_str()) {
            models.push(&tested.model);
        }
    }
    let mut text = format!("{:<18}", "test log loss");
    for r in records {
        text += &format!(" {:>12}", r.name);
    }
    text += &format!(" {:>17} {:>14}   better, worse or neither", "mean (sd)", "searched minus");
    for model in models {
        text += &format!("\n{model:<18}");
        for r in records {
            text += &format!(" {:>12}", figure(r.tested(model).map(|t| t.log_loss)));
        }
        let losses: Vec<f64> =
            records.iter().filter_map(|r| r.tested(model)).map(|t| t.log_loss).collect();
        let (mean, deviation) = spread(&losses);
        text += &format!(" {:>17}", format!("{mean:.5} ({deviation:.5})"));
        let pairs = differences(records, model);
        if !pairs.is_empty() {
            let mean = pairs.iter().map(|d| d.difference).sum::<f64>() / pairs.len() as f64;
            let better = pairs.iter().filter(|d| d.high < 0.0).count();
            let worse = pairs.iter().filter(|d| d.low > 0.0).count();
            let neither = pairs.len() - better - worse;
            text += &format!(" {mean:>+14.5}   {better} better, {worse} worse, {neither} neither");
        }
    }
    text += "\n\nbetter: the searched network is, with the whole paired 95 % interval of its run";
    let first = &records[0].dataset;
    if records.iter().any(|r| r.dataset != *first) {
        text += "\nthe runs are on different datasets: their figures cannot be compared";
    }
    text
}

/// The best run of one dataset.
#[derive(Serialize)]
struct Best {
    dataset: PathBuf,
    runs: usize,
    best: RunRecord,
}

fn best(args: &Args, console: &Console) -> Result<()> {
    let mut by_dataset: BTreeMap<PathBuf, Vec<RunRecord>> = BTreeMap::new();
    for record in read_runs(&args.place.runs)? {
        by_dataset.entry(record.dataset.clone()).or_default().push(record);
    }
    let best: Vec<Best> = by_dataset
        .into_iter()
        .filter_map(|(dataset, records)| {
            let runs = records.len();
            // Chosen on validation rows: choosing among runs by the test part would spoil it.
            let best = records
                .into_iter()
                .filter_map(|r| Some((r.validation_log_loss?, r)))
                .min_by(|a, b| a.0.total_cmp(&b.0))?
                .1;
            Some(Best { dataset, runs, best })
        })
        .collect();
    console.result(&best, || {
        let line = |b: &Best| {
            format!(
                "{}: {} (validation {}, test {}), the best of {} runs",
                b.dataset.display(),
                b.best.dir.display(),
                figure(b.best.validation_log_loss),
                figure(b.best.tested("searched").map(|t| t.log_loss)),
                b.runs
            )
        };
        match &best[..] {
            [] => "no run has trained a network yet".into(),
            best => best.iter().map(line).collect::<Vec<_>>().join("\n"),
        }
    })
}
