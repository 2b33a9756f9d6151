//! Number types of a training, and where its tables lie.

use std::path::PathBuf;

use palmette_cost::MemoryModel;
use palmette_engine::{
    EngineError, Executor, Precision, TableOptions, TableSpec, TableStorage, Tables,
};
use serde::{Deserialize, Serialize};

/// Number type of the factors of matrix products; sums, weights and activations are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Products {
    /// 32 bits.
    #[default]
    F32,
    /// bf16 where the processor multiplies them, f32 elsewhere.
    Bf16,
}

/// Number type of the weights in embedding tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// 32 bits.
    #[default]
    F32,
    /// Half precision, rounded stochastically.
    F16,
    /// Eight bits of mantissa, rounded stochastically.
    Bf16,
}

/// What Adagrad keeps of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableState {
    /// One accumulator a weight.
    #[default]
    Full,
    /// One accumulator a row: the mean of its squared gradients (Naumov et al. 2019).
    RowWise,
}

/// Number types that a training's bits depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Numbers {
    /// Factors of matrix products.
    pub precision: Products,
    /// Weights of tables.
    pub table_storage: Storage,
    /// Optimiser's state of tables.
    pub table_state: TableState,
}

impl Numbers {
    /// These numbers on a processor that has bf16 products, or has none; the second value says
    /// whether something else was asked for.
    pub fn available(self, bf16: bool) -> (Self, bool) {
        let falls_back = self.precision == Products::Bf16 && !bf16;
        let precision = if falls_back { Products::F32 } else { self.precision };
        (Self { precision, ..self }, falls_back)
    }

    /// These numbers on this processor.
    pub fn here(self) -> (Self, bool) {
        self.available(Precision::bf16_is_available())
    }

    /// For the record of a run, which must go on with the same: `f32`, `f32 (bf16 products)`.
    pub fn describe(self) -> String {
        let parts = [
            (self.precision == Products::Bf16).then_some("bf16 products"),
            match self.table_storage {
                Storage::F32 => None,
                Storage::F16 => Some("f16 tables"),
                Storage::Bf16 => Some("bf16 tables"),
            },
            (self.table_state == TableState::RowWise).then_some("row-wise state"),
        ];
        let parts: Vec<&str> = parts.into_iter().flatten().collect();
        if parts.is_empty() { "f32".into() } else { format!("f32 ({})", parts.join(", ")) }
    }

    /// Bytes of what is trained with Adagrad.
    pub fn memory(self) -> MemoryModel {
        MemoryModel {
            table_value_bytes: if self.table_storage == Storage::F32 { 4 } else { 2 },
            row_wise_state: self.table_state == TableState::RowWise,
            ..MemoryModel::default()
        }
    }

    fn precision(self) -> Precision {
        match self.precision {
            Products::F32 => Precision::F32,
            Products::Bf16 => Precision::Bf16,
        }
    }

    /// An executor whose products have this precision.
    pub fn executor(self) -> Executor<f32> {
        let mut executor = Executor::new();
        executor.set_precision(self.precision());
        executor
    }
}

/// How a training keeps its numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keeping {
    /// Their types.
    pub numbers: Numbers,
    /// Folder for tables in files instead of memory; bits do not depend on it.
    pub table_files: Option<PathBuf>,
}

impl Keeping {
    /// Fresh tables.
    pub(super) fn tables(
        &self,
        specs: Vec<TableSpec>,
        state_slots: usize,
        seed: u64,
    ) -> Result<Tables<f32>, EngineError> {
        let options = TableOptions {
            storage: match self.numbers.table_storage {
                Storage::F32 => TableStorage::Full,
                Storage::F16 => TableStorage::F16,
                Storage::Bf16 => TableStorage::Bf16,
            },
            row_wise_state: self.numbers.table_state == TableState::RowWise,
            directory: self.table_files.clone(),
        };
        Tables::with_options(specs, state_slots, seed, &options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_without_bf16_products_multiplies_f32() {
        let asked = Numbers { precision: Products::Bf16, ..Numbers::default() };
        assert_eq!(asked.available(false), (Numbers::default(), true));
        assert_eq!(asked.available(true), (asked, false));
        assert_eq!(Numbers::default().available(false), (Numbers::default(), false));
    }

    #[test]
    fn what_bits_depend_on_is_described() {
        assert_eq!(Numbers::default().describe(), "f32");
        let numbers = Numbers {
            precision: Products::Bf16,
            table_storage: Storage::F16,
            table_state: TableState::RowWise,
        };
        assert_eq!(numbers.describe(), "f32 (bf16 products, f16 tables, row-wise state)");
    }

    /// The cost model's bytes of a row are those that the engine allocates.
    #[test]
    fn tables_take_what_the_cost_model_says() {
        for table_storage in [Storage::F32, Storage::F16, Storage::Bf16] {
            for table_state in [TableState::Full, TableState::RowWise] {
                let numbers = Numbers { table_storage, table_state, ..Numbers::default() };
                for dim in [1, 3, 16] {
                    let spec = TableSpec { name: "t".into(), rows: 10, dim };
                    let keeping = Keeping { numbers, table_files: None };
                    let tables = keeping.tables(vec![spec], 1, 1).unwrap();
                    assert_eq!(tables.bytes(), 10 * numbers.memory().row_bytes(dim as u64));
                }
            }
        }
    }
}
