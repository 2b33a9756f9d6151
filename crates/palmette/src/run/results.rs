//! What a run found.

use palmette_ctr::metrics::{Calibration, Evaluation, PairedDifference};
use palmette_ctr::nasrec::Path;
use serde::{Deserialize, Serialize};

/// Test metrics of one final fit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FinalFit {
    /// Name of the model.
    pub model: String,
    /// Seed of the fit.
    pub seed: u64,
    /// Learning rate chosen on validation rows.
    pub learning_rate: f64,
    /// Log loss on the test part; none where the training diverged.
    pub log_loss: Option<f64>,
    /// AUC on the test part.
    pub auc: Option<f64>,
    /// Normalised entropy on the test part.
    pub normalised_entropy: Option<f64>,
    /// SHA-256 of the predictions on the test part.
    pub predictions: Option<String>,
}

/// One model in the final table.
#[derive(Clone, Debug, Serialize)]
pub struct ModelResult {
    /// `searched`, `random-search`, a baseline's name, or the user's own column.
    pub name: String,
    /// Multiply-accumulates a sample.
    pub macs: Option<u64>,
    /// Weights outside the tables.
    pub params: Option<u64>,
    /// Learning rate chosen on validation rows.
    pub learning_rate: Option<f64>,
    /// Validation log loss of the chosen setting.
    pub validation_log_loss: Option<f64>,
    /// Test log loss of each seed.
    pub log_losses: Vec<f64>,
    /// Test AUC of each seed.
    pub aucs: Vec<f64>,
    /// Test normalised entropy of each seed.
    pub normalised_entropies: Vec<f64>,
    /// Whether the model breaks one of the run's hard limits: it is shown and never wins.
    pub over_limit: bool,
    /// Searched minus this model, paired on test rows; each row's loss is the mean over seeds.
    pub difference: Option<PairedDifference>,
}

impl ModelResult {
    /// Mean test log loss.
    pub fn mean_log_loss(&self) -> f64 {
        self.log_losses.iter().sum::<f64>() / self.log_losses.len() as f64
    }
}

/// The end of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Against the strongest model to beat: `ship` where the searched one is better with its whole
    /// interval, `keep` where the other one is, or where it is the user's own and not shown to be
    /// worse, and else `undecided`.
    pub verdict: String,
    /// The verdict in a sentence with its interval.
    pub sentence: String,
    /// The architecture found.
    pub architecture: Path,
    /// All models, searched first.
    pub models: Vec<ModelResult>,
    /// Models that diverged at every learning rate or in a final fit, and are not among them.
    pub diverged: Vec<String>,
    /// Metrics of the searched model's first fit, the exported one, on the test part.
    pub evaluation: Evaluation,
    /// Log loss of the true probabilities on the test part, where the log has them.
    pub bayes_log_loss: Option<f64>,
    /// Kendall's tau between supernet scores and validation log losses of random networks.
    pub rank_correlation: Option<f64>,
}

impl Summary {
    /// The model to beat: the user's own (it comes last) where there is one, else the best of the
    /// others on the test rows that keep the limits.
    pub fn rival(&self, own_model: bool) -> Option<&ModelResult> {
        Self::rival_of(&self.models, own_model)
    }

    pub(super) fn rival_of(models: &[ModelResult], own_model: bool) -> Option<&ModelResult> {
        if own_model {
            return models.last();
        }
        let others = models.iter().skip(1).filter(|m| m.difference.is_some() && !m.over_limit);
        others.min_by(|a, b| a.mean_log_loss().total_cmp(&b.mean_log_loss()))
    }

    /// Predicted against observed rates.
    pub fn calibration(&self) -> &Calibration {
        &self.evaluation.calibration
    }
}
