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
    /// Labels, 0 or 1.
    pub labels: Vec<f32>,
    /// Sample weights, 1 where the log has none.
    pub weights: Vec<f32>,
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
    /// Labels, 0 or 1; NaN where the rows have none.
    pub labels: Vec<f32>,
}

impl Batch {
    /// Sets the shape; keeps the allocations.
    pub(crate) fn resize(&mut self, rows: usize, dense_fields: usize, categorical_fields: usize) {
        self.rows = rows;
        self.dense.resize(rows * dense_fields, 0.0);
        self.ids.resize(rows * categorical_fields, 0);
        self.labels.resize(rows, 0.0);
        self.weights.resize(rows, 1.0);
    }
}

impl RawBatch {
    /// Sets the shape; keeps the allocations.
    pub(crate) fn resize(&mut self, rows: usize, dense_fields: usize, categorical_fields: usize) {
        self.rows = rows;
        self.dense.resize(rows * dense_fields, f32::NAN);
        self.values.resize(rows * categorical_fields, -1);
        self.labels.resize(rows, f32::NAN);
    }
}
