//! `palmette bench scaling`: step time against threads, batch, table rows and blocks.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::ValueEnum;
use palmette::console::Console;
use palmette::report::{Measured, Series, figure};
use palmette::run::write_whole;
use palmette_ctr::nasrec::{NasRecConfig, NasRecSpace, Operators, PathStrategy};
use serde::Serialize;

use super::case::Case;
use super::compare::spread;
use super::system::available_memory;
use super::workloads::{SUPERNET, Sizes, Workload, dlrm, supernet_of};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  palmette bench scaling -o docs/figures
  palmette bench scaling threads batch --rounds 9

Times training steps while one quantity grows, every point in each of the rounds, so that a busy
moment of the machine falls on all of them. Points that would not fit the memory that is available
are left out with a note. Each study becomes FOLDER/scaling-NAME.svg.")]
pub struct Args {
    /// Studies [default: all]
    #[arg(value_name = "NAME", value_enum)]
    names: Vec<Study>,
    /// Folder for the figures
    #[arg(short, long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(3..))]
    rounds: u32,
    /// Seconds that a point runs in a round
    #[arg(long, default_value_t = 0.3, value_name = "SECONDS", value_parser = super::positive)]
    seconds: f64,
}

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Study {
    /// Threads, from one to all
    Threads,
    /// Rows of a batch, 128 to 8192
    Batch,
    /// Rows of all tables, 100 thousand to 100 million
    Rows,
    /// Choice blocks of the supernet, 1 to 14
    Blocks,
}

/// Results of one study.
#[derive(Serialize)]
struct Scaled {
    study: Study,
    y: &'static str,
    series: Vec<Line>,
}

/// A series as JSON.
#[derive(Serialize)]
struct Line {
    name: String,
    /// x, median, least, most.
    points: Vec<[f64; 4]>,
}

/// A point before it is measured.
struct Point {
    x: f64,
    threads: Option<usize>,
    case: Case,
    /// Milliseconds a step, or samples a second, by round.
    values: Vec<f64>,
}

pub fn run(args: &Args, console: &Console) -> Result<ExitCode> {
    let names = if args.names.is_empty() { Study::value_variants() } else { &args.names[..] };
    let mut results = Vec::new();
    for &study in names {
        let scaled = measure(study, args, console)?;
        if let Some(folder) = &args.output {
            let path = folder.join(format!("scaling-{}.svg", study.name()));
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            let series: Vec<Series> = scaled.series.iter().map(Line::series).collect();
            let svg = figure(study.title(), study.x_title(), scaled.y, &series);
            write_whole(&path, |out| Ok(out.write_all(svg.as_bytes())?))?;
        }
        results.push(scaled);
    }
    console.result(&results, || results.iter().map(Scaled::text).collect())?;
    Ok(ExitCode::SUCCESS)
}

impl Study {
    fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Batch => "batch",
            Self::Rows => "rows",
            Self::Blocks => "blocks",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Threads => "Step time by threads",
            Self::Batch => "Throughput by rows of a batch",
            Self::Rows => "DLRM step time by rows of its tables",
            Self::Blocks => "Supernet step time by choice blocks",
        }
    }

    fn x_title(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Batch => "rows of a batch",
            Self::Rows => "rows of all tables, 16 channels",
            Self::Blocks => "choice blocks",
        }
    }
}

/// Fresh paths in a list; each point runs the same list.
const PATHS: u64 = 20;

/// The published supernet with small tables.
fn published(batch: usize) -> Result<Case> {
    let space = NasRecSpace::published(Operators::Full);
    let strategy = PathStrategy::SingleOperatorAnyConnection;
    supernet_of(space, strategy, PATHS, batch, SUPERNET, 10_000)
}

/// The points of a study, a series at a time.
fn points(study: Study, console: &Console) -> Result<Vec<(String, Vec<Point>)>> {
    let sizes = |batch| Sizes { batch, paths: PATHS, architecture: None };
    let point = |x: f64, threads, case| Point { x, threads, case, values: Vec::new() };
    let mut series = Vec::new();
    match study {
        Study::Threads => {
            for workload in [Workload::Mlp, Workload::Dlrm1M, Workload::Block, Workload::Supernet] {
                let mut points = Vec::new();
                for threads in 1..=rayon::current_num_threads() {
                    points.push(point(threads as f64, Some(threads), workload.case(sizes(None))?));
                }
                series.push((workload.name(), points));
            }
        }
        Study::Batch => {
            let mut points = Vec::new();
            for batch in [128, 256, 512, 1024, 2048, 4096, 8192] {
                points.push(point(batch as f64, None, dlrm(1_000_000, batch)?));
            }
            series.push(("dlrm-1m".to_owned(), points));
            let mut points = Vec::new();
            // Every point has a supernet of its own; fewer points and small tables keep them small.
            for batch in [128, 512, 2048, 8192] {
                points.push(point(batch as f64, None, published(batch)?));
            }
            series.push(("supernet".to_owned(), points));
        }
        Study::Rows => {
            let mut points = Vec::new();
            let mut taken = 0;
            for rows in [100_000, 1_000_000, 10_000_000, 100_000_000usize] {
                // Sixteen weights and as many accumulators.
                let bytes = rows as u64 * 16 * 2 * 4;
                if available_memory().is_some_and(|left| bytes + bytes / 8 > left) {
                    console.note(&format!(
                        "{rows} rows would take {:.1} GB, more than is available",
                        bytes as f64 / 1e9
                    ));
                    continue;
                }
                taken += bytes;
                points.push(point(rows as f64, None, dlrm(rows, 1024)?));
            }
            console.note(&format!("tables of {:.1} GB in all", taken as f64 / 1e9));
            series.push(("dlrm".to_owned(), points));
        }
        Study::Blocks => {
            let mut points = Vec::new();
            for blocks in [1, 2, 3, 5, 7, 10, 14] {
                let config = NasRecConfig { blocks, ..NasRecConfig::published(Operators::Full) };
                let space = NasRecSpace::new(config)?;
                let strategy = PathStrategy::SingleOperatorAnyConnection;
                // Small tables: the blocks are what is measured.
                let case = supernet_of(space, strategy, PATHS, 512, SUPERNET, 10_000)?;
                points.push(point(blocks as f64, None, case));
            }
            series.push(("supernet".to_owned(), points));
        }
    }
    Ok(series)
}

fn measure(study: Study, args: &Args, console: &Console) -> Result<Scaled> {
    let by_sample = study == Study::Batch;
    let mut series = Vec::new();
    for (name, mut points) in points(study, console)? {
        let progress =
            console.progress(u64::from(args.rounds), &format!("{name}, {}", study.name()));
        for _ in 0..=args.rounds {
            for point in &mut points {
                point.measure(args.seconds, by_sample)?;
            }
            progress.add(1);
        }
        progress.finish();
        let points = points.iter().map(|point| {
            // The first round warms up.
            let [median, least, most] = spread(&point.values[1..]);
            [point.x, median, least, most]
        });
        series.push(Line { name, points: points.collect() });
    }
    let y = if by_sample { "samples a second" } else { "milliseconds a step" };
    Ok(Scaled { study, y, series })
}

impl Point {
    fn measure(&mut self, seconds: f64, by_sample: bool) -> Result<()> {
        let period = self.case.period();
        let last = self.values.last().copied();
        let milliseconds = match (last, by_sample) {
            (Some(rate), true) => Some(self.case.rows as f64 / rate * 1e3),
            (last, _) => last,
        };
        let lists = milliseconds.map_or(1.0, |ms| (seconds * 1e3 / (ms * period as f64)).max(1.0));
        let steps = lists as u64 * period;
        let case = &mut self.case;
        let stretch = match self.threads {
            None => case.timed(steps)?,
            Some(threads) => {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
                pool.install(|| case.timed(steps))?
            }
        };
        let milliseconds = stretch.seconds * 1e3 / steps as f64;
        let rate = self.case.rows as f64 / milliseconds * 1e3;
        self.values.push(if by_sample { rate } else { milliseconds });
        Ok(())
    }
}

impl Line {
    fn series(&self) -> Series {
        let points = self.points.iter();
        let points = points.map(|&[x, median, least, most]| Measured { x, median, least, most });
        Series { name: self.name.clone(), points: points.collect() }
    }
}

impl Scaled {
    fn text(&self) -> String {
        let mut text = format!("\n{}, {}\n", self.study.title(), self.y);
        for line in &self.series {
            for [x, median, least, most] in &line.points {
                text +=
                    &format!("  {:<12} {x:>11} {median:>12.2} ({least:.2}-{most:.2})\n", line.name);
            }
        }
        text
    }
}
