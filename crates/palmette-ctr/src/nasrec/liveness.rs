//! Which parts of a path reach the head.

use smallvec::{SmallVec, smallvec};

use super::{DenseOp, Path, SparseOp};

/// What of a block reaches the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockLiveness {
    /// Somebody reads the dense output D, so the sparse-to-dense merge (if on) runs.
    pub dense_output: bool,
    /// Somebody reads the sparse output S, so the dense-to-sparse merge (if on) runs.
    pub sparse_output: bool,
    /// The dense operator runs: for D, or for the dense-to-sparse merge.
    pub dense_operator: bool,
    /// The sparse operator runs: for S, or for the sparse-to-dense merge.
    pub sparse_operator: bool,
}

impl BlockLiveness {
    /// Whether nothing of the block reaches the head.
    pub fn is_dead(self) -> bool {
        !self.dense_operator && !self.sparse_operator
    }
}

/// Liveness of every block, from the head backwards.
///
/// The head needs D and S of the last block. D needs the dense operator and,
/// with the sparse-to-dense merge, the sparse operator; S needs the sparse
/// operator and, with the dense-to-sparse merge, the dense operator. FC reads
/// the dense sources, DP the dense and the sparse ones, SG and Sum read L and R
/// alone, the zero operators nothing.
pub fn liveness(path: &Path) -> Vec<BlockLiveness> {
    live_blocks(path).into_vec()
}

/// [`liveness`], on the stack for the seven blocks of the published spaces.
pub(super) fn live_blocks(path: &Path) -> SmallVec<[BlockLiveness; 8]> {
    let n = path.blocks.len();
    let mut live = smallvec![BlockLiveness::default(); n];
    let mut dense_read = 1u32 << n;
    let mut sparse_read = 1u32 << n;
    for (index, block) in path.blocks.iter().enumerate().rev() {
        let dense_output = dense_read >> (index + 1) & 1 == 1;
        let sparse_output = sparse_read >> (index + 1) & 1 == 1;
        let dense_operator = dense_output || sparse_output && block.dense_to_sparse;
        let sparse_operator = sparse_output || dense_output && block.sparse_to_dense;
        live[index] =
            BlockLiveness { dense_output, sparse_output, dense_operator, sparse_operator };
        if dense_operator {
            if block.reads_dense_sources() {
                dense_read |= block.dense_sources.0;
            }
            if block.has_dense(DenseOp::DotProduct) {
                sparse_read |= block.sparse_sources.0;
            }
            if block.is_binary() {
                dense_read |= block.left.0 | block.right.0;
            }
        }
        if sparse_operator
            && (block.has_sparse(SparseOp::Efc) || block.has_sparse(SparseOp::Attention))
        {
            sparse_read |= block.sparse_sources.0;
        }
    }
    live
}
