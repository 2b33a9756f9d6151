//! One form for all paths that are the same network.

use smallvec::SmallVec;

use super::{
    Block, BlockLiveness, DenseOp, EMBEDDING_DIM, Form, MAX_BLOCKS, Path, Set, SparseOp,
    liveness::live_blocks,
};

/// The canonical form: equal networks have equal forms, different networks different ones.
///
/// Dead blocks are removed and the others renumbered in their order (which is
/// the order of concatenation); genes that nothing reads take fixed values:
/// source sets `{0}`, FC, EFC, the narrowest width, merges off. The operands of
/// a sum are ordered, because l + r = r + l. The result is a path that computes
/// the same function; it may have fewer blocks.
pub fn canonical(path: &Path) -> Path {
    Path { blocks: canonical_blocks(path).into_vec() }
}

/// A 128-bit hash of [`canonical`] that is stable across runs and machines.
pub fn canonical_key(path: &Path) -> u128 {
    let mut words = [0u32; 6 * MAX_BLOCKS];
    let blocks = canonical_blocks(path);
    for (block, words) in blocks.iter().zip(words.as_chunks_mut::<6>().0) {
        let flags = block.dense_ops.0 << 16
            | block.sparse_ops.0 << 8
            | u32::from(block.dense_to_sparse) << 1
            | u32::from(block.sparse_to_dense);
        let widths = u32::from(block.dense_width) << 16 | u32::from(block.sparse_width);
        *words = [
            block.dense_sources.0,
            block.sparse_sources.0,
            block.left.0,
            block.right.0,
            flags,
            widths,
        ];
    }
    palmette_space::key_of(&words[..6 * blocks.len()])
}

/// [`canonical`], on the stack for the seven blocks of the published spaces.
fn canonical_blocks(path: &Path) -> SmallVec<[Block; 8]> {
    let mut renumbered = [0u8; 32];
    let mut blocks = SmallVec::new();
    for (index, (block, live)) in path.blocks.iter().zip(live_blocks(path)).enumerate() {
        if live.is_dead() {
            continue;
        }
        let rename = |set: Set| -> Set {
            set.iter().map(|source| usize::from(renumbered[source])).collect()
        };
        blocks.push(canonical_block(block, live, rename));
        renumbered[index + 1] = blocks.len() as u8;
    }
    blocks
}

fn canonical_block(block: &Block, live: BlockLiveness, rename: impl Fn(Set) -> Set) -> Block {
    let raw = Set::only(0);
    let when = |relevant: bool, set: Set| if relevant { rename(set) } else { raw };
    let dense_ops = if live.dense_operator {
        without_zero(block.dense_ops, DenseOp::Zero as usize)
    } else {
        Set::only(DenseOp::Fc as usize)
    };
    let sparse_ops = if live.sparse_operator {
        without_zero(block.sparse_ops, SparseOp::Zero as usize)
    } else {
        Set::only(SparseOp::Efc as usize)
    };
    let has_dense = |op: DenseOp| live.dense_operator && block.has_dense(op);
    let reads_sparse = live.sparse_operator
        && (block.has_sparse(SparseOp::Efc) || block.has_sparse(SparseOp::Attention))
        || has_dense(DenseOp::DotProduct);
    let binary = live.dense_operator && block.is_binary();
    let (mut left, mut right) = (when(binary, block.left), when(binary, block.right));
    if binary && !has_dense(DenseOp::SigmoidGating) && left > right {
        std::mem::swap(&mut left, &mut right);
    }
    Block {
        dense_ops,
        sparse_ops,
        dense_sources: when(
            live.dense_operator && block.reads_dense_sources(),
            block.dense_sources,
        ),
        sparse_sources: when(reads_sparse, block.sparse_sources),
        left,
        right,
        dense_width: if live.dense_operator { block.dense_width } else { EMBEDDING_DIM as u16 },
        sparse_width: if live.sparse_operator { block.sparse_width } else { EMBEDDING_DIM as u16 },
        dense_to_sparse: block.dense_to_sparse && live.sparse_output,
        sparse_to_dense: block.adds_pairs(live, Form::Standalone),
    }
}

/// A zero operator beside others adds nothing.
fn without_zero(ops: Set, zero: usize) -> Set {
    let others = Set(ops.0 & !(1 << zero));
    if others.is_empty() { ops } else { others }
}
