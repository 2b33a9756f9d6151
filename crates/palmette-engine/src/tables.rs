//! Embedding tables with their optimiser state beside each row.

use palmette_random::{Draw, stream};
use rayon::prelude::*;

use crate::memory::Zeroed;
use crate::{EngineError, Real};

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
    pub(crate) slots: usize,
    pub(crate) data: Zeroed<T>,
}

impl<T: Real> Table<T> {
    fn new(spec: TableSpec, slots: usize, std: f64, seed: u64) -> Result<Self, EngineError> {
        let stride = spec.dim.saturating_mul(1 + slots);
        let mut data = Zeroed::new(spec.rows.saturating_mul(stride))?;
        const ROWS_PER_STREAM: usize = 4096;
        let name = &spec.name;
        data.as_mut_slice().par_chunks_mut(ROWS_PER_STREAM * stride).enumerate().for_each(
            |(block, rows)| {
                let mut rng = stream(seed, name, block as u64);
                for row in rows.chunks_mut(stride) {
                    for value in &mut row[..spec.dim] {
                        *value = T::from_f64(std * rng.normal());
                    }
                }
            },
        );
        Ok(Self { spec, slots, data })
    }

    /// Name and shape.
    pub fn spec(&self) -> &TableSpec {
        &self.spec
    }

    /// Elements from one row to the next, state included.
    pub fn stride(&self) -> usize {
        self.spec.dim * (1 + self.slots)
    }

    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    /// The weights of row `row`.
    pub fn row(&self, row: usize) -> &[T] {
        let start = row * self.stride();
        &self.data.as_slice()[start..start + self.spec.dim]
    }

    /// The weights of row `row`.
    pub fn row_mut(&mut self, row: usize) -> &mut [T] {
        let (start, dim) = (row * self.stride(), self.spec.dim);
        &mut self.data.as_mut_slice()[start..start + dim]
    }
}

/// The embedding tables of a model, one a field.
pub struct Tables<T> {
    pub(crate) tables: Vec<Table<T>>,
}

impl<T: Real> Tables<T> {
    /// Allocates tables and draws their rows, `N(0, std^2)` with [`xavier_normal`]'s std.
    pub fn new(specs: Vec<TableSpec>, state_slots: usize, seed: u64) -> Result<Self, EngineError> {
        let tables = specs
            .into_iter()
            .map(|spec| {
                let std = xavier_normal(spec.rows, spec.dim);
                Table::new(spec, state_slots, std, seed)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { tables })
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

    /// Bytes of weights and state.
    pub fn bytes(&self) -> u64 {
        self.tables.iter().map(|t| (t.data.len() * size_of::<T>()) as u64).sum()
    }
}
