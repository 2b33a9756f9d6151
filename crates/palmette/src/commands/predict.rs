//! `palmette predict`: a raw log to probabilities.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use palmette::console::Console;
use palmette::run::{ModelFolder, Stop, Stopped, check_encoders, write_whole};
use palmette_ctr::metrics::{KeptNegatives, sigmoid};
use palmette_ctr::train::engine_lists;
use palmette_data::{Batch, Dataset, Jagged, LogReader, RawBatch, RowEncoder};
use palmette_engine::{self as engine, Executor};
use serde::Serialize;

/// Probabilities of a click for the rows of a raw log
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  palmette predict model day3.csv -o day3-predictions.csv
  palmette predict runs/log-1 day3.csv.gz day4.parquet -o predictions.csv
  palmette predict kdd12-model test.txt --profile userid_profile.txt -o predictions.csv

The files have the form of the log that the model was trained on; the label may be missing, and no
row is left out. Output: a header, then one line a row in the order of the files: its number from 1
and the probability. The encoders are read from the dataset that the model was trained on.")]
pub struct Args {
    /// A trained folder, or a run
    #[arg(value_name = "MODEL_DIR|RUN")]
    model: PathBuf,
    /// Log files in the order of their rows: CSV, TSV or Parquet, plain, gzip or zstd
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    /// CSV file to write
    #[arg(short, long, value_name = "FILE.csv")]
    output: PathBuf,
    /// A second file with columns by key (userid_profile.txt of kdd12)
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// The dataset with the model's encoders, if it is no longer where the model was trained
    #[arg(long, value_name = "DATASET")]
    dataset: Option<PathBuf>,
    /// Share of the negatives that training kept, above 0 and at most 1
    #[arg(long, value_name = "W")]
    kept_negatives: Option<f64>,
}

/// Rows in one forward pass; activations of wide networks then stay in a few megabytes.
const ROWS: usize = 1024;

/// What is printed.
#[derive(Serialize)]
struct Predicted {
    output: PathBuf,
    rows: u64,
    mean_prediction: Option<f64>,
}

pub fn run(args: &Args, console: &Console) -> Result<ExitCode> {
    let model = ModelFolder::open(&args.model)?;
    let kept = args.kept_negatives.map(KeptNegatives::new).transpose()?;
    let dataset = args.dataset.as_ref().unwrap_or(&model.description.dataset);
    let dataset = Dataset::open(dataset).with_context(|| {
        "predicting needs the encoders of the dataset that the model was trained on; \
         name it with --dataset if it has moved"
    })?;
    check_encoders(&model, &dataset)?;
    let encoder = RowEncoder::open(&dataset)?;
    let (mut compiled, weights) = model.description.load(&model.dir)?;
    let tables = model.description.inputs.table_rows();
    let shift = model.description.logit_shift + kept.map_or(0.0, |kept| kept.correct_logit(0.0));
    let mut reader = LogReader::open(&encoder, &args.inputs, args.profile.as_deref())?;
    let size = |file: &PathBuf| file.metadata().map_or(0, |metadata| metadata.len());
    let progress = console.progress(args.inputs.iter().map(size).sum(), "bytes read");
    let stop = Stop::on_interrupt();
    let (mut rows, mut sum) = (0u64, 0.0);
    let written = write_whole(&args.output, |out| {
        let mut out = BufWriter::with_capacity(1 << 20, out);
        writeln!(out, "row,probability")?;
        let (mut raw, mut piece, mut batch) =
            (RawBatch::default(), RawBatch::default(), Batch::default());
        let mut executor = Executor::new();
        while reader.next_batch(&mut raw)? {
            stop.check()?;
            progress.set(reader.bytes_read());
            for start in (0..raw.rows).step_by(ROWS) {
                copy_rows(&raw, start..raw.rows.min(start + ROWS), &mut piece);
                encoder.finish(&piece, &tables, &mut batch);
                let lists = engine_lists(&batch);
                let input = engine::Batch {
                    rows: batch.rows,
                    dense: &batch.dense,
                    ids: &batch.ids,
                    labels: &[],
                    weights: &[],
                    lists: &lists,
                };
                for &logit in executor.forward(&weights, &mut compiled.program, &input)? {
                    let probability = sigmoid(f64::from(logit) + shift);
                    rows += 1;
                    sum += probability;
                    writeln!(out, "{rows},{probability}")?;
                }
            }
        }
        if rows == 0 {
            bail!("the input has no rows");
        }
        Ok(out.flush()?)
    });
    progress.finish();
    match written {
        Err(error) if Stopped::is(&error) => return Ok(console.stopped("nothing was written")),
        written => drop(written?),
    }
    let mean_prediction = (rows > 0).then(|| sum / rows as f64);
    let predicted = Predicted { output: args.output.clone(), rows, mean_prediction };
    console.result(&predicted, || {
        format!(
            "{}: {rows} rows, mean probability {:.6}",
            predicted.output.display(),
            sum / rows as f64
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Some rows of a batch.
fn copy_rows(raw: &RawBatch, rows: std::ops::Range<usize>, piece: &mut RawBatch) {
    let copy = |width: usize| rows.start * width..rows.end * width;
    let (dense, values) = (raw.dense.len() / raw.rows, raw.values.len() / raw.rows);
    piece.rows = rows.len();
    piece.dense.clear();
    piece.dense.extend_from_slice(&raw.dense[copy(dense)]);
    piece.values.clear();
    piece.values.extend_from_slice(&raw.values[copy(values)]);
    piece.lists.resize_with(raw.lists.len(), Jagged::default);
    for (piece, raw) in piece.lists.iter_mut().zip(&raw.lists) {
        piece.clear();
        rows.clone().for_each(|row| piece.push(raw.row(row).iter().copied()));
    }
    piece.labels.clear();
    piece.labels.extend_from_slice(&raw.labels[copy(1)]);
}
