//! `palmette bench prepare`: rows a second of data preparation, beside polars.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use palmette::console::Console;
use palmette_data::{EncoderRule, PrepareOptions, RawBatch, Schema, Split, SplitOverride, prepare};
use palmette_random::{Draw, stream};
use serde::Serialize;
use serde_json::{Value, json};

use super::Folder;
use super::compare::spread;
use super::peer::{Peer, PeerOptions};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  palmette bench prepare
  palmette bench prepare --rows 4000000 --peers target/peers-venv/bin/python
  palmette bench prepare --log train.txt --encoder dictionary

Prepares a log in Criteo's form (made up: 244 MB a million rows, the published numbers of distinct
values) into a dataset, and has polars read and encode the same file to columns on disk. The values
of every row are compared before anything is timed.")]
pub struct Args {
    /// Rows of the log that is made up
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,
    /// A log in Criteo's form to use instead
    #[arg(long, value_name = "FILE.tsv", conflicts_with = "rows")]
    log: Option<PathBuf>,
    /// How categorical values become numbers
    #[arg(long, value_enum, value_delimiter = ',', default_value = "modulo,dictionary")]
    encoder: Vec<Encoder>,
    /// Python with polars, to compare with
    #[arg(long, value_name = "PYTHON")]
    peers: Option<PathBuf>,
    /// Folder of the peers' scripts
    #[arg(long, value_name = "FOLDER", default_value = "bench/peers")]
    scripts: PathBuf,
    /// Rounds, in each of which both sides run once
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(3..))]
    rounds: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Encoder {
    /// Hexadecimal values as integers, as in the preset
    Modulo,
    /// Ranks by falling count
    Dictionary,
}

/// Results of one encoder.
#[derive(Serialize)]
struct Report {
    encoder: Encoder,
    rows: u64,
    megabytes: f64,
    sides: Vec<Side>,
}

#[derive(Serialize)]
struct Side {
    name: String,
    seconds: Vec<f64>,
    median: f64,
    rows_a_second: f64,
    /// Time over Palmette's in the same round: median, least, most.
    ratio: [f64; 3],
    /// Whether every row has the values that Palmette gives it.
    same_values: bool,
}

pub fn run(args: &Args, console: &Console) -> Result<ExitCode> {
    let folder = Folder::create()?;
    let log = match &args.log {
        Some(log) => std::path::absolute(log)?,
        None => {
            let log = folder.0.join("criteo.tsv");
            let schema = Schema::preset("criteo").context("a preset is missing")?;
            make_log(&log, args.rows, &schema).with_context(|| log.display().to_string())?;
            log
        }
    };
    // Once through, so that the log is in the page cache.
    let mut file = std::fs::File::open(&log).with_context(|| log.display().to_string())?;
    let bytes = std::io::copy(&mut file, &mut std::io::sink())?;
    let mut reports = Vec::new();
    for &encoder in &args.encoder {
        reports.push(measure(encoder, args, &log, bytes, &folder.0, console)?);
    }
    let same = reports.iter().flat_map(|r| &r.sides).all(|side| side.same_values);
    console.result(&reports, || reports.iter().map(Report::text).collect())?;
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn measure(
    encoder: Encoder,
    args: &Args,
    log: &Path,
    bytes: u64,
    folder: &Path,
    console: &Console,
) -> Result<Report> {
    let mut schema = Schema::preset("criteo").context("a preset is missing")?;
    // One part, in the order of the file: what the other side writes.
    schema.override_split(SplitOverride::All(Split::Train))?;
    if encoder == Encoder::Dictionary {
        for field in &mut schema.categorical {
            field.encoder = EncoderRule::Dictionary { min_count: 1 };
            field.rows = None;
        }
    }
    let output = folder.join("dataset");
    let prepared = || -> Result<_> {
        let _ = std::fs::remove_dir_all(&output);
        let start = Instant::now();
        let options = PrepareOptions::new(schema.clone(), vec![log.to_owned()], output.clone());
        let dataset = prepare(&options, &())?;
        Ok((dataset, start.elapsed().as_secs_f64()))
    };
    let (dataset, _) = prepared()?;
    let rows = dataset.rows(Split::Train) as u64;
    let ours = sums(&dataset)?;
    drop(dataset);
    let mut peers = Vec::new();
    if let Some(python) = &args.peers {
        let options = PeerOptions {
            python: python.clone(),
            scripts: args.scripts.clone(),
            threads: rayon::current_num_threads(),
        };
        let mut peer = Peer::start(&options, "prepare.py", folder, None)?;
        let name = encoder.to_possible_value().map_or(String::new(), |v| v.get_name().to_owned());
        let opened = peer.ask(&json!({ "open": folder, "log": log, "encoder": name }))?;
        let version = opened["version"].as_str().unwrap_or("polars").to_owned();
        let variants = opened["variants"].as_array().cloned().unwrap_or_default();
        for variant in variants.iter().filter_map(Value::as_str) {
            let theirs = peer.ask(&json!({ "check": variant }))?;
            let theirs = theirs["sums"].as_array().cloned().unwrap_or_default();
            let theirs: Vec<u64> = theirs.iter().filter_map(Value::as_u64).collect();
            peers.push((variant.to_owned(), theirs == ours, Vec::new()));
        }
        let mut own = Vec::new();
        let progress = console.progress(u64::from(args.rounds), &name);
        for _ in 0..args.rounds {
            own.push(prepared()?.1);
            for (variant, _, seconds) in &mut peers {
                seconds.push(peer.time(variant, 1)?);
            }
            progress.add(1);
        }
        progress.finish();
        let names = peers.into_iter().map(|(v, same, s)| (format!("{version}, {v}"), same, s));
        let sides = std::iter::once(("Palmette".to_owned(), true, own)).chain(names).collect();
        return Ok(Report::new(encoder, rows, bytes, sides));
    }
    let own = (0..args.rounds).map(|_| Ok(prepared()?.1)).collect::<Result<Vec<f64>>>()?;
    Ok(Report::new(encoder, rows, bytes, vec![("Palmette".to_owned(), true, own)]))
}

impl Report {
    fn new(encoder: Encoder, rows: u64, bytes: u64, sides: Vec<(String, bool, Vec<f64>)>) -> Self {
        let ours = sides.first().map_or(Vec::new(), |side| side.2.clone());
        let side = |(name, same_values, seconds): (String, bool, Vec<f64>)| {
            let [median, ..] = spread(&seconds);
            let ratios: Vec<f64> = seconds.iter().zip(&ours).map(|(a, b)| a / b).collect();
            let (rows_a_second, ratio) = (rows as f64 / median, spread(&ratios));
            Side { name, median, rows_a_second, ratio, same_values, seconds }
        };
        let megabytes = bytes as f64 / 1e6;
        Self { encoder, rows, megabytes, sides: sides.into_iter().map(side).collect() }
    }

    fn text(&self) -> String {
        let mut text =
            format!("{:?} encoder, {} rows, {:.0} MB\n", self.encoder, self.rows, self.megabytes);
        for side in &self.sides {
            let [median, least, most] = side.ratio;
            text += &format!(
                "  {:<32} {:>7.2} s {:>10.0} rows/s  {median:.2} ({least:.2}-{most:.2}){}\n",
                side.name,
                side.median,
                side.rows_a_second,
                if side.same_values { "" } else { "  DOES NOT GIVE THE SAME VALUES" }
            );
        }
        text
    }
}

/// One number a column, label first: the sum over rows of value times row number, wrapping.
fn sums(dataset: &palmette_data::Dataset) -> Result<Vec<u64>> {
    let (rows, fields) = (dataset.rows(Split::Train), dataset.categorical_fields());
    let mut sums = vec![0u64; 1 + fields];
    let mut batch = RawBatch::default();
    for start in (0..rows).step_by(8192) {
        dataset.fill_raw(Split::Train, start..rows.min(start + 8192), &mut batch)?;
        for (i, values) in batch.values.chunks_exact(fields).enumerate() {
            let number = (start + i + 1) as u64;
            sums[0] = sums[0].wrapping_add((batch.labels[i] as u64).wrapping_mul(number));
            for (sum, &value) in sums[1..].iter_mut().zip(values) {
                *sum = sum.wrapping_add((value as u64).wrapping_mul(number));
            }
        }
    }
    if rows == 0 {
        bail!("the log has no rows");
    }
    Ok(sums)
}

/// A log in Criteo's form: field widths and missing shares follow the Kaggle log (about 230 bytes
/// a row; two integers in nine and one id in nine are missing); ids follow a power law over the
/// published numbers of distinct values.
fn make_log(path: &Path, rows: u64, schema: &Schema) -> std::io::Result<()> {
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    let distinct: Vec<f64> =
        schema.categorical.iter().map(|field| f64::from(field.rows.unwrap_or(4))).collect();
    let mut random = stream(1, "bench/criteo", 0);
    let mut line = Vec::new();
    for _ in 0..rows {
        line.clear();
        line.push(if random.chance(0.256) { b'1' } else { b'0' });
        for field in 0..13 {
            line.push(b'\t');
            if random.chance(7.0 / 9.0) {
                let digits = if field == 4 { 5.0 } else { 2.5 };
                write!(line, "{}", 10f64.powf(random.unit() * digits) as i64 - 1)?;
            }
        }
        for n in &distinct {
            line.push(b'\t');
            if random.chance(8.0 / 9.0) {
                let rank = n.powf(random.unit()) as u32;
                write!(line, "{:08x}", rank.wrapping_mul(0x9e37_79b1))?;
            }
        }
        line.push(b'\n');
        file.write_all(&line)?;
    }
    file.flush()
}
