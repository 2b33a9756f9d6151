use serde::{Deserialize, Serialize};

/// How many bytes a trained value takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryModel {
    /// Bytes of one value (f32: 4).
    pub value_bytes: u64,
    /// Values that the optimiser keeps beside each (SGD 0, Adagrad 1, Adam 2).
    pub optimiser_values: u64,
}

impl Default for MemoryModel {
    /// f32 under Adagrad: 8 bytes a parameter.
    fn default() -> Self {
        Self { value_bytes: 4, optimiser_values: 1 }
    }
}

impl MemoryModel {
    /// Bytes of `params` trained values with their optimiser state.
    pub fn bytes(&self, params: u64) -> u64 {
        params * self.value_bytes * (1 + self.optimiser_values)
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
    /// The sheet of a network with these counts.
    pub fn new(macs: u64, params: u64, embedding_params: u64, memory: &MemoryModel) -> Self {
        let total_params = params + embedding_params;
        Self { macs, params, embedding_params, total_params, memory: memory.bytes(total_params) }
    }
}
