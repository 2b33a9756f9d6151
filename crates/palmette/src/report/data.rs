//! What a report is made of. Every part is optional: a partial run reports what it has.

use serde::{Deserialize, Serialize};

/// All that a report shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReportData {
    /// Name of the run.
    pub title: String,
    /// The comparison that decides.
    pub verdict: Option<Verdict>,
    /// What the run was about.
    pub dataset: Option<DatasetFacts>,
    /// The chosen model on the test part.
    pub test: Option<TestMetrics>,
    /// Cost of the chosen model.
    pub cost: Option<Cost>,
    /// Evaluations of the search, in order.
    pub progress: Vec<Evaluated>,
    /// Models with their cost and loss.
    pub models: Vec<CostedModel>,
    /// Whether the supernet ranks as training from scratch does.
    pub rank: Option<RankAgreement>,
    /// The drawing of the chosen architecture, as SVG.
    pub drawing: Option<String>,
    /// Predicted against observed rates on the test part.
    pub calibration: Option<CalibrationPlot>,
    /// The chosen model and everything it was compared with.
    pub comparison: Vec<Compared>,
    /// Where the time went.
    pub phases: Vec<Phase>,
    /// The command that repeats the run.
    pub command: Option<String>,
    /// The resolved configuration, TOML.
    pub configuration: Option<String>,
    /// What a reader must know beside the figures.
    pub notes: Vec<String>,
}

/// A difference with its interval; negative where the first model is better.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// Mean of first minus second.
    pub difference: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Two-sided confidence, such as 0.95.
    pub confidence: f64,
}

/// The searched model against the one it would replace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// The model that would be kept.
    pub incumbent: String,
    /// Whether that is a model the user already has.
    #[serde(default)]
    pub own: bool,
    /// Searched minus incumbent, in log loss on the test part.
    pub difference: Difference,
    /// What was resampled, such as `61 days` or `32,734 rows`.
    pub resampled: String,
}

impl Verdict {
    /// Ship only if the whole interval says better: where the user has a model, not shown to be
    /// better means keep.
    pub fn ship(&self) -> bool {
        self.difference.high < 0.0
    }
}

/// The log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatasetFacts {
    /// Its name.
    pub name: String,
    /// Rows of the training part.
    pub train_rows: u64,
    /// Rows of the validation part.
    pub validation_rows: u64,
    /// Rows of the test part.
    pub test_rows: u64,
    /// Share of clicks in the test part, weighted where the log has sample weights.
    pub base_rate: Option<f64>,
    /// Whether it has.
    pub weighted: bool,
    /// Dense fields.
    pub dense_fields: usize,
    /// Categorical fields.
    pub categorical_fields: usize,
    /// What identifies the content.
    pub fingerprint: Option<String>,
}

/// Figures of the chosen model on the test part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TestMetrics {
    /// Mean log loss in nats.
    pub log_loss: f64,
    /// The least any model could reach, where the log was made and this is known.
    pub bayes_log_loss: Option<f64>,
    /// Area under the ROC curve.
    pub auc: Option<f64>,
    /// Per-group AUC.
    pub grouped_auc: Option<f64>,
    /// Log loss over the entropy of the base rate.
    pub normalised_entropy: Option<f64>,
}

/// Cost of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cost {
    /// Multiply-accumulates a sample.
    pub macs: u64,
    /// Parameters without embedding tables.
    pub params: u64,
    /// Parameters in embedding tables.
    pub embedding_params: u64,
}

/// One evaluation of the search.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluated {
    /// Validation log loss; `None` where the candidate broke a limit.
    pub log_loss: Option<f64>,
}

/// What a model in the cost chart is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Found by the search.
    Searched,
    /// Drawn at random with the same budget.
    Random,
    /// Made by hand.
    Baseline,
    /// The one that was chosen.
    Chosen,
}

/// A trained model with its cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostedModel {
    /// Its name.
    pub name: String,
    /// Where it came from.
    pub origin: Origin,
    /// Multiply-accumulates a sample.
    pub macs: u64,
    /// Validation log loss after training from scratch.
    pub log_loss: f64,
}

/// Supernet scores beside losses from scratch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RankAgreement {
    /// (supernet log loss, log loss from scratch) of each architecture.
    pub pairs: Vec<(f64, f64)>,
    /// Kendall's tau-b.
    pub tau: f64,
    /// Ends of its 95 % interval.
    pub interval: Option<(f64, f64)>,
    /// Tau between two seeds from scratch: no ranking can agree better than that.
    pub ceiling: Option<f64>,
    /// Tau of the multiply-accumulates alone.
    pub macs_tau: Option<f64>,
}

/// Predicted against observed rates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CalibrationPlot {
    /// Mean prediction over mean label.
    pub ratio: Option<f64>,
    /// Expected calibration error.
    pub expected_error: f64,
    /// Bins of equal mass.
    pub bins: Vec<CalibrationBin>,
}

/// Rows of similar predictions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationBin {
    /// Mean of the predictions.
    pub predicted: f64,
    /// Mean of the labels.
    pub observed: f64,
    /// Ends of the 95 % interval of the latter.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl From<&palmette_ctr::metrics::Calibration> for CalibrationPlot {
    fn from(calibration: &palmette_ctr::metrics::Calibration) -> Self {
        let bins = calibration.bins.iter().map(|bin| CalibrationBin {
            predicted: bin.mean_prediction,
            observed: bin.mean_label,
            low: bin.low,
            high: bin.high,
        });
        Self {
            ratio: calibration.ratio,
            expected_error: calibration.expected_error,
            bins: bins.collect(),
        }
    }
}

/// A mean over seeds with its spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// Mean over seeds.
    pub mean: f64,
    /// Standard deviation over seeds; `None` with one seed.
    pub deviation: Option<f64>,
}

/// A row of the comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compared {
    /// Its name.
    pub name: String,
    /// Where it came from.
    pub origin: Origin,
    /// Seeds trained.
    pub seeds: usize,
    /// Test log loss.
    pub log_loss: Spread,
    /// Test AUC.
    #[serde(default)]
    pub auc: Option<Spread>,
    /// Multiply-accumulates a sample.
    #[serde(default)]
    pub macs: Option<u64>,
    /// Chosen minus this, in log loss.
    #[serde(default)]
    pub difference: Option<Difference>,
}

/// A step of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// Seconds it took by the clock.
    pub seconds: f64,
}
