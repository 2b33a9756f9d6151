//! The operators, one file each: formula, shapes, forward, backward, cost.

mod add;
mod attend;
mod attention;
mod attention_row;
mod embedding;
mod field_mix;
mod gate;
mod gram;
mod gram_row;
mod head;
mod jagged_attention;
mod jagged_embedding;
mod linear;
mod merge;
mod norm;
mod outer;
mod panel;
mod pool;
mod row_map;
mod target_attention;
mod zeros;

pub use add::{Add, Multiply};
pub use attention::AttentionCore;
pub use embedding::{DenseInput, Embedding};
pub use field_mix::FieldMix;
pub use gate::Gate;
pub use gram::Gram;
pub use head::{Head, HeadPiece};
pub use jagged_attention::JaggedAttention;
pub use jagged_embedding::JaggedEmbedding;
pub use linear::Linear;
pub use merge::{FactorizationMachine, FieldSums, FieldsFromRows, RowsFromFields};
pub use norm::AddNorm;
pub use outer::Outer;
pub use pool::{Pool, Pooling};
pub use row_map::RowMap;
pub use target_attention::TargetAttention;
pub use zeros::Zeros;

use pulp::Simd;

use crate::Real;
use crate::chunk::Chunk;
use crate::program::{BufferId, Program, Span};

/// A typed operator with explicit forward and backward.
///
/// Operators are plain structs in one enum, not boxed objects: building the
/// program of a fresh path then allocates nothing.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // each variant is documented at its struct
pub enum Op {
    DenseInput(DenseInput),
    Embedding(Embedding),
    Linear(Linear),
    FieldMix(FieldMix),
    RowMap(RowMap),
    Gram(Gram),
    Gate(Gate),
    Add(Add),
    Multiply(Multiply),
    Attention(AttentionCore),
    AddNorm(AddNorm),
    FieldsFromRows(FieldsFromRows),
    RowsFromFields(RowsFromFields),
    FactorizationMachine(FactorizationMachine),
    FieldSums(FieldSums),
    Outer(Outer),
    Head(Head),
    Zeros(Zeros),
    JaggedEmbedding(JaggedEmbedding),
    Pool(Pool),
    TargetAttention(TargetAttention),
    JaggedAttention(JaggedAttention),
}

/// What kind of work an operator is, for the time split of benchmarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Matrix products and their epilogues.
    Product,
    /// Attention, its projections and norms.
    Attention,
    /// Gathering rows of tables.
    Embedding,
    /// Everything else.
    Other,
}

macro_rules! each {
    ($op:expr, $inner:ident => $body:expr) => {
        match $op {
            Op::DenseInput($inner) => $body,
            Op::Embedding($inner) => $body,
            Op::Linear($inner) => $body,
            Op::FieldMix($inner) => $body,
            Op::RowMap($inner) => $body,
            Op::Gram($inner) => $body,
            Op::Gate($inner) => $body,
            Op::Add($inner) => $body,
            Op::Multiply($inner) => $body,
            Op::Attention($inner) => $body,
            Op::AddNorm($inner) => $body,
            Op::FieldsFromRows($inner) => $body,
            Op::RowsFromFields($inner) => $body,
            Op::FactorizationMachine($inner) => $body,
            Op::FieldSums($inner) => $body,
            Op::Outer($inner) => $body,
            Op::Head($inner) => $body,
            Op::Zeros($inner) => $body,
            Op::JaggedEmbedding($inner) => $body,
            Op::Pool($inner) => $body,
            Op::TargetAttention($inner) => $body,
            Op::JaggedAttention($inner) => $body,
        }
    };
}

impl Op {
    /// The span of inputs in the program's pool.
    pub fn inputs(&self) -> Span {
        each!(self, op => op.inputs())
    }

    /// What it computes.
    pub fn out(&self) -> BufferId {
        each!(self, op => op.out)
    }

    /// Multiply-accumulates of one row's forward pass.
    pub fn macs(&self, program: &Program) -> u64 {
        each!(self, op => op.macs(program))
    }

    /// The kind of work.
    pub fn work(&self) -> Work {
        match self {
            Op::Linear(_) | Op::FieldMix(_) | Op::Gram(_) => Work::Product,
            Op::Attention(_) | Op::AddNorm(_) | Op::RowMap(_) => Work::Attention,
            Op::TargetAttention(_) | Op::JaggedAttention(_) => Work::Attention,
            Op::Embedding(_) | Op::JaggedEmbedding(_) | Op::Pool(_) => Work::Embedding,
            _ => Work::Other,
        }
    }

    /// Elements of scratch that depend on the longest row of a list.
    pub(crate) fn scratch_len(&self, longest: impl Fn(usize) -> usize) -> usize {
        match self {
            Op::TargetAttention(op) => TargetAttention::scratch_len(longest(op.list)),
            Op::JaggedAttention(op) => JaggedAttention::scratch_len(longest(op.list)),
            _ => 0,
        }
    }

    /// Values of the outputs.
    ///
    /// Each operator is a function of its own that has the instruction set: one function for all
    /// would be too large for the compiler to allot registers well.
    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, simd: S, chunk: &Chunk<'_, T>) {
        each!(self, op => {
            let once = Once(chunk);
            simd.vectorize(#[inline(always)] move || op.forward(simd, once.take()));
        });
    }

    /// Gradients of the inputs and partial sums of the small parameters.
    #[inline(always)]
    pub(crate) fn backward<T: Real, S: Simd>(&self, simd: S, chunk: &Chunk<'_, T>) {
        each!(self, op => {
            let once = Once(chunk);
            simd.vectorize(#[inline(always)] move || op.backward(simd, once.take()));
        });
    }
}

/// Makes a closure callable once only: the adapter through which a repeatable closure is called
/// once is never inlined, and the work would lose the instruction set.
struct Once<'a, 'c, T>(&'a Chunk<'c, T>);

impl<'a, 'c, T> Once<'a, 'c, T> {
    #[inline(always)]
    fn take(self) -> &'a Chunk<'c, T> {
        self.0
    }
}
