//! Click-through-rate models: spaces, supernets, baselines and recipes.

pub mod baselines;
pub mod metrics;
mod model;
pub mod nasrec;
pub mod synthetic;
pub mod train;

pub use model::{CompiledModel, Field, List, ListTable, ModelInputs};
