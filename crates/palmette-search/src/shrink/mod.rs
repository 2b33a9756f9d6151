//! Shrinking: a space goes in, a smaller space that any strategy can search comes out.

mod baselines;
mod lissnas;
mod locality;
mod report;

pub use baselines::{one_region, operator_pruning, random_subset};
pub use lissnas::{Lissnas, ShrinkConfig, ShrinkError, lissnas};
pub use locality::{autocorrelation, neighbour_correlation};
pub use report::{ShrinkReport, shrink_report};
