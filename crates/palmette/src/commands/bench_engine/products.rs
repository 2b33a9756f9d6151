//! `palmette bench products`: matrix products as shares of the multiply-add peak.

use std::process::ExitCode;

use anyhow::Result;
use palmette::console::Console;
use palmette_engine::{ProductRate, product_rates};
use serde::Serialize;

use super::peak::{Peak, measure};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  palmette bench products
  palmette bench products --format json

One thread; the best of 40 measurements of about half a millisecond each, packing included, beside
what the multiply-add units of the same thread do in a loop on registers.")]
pub struct Args {}

/// One row of the table, GFLOP/s.
#[derive(Serialize)]
struct Row {
    product: &'static str,
    shape: [usize; 3],
    f32: f64,
    share: Option<f64>,
    bf16: Option<f64>,
    bf16_share: Option<f64>,
}

#[derive(Serialize)]
struct Report {
    peak: Peak,
    products: Vec<Row>,
}

pub fn run(_: &Args, console: &Console) -> Result<ExitCode> {
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let (peak, rates) = one_thread.install(|| (measure(), product_rates()));
    let row = |rate: ProductRate| Row {
        product: rate.name,
        shape: rate.shape,
        f32: rate.f32 / 1e9,
        share: peak.f32.map(|peak| rate.f32 / 1e9 / peak),
        bf16: rate.bf16.map(|bf16| bf16 / 1e9),
        bf16_share: rate.bf16.zip(peak.bf16).map(|(bf16, peak)| bf16 / 1e9 / peak),
    };
    let report = Report { peak, products: rates?.into_iter().map(row).collect() };
    console.result(&report, || text(&report))?;
    Ok(ExitCode::SUCCESS)
}

fn text(report: &Report) -> String {
    let number = |value: Option<f64>| value.map_or("-".into(), |v| format!("{v:.0}"));
    let percent = |value: Option<f64>| value.map_or("-".into(), |v| format!("{:.0} %", 100.0 * v));
    let mut text = format!(
        "multiply-adds on registers of one thread: f32 {} GFLOP/s, bf16 {} GFLOP/s\n\n{:<20} {:>18} {:>6} {:>6} {:>6} {:>6}\n",
        number(report.peak.f32),
        number(report.peak.bf16),
        "product",
        "m x n x k",
        "f32",
        "peak",
        "bf16",
        "peak"
    );
    for row in &report.products {
        let [m, n, k] = row.shape;
        text += &format!(
            "{:<20} {:>18} {:>6} {:>6} {:>6} {:>6}\n",
            row.product,
            format!("{m} x {n} x {k}"),
            number(Some(row.f32)),
            percent(row.share),
            number(row.bf16),
            percent(row.bf16_share)
        );
    }
    text
}
