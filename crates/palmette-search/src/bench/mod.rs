//! Studies on tables: searches repeated over many seeds, with intervals.

mod method;
mod pareto_study;
mod regret;
mod shrinking;
mod summary;

pub use method::Method;
pub use regret::{MethodRegret, PairedDifference, RegretStudy, regret_study, search_rows};
pub use pareto_study::{ParetoStudy, pareto_study};
pub use shrinking::{ShrinkMeans, ShrinkStudy, Transfer, shrink_study};
pub use summary::Summary;
