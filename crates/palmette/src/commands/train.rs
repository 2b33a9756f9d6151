//! `palmette train`: one model on its own.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use palmette::console::Console;
use palmette::measured::peak_memory;
use palmette::run::{
    Config, Contender, Earlier, ModelFolder, Preset, RunContext, SMALL_LOG_ROWS, Stop, Stopped,
    TrainRequest, architecture_of, check_encoders, file_sha256, train_one,
};
use palmette_ctr::baselines::Baseline;
use palmette_data::{Dataset, Split};

use super::numbers::NumberArgs;

/// Train one architecture or hand-made model, also from an earlier one on newer days
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
#[command(after_help = "\
Examples:
  palmette train log --arch runs/log-1/best/arch.json -o model
  palmette train log --baseline dcn-v2 -o dcn
  palmette train log --baseline dlrm --precision bf16 --table-storage f16 -o dlrm
  palmette train log --arch arch.json --all --set train.network.learning_rate=0.04 -o model
  palmette prepare --schema log.toml day2.csv -o day2 --encoders-from log --split train
  palmette train day2 --from model --all -o model-day2

Writes model.onnx, model.safetensors, encoders.json, model.json, cost.json, training.json, and for
an architecture arch.json and arch.svg. Trains on the training part and measures on the validation
part; with --all on both. A stopped or killed training goes on when the same command is given again.
With --from the model, its tables and its weights are those of the earlier one, and the dataset
must have been prepared with its encoders.

Settings, unless --config, --preset or --set say otherwise: those of the run or the trained folder
that --arch or --from names (with --from at a tenth of the learning rate, since the optimiser's state
is not kept); else --preset small for less than a million training rows, as in a search.")]
pub struct Args {
    /// Dataset made by `palmette prepare`
    #[arg(value_name = "DATASET")]
    dataset: PathBuf,
    /// An architecture in NASRec's published JSON format, or a folder that holds one
    #[arg(long, value_name = "ARCH.json", group = "what")]
    arch: Option<PathBuf>,
    /// A hand-made model: lr, fm, mlp (mlp-small, mlp-medium, mlp-large), deepfm, dlrm, dcn-v2,
    /// autoint-plus, xdeepfm (xdeepfm-small); for data with lists history (attention of the
    /// fields; history-mean, history-self-attention)
    #[arg(long, value_name = "NAME", group = "what")]
    baseline: Option<String>,
    /// Go on from this trained model (a trained folder or a run)
    #[arg(long, value_name = "MODEL_DIR", group = "what")]
    from: Option<PathBuf>,
    /// Folder of the trained model
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Train on the validation rows too
    #[arg(long)]
    all: bool,
    /// Configuration file; its [train], [numbers] and [run] are used
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Override one key, e.g. --set train.network.batch_size=1024
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Start from these settings; a file and --set go over them
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    #[command(flatten)]
    numbers: NumberArgs,
    /// Seed of weights and order
    #[arg(long)]
    seed: Option<u64>,
    /// Rows that each table keeps at most
    #[arg(long, value_name = "ROWS", conflicts_with = "from", value_parser = clap::value_parser!(u32).range(2..))]
    table_cap: Option<u32>,
}

/// A model that goes on has Adagrad's state from nothing: at the full rate its first steps would
/// undo what it knows.
const WARM_START_RATE: f64 = 0.1;

/// Settings under the file and `--set`.
fn defaults(args: &Args, dataset: &Dataset, console: &Console) -> Result<Config> {
    let rows = dataset.rows(Split::Train);
    let named = args.arch.as_deref().or(args.from.as_deref());
    let earlier = named.map(Earlier::of).transpose()?.flatten();
    let mut config = match (args.preset, earlier) {
        (Some(preset), _) => preset.config(rows),
        (None, Some(earlier)) => earlier.config()?,
        (None, None) if args.config.is_none() && rows < SMALL_LOG_ROWS => {
            console.note(&format!("{rows} training rows: settings of --preset small"));
            Preset::Small.config(rows)
        }
        (None, None) => Config::default(),
    };
    if args.from.is_some() {
        config.train.network.learning_rate *= WARM_START_RATE;
    }
    Ok(config)
}

pub fn run(args: &Args, console: &Console) -> Result<ExitCode> {
    let dataset = Dataset::open(&args.dataset)?;
    let defaults = defaults(args, &dataset, console)?;
    let set = args.numbers.over(&args.set);
    let mut config = Config::layered(defaults, args.config.as_deref(), &set)?;
    args.numbers.apply(&mut config, console)?;
    if let Some(seed) = args.seed {
        config.run.seed = seed;
    }
    let earlier = args.from.as_deref().map(ModelFolder::open).transpose()?;
    let mut settings = config.train.network.clone();
    let (contender, architecture) = match (&args.arch, &args.baseline, &earlier) {
        (Some(arch), _, _) => {
            let (file, _) = architecture_of(arch)?;
            (Contender::Network(file.path.clone()), Some(file))
        }
        (_, Some(name), _) => (Contender::Baseline(Baseline::named(name)?), None),
        (_, _, Some(earlier)) => {
            settings.layer_norm = earlier.description.layer_norm;
            (earlier.description.contender.clone(), architecture_of(&earlier.dir).ok().map(|a| a.0))
        }
        // clap asks for one of the three
        _ => bail!("give --arch, --baseline or --from"),
    };
    let (table_rows, from) = match &earlier {
        Some(earlier) => {
            check_encoders(earlier, &dataset)?;
            let rows = earlier.description.inputs.table_rows();
            (rows, Some(file_sha256(&earlier.dir.join("model.safetensors"))?))
        }
        None => (dataset.table_rows(args.table_cap), None),
    };
    let request = TrainRequest {
        contender,
        settings,
        numbers: config.numbers,
        seed: config.run.seed,
        all: args.all,
        table_rows,
        dataset: dataset.fingerprint(),
        from,
    };
    let context =
        RunContext { config: &config, dataset: &dataset, console, stop: Stop::on_interrupt() };
    match train_one(&context, &request, architecture.as_ref(), earlier.as_ref(), &args.output) {
        Ok(trained) => {
            if let Some(peak) = peak_memory() {
                console.note(&format!(
                    "peak memory of the process: {}",
                    palmette_cost::format_bytes(peak)
                ));
            }
            console.result(&trained, || {
                let mut text = format!(
                    "{}: {} steps, {} multiply-accumulates a sample",
                    args.output.display(),
                    trained.steps,
                    palmette_cost::format_count(trained.macs)
                );
                if let Some(loss) = trained.validation_log_loss {
                    text += &format!("\nvalidation: log loss {loss:.6}");
                    if let Some(auc) = trained.validation_auc {
                        text += &format!(", AUC {auc:.4}");
                    }
                }
                text
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if Stopped::is(&error) => {
            Ok(console.stopped("give the same command again to continue"))
        }
        Err(error) => Err(error),
    }
}
