//! `palmette prepare`: click logs into a dataset.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::ValueEnum;
use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use palmette_data::{
    Dataset, Estimate, ListCounts, Observer, OnBadRow, PrepareOptions, QUARANTINE_FILE, Schema,
    Split, SplitOverride, Stage, estimate, infer, prepare,
};
use serde::Serialize;

use palmette::console::Console;
use palmette::run::write_whole;

#[derive(clap::Args)]
#[command(after_help = "\
A schema file names the label and the fields; the simplest has three lines:
  label = \"click\"
  dense = [\"price\", \"age\"]
  categorical = [\"site\", \"ad\", \"C1..C26\"]
See examples/schemas/ for splits by time and by column. A killed run is continued by the
same command.

Examples:
  palmette prepare --schema criteo train.txt -o criteo
  palmette prepare --schema avazu train.csv.gz -o avazu
  palmette prepare --schema kdd12 training.txt --profile userid_profile.txt -o kdd12
  palmette prepare --infer log.parquet -o log.toml
  palmette prepare --schema log.toml day1.parquet day2.parquet -o log --dry-run
  palmette prepare --schema log.toml day3.parquet -o day3 --encoders-from log --split test")]
pub struct Args {
    /// Log files in the order of their rows: CSV, TSV or Parquet, plain, gzip or zstd
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    /// criteo, avazu, kdd12, or a schema file
    #[arg(long, value_name = "NAME|FILE.toml", required_unless_present = "infer")]
    schema: Option<String>,
    /// Directory of the dataset (with --infer: the schema file to write; printed if left out)
    #[arg(short, long, value_name = "DATASET", required_unless_present_any = ["infer", "dry_run"])]
    output: Option<PathBuf>,
    /// Write a first schema from the data instead of preparing it
    #[arg(long, conflicts_with_all = ["schema", "dry_run"])]
    infer: bool,
    /// Predict time, disk and memory from the first rows, write nothing
    #[arg(long)]
    dry_run: bool,
    /// A second file with columns by key (userid_profile.txt of kdd12)
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Memory that is never exceeded, whatever the size of the input
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes, value_name = "BYTES")]
    memory: u64,
    /// What to do with a row that cannot be used
    #[arg(long, value_enum, default_value_t)]
    on_bad_row: BadRows,
    /// The most rows to set aside with --on-bad-row=quarantine
    #[arg(long, value_name = "N", default_value_t = 1000)]
    max_bad: u64,
    /// Split otherwise than the schema says: random, time or group (8:1:1), or all rows into train,
    /// validation or test
    #[arg(long, value_name = "HOW")]
    split: Option<SplitOverride>,
    /// Encode with the fitted encoders of an earlier dataset (for newer days)
    #[arg(long, value_name = "DATASET")]
    encoders_from: Option<PathBuf>,
    /// Replace a dataset that was made from other files or with another schema
    #[arg(long)]
    overwrite: bool,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum BadRows {
    /// Stop with file, row and field
    #[default]
    Stop,
    /// Copy such rows to quarantine.jsonl in the dataset, count them and go on
    Quarantine,
}

#[derive(Serialize)]
struct Summary {
    dataset: PathBuf,
    rows: [u64; 3],
    label_means: [f64; 3],
    dense_fields: usize,
    categorical_fields: usize,
    table_rows: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lists: Vec<ListCounts>,
    dropped: u64,
    quarantined: u64,
    unused_columns: Vec<String>,
    fingerprint: String,
}

pub fn run(args: &Args, console: &Console) -> anyhow::Result<ExitCode> {
    if args.infer {
        return run_infer(args, console);
    }
    // clap requires the schema unless it infers, and the output unless it only estimates
    let mut schema = Schema::load(args.schema.as_deref().unwrap_or_default())?;
    if let Some(split) = args.split {
        schema.override_split(split)?;
    }
    let output = args.output.clone().unwrap_or_default();
    let mut options = PrepareOptions::new(schema, args.inputs.clone(), output);
    options.profile = args.profile.clone();
    options.memory = args.memory;
    options.encoders_from = args.encoders_from.clone();
    options.overwrite = args.overwrite;
    options.on_bad_row = match args.on_bad_row {
        BadRows::Stop => OnBadRow::Stop,
        BadRows::Quarantine => OnBadRow::Quarantine { max_bad: args.max_bad },
    };
    if args.dry_run {
        let estimate = estimate(&options)?;
        console.result(&estimate, || describe_estimate(&estimate))?;
        return Ok(ExitCode::SUCCESS);
    }
    let progress = Progress::new(console);
    stop_cleanly(&options.output, console.draws());
    let dataset = prepare(&options, &progress);
    progress.clear();
    let summary = summarise(&dataset?);
    console.result(&summary, || describe(&summary))?;
    Ok(ExitCode::SUCCESS)
}

/// On Ctrl-C says how to go on. Nothing has to be tidied up: a preparation may be killed at any
/// moment and takes up what is finished.
fn stop_cleanly(output: &Path, draws: bool) {
    let output = output.display().to_string();
    // A handler that cannot be set costs the message and nothing else.
    let _ = ctrlc::set_handler(move || {
        // On a terminal the bar's line is overwritten.
        let start = if draws { "\r\x1b[K" } else { "" };
        eprintln!(
            "{start}stopped; give the same command again to continue ({output} keeps what is finished, \
             remove it to start afresh)"
        );
        std::process::exit(130);
    });
}

fn run_infer(args: &Args, console: &Console) -> anyhow::Result<ExitCode> {
    let text = infer(&args.inputs[0])?;
    let Some(path) = &args.output else {
        console.result(&serde_json::json!({ "schema": text }), || text.clone())?;
        return Ok(ExitCode::SUCCESS);
    };
    if path.exists() && !args.overwrite {
        bail!("{} exists; use --overwrite to replace it", path.display());
    }
    write_whole(path, |out| Ok(out.write_all(text.as_bytes())?))?;
    console.result(&serde_json::json!({ "schema": text, "file": path }), || {
        format!("wrote {}; read its comments before `palmette prepare`", path.display())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn summarise(dataset: &Dataset) -> Summary {
    let manifest = dataset.manifest();
    let rows = Split::ALL.map(|split| manifest.rows.get(split));
    let positives = Split::ALL.map(|split| manifest.positives.get(split));
    let mean = |i: usize| if rows[i] == 0 { 0.0 } else { positives[i] as f64 / rows[i] as f64 };
    Summary {
        dataset: dataset.dir().to_path_buf(),
        rows,
        label_means: [mean(0), mean(1), mean(2)],
        dense_fields: dataset.dense_fields(),
        categorical_fields: dataset.categorical_fields(),
        table_rows: dataset.table_rows(None).into_iter().map(u64::from).sum(),
        lists: manifest.lists.clone(),
        dropped: manifest.dropped,
        quarantined: manifest.quarantined,
        unused_columns: manifest.unused_columns.clone(),
        fingerprint: dataset.fingerprint(),
    }
}

fn describe(summary: &Summary) -> String {
    let mut lines = vec![format!(
        "{}: {} dense and {} categorical fields, {} table rows",
        summary.dataset.display(),
        summary.dense_fields,
        summary.categorical_fields,
        HumanCount(summary.table_rows)
    )];
    for (i, split) in Split::ALL.into_iter().enumerate() {
        let (rows, mean) = (HumanCount(summary.rows[i]).to_string(), summary.label_means[i]);
        lines.push(format!("  {:<10} {rows:>13} rows, label mean {mean:.5}", split.name()));
    }
    for list in &summary.lists {
        let mut line = format!(
            "  list {}: {} values, {} rows without any",
            list.name,
            HumanCount(list.elements),
            HumanCount(list.empty)
        );
        if list.truncated > 0 {
            line += &format!(
                "; {} rows were too long and lost {} values",
                HumanCount(list.truncated),
                HumanCount(list.cut)
            );
        }
        lines.push(line);
    }
    if summary.dropped > 0 {
        lines.push(format!("  {} rows left out by the schema", HumanCount(summary.dropped)));
    }
    if summary.quarantined > 0 {
        lines.push(format!("  {} bad rows in {QUARANTINE_FILE}", HumanCount(summary.quarantined)));
    }
    for (i, split) in Split::ALL.into_iter().enumerate() {
        if summary.rows[i] > 0 && (summary.label_means[i] == 0.0 || summary.label_means[i] == 1.0) {
            lines.push(format!(
                "  every label of the {} part is {}: nothing can be learnt or measured on it",
                split.name(),
                summary.label_means[i]
            ));
        }
    }
    if !summary.unused_columns.is_empty() {
        lines.push(format!("  columns not used: {}", summary.unused_columns.join(", ")));
    }
    lines.join("\n")
}

fn describe_estimate(estimate: &Estimate) -> String {
    [
        format!("rows    about {}", HumanCount(estimate.rows)),
        format!("time    about {}", HumanDuration(Duration::from_secs_f64(estimate.seconds))),
        format!(
            "disk    {} for the dataset, at most {} for vocabularies; {} while preparing",
            HumanBytes(estimate.dataset_bytes),
            HumanBytes(estimate.vocabulary_bytes),
            HumanBytes(estimate.peak_disk_bytes)
        ),
        format!("memory  at most {}", HumanBytes(estimate.memory_bytes)),
    ]
    .join("\n")
}

/// Work shorter than this needs no progress.
const PATIENCE: Duration = Duration::from_secs(2);

/// Time between two lines where no bar can be drawn.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// A bar with rate and remaining time on a terminal, a line now and then elsewhere.
struct Progress<'a> {
    console: &'a Console,
    start: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stage: Option<Stage>,
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
}

impl<'a> Progress<'a> {
    fn new(console: &'a Console) -> Self {
        Self { console, start: Instant::now(), state: Mutex::new(State::default()) }
    }

    fn clear(&self) {
        if let Ok(mut state) = self.state.lock()
            && let Some(bar) = state.bar.take()
        {
            bar.finish_and_clear();
        }
    }
}

fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Read => "reading",
        Stage::Fit => "fitting encoders",
        Stage::Encode => "looking values up",
        Stage::Write => "writing shards",
    }
}

impl Observer for Progress<'_> {
    fn progress(&self, stage: Stage, done: u64, total: u64, rows: u64) {
        if self.start.elapsed() < PATIENCE {
            return;
        }
        // a poisoned lock means that another report panicked: go without progress
        let Ok(mut state) = self.state.lock() else { return };
        if self.console.draws() {
            if state.stage != Some(stage) {
                if let Some(bar) = state.bar.take() {
                    bar.finish_and_clear();
                }
                state.stage = Some(stage);
                state.bar = Some(bar(stage, total));
            }
            if let Some(bar) = &state.bar {
                bar.set_message(format!("{} rows", HumanCount(rows)));
                bar.set_position(done);
            }
        } else if state.last_line.is_none_or(|last| last.elapsed() >= LINE_INTERVAL) {
            state.last_line = Some(Instant::now());
            let percent = 100.0 * done as f64 / total.max(1) as f64;
            let rate = rows as f64 / self.start.elapsed().as_secs_f64();
            self.console.note(&format!(
                "{}: {percent:.0} %, {} rows ({} rows/s)",
                stage_name(stage),
                HumanCount(rows),
                HumanCount(rate as u64)
            ));
        }
    }
}

fn bar(stage: Stage, total: u64) -> ProgressBar {
    let counts = match stage {
        Stage::Read => "{bytes}/{total_bytes} {bytes_per_sec}",
        _ => "{human_pos}/{human_len}",
    };
    let template = format!("{} [{{bar:30}}] {counts} {{msg}}, {{eta}} left", stage_name(stage));
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar
}

/// A number of bytes with an optional unit.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let refuse = || format!("`{text}` is no size; write for instance 512MiB or 1GiB");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(refuse()),
    };
    let number: f64 = number.parse().map_err(|_| refuse())?;
    Ok((number * factor as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check =
            |text: &str, expect: Option<u64>| assert_eq!(parse_bytes(text).ok(), expect, "{text}");
        check("1GiB", Some(1 << 30));
        check("512 MiB", Some(512 << 20));
        check("1.5g", Some(3 << 29));
        check("100MB", Some(100_000_000));
        check("4096", Some(4096));
        check("lots", None);
        check("1XB", None);
    }
}
