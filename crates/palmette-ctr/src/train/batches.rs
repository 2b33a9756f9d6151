//! Which rows a step reads.

use palmette_data::{Batch, Dataset, Jagged, Split};
use palmette_random::{Rng, stream};
use serde::{Deserialize, Serialize};

use super::TrainError;

/// Order in which an epoch visits the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// A new permutation every epoch, keyed by the seed.
    #[default]
    Shuffled,
    /// As in the log: for logs in the order of time the last rows seen are the newest.
    File,
}

/// Numbered batches over one or more parts of a dataset.
///
/// Batch `step` is a pure function of the settings: nothing is remembered
/// between steps, so resuming needs no cursor. The permutation is a keyed
/// Feistel network, which needs no memory for any number of rows.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    dataset: &'a Dataset,
    parts: Vec<(Split, usize)>,
    rows: usize,
    batch_rows: usize,
    order: Order,
    seed: u64,
    table_rows: Vec<u32>,
}

impl<'a> Batches<'a> {
    /// Batches of `batch_rows` over the parts one after the other.
    pub fn new(
        dataset: &'a Dataset,
        parts: &[Split],
        batch_rows: usize,
        order: Order,
        seed: u64,
        table_rows: Vec<u32>,
    ) -> Result<Self, TrainError> {
        let parts: Vec<_> = parts.iter().map(|&split| (split, dataset.rows(split))).collect();
        let rows = parts.iter().map(|part| part.1).sum();
        if rows == 0 {
            return Err(TrainError::Empty(parts.first().map_or("train", |part| part.0.name())));
        }
        let batch_rows = batch_rows.clamp(1, rows);
        Ok(Self { dataset, parts, rows, batch_rows, order, seed, table_rows })
    }

    /// Rows of an epoch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Rows of a batch.
    pub fn batch_rows(&self) -> usize {
        self.batch_rows
    }

    /// Whole batches of an epoch; the rest of an epoch's rows is left out.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.rows / self.batch_rows) as u64
    }

    /// Rows of each embedding table.
    pub fn table_rows(&self) -> &[u32] {
        &self.table_rows
    }

    /// Fills `batch` with the rows of step `step`.
    pub fn fill(
        &self,
        step: u64,
        rows: &mut Vec<u32>,
        batch: &mut Batch,
    ) -> Result<(), TrainError> {
        let per_epoch = self.steps_per_epoch();
        let (epoch, within) = (step / per_epoch, (step % per_epoch) as usize);
        let first = within * self.batch_rows;
        if self.order == Order::File {
            let (split, range) = self.part_of(first, self.batch_rows);
            if let Some(range) = range {
                self.dataset.fill_range(split, range, &self.table_rows, batch)?;
                return Ok(());
            }
        }
        let permutation = Permutation::new(self.rows as u64, self.seed, epoch);
        rows.clear();
        // Rows of the first part come first in a batch, then those of the second: a batch is a
        // set, and each part is filled in one call.
        let positions = (first..first + self.batch_rows).map(|i| match self.order {
            Order::File => i as u64,
            Order::Shuffled => permutation.at(i as u64),
        });
        rows.extend(positions.map(|p| p as u32));
        if self.parts.len() == 1 {
            return Ok(self.dataset.fill(self.parts[0].0, rows, &self.table_rows, batch)?);
        }
        self.fill_from_parts(rows, batch)
    }

    fn part_of(&self, first: usize, len: usize) -> (Split, Option<std::ops::Range<usize>>) {
        let mut start = 0;
        for &(split, rows) in &self.parts {
            if first >= start && first + len <= start + rows {
                return (split, Some(first - start..first - start + len));
            }
            start += rows;
        }
        (Split::Train, None)
    }

    fn fill_from_parts(&self, rows: &mut [u32], batch: &mut Batch) -> Result<(), TrainError> {
        rows.sort_unstable();
        let mut whole = Batch::default();
        let mut start = 0u32;
        let mut pieces = Vec::new();
        for &(split, part_rows) in &self.parts {
            let end = start + part_rows as u32;
            let inside: Vec<u32> =
                rows.iter().filter(|&&r| r >= start && r < end).map(|r| r - start).collect();
            if !inside.is_empty() {
                self.dataset.fill(split, &inside, &self.table_rows, &mut whole)?;
                pieces.push(whole.clone());
            }
            start = end;
        }
        concatenate(&pieces, self.dataset.categorical_fields(), batch);
        Ok(())
    }
}

/// Joins batches; ids are field-major, so each field is joined by itself.
fn concatenate(pieces: &[Batch], fields: usize, batch: &mut Batch) {
    batch.rows = pieces.iter().map(|p| p.rows).sum();
    batch.dense.clear();
    batch.ids.clear();
    batch.labels.clear();
    batch.weights.clear();
    batch.lists.clear();
    batch.lists.resize_with(pieces.first().map_or(0, |p| p.lists.len()), Jagged::default);
    for (list, joined) in batch.lists.iter_mut().enumerate() {
        for lists in pieces.iter().map(|piece| &piece.lists[list]) {
            (0..lists.rows()).for_each(|row| joined.push(lists.row(row).iter().copied()));
        }
    }
    for piece in pieces {
        batch.dense.extend_from_slice(&piece.dense);
        batch.labels.extend_from_slice(&piece.labels);
        batch.weights.extend_from_slice(&piece.weights);
    }
    for field in 0..fields {
        for piece in pieces {
            batch.ids.extend_from_slice(&piece.ids[field * piece.rows..(field + 1) * piece.rows]);
        }
    }
}

/// A pseudo-random permutation of `0..n`: four Feistel rounds on the next even power of two,
/// walked until the value falls below n (fewer than four walks on average).
struct Permutation {
    n: u64,
    half_bits: u32,
    keys: [u64; 4],
}

impl Permutation {
    fn new(n: u64, seed: u64, epoch: u64) -> Self {
        let mut rng = stream(seed, "train/order", epoch);
        let bits = 64 - n.saturating_sub(1).leading_zeros();
        Self { n, half_bits: bits.div_ceil(2).max(1), keys: [(); 4].map(|()| rng.next_u64()) }
    }

    fn at(&self, index: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let mut x = index;
        loop {
            let (mut left, mut right) = (x >> self.half_bits, x & mask);
            for key in self.keys {
                // A 64-bit finaliser (splitmix64) as the round function.
                let mut h = (right ^ key).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                h = (h ^ h >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                h = (h ^ h >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
                (left, right) = (right, left ^ (h ^ h >> 31) & mask);
            }
            x = left << self.half_bits | right;
            if x < self.n {
                return x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Permutation;

    #[test]
    fn permutation_visits_every_row_once() {
        for n in [1u64, 2, 3, 17, 64, 1000, 4097] {
            let permutation = Permutation::new(n, 5, 2);
            let mut seen: Vec<u64> = (0..n).map(|i| permutation.at(i)).collect();
            let moved = seen.iter().enumerate().filter(|&(i, &x)| i as u64 != x).count();
            assert!(n < 64 || moved as u64 > n * 9 / 10);
            seen.sort_unstable();
            assert!(seen.iter().enumerate().all(|(i, &x)| i as u64 == x), "{n}");
        }
    }

    #[test]
    fn epochs_differ() {
        let (a, b) = (Permutation::new(100, 5, 0), Permutation::new(100, 5, 1));
        assert!((0..100).filter(|&i| a.at(i) == b.at(i)).count() < 20);
    }
}
