use serde::Serialize;

use crate::bootstrap_interval;

/// A mean over seeds with its uncertainty.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The mean.
    pub mean: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// Lower end of the 95 % bootstrap interval (1,000 resamples).
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Summary {
    /// Of one value per seed.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        let (low, high) = bootstrap_interval(values.len(), 1_000, 0.95, 0, |drawn| {
            drawn.iter().map(|&i| values[i]).sum::<f64>() / n
        });
        Self { mean, standard_error: (squares / (n - 1.0).max(1.0) / n).sqrt(), low, high }
    }
}

/// The median of some values; NaN for none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    crate::rank::quantile(&sorted, 0.5)
}
