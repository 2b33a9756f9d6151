//! `palmette check-golden`: is the engine's arithmetic that of the released code?

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use palmette::console::Console;
use palmette_ctr::nasrec::{ArchitectureFile, Comparison, GoldenFile, GoldenReport, check_golden};
use serde::Serialize;

/// Relative error allowed in double precision.
const TOLERANCE_F64: f64 = 1e-9;
/// Relative error allowed in single precision, in which networks are trained.
const TOLERANCE_F32: f64 = 1e-4;
/// Comparisons printed for each precision that fails.
const WORST: usize = 5;

/// Compare an architecture's arithmetic with what the released NASRec code computes
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  palmette check-golden nasrec_criteo_small.golden.json --arch nasrec_criteo_small.json
  palmette check-golden golden.json --arch arch.json --format json

A golden file lists logits, the loss and statistics of every gradient (sum, norm, and a sum with
alternating weights) for inputs and weights that follow from formulas. All of them are computed
here again in f64 (to agree within 1e-9) and in f32 (within 1e-4), relative to the larger of the
quantity itself and its scale: 1 for a logit, the gradient's norm for its statistics.
Exit code: 0 if every number agrees, 1 if one does not, 2 if a file cannot be used.")]
pub struct Args {
    /// Numbers of the released code
    #[arg(value_name = "GOLDEN.json")]
    golden: PathBuf,
    /// The architecture they belong to, in NASRec's published JSON format
    #[arg(long = "arch", value_name = "ARCH.json")]
    architecture: PathBuf,
}

/// What is printed.
#[derive(Serialize)]
struct Verdict {
    architecture: String,
    passes: bool,
    precisions: Vec<Precision>,
}

#[derive(Serialize)]
struct Precision {
    precision: &'static str,
    tolerance: f64,
    passes: bool,
    comparisons: usize,
    failures: usize,
    /// Largest errors first: the failures, or the one that comes closest to failing.
    worst: Vec<Comparison>,
}

pub fn run(args: &Args, console: &Console) -> anyhow::Result<ExitCode> {
    let file = args.golden.display();
    let text = std::fs::read_to_string(&args.golden)
        .with_context(|| format!("cannot read the golden file {file}"))?;
    let golden: GoldenFile =
        serde_json::from_str(&text).with_context(|| format!("{file} is not a golden file"))?;
    let file = args.architecture.display();
    let text = std::fs::read_to_string(&args.architecture)
        .with_context(|| format!("cannot read the architecture {file}"))?;
    let architecture = ArchitectureFile::parse(&text).with_context(|| file.to_string())?;
    let check = |report: Result<GoldenReport, _>| {
        report.with_context(|| format!("{} and {file}", args.golden.display()))
    };
    let precisions = vec![
        Precision::new(check(check_golden::<f64>(&golden, &architecture, TOLERANCE_F64))?),
        Precision::new(check(check_golden::<f32>(&golden, &architecture, TOLERANCE_F32))?),
    ];
    let verdict = Verdict {
        architecture: golden.architecture,
        passes: precisions.iter().all(|p| p.passes),
        precisions,
    };
    console.result(&verdict, || verdict.text())?;
    Ok(ExitCode::from(u8::from(!verdict.passes)))
}

impl Precision {
    fn new(report: GoldenReport) -> Self {
        let passes = report.passes();
        let GoldenReport { precision, tolerance, mut comparisons } = report;
        let count = comparisons.len();
        // A NaN is no agreement, and the worst of all: total_cmp puts it first here.
        let agrees = |c: &Comparison| c.error <= tolerance;
        let failures = comparisons.iter().filter(|c| !agrees(c)).count();
        comparisons.sort_by(|a, b| b.error.total_cmp(&a.error));
        comparisons.truncate(failures.clamp(1, WORST));
        Self { precision, tolerance, passes, comparisons: count, failures, worst: comparisons }
    }
}

impl Verdict {
    fn text(&self) -> String {
        let mut lines = Vec::new();
        for p in &self.precisions {
            let outcome = if p.passes { "agree" } else { "DISAGREE" };
            lines.push(format!(
                "{} {}: {} of {} numbers {outcome} within {:e}",
                self.architecture,
                p.precision,
                if p.passes { p.comparisons } else { p.failures },
                p.comparisons,
                p.tolerance
            ));
            for c in &p.worst {
                lines.push(format!(
                    "  worst: {} is {:e}, expected {:e} (error {:.1e})",
                    c.what, c.found, c.expected, c.error
                ));
            }
        }
        lines.join("\n")
    }
}
