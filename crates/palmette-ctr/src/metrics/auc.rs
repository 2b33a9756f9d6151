//! Area under the ROC curve, over all rows and within groups.

use serde::Serialize;

use super::scores::{MetricError, Scores, same_length};

/// Area under the ROC curve as a rank statistic (Mann-Whitney), ties counted half.
///
/// `sum over pairs (i positive, j negative) of w_i w_j ([z_i > z_j] + [z_i = z_j] / 2)`
/// over the sum of `w_i w_j`, in O(n log n). `None` when one class has no weight.
pub fn auc(scores: &Scores) -> Option<f64> {
    auc_of_sorted(scores, &scores.order())
}

/// AUC of the rows in `order`, which must be sorted by logit.
fn auc_of_sorted(scores: &Scores, order: &[u32]) -> Option<f64> {
    let (mut below, mut positives, mut wins) = (0.0, 0.0, 0.0);
    let logits = scores.logits();
    for tied in order.chunk_by(|&a, &b| logits[a as usize] == logits[b as usize]) {
        let (mut tied_positives, mut tied_negatives) = (0.0, 0.0);
        for &row in tied {
            let weight = scores.weight(row as usize);
            if scores.labels()[row as usize] {
                tied_positives += weight;
            } else {
                tied_negatives += weight;
            }
        }
        wins += tied_positives * (below + 0.5 * tied_negatives);
        below += tied_negatives;
        positives += tied_positives;
    }
    (positives > 0.0 && below > 0.0).then(|| wins / (positives * below))
}

/// AUC within groups, such as users or impressions of one request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GroupedAuc {
    /// Mean of the groups' AUCs, weighted by the groups' weights; `None` when no group has both classes.
    pub auc: Option<f64>,
    /// Groups with both classes.
    pub groups: usize,
    /// Groups left out because all their labels are equal.
    pub groups_left_out: usize,
    /// Share of the total weight that lies in the groups used.
    pub weight_used: f64,
}

/// Per-group AUC (gAUC, Zhou et al. 2018, section 5.3): the mean of AUC within each group
/// weighted by the group's weight; groups with one class are left out and counted.
///
/// `groups` is `[rows]`, any key.
pub fn grouped_auc(scores: &Scores, groups: &[u64]) -> Result<GroupedAuc, MetricError> {
    same_length("the group column", groups.len(), scores.rows())?;
    // A stable sort by group keeps the order of the logits within each group.
    let mut order = scores.order();
    order.sort_by_key(|&row| groups[row as usize]);

    let (mut weighted, mut used, mut total) = (0.0, 0.0, 0.0);
    let (mut count, mut left_out) = (0, 0);
    for rows in order.chunk_by(|&a, &b| groups[a as usize] == groups[b as usize]) {
        let weight: f64 = rows.iter().map(|&row| scores.weight(row as usize)).sum();
        total += weight;
        match auc_of_sorted(scores, rows) {
            Some(auc) => {
                weighted += weight * auc;
                used += weight;
                count += 1;
            }
            None => left_out += 1,
        }
    }
    Ok(GroupedAuc {
        auc: (count > 0).then(|| weighted / used),
        groups: count,
        groups_left_out: left_out,
        weight_used: used / total,
    })
}
