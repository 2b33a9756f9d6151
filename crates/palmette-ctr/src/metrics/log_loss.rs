//! Log loss and normalised entropy.

use super::Scores;

/// `ln(1 + e^z)` without overflow: `max(z, 0) + ln(1 + e^-|z|)`.
pub fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

/// `1 / (1 + e^-z)` without overflow.
pub fn sigmoid(z: f64) -> f64 {
    if z >= 0.0 {
        1.0 / (1.0 + (-z).exp())
    } else {
        let e = z.exp();
        e / (1.0 + e)
    }
}

/// Log loss of one row from its logit: `softplus(z) - y z`, written as the softplus of the
/// signed logit so that infinite logits give 0 or infinity instead of not-a-number.
fn row_log_loss(logit: f64, label: bool) -> f64 {
    softplus(if label { -logit } else { logit })
}

/// Log loss of every row, `[rows]`, not weighted: the input of [`super::paired_bootstrap`].
pub fn row_log_losses(scores: &Scores) -> Vec<f64> {
    let rows = scores.logits().iter().zip(scores.labels());
    rows.map(|(&logit, &label)| row_log_loss(logit, label)).collect()
}

/// Weighted mean log loss in nats, computed from logits.
///
/// `sum_i w_i (softplus(z_i) - y_i z_i) / sum_i w_i`; probabilities are never
/// formed, so nothing is clipped.
pub fn log_loss(scores: &Scores) -> f64 {
    let losses = scores.logits().iter().zip(scores.labels()).enumerate();
    let sum: f64 = losses
        .map(|(row, (&logit, &label))| (scores.weight(row), row_log_loss(logit, label)))
        .filter(|&(weight, _)| weight > 0.0)
        .map(|(weight, loss)| weight * loss)
        .sum();
    sum / scores.total_weight()
}

/// `-(r ln r + (1 - r) ln(1 - r))` in nats, 0 at both ends.
pub fn binary_entropy(rate: f64) -> f64 {
    let term = |p: f64| if p > 0.0 { -p * p.ln() } else { 0.0 };
    term(rate) + term(1.0 - rate)
}

/// Log loss over the entropy of the base rate of these same rows (He et al. 2014, section 3).
///
/// 1 is what always predicting the base rate reaches. `None` when all labels are equal.
pub fn normalised_entropy(scores: &Scores) -> Option<f64> {
    let entropy = binary_entropy(scores.base_rate());
    (entropy > 0.0).then(|| log_loss(scores) / entropy)
}
