//! Which parts of a network reach its head.

use palmette_ctr::nasrec::{DenseOp, Path, Set, SparseOp};

use super::{is_binary, reads_dense};

/// Liveness of one block's parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveBlock {
    /// The dense output D_i is read.
    pub dense: bool,
    /// The sparse output S_i is read.
    pub sparse: bool,
    /// The dense operator is needed.
    pub dense_op: bool,
    /// The sparse operator is needed.
    pub sparse_op: bool,
    /// The dense-to-sparse merge is needed.
    pub dense_to_sparse: bool,
    /// The sparse-to-dense merge is needed.
    pub sparse_to_dense: bool,
}

/// Liveness of a whole network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// The blocks in order.
    pub blocks: Vec<LiveBlock>,
    /// Dense sources that something live reads; 0 is the raw input.
    pub dense: Set,
    /// Sparse sources that something live reads.
    pub sparse: Set,
}

/// Walks back from the head, which needs both outputs of the last block.
///
/// D_i needs its dense operator and, if merged, its sparse operator; S_i needs its
/// sparse operator and, if merged, its dense operator; dot products need both input sets.
pub fn liveness(path: &Path) -> Liveness {
    let count = path.blocks.len();
    let mut blocks = vec![LiveBlock::default(); count];
    let (mut dense, mut sparse) = (Set::only(count), Set::only(count));
    for (index, block) in path.blocks.iter().enumerate().rev() {
        let (dense_out, sparse_out) = (dense.has(index + 1), sparse.has(index + 1));
        let dense_to_sparse = sparse_out && block.dense_to_sparse;
        let sparse_to_dense = dense_out && block.sparse_to_dense;
        let live = LiveBlock {
            dense: dense_out,
            sparse: sparse_out,
            dense_op: dense_out || dense_to_sparse,
            sparse_op: sparse_out || sparse_to_dense,
            dense_to_sparse,
            sparse_to_dense,
        };
        if live.dense_op && reads_dense(block) {
            dense.0 |= block.dense_sources.0;
        }
        if live.dense_op && is_binary(block) {
            dense.0 |= block.left.0 | block.right.0;
        }
        let mixes = block.has_sparse(SparseOp::Attention) || block.has_sparse(SparseOp::Efc);
        let pairs = block.has_dense(DenseOp::DotProduct);
        if (live.sparse_op && mixes) || (live.dense_op && pairs) {
            sparse.0 |= block.sparse_sources.0;
        }
        blocks[index] = live;
    }
    Liveness { blocks, dense, sparse }
}
