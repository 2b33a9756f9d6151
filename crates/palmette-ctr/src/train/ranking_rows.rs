//! The rows by which candidates are scored, kept decoded as far as they fit.

use std::sync::Arc;

use palmette_data::{Batch, Dataset, Split};

use super::standalone::PREDICT_ROWS;
use super::{Batches, TrainError};

/// Training rows of the steps before a score, and the validation rows that it reads.
pub(super) struct RankingRows<'a> {
    dataset: &'a Dataset,
    batches: Batches<'a>,
    labels: Arc<[f32]>,
    weights: Arc<[f64]>,
    decoded: Arc<Decoded>,
    batch: Batch,
    rows: Vec<u32>,
}

/// Rows that every candidate reads, decoded once for all rankers.
#[derive(Default)]
struct Decoded {
    /// Batches of the first steps.
    tuning: Vec<Batch>,
    /// The first batches of validation rows.
    validation: Vec<Batch>,
}

/// Fills batches until they are `count` or hold `most` bytes.
fn decode(
    count: u64,
    most: usize,
    mut fill: impl FnMut(u64, &mut Batch) -> Result<(), TrainError>,
) -> Result<Vec<Batch>, TrainError> {
    let (mut batches, mut bytes) = (Vec::new(), 0);
    for index in 0..count {
        let mut batch = Batch::default();
        fill(index, &mut batch)?;
        let words = batch.dense.len() + batch.ids.len() + batch.labels.len() + batch.weights.len();
        bytes += words * size_of::<f32>();
        if bytes > most {
            break;
        }
        batches.push(batch);
    }
    Ok(batches)
}

impl<'a> RankingRows<'a> {
    /// `most` validation rows, 0 for all; nothing is decoded yet.
    pub fn new(
        dataset: &'a Dataset,
        batches: Batches<'a>,
        most: usize,
    ) -> Result<Self, TrainError> {
        let mut labels = dataset.labels(Split::Validation);
        if labels.is_empty() {
            return Err(TrainError::Empty("validation"));
        }
        if most > 0 {
            labels.truncate(most);
        }
        let mut rows = Self {
            dataset,
            batches,
            labels: labels.into(),
            weights: Arc::default(),
            decoded: Arc::default(),
            batch: Batch::default(),
            rows: Vec::new(),
        };
        let mut weights = Vec::with_capacity(rows.labels.len());
        for index in 0..rows.validation_batches() {
            weights.extend(rows.validation(index)?.weights.iter().map(|&w| f64::from(w)));
        }
        rows.weights = weights.into();
        Ok(rows)
    }

    /// The same rows for another thread.
    pub fn share(&self) -> Self {
        Self {
            dataset: self.dataset,
            batches: self.batches.clone(),
            labels: Arc::clone(&self.labels),
            weights: Arc::clone(&self.weights),
            decoded: Arc::clone(&self.decoded),
            batch: Batch::default(),
            rows: Vec::new(),
        }
    }

    pub fn dataset(&self) -> &'a Dataset {
        self.dataset
    }

    pub fn table_rows(&self) -> &[u32] {
        self.batches.table_rows()
    }

    /// Steps on other batches from now on; nothing is decoded.
    pub fn set_batches(&mut self, batches: Batches<'a>) {
        self.batches = batches;
        self.decoded = Arc::default();
    }

    /// Decodes the batches of `steps` steps and the validation rows, at most `bytes` of either.
    pub fn keep_decoded(&mut self, steps: u64, bytes: usize) -> Result<(), TrainError> {
        let mut rows = Vec::new();
        let tuning =
            decode(steps, bytes, |index, batch| self.batches.fill(index, &mut rows, batch))?;
        let count = self.validation_batches() as u64;
        let validation =
            decode(count, bytes, |index, batch| self.fill_validation(index as usize, batch))?;
        self.decoded = Arc::new(Decoded { tuning, validation });
        Ok(())
    }

    /// Training rows of step `index`.
    pub fn tuning(&mut self, index: u64) -> Result<&Batch, TrainError> {
        if let Some(batch) = self.decoded.tuning.get(index as usize) {
            return Ok(batch);
        }
        self.batches.fill(index, &mut self.rows, &mut self.batch)?;
        Ok(&self.batch)
    }

    /// Number of [`RankingRows::validation`]'s batches.
    pub fn validation_batches(&self) -> usize {
        self.labels.len().div_ceil(PREDICT_ROWS)
    }

    /// Validation rows `index * PREDICT_ROWS ..`.
    pub fn validation(&mut self, index: usize) -> Result<&Batch, TrainError> {
        if index >= self.decoded.validation.len() {
            let mut batch = std::mem::take(&mut self.batch);
            self.fill_validation(index, &mut batch)?;
            self.batch = batch;
            return Ok(&self.batch);
        }
        Ok(&self.decoded.validation[index])
    }

    fn fill_validation(&self, index: usize, batch: &mut Batch) -> Result<(), TrainError> {
        let start = index * PREDICT_ROWS;
        let rows = start..self.labels.len().min(start + PREDICT_ROWS);
        let tables = self.batches.table_rows();
        Ok(self.dataset.fill_range(Split::Validation, rows, tables, batch)?)
    }

    /// Adds the losses of the logits of batch `index` to `sum`, row by row, and their weights.
    pub fn add_losses(&self, index: usize, logits: &[f32], sum: &mut WeightedSum) {
        let from = index * PREDICT_ROWS;
        for ((&logit, &label), &weight) in
            logits.iter().zip(&self.labels[from..]).zip(&self.weights[from..])
        {
            let logit = f64::from(logit);
            sum.sum += weight * (crate::metrics::softplus(logit) - f64::from(label) * logit);
            sum.weights += weight;
        }
    }
}

/// A weighted mean that grows.
#[derive(Clone, Copy, Default)]
pub(super) struct WeightedSum {
    sum: f64,
    weights: f64,
}

impl WeightedSum {
    pub fn mean(self) -> f64 {
        self.sum / self.weights
    }
}
