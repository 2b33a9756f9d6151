//! Who reads which source: the horizontal lines and the dots on them.

use palmette_ctr::nasrec::{Block, BlockLiveness, DenseOp, Path, Set, SparseOp};

/// One vertical line into a box.
pub struct Trunk {
    /// Sources with a dot on it.
    pub sources: Set,
    /// What the reader calls it: empty, `L` or `R`.
    pub label: &'static str,
    /// Whether the reader is live.
    pub live: bool,
}

/// Lines from the dense sources into the dense box.
pub fn dense_trunks(block: &Block, live: BlockLiveness) -> Vec<Trunk> {
    let mut trunks = Vec::new();
    let mut push = |sources: Set, label| {
        if !sources.is_empty() {
            trunks.push(Trunk { sources, label, live: live.dense_operator });
        }
    };
    if block.reads_dense_sources() {
        push(block.dense_sources, "");
    }
    if block.is_binary() {
        push(block.right, "R");
        push(block.left, "L");
    }
    trunks
}

/// What the line from the sparse sources feeds.
pub struct SparseTrunk {
    /// Sources with a dot on it.
    pub sources: Set,
    /// Whether the sparse operator reads it, and is live.
    pub mixes: Option<bool>,
    /// Whether dot products read it, and are live.
    pub pairs: Option<bool>,
}

impl SparseTrunk {
    pub fn live(&self) -> bool {
        self.mixes == Some(true) || self.pairs == Some(true)
    }
}

/// The line from the sparse sources, unless nothing reads it.
pub fn sparse_trunk(block: &Block, live: BlockLiveness) -> Option<SparseTrunk> {
    let mixes = block.has_sparse(SparseOp::Attention) || block.has_sparse(SparseOp::Efc);
    let pairs = block.has_dense(DenseOp::DotProduct);
    let trunk = SparseTrunk {
        sources: block.sparse_sources,
        mixes: mixes.then_some(live.sparse_operator),
        pairs: pairs.then_some(live.dense_operator),
    };
    ((mixes || pairs) && !block.sparse_sources.is_empty()).then_some(trunk)
}

/// Where a line ends: block and slot of the trunk that reads it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub block: usize,
    pub slot: usize,
}

/// How far a source's line runs: to its last reader, and to its last live one.
#[derive(Clone, Copy, Default)]
pub struct Reach {
    pub any: Option<End>,
    pub live: Option<End>,
}

/// Reach of every dense and every sparse source that is not the last block's.
pub fn reaches(path: &Path, liveness: &[BlockLiveness]) -> (Vec<Reach>, Vec<Reach>) {
    let count = path.blocks.len();
    let (mut dense, mut sparse) = (vec![Reach::default(); count], vec![Reach::default(); count]);
    let mark = |reach: &mut Vec<Reach>, sources: Set, end: End, live: bool| {
        for source in sources.iter() {
            reach[source].any = Some(end);
            if live {
                reach[source].live = Some(end);
            }
        }
    };
    for (index, (block, &live)) in path.blocks.iter().zip(liveness).enumerate() {
        // The outermost trunk first, so that a line read by two ends at the inner one.
        for (slot, trunk) in dense_trunks(block, live).iter().enumerate().rev() {
            mark(&mut dense, trunk.sources, End { block: index + 1, slot }, trunk.live);
        }
        if let Some(trunk) = sparse_trunk(block, live) {
            mark(&mut sparse, trunk.sources, End { block: index + 1, slot: 0 }, trunk.live());
        }
    }
    (dense, sparse)
}
