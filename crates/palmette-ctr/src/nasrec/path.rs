//! A path through the NASRec supernet, and the data it is shaped by.

use serde::{Deserialize, Serialize};

use super::Form;

/// Embedding dimension of every table in the NASRec spaces (E).
pub const EMBEDDING_DIM: usize = 16;
/// Fields that the dense-to-sparse merge appends.
pub const MERGE_FIELDS: usize = 8;
/// The most blocks a path may have; source sets are `u32` bit masks over the raw input and the blocks.
pub const MAX_BLOCKS: usize = 31;

/// What the data gives a model: number of dense inputs and of categorical fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// Dense inputs, nd (Criteo 13, Avazu 1, KDD Cup 2012 3).
    pub dense: usize,
    /// Categorical fields, ns (Criteo 26, Avazu 23, KDD Cup 2012 10).
    pub fields: usize,
}

/// Operators on the dense side of a block (NASRec, table of operators).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DenseOp {
    /// Fully connected layer with ReLU.
    Fc,
    /// Dot products of all pairs of projected fields.
    DotProduct,
    /// sigmoid(U l + b) * r, projected.
    SigmoidGating,
    /// l + r, projected.
    Sum,
    /// Nothing (only in the variant with zero operators).
    Zero,
}

/// Operators on the sparse side of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SparseOp {
    /// Transformer encoder over fields.
    Attention,
    /// Embedding fully connected: mixes fields, shared over the channels, with ReLU.
    Efc,
    /// Nothing (only in the variant with zero operators).
    Zero,
}

impl DenseOp {
    /// All dense operators, in the order of their bits.
    pub const ALL: [Self; 5] =
        [Self::Fc, Self::DotProduct, Self::SigmoidGating, Self::Sum, Self::Zero];
}

impl SparseOp {
    /// All sparse operators, in the order of their bits.
    pub const ALL: [Self; 3] = [Self::Attention, Self::Efc, Self::Zero];
}

/// A small set, stored as a bit mask.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Set(pub u32);

impl Set {
    /// The set of one element.
    pub fn only(index: usize) -> Self {
        Self(1 << index)
    }

    /// `{0, .., n - 1}`.
    pub fn first(n: usize) -> Self {
        Self(if n >= 32 { u32::MAX } else { (1 << n) - 1 })
    }

    /// Whether `index` is a member.
    pub fn has(self, index: usize) -> bool {
        index < 32 && self.0 >> index & 1 == 1
    }

    /// Adds `index`.
    pub fn insert(&mut self, index: usize) {
        self.0 |= 1 << index;
    }

    /// Number of members.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is no member.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Members in ascending order.
    pub fn iter(self) -> impl Iterator<Item = usize> + Clone {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let index = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            (index < 32).then_some(index as usize)
        })
    }
}

impl FromIterator<usize> for Set {
    fn from_iter<I: IntoIterator<Item = usize>>(items: I) -> Self {
        let mut set = Self::default();
        items.into_iter().for_each(|i| set.insert(i));
        set
    }
}

/// One choice block of a path.
///
/// A *path* is a superset of a genotype: operators, left and right are sets
/// whose outputs are summed, so that any-path and full-path training steps are
/// paths too. In a genotype each of the four has exactly one member.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Block {
    /// Dense operators, bits in the order of [`DenseOp::ALL`].
    pub dense_ops: Set,
    /// Sparse operators, bits in the order of [`SparseOp::ALL`].
    pub sparse_ops: Set,
    /// Sources of the dense side; 0 is the raw input, j is block j (counted from 1).
    pub dense_sources: Set,
    /// Sources of the sparse side.
    pub sparse_sources: Set,
    /// Left operand of the binary operators (the gate).
    pub left: Set,
    /// Right operand of the binary operators.
    pub right: Set,
    /// Dense output width, d.
    pub dense_width: u16,
    /// Sparse output fields before the merge, s.
    pub sparse_width: u16,
    /// Dense-to-sparse merge (`dense_sparse_interact`): appends eight fields made of the dense output.
    pub dense_to_sparse: bool,
    /// Sparse-to-dense merge (`deep_fm`): adds a projected factorisation-machine term to the dense output.
    pub sparse_to_dense: bool,
}

impl Block {
    /// Whether `op` is on.
    pub fn has_dense(&self, op: DenseOp) -> bool {
        self.dense_ops.has(op as usize)
    }

    /// Whether `op` is on.
    pub fn has_sparse(&self, op: SparseOp) -> bool {
        self.sparse_ops.has(op as usize)
    }

    /// Whether a dense operator reads the dense sources (FC or DP).
    pub fn reads_dense_sources(&self) -> bool {
        self.has_dense(DenseOp::Fc) || self.has_dense(DenseOp::DotProduct)
    }

    /// Whether a dense operator reads the left and right operands (SG or Sum).
    pub fn is_binary(&self) -> bool {
        self.has_dense(DenseOp::SigmoidGating) || self.has_dense(DenseOp::Sum)
    }

    /// Whether the dense-to-sparse merge reads the dense output itself, without a projection.
    ///
    /// The released code then takes a view, which the in-place addition of the
    /// sparse-to-dense merge changes: with d = 128 alone the appended fields
    /// include that term. Standalone networks compute what that code computes; the supernet
    /// always projects.
    pub fn merge_is_a_view(&self, form: Form) -> bool {
        form == Form::Standalone && usize::from(self.dense_width) == EMBEDDING_DIM * MERGE_FIELDS
    }

    /// Whether the sparse-to-dense merge runs: something reads the sum that it makes.
    pub fn adds_pairs(&self, live: super::BlockLiveness, form: Form) -> bool {
        let through_view = live.sparse_output && self.dense_to_sparse && self.merge_is_a_view(form);
        self.sparse_to_dense && (live.dense_output || through_view)
    }

    /// Fields of this block's sparse output, the merge's included.
    pub fn output_fields(&self) -> usize {
        usize::from(self.sparse_width) + if self.dense_to_sparse { MERGE_FIELDS } else { 0 }
    }
}

/// A path through the supernet; a network when every block holds one operator a side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Path {
    /// The blocks in order; the last one feeds the head.
    pub blocks: Vec<Block>,
}

impl Path {
    /// Whether every block reads what stands before it, for paths from files.
    ///
    /// # Errors
    /// What is wrong and in which block, counted from 1.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=MAX_BLOCKS).contains(&self.blocks.len()) {
            return Err(format!("{} blocks; needed: 1 to {MAX_BLOCKS}", self.blocks.len()));
        }
        for (index, block) in self.blocks.iter().enumerate() {
            let candidates = Set::first(index + 1);
            for (name, set, allowed) in [
                ("dense_ops", block.dense_ops, Set::first(DenseOp::ALL.len())),
                ("sparse_ops", block.sparse_ops, Set::first(SparseOp::ALL.len())),
                ("dense_sources", block.dense_sources, candidates),
                ("sparse_sources", block.sparse_sources, candidates),
                ("left", block.left, candidates),
                ("right", block.right, candidates),
            ] {
                if set.is_empty() || set.0 & !allowed.0 != 0 {
                    let number = index + 1;
                    return Err(format!(
                        "block {number}: {name} is the set {:#b}; needed: at least one of {:#b}",
                        set.0, allowed.0
                    ));
                }
            }
            if block.dense_width == 0 || block.sparse_width == 0 {
                return Err(format!("block {}: a width is 0; needed: 1 to 65535", index + 1));
            }
        }
        Ok(())
    }

    /// Width of dense source `source` (0 = raw input).
    pub fn dense_width(&self, shape: Shape, source: usize) -> usize {
        if source == 0 { shape.dense } else { usize::from(self.blocks[source - 1].dense_width) }
    }

    /// Width of the concatenation of dense `sources`.
    pub fn dense_concat(&self, shape: Shape, sources: Set) -> usize {
        sources.iter().map(|source| self.dense_width(shape, source)).sum()
    }

    /// Fields of the concatenation of sparse `sources`.
    pub fn sparse_concat(&self, shape: Shape, sources: Set) -> usize {
        sources.iter().map(|source| self.sparse_fields(shape, source)).sum()
    }

    /// Fields of sparse source `source` (0 = raw input).
    pub fn sparse_fields(&self, shape: Shape, source: usize) -> usize {
        if source == 0 { shape.fields } else { self.blocks[source - 1].output_fields() }
    }
}
