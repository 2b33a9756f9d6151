use serde::{Deserialize, Serialize};

/// A linear model of a time over counts of a network, `t = sum_i c_i x_i` with `c_i >= 0`: more of
/// anything never takes less time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearLatency {
    /// Time of one of each count.
    coefficients: Vec<f64>,
    /// Nine of ten networks that a fit had not seen took at most `1 + margin` times what it said.
    margin: f64,
}

/// Parts of the measured networks that are left out in turn to learn the margin.
const FOLDS: usize = 8;
/// Passes over the coefficients; a pass that changes nothing any more ends them.
const MOST_PASSES: usize = 20_000;

impl LinearLatency {
    /// Fits measured times, above zero, of networks with these counts: the least sum of squared
    /// *relative* errors, by coordinate descent. Equal arguments give equal bits.
    ///
    /// Nothing is fitted where there are fewer than two networks a fold.
    pub fn fit(counts: &[Vec<f64>], times: &[f64]) -> Option<Self> {
        if counts.len() < 2 * FOLDS || counts.len() != times.len() {
            return None;
        }
        let all: Vec<usize> = (0..times.len()).collect();
        let coefficients = descend(counts, times, &all);
        let mut excess = Vec::with_capacity(times.len());
        for fold in 0..FOLDS {
            let (out, used): (Vec<usize>, Vec<usize>) =
                all.iter().partition(|&&i| i % FOLDS == fold);
            let fitted = descend(counts, times, &used);
            excess.extend(out.iter().map(|&i| times[i] / dot(&fitted, &counts[i]) - 1.0));
        }
        excess.sort_by(f64::total_cmp);
        let margin = excess[(excess.len() * 9).div_ceil(10) - 1].max(0.0);
        margin.is_finite().then_some(Self { coefficients, margin })
    }

    /// The expected time of a network with these counts.
    pub fn expected(&self, counts: &[f64]) -> f64 {
        dot(&self.coefficients, counts)
    }

    /// The time that a network with these counts probably keeps: expected time and margin.
    pub fn cautious(&self, counts: &[f64]) -> f64 {
        self.expected(counts) * (1.0 + self.margin)
    }

    /// What is added to expected times, as a share of them.
    pub fn margin(&self) -> f64 {
        self.margin
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Minimises `sum_i (x_i c / t_i - 1)^2` over `c >= 0`, over the networks `used`.
fn descend(counts: &[Vec<f64>], times: &[f64], used: &[usize]) -> Vec<f64> {
    let width = used.first().map_or(0, |&i| counts[i].len());
    // Columns are scaled to a mean of one, so that a pass moves all of them alike.
    let rows: Vec<Vec<f64>> =
        used.iter().map(|&i| counts[i].iter().map(|x| x / times[i]).collect()).collect();
    let scales: Vec<f64> = (0..width)
        .map(|j| rows.iter().map(|row| row[j]).sum::<f64>() / rows.len() as f64)
        .collect();
    let mut c = vec![0.0; width];
    let mut residuals = vec![-1.0; rows.len()];
    for _ in 0..MOST_PASSES {
        let mut moved = 0.0f64;
        for j in (0..width).filter(|&j| scales[j] > 0.0) {
            let column = rows.iter().map(|row| row[j] / scales[j]);
            let (mut slope, mut curve) = (0.0, 0.0);
            for (x, r) in column.clone().zip(&residuals) {
                slope += x * r;
                curve += x * x;
            }
            let step = (c[j] - slope / curve).max(0.0) - c[j];
            c[j] += step;
            moved = moved.max(step.abs());
            for (x, r) in column.zip(&mut residuals) {
                *r += step * x;
            }
        }
        if moved < 1e-12 {
            break;
        }
    }
    c.iter().zip(&scales).map(|(c, &scale)| if scale > 0.0 { c / scale } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts of different sizes: a constant, a few operators, many products.
    fn networks(n: usize) -> Vec<Vec<f64>> {
        (0..n)
            .map(|i| vec![1.0, (1 + i * 5 % 7) as f64, (1000 + i * 7919 % 50_000) as f64, 0.0])
            .collect()
    }

    #[test]
    fn linear_times_are_found() {
        let counts = networks(40);
        let times: Vec<f64> = counts.iter().map(|x| 20.0 + 3.0 * x[1] + 0.004 * x[2]).collect();
        let model = LinearLatency::fit(&counts, &times).unwrap();
        assert!(model.margin() < 1e-6, "{model:?}");
        let unseen = [1.0, 30.0, 200_000.0, 5.0];
        assert!((model.expected(&unseen) / 910.0 - 1.0).abs() < 1e-6, "{model:?}");
        assert_eq!(LinearLatency::fit(&counts, &times), Some(model));
    }

    #[test]
    fn the_margin_is_what_unseen_networks_exceed() {
        let counts = networks(160);
        // Every fifth network takes a half more than its counts tell.
        let slow = |i: usize| if i.is_multiple_of(5) { 1.5 } else { 1.0 };
        let times: Vec<f64> =
            counts.iter().enumerate().map(|(i, x)| (20.0 + 0.004 * x[2]) * slow(i)).collect();
        let model = LinearLatency::fit(&counts, &times).unwrap();
        let within = (0..160).filter(|&i| times[i] <= model.cautious(&counts[i])).count();
        assert!(within >= 140, "{within} {model:?}");
        assert!(model.margin() > 0.2 && model.margin() < 0.5, "{model:?}");
    }

    #[test]
    fn a_count_that_seems_to_save_time_counts_nothing() {
        let counts = networks(40);
        let times: Vec<f64> = counts.iter().map(|x| 500.0 - 10.0 * x[1]).collect();
        let model = LinearLatency::fit(&counts, &times).unwrap();
        let few = model.expected(&[1.0, 1.0, 1000.0, 0.0]);
        assert!(model.expected(&[1.0, 7.0, 1000.0, 0.0]) >= few, "{model:?}");
    }

    #[test]
    fn too_few_networks_fit_nothing() {
        assert_eq!(LinearLatency::fit(&networks(15), &[1.0; 15]), None);
        assert_eq!(LinearLatency::fit(&networks(16), &[1.0; 15]), None);
    }
}
