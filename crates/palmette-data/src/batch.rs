//! What a training step reads.

/// Rows ready for a model; reused from step to step, so that a warm batch allocates nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Number of rows.
    pub rows: usize,
    /// Dense inputs after their transforms, `[rows, dense fields]` row-major.
    pub dense: Vec<f32>,
    /// Table rows, `[categorical fields, rows]` field-major.
    pub ids: Vec<u32>,
    /// Table rows of the lists, in order.
    pub lists: Vec<Jagged<u32>>,
    /// Labels, 0 or 1.
    pub labels: Vec<f32>,
    /// Sample weights, 1 where the log has none.
    pub weights: Vec<f32>,
}

/// Values of a list without padding: row `r` has `values[offsets[r]..offsets[r + 1]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jagged<T> {
    /// Where each row starts, and the end of the last one; the first offset is 0.
    pub offsets: Vec<usize>,
    /// All values, row after row.
    pub values: Vec<T>,
}

impl<T> Default for Jagged<T> {
    fn default() -> Self {
        Self { offsets: vec![0], values: Vec::new() }
    }
}

impl<T> Jagged<T> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The values of a row.
    pub fn row(&self, row: usize) -> &[T] {
        &self.values[self.offsets[row]..self.offsets[row + 1]]
    }

    /// Adds a row.
    pub fn push(&mut self, values: impl IntoIterator<Item = T>) {
        self.values.extend(values);
        self.offsets.push(self.values.len());
    }

    /// Takes all rows away; keeps the allocations.
    pub fn clear(&mut self) {
        self.offsets.truncate(1);
        self.values.clear();
    }
}

/// `count` lists without rows; keeps the allocations.
fn reset<T>(lists: &mut Vec<Jagged<T>>, count: usize) {
    lists.resize_with(count, Jagged::default);
    lists.iter_mut().for_each(Jagged::clear);
}

/// Rows as an exported model takes them: before transforms and tables.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawBatch {
    /// Number of rows.
    pub rows: usize,
    /// Dense values before their transforms, NaN where missing, `[rows, dense fields]` row-major.
    pub dense: Vec<f32>,
    /// Categorical values in `-1..=4294967295` before any table, `[rows, categorical fields]`
    /// row-major.
    pub values: Vec<i64>,
    /// Values of the lists before any table, in order.
    pub lists: Vec<Jagged<i64>>,
    /// Labels, 0 or 1; NaN where the rows have none.
    pub labels: Vec<f32>,
}

impl Batch {
    /// Sets the shape, with lists that have no rows yet; keeps the allocations.
    pub(crate) fn resize(
        &mut self,
        rows: usize,
        dense_fields: usize,
        categorical_fields: usize,
        lists: usize,
    ) {
        self.rows = rows;
        reset(&mut self.lists, lists);
        self.dense.resize(rows * dense_fields, 0.0);
        self.ids.resize(rows * categorical_fields, 0);
        self.labels.resize(rows, 0.0);
        self.weights.resize(rows, 1.0);
    }
}

impl RawBatch {
    /// Sets the shape, with lists that have no rows yet; keeps the allocations.
    pub(crate) fn resize(
        &mut self,
        rows: usize,
        dense_fields: usize,
        categorical_fields: usize,
        lists: usize,
    ) {
        self.rows = rows;
        reset(&mut self.lists, lists);
        self.dense.resize(rows * dense_fields, f32::NAN);
        self.values.resize(rows * categorical_fields, -1);
        self.labels.resize(rows, f32::NAN);
    }
}
