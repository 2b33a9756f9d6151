//! `palmette show`: an architecture in words and as a drawing.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use palmette::console::Console;
use palmette::run::{ModelFolder, architecture_of, write_drawing};
use palmette_cost::format_count;
use palmette_ctr::nasrec::{
    Block, BlockLiveness, DatasetPreset, DenseOp, MERGE_FIELDS, Path, Set, Shape, SparseOp,
    liveness, macs, macs_with_dead_code, params,
};
use serde::Serialize;

use super::cost::Preset;

/// Describe an architecture in words and draw it
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  palmette show runs/log-1
  palmette show arch.json --dataset avazu --svg arch.svg
  palmette show runs/log-1 --format json

D0 are the dense inputs and S0 the embedded fields; Dn and Sn are what block n makes of them.
A run or a trained folder knows its data; for a file alone the counts are those of --dataset.")]
pub struct Args {
    /// An architecture in NASRec's published JSON format, a run, or a trained folder
    #[arg(value_name = "ARCH.json|RUN")]
    target: PathBuf,
    /// Write a drawing too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Shape of the data for an architecture that stands alone [default: criteo]
    #[arg(long, value_enum)]
    dataset: Option<Preset>,
}

/// What is printed.
#[derive(Serialize)]
struct Description {
    architecture: PathBuf,
    dense_inputs: usize,
    categorical_fields: usize,
    blocks: Vec<BlockDescription>,
    macs: u64,
    macs_with_dead_code: u64,
    params: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    drawing: Option<PathBuf>,
}

/// One block; sources are 0 for the inputs and n for block n.
#[derive(Serialize)]
struct BlockDescription {
    block: usize,
    dense_operators: Vec<DenseOp>,
    dense_width: u16,
    dense_sources: Vec<usize>,
    left: Vec<usize>,
    right: Vec<usize>,
    sparse_operators: Vec<SparseOp>,
    sparse_fields: u16,
    sparse_sources: Vec<usize>,
    dense_to_sparse: bool,
    sparse_to_dense: bool,
    dense_operator_live: bool,
    sparse_operator_live: bool,
    #[serde(skip)]
    text: String,
}

pub fn run(args: &Args, console: &Console) -> Result<ExitCode> {
    let (file, place) = architecture_of(&args.target)?;
    let shape = shape(args)?;
    let path = &file.path;
    if let Some(svg) = &args.svg {
        let title = args.target.display().to_string();
        let subtitle = format!("{} multiply-accumulates", format_count(macs(path, shape)));
        write_drawing(svg, path, shape, &title, &subtitle)?;
    }
    let live = liveness(path);
    let blocks = path.blocks.iter().zip(&live).enumerate();
    let description = Description {
        architecture: place,
        dense_inputs: shape.dense,
        categorical_fields: shape.fields,
        blocks: blocks
            .map(|(i, (block, live))| BlockDescription::new(i + 1, block, *live))
            .collect(),
        macs: macs(path, shape),
        macs_with_dead_code: macs_with_dead_code(path, shape),
        params: params(path, shape),
        drawing: args.svg.clone(),
    };
    console.result(&description, || description.text(path))?;
    Ok(ExitCode::SUCCESS)
}

/// The data of the trained model, or those of a preset.
fn shape(args: &Args) -> Result<Shape> {
    if args.dataset.is_none()
        && let Ok(model) = ModelFolder::open(&args.target)
    {
        return Ok(model.description.inputs.shape());
    }
    let name = args.dataset.unwrap_or(Preset::Criteo).name();
    Ok(DatasetPreset::find(name).context("a preset is missing")?.shape)
}

impl BlockDescription {
    fn new(number: usize, block: &Block, live: BlockLiveness) -> Self {
        let list = |set: Set| set.iter().collect();
        Self {
            block: number,
            dense_operators: DenseOp::ALL.into_iter().filter(|&op| block.has_dense(op)).collect(),
            dense_width: block.dense_width,
            dense_sources: list(block.dense_sources),
            left: list(block.left),
            right: list(block.right),
            sparse_operators: SparseOp::ALL
                .into_iter()
                .filter(|&op| block.has_sparse(op))
                .collect(),
            sparse_fields: block.sparse_width,
            sparse_sources: list(block.sparse_sources),
            dense_to_sparse: block.dense_to_sparse,
            sparse_to_dense: block.sparse_to_dense,
            dense_operator_live: live.dense_operator,
            sparse_operator_live: live.sparse_operator,
            text: block_text(number, block, live),
        }
    }
}

impl Description {
    fn text(&self, path: &Path) -> String {
        let mut lines = vec![format!(
            "{}: {} blocks on {} dense inputs and {} fields",
            self.architecture.display(),
            path.blocks.len(),
            self.dense_inputs,
            self.categorical_fields
        )];
        lines.extend(self.blocks.iter().map(|block| block.text.clone()));
        let n = path.blocks.len();
        lines.push(format!("head      logit of D{n} and S{n}"));
        lines.push(format!(
            "cost      {} multiply-accumulates a sample ({} with dead code), {} weights outside the tables",
            format_count(self.macs),
            format_count(self.macs_with_dead_code),
            format_count(self.params)
        ));
        if let Some(drawing) = &self.drawing {
            lines.push(format!("drawing   {}", drawing.display()));
        }
        lines.join("\n")
    }
}

/// Two lines a block, dense and sparse side.
fn block_text(number: usize, block: &Block, live: BlockLiveness) -> String {
    let dense = DenseOp::ALL.into_iter().filter(|&op| block.has_dense(op)).map(|op| {
        let (d, s) = (names('D', block.dense_sources), names('S', block.sparse_sources));
        let (left, right) = (names('D', block.left), names('D', block.right));
        match op {
            DenseOp::Fc => format!("fully connected over {d}"),
            DenseOp::DotProduct => format!("dot products of {d} and {s}"),
            DenseOp::SigmoidGating => format!("sigmoid gate of {left} on {right}"),
            DenseOp::Sum => format!("sum of {left} and {right}"),
            DenseOp::Zero => "nothing".into(),
        }
    });
    let sparse = SparseOp::ALL.into_iter().filter(|&op| block.has_sparse(op)).map(|op| {
        let s = names('S', block.sparse_sources);
        match op {
            SparseOp::Attention => format!("attention over {s}"),
            SparseOp::Efc => format!("embedding fully connected over {s}"),
            SparseOp::Zero => "nothing".into(),
        }
    });
    let dense: Vec<_> = dense.collect();
    let sparse: Vec<_> = sparse.collect();
    let mut lines = [
        format!("block {number:<3} D{number} = {}, {} wide", dense.join(" + "), block.dense_width),
        format!("          S{number} = {}, {} fields", sparse.join(" + "), block.sparse_width),
    ];
    if block.sparse_to_dense {
        lines[0] += &format!(", plus the pairs of S{number}");
    }
    if block.dense_to_sparse {
        lines[1] += &format!(", plus {MERGE_FIELDS} fields of D{number}");
    }
    for (line, live) in lines.iter_mut().zip([live.dense_operator, live.sparse_operator]) {
        if !live {
            *line += " (dead: never reaches the head)";
        }
    }
    lines.join("\n")
}

fn names(letter: char, set: Set) -> String {
    let names: Vec<String> = set.iter().map(|j| format!("{letter}{j}")).collect();
    if names.is_empty() { "nothing".into() } else { names.join(", ") }
}
