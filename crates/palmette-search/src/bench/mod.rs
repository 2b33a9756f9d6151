//! Studies on tables: searches repeated over many seeds, with intervals.

mod labels;
mod method;
mod pareto_study;
mod regret;
mod shrinking;
mod summary;

pub use labels::{LabelStudy, label_study};
pub use method::Method;
pub use pareto_study::{ParetoStudy, pareto_study};
pub use regret::{MethodRegret, PairedDifference, RegretStudy, regret_study, search_rows};
pub use shrinking::{ShrinkMeans, ShrinkStudy, Transfer, shrink_study};
pub use summary::Summary;
