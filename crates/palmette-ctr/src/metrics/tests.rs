//! Metrics against brute force over all pairs, and against vectors of scikit-learn and SciPy.

use palmette_random::{Draw, stream};
use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Vectors {
    logits: Vec<f64>,
    smooth_logits: Vec<f64>,
    labels: Vec<bool>,
    weights: Vec<f64>,
    groups: Vec<u64>,
    log_loss: f64,
    log_loss_weighted: f64,
    normalised_entropy: f64,
    normalised_entropy_weighted: f64,
    auc: f64,
    auc_weighted: f64,
    grouped_auc_weighted: f64,
    groups_left_out: usize,
    calibration_bins: Vec<[f64; 4]>,
    expected_error: f64,
}

#[track_caller]
fn check(found: f64, expect: f64) {
    assert!((found - expect).abs() <= 1e-12 * expect.abs().max(1.0), "{found} != {expect}");
}

#[test]
fn agrees_with_scikit_learn_and_scipy() {
    let v: Vectors = serde_json::from_str(include_str!("vectors.json")).unwrap();
    let plain = Scores::new(&v.logits, &v.labels).unwrap();
    let weighted = plain.weighted(&v.weights).unwrap();
    check(log_loss(&plain), v.log_loss);
    check(log_loss(&weighted), v.log_loss_weighted);
    check(normalised_entropy(&plain).unwrap(), v.normalised_entropy);
    check(normalised_entropy(&weighted).unwrap(), v.normalised_entropy_weighted);
    check(auc(&plain).unwrap(), v.auc);
    check(auc(&weighted).unwrap(), v.auc_weighted);
    let grouped = grouped_auc(&weighted, &v.groups).unwrap();
    check(grouped.auc.unwrap(), v.grouped_auc_weighted);
    assert_eq!(grouped.groups_left_out, v.groups_left_out);
    assert!(v.groups_left_out > 0, "the vectors must cover a group of one class");

    let smooth = Scores::new(&v.smooth_logits, &v.labels).unwrap();
    let calibration = Calibration::new(&smooth, v.calibration_bins.len());
    assert_eq!(calibration.bins.len(), v.calibration_bins.len());
    for (bin, [prediction, label, low, high]) in calibration.bins.iter().zip(&v.calibration_bins) {
        check(bin.mean_prediction, *prediction);
        check(bin.mean_label, *label);
        check(bin.low, *low);
        check(bin.high, *high);
    }
    check(calibration.expected_error, v.expected_error);
}

/// AUC by its definition, over all pairs.
fn brute_auc(logits: &[f64], labels: &[bool], weights: &[f64]) -> Option<f64> {
    let (mut wins, mut pairs) = (0.0, 0.0);
    for i in (0..logits.len()).filter(|&i| labels[i]) {
        for j in (0..logits.len()).filter(|&j| !labels[j]) {
            let pair = weights[i] * weights[j];
            pairs += pair;
            wins += match logits[i].total_cmp(&logits[j]) {
                std::cmp::Ordering::Greater => pair,
                std::cmp::Ordering::Equal => 0.5 * pair,
                std::cmp::Ordering::Less => 0.0,
            };
        }
    }
    (pairs > 0.0).then(|| wins / pairs)
}

proptest! {
    #[test]
    fn auc_equals_brute_force(
        rows in prop::collection::vec((-4i32..4, any::<bool>(), 0u8..4, 0u64..3), 1..80)
    ) {
        let logits: Vec<f64> = rows.iter().map(|r| f64::from(r.0)).collect();
        let labels: Vec<bool> = rows.iter().map(|r| r.1).collect();
        let weights: Vec<f64> = rows.iter().map(|r| f64::from(r.2)).collect();
        let groups: Vec<u64> = rows.iter().map(|r| r.3).collect();
        prop_assume!(weights.iter().any(|&w| w > 0.0));
        let scores = Scores::new(&logits, &labels).unwrap().weighted(&weights).unwrap();
        match (auc(&scores), brute_auc(&logits, &labels, &weights)) {
            (Some(found), Some(expect)) => prop_assert!((found - expect).abs() < 1e-12),
            (found, expect) => prop_assert_eq!(found, expect),
        }

        let (mut sum, mut used, mut left_out) = (0.0, 0.0, 0);
        for group in 0..3 {
            let inside: Vec<usize> = (0..rows.len()).filter(|&i| groups[i] == group).collect();
            let pick = |from: &[f64]| inside.iter().map(|&i| from[i]).collect::<Vec<_>>();
            let inside_labels: Vec<bool> = inside.iter().map(|&i| labels[i]).collect();
            let inside_weights = pick(&weights);
            match brute_auc(&pick(&logits), &inside_labels, &inside_weights) {
                Some(auc) => {
                    let weight: f64 = inside_weights.iter().sum();
                    sum += weight * auc;
                    used += weight;
                }
                None if inside.is_empty() => {}
                None => left_out += 1,
            }
        }
        let grouped = grouped_auc(&scores, &groups).unwrap();
        prop_assert_eq!(grouped.groups_left_out, left_out);
        match grouped.auc {
            Some(found) => prop_assert!((found - sum / used).abs() < 1e-12),
            None => prop_assert_eq!(used, 0.0),
        }
    }

    #[test]
    fn integer_weights_are_repetitions(
        rows in prop::collection::vec((-3.0..3.0f64, any::<bool>(), 1usize..4), 1..40)
    ) {
        let logits: Vec<f64> = rows.iter().map(|r| r.0).collect();
        let labels: Vec<bool> = rows.iter().map(|r| r.1).collect();
        let weights: Vec<f64> = rows.iter().map(|r| r.2 as f64).collect();
        let repeat = |i: usize| std::iter::repeat_n(i, rows[i].2);
        let repeated: Vec<usize> = (0..rows.len()).flat_map(repeat).collect();
        let long_logits: Vec<f64> = repeated.iter().map(|&i| logits[i]).collect();
        let long_labels: Vec<bool> = repeated.iter().map(|&i| labels[i]).collect();
        let short = Scores::new(&logits, &labels).unwrap().weighted(&weights).unwrap();
        let long = Scores::new(&long_logits, &long_labels).unwrap();
        prop_assert!((log_loss(&short) - log_loss(&long)).abs() < 1e-12);
        prop_assert!((short.base_rate() - long.base_rate()).abs() < 1e-12);
        match (auc(&short), auc(&long)) {
            (Some(a), Some(b)) => prop_assert!((a - b).abs() < 1e-12),
            (a, b) => prop_assert_eq!(a, b),
        }
    }

    #[test]
    fn calibration_does_not_depend_on_the_order_of_rows(
        rows in prop::collection::vec((-3i32..3, any::<bool>()), 1..60), bins in 1usize..12
    ) {
        let of = |rows: &[(i32, bool)]| {
            let logits: Vec<f64> = rows.iter().map(|r| f64::from(r.0)).collect();
            let labels: Vec<bool> = rows.iter().map(|r| r.1).collect();
            Calibration::new(&Scores::new(&logits, &labels).unwrap(), bins)
        };
        let forwards = of(&rows);
        let reversed: Vec<_> = rows.iter().rev().copied().collect();
        let backwards = of(&reversed);
        prop_assert!(forwards.bins.len() <= bins);
        prop_assert_eq!(forwards.bins.iter().map(|b| b.rows).sum::<usize>(), rows.len());
        prop_assert_eq!(forwards.bins.len(), backwards.bins.len());
        for (a, b) in forwards.bins.iter().zip(&backwards.bins) {
            prop_assert_eq!(a.rows, b.rows);
            prop_assert!((a.mean_label - b.mean_label).abs() < 1e-12);
            prop_assert!(a.low <= a.mean_label + 1e-12 && a.mean_label <= a.high + 1e-12);
        }
    }
}

#[test]
fn extreme_logits_stay_finite_where_they_are_right() {
    let logits = [f64::INFINITY, f64::NEG_INFINITY, 1e4, -1e4, 800.0];
    let labels = [true, false, true, false, false];
    let scores = Scores::new(&logits, &labels).unwrap();
    assert_eq!(row_log_losses(&scores), [0.0, 0.0, 0.0, 0.0, 800.0]);
    assert_eq!(log_loss(&scores), 160.0);
    let one_class = Scores::new(&logits[..1], &labels[..1]).unwrap();
    assert_eq!((auc(&one_class), normalised_entropy(&one_class)), (None, None));
}

#[test]
fn a_constant_at_the_base_rate_has_normalised_entropy_one() {
    let labels = [true, false, false, true, false];
    let logits = [(0.4f64 / 0.6).ln(); 5];
    let scores = Scores::new(&logits, &labels).unwrap();
    check(normalised_entropy(&scores).unwrap(), 1.0);
    check(auc(&scores).unwrap(), 0.5);
    let calibration = Calibration::new(&scores, 10);
    assert_eq!(calibration.bins.len(), 1, "equal predictions stay in one bin");
    check(calibration.ratio.unwrap(), 1.0);
}

#[test]
fn kept_negatives_undo_subsampling_exactly() {
    // 30 clicks among 1,000 rows; keeping a tenth of the negatives shows 30 among 127.
    let kept = KeptNegatives::new(0.1).unwrap();
    let seen = 30.0 / (30.0 + 97.0);
    check(kept.correct_probability(seen), 0.03);
    check(sigmoid(kept.correct_logit((seen / (1.0 - seen)).ln())), 0.03);
    assert_eq!(KeptNegatives::new(1.0).unwrap().correct_probability(0.25), 0.25);
    for share in [0.0, -1.0, 1.5, f64::NAN] {
        assert!(KeptNegatives::new(share).is_err());
    }
}

#[test]
fn bad_input_is_named() {
    let check = |found: MetricError, expect: &str| assert_eq!(found.to_string(), expect);
    let (logits, labels) = ([0.0, 1.0], [true, false]);
    let scores = Scores::new(&logits, &labels).unwrap();
    check(Scores::new(&[], &[]).unwrap_err(), "no rows to measure: at least one is needed");
    check(
        Scores::new(&logits, &[true]).unwrap_err(),
        "the labels column has 1 rows where the logits have 2",
    );
    check(
        Scores::new(&[0.0, f64::NAN], &labels).unwrap_err(),
        "row 1: the logit is not a number; infinite ones are accepted",
    );
    check(
        scores.weighted(&[1.0, -2.0]).unwrap_err(),
        "row 1: the weight -2 must be finite and not negative",
    );
    check(
        scores.weighted(&[0.0, 0.0]).unwrap_err(),
        "all weights are zero: at least one must be positive",
    );
    check(
        grouped_auc(&scores, &[1]).unwrap_err(),
        "the group column has 1 rows where the logits have 2",
    );
    let few = Bootstrap { replicates: 10, ..Bootstrap::default() };
    assert!(matches!(
        paired_bootstrap(&logits, &logits, None, None, few),
        Err(MetricError::Bootstrap { needed: 40..=41, .. })
    ));
}

/// Losses of two models whose difference has mean -0.01 and standard deviation 0.2.
fn two_models(rows: usize) -> (Vec<f64>, Vec<f64>) {
    let mut random = stream(3, "test/losses", 0);
    (0..rows)
        .map(|_| {
            let second = 0.5 + 0.1 * random.normal();
            (second - 0.01 + 0.2 * random.normal(), second)
        })
        .unzip()
}

#[test]
fn bootstrap_interval_matches_the_normal_one() {
    let (first, second) = two_models(4_000);
    let found = paired_bootstrap(&first, &second, None, None, Bootstrap::default()).unwrap();
    let gaps: Vec<f64> = first.iter().zip(&second).map(|(a, b)| a - b).collect();
    let mean = gaps.iter().sum::<f64>() / 4_000.0;
    let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / 4_000.0;
    let half = 1.959964 * (variance / 4_000.0).sqrt();
    check(found.difference, mean);
    // An end of the interval has a Monte Carlo error of about 0.027 half-widths at 2,000 replicates.
    assert!((found.low - (mean - half)).abs() < 0.11 * half, "{found:?}");
    assert!((found.high - (mean + half)).abs() < 0.11 * half, "{found:?}");
    assert!(found.first_is_better() && !found.second_is_better());
    assert_eq!(found.units, 4_000);
}

#[test]
fn bootstrap_by_group_draws_whole_groups() {
    // Every row repeated 25 times within its group: rows pretend to be 25 times as many.
    let (short_first, short_second) = two_models(80);
    let spread =
        |of: &[f64]| -> Vec<f64> { of.iter().flat_map(|&x| std::iter::repeat_n(x, 25)).collect() };
    let (first, second) = (spread(&short_first), spread(&short_second));
    let groups: Vec<u64> = (0..2_000).map(|row| row / 25).collect();
    let options = Bootstrap { seed: 5, ..Bootstrap::default() };
    let grouped = paired_bootstrap(&first, &second, None, Some(&groups), options).unwrap();
    let distinct = paired_bootstrap(&short_first, &short_second, None, None, options).unwrap();
    let rows = paired_bootstrap(&first, &second, None, None, options).unwrap();
    check(grouped.low, distinct.low);
    check(grouped.high, distinct.high);
    assert_eq!(grouped.units, 80);
    let ratio = (grouped.high - grouped.low) / (rows.high - rows.low);
    assert!((4.3..5.7).contains(&ratio), "the square root of 25 is expected, found {ratio}");
}

#[test]
fn bootstrap_does_not_depend_on_threads() {
    let (first, second) = two_models(500);
    let weights: Vec<f64> = (0..500).map(|i| f64::from(i % 3)).collect();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            paired_bootstrap(&first, &second, Some(&weights), None, Bootstrap::default()).unwrap()
        })
    };
    let expect = run(1);
    for threads in [2, 3, 7] {
        assert_eq!(run(threads), expect);
    }
}

#[test]
fn evaluation_collects_everything() {
    let (logits, labels) = ([2.0, -1.0, 0.5, -3.0], [true, false, false, false]);
    let scores = Scores::new(&logits, &labels).unwrap();
    let found = evaluate(&scores, Some(&[1, 1, 2, 2])).unwrap();
    assert_eq!((found.rows, found.base_rate), (4, 0.25));
    assert_eq!(found.auc, Some(1.0));
    assert_eq!(found.grouped_auc.map(|g| (g.groups, g.groups_left_out)), Some((1, 1)));
    assert_eq!(evaluate(&scores, None).unwrap().grouped_auc, None);
}
