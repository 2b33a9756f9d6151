//! `palmette export`: a trained model's files, into a folder of their own.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use palmette::console::Console;
use palmette::run::{ModelFolder, export_model, file_sha256, write_whole};
use palmette_ctr::metrics::KeptNegatives;
use serde::Serialize;

/// Write ONNX, safetensors and encoders of a trained model into a folder
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  palmette export runs/log-1 -o serving
  palmette export model -o serving --kept-negatives 0.1

Written: model.onnx (raw inputs to probability, transforms and tables inside; external data above
1 GiB), model.safetensors, encoders.json (from text to the inputs), model.json, and arch.json,
arch.svg and cost.json where the model has them.
--kept-negatives w undoes that only a share w of the negatives was trained on: ln w is added to
every logit, in model.onnx and in whatever palmette predicts with the new folder.")]
pub struct Args {
    /// A run, or a trained folder
    #[arg(value_name = "RUN|MODEL_DIR")]
    model: PathBuf,
    /// Folder to write
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Share of the negatives that the log kept, above 0 and at most 1
    #[arg(long, value_name = "W")]
    kept_negatives: Option<f64>,
}

/// What is printed.
#[derive(Serialize)]
struct Written {
    folder: PathBuf,
    files: Vec<WrittenFile>,
}

#[derive(Serialize)]
struct WrittenFile {
    name: String,
    bytes: u64,
    sha256: String,
}

/// Files that are copied where they exist.
const COPIED: [&str; 3] = ["arch.json", "arch.svg", "cost.json"];

pub fn run(args: &Args, console: &Console) -> Result<ExitCode> {
    if args.model.is_file() {
        bail!(
            "{} is a file; an architecture alone has no weights: train it with \
             `palmette train DATASET --arch {0} -o DIR` and export DIR",
            args.model.display()
        );
    }
    let source = ModelFolder::open(&args.model)?;
    if let (Ok(from), Ok(to)) = (source.dir.canonicalize(), args.output.canonicalize())
        && from == to
    {
        bail!("{} is the model's own folder; choose another", args.output.display());
    }
    let mut description = source.description.clone();
    if let Some(share) = args.kept_negatives {
        if description.logit_shift != 0.0 {
            bail!(
                "{} is corrected for kept negatives already ({:+.3} on every logit); leave out \
                 --kept-negatives",
                args.model.display(),
                description.logit_shift
            );
        }
        description.logit_shift += KeptNegatives::new(share)?.correct_logit(0.0);
    }
    let (compiled, model) = description.load(&source.dir)?;
    let had_a_model = args.output.join("model.json").is_file();
    let encoders = source.encoders()?;
    let (tensors, program) = (&compiled.tensors, &compiled.program);
    export_model(&args.output, "palmette", &description, tensors, program, &model, &encoders)?;
    for name in COPIED {
        let from = source.dir.join(name);
        if from.is_file() {
            let bytes =
                std::fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
            write_whole(&args.output.join(name), |out| Ok(out.write_all(&bytes)?))?;
        } else if had_a_model && args.output.join(name).is_file() {
            // Of the model that this one takes the place of.
            let old = args.output.join(name);
            std::fs::remove_file(&old)
                .with_context(|| format!("cannot remove {}", old.display()))?;
        }
    }
    let mut files = Vec::new();
    let listing = std::fs::read_dir(&args.output)
        .with_context(|| format!("cannot list {}", args.output.display()))?;
    for entry in listing {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            continue;
        }
        files.push(WrittenFile {
            name: entry.file_name().to_string_lossy().into_owned(),
            bytes: entry.metadata()?.len(),
            sha256: file_sha256(&entry.path())?,
        });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let written = Written { folder: args.output.clone(), files };
    console.result(&written, || {
        let mut lines = vec![written.folder.display().to_string()];
        lines.extend(
            written.files.iter().map(|f| format!("  {:<20} {:>12} bytes", f.name, f.bytes)),
        );
        lines.join("\n")
    })?;
    Ok(ExitCode::SUCCESS)
}
