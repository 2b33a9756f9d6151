use serde::{Deserialize, Serialize};

/// How many bytes trained values take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryModel {
    /// Bytes of one value of the network or of an optimiser's state (f32: 4).
    pub value_bytes: u64,
    /// Values that the optimiser keeps beside each (SGD 0, Adagrad 1, Adam 2).
    pub optimiser_values: u64,
    /// Bytes of one weight of a table (f32: 4, f16 and bf16: 2).
    pub table_value_bytes: u64,
    /// Whether a table's optimiser keeps its values a row and not a weight.
    pub row_wise_state: bool,
}

impl Default for MemoryModel {
    /// f32 under Adagrad: 8 bytes a parameter.
    fn default() -> Self {
        Self { value_bytes: 4, optimiser_values: 1, table_value_bytes: 4, row_wise_state: false }
    }
}

impl MemoryModel {
    /// Bytes of `params` trained values outside the tables, with their optimiser state.
    pub fn bytes(&self, params: u64) -> u64 {
        params * self.value_bytes * (1 + self.optimiser_values)
    }

    /// Bytes of a table's row of `dim` weights, with its optimiser state: weights fill whole
    /// values, state follows.
    pub fn row_bytes(&self, dim: u64) -> u64 {
        let weights = (dim * self.table_value_bytes).next_multiple_of(self.value_bytes.max(1));
        let state = if self.row_wise_state { 1 } else { dim } * self.optimiser_values;
        weights + state * self.value_bytes
    }
}

/// What a model costs. All counts skip dead code, which never reaches the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CostSheet {
    /// Multiply-accumulates per sample.
    pub macs: u64,
    /// Parameters of the network, embedding tables not counted.
    pub params: u64,
    /// Parameters of the embedding tables.
    pub embedding_params: u64,
    /// `params` + `embedding_params`.
    pub total_params: u64,
    /// Bytes of all parameters with their optimiser state.
    pub memory: u64,
}

impl CostSheet {
    /// The sheet of a network with these counts and `(rows, columns)` of its tables.
    pub fn new(
        macs: u64,
        params: u64,
        tables: impl IntoIterator<Item = (u64, u64)>,
        memory: &MemoryModel,
    ) -> Self {
        let (mut embedding_params, mut bytes) = (0, memory.bytes(params));
        for (rows, dim) in tables {
            embedding_params += rows * dim;
            bytes += rows * memory.row_bytes(dim);
        }
        let total_params = params + embedding_params;
        Self { macs, params, embedding_params, total_params, memory: bytes }
    }

    /// This sheet of tables alone with a network of these counts: what [`CostSheet::new`] gives
    /// without going through the tables again.
    pub fn with_network(self, macs: u64, params: u64, memory: &MemoryModel) -> Self {
        Self {
            macs,
            params,
            total_params: params + self.embedding_params,
            memory: self.memory + memory.bytes(params),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_take_what_their_storage_says() {
        let full = MemoryModel::default();
        assert_eq!([16, 1].map(|dim| full.row_bytes(dim)), [128, 8]);
        let half = MemoryModel { table_value_bytes: 2, ..full };
        assert_eq!([16, 1].map(|dim| half.row_bytes(dim)), [96, 8]);
        let least = MemoryModel { row_wise_state: true, ..half };
        assert_eq!([16, 1].map(|dim| least.row_bytes(dim)), [36, 8]);
        let sheet = CostSheet::new(7, 10, [(100, 16), (100, 1)], &least);
        assert_eq!((sheet.embedding_params, sheet.total_params), (1700, 1710));
        assert_eq!(sheet.memory, 80 + 3600 + 800);
        let tables = CostSheet::new(0, 0, [(100, 16), (100, 1)], &least);
        assert_eq!(tables.with_network(7, 10, &least), sheet);
    }
}
