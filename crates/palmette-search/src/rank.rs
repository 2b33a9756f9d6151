//! How well one list of numbers ranks another.

use palmette_random::{Draw, stream};

/// Pearson's correlation; NaN for fewer than two pairs or a constant list.
pub fn pearson(x: &[f64], y: &[f64]) -> f64 {
    let n = x.len().min(y.len());
    let mean = |v: &[f64]| v[..n].iter().sum::<f64>() / n as f64;
    let (mx, my) = (mean(x), mean(y));
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (a, b) in x.iter().zip(y) {
        let (a, b) = (a - mx, b - my);
        xy += a * b;
        xx += a * a;
        yy += b * b;
    }
    xy / (xx * yy).sqrt()
}

/// Spearman's correlation: Pearson's of the ranks, ties taking their mean rank.
pub fn spearman(x: &[f64], y: &[f64]) -> f64 {
    let n = x.len().min(y.len());
    pearson(&ranks(&x[..n]), &ranks(&y[..n]))
}

/// Kendall's tau-b, (concordant - discordant) / sqrt((pairs - ties in x)(pairs - ties in y)), in
/// O(n log n) (Knight, 1966). NaN for fewer than two pairs or a constant list; inputs hold no NaN.
pub fn kendall_tau_b(x: &[f64], y: &[f64]) -> f64 {
    let mut pairs: Vec<(f64, f64)> = x.iter().copied().zip(y.iter().copied()).collect();
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let n = pairs.len() as f64;
    let all = n * (n - 1.0) / 2.0;
    let tied_x = tied(&pairs, |a, b| a.0 == b.0);
    let tied_both = tied(&pairs, |a, b| a == b);
    let mut second: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
    let swaps = sort_counting_swaps(&mut second);
    let tied_y = tied(&second, |a, b| a == b);
    let concordant_minus_discordant = all - tied_x - tied_y + tied_both - 2.0 * swaps;
    concordant_minus_discordant / ((all - tied_x) * (all - tied_y)).sqrt()
}

/// A percentile bootstrap interval of `statistic` over resamples of `0..n`, at `confidence` (0.95).
///
/// The statistic gets the drawn indices; resamples where it is NaN are left out.
pub fn bootstrap_interval(
    n: usize,
    resamples: usize,
    confidence: f64,
    seed: u64,
    mut statistic: impl FnMut(&[usize]) -> f64,
) -> (f64, f64) {
    let mut drawn = vec![0; n];
    let mut values: Vec<f64> = (0..resamples)
        .map(|i| {
            let mut rng = stream(seed, "statistics/bootstrap", i as u64);
            drawn.iter_mut().for_each(|index| *index = rng.below(n.max(1) as u64) as usize);
            statistic(&drawn)
        })
        .filter(|value| !value.is_nan())
        .collect();
    values.sort_by(f64::total_cmp);
    let tail = (1.0 - confidence) / 2.0;
    (quantile(&values, tail), quantile(&values, 1.0 - tail))
}

/// A quantile of sorted values by linear interpolation; NaN for none.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let position = q.clamp(0.0, 1.0) * last as f64;
    let low = position.floor() as usize;
    let high = (low + 1).min(last);
    sorted[low] + (sorted[high] - sorted[low]) * (position - low as f64)
}

/// Ranks from 1, equal values taking the mean of their ranks.
pub(crate) fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for group in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = start as f64 + (group.len() as f64 + 1.0) / 2.0;
        group.iter().for_each(|&i| ranks[i] = rank);
        start += group.len();
    }
    ranks
}

/// Pairs within runs of equal neighbours.
fn tied<T>(sorted: &[T], same: impl Fn(&T, &T) -> bool) -> f64 {
    sorted.chunk_by(same).map(|run| (run.len() * (run.len() - 1) / 2) as f64).sum()
}

/// Merge sort that counts exchanges (pairs in the wrong order).
fn sort_counting_swaps(values: &mut [f64]) -> f64 {
    let n = values.len();
    let mut buffer = values.to_vec();
    let mut swaps = 0.0;
    let mut run = 1;
    while run < n {
        for start in (0..n).step_by(2 * run) {
            let (middle, end) = ((start + run).min(n), (start + 2 * run).min(n));
            let (mut left, mut right) = (start, middle);
            for slot in &mut buffer[start..end] {
                let take_left = left < middle && (right == end || values[left] <= values[right]);
                if take_left {
                    *slot = values[left];
                    left += 1;
                } else {
                    *slot = values[right];
                    right += 1;
                    swaps += (middle - left) as f64;
                }
            }
        }
        values.copy_from_slice(&buffer);
        run *= 2;
    }
    swaps
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn brute_force_tau(x: &[f64], y: &[f64]) -> f64 {
        let (mut sum, mut left, mut right) = (0.0, 0.0, 0.0);
        for i in 0..x.len() {
            for j in 0..i {
                let sign = |a: f64, b: f64| if a == b { 0.0 } else { (a - b).signum() };
                let (a, b) = (sign(x[i], x[j]), sign(y[i], y[j]));
                sum += a * b;
                left += a * a;
                right += b * b;
            }
        }
        sum / f64::sqrt(left * right)
    }

    fn brute_force_ranks(x: &[f64]) -> Vec<f64> {
        x.iter()
            .map(|a| {
                let below = x.iter().filter(|b| *b < a).count() as f64;
                let equal = x.iter().filter(|b| *b == a).count() as f64;
                below + (equal + 1.0) / 2.0
            })
            .collect()
    }

    proptest! {
        #[test]
        fn tau_and_ranks_agree_with_brute_force(
            pairs in proptest::collection::vec((-4i32..4, -4i32..4), 2..40)
        ) {
            let x: Vec<f64> = pairs.iter().map(|p| f64::from(p.0)).collect();
            let y: Vec<f64> = pairs.iter().map(|p| f64::from(p.1) / 3.0).collect();
            let (got, want) = (kendall_tau_b(&x, &y), brute_force_tau(&x, &y));
            prop_assert!(got == want || (got - want).abs() < 1e-12 || want.is_nan() && got.is_nan());
            prop_assert_eq!(ranks(&x), brute_force_ranks(&x));
        }
    }

    #[test]
    fn known_values() {
        // The examples in the documentation of SciPy's kendalltau and spearmanr; the third by hand.
        let x = [12.0, 2.0, 1.0, 12.0, 2.0];
        let y = [1.0, 4.0, 7.0, 1.0, 0.0];
        assert!((kendall_tau_b(&x, &y) + 0.471_404_520_791_031_7).abs() < 1e-12);
        assert!(
            (spearman(&[1.0, 2.0, 3.0, 4.0, 5.0], &[5.0, 6.0, 7.0, 8.0, 7.0])
                - 0.820_782_681_668_123_3)
                .abs()
                < 1e-12
        );
        assert!(
            (pearson(&[1.0, 2.0, 3.0], &[2.0, 4.0, 7.0]) - 0.993_399_267_798_783_1).abs() < 1e-9
        );
        assert!(kendall_tau_b(&[1.0, 1.0], &[1.0, 2.0]).is_nan());
        assert!(pearson(&[], &[]).is_nan());
    }

    #[test]
    fn the_bootstrap_covers_the_mean_as_often_as_it_says() {
        let trials = 400;
        let covered = (0..trials)
            .filter(|&trial| {
                let mut rng = stream(trial, "test/bootstrap", 0);
                let sample: Vec<f64> = (0..40).map(|_| rng.normal()).collect();
                let (low, high) = bootstrap_interval(40, 300, 0.95, trial, |drawn| {
                    drawn.iter().map(|&i| sample[i]).sum::<f64>() / 40.0
                });
                low <= 0.0 && 0.0 <= high
            })
            .count();
        // The percentile interval of 40 values covers about 93.5 %; sd of the count is 5.
        assert!((355..395).contains(&covered), "{covered}");
    }
}
