//! Whether predicted probabilities mean what they say.

use serde::Serialize;

use super::{Scores, sigmoid};

/// The two-sided 95 % point of the normal distribution.
const Z_95: f64 = 1.959_963_984_540_054;

/// Rows of similar predictions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bin {
    /// Rows in the bin.
    pub rows: usize,
    /// Weight of the bin.
    pub weight: f64,
    /// Weighted mean of the predictions.
    pub mean_prediction: f64,
    /// Weighted mean of the labels.
    pub mean_label: f64,
    /// Lower end of the 95 % Wilson interval of the mean label.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// Predicted against observed rates, overall and in bins of equal mass.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// Weighted mean of the predictions.
    pub mean_prediction: f64,
    /// Weighted mean of the labels.
    pub mean_label: f64,
    /// Mean prediction over mean label, 1 at best; `None` without a positive label.
    pub ratio: Option<f64>,
    /// Expected calibration error: the mean over rows of `|mean prediction - mean label|` of their bin.
    pub expected_error: f64,
    /// Bins in ascending order of prediction; fewer than asked for where many predictions tie.
    pub bins: Vec<Bin>,
}

impl Calibration {
    /// Calibration in at most `bins` bins of equal mass.
    ///
    /// Rows are sorted by logit and cut where the running weight passes the next multiple of
    /// `total / bins`; equal logits stay in one bin, so the order of rows does not matter.
    /// Intervals are Wilson's at 95 %, with Kish's effective count `(sum w)^2 / sum w^2`.
    pub fn new(scores: &Scores, bins: usize) -> Self {
        let target = scores.total_weight() / bins.max(1) as f64;
        let order = scores.order();
        let logits = scores.logits();
        let (mut cut, mut sums, mut before) = (Vec::new(), Sums::default(), 0.0);
        for tied in order.chunk_by(|&a, &b| logits[a as usize] == logits[b as usize]) {
            for &row in tied {
                let row = row as usize;
                sums.add(scores.weight(row), sigmoid(logits[row]), scores.labels()[row]);
            }
            let reached = before + sums.weight;
            // The tolerance keeps a sum that is one rounding below the cut from moving a row.
            if reached >= target * (cut.len() + 1) as f64 * (1.0 - 1e-12) && sums.weight > 0.0 {
                before = reached;
                cut.push(std::mem::take(&mut sums));
            }
        }
        if sums.weight > 0.0 {
            cut.push(sums);
        }
        Self::from_sums(&cut)
    }

    fn from_sums(cut: &[Sums]) -> Self {
        let total: f64 = cut.iter().map(|s| s.weight).sum();
        let mean_prediction = cut.iter().map(|s| s.predictions).sum::<f64>() / total;
        let mean_label = cut.iter().map(|s| s.labels).sum::<f64>() / total;
        let bins: Vec<Bin> = cut.iter().map(Sums::bin).collect();
        let gap = |b: &Bin| b.weight * (b.mean_prediction - b.mean_label).abs();
        Self {
            mean_prediction,
            mean_label,
            ratio: (mean_label > 0.0).then(|| mean_prediction / mean_label),
            expected_error: bins.iter().map(gap).sum::<f64>() / total,
            bins,
        }
    }
}

/// Running sums of one bin.
#[derive(Default)]
struct Sums {
    rows: usize,
    weight: f64,
    squares: f64,
    predictions: f64,
    labels: f64,
}

impl Sums {
    fn add(&mut self, weight: f64, prediction: f64, label: bool) {
        self.rows += 1;
        self.weight += weight;
        self.squares += weight * weight;
        self.predictions += weight * prediction;
        self.labels += if label { weight } else { 0.0 };
    }

    fn bin(&self) -> Bin {
        let mean_label = self.labels / self.weight;
        let (low, high) = wilson(mean_label, self.weight * self.weight / self.squares);
        Bin {
            rows: self.rows,
            weight: self.weight,
            mean_prediction: self.predictions / self.weight,
            mean_label,
            low,
            high,
        }
    }
}

/// Wilson's 95 % interval of a rate observed over `count` rows (Wilson 1927).
fn wilson(rate: f64, count: f64) -> (f64, f64) {
    let squared = Z_95 * Z_95 / count;
    let centre = (rate + squared / 2.0) / (1.0 + squared);
    let spread = (rate * (1.0 - rate) / count + squared / (4.0 * count)).sqrt();
    let half = Z_95 * spread / (1.0 + squared);
    ((centre - half).max(0.0), (centre + half).min(1.0))
}
