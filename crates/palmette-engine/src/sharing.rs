//! Several networks in one program: what they compute alike is computed once (value numbering).

use std::collections::HashMap;
use std::mem::Discriminant;

use crate::ops::Op;
use crate::program::{BufferId, Extent, Program};

/// What an operator computes, whatever the places of its outputs: its kind, what it reads, the
/// weights it multiplies with, the shapes of what it writes, and its options.
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct Key {
    kind: Discriminant<Op>,
    numbers: Box<[usize]>,
}

/// Where the pools of a program ended after its last operator.
#[derive(Clone, Copy, Default)]
pub(crate) struct Ends {
    buffers: usize,
    inputs: usize,
    weights: usize,
    slices: usize,
    partial_len: usize,
    grad_len: usize,
}

/// Operators that were added so far, and the output of each.
pub(crate) type Known = HashMap<Key, BufferId>;

impl Program {
    /// From now on until [`Program::clear`], an operator that computes what an earlier one computes
    /// is not added again: its builder method returns the earlier one's output.
    ///
    /// So several networks over the same inputs become one program that runs what they have in
    /// common once. Each still has a head of its own. Parameters then may occur in several
    /// operators, and outputs are forgotten once they were read: such programs train nothing but
    /// their heads ([`Executor::tune_heads`](crate::Executor::tune_heads)), and read no lists.
    ///
    /// # Panics
    /// When the program has operators already.
    pub fn share(&mut self) {
        assert!(self.ops.is_empty(), "a program is shared from its first operator on");
        self.known = Some(Known::default());
        self.ends = self.ends();
    }

    /// Adds an operator whose buffers, inputs and slices were added since the last one; returns
    /// `out`, or the output of the operator that computes the same.
    pub(crate) fn push(&mut self, op: Op, out: BufferId) -> BufferId {
        if self.known.is_some() && !matches!(op, Op::Head(_)) {
            let key = self.key(&op);
            if let Some(known) = &mut self.known {
                if let Some(&same) = known.get(&key) {
                    self.forget_last();
                    return same;
                }
                known.insert(key, out);
            }
        }
        self.ops.push(op);
        self.ends = self.ends();
        self.buffers_after.push(self.buffers.len() as u32);
        out
    }

    /// Whether equal operators are shared.
    pub(crate) fn is_shared(&self) -> bool {
        self.known.is_some()
    }

    /// Gives the buffers of a shared program places that others take again as soon as no operator
    /// reads them any more; only logits stay. Returns the elements of the arena.
    ///
    /// Such programs run forward only, a chunk at a time, so what a chunk needs at once stays in
    /// the cache however many networks there are.
    pub(crate) fn place_compactly(&mut self, rows: usize) -> usize {
        let (offsets, len) = self.compact_places(rows);
        for (buffer, offset) in self.buffers.iter_mut().zip(offsets) {
            buffer.offset = offset;
        }
        len
    }

    /// The places of [`Program::place_compactly`], and where the last one ends: the first gap that
    /// is large enough.
    pub(crate) fn compact_places(&self, rows: usize) -> (Vec<usize>, usize) {
        let mut last_use = vec![0; self.buffers.len()];
        for (index, op) in self.ops.iter().enumerate() {
            for input in &self.inputs[op.inputs().range()] {
                last_use[input.buffer.0 as usize] = index;
            }
            if let Op::Head(head) = op {
                last_use[head.out.0 as usize] = usize::MAX;
            }
        }
        let mut offsets = vec![0; self.buffers.len()];
        // Taken places in ascending order: start, end, last use.
        let mut taken: Vec<(usize, usize, usize)> = Vec::new();
        let (mut len, mut first) = (0, 0);
        for (index, &after) in self.buffers_after.iter().enumerate() {
            for buffer in first..after as usize {
                let elements = self.buffers[buffer].elements(rows) as usize;
                let (mut place, mut start) = (0, 0);
                for &(from, to, _) in &taken {
                    if from - start >= elements {
                        break;
                    }
                    (place, start) = (place + 1, to);
                }
                taken.insert(place, (start, start + elements, last_use[buffer]));
                offsets[buffer] = start;
                len = len.max(start + elements);
            }
            first = after as usize;
            taken.retain(|&(_, _, last)| last > index);
        }
        (offsets, len)
    }

    fn ends(&self) -> Ends {
        Ends {
            buffers: self.buffers.len(),
            inputs: self.inputs.len(),
            weights: self.weights.len(),
            slices: self.slices.len(),
            partial_len: self.partial_len,
            grad_len: self.grad_len,
        }
    }

    /// Takes back what was added since the last operator.
    fn forget_last(&mut self) {
        let Ends { buffers, inputs, weights, slices, partial_len, grad_len } = self.ends;
        self.buffers.truncate(buffers);
        self.inputs.truncate(inputs);
        self.weights.truncate(weights);
        self.slices.truncate(slices);
        (self.partial_len, self.grad_len) = (partial_len, grad_len);
    }

    fn key(&self, op: &Op) -> Key {
        let inputs = &self.inputs[self.ends.inputs..];
        let slices = &self.slices[self.ends.slices..];
        // The numbers of inputs and slices tell apart where one list ends and the next begins.
        let mut numbers = vec![op.option(), inputs.len(), slices.len()];
        numbers.extend(inputs.iter().map(|input| input.buffer.0 as usize));
        numbers.extend(slices.iter().flat_map(|s| [s.param.0 as usize, s.rows, s.cols]));
        for buffer in &self.buffers[self.ends.buffers..] {
            numbers.extend(match buffer.extent {
                Extent::Rows { width } => [0, width, 0],
                Extent::Fields { fields, dim } => [1, fields, dim],
                Extent::Jagged { list, dim } => [2, list, dim],
            });
        }
        Key { kind: std::mem::discriminant(op), numbers: numbers.into() }
    }
}

impl Op {
    /// What an operator's inputs, weight slices and outputs do not tell about it.
    fn option(&self) -> usize {
        match self {
            Self::Linear(op) => op.relu.into(),
            Self::FieldMix(op) => op.relu.into(),
            Self::RowMap(op) => op.relu.into(),
            Self::Add(op) => op.relu.into(),
            Self::Embedding(op) => op.first_table,
            Self::JaggedEmbedding(op) => op.table,
            Self::Pool(op) => op.pooling as usize,
            Self::JaggedAttention(op) => op.causal.into(),
            // Heads of attention show in the width of its statistics, a gram's vector in the
            // extent of its first input, a gate's width in its output. A head is never shared.
            Self::DenseInput(_)
            | Self::Gram(_)
            | Self::Gate(_)
            | Self::Multiply(_)
            | Self::Attention(_)
            | Self::AddNorm(_)
            | Self::FieldsFromRows(_)
            | Self::RowsFromFields(_)
            | Self::FactorizationMachine(_)
            | Self::FieldSums(_)
            | Self::Outer(_)
            | Self::Head(_)
            | Self::Zeros(_)
            | Self::TargetAttention(_) => 0,
        }
    }
}
