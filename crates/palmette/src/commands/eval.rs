//! `palmette eval`: a trained model on a part of a dataset.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::ValueEnum;
use palmette::console::Console;
use palmette::run::{Earlier, ModelFolder, ScoredPart, check_encoders, read_journal};
use palmette_ctr::metrics::{Evaluation, KeptNegatives};
use palmette_ctr::train::predict_rows;
use palmette_data::{Dataset, Split};
use palmette_engine::Executor;
use serde::Serialize;
use serde_json::Value;

/// Measure a trained model on a part of a dataset
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  palmette eval model --dataset log --split validation
  palmette eval runs/log-1 --dataset day3 --split test --group user
  palmette eval model --dataset thinned --split validation --kept-negatives 0.1 --format json

Prints log loss (nats), AUC (rank statistic, ties half), AUC within groups, normalised entropy and
calibration. --group names a key column that the schema keeps; --kept-negatives w corrects the
predictions of a model that was trained on a share w of the negatives.
A run reads the test part of its own dataset once, at its end: asked again, the numbers of the
journal are printed and the exit code is 1, because choosing by a test part spoils it. Its model was
trained on the validation rows too.")]
pub struct Args {
    /// A trained folder, or a run
    #[arg(value_name = "MODEL_DIR|RUN")]
    model: PathBuf,
    /// Dataset made by `palmette prepare` with the model's encoders
    #[arg(long, value_name = "DATASET")]
    dataset: PathBuf,
    /// Part of the dataset
    #[arg(long, value_enum)]
    split: Part,
    /// Key column: AUC within its groups
    #[arg(long, value_name = "COLUMN")]
    group: Option<String>,
    /// Share of the negatives that training kept, above 0 and at most 1
    #[arg(long, value_name = "W")]
    kept_negatives: Option<f64>,
}

/// Parts of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Rows that the model was trained on, unless the dataset is another one
    Train,
    /// Rows that choose
    Validation,
    /// Rows that judge
    Test,
}

impl Part {
    fn split(self) -> Split {
        match self {
            Self::Train => Split::Train,
            Self::Validation => Split::Validation,
            Self::Test => Split::Test,
        }
    }
}

/// Rows between two looks at the progress bar.
const SCORED_AT_ONCE: usize = 1 << 15;

/// What is printed.
#[derive(Serialize)]
struct Measured<'a> {
    model: &'a Path,
    dataset: &'a Path,
    split: &'static str,
    /// Whether the model was trained on these rows: it is then better on them than on new ones.
    trained_on: bool,
    #[serde(flatten)]
    evaluation: Evaluation,
}

pub fn run(args: &Args, console: &Console) -> Result<ExitCode> {
    let model = ModelFolder::open(&args.model)?;
    let dataset = Dataset::open(&args.dataset)?;
    if args.split == Part::Test
        && let Some(run) = &model.run
        && let Some(finals) = already_read(run, &dataset)?
    {
        return refuse(run, &finals, console);
    }
    let kept = args.kept_negatives.map(KeptNegatives::new).transpose()?;
    check_encoders(&model, &dataset)?;
    let split = args.split.split();
    let trained_on = match Earlier::of(&args.model)? {
        Some(earlier) => earlier.has_seen(&dataset, split)?,
        None => false,
    };
    let groups = match &args.group {
        Some(column) => Some(dataset.extra_keys(split, column)?),
        None => None,
    };
    let (mut compiled, weights) = model.description.load(&model.dir)?;
    let tables = model.description.inputs.table_rows();
    let (mut executor, rows) = (Executor::new(), dataset.rows(split));
    let progress = console.progress(rows as u64, "rows scored");
    let mut logits = Vec::with_capacity(rows);
    for start in (0..rows).step_by(SCORED_AT_ONCE) {
        let piece = start..rows.min(start + SCORED_AT_ONCE);
        let program = &mut compiled.program;
        let scored =
            predict_rows(&mut executor, &weights, program, &dataset, split, piece, &tables)?;
        logits.extend(scored);
        progress.set(logits.len() as u64);
    }
    progress.finish();
    let shift = model.description.logit_shift + kept.map_or(0.0, |kept| kept.correct_logit(0.0));
    logits.iter_mut().for_each(|z| *z += shift);
    let evaluation = ScoredPart::new(&dataset, split, logits)
        .and_then(|part| part.evaluate(groups.as_deref()))
        .with_context(|| format!("the {} part of {}", split.name(), args.dataset.display()))?;
    let measured = Measured {
        model: &args.model,
        dataset: &args.dataset,
        split: split.name(),
        trained_on,
        evaluation,
    };
    console.result(&measured, || {
        let mut text = text(&measured.evaluation);
        if trained_on {
            text += "\nthe model was trained on these rows: on new ones it is worse than here";
        }
        text
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The run's journalled test figures, if this is the dataset it judged itself on.
fn already_read(run: &Path, dataset: &Dataset) -> Result<Option<Vec<Value>>> {
    let finals: Vec<Value> =
        read_journal(run)?.into_iter().filter(|event| event["event"] == "final").collect();
    let path = run.join("env.json");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let environment: Value =
        serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let own = environment["dataset"] == dataset.fingerprint().as_str();
    Ok((own && !finals.is_empty()).then_some(finals))
}

fn refuse(run: &Path, finals: &[Value], console: &Console) -> Result<ExitCode> {
    let results: Vec<&Value> = finals.iter().map(|event| &event["result"]).collect();
    let message = format!(
        "{} has read the test part of this dataset already; it is read once. These are its journalled \
         figures; a dataset of newer rows judges again",
        run.display()
    );
    let document = serde_json::json!({ "error": message, "journalled": results });
    console.result(&document, || {
        let line = |r: &&Value| {
            let figure = |key: &str| r[key].as_f64().map_or("-".into(), |x| format!("{x:.6}"));
            format!(
                "{:<22} seed {:<6} log loss {}  AUC {}  NE {}",
                r["model"].as_str().unwrap_or_default(),
                r["seed"],
                figure("log_loss"),
                figure("auc"),
                figure("normalised_entropy")
            )
        };
        results.iter().map(line).collect::<Vec<_>>().join("\n")
    })?;
    console.error(&anyhow::anyhow!(message));
    Ok(ExitCode::from(1))
}

fn text(e: &Evaluation) -> String {
    let figure =
        |value: Option<f64>| value.map_or("- (one class only)".into(), |v| format!("{v:.6}"));
    let mut lines = vec![
        format!("rows                {}", e.rows),
        format!("base rate           {:.6}", e.base_rate),
        format!("log loss            {:.6}", e.log_loss),
        format!("normalised entropy  {}", figure(e.normalised_entropy)),
        format!("AUC                 {}", figure(e.auc)),
    ];
    if let Some(g) = &e.grouped_auc {
        lines.push(format!(
            "AUC within groups   {} ({} groups, {} of one class left out, {:.1} % of the weight used)",
            figure(g.auc),
            g.groups,
            g.groups_left_out,
            100.0 * g.weight_used
        ));
    }
    let c = &e.calibration;
    lines.push(format!(
        "calibration         predicted {:.6}, observed {:.6}, ratio {}, expected error {:.6}",
        c.mean_prediction,
        c.mean_label,
        figure(c.ratio),
        c.expected_error
    ));
    lines.join("\n")
}
