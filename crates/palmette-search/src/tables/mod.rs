//! Tables of trained networks: the ground on which strategies are compared.

mod error;
mod experimenter;
mod files;
mod own;
mod surrogate;
mod table;

pub use error::TableError;
pub use experimenter::{Experimenter, TableDomain, TableExperimenter};
pub use files::{accel_nasbench, nas_bench_201, nas_bench_macro, open_parquet};
pub use own::{OwnTable, measurement_like, read_csv};
pub use surrogate::{Surrogate, SurrogateExperimenter};
pub use table::{Column, Role, Table};
