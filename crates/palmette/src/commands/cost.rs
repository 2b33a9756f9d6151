//! `palmette cost`: what an architecture costs, without data.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use palmette_cost::{
    CostSheet, HardLimits, LatencyLimit, Metric, format_bytes, format_count, largest_table_cap,
};
use palmette_ctr::baselines::Baseline;
use palmette_ctr::nasrec::{
    ArchitectureFile, DatasetPreset, EMBEDDING_DIM, liveness, macs, macs_with_dead_code, params,
    params_with_dead_code, supernet_macs,
};
use serde::Serialize;

use palmette::console::Console;
use palmette::measured::{DatasetMemory, Latency, LatencyProbe, TrainingMemory};
use palmette::run::{Config, Contender, dataset_inputs};
use palmette_ctr::ModelInputs;
use palmette_ctr::train::Keeping;
use palmette_data::{Dataset, Split};

use super::numbers::NumberArgs;

const EXAMPLES: &str = "\
Examples:
  palmette cost best/arch.json --dataset criteo
  palmette cost best/arch.json --dataset avazu --format json
  palmette cost best/arch.json --dataset kdd12 --limit macs=1.5M --limit memory=2GiB
  palmette cost best/arch.json --dataset criteo --table-cap 500000 --limit peak_memory=1GiB
  palmette cost best/arch.json --dataset criteo --table-cap 500000 --limit latency_us=300@1
  palmette cost --baseline dlrm --dataset log --batch 1024 --table-storage bf16

Counts are those of the standalone network, per sample: dead code skipped, layer norm off, biases
in `params`, not in `macs`. Memory is all parameters, tables included, with Adagrad's state;
peak memory is what `palmette train` is predicted to hold at most, export included, without pages
of the dataset and of tables in files, which the system takes back as it needs. What a whole search
would hold, `palmette search --dry-run` tells. A latency limit
`N@BATCH` is measured here and now: the median of predictions of BATCH rows through the engine that
`palmette predict` uses, with all threads (`--threads`).
Exit code: 0, 1 if a limit is not met, 2 if the file cannot be read.";

#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Architecture in NASRec's published JSON format
    #[arg(value_name = "ARCH.json", group = "what")]
    architecture: Option<PathBuf>,
    /// A hand-made model, as for `palmette train`
    #[arg(long, value_name = "NAME", group = "what")]
    baseline: Option<String>,
    /// Shape and table sizes to count for: criteo, avazu, kdd12, or a folder made by
    /// `palmette prepare`
    #[arg(long, value_name = "LOG|DATASET")]
    dataset: String,
    #[command(flatten)]
    numbers: NumberArgs,
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
    dataset: String,
    /// Multiply-accumulates per sample without dead code.
    macs: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    macs_with_dead_code: Option<u64>,
    /// The same path as a part of the supernet.
    #[serde(skip_serializing_if = "Option::is_none")]
    supernet_macs: Option<u64>,
    /// Network parameters without embedding tables and dead code.
    params: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    params_with_dead_code: Option<u64>,
    embedding_params: u64,
    /// params + embedding_params.
    total_params: u64,
    /// Bytes of total_params with optimiser state.
    memory: u64,
    /// Number types of the training.
    numbers: String,
    /// Bytes that `palmette train` is predicted to hold at most, file pages not counted.
    peak_memory: u64,
    peak_memory_parts: TrainingMemory,
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
    let limits = HardLimits::parse(&args.limit.join(" "))?;
    let config = Config::load(None, &args.numbers.over(&[]))?;
    let keeping = Keeping { table_files: args.numbers.table_files(), ..config.keeping() };
    let memory = keeping.numbers.memory();
    let log = Log::open(&args.dataset, args.table_cap)?;
    let (name, path, mut compiled) = match (&args.architecture, &args.baseline) {
        (Some(file), _) => {
            let name = file.display().to_string();
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read the architecture {name}"))?;
            let path = ArchitectureFile::parse(&text).with_context(|| name.clone())?.path;
            let compiled = Contender::Network(path.clone()).compile(&log.inputs, false)?;
            (name, Some(path), compiled)
        }
        (_, Some(name)) => {
            let compiled =
                Contender::Baseline(Baseline::named(name)?).compile(&log.inputs, false)?;
            (name.clone(), None, compiled)
        }
        // clap asks for one of the two
        _ => bail!("give an architecture or --baseline"),
    };
    let shape = log.inputs.shape();
    let (macs, params) = match &path {
        Some(path) => (macs(path, shape), params(path, shape)),
        None => (compiled.macs(), compiled.params()),
    };
    let sheet = CostSheet::new(macs, params, compiled.table_sizes(), &memory);
    let violations = limits.counted.violations(&sheet);
    if violations.iter().any(|violation| violation.metric == Metric::Memory) {
        let left = limits.memory().and_then(|limit| limit.checked_sub(memory.bytes(params)));
        let row = memory.row_bytes(EMBEDDING_DIM as u64);
        match left.and_then(|left| largest_table_cap(&log.all_rows, left, row)) {
            Some(cap) => console.note(&format!("memory would fit with --table-cap {cap}")),
            None => console.note("memory would not fit with tables of one row either"),
        }
    }
    let mut violations: Vec<String> = violations.iter().map(ToString::to_string).collect();
    let training = TrainingMemory::new(
        &compiled,
        args.batch,
        &keeping,
        log.memory,
        rayon::current_num_threads(),
    );
    if let Some(limit) = limits.peak_memory.filter(|&limit| training.held() > limit) {
        let (peak, limit) = (format_bytes(training.held()), format_bytes(limit));
        violations.push(format!("peak_memory {peak} over the limit of {limit}"));
    }
    let mut latencies = Vec::new();
    for &LatencyLimit { microseconds, batch } in &limits.latency {
        let tables = compiled.tables.clone();
        let mut probe = LatencyProbe::new(shape.dense, tables, log.inputs.lists.len(), batch)?;
        let found = probe.measure(&mut compiled, Duration::from_millis(500))?;
        if found.median > microseconds {
            let found = found.median;
            violations.push(format!(
                "latency_us {found:.0} over the limit of {microseconds} at {batch} rows"
            ));
        }
        latencies.push(found);
    }
    let live = path.as_ref().map_or_else(Vec::new, liveness);
    let report = Report {
        architecture: name,
        dataset: log.name,
        macs,
        macs_with_dead_code: path.as_ref().map(|path| macs_with_dead_code(path, shape)),
        supernet_macs: path.as_ref().map(|path| supernet_macs(path, shape)),
        params,
        params_with_dead_code: path.as_ref().map(|path| params_with_dead_code(path, shape)),
        embedding_params: sheet.embedding_params,
        total_params: sheet.total_params,
        memory: sheet.memory,
        numbers: keeping.numbers.describe(),
        peak_memory: training.held(),
        peak_memory_parts: training,
        latency_us: latencies,
        table_rows: compiled.table_sizes().map(|(rows, _)| rows).sum(),
        dead_blocks: (1..=live.len()).filter(|&block| live[block - 1].is_dead()).collect(),
        feasible: (!limits.is_empty()).then_some(violations.is_empty()),
        violations,
    };
    console.result(&report, || report.text())?;
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// What costs are counted for: a public log by its name, or a prepared dataset.
struct Log {
    name: String,
    inputs: ModelInputs,
    /// Rows of the tables of categorical fields without a cap.
    all_rows: Vec<u64>,
    memory: DatasetMemory,
}

impl Log {
    fn open(name: &str, table_cap: Option<u64>) -> anyhow::Result<Self> {
        let cap = table_cap.unwrap_or(u64::MAX);
        if let Some(preset) = DatasetPreset::find(name) {
            let rows = |&n: &u64| usize::try_from(n.min(cap)).unwrap_or(usize::MAX);
            let sizes: Vec<usize> = preset.table_rows.iter().map(rows).collect();
            return Ok(Self {
                name: name.into(),
                inputs: ModelInputs::numbered(preset.shape.dense, &sizes),
                all_rows: preset.table_rows.to_vec(),
                memory: DatasetMemory::default(),
            });
        }
        let dataset = Dataset::open(Path::new(name)).with_context(|| {
            format!("--dataset {name} is neither criteo, avazu, kdd12 nor a prepared dataset")
        })?;
        let cap = table_cap.map(|cap| u32::try_from(cap).unwrap_or(u32::MAX));
        let fields = dataset.table_rows(None).into_iter().take(dataset.categorical_fields());
        Ok(Self {
            name: name.into(),
            inputs: dataset_inputs(&dataset, &dataset.table_rows(cap)),
            all_rows: fields.map(u64::from).collect(),
            memory: DatasetMemory::of(&dataset, &[Split::Train, Split::Validation]),
        })
    }
}

impl Report {
    fn text(&self) -> String {
        let mut lines = vec![
            format!("{} on {}", self.architecture, self.dataset),
            line("multiply-accumulates", &format_count(self.macs), "per sample, dead code skipped"),
            optional("  with dead code", self.macs_with_dead_code),
            optional("  in the supernet", self.supernet_macs),
            line("parameters", &format_count(self.params), "of the network"),
            optional("  with dead code", self.params_with_dead_code),
            line(
                "  of tables",
                &format_count(self.embedding_params),
                &format!("{} rows", self.table_rows),
            ),
            line("  in total", &format_count(self.total_params), ""),
            line(
                "memory",
                &format_bytes(self.memory),
                &format!("{}, with Adagrad's state", self.numbers),
            ),
            line("  at the peak", &format_bytes(self.peak_memory), "of training and export"),
        ];
        for latency in &self.latency_us {
            lines.push(line(
                "latency",
                &format!("{:.0} us", latency.median),
                &format!("at {} rows, 95 % within {:.0} us", latency.batch, latency.p95),
            ));
        }
        lines.retain(|line| !line.is_empty());
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

/// A count that only some models have.
fn optional(name: &str, count: Option<u64>) -> String {
    count.map_or_else(String::new, |count| line(name, &format_count(count), ""))
}

fn line(name: &str, value: &str, remark: &str) -> String {
    format!("{name:<22} {value:>10}  {remark}").trim_end().to_owned()
}
