//! The input of every metric, checked once.

use thiserror::Error;

/// What can be wrong with the input of a metric.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum MetricError {
    /// There is nothing to measure.
    #[error("no rows to measure: at least one is needed")]
    Empty,
    /// Two columns disagree about the number of rows.
    #[error("{what} has {found} rows where the logits have {expected}")]
    Length {
        /// The column that disagrees.
        what: &'static str,
        /// Its rows.
        found: usize,
        /// Rows of the logits.
        expected: usize,
    },
    /// A logit is not a number.
    #[error("row {row}: the logit is not a number; infinite ones are accepted")]
    NotANumber {
        /// Row, counted from 0.
        row: usize,
    },
    /// A weight cannot be used.
    #[error("row {row}: the weight {weight} must be finite and not negative")]
    Weight {
        /// Row, counted from 0.
        row: usize,
        /// The weight found.
        weight: f64,
    },
    /// All weights are zero.
    #[error("all weights are zero: at least one must be positive")]
    NoWeight,
    /// The share of kept negatives is out of range.
    #[error("the share of negatives kept is {0}: it must lie above 0 and at most at 1")]
    KeptNegatives(f64),
    /// The number of bootstrap replicates is too small for the confidence asked for.
    #[error(
        "{replicates} bootstrap replicates cannot give a {confidence} interval: \
         the confidence must lie between 0 and 1 and at least {needed} replicates are needed"
    )]
    Bootstrap {
        /// Replicates asked for.
        replicates: usize,
        /// Confidence asked for.
        confidence: f64,
        /// Replicates that would be enough.
        needed: usize,
    },
}

/// Predictions beside what happened.
#[derive(Clone, Copy, Debug)]
pub struct Scores<'a> {
    logits: &'a [f64],
    labels: &'a [bool],
    weights: Option<&'a [f64]>,
}

impl<'a> Scores<'a> {
    /// Rows of equal weight; `logits` and `labels` are `[rows]`.
    pub fn new(logits: &'a [f64], labels: &'a [bool]) -> Result<Self, MetricError> {
        same_length("the labels column", labels.len(), logits.len())?;
        if logits.is_empty() {
            return Err(MetricError::Empty);
        }
        match logits.iter().position(|z| z.is_nan()) {
            Some(row) => Err(MetricError::NotANumber { row }),
            None => Ok(Self { logits, labels, weights: None }),
        }
    }

    /// The same rows with sample weights `[rows]`, finite and not negative, not all zero.
    pub fn weighted(self, weights: &'a [f64]) -> Result<Self, MetricError> {
        same_length("the weights column", weights.len(), self.rows())?;
        let bad = |w: &f64| !w.is_finite() || *w < 0.0;
        if let Some(row) = weights.iter().position(bad) {
            return Err(MetricError::Weight { row, weight: weights[row] });
        }
        if weights.iter().all(|&w| w == 0.0) {
            return Err(MetricError::NoWeight);
        }
        Ok(Self { weights: Some(weights), ..self })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.logits.len()
    }

    /// The logits.
    pub fn logits(&self) -> &'a [f64] {
        self.logits
    }

    /// The labels.
    pub fn labels(&self) -> &'a [bool] {
        self.labels
    }

    /// Weight of a row; 1 where no weights were given.
    pub fn weight(&self, row: usize) -> f64 {
        self.weights.map_or(1.0, |w| w[row])
    }

    /// Sum of all weights.
    pub fn total_weight(&self) -> f64 {
        self.weights.map_or(self.rows() as f64, |w| w.iter().sum())
    }

    /// Weighted mean of the labels, r.
    pub fn base_rate(&self) -> f64 {
        let clicks: f64 =
            (0..self.rows()).filter(|&i| self.labels[i]).map(|i| self.weight(i)).sum();
        clicks / self.total_weight()
    }

    /// Rows in the order of their logits, ties in row order.
    pub(super) fn order(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.rows() as u32).collect();
        order.sort_by(|&a, &b| self.logits[a as usize].total_cmp(&self.logits[b as usize]));
        order
    }
}

/// Fails unless a column has one value a row.
pub(super) fn same_length(
    what: &'static str,
    found: usize,
    expected: usize,
) -> Result<(), MetricError> {
    if found == expected { Ok(()) } else { Err(MetricError::Length { what, found, expected }) }
}
