//! What a run with a network holds in memory.

use std::fmt;
use std::sync::Arc;

use super::Path;

/// A limit on the memory of a run that trains a network, with what foretells it.
#[derive(Clone)]
pub struct PeakBound {
    /// Foretells the bytes that a run with this network holds at its peak.
    pub foretell: Arc<dyn Fn(&Path) -> u64 + Send + Sync>,
    /// Bytes that it may hold.
    pub limit: u64,
}

impl PeakBound {
    /// The bytes foretold.
    pub(super) fn bytes(&self, path: &Path) -> u64 {
        (self.foretell)(path)
    }

    /// How far they are over the limit, as a share of it; zero within.
    pub(super) fn excess(&self, path: &Path) -> f64 {
        (self.bytes(path) as f64 / self.limit.max(1) as f64 - 1.0).max(0.0)
    }
}

impl fmt::Debug for PeakBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeakBound").field("limit", &self.limit).finish_non_exhaustive()
    }
}
