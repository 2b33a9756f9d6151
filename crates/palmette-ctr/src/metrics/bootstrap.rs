//! How far a difference between two models on the same rows can be trusted.

use palmette_random::{Draw, stream};
use rayon::prelude::*;
use serde::Serialize;

use super::scores::{MetricError, same_length};

/// How to resample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    /// Seed of the streams `metrics/bootstrap`, one a replicate.
    pub seed: u64,
    /// Number of replicates.
    pub replicates: usize,
    /// Two-sided confidence of the interval.
    pub confidence: f64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { seed: 0, replicates: 2_000, confidence: 0.95 }
    }
}

/// A difference in mean log loss with its interval; negative where the first model is better.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PairedDifference {
    /// Weighted mean of `first - second`.
    pub difference: f64,
    /// Lower end of the percentile interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Two-sided confidence of the interval.
    pub confidence: f64,
    /// Share of replicates in which the first model has the lower loss, ties half.
    pub share_better: f64,
    /// Number of units that were resampled: rows, or groups.
    pub units: usize,
}

impl PairedDifference {
    /// Whether the whole interval lies below zero: the first model is better.
    pub fn first_is_better(&self) -> bool {
        self.high < 0.0
    }

    /// Whether the whole interval lies above zero.
    pub fn second_is_better(&self) -> bool {
        self.low > 0.0
    }
}

/// Paired bootstrap of the difference in mean log loss of two models on the same rows.
///
/// `first` and `second` are the losses of each row `[rows]` (see
/// [`super::row_log_losses`]), `weights` the sample weights. Rows are drawn with
/// replacement; with `groups` (such as the day of each row) whole groups are drawn
/// instead, because rows of one day share its luck. A replicate's statistic is
/// `sum w (first - second) / sum w` over what it drew, and the interval is its
/// percentile interval (Efron and Tibshirani 1993, chapter 13). Replicate `r` draws
/// from the stream `(seed, "metrics/bootstrap", r)`, so the result does not depend
/// on the number of threads.
pub fn paired_bootstrap(
    first: &[f64],
    second: &[f64],
    weights: Option<&[f64]>,
    groups: Option<&[u64]>,
    options: Bootstrap,
) -> Result<PairedDifference, MetricError> {
    let Bootstrap { seed, replicates, confidence } = options;
    let tail = (1.0 - confidence) / 2.0;
    let needed = (1.0 / tail).ceil() as usize;
    if !(confidence > 0.0 && confidence < 1.0) || replicates < needed {
        return Err(MetricError::Bootstrap { replicates, confidence, needed });
    }
    let units = units(first, second, weights, groups)?;
    let weight: f64 = units.iter().map(|u| u.weight).sum();
    if weight <= 0.0 {
        return Err(MetricError::NoWeight);
    }
    let difference = units.iter().map(|u| u.sum).sum::<f64>() / weight;
    let mut means: Vec<f64> = (0..replicates as u64)
        .into_par_iter()
        .map(|replicate| replicate_mean(&units, seed, replicate).unwrap_or(difference))
        .collect();
    means.sort_by(f64::total_cmp);
    let below = means.iter().filter(|&&m| m < 0.0).count() as f64;
    let ties = means.iter().filter(|&&m| m == 0.0).count() as f64;
    Ok(PairedDifference {
        difference,
        low: quantile(&means, tail),
        high: quantile(&means, 1.0 - tail),
        confidence,
        share_better: (below + 0.5 * ties) / replicates as f64,
        units: units.len(),
    })
}

/// What is drawn as one: a row or a group.
#[derive(Clone, Copy, Default)]
struct Unit {
    sum: f64,
    weight: f64,
}

fn units(
    first: &[f64],
    second: &[f64],
    weights: Option<&[f64]>,
    groups: Option<&[u64]>,
) -> Result<Vec<Unit>, MetricError> {
    let rows = first.len();
    if rows == 0 {
        return Err(MetricError::Empty);
    }
    same_length("the second model", second.len(), rows)?;
    if let Some(weights) = weights {
        same_length("the weights column", weights.len(), rows)?;
        if let Some(row) = weights.iter().position(|w| !w.is_finite() || *w < 0.0) {
            return Err(MetricError::Weight { row, weight: weights[row] });
        }
    }
    let unit = |row: usize| {
        let weight = weights.map_or(1.0, |w| w[row]);
        // Both losses infinite means both models are equally wrong on the row.
        let gap = if first[row] == second[row] { 0.0 } else { first[row] - second[row] };
        Unit { sum: weight * gap, weight }
    };
    let Some(groups) = groups else {
        return Ok((0..rows).map(unit).collect());
    };
    same_length("the group column", groups.len(), rows)?;
    let mut order: Vec<usize> = (0..rows).collect();
    order.sort_by_key(|&row| groups[row]);
    let chunks = order.chunk_by(|&a, &b| groups[a] == groups[b]);
    Ok(chunks
        .map(|rows| {
            rows.iter().map(|&row| unit(row)).fold(Unit::default(), |total, unit| Unit {
                sum: total.sum + unit.sum,
                weight: total.weight + unit.weight,
            })
        })
        .collect())
}

/// Mean of one resample; `None` when only units without weight were drawn.
fn replicate_mean(units: &[Unit], seed: u64, replicate: u64) -> Option<f64> {
    let mut random = stream(seed, "metrics/bootstrap", replicate);
    let mut total = Unit::default();
    for _ in 0..units.len() {
        let unit = units[random.below(units.len() as u64) as usize];
        total.sum += unit.sum;
        total.weight += unit.weight;
    }
    (total.weight > 0.0).then(|| total.sum / total.weight)
}

/// Quantile of sorted values with linear interpolation.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = share * (sorted.len() - 1) as f64;
    let (low, rest) = (position.floor() as usize, position.fract());
    let high = (low + 1).min(sorted.len() - 1);
    if rest == 0.0 { sorted[low] } else { sorted[low] + rest * (sorted[high] - sorted[low]) }
}
