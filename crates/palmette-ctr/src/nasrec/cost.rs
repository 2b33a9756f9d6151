//! Multiply-accumulates and parameters of a path, in closed form.
//!
//! Counted per sample: linear layers, the Gram matrix of DP, attention's
//! projections and its two s x s products, its feed-forward layers, the merges
//! and the head. Not counted: biases, softmax, norms, activations, look-ups.
//! With dead code skipped these reproduce the column that the NASRec paper
//! calls FLOPs.

use super::{
    Block, BlockLiveness, DenseOp, EMBEDDING_DIM, Form, MERGE_FIELDS, Path, Shape, SparseOp,
    liveness::live_blocks,
};

const E: u64 = EMBEDDING_DIM as u64;
/// Width that the dense-to-sparse merge reshapes into fields.
const MERGE_WIDTH: u64 = (EMBEDDING_DIM * MERGE_FIELDS) as u64;
/// Parameters of attention beside its field projection: input and output projections, two
/// feed-forward layers, two norms.
const ATTENTION_PARAMS: u64 = 4 * (E * E + E) + 2 * (E * E + E) + 4 * E;

/// Multiply-accumulates per sample and parameters of a part of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    macs: u64,
    params: u64,
}

impl std::ops::AddAssign for Size {
    fn add_assign(&mut self, other: Self) {
        self.macs += other.macs;
        self.params += other.params;
    }
}

/// A linear layer with bias, used once a sample.
fn linear(inputs: u64, outputs: u64) -> Size {
    Size { macs: inputs * outputs, params: inputs * outputs + outputs }
}

/// A linear layer that is left out where the sizes agree already.
fn projection(inputs: u64, outputs: u64) -> Size {
    if inputs == outputs { Size::default() } else { linear(inputs, outputs) }
}

/// A linear layer over the fields with bias, shared by the 16 channels.
fn field_mix(inputs: u64, outputs: u64) -> Size {
    Size { macs: E * inputs * outputs, params: inputs * outputs + outputs }
}

/// Fields that DP projects to, k = round(sqrt(2 d)): about d pairs.
pub fn projected_fields(dense_width: usize) -> usize {
    ((2 * dense_width) as f64).sqrt().round() as usize
}

/// Multiply-accumulates per sample of the standalone network, dead code skipped.
pub fn macs(path: &Path, shape: Shape) -> u64 {
    standalone(path, shape, &live_blocks(path)).macs
}

/// Multiply-accumulates per sample of the standalone network with what never reaches the head.
pub fn macs_with_dead_code(path: &Path, shape: Shape) -> u64 {
    standalone(path, shape, &everything(path)).macs
}

/// Parameters of the standalone network (layer norm off, biases on) without
/// embedding tables, dead code skipped.
pub fn params(path: &Path, shape: Shape) -> u64 {
    standalone(path, shape, &live_blocks(path)).params
}

/// Like [`params`], with what never reaches the head.
pub fn params_with_dead_code(path: &Path, shape: Shape) -> u64 {
    standalone(path, shape, &everything(path)).params
}

/// Multiply-accumulates per sample of a path of the supernet, dead code skipped.
///
/// Slices of shared weights: projections are never skipped, SG reads U[R slot, L slot] and
/// V[., R slot], Sum reads V's slots of L and R, DP the prefix k of projected fields. Operators
/// that are summed are counted each.
pub fn supernet_macs(path: &Path, shape: Shape) -> u64 {
    let blocks = path.blocks.iter().zip(live_blocks(path));
    let blocks: u64 = blocks.map(|(block, live)| supernet_block(path, shape, block, live)).sum();
    blocks + head(path, shape).macs
}

/// Multiply-accumulates and parameters of the live part, counted in one pass.
pub(crate) fn live_size(path: &Path, shape: Shape) -> (u64, u64) {
    let size = standalone(path, shape, &live_blocks(path));
    (size.macs, size.params)
}

fn everything(path: &Path) -> Vec<BlockLiveness> {
    let live = BlockLiveness {
        dense_output: true,
        sparse_output: true,
        dense_operator: true,
        sparse_operator: true,
    };
    vec![live; path.blocks.len()]
}

fn standalone(path: &Path, shape: Shape, live: &[BlockLiveness]) -> Size {
    let mut total = head(path, shape);
    for (block, live) in path.blocks.iter().zip(live) {
        for part in block_parts(path, shape, block, *live) {
            total += part;
        }
    }
    total
}

/// Dense operators, sparse operators, dense-to-sparse and sparse-to-dense merge.
fn block_parts(path: &Path, shape: Shape, block: &Block, live: BlockLiveness) -> [Size; 4] {
    let d = u64::from(block.dense_width);
    let mut parts = [Size::default(); 4];
    if live.dense_operator {
        for op in block.dense_ops.iter() {
            parts[0] += standalone_dense(path, shape, block, DenseOp::ALL[op]);
        }
    }
    if live.sparse_operator {
        for op in block.sparse_ops.iter() {
            parts[1] += sparse(path, shape, block, SparseOp::ALL[op]);
        }
    }
    if live.sparse_output && block.dense_to_sparse {
        parts[2] += projection(d, MERGE_WIDTH);
    }
    if block.adds_pairs(live, Form::Standalone) {
        parts[3] += projection(E, d);
    }
    parts
}

/// Multiply-accumulates per sample of the parts of a block of the standalone network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockMacs {
    /// Operators of the dense side.
    pub dense: u64,
    /// Operators of the sparse side.
    pub sparse: u64,
    /// The merge that makes fields of the dense output.
    pub dense_to_sparse: u64,
    /// The merge that adds pairs of the fields to the dense output.
    pub sparse_to_dense: u64,
}

/// What each block costs, whether it reaches the head or not, and the head.
pub fn macs_by_block(path: &Path, shape: Shape) -> (Vec<BlockMacs>, u64) {
    let blocks = path.blocks.iter().zip(everything(path)).map(|(block, live)| {
        let [dense, sparse, dense_to_sparse, sparse_to_dense] =
            block_parts(path, shape, block, live).map(|part| part.macs);
        BlockMacs { dense, sparse, dense_to_sparse, sparse_to_dense }
    });
    (blocks.collect(), head(path, shape).macs)
}

fn head(path: &Path, shape: Shape) -> Size {
    let last = path.blocks.len();
    let inputs = path.dense_width(shape, last) + EMBEDDING_DIM * path.sparse_fields(shape, last);
    linear(inputs as u64, 1)
}

fn standalone_dense(path: &Path, shape: Shape, block: &Block, op: DenseOp) -> Size {
    let d = u64::from(block.dense_width);
    let mut size = Size::default();
    match op {
        DenseOp::Fc => size += linear(path.dense_concat(shape, block.dense_sources) as u64, d),
        DenseOp::DotProduct => {
            let (p, n, k) = dot_product_sizes(path, shape, block);
            size += projection(p, E);
            if n != k {
                size += field_mix(n, k);
            }
            size.macs += E * (k + 1) * (k + 1);
            size += projection(k * (k + 1) / 2, d);
        }
        DenseOp::SigmoidGating | DenseOp::Sum => {
            let width = |set| path.dense_concat(shape, set) as u64;
            let m = width(block.left).max(width(block.right));
            if op == DenseOp::SigmoidGating {
                size += linear(m, m);
            }
            size += projection(m, d);
        }
        DenseOp::Zero => {}
    }
    size
}

/// (p, n, k) of DP.
fn dot_product_sizes(path: &Path, shape: Shape, block: &Block) -> (u64, u64, u64) {
    (
        path.dense_concat(shape, block.dense_sources) as u64,
        path.sparse_concat(shape, block.sparse_sources) as u64,
        projected_fields(block.dense_width.into()) as u64,
    )
}

/// The sparse operators cost the same in both forms.
fn sparse(path: &Path, shape: Shape, block: &Block, op: SparseOp) -> Size {
    let n = path.sparse_concat(shape, block.sparse_sources) as u64;
    let s = u64::from(block.sparse_width);
    let mut size = Size::default();
    match op {
        SparseOp::Efc => size += field_mix(n, s),
        SparseOp::Attention => {
            size += field_mix(n, s);
            size.params += ATTENTION_PARAMS;
            // Input projections 3 E^2, two products of s x s x E, output projection E^2, feed-forward 2 E^2.
            size.macs += s * 6 * E * E + 2 * E * s * s;
        }
        SparseOp::Zero => {}
    }
    size
}

fn supernet_block(path: &Path, shape: Shape, block: &Block, live: BlockLiveness) -> u64 {
    let d = u64::from(block.dense_width);
    let width = |set| path.dense_concat(shape, set) as u64;
    let mut macs = 0;
    if live.dense_operator {
        for op in block.dense_ops.iter() {
            macs += match DenseOp::ALL[op] {
                DenseOp::Fc => width(block.dense_sources) * d,
                DenseOp::DotProduct => {
                    let (p, n, k) = dot_product_sizes(path, shape, block);
                    E * p + E * n * k + E * (k + 1) * (k + 1) + k * (k + 1) / 2 * d
                }
                DenseOp::SigmoidGating => {
                    width(block.left) * width(block.right) + width(block.right) * d
                }
                DenseOp::Sum => width(super::Set(block.left.0 | block.right.0)) * d,
                DenseOp::Zero => 0,
            };
        }
    }
    if live.sparse_operator {
        for op in block.sparse_ops.iter() {
            macs += sparse(path, shape, block, SparseOp::ALL[op]).macs;
        }
    }
    if live.sparse_output && block.dense_to_sparse {
        macs += d * MERGE_WIDTH;
    }
    if block.adds_pairs(live, Form::Supernet) {
        macs += E * d;
    }
    macs
}
