//! `palmette bench ranking`: does the supernet order networks as training from scratch does?

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use palmette::console::Console;
use palmette::run::{
    Agreement, Config, RankingReport, RankingStudy, RunContext, Stop, Stopped, study_ranking,
    write_whole,
};
use palmette_data::Dataset;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  palmette bench ranking log --config search.toml --networks 100 --seeds 2 -o ranking.json
  palmette bench ranking log --config search.toml --set search.supernet.steps=5000 --name long

One supernet is trained with the settings of the configuration. It ranks random feasible networks,
as it is and after last-layer fine-tuning; then each is trained from scratch with every seed.
Printed is Kendall's tau-b against the mean validation log loss from scratch, with a 95 % bootstrap
interval over networks; beside it what bounds it, the tau between seeds, and what it must beat,
log(MACs) alone.
If the study is stopped, give the same command again and it goes on where it was.")]
pub struct Args {
    /// Dataset made by `palmette prepare`
    #[arg(value_name = "DATASET")]
    dataset: PathBuf,
    /// Configuration file, as for `palmette search`
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Override one key, e.g. --set search.supernet.steps=5000
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Random feasible networks, no two alike
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(3..))]
    networks: u32,
    /// Trainings from scratch of each network
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    seeds: u32,
    /// Seed of everything
    #[arg(long)]
    seed: Option<u64>,
    /// Name of the folder under runs/ [default: ranking-DATASET-SEED]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Folder that holds the runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    /// File for the report as JSON, with the scores of every network
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub fn run(args: &Args, console: &Console) -> Result<ExitCode> {
    let mut config = Config::load(args.config.as_deref(), &args.set)?;
    config.data.dataset = std::path::absolute(&args.dataset)?;
    if let Some(seed) = args.seed {
        config.run.seed = seed;
    }
    if config.run.budget_seconds.is_some() {
        bail!("a ranking study has counts of its own; leave out run.budget_seconds");
    }
    let name = args.name.clone().unwrap_or_else(|| {
        let base = args.dataset.file_name().map_or("log".into(), |n| n.to_string_lossy());
        format!("ranking-{base}-{}", config.run.seed)
    });
    let dir = args.runs.join(name);
    let file = dir.join("config.toml");
    if file.is_file() && Config::load(Some(&file), &[])? != config {
        bail!(
            "{} holds a study with another configuration; choose another --name, or remove it",
            dir.display()
        );
    }
    let dataset = Dataset::open(&config.data.dataset)?;
    let context =
        RunContext { config: &config, dataset: &dataset, console, stop: Stop::on_interrupt() };
    let study = RankingStudy { networks: args.networks as usize, seeds: args.seeds as usize };
    match study_ranking(&context, &dir, study) {
        Ok(report) => {
            if let Some(file) = &args.output {
                let text = serde_json::to_string_pretty(&report)?;
                write_whole(file, |out| Ok(out.write_all(text.as_bytes())?))
                    .with_context(|| format!("-o {}", file.display()))?;
            }
            console.result(&report, || text(&report))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if Stopped::is(&error) => {
            Ok(console.stopped("give the same command again to continue"))
        }
        Err(error) => Err(error),
    }
}

fn text(report: &RankingReport) -> String {
    let RankingStudy { networks, seeds } = report.study;
    let mut text = format!(
        "Kendall's tau-b with the mean validation log loss of {seeds} trainings from scratch, \
         {} of {networks} networks\n\n{:<34} {:>6}   95 % interval\n",
        report.compared, "ranked by", "tau"
    );
    for (name, agreement) in [
        ("supernet", report.supernet),
        ("supernet, last layer fine-tuned", report.fine_tuned),
        ("fresh weights, trained shortly", report.fresh),
        ("log(MACs), larger first", report.log_macs),
        ("one seed, against another seed", report.seed_to_seed),
    ] {
        text += &match agreement {
            Some(Agreement { tau, low, high }) => {
                format!("{name:<34} {tau:>6.3}   {low:.3} to {high:.3}\n")
            }
            None => format!("{name:<34} {:>6}\n", "-"),
        };
    }
    text
}
