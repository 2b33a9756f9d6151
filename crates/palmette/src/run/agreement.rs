//! How well the supernet's scores agree with training from scratch.

use palmette_search::{bootstrap_interval, kendall_tau_b};

use super::store::RunStore;
use crate::report::RankAgreement;

/// Resamples of the interval.
const RESAMPLES: usize = 2_000;

/// Networks below which an order says nothing.
const FEWEST: usize = 5;

/// The random networks of a search, scored and trained; those of the search's best would be cut off
/// at one end. Nothing for fewer than [`FEWEST`], or where all are equal.
pub(super) fn rank_agreement(store: &RunStore) -> Option<RankAgreement> {
    let mut pairs = Vec::new();
    let mut macs = Vec::new();
    for event in store.all("trial") {
        let Some(id) = event["id"].as_str().and_then(|id| id.strip_prefix("random-search/")) else {
            continue;
        };
        let score = store.find("score", &format!("random/{id}"));
        let score = score.and_then(|e| e["result"]["score"].as_f64());
        let loss = event["result"]["validation_log_loss"].as_f64();
        if let (Some(score), Some(loss)) = (score, loss) {
            pairs.push((score, loss));
            macs.push(event["result"]["macs"].as_f64().unwrap_or(0.0));
        }
    }
    if pairs.len() < FEWEST {
        return None;
    }
    let (scores, losses): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let tau = kendall_tau_b(&scores, &losses);
    let cheaper: Vec<f64> = macs.iter().map(|m| -m).collect();
    let macs_tau = Some(kendall_tau_b(&cheaper, &losses)).filter(|t| t.is_finite());
    let (low, high) = bootstrap_interval(pairs.len(), RESAMPLES, 0.95, 0, |drawn| {
        let pick = |values: &[f64]| drawn.iter().map(|&i| values[i]).collect::<Vec<f64>>();
        kendall_tau_b(&pick(&scores), &pick(&losses))
    });
    // A bootstrap over a handful of networks would look certain of what it cannot know.
    let interval = Some((low, high)).filter(|_| low.is_finite() && pairs.len() >= 10);
    tau.is_finite().then_some(RankAgreement { pairs, tau, interval, ceiling: None, macs_tau })
}
