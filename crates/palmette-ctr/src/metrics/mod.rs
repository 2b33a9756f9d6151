/*!
How good predictions of a click are, in f64.

Everything starts from [`Scores`]: logits, labels and, if rows are not equal,
weights, checked once. From there [`log_loss`], [`auc`], [`grouped_auc`],
[`normalised_entropy`] and [`Calibration`] are plain functions, and
[`evaluate`] is all of them. Two models on the same rows are compared by
[`paired_bootstrap`], which says how far a difference in log loss can be
trusted. All sums run in row order, so equal inputs give equal bits.

```
use palmette_ctr::metrics::{Scores, auc, log_loss, normalised_entropy};

let scores = Scores::new(&[2.0, -1.0, 0.5, -3.0], &[true, false, false, false])?;
assert!((log_loss(&scores) - 0.365713).abs() < 1e-6);
assert_eq!(auc(&scores), Some(1.0));
// Below one: better than always predicting the base rate of these rows.
assert!(normalised_entropy(&scores).is_some_and(|ne| ne < 1.0));
# Ok::<(), palmette_ctr::metrics::MetricError>(())
```
*/

mod auc;
mod bootstrap;
mod calibration;
mod evaluation;
mod log_loss;
mod sampling;
mod scores;

pub use auc::{GroupedAuc, auc, grouped_auc};
pub use bootstrap::{Bootstrap, PairedDifference, paired_bootstrap};
pub use calibration::{Bin, Calibration};
pub use evaluation::{CALIBRATION_BINS, Evaluation, evaluate};
pub use log_loss::{
    binary_entropy, log_loss, normalised_entropy, row_log_losses, sigmoid, softplus,
};
pub use sampling::KeptNegatives;
pub use scores::{MetricError, Scores};

#[cfg(test)]
mod tests;
