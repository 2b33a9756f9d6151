//! What every model hands to the trainer: parameters, tables and a program over them.

use palmette_engine::{
    EngineError, Model, ParamLayout, ParamStore, Program, Real, TableSpec, Tables,
};
use serde::{Deserialize, Serialize};

use crate::nasrec::{EMBEDDING_DIM, LogicalTensor, Network, Path, Shape};

/// A categorical field of the data: its name and the rows of its table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Name of the column.
    pub name: String,
    /// Rows of its table, after any cap.
    pub rows: usize,
}

/// What the data give a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInputs {
    /// Number of dense inputs, nd.
    pub dense: usize,
    /// Categorical fields, in the order of a batch's ids.
    pub fields: Vec<Field>,
    /// Lists, in the order of a batch's lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<List>,
}

/// A list of the data and the table of its values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// Name of the column.
    pub name: String,
    /// The table.
    pub table: ListTable,
}

/// The embedding table of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListTable {
    /// That of the categorical field with this number.
    Shared(usize),
    /// One of its own with so many rows.
    Own(usize),
}

impl ModelInputs {
    /// Inputs whose fields are called `C1`, `C2`, ...
    pub fn numbered(dense: usize, table_rows: &[usize]) -> Self {
        let field = |(i, &rows): (usize, &usize)| Field { name: format!("C{}", i + 1), rows };
        let fields = table_rows.iter().enumerate().map(field).collect();
        Self { dense, fields, lists: Vec::new() }
    }

    /// Rows of all tables: of the fields, then of the lists that have one of their own.
    pub fn table_rows(&self) -> Vec<u32> {
        let own = self.lists.iter().filter_map(|list| match list.table {
            ListTable::Own(rows) => Some(rows),
            ListTable::Shared(_) => None,
        });
        self.fields.iter().map(|field| field.rows).chain(own).map(|rows| rows as u32).collect()
    }

    /// Numbers of inputs alone.
    pub fn shape(&self) -> Shape {
        Shape { dense: self.dense, fields: self.fields.len() }
    }

    /// One table a field, named `PREFIX.FIELD`, `[rows, dim]`.
    pub(crate) fn tables(&self, prefix: &str, dim: usize) -> Vec<TableSpec> {
        let spec = |field: &Field| TableSpec {
            name: format!("{prefix}.{}", field.name),
            rows: field.rows,
            dim,
        };
        self.fields.iter().map(spec).collect()
    }
}

/// A model ready to train: declared parameters, tables and the program that reads them.
///
/// Trainers need nothing else, whether the network was found by a search or is a
/// [baseline](crate::baselines).
pub struct CompiledModel {
    /// Parameters outside the tables.
    pub layout: ParamLayout,
    /// Embedding tables, in the order in which the program numbers them.
    pub tables: Vec<TableSpec>,
    /// The network.
    pub program: Program,
    /// Parameters as users and exporters know them.
    pub tensors: Vec<LogicalTensor>,
}

impl CompiledModel {
    /// A NASRec network of its own, with one table of sixteen channels a field.
    pub fn nasrec(path: &Path, inputs: &ModelInputs, layer_norm: bool) -> Self {
        let network = Network::standalone(path, inputs.shape(), layer_norm);
        let mut program = Program::new();
        network.build(path, &mut program);
        Self {
            layout: network.layout().clone(),
            tables: inputs.tables("embedding", EMBEDDING_DIM),
            program,
            tensors: network.tensors().to_vec(),
        }
    }

    /// Multiply-accumulates of one row's forward pass, products only.
    pub fn macs(&self) -> u64 {
        self.program.macs()
    }

    /// Weights outside the tables.
    pub fn params(&self) -> u64 {
        self.layout.count()
    }

    /// Weights in the tables.
    pub fn table_params(&self) -> u64 {
        self.tables.iter().map(|table| (table.rows * table.dim) as u64).sum()
    }

    /// Rows and columns of each table.
    pub fn table_sizes(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.tables.iter().map(|table| (table.rows as u64, table.dim as u64))
    }

    /// Fresh weights, with room for `state_slots` numbers of the optimiser beside each.
    ///
    /// # Errors
    /// When the system has not enough memory.
    pub fn initialise<T: Real>(
        &self,
        seed: u64,
        state_slots: usize,
    ) -> Result<Model<T>, EngineError> {
        Ok(Model {
            params: ParamStore::new(self.layout.clone(), seed, state_slots)?,
            tables: Tables::new(self.tables.clone(), state_slots, seed)?,
        })
    }
}
