//! Click-through-rate models: spaces, supernets, baselines and recipes.

pub mod metrics;
pub mod nasrec;
pub mod train;
