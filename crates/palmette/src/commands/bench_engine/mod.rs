//! `palmette bench engine`: training steps beside PyTorch's, on the same weights and rows; and
//! `bench scaling` and `bench memory`, which measure the same steps alone.

mod agreement;
pub mod candidates;
mod case;
pub(super) mod compare;
mod describe;
pub mod memory;
mod peak;
mod peer;
pub mod prepare;
pub mod products;
pub mod scaling;
mod system;
mod text;
mod workloads;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use palmette::console::Console;
use palmette::run::write_whole;
use palmette_ctr::nasrec::ArchitectureFile;
use serde::Serialize;

use compare::{Comparison, Options, compare};
use peak::Peak;
use peer::PeerOptions;
use workloads::{Sizes, Workload};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  palmette bench engine
  palmette bench engine mlp dlrm-1m --peers target/peers-venv/bin/python
  palmette bench engine supernet --paths 200 --peers target/peers-venv/bin/python --format json
  palmette bench engine dlrm-10m --preload /usr/lib/x86_64-linux-gnu/libjemalloc.so.2 --peers python3

Without --peers, Palmette's own steps are timed and nothing is compared. With it, a Python process
with PyTorch (`cargo xtask peers` makes one) is kept alive for each workload. It reads the same
weights and batches, and Palmette checks that the gradients of the first step and the losses of five
steps agree. Every variant that PyTorch offers (eager or compiled, f32 or bf16, layouts, optimisers)
runs shortly; the two fastest of each number type then run in alternation with Palmette. Printed are
median, least and most of the rounds, and GFLOP/s of the products as a share of what this
processor's multiply-add units do in a loop on registers.")]
pub struct Args {
    /// Workloads [default: mlp dlrm-1m block supernet]
    #[arg(value_name = "NAME", value_enum)]
    names: Vec<Workload>,
    /// Python with PyTorch, to compare with
    #[arg(long, value_name = "PYTHON")]
    peers: Option<PathBuf>,
    /// Folder of the peers' scripts
    #[arg(long, value_name = "FOLDER", default_value = "bench/peers")]
    scripts: PathBuf,
    /// Library to load into a second PyTorch process first, such as another allocator
    #[arg(long, value_name = "LIBRARY")]
    preload: Vec<PathBuf>,
    /// Rounds, in each of which all sides run once
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
    /// Seconds that a side runs in a round; lists of paths always run whole
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = positive)]
    seconds: f64,
    /// Rows of a batch [default: the workload's own]
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// Fresh paths in the list of supernet workloads
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    paths: u64,
    /// Architecture file of the network that inference runs [default: a random one]
    #[arg(long, value_name = "ARCH.json")]
    architecture: Option<PathBuf>,
    /// PyTorch variants whose name holds this, only [example: bf16]
    #[arg(long, value_name = "TEXT")]
    variant: Vec<String>,
    /// File for the results as JSON
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if f64::is_finite(value) && value > 0.0 => Ok(value),
        _ => Err("needed: a number above zero".into()),
    }
}

/// Everything that was measured.
#[derive(Serialize)]
pub struct Report {
    /// Threads of either side.
    pub threads: usize,
    /// What the kernels use.
    pub instruction_set: &'static str,
    /// The processor's multiply-add units.
    pub peak_gflops: Peak,
    /// One entry a workload.
    pub workloads: Vec<Comparison>,
}

pub fn run(args: &Args, console: &Console) -> Result<ExitCode> {
    let threads = rayon::current_num_threads();
    let defaults = [Workload::Mlp, Workload::Dlrm1M, Workload::Block, Workload::Supernet];
    let names = if args.names.is_empty() { &defaults[..] } else { &args.names };
    let peers = match &args.peers {
        None if args.preload.is_empty() => None,
        None => bail!("--preload is for the peer: name its Python with --peers"),
        Some(python) => {
            let (python, scripts) = (python.clone(), args.scripts.clone());
            Some(PeerOptions { python, scripts, threads })
        }
    };
    let architecture = args.architecture.as_ref().map(|file| {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the architecture {}", file.display()))?;
        let parsed = ArchitectureFile::parse(&text).with_context(|| file.display().to_string())?;
        anyhow::Ok(parsed.path)
    });
    let architecture = architecture.transpose()?;
    let folder = Folder::create()?;
    let options = Options {
        peers: peers.as_ref(),
        preload: &args.preload,
        rounds: args.rounds,
        seconds: args.seconds,
        variants: &args.variant,
        folder: &folder.0,
        sizes: Sizes {
            batch: args.batch.map(|rows| rows as usize),
            paths: args.paths,
            architecture: architecture.as_ref(),
        },
    };
    let mut report = Report {
        threads,
        instruction_set: palmette_engine::instruction_set(),
        peak_gflops: peak::measure(),
        workloads: Vec::new(),
    };
    for &workload in names {
        console.note(&format!("{}:", workload.name()));
        let comparison = compare(workload, &options, console)
            .with_context(|| format!("workload {}", workload.name()))?;
        report.workloads.push(comparison);
    }
    if let Some(file) = &args.output {
        let text = serde_json::to_string_pretty(&report)?;
        write_whole(file, |out| Ok(out.write_all(text.as_bytes())?))
            .with_context(|| format!("-o {}", file.display()))?;
    }
    console.result(&report, || text::text(&report))?;
    let agree = report.workloads.iter().all(Comparison::agrees);
    Ok(if agree { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// A folder of this process among the system's temporary ones, which goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn create() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("palmette-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
