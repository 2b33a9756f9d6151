//! The NASRec family: spaces, networks and the weight-sharing supernet (Zhang et al., 2207.07187).

mod canonical;
mod compile;
mod cost;
mod golden;
mod json;
mod latency;
mod limited;
mod liveness;
mod network;
mod path;
mod peak;
mod preset;
mod space;
mod supernet_path;
#[cfg(test)]
mod tests;

pub use canonical::{canonical, canonical_key};
pub use cost::{
    BlockMacs, macs, macs_by_block, macs_with_dead_code, params, params_with_dead_code,
    projected_fields, supernet_macs,
};
pub use golden::{
    Comparison, GoldenError, GoldenFile, GoldenParameter, GoldenReport, GradientStatistics,
    check_golden,
};
pub use json::{ArchitectureFile, JsonError};
pub use latency::{LatencyBound, latency_counts};
pub use limited::{ImpossibleLimits, LimitedSpace};
pub use liveness::{BlockLiveness, liveness};
pub use network::{Arrangement, Form, LogicalTensor, MERGE_WIDTH, Network};
pub use path::{
    Block, DenseOp, EMBEDDING_DIM, MAX_BLOCKS, MERGE_FIELDS, Path, Set, Shape, SparseOp,
};
pub use peak::PeakBound;
pub use preset::{DatasetPreset, PRESETS};
pub use space::{NasRecConfig, NasRecSpace, Operators};
pub use supernet_path::{PathStrategy, supernet_path};
