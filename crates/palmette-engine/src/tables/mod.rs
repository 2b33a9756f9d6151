//! Embedding tables with their optimiser state beside each row.

mod storage;

use std::path::PathBuf;

use palmette_random::{Draw, Rng, stream};
use rayon::prelude::*;

use crate::fit::state_is_missing;
use crate::memory::{Zeroed, prefetch_rows};
use crate::{EngineError, Optimizer, Real};
pub(crate) use storage::{Rounding, RowLayout};
pub use storage::{TableOptions, TableStorage};

/// Shape of an embedding table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// Unique name, e.g. `embedding.C1`.
    pub name: String,
    /// Rows, n.
    pub rows: usize,
    /// Embedding dimension, E.
    pub dim: usize,
}

/// Standard deviation of a table's start: Xavier normal on the `rows x dim`
/// matrix, `sqrt(2 / (rows + dim))` (NASRec's release).
pub fn xavier_normal(rows: usize, dim: usize) -> f64 {
    (2.0 / (rows + dim) as f64).sqrt()
}

/// One embedding table.
///
/// A row holds its `dim` weights and then its optimiser state, so that an
/// update of a row that no cache holds costs one stretch of memory, not two.
pub struct Table<T> {
    pub(crate) spec: TableSpec,
    pub(crate) layout: RowLayout,
    pub(crate) data: Zeroed<T>,
    directory: Option<PathBuf>,
    /// Source of the random bits of stochastic rounding.
    rounding_seed: u64,
}

/// Rows that one stream draws.
const ROWS_PER_STREAM: usize = 4096;

impl<T: Real> Table<T> {
    fn new(
        spec: TableSpec,
        slots: usize,
        seed: u64,
        options: &TableOptions,
    ) -> Result<Self, EngineError> {
        if options.row_wise_state && slots > 1 {
            return Err(EngineError::Unfit(format!(
                "row-wise state is one number a row (Adagrad's), table {} was asked for {slots}",
                spec.name
            )));
        }
        let layout = RowLayout::new::<T>(spec.dim, slots, options);
        let std = xavier_normal(spec.rows, spec.dim);
        let draw = |block: usize, rows: &mut [T]| {
            let mut rng = stream(seed, &spec.name, block as u64);
            let mut weights = vec![T::ZERO; spec.dim];
            for row in rows.chunks_mut(layout.stride()) {
                for value in &mut weights {
                    *value = T::from_f64(std * rng.normal());
                }
                layout.write(row, 0, &weights, None);
            }
        };
        let block = ROWS_PER_STREAM * layout.stride();
        let len = spec.rows.saturating_mul(layout.stride());
        let data = match &options.directory {
            None => {
                let mut data = Zeroed::new(len)?;
                let blocks = data.as_mut_slice().par_chunks_mut(block.max(1));
                blocks.enumerate().for_each(|(i, rows)| draw(i, rows));
                data
            }
            Some(directory) => Zeroed::in_file(directory, len, block.max(1), draw)?,
        };
        let rounding_seed = stream(seed, &spec.name, u64::MAX).next_u64();
        Ok(Self { spec, layout, data, directory: options.directory.clone(), rounding_seed })
    }

    /// A table with the same numbers, in another file where this one is in a file.
    pub(crate) fn try_clone(&self) -> Result<Self, EngineError> {
        let data = match &self.directory {
            None => self.data.try_clone()?,
            Some(directory) => {
                let source = self.data.as_slice();
                let block = (ROWS_PER_STREAM * self.stride()).max(1);
                Zeroed::in_file(directory, source.len(), block, |i, rows: &mut [T]| {
                    rows.copy_from_slice(&source[i * block..i * block + rows.len()]);
                })?
            }
        };
        let (spec, directory) = (self.spec.clone(), self.directory.clone());
        Ok(Self { spec, data, directory, ..*self })
    }

    /// Name and shape.
    pub fn spec(&self) -> &TableSpec {
        &self.spec
    }

    /// Number type of the stored weights.
    pub fn storage(&self) -> TableStorage {
        self.layout.storage
    }

    /// Elements from one row to the next, state included.
    pub fn stride(&self) -> usize {
        self.layout.stride()
    }

    /// Fails unless the table keeps the state that `optimizer` needs.
    pub(crate) fn check_state(&self, optimizer: Optimizer) -> Result<(), EngineError> {
        let (needed, found) = (optimizer.state_slots(), self.layout.slots);
        let name = &self.spec.name;
        if self.layout.row_wise && needed > 1 {
            return Err(EngineError::Unfit(format!(
                "{optimizer:?} keeps numbers beside each weight, table {name} one a row"
            )));
        }
        if found < needed {
            return Err(state_is_missing(optimizer, found));
        }
        Ok(())
    }

    /// Key of the random bits that rounding takes in step `step`.
    pub(crate) fn rounding_key(&self, step: u64) -> u64 {
        stream(self.rounding_seed, "table/rounding", step).next_u64()
    }

    /// Asks for the weights of these rows.
    #[inline(always)]
    pub(crate) fn ask(&self, ids: &[u32]) {
        let len = self.layout.weights.min(self.stride());
        prefetch_rows(self.data.as_slice().as_ptr(), self.stride(), len, ids);
    }

    pub(crate) fn stored_row(&self, row: usize) -> &[T] {
        let start = row * self.stride();
        &self.data.as_slice()[start..start + self.stride()]
    }

    /// The weights of row `row`, of a table that stores them in full.
    ///
    /// # Panics
    /// With [`TableStorage::F16`] and [`TableStorage::Bf16`]: see [`Table::read_row`].
    pub fn row(&self, row: usize) -> &[T] {
        assert!(self.storage() == TableStorage::Full, "16-bit weights have no slice of numbers");
        &self.stored_row(row)[..self.spec.dim]
    }

    /// The weights of row `row`, of a table that stores them in full.
    ///
    /// # Panics
    /// With [`TableStorage::F16`] and [`TableStorage::Bf16`]: see [`Table::write_row`].
    pub fn row_mut(&mut self, row: usize) -> &mut [T] {
        assert!(self.storage() == TableStorage::Full, "16-bit weights have no slice of numbers");
        let (start, dim) = (row * self.stride(), self.spec.dim);
        &mut self.data.as_mut_slice()[start..start + dim]
    }

    /// Widens the weights of row `row` into `weights`, `dim` elements.
    ///
    /// # Panics
    /// When the table has no such row or `weights` another length.
    pub fn read_row(&self, row: usize, weights: &mut [T]) {
        assert!(weights.len() == self.spec.dim, "a row has {} weights", self.spec.dim);
        self.layout.read(self.stored_row(row), 0, weights);
    }

    /// Stores `weights`, `dim` elements, in row `row`, rounded to nearest even.
    ///
    /// # Panics
    /// When the table has no such row or `weights` another length.
    pub fn write_row(&mut self, row: usize, weights: &[T]) {
        assert!(weights.len() == self.spec.dim, "a row has {} weights", self.spec.dim);
        let (start, stride) = (row * self.stride(), self.stride());
        let stored = &mut self.data.as_mut_slice()[start..start + stride];
        self.layout.write(stored, 0, weights, None);
    }
}

/// The embedding tables of a model, one a field.
pub struct Tables<T> {
    pub(crate) tables: Vec<Table<T>>,
}

impl<T: Real> Tables<T> {
    /// Allocates tables and draws their rows, `N(0, std^2)` with [`xavier_normal`]'s std.
    ///
    /// # Errors
    /// When the system has not enough memory.
    pub fn new(specs: Vec<TableSpec>, state_slots: usize, seed: u64) -> Result<Self, EngineError> {
        Self::with_options(specs, state_slots, seed, &TableOptions::default())
    }

    /// As [`Tables::new`], with rows kept as `options` say.
    ///
    /// # Errors
    /// Memory, files, and row-wise state for an optimiser that is not Adagrad.
    pub fn with_options(
        specs: Vec<TableSpec>,
        state_slots: usize,
        seed: u64,
        options: &TableOptions,
    ) -> Result<Self, EngineError> {
        let table = |spec| Table::new(spec, state_slots, seed, options);
        Ok(Self { tables: specs.into_iter().map(table).collect::<Result<_, _>>()? })
    }

    /// Number of tables.
    pub fn len(&self) -> usize {
        self.tables.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Table `index`.
    pub fn table(&self, index: usize) -> &Table<T> {
        &self.tables[index]
    }

    /// Table `index`.
    pub fn table_mut(&mut self, index: usize) -> &mut Table<T> {
        &mut self.tables[index]
    }

    /// Weights in all tables, state not counted.
    pub fn count(&self) -> u64 {
        self.tables.iter().map(|t| (t.spec.rows * t.spec.dim) as u64).sum()
    }

    /// Bytes of weights and state, in memory or in files.
    pub fn bytes(&self) -> u64 {
        self.tables.iter().map(|t| (t.data.len() * size_of::<T>()) as u64).sum()
    }
}
