//! Words of the drawing.

use palmette_ctr::nasrec::{Block, DenseOp, EMBEDDING_DIM, MERGE_FIELDS, Set, SparseOp};

/// A part of a network that has a cost of its own; blocks are counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The dense operators of a block.
    Dense(usize),
    /// The sparse operators of a block.
    Sparse(usize),
    /// The merge that appends fields made of the dense output.
    DenseToSparse(usize),
    /// The merge that adds a factorisation-machine term.
    SparseToDense(usize),
    /// The head.
    Head,
}

pub fn dense_name(block: &Block) -> String {
    let names = DenseOp::ALL.into_iter().filter(|&op| block.has_dense(op));
    join(names.map(|op| match op {
        DenseOp::Fc => ("Fully connected", "FC"),
        DenseOp::DotProduct => ("Dot product", "DP"),
        DenseOp::SigmoidGating => ("Sigmoid gate", "SG"),
        DenseOp::Sum => ("Sum", "Sum"),
        DenseOp::Zero => ("Zero", "Zero"),
    }))
}

pub fn sparse_name(block: &Block) -> String {
    let names = SparseOp::ALL.into_iter().filter(|&op| block.has_sparse(op));
    join(names.map(|op| match op {
        SparseOp::Attention => ("Attention", "Att"),
        SparseOp::Efc => ("Embedding FC", "EFC"),
        SparseOp::Zero => ("Zero", "Zero"),
    }))
}

/// One operator by its long name, several by their short ones.
fn join(names: impl Iterator<Item = (&'static str, &'static str)>) -> String {
    let names: Vec<_> = names.collect();
    match names[..] {
        [] => "Nothing".into(),
        [(long, _)] => long.into(),
        _ => names.iter().map(|n| n.1).collect::<Vec<_>>().join(" + "),
    }
}

pub fn dense_size(block: &Block) -> String {
    let merged = if block.sparse_to_dense { " (+ FM)" } else { "" };
    format!("{} wide{merged}", block.dense_width)
}

pub fn sparse_size(block: &Block) -> String {
    match block.dense_to_sparse {
        true => format!("{} + {MERGE_FIELDS} fields", block.sparse_width),
        false => format!("{} fields", block.sparse_width),
    }
}

/// `D0, D3` or `nothing`.
pub fn sources(letter: char, set: Set) -> String {
    let names: Vec<String> = set.iter().map(|j| format!("{letter}{j}")).collect();
    if names.is_empty() { "nothing".into() } else { names.join(", ") }
}

pub fn fields(count: usize) -> String {
    format!("{count} × {EMBEDDING_DIM}")
}

/// `1.45 M`, `96.0 k` or `512`: three figures, as costs are compared.
pub fn count(value: u64) -> String {
    let value_f = value as f64;
    match value {
        0..1_000 => value.to_string(),
        1_000..1_000_000 => format!("{} k", three_figures(value_f / 1e3)),
        1_000_000..1_000_000_000 => format!("{} M", three_figures(value_f / 1e6)),
        _ => format!("{} G", three_figures(value_f / 1e9)),
    }
}

fn three_figures(value: f64) -> String {
    let decimals = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.decimals$}")
}
