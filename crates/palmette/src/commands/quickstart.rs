use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use palmette::console::Console;
use palmette::run::{self, Config, RunContext, Stop, Stopped, write_whole};
use palmette_ctr::synthetic::{SCHEMA, SyntheticConfig, SyntheticLog};
use palmette_data::{Dataset, PrepareOptions, Schema, prepare};

use super::search::print_summary;

/// Make a click log, search, train, compare and report, in about two minutes
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  palmette quickstart
  palmette quickstart --seed 7 --dir runs/quickstart-7

Everything has fixed counts: the same seed gives the same result. If it is stopped, give the same
command again and it goes on where it was.")]
pub struct Args {
    /// Where to put the log, the dataset and the run
    #[arg(long, value_name = "DIR", default_value = "runs/quickstart")]
    dir: PathBuf,
    /// Seed of the log and of the search
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The configuration of the quickstart: a small NASRec-Full space and counts for about two minutes on two cores.
const CONFIG: &str = include_str!("../../recipes/quickstart.toml");

pub fn run(args: &Args, console: &Console) -> Result<ExitCode> {
    std::fs::create_dir_all(&args.dir)
        .with_context(|| format!("cannot make {}", args.dir.display()))?;
    let config_file = args.dir.join("search.toml");
    let settings = format!("{CONFIG}\n[run]\nseed = {}\n", args.seed);
    if config_file.exists() && Config::load(Some(&config_file), &[])?.run.seed != args.seed {
        bail!(
            "{} holds the quickstart of another seed; give another folder with --dir",
            args.dir.display()
        );
    }
    write_whole(&config_file, |out| Ok(out.write_all(settings.as_bytes())?))?;
    let csv = args.dir.join("log.csv");
    if !csv.exists() {
        let log =
            SyntheticLog::new(SyntheticConfig { seed: args.seed, ..SyntheticConfig::default() })?;
        let progress = console.progress(log.config().rows as u64, "writing the log");
        write_whole(&csv, |out| {
            let mut out = std::io::BufWriter::with_capacity(1 << 20, out);
            Ok(log.write_csv(&mut out, |rows| progress.set(rows as u64))?)
        })?;
        progress.finish();
    }
    let schema_file = args.dir.join("schema.toml");
    write_whole(&schema_file, |out| Ok(out.write_all(SCHEMA.as_bytes())?))?;
    let dataset_dir = args.dir.join("dataset");
    let prepares = Dataset::open(&dataset_dir).is_err();
    if prepares {
        let schema = Schema::load(&schema_file.to_string_lossy())?;
        prepare(&PrepareOptions::new(schema, vec![csv], dataset_dir.clone()), &())?;
    }
    let dataset = Dataset::open(&dataset_dir)?;
    let mut config = Config::load(Some(&config_file), &[])?;
    config.data.dataset = std::path::absolute(&dataset_dir)?;
    let context =
        RunContext { config: &config, dataset: &dataset, console, stop: Stop::on_interrupt() };
    let dir = args.dir.join("run");
    match run::search(&context, &dir, None) {
        Ok(outcome) => {
            if prepares {
                console.note("(with what making the log and the dataset left in the process)");
            }
            print_summary(console, &outcome.summary, &outcome.dir)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if Stopped::is(&error) => {
            Ok(console.stopped("give the same command again to continue"))
        }
        Err(error) => Err(error),
    }
}
