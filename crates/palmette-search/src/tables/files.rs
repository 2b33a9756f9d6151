//! The public tables, from their Parquet files.

use std::fs::File;
use std::path::Path;

use palmette_space::{Genotype, Space};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

use super::table::{USABLE, is_usable};
use super::{Column, Role, Table, TableError};

/// Operators of NAS-Bench-201 in the order of their genes.
const NB201_OPERATORS: [&str; 5] =
    ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"];

/// A file as columns of numbers and of text.
struct Columns {
    file: String,
    names: Vec<String>,
    cells: Vec<Vec<Cell>>,
}

enum Cell {
    Number(f64),
    Text(String),
    Other,
}

impl Columns {
    fn read(path: &Path) -> Result<Self, TableError> {
        let file = path.display().to_string();
        let problem = |problem: String| TableError::File { file: file.clone(), problem };
        let opened = File::open(path).map_err(|e| problem(e.to_string()))?;
        let reader = SerializedFileReader::new(opened).map_err(|e| problem(e.to_string()))?;
        let schema = reader.metadata().file_metadata().schema();
        let names: Vec<String> =
            schema.get_fields().iter().map(|field| field.name().to_owned()).collect();
        let mut cells: Vec<Vec<Cell>> = names.iter().map(|_| Vec::new()).collect();
        for row in reader.get_row_iter(None).map_err(|e| problem(e.to_string()))? {
            let row = row.map_err(|e| problem(e.to_string()))?;
            for (column, (_, field)) in cells.iter_mut().zip(row.get_column_iter()) {
                column.push(match field {
                    Field::Float(x) => Cell::Number(f64::from(*x)),
                    Field::Double(x) => Cell::Number(*x),
                    Field::Int(x) => Cell::Number(f64::from(*x)),
                    Field::Long(x) => Cell::Number(*x as f64),
                    Field::Str(text) => Cell::Text(text.clone()),
                    _ => Cell::Other,
                });
            }
        }
        if cells.iter().all(Vec::is_empty) {
            return Err(problem("it has no rows; needed: at least one".into()));
        }
        Ok(Self { file, names, cells })
    }

    fn column(&self, name: &str) -> Result<&[Cell], TableError> {
        match self.names.iter().position(|known| known == name) {
            Some(position) => Ok(&self.cells[position]),
            None => Err(TableError::MissingColumn {
                file: self.file.clone(),
                column: name.to_owned(),
                known: self.names.join(", "),
            }),
        }
    }

    fn bad<T>(&self, row: usize, column: &str, needed: &str) -> Result<T, TableError> {
        Err(TableError::BadValue {
            file: self.file.clone(),
            row: row + 1,
            column: column.to_owned(),
            got: "another value".into(),
            needed: needed.to_owned(),
        })
    }

    fn numbers(&self, name: &str) -> Result<Vec<f64>, TableError> {
        let cells = self.column(name)?.iter().enumerate();
        cells
            .map(|(row, cell)| match cell {
                Cell::Number(x) if is_usable(*x) => Ok(*x),
                _ => self.bad(row, name, USABLE),
            })
            .collect()
    }

    fn texts(&self, name: &str) -> Result<Vec<&str>, TableError> {
        let cells = self.column(name)?.iter().enumerate();
        cells
            .map(|(row, cell)| match cell {
                Cell::Text(text) => Ok(text.as_str()),
                _ => self.bad(row, name, "text"),
            })
            .collect()
    }

    fn with_role(&self, name: &str, role: Role) -> Result<Column, TableError> {
        Ok(Column { name: name.to_owned(), role, values: self.numbers(name)? })
    }

    fn space_error(&self, source: palmette_space::SpaceError) -> TableError {
        TableError::Space { file: self.file.clone(), source }
    }
}

/// NAS-Bench-201 (Dong and Yang, 2001.00326): 15,625 cells, 12-epoch validation and test accuracy
/// on three data sets, 200-epoch test accuracy, device latencies.
pub fn nas_bench_201(path: &Path) -> Result<Table, TableError> {
    let file = Columns::read(path)?;
    let mut builder = Space::builder("nas-bench-201");
    let cell = builder.edge_dag(4, &NB201_OPERATORS);
    builder.edge_cell(&cell, "none", Some("skip_connect"));
    let space = builder.finish().map_err(|e| file.space_error(e))?;
    let mut genotypes = Vec::new();
    for (row, cell) in file.texts("cellstr")?.into_iter().enumerate() {
        let genes: Option<Vec<u32>> = cell
            .split(['|', '+'])
            .filter(|part| !part.is_empty())
            .map(|part| {
                let operator = part.split('~').next()?;
                NB201_OPERATORS.iter().position(|&known| known == operator).map(|i| i as u32)
            })
            .collect();
        match genes.map(Genotype::new).filter(|genotype| space.check(genotype).is_ok()) {
            Some(genotype) => genotypes.push(genotype),
            None => return file.bad(row, "cellstr", "six edges of NAS-Bench-201's operators"),
        }
    }
    let mut columns = Vec::new();
    for name in &file.names {
        let role = match name {
            name if name.ends_with("-val@12ep") => Role::Validation,
            name if name.contains("-test@") => Role::Test,
            name if name.starts_with("lat_") => Role::Cost,
            _ => continue,
        };
        columns.push(file.with_role(name, role)?);
    }
    Ok(Table::new("nas-bench-201", space, genotypes, columns))
}

/// NAS-Bench-Macro (Su et al., 2103.11922): 3^8 networks on CIFAR-10, parameters and FLOPs.
///
/// The table has no split; its accuracy is both what a search sees and what a report shows.
pub fn nas_bench_macro(path: &Path) -> Result<Table, TableError> {
    let file = Columns::read(path)?;
    let mut builder = Space::builder("nas-bench-macro");
    builder.repeat("layer", 8, |b, _| b.one_of("block", &["0", "1", "2"]));
    let space = builder.finish().map_err(|e| file.space_error(e))?;
    let mut genotypes = Vec::new();
    for (row, arch) in file.texts("arch")?.into_iter().enumerate() {
        let genes: Option<Vec<u32>> = arch.chars().map(|digit| digit.to_digit(3)).collect();
        match genes.map(Genotype::new).filter(|genotype| space.check(genotype).is_ok()) {
            Some(genotype) => genotypes.push(genotype),
            None => return file.bad(row, "arch", "eight digits from 0 to 2"),
        }
    }
    let columns = vec![
        file.with_role("mean_acc", Role::Validation)?,
        file.with_role("params", Role::Cost)?,
        file.with_role("flops", Role::Cost)?,
    ];
    Ok(Table::new("nas-bench-macro", space, genotypes, columns))
}

/// Accel-NASBench's ImageNet proxy: 5,125 distinct of 1e11 networks, so a pool. Repeated rows are
/// averaged.
pub fn accel_nasbench(path: &Path) -> Result<Table, TableError> {
    let file = Columns::read(path)?;
    let mut builder = Space::builder("accel-nasbench");
    let mut genes: Vec<Vec<u32>> = Vec::new();
    for name in file.names.iter().filter(|name| name.starts_with("block")) {
        let values = file.numbers(name)?;
        let mut options = values.clone();
        options.sort_by(f64::total_cmp);
        options.dedup();
        let texts: Vec<String> = options.iter().map(f64::to_string).collect();
        builder.one_of_ordered(name, &texts);
        let place = |value: &f64| options.partition_point(|option| option < value) as u32;
        genes.push(values.iter().map(place).collect());
    }
    let space = builder.finish().map_err(|e| file.space_error(e))?;
    let rows = genes.first().map_or(0, Vec::len);
    let genotypes: Vec<Genotype> = (0..rows)
        .map(|row| Genotype::new(genes.iter().map(|gene| gene[row]).collect::<Vec<u32>>()))
        .collect();
    let columns = vec![
        file.with_role("val_top1", Role::Validation)?,
        file.with_role("macs", Role::Cost)?,
        file.with_role("params", Role::Cost)?,
        file.with_role("train_time", Role::Cost)?,
    ];
    Ok(Table::new("accel-nasbench", space, genotypes, columns))
}

/// Whichever public table the Parquet file holds, known by its columns.
pub fn open_parquet(path: &Path) -> Result<Table, TableError> {
    let file = Columns::read(path)?;
    let has = |name: &str| file.names.iter().any(|known| known == name);
    match () {
        () if has("cellstr") => nas_bench_201(path),
        () if has("arch") && has("flops") => nas_bench_macro(path),
        () if has("block0_e") => accel_nasbench(path),
        () => Err(TableError::File {
            file: file.file.clone(),
            problem: format!(
                "it is none of the known tables (NAS-Bench-201, NAS-Bench-Macro, Accel-NASBench); \
                 give your own as CSV. Its columns: {}",
                file.names.join(", ")
            ),
        }),
    }
}
