//! What the time of a prediction is made of.

use palmette_cost::LinearLatency;
use palmette_engine::ops::Op;
use palmette_engine::{Extent, Program};

use super::{Network, Path, Shape};

/// Counts of a standalone network that its latency is linear in: a constant; numbers of operators
/// and multiply-accumulates a row of dense layers, field mixes, dot products of pairs and attention
/// with its projections; elements a row of all outputs.
pub fn latency_counts(path: &Path, shape: Shape) -> Vec<f64> {
    let network = Network::standalone(path, shape, false);
    let mut program = Program::new();
    network.build(path, &mut program);
    let mut counts = vec![0.0; 10];
    counts[0] = 1.0;
    for op in program.ops() {
        let kind = match op {
            Op::Linear(_) => Some(1),
            Op::FieldMix(_) => Some(3),
            Op::Gram(_) => Some(5),
            Op::Attention(_) | Op::RowMap(_) | Op::AddNorm(_) => Some(7),
            _ => None,
        };
        if let Some(kind) = kind {
            counts[kind] += 1.0;
            counts[kind + 1] += op.macs(&program) as f64;
        }
    }
    let elements = |extent: Extent| match extent {
        Extent::Rows { width } => width,
        Extent::Fields { fields, dim } => fields * dim,
        Extent::Jagged { dim, .. } => dim,
    };
    counts[9] = program.extents().map(|extent| elements(extent) as f64).sum();
    counts
}

/// A limit on the time of predictions, with what foretells it on some machine.
#[derive(Clone, Debug, PartialEq)]
pub struct LatencyBound {
    /// Foretells microseconds from [`latency_counts`].
    pub model: LinearLatency,
    /// Microseconds that predictions may take.
    pub microseconds: f64,
}

impl LatencyBound {
    /// How far a network's cautious time is over the limit, as a share of it; zero within.
    pub(super) fn excess(&self, counts: &[f64]) -> f64 {
        (self.model.cautious(counts) / self.microseconds - 1.0).max(0.0)
    }
}
