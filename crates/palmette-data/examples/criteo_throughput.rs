//! Makes a log in Criteo's form and measures how fast it is prepared.
//!
//! ```text
//! cargo run --release -p palmette-data --example criteo_throughput -- 2000000 throughput
//! ```
//!
//! Field widths and missing shares follow the Kaggle log (about 230 bytes a row; two integers in
//! nine and one id in nine are missing); ids follow a power law over the published numbers of
//! distinct values.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Instant;

use palmette_data::{PrepareOptions, Schema, Split, prepare};
use palmette_random::{Draw, stream};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let rows: u64 = args.next().unwrap_or("2000000".into()).parse()?;
    let dir = PathBuf::from(args.next().unwrap_or("throughput".into()));
    std::fs::create_dir_all(&dir)?;
    let log = dir.join(format!("criteo-{rows}.tsv"));
    let schema = Schema::preset("criteo").ok_or("no preset")?;
    if !log.exists() {
        generate(&log, rows, &schema)?;
    }
    let bytes = std::fs::metadata(&log)?.len();
    // once through, so that the log is in the page cache
    std::io::copy(&mut std::fs::File::open(&log)?, &mut std::io::sink())?;
    for _ in 0..3 {
        let output = dir.join("dataset");
        let _ = std::fs::remove_dir_all(&output);
        let start = Instant::now();
        let dataset =
            prepare(&PrepareOptions::new(schema.clone(), vec![log.clone()], output), &())?;
        let seconds = start.elapsed().as_secs_f64();
        let prepared: usize = Split::ALL.iter().map(|&split| dataset.rows(split)).sum();
        assert_eq!(prepared as u64, rows);
        println!(
            "{rows} rows, {} MB: {seconds:.2} s, {:.0} rows/s, {:.0} MB/s, {} threads",
            bytes / 1_000_000,
            rows as f64 / seconds,
            bytes as f64 / seconds / 1e6,
            rayon::current_num_threads()
        );
    }
    Ok(())
}

fn generate(path: &PathBuf, rows: u64, schema: &Schema) -> std::io::Result<()> {
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    let distinct: Vec<f64> =
        schema.categorical.iter().map(|field| f64::from(field.rows.unwrap_or(4))).collect();
    let mut random = stream(1, "example/criteo", 0);
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
