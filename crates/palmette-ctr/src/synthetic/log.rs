//! Rows of the synthetic log.

use std::io::Write;
use std::ops::Range;

use palmette_random::{Draw, stream};
use rayon::prelude::*;

use super::fields::{CategoricalTruth, PAIRS, TRIPLES, dense_effect, draw_dense};
use super::{CATEGORICAL, DENSE, SyntheticConfig, SyntheticError};
use crate::metrics::{sigmoid, softplus};

/// Rows that share a random stream.
const ROWS_PER_STREAM: usize = 4096;
/// Streams written at once: bounds the text in memory to a few MiB.
const STREAMS_AT_ONCE: usize = 16;

/// How `palmette prepare` is to read the log: every column but the true probability is a field.
pub const SCHEMA: &str = r#"# A synthetic click log; true_probability is kept beside the fields, and no model reads it.
label = "click"
dense = ["price", "age", "history"]
categorical = [
    "user", "item", "query", "site", "campaign", "region", "hour", "device", "position",
]
transform = "log"
encoder = { kind = "dictionary", min_count = 1 }
keep = ["true_probability"]

[split]
by = "random"
fractions = [0.8, 0.1, 0.1]
seed = 1
"#;

/// One impression.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Values of [`DENSE`], as written to the file.
    pub dense: [f64; DENSE.len()],
    /// Values of [`CATEGORICAL`], from 0 for the most frequent.
    pub values: [u32; CATEGORICAL.len()],
    /// The label.
    pub click: bool,
    /// Log odds from which the label was drawn.
    pub logit: f64,
}

/// The truth behind a log; gives any of its rows.
pub struct SyntheticLog {
    config: SyntheticConfig,
    columns: Vec<CategoricalTruth>,
}

impl SyntheticLog {
    /// Draws the truth.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn new(config: SyntheticConfig) -> Result<Self, SyntheticError> {
        config.check()?;
        let truth = |i| CategoricalTruth::new(&config, i);
        Ok(Self { config, columns: (0..CATEGORICAL.len()).map(truth).collect() })
    }

    /// The settings.
    pub fn config(&self) -> &SyntheticConfig {
        &self.config
    }

    /// Log odds of a click.
    ///
    /// `bias + main / sqrt(12) sum of effects + pairs / sqrt(5 K) sum of <z_u, z_v>
    /// + triples / sqrt(2 K) sum of sum_k z_uk z_vk z_wk`.
    fn logit(&self, dense: &[f64], values: &[u32]) -> f64 {
        let SyntheticConfig { bias, main, pairs, triples, latent, .. } = self.config;
        let dense_effects = dense.iter().enumerate().map(|(i, &x)| dense_effect(i, x));
        let effects = self.columns.iter().zip(values).map(|(c, &v)| c.effects[v as usize]);
        let mains: f64 = dense_effects.chain(effects).sum();
        let factor = |field: usize| {
            let start = values[field] as usize * latent;
            &self.columns[field].factors[start..start + latent]
        };
        let product = |fields: &[usize]| -> f64 {
            (0..latent).map(|k| fields.iter().map(|&f| factor(f)[k]).product::<f64>()).sum()
        };
        let second: f64 = PAIRS.iter().map(|fields| product(fields)).sum();
        let third: f64 = TRIPLES.iter().map(|fields| product(fields)).sum();
        let scale = |strength: f64, terms: usize| strength / (terms as f64).sqrt();
        bias + scale(main, dense.len() + values.len()) * mains
            + scale(pairs, PAIRS.len() * latent) * second
            + scale(triples, TRIPLES.len() * latent) * third
    }

    fn stream_rows(&self, index: usize) -> Vec<Row> {
        let mut rng = stream(self.config.seed, "synthetic/rows", index as u64);
        let rows = self.config.rows.saturating_sub(index * ROWS_PER_STREAM).min(ROWS_PER_STREAM);
        let row = |_| {
            let dense = std::array::from_fn(|i| draw_dense(i, &mut rng));
            let values = std::array::from_fn(|i| self.columns[i].draw(&mut rng));
            let logit = self.logit(&dense, &values);
            Row { dense, values, click: rng.chance(sigmoid(logit)), logit }
        };
        (0..rows).map(row).collect()
    }

    /// Rows of `range`, cut off at the end of the log.
    pub fn rows(&self, range: Range<usize>) -> Vec<Row> {
        let end = range.end.min(self.config.rows);
        let first = range.start / ROWS_PER_STREAM;
        let streams: Vec<_> = (first..end.div_ceil(ROWS_PER_STREAM).max(first))
            .into_par_iter()
            .map(|index| self.stream_rows(index))
            .collect();
        let skipped = range.start - first * ROWS_PER_STREAM;
        let rows = streams.into_iter().flatten().skip(skipped);
        rows.take(end.saturating_sub(range.start)).collect()
    }

    /// Writes the log with a header: `click`, the fields, `true_probability`.
    ///
    /// `progress` hears the number of rows written so far.
    ///
    /// # Errors
    /// What the writer reports.
    pub fn write_csv(
        &self,
        writer: &mut impl Write,
        mut progress: impl FnMut(usize),
    ) -> Result<(), SyntheticError> {
        let names = CATEGORICAL.iter().map(|column| column.name);
        let header: Vec<_> =
            ["click"].into_iter().chain(DENSE).chain(names).chain(["true_probability"]).collect();
        writeln!(writer, "{}", header.join(","))?;
        let streams = self.config.rows.div_ceil(ROWS_PER_STREAM);
        for first in (0..streams).step_by(STREAMS_AT_ONCE) {
            let last = streams.min(first + STREAMS_AT_ONCE);
            let text: Vec<_> =
                (first..last).into_par_iter().map(|i| csv_lines(&self.stream_rows(i))).collect();
            for lines in text {
                writer.write_all(&lines)?;
            }
            progress(self.config.rows.min(last * ROWS_PER_STREAM));
        }
        Ok(())
    }
}

fn csv_lines(rows: &[Row]) -> Vec<u8> {
    let mut text = Vec::with_capacity(80 * rows.len());
    for row in rows {
        let [price, age, history] = row.dense;
        let click = u8::from(row.click);
        let mut write = || -> std::io::Result<()> {
            write!(text, "{click},{price:.2},{age:.1},{history}")?;
            for (column, value) in CATEGORICAL.iter().zip(row.values) {
                write!(text, ",{}{value}", &column.name[..1])?;
            }
            writeln!(text, ",{:.9}", sigmoid(row.logit))
        };
        write().unwrap_or_else(|_| unreachable!("a vector takes every byte"));
    }
    text
}

/// Mean log loss of the true probabilities on `rows`, in nats: the best that can be expected.
pub fn bayes_log_loss(rows: &[Row]) -> f64 {
    let losses = rows.iter().map(|row| softplus(if row.click { -row.logit } else { row.logit }));
    losses.sum::<f64>() / rows.len() as f64
}

/// The same from the column `true_probability`, for rows that a split chose.
///
/// Both slices have one element a row.
pub fn log_loss_of_probabilities(probabilities: &[f64], clicks: &[bool]) -> f64 {
    let given =
        probabilities.iter().zip(clicks).map(|(&p, &click)| if click { p } else { 1.0 - p });
    -given.map(f64::ln).sum::<f64>() / probabilities.len() as f64
}
