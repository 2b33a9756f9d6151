//! How far a training is.

use serde::{Deserialize, Serialize};

/// Steps done and the losses along the way: what a checkpoint holds beside the weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainingProgress {
    /// Steps done.
    pub step: u64,
    /// Mean losses of equal stretches of the training.
    pub curve: Vec<f64>,
    /// Sum and number of the losses of the stretch that is not over.
    stretch: (f64, u64),
}

impl TrainingProgress {
    /// Counts a step of `steps`; the curve gets `points` in all.
    pub(super) fn record(&mut self, loss: f64, steps: u64, points: u64) {
        self.step += 1;
        self.stretch.0 += loss;
        self.stretch.1 += 1;
        if self.step * points / steps > (self.step - 1) * points / steps {
            self.curve.push(self.stretch.0 / self.stretch.1 as f64);
            self.stretch = (0.0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_the_mean_of_each_stretch() {
        let mut progress = TrainingProgress::default();
        for loss in [1.0, 3.0, 5.0, 7.0, 2.0] {
            progress.record(loss, 6, 3);
        }
        assert_eq!(progress.curve, [2.0, 6.0]);
        let text = serde_json::to_string(&progress).unwrap();
        let mut restored: TrainingProgress = serde_json::from_str(&text).unwrap();
        assert_eq!(restored, progress);
        restored.record(4.0, 6, 3);
        assert_eq!((restored.step, &restored.curve[..]), (6, &[2.0, 6.0, 3.0][..]));
    }
}
