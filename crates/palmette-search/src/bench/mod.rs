//! Studies on tables: searches repeated over many seeds, with intervals.

mod labels;
mod leakage;
mod limits;
mod method;
mod pareto_study;
mod predictor;
mod regret;
mod searches;
mod shrinking;
mod speed;
mod summary;

pub use labels::{LabelPlan, LabelStudy, label_study};
pub use leakage::{LeakageStudy, MethodLeakage, leakage_study};
pub use limits::{CostLimit, LimitStudy, limit_study};
pub use method::Method;
pub use pareto_study::{ParetoStudy, pareto_study};
pub use predictor::PredictorKind;
pub use regret::{
    MethodRegret, PairedDifference, RegretPlan, RegretStudy, mean_ranks, regret_study,
    surrogate_study,
};
pub use searches::{Tick, check_evaluations, search, search_rows};
pub use shrinking::{ShrinkMeans, ShrinkStudy, Transfer, shrink_study};
pub use speed::{MethodSpeed, SpeedStudy, speed_study};
pub use summary::Summary;
