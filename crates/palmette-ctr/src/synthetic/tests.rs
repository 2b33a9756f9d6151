use super::fields::{PAIRS, TRIPLES};
use super::*;
use crate::metrics::{binary_entropy, sigmoid};

fn log(rows: usize) -> SyntheticLog {
    SyntheticLog::new(SyntheticConfig { rows, ..SyntheticConfig::default() }).unwrap()
}

fn csv(log: &SyntheticLog) -> String {
    let mut bytes = Vec::new();
    log.write_csv(&mut bytes, |_| {}).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn interacting_fields_have_a_thousand_values() {
    assert_eq!(DENSE.len() + CATEGORICAL.len(), 12);
    let mut interacting: Vec<_> = PAIRS.iter().flatten().chain(TRIPLES.iter().flatten()).collect();
    interacting.sort_unstable();
    interacting.dedup();
    assert_eq!(interacting.len(), LARGE_FIELDS);
    assert!(interacting.iter().all(|&&field| CATEGORICAL[field].values >= 1000));
}

#[test]
fn bytes_do_not_depend_on_threads_and_fewer_rows_are_a_prefix() {
    let on = |threads: usize, rows: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| csv(&log(rows)))
    };
    let all = on(1, 70_000);
    assert_eq!(all.lines().count(), 70_001);
    assert!(all == on(3, 70_000));
    assert!(all.starts_with(&on(2, 5000)));
    let other = SyntheticConfig { rows: 100, seed: 2, ..SyntheticConfig::default() };
    assert!(!all.starts_with(&csv(&SyntheticLog::new(other).unwrap())));
}

#[test]
fn the_file_says_what_the_rows_say() {
    let log = log(9000);
    let rows = log.rows(0..9000);
    assert_eq!(log.rows(4000..4500), rows[4000..4500]);
    assert_eq!(log.rows(8990..9900), rows[8990..]);
    assert!(log.rows(9900..9950).is_empty());
    let mut probabilities = Vec::new();
    for (line, row) in csv(&log).lines().skip(1).zip(&rows) {
        let cells: Vec<_> = line.split(',').collect();
        assert_eq!(cells.len(), 14);
        assert_eq!(cells[0] == "1", row.click);
        for (cell, value) in cells[1..4].iter().zip(row.dense) {
            assert_eq!(cell.parse::<f64>().unwrap(), value);
        }
        for (cell, value) in cells[4..13].iter().zip(row.values) {
            assert_eq!(cell[1..].parse::<u32>().unwrap(), value);
        }
        assert!((cells[13].parse::<f64>().unwrap() - sigmoid(row.logit)).abs() < 1e-9);
        probabilities.push(cells[13].parse().unwrap());
    }
    let clicks: Vec<_> = rows.iter().map(|row| row.click).collect();
    let from_file = log_loss_of_probabilities(&probabilities, &clicks);
    assert!((from_file - bayes_log_loss(&rows)).abs() < 1e-8);
}

#[test]
fn labels_follow_the_true_probabilities() {
    let rows = log(100_000).rows(0..100_000);
    // Rows by their true probability: clicks within five standard deviations of the expected.
    for bin in 0..10 {
        let inside = |row: &&Row| (sigmoid(row.logit) * 10.0) as usize == bin;
        let inside: Vec<_> =
            rows.iter().filter(inside).map(|r| (sigmoid(r.logit), r.click)).collect();
        let expected: f64 = inside.iter().map(|x| x.0).sum();
        let variance: f64 = inside.iter().map(|x| x.0 * (1.0 - x.0)).sum();
        let clicks = inside.iter().filter(|x| x.1).count() as f64;
        assert!(
            (clicks - expected).abs() < 5.0 * variance.sqrt() + 1e-9,
            "{bin}: {clicks} {expected}"
        );
    }
    let clicks = rows.iter().filter(|r| r.click).count() as f64 / 1e5;
    assert!((0.2..0.45).contains(&clicks), "{clicks}");
    // Expected log loss of the truth is the mean entropy of the true probabilities.
    let entropy = rows.iter().map(|r| binary_entropy(sigmoid(r.logit))).sum::<f64>() / 1e5;
    assert!((bayes_log_loss(&rows) - entropy).abs() < 5e-3);
    assert!(entropy < 0.85 * binary_entropy(clicks), "{entropy} {}", binary_entropy(clicks));
}

#[test]
fn frequencies_follow_the_zipf_mandelbrot_law() {
    for (exponent, offset) in [(1.0, 0.0), (2.0, 20.0)] {
        let config = SyntheticConfig { rows: 100_000, exponent, offset, ..Default::default() };
        let rows = SyntheticLog::new(config).unwrap().rows(0..100_000);
        let mut counts = vec![0.0; CATEGORICAL[3].values];
        rows.iter().for_each(|row| counts[row.values[3] as usize] += 1.0);
        let frequency = |rank: usize| (rank as f64 + offset).powf(-exponent);
        let total: f64 = (1..=counts.len()).map(frequency).sum();
        for rank in [1usize, 2, 10, 100] {
            let expected = 1e5 * frequency(rank) / total;
            assert!((counts[rank - 1] - expected).abs() < 5.0 * expected.sqrt(), "rank {rank}");
        }
    }
}

#[test]
fn strengths_are_what_the_settings_say() {
    // Each kind of effect alone: its standard deviation over rows.
    let spread = |main: f64, pairs: f64, triples: f64| {
        let config = SyntheticConfig { rows: 50_000, main, pairs, triples, ..Default::default() };
        let rows = SyntheticLog::new(config).unwrap().rows(0..50_000);
        let mean = rows.iter().map(|r| r.logit).sum::<f64>() / 5e4;
        (rows.iter().map(|r| (r.logit - mean).powi(2)).sum::<f64>() / 5e4).sqrt()
    };
    // The few most frequent values make the realised strength of interactions vary with the seed.
    for (found, low, high) in [
        (spread(1.0, 0.0, 0.0), 0.9, 1.1),
        (spread(0.0, 1.0, 0.0), 0.7, 1.3),
        (spread(0.0, 0.0, 1.0), 0.7, 1.3),
    ] {
        assert!((low..high).contains(&found), "{found}");
    }
}

#[test]
fn impossible_settings_are_named() {
    let check = |config: SyntheticConfig, expect: &str| {
        let error = SyntheticLog::new(config).err().unwrap();
        assert_eq!(error.to_string(), expect);
    };
    let default = SyntheticConfig::default();
    check(
        SyntheticConfig { rows: 0, ..default },
        "a synthetic log of 0 rows: between 1 and 10000000 are possible",
    );
    check(
        SyntheticConfig { latent: 17, ..default },
        "hidden vectors of 17 numbers: between 1 and 16 are possible",
    );
    check(
        SyntheticConfig { pairs: -1.0, ..default },
        "`pairs` is -1: it must be finite, and only `bias` may be negative",
    );
    check(
        SyntheticConfig { bias: f64::NAN, ..default },
        "`bias` is NaN: it must be finite, and only `bias` may be negative",
    );
}

#[test]
fn the_schema_names_every_column() {
    let schema = palmette_data::Schema::parse(SCHEMA, std::path::Path::new("schema.toml")).unwrap();
    let dense: Vec<_> = schema.dense.iter().map(|field| field.name.as_str()).collect();
    let categorical: Vec<_> = schema.categorical.iter().map(|field| field.name.as_str()).collect();
    assert_eq!(dense, DENSE);
    assert_eq!(categorical, CATEGORICAL.map(|column| column.name));
    assert_eq!(schema.extras()[0].name, "true_probability");
}
