//! `palmette cost`: what an architecture costs, without data.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use palmette_cost::{
    CostSheet, Limits, MemoryModel, Metric, format_bytes, format_count, largest_table_cap,
};
use palmette_ctr::nasrec::{
    ArchitectureFile, DatasetPreset, EMBEDDING_DIM, liveness, macs, macs_with_dead_code, params,
    params_with_dead_code, supernet_macs,
};
use serde::Serialize;

use palmette::console::Console;
use palmette::measured::{Latency, PeakMemory, latency};
use palmette_ctr::{CompiledModel, ModelInputs};

const EXAMPLES: &str = "\
Examples:
  palmette cost best/arch.json --dataset criteo
  palmette cost best/arch.json --dataset avazu --format json
  palmette cost best/arch.json --dataset kdd12 --limit macs=1.5M --limit memory=2GiB
  palmette cost best/arch.json --dataset criteo --table-cap 500000 --limit peak_memory=1GiB
  palmette cost best/arch.json --dataset criteo --table-cap 500000 --limit latency_us=300@1

Counts are those of the standalone network, per sample: dead code skipped, layer norm off, biases
in `params`, not in `macs`. Memory is all parameters, tables included, with Adagrad's state, in f32;
peak memory is what `palmette train` is predicted to hold at most, export included, without pages
of the dataset, which the system takes back as it needs. A latency limit
`N@BATCH` is measured here and now: the median of predictions of BATCH rows through the engine that
`palmette predict` uses, with all threads (`--threads`).
Exit code: 0, 1 if a limit is not met, 2 if the file cannot be read.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Architecture in NASRec's published JSON format
    #[arg(value_name = "ARCH.json")]
    architecture: PathBuf,
    /// Shape and table sizes to count for; no data is needed
    #[arg(long, value_enum)]
    dataset: Preset,
    /// Rows that each table keeps at most (the search caps them at 500000)
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..))]
    table_cap: Option<u64>,
    /// Rows of a training batch, for the peak memory
    #[arg(long, default_value_t = 512, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..))]
    batch: u64,
    /// Hard limits to check: macs, params, total_params, memory, peak_memory, latency_us=N@BATCH
    /// [example: macs=1.5M]
    #[arg(long, value_name = "NAME=VALUE", num_args = 1..)]
    limit: Vec<String>,
}

/// The public click logs.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Preset {
    /// Criteo Kaggle: 13 dense inputs, 26 categorical fields
    Criteo,
    /// Avazu: 1 dense input, 23 categorical fields
    Avazu,
    /// KDD Cup 2012 track 2: 3 dense inputs, 10 categorical fields
    Kdd12,
}

impl Preset {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Criteo => "criteo",
            Self::Avazu => "avazu",
            Self::Kdd12 => "kdd12",
        }
    }
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    architecture: String,
    dataset: &'static str,
    /// Multiply-accumulates per sample without dead code.
    macs: u64,
    macs_with_dead_code: u64,
    /// The same path as a part of the supernet.
    supernet_macs: u64,
    /// Network parameters without embedding tables and dead code.
    params: u64,
    params_with_dead_code: u64,
    embedding_params: u64,
    /// params + embedding_params.
    total_params: u64,
    /// Bytes of total_params with optimiser state.
    memory: u64,
    /// Bytes that `palmette train` is predicted to hold at most.
    peak_memory: u64,
    /// Measured, one for each latency limit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    latency_us: Vec<Latency>,
    table_rows: u64,
    dead_blocks: Vec<usize>,
    /// Whether every limit is met; absent without limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    feasible: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    violations: Vec<String>,
}

pub fn run(args: &Args, console: &Console) -> anyhow::Result<ExitCode> {
    let (measured, counted) = MeasuredLimits::split(&args.limit)?;
    let limits = Limits::parse(&counted)?;
    let file = args.architecture.display();
    let text = std::fs::read_to_string(&args.architecture)
        .with_context(|| format!("cannot read the architecture {file}"))?;
    let path = ArchitectureFile::parse(&text).with_context(|| file.to_string())?.path;
    let preset = DatasetPreset::find(args.dataset.name()).context("a preset is missing")?;
    let shape = preset.shape;

    let cap = args.table_cap.unwrap_or(u64::MAX);
    let table_rows: u64 = preset.table_rows.iter().map(|&rows| rows.min(cap)).sum();
    let memory = MemoryModel::default();
    let embedding_params = table_rows * EMBEDDING_DIM as u64;
    let dim = EMBEDDING_DIM as u64;
    let tables = preset.table_rows.iter().map(|&rows| (rows.min(cap), dim));
    let sheet = CostSheet::new(macs(&path, shape), params(&path, shape), tables, &memory);
    let violations = limits.violations(&sheet);
    if violations.iter().any(|violation| violation.metric == Metric::Memory) {
        note_table_cap(console, preset, &sheet, &limits, &memory);
    }
    let rows = |&n: &u64| usize::try_from(n.min(cap)).unwrap_or(usize::MAX);
    let sizes: Vec<usize> = preset.table_rows.iter().map(rows).collect();
    let inputs = ModelInputs::numbered(shape.dense, &sizes);
    let mut compiled = CompiledModel::nasrec(&path, &inputs, false);
    let peak_memory = PeakMemory::of_training(&compiled, args.batch).total();
    let mut violations: Vec<String> = violations.iter().map(ToString::to_string).collect();
    if let Some(limit) = measured.peak_memory.filter(|&limit| peak_memory > limit) {
        let (peak, limit) = (format_bytes(peak_memory), format_bytes(limit));
        violations.push(format!("peak_memory {peak} over the limit of {limit}"));
    }
    let mut latencies = Vec::new();
    for &(microseconds, batch) in &measured.latency {
        let found = latency(&mut compiled, batch)?;
        if found.median > microseconds {
            let found = found.median;
            violations.push(format!(
                "latency_us {found:.0} over the limit of {microseconds} at {batch} rows"
            ));
        }
        latencies.push(found);
    }
    let limited = !limits.is_empty() || !measured.is_empty();
    let live = liveness(&path);
    let report = Report {
        architecture: file.to_string(),
        dataset: preset.name,
        macs: sheet.macs,
        macs_with_dead_code: macs_with_dead_code(&path, shape),
        supernet_macs: supernet_macs(&path, shape),
        params: sheet.params,
        params_with_dead_code: params_with_dead_code(&path, shape),
        embedding_params,
        total_params: sheet.total_params,
        memory: sheet.memory,
        table_rows,
        dead_blocks: (1..=live.len()).filter(|&block| live[block - 1].is_dead()).collect(),
        peak_memory,
        latency_us: latencies,
        feasible: limited.then_some(violations.is_empty()),
        violations,
    };
    console.result(&report, || report.text())?;
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Limits that are not counts of the architecture alone.
#[derive(Default)]
struct MeasuredLimits {
    /// Bytes.
    peak_memory: Option<u64>,
    /// Microseconds at rows.
    latency: Vec<(f64, usize)>,
}

impl MeasuredLimits {
    /// Takes them out of all limits; the others come back as one text.
    fn split(limits: &[String]) -> anyhow::Result<(Self, String)> {
        let (mut measured, mut counted) = (Self::default(), String::new());
        let words = limits.iter().flat_map(|text| text.split([' ', ',', '\t', '\n']));
        for word in words.filter(|word| !word.is_empty()) {
            match word.split_once('=') {
                Some(("peak_memory", value)) => {
                    // Bytes are read as those of `memory`.
                    let limit = Limits::parse(&format!("memory={value}")).map_err(|e| {
                        anyhow!("{}", e.to_string().replacen("memory", "peak_memory", 1))
                    })?;
                    measured.peak_memory = limit.get(Metric::Memory);
                }
                Some(("latency_us", value)) => {
                    let parsed = value.split_once('@').and_then(|(most, batch)| {
                        let (most, batch) = (most.parse().ok()?, batch.parse().ok()?);
                        (f64::is_finite(most) && most > 0.0 && batch > 0).then_some((most, batch))
                    });
                    measured.latency.push(parsed.with_context(|| {
                        format!(
                            "limit `latency_us` is `{value}`; needed: microseconds at rows of a \
                             batch such as 300@1"
                        )
                    })?);
                }
                _ => counted = counted + " " + word,
            }
        }
        Ok((measured, counted))
    }

    fn is_empty(&self) -> bool {
        self.peak_memory.is_none() && self.latency.is_empty()
    }
}

/// Says which table size would meet the memory limit, where one would.
fn note_table_cap(
    console: &Console,
    preset: &DatasetPreset,
    sheet: &CostSheet,
    limits: &Limits,
    memory: &MemoryModel,
) {
    let left = limits.get(Metric::Memory).and_then(|l| l.checked_sub(memory.bytes(sheet.params)));
    let row = memory.row_bytes(EMBEDDING_DIM as u64);
    match left.and_then(|left| largest_table_cap(preset.table_rows, left, row)) {
        Some(cap) => console.note(&format!("memory would fit with --table-cap {cap}")),
        None => console.note("memory would not fit with tables of one row either"),
    }
}

impl Report {
    fn text(&self) -> String {
        let mut lines = vec![
            format!("{} on {}", self.architecture, self.dataset),
            line("multiply-accumulates", &format_count(self.macs), "per sample, dead code skipped"),
            line("  with dead code", &format_count(self.macs_with_dead_code), ""),
            line("  in the supernet", &format_count(self.supernet_macs), ""),
            line("parameters", &format_count(self.params), "of the network"),
            line("  with dead code", &format_count(self.params_with_dead_code), ""),
            line(
                "  of tables",
                &format_count(self.embedding_params),
                &format!("{} rows of {EMBEDDING_DIM}", self.table_rows),
            ),
            line("  in total", &format_count(self.total_params), ""),
            line("memory", &format_bytes(self.memory), "f32, with Adagrad's state"),
            line("  at the peak", &format_bytes(self.peak_memory), "of training and export"),
        ];
        for latency in &self.latency_us {
            lines.push(line(
                "latency",
                &format!("{:.0} us", latency.median),
                &format!("at {} rows, 95 % within {:.0} us", latency.batch, latency.p95),
            ));
        }
        if !self.dead_blocks.is_empty() {
            let blocks: Vec<String> = self.dead_blocks.iter().map(usize::to_string).collect();
            lines.push(line("dead blocks", &blocks.join(", "), "never reach the head"));
        }
        lines.extend(self.violations.iter().map(|violation| format!("infeasible: {violation}")));
        if self.feasible == Some(true) {
            lines.push("feasible: every limit is met".into());
        }
        lines.join("\n")
    }
}

fn line(name: &str, value: &str, remark: &str) -> String {
    format!("{name:<22} {value:>10}  {remark}").trim_end().to_owned()
}
