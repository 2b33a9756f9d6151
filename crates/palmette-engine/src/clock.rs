//! Time by kind of work, for benchmarks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::ops::Work;

/// Nanoseconds by kind of work, summed over threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeSplit {
    /// Matrix products with their epilogues, weight gradients included.
    pub products: u64,
    /// Attention with its projections and norms.
    pub attention: u64,
    /// Gathering and updating table rows.
    pub embedding: u64,
    /// Clip and update of weights.
    pub update: u64,
    /// Everything else.
    pub other: u64,
}

/// Adds up what threads measure; off, it costs a branch.
#[derive(Default)]
pub(crate) struct Clock {
    pub on: bool,
    pub nanos: [AtomicU64; 5],
}

impl Clock {
    /// Starts a measurement. Not a closure around the work: kernels must be
    /// inlined into the function that has the instruction set.
    #[inline(always)]
    pub fn start(&self) -> Option<Instant> {
        self.on.then(Instant::now)
    }

    #[inline(always)]
    pub fn stop(&self, start: Option<Instant>, kind: usize) {
        if let Some(start) = start {
            let nanos = start.elapsed().as_nanos() as u64;
            self.nanos[kind].fetch_add(nanos, Ordering::Relaxed);
        }
    }
}

/// Index of a kind of work in [`Clock::nanos`]; 3 is the update.
pub(crate) fn kind(work: Work) -> usize {
    match work {
        Work::Product => 0,
        Work::Attention => 1,
        Work::Embedding => 2,
        Work::Other => 4,
    }
}
