//! All metrics of one model on one set of rows.

use serde::Serialize;

use super::{
    Calibration, GroupedAuc, MetricError, Scores, auc, grouped_auc, log_loss, normalised_entropy,
};

/// Bins of the calibration in an [`Evaluation`].
pub const CALIBRATION_BINS: usize = 20;

/// What `palmette eval` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Rows measured.
    pub rows: usize,
    /// Weighted mean of the labels.
    pub base_rate: f64,
    /// Mean log loss in nats.
    pub log_loss: f64,
    /// Log loss over the entropy of the base rate; `None` when all labels are equal.
    pub normalised_entropy: Option<f64>,
    /// Area under the ROC curve; `None` when all labels are equal.
    pub auc: Option<f64>,
    /// AUC within groups, where groups were given.
    pub grouped_auc: Option<GroupedAuc>,
    /// Predicted against observed rates.
    pub calibration: Calibration,
}

/// Measures everything; `groups` is `[rows]`, where the data name a group column.
pub fn evaluate(scores: &Scores, groups: Option<&[u64]>) -> Result<Evaluation, MetricError> {
    Ok(Evaluation {
        rows: scores.rows(),
        base_rate: scores.base_rate(),
        log_loss: log_loss(scores),
        normalised_entropy: normalised_entropy(scores),
        auc: auc(scores),
        grouped_auc: groups.map(|groups| grouped_auc(scores, groups)).transpose()?,
        calibration: Calibration::new(scores, CALIBRATION_BINS),
    })
}
