//! Undoing the subsampling of negatives.

use super::scores::MetricError;

/// The share of negatives that were kept when the training log was thinned, in (0, 1].
///
/// A model fitted on thinned negatives predicts too high; both forms below undo that
/// exactly (He et al. 2014, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KeptNegatives(f64);

impl KeptNegatives {
    /// Checks the share.
    pub fn new(share: f64) -> Result<Self, MetricError> {
        if share > 0.0 && share <= 1.0 {
            Ok(Self(share))
        } else {
            Err(MetricError::KeptNegatives(share))
        }
    }

    /// The share itself.
    pub fn share(self) -> f64 {
        self.0
    }

    /// `p / (p + (1 - p) / w)`.
    pub fn correct_probability(self, p: f64) -> f64 {
        p / (p + (1.0 - p) / self.0)
    }

    /// The same on the logit: `z + ln w`.
    pub fn correct_logit(self, logit: f64) -> f64 {
        logit + self.0.ln()
    }
}
