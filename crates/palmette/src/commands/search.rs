use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use palmette::console::Console;
use palmette::run::{
    self, Config, ModelResult, Preset, RunContext, SMALL_LOG_ROWS, Stop, Stopped, Summary,
    parse_duration,
};
use palmette_data::{Dataset, Split};

use super::numbers::{NumberArgs, note_fallback};

/// Search an architecture, train it, compare it, export it
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  palmette search log --budget 20m
  palmette search criteo --preset paper
  palmette search log --limit macs=1.5M --limit memory=2GiB --budget 1h
  palmette search log --limit latency_us=300@1 --limit peak_memory=4GiB
  palmette search --config search.toml --set search.evaluations=512
  palmette search criteo --precision bf16 --table-storage bf16 --table-state row-wise
  palmette search log --budget 20m -o run
  palmette search --resume runs/log-1

A budget becomes integer counts once, before the first step; the run then does not look at the
clock, so the same seed gives the same result on the same machine kind with any number of threads.
Without --budget the counts are those of the configuration. --preset paper is the published search,
constant by constant: hours on a full log, predicted before the start. Files and --set go over it.")]
pub struct Args {
    /// Dataset made by `palmette prepare`
    #[arg(value_name = "DATASET")]
    dataset: Option<PathBuf>,
    /// Configuration file: [data] [space] [search] [cost] [train] [run]
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Override one key, e.g. --set search.evaluations=512
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Time to spend, e.g. 90s, 20m, 2h; turned into counts before the start
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    budget: Option<f64>,
    /// Start from these settings; a file and --set go over them (default without a file: small for
    /// less than a million training rows)
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// A hard limit: macs=1.5M, params=10M, total_params=1G, memory=2GiB, peak_memory=4GiB (of the
    /// whole process), latency_us=300@1 (microseconds at rows of a batch, measured here)
    #[arg(long, value_name = "NAME=VALUE")]
    limit: Vec<String>,
    #[command(flatten)]
    numbers: NumberArgs,
    /// Kept column with the probability of a model you already have: the report says ship or keep
    /// [default: the schema's `baseline`]
    #[arg(long, value_name = "COLUMN")]
    baseline_column: Option<String>,
    /// Kept column (or the time, by days) whose values are resampled together in intervals
    #[arg(long, value_name = "COLUMN")]
    interval_groups: Option<String>,
    /// Seed of everything
    #[arg(long)]
    seed: Option<u64>,
    /// Say what memory the run would take, phase by phase, and whether it may start; start nothing
    #[arg(long)]
    dry_run: bool,
    /// Folder of the run, instead of one under --runs
    #[arg(short, long, value_name = "DIR", conflicts_with_all = ["name", "runs"])]
    output: Option<PathBuf>,
    /// Name of the run folder under runs/ (default: the dataset's name and the seed)
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Folder that holds the runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    /// Continue the run in this folder, or of this name
    #[arg(long, value_name = "RUN", conflicts_with_all = ["dataset", "config", "set", "budget", "limit", "seed", "name", "output", "preset", "baseline_column", "interval_groups", "precision", "table_storage", "table_state", "table_files"])]
    resume: Option<PathBuf>,
}

/// Files of datasets, models and finished runs: a folder that holds one is no place for a new run.
const OF_OTHERS: [&str; 3] = ["manifest.json", "model.json", "report.html"];

pub fn run(args: &Args, console: &Console) -> Result<ExitCode> {
    let (config, dir) = match &args.resume {
        Some(run) => {
            // A run may be named like a folder, or by its name under --runs.
            let named = args.runs.join(run);
            let dir = if !run.exists() && named.exists() { &named } else { run };
            let file = dir.join("config.toml");
            if !file.is_file() {
                bail!(
                    "{} is no run folder (no config.toml: nothing has happened there, start the \
                     search anew)",
                    dir.display()
                );
            }
            let config = Config::load(Some(&file), &[])?;
            note_fallback(&config, console);
            (config, dir.clone())
        }
        None => new_run(args, console)?,
    };
    let dataset = Dataset::open(&config.data.dataset)?;
    if dataset.list_fields() > 0 {
        console.note("searched networks read no lists; `palmette train --baseline history` does");
    }
    let context =
        RunContext { config: &config, dataset: &dataset, console, stop: Stop::on_interrupt() };
    if args.dry_run {
        run::dry_run(&context, &dir, |memory| console.result(memory, || memory.phase_by_phase()))?;
        return Ok(ExitCode::SUCCESS);
    }
    match run::search(&context, &dir, config.run.budget_seconds) {
        Ok(outcome) => {
            print_summary(console, &outcome.summary, &outcome.dir)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if Stopped::is(&error) => {
            Ok(console
                .stopped(&format!("continue with: palmette search --resume {}", dir.display())))
        }
        Err(error) => Err(error),
    }
}

fn new_run(args: &Args, console: &Console) -> Result<(Config, PathBuf)> {
    let set = args.numbers.over(&args.set);
    let mut config = Config::load(args.config.as_deref(), &set)?;
    if let Some(dataset) = &args.dataset {
        config.data.dataset.clone_from(dataset);
    }
    let path = std::mem::take(&mut config.data.dataset);
    if path.as_os_str().is_empty() {
        bail!(
            "no dataset: give one (palmette search DATASET) or set data.dataset in the configuration"
        );
    }
    let path = std::path::absolute(&path)?;
    let dataset = Dataset::open(&path)?;
    let rows = dataset.rows(Split::Train);
    let preset = args.preset.or_else(|| {
        let small = args.config.is_none() && rows < SMALL_LOG_ROWS;
        if small {
            console.note(&format!("{rows} training rows: settings of --preset small"));
        }
        small.then_some(Preset::Small)
    });
    if let Some(preset) = preset {
        config = Config::layered(preset.config(rows), args.config.as_deref(), &set)?;
        let budget = config.run.budget_seconds.is_some() || args.budget.is_some();
        if preset.is_published() && budget {
            bail!(
                "this preset has the published counts and a budget would replace them; give one of the two"
            );
        }
    }
    config.data.dataset = path;
    if let Some(column) =
        args.baseline_column.as_ref().or(dataset.manifest().schema.baseline.as_ref())
        && (args.baseline_column.is_some() || config.data.baseline_column.is_none())
    {
        config.data.baseline_column = Some(column.clone());
    }
    if args.interval_groups.is_some() {
        config.data.interval_groups.clone_from(&args.interval_groups);
    }
    args.numbers.apply(&mut config, console)?;
    config.cost.limits.extend(args.limit.iter().cloned());
    if let Some(seed) = args.seed {
        config.run.seed = seed;
    }
    // In the configuration a budget outlives a kill before the plan is journalled.
    if args.budget.is_some() {
        config.run.budget_seconds = args.budget;
    }
    let dir = match &args.output {
        Some(dir) => dir.clone(),
        None => named_run(args, &config)?,
    };
    // The configuration is written before the first event: without it nothing has happened yet.
    if dir.join("config.toml").exists() {
        bail!(
            "{} exists already; continue it with --resume {0}, or choose another folder (--name, -o)",
            dir.display()
        );
    }
    if let Some(file) = OF_OTHERS.iter().find(|file| dir.join(file).exists()) {
        bail!(
            "{} holds {file}, which this run has not written; choose another folder (--name, -o)",
            dir.display()
        );
    }
    Ok((config, dir))
}

/// The folder under --runs that a run has by its name.
fn named_run(args: &Args, config: &Config) -> Result<PathBuf> {
    let base =
        config.data.dataset.file_name().map_or("run".into(), |n| n.to_string_lossy().into_owned());
    let name = args.name.clone().unwrap_or_else(|| format!("{base}-{}", config.run.seed));
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
        bail!("--name is the name of a folder under {}, not `{name}`", args.runs.display());
    }
    Ok(args.runs.join(name))
}

/// Prints the final table.
pub fn print_summary(console: &Console, summary: &Summary, dir: &std::path::Path) -> Result<()> {
    console.result(summary, || {
        let mut text = format!("{}\n\n", summary.sentence);
        text += &format!(
            "{:<22} {:>10} {:>9} {:>8} {:>10} {:>26}\n",
            "model", "log loss", "AUC", "NE", "MACs", "searched minus it"
        );
        for model in &summary.models {
            text += &row(model);
        }
        if let Some(bayes) = summary.bayes_log_loss {
            text += &format!("{:<22} {bayes:>10.5}\n", "true probabilities");
        }
        text + &format!("\nreport: {}", dir.join("report.html").display())
    })
}

fn row(model: &ModelResult) -> String {
    let mean = |values: &[f64]| match values {
        [] => "-".to_owned(),
        values => format!("{:.4}", values.iter().sum::<f64>() / values.len() as f64),
    };
    let difference = model
        .difference
        .map_or(String::new(), |d| format!("{:+.5} [{:+.5}, {:+.5}]", d.difference, d.low, d.high));
    let macs = model.macs.map_or("-".to_owned(), palmette_cost::format_count);
    format!(
        "{:<22} {:>10.5} {:>9} {:>8} {:>10} {:>26}\n",
        model.name,
        model.mean_log_loss(),
        mean(&model.aucs),
        mean(&model.normalised_entropies),
        macs,
        difference
    )
}
