use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use palmette_data::{Dataset, OnBadRow, PrepareOptions, QUARANTINE_FILE, Schema, Split, prepare};
use serde::Serialize;

use crate::console::Console;

/// Turn click logs into a dataset of columnar shards
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  palmette prepare --schema criteo train.txt -o criteo
  palmette prepare --schema avazu train.csv.gz -o avazu
  palmette prepare --schema kdd12 training.txt --profile userid_profile.txt -o kdd12
  palmette prepare --schema log.toml day1.parquet day2.parquet -o log")]
pub struct Args {
    /// Log files in the order of their rows: CSV, TSV or Parquet, plain, gzip or zstd
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    /// criteo, avazu, kdd12, or a schema file
    #[arg(long, value_name = "NAME|FILE.toml")]
    schema: String,
    /// Directory of the dataset
    #[arg(short, long, value_name = "DATASET")]
    output: PathBuf,
    /// A second file with columns by key (userid_profile.txt of kdd12)
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Memory that is never exceeded, with a unit: 512MiB, 1GiB
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes)]
    memory: u64,
    /// What to do with a row that cannot be used
    #[arg(long, value_enum, default_value_t)]
    on_bad_row: BadRows,
    /// The most rows to set aside with --on-bad-row=quarantine
    #[arg(long, value_name = "N", default_value_t = 1000)]
    max_bad: u64,
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
    click_rates: [f64; 3],
    dense_fields: usize,
    categorical_fields: usize,
    table_rows: u64,
    dropped: u64,
    quarantined: u64,
    unused_columns: Vec<String>,
    fingerprint: String,
}

pub fn run(args: &Args, console: &Console) -> anyhow::Result<ExitCode> {
    let mut options = PrepareOptions::new(
        Schema::load(&args.schema)?,
        args.inputs.clone(),
        args.output.clone(),
    );
    options.profile = args.profile.clone();
    options.memory = args.memory;
    options.encoders_from = args.encoders_from.clone();
    options.overwrite = args.overwrite;
    options.on_bad_row = match args.on_bad_row {
        BadRows::Stop => OnBadRow::Stop,
        BadRows::Quarantine => OnBadRow::Quarantine { max_bad: args.max_bad },
    };
    let dataset = prepare(&options, &())?;
    let summary = summarise(&dataset);
    console.result(&summary, || describe(&summary))?;
    Ok(ExitCode::SUCCESS)
}

fn summarise(dataset: &Dataset) -> Summary {
    let manifest = dataset.manifest();
    let rows = Split::ALL.map(|split| manifest.rows.get(split));
    let positives = Split::ALL.map(|split| manifest.positives.get(split));
    let rate = |i: usize| if rows[i] == 0 { 0.0 } else { positives[i] as f64 / rows[i] as f64 };
    Summary {
        dataset: dataset.dir().to_path_buf(),
        rows,
        click_rates: [rate(0), rate(1), rate(2)],
        dense_fields: dataset.dense_fields(),
        categorical_fields: dataset.categorical_fields(),
        table_rows: dataset.table_rows(None).into_iter().map(u64::from).sum(),
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
        summary.table_rows
    )];
    for (i, split) in Split::ALL.into_iter().enumerate() {
        let (rows, rate) = (summary.rows[i], summary.click_rates[i]);
        lines.push(format!("  {:<10} {rows:>12} rows, label mean {rate:.5}", split.name()));
    }
    if summary.dropped > 0 {
        lines.push(format!("  {} rows left out by the schema", summary.dropped));
    }
    if summary.quarantined > 0 {
        lines.push(format!("  {} bad rows in {QUARANTINE_FILE}", summary.quarantined));
    }
    if !summary.unused_columns.is_empty() {
        lines.push(format!("  columns not used: {}", summary.unused_columns.join(", ")));
    }
    lines.join("\n")
}

/// A number of bytes with an optional unit.
fn parse_bytes(text: &str) -> Result<u64, String> {
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
        _ => return Err(format!("unknown unit `{unit}`; write for instance 512MiB or 1GiB")),
    };
    let number: f64 = number.parse().map_err(|_| "write for instance 512MiB or 1GiB".to_string())?;
    Ok((number * factor as f64) as u64)
}
