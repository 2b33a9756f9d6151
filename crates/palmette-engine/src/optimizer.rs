//! Optimisers and the learning-rate schedule.

use crate::Real;

/// How gradients move weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// `w -= lr g`.
    Sgd,
    /// `a += g^2; w -= lr g / (sqrt(a) + epsilon)`: epsilon outside the root, accumulator from 0.
    Adagrad {
        /// NASRec uses 1e-2: rows with tiny gradients then move like SGD with step `lr / epsilon`.
        epsilon: f64,
    },
    /// Kingma and Ba 2015, with bias correction by the global step; rows of tables keep their
    /// moments where a batch does not touch them ("lazy").
    Adam {
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Added to the root of the second moment.
        epsilon: f64,
    },
}

impl Optimizer {
    /// Numbers kept beside each weight.
    pub fn state_slots(self) -> usize {
        match self {
            Self::Sgd => 0,
            Self::Adagrad { .. } => 1,
            Self::Adam { .. } => 2,
        }
    }
}

/// One step's constants, in the number type of the weights.
#[derive(Clone, Copy)]
pub(crate) enum Rule<T> {
    Sgd { lr: T },
    Adagrad { lr: T, epsilon: T },
    Adam { beta1: T, beta2: T, step: T, epsilon: T, second: T },
}

impl<T: Real> Rule<T> {
    pub fn new(optimizer: Optimizer, lr: f64, step: u64) -> Self {
        let t = T::from_f64;
        match optimizer {
            Optimizer::Sgd => Self::Sgd { lr: t(lr) },
            Optimizer::Adagrad { epsilon } => Self::Adagrad { lr: t(lr), epsilon: t(epsilon) },
            Optimizer::Adam { beta1, beta2, epsilon } => {
                let n = (step + 1).min(1 << 30) as i32;
                Self::Adam {
                    beta1: t(beta1),
                    beta2: t(beta2),
                    step: t(lr / (1.0 - beta1.powi(n))),
                    epsilon: t(epsilon),
                    second: t(1.0 / (1.0 - beta2.powi(n))),
                }
            }
        }
    }

    /// Row-wise Adagrad: the accumulator takes the mean square of the row's gradients, and the row
    /// moves like SGD at a rate of its own.
    #[inline(always)]
    pub fn of_row(self, state: &mut [T], grads: &[T], scale: T) -> Self {
        let (Self::Adagrad { lr, epsilon }, [sum, ..]) = (self, state) else { return self };
        let squares = crate::lanes::dot(grads, grads) * scale * scale;
        *sum += squares / T::from_f64(grads.len() as f64);
        Self::Sgd { lr: lr / (sum.sqrt() + epsilon) }
    }

    /// Clips by `scale` and moves `weights`; `first` and `second` are the state, empty where unused.
    #[inline(always)]
    pub fn apply(
        &self,
        weights: &mut [T],
        first: &mut [T],
        second: &mut [T],
        grads: &[T],
        scale: T,
    ) {
        match *self {
            Self::Sgd { lr } => {
                for (w, &g) in weights.iter_mut().zip(grads) {
                    *w -= lr * (g * scale);
                }
            }
            Self::Adagrad { lr, epsilon } => {
                for ((w, a), &g) in weights.iter_mut().zip(first).zip(grads) {
                    let g = g * scale;
                    *a = g.mul_add(g, *a);
                    *w -= lr * g / (a.sqrt() + epsilon);
                }
            }
            Self::Adam { beta1, beta2, step, epsilon, second: correction } => {
                for (((w, m), v), &g) in weights.iter_mut().zip(first).zip(second).zip(grads) {
                    let g = g * scale;
                    *m = *m * beta1 + g * (T::ONE - beta1);
                    *v = *v * beta2 + g * g * (T::ONE - beta2);
                    *w -= step * *m / ((*v * correction).sqrt() + epsilon);
                }
            }
        }
    }
}

/// Linear warm-up, then a cosine down to the floor; one cycle (NASRec's schedule).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Highest learning rate.
    pub peak: f64,
    /// Lowest learning rate, at both ends (1e-8).
    pub floor: f64,
    /// Steps of the whole cycle.
    pub steps: u64,
    /// Steps of warm-up.
    pub warmup: u64,
}

impl Schedule {
    /// Warm-up over the first tenth of `steps`, floor 1e-8.
    pub fn new(peak: f64, steps: u64) -> Self {
        Self { peak, floor: 1e-8, steps, warmup: steps / 10 }
    }

    /// Learning rate of step `step` (from 0).
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            let t = step as f64 / self.warmup as f64;
            return self.floor + (self.peak - self.floor) * t;
        }
        let rest = (self.steps - self.warmup).max(1) as f64;
        let t = ((step - self.warmup) as f64 / rest).min(1.0);
        self.floor + (self.peak - self.floor) * 0.5 * (1.0 + (std::f64::consts::PI * t).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_meets_its_end_points() {
        let schedule = Schedule::new(0.12, 1000);
        assert_eq!(schedule.at(0), 1e-8);
        assert!((schedule.at(100) - 0.12).abs() < 1e-15);
        assert!((schedule.at(550) - 0.06).abs() < 1e-8);
        assert!((schedule.at(1000) - 1e-8).abs() < 1e-15);
        assert!(Schedule::new(0.1, 3).at(0) == 0.1, "short cycles have no warm-up");
    }

    #[test]
    fn adagrad_adds_epsilon_outside_the_root() {
        let rule = Rule::<f64>::new(Optimizer::Adagrad { epsilon: 1e-2 }, 0.12, 0);
        let (mut w, mut a) = ([1.0], [0.0]);
        rule.apply(&mut w, &mut a, &mut [], &[2e-3], 0.5);
        assert!((a[0] - 1e-6).abs() < 1e-18);
        assert!((w[0] - (1.0 - 0.12 * 1e-3 / (1e-3 + 1e-2))).abs() < 1e-15);
    }

    #[test]
    fn first_adam_step_is_the_learning_rate() {
        let rule =
            Rule::<f64>::new(Optimizer::Adam { beta1: 0.9, beta2: 0.999, epsilon: 0.0 }, 1e-3, 0);
        let (mut w, mut m, mut v) = ([0.0], [0.0], [0.0]);
        rule.apply(&mut w, &mut m, &mut v, &[-7.0], 1.0);
        assert!((w[0] - 1e-3).abs() < 1e-12);
    }
}
