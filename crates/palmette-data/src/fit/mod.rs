//! Fits encoders and transforms on the training part, column by column, in bounded memory.

use std::path::Path;

use rayon::prelude::*;

use crate::encoder::{CategoricalEncoder, DenseTransform, MIN_TABLE_ROWS};
use crate::error::DataError;
use crate::manifest::{Encoders, FittedCategorical, FittedDense, FittedList, ListVocabulary};
use crate::schema::{DenseField, EncoderRule, ListField, Schema, TransformRule};
use crate::shard::Column;
use crate::split::Assignment;
use crate::staging::Chunk;

mod counts;
mod distinct;
mod vocabulary;

pub(crate) use vocabulary::VocabularyReader;

/// What fitting works on.
pub(crate) struct FitInput<'a> {
    pub schema: &'a Schema,
    pub chunks: &'a [Chunk],
    pub assignment: &'a Assignment,
    /// Directory for spilled runs.
    pub staging: &'a Path,
    /// Directory of the dataset, where vocabularies go.
    pub output: &'a Path,
    /// Memory for one column.
    pub memory: u64,
}

/// Fits all columns; columns are independent, so they are done in parallel.
pub(crate) fn fit(input: &FitInput, advance: &(dyn Fn() + Sync)) -> Result<Encoders, DataError> {
    let mut stored = 0..;
    let dense: Vec<(Option<usize>, &DenseField)> = input
        .schema
        .dense
        .iter()
        .map(|field| (field.constant.is_none().then(|| stored.next()).flatten(), field))
        .collect();
    let dense = dense.into_par_iter().map(|(column, field)| {
        let fitted = fit_dense(input, column, field);
        advance();
        fitted
    });
    let dense = dense.collect::<Result<_, _>>()?;
    let tables = tables(input.schema);
    let fitted = tables.par_iter().map(|table| {
        let fitted = match table.encoder {
            EncoderRule::Dictionary { min_count } => vocabulary::fit(input, table, min_count),
            EncoderRule::Modulo { base } => {
                fit_values(input, table, CategoricalEncoder::Modulo { base })
            }
            EncoderRule::Hash => fit_values(input, table, CategoricalEncoder::Hash),
        };
        advance();
        fitted
    });
    let mut categorical = fitted.collect::<Result<Vec<_>, _>>()?;
    let mut own = categorical.split_off(input.schema.categorical.len()).into_iter();
    let list = |field: &ListField| -> Option<FittedList> {
        Some(FittedList {
            name: field.name.clone(),
            separator: field.separator,
            max_length: field.max_length,
            keep: field.keep,
            values: match input.schema.shared_field(field) {
                Some(shared) => ListVocabulary::Shared(shared),
                None => ListVocabulary::Own(own.next()?),
            },
        })
    };
    let lists = input.schema.lists.iter().filter_map(list).collect();
    Ok(Encoders { missing: input.schema.missing.clone(), dense, categorical, lists })
}

/// A vocabulary to fit, with the coded columns that have it.
struct Table<'a> {
    name: &'a str,
    columns: Vec<usize>,
    encoder: EncoderRule,
    rows: Option<u32>,
}

/// One table a categorical field, with the lists that share it, then one a list of its own.
fn tables(schema: &Schema) -> Vec<Table<'_>> {
    let fields = schema.categorical.iter().enumerate();
    let mut tables: Vec<Table> = fields
        .map(|(i, field)| Table {
            name: &field.name,
            columns: vec![i],
            encoder: field.encoder,
            rows: field.rows,
        })
        .collect();
    for (i, list) in schema.lists.iter().enumerate() {
        let column = schema.categorical.len() + i;
        match schema.shared_field(list) {
            Some(shared) => tables[shared].columns.push(column),
            None => tables.push(Table {
                name: &list.name,
                columns: vec![column],
                encoder: list.encoder,
                rows: list.rows,
            }),
        }
    }
    tables
}

/// Visits the cells of a coded column of one chunk that belong to the training part, each with
/// its number: the row's, or the value's of a list.
fn for_each_coded_cell(
    input: &FitInput,
    number: usize,
    column: usize,
    mut visit: impl FnMut(u32, u32) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let chunk = &input.chunks[number];
    let (mut cells, mut parts) = (Vec::new(), Vec::new());
    input.assignment.read(number, chunk, &mut parts)?;
    let Some(list) = column.checked_sub(input.schema.categorical.len()) else {
        chunk.read::<4>(Column::Categorical(column), &mut cells)?;
        for (row, cell) in cells.as_chunks::<4>().0.iter().enumerate() {
            if parts[row] == 0 {
                visit(u32::from_le_bytes(*cell), row as u32)?;
            }
        }
        return Ok(());
    };
    let mut ends = Vec::new();
    chunk.read::<8>(Column::ListEnds(list), &mut ends)?;
    chunk.read_elements(list, &mut cells)?;
    let cells = cells.as_chunks::<4>().0;
    let mut start = 0;
    for (row, end) in ends.as_chunks::<8>().0.iter().enumerate() {
        let end = u64::from_le_bytes(*end) as usize;
        if parts[row] == 0 {
            for value in start..end {
                visit(u32::from_le_bytes(cells[value]), value as u32)?;
            }
        }
        start = end;
    }
    Ok(())
}

/// Visits the cells of a column that belong to the training part, in file order.
fn for_each_training_cell<const W: usize>(
    input: &FitInput,
    column: Column,
    mut visit: impl FnMut([u8; W], u32) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let (mut cells, mut parts) = (Vec::new(), Vec::new());
    for (number, chunk) in input.chunks.iter().enumerate() {
        chunk.read::<W>(column, &mut cells)?;
        input.assignment.read(number, chunk, &mut parts)?;
        for (row, cell) in cells.as_chunks::<W>().0.iter().enumerate() {
            if parts[row] == 0 {
                visit(*cell, row as u32)?;
            }
        }
    }
    Ok(())
}

/// Count, extremes and moments of a dense column; sums run in file order, so that they do not
/// depend on chunks or threads.
fn fit_dense(
    input: &FitInput,
    column: Option<usize>,
    field: &DenseField,
) -> Result<FittedDense, DataError> {
    let (mut count, mut missing, mut sum) = (0u64, 0u64, 0.0f64);
    let (mut min, mut max) = (f32::INFINITY, f32::NEG_INFINITY);
    if let Some(column) = column {
        for_each_training_cell::<4>(input, Column::Dense(column), |cell, _| {
            let x = f32::from_le_bytes(cell);
            if x.is_nan() {
                missing += 1;
            } else {
                count += 1;
                sum += f64::from(x);
                min = min.min(x);
                max = max.max(x);
            }
            Ok(())
        })?;
    }
    let transform = match field.transform {
        TransformRule::Log => DenseTransform::Log,
        TransformRule::None => DenseTransform::None,
        TransformRule::Standard => {
            let mean = if count == 0 { 0.0 } else { sum / count as f64 };
            let mut squares = 0.0;
            if let Some(column) = column {
                for_each_training_cell::<4>(input, Column::Dense(column), |cell, _| {
                    let x = f64::from(f32::from_le_bytes(cell));
                    if !x.is_nan() {
                        squares += (x - mean) * (x - mean);
                    }
                    Ok(())
                })?;
            }
            let deviation = if count == 0 { 0.0 } else { (squares / count as f64).sqrt() };
            DenseTransform::Standard {
                mean,
                deviation: if deviation > 0.0 { deviation } else { 1.0 },
            }
        }
    };
    let present = count > 0;
    Ok(FittedDense {
        name: field.name.clone(),
        constant: field.constant,
        transform,
        missing,
        min: present.then_some(min),
        max: present.then_some(max),
    })
}

/// Counts the distinct values of a table whose encoder needs no fitting.
fn fit_values(
    input: &FitInput,
    table: &Table,
    encoder: CategoricalEncoder,
) -> Result<FittedCategorical, DataError> {
    let mut missing = 0;
    let mut seen = distinct::DistinctCounter::new(input.staging, table.columns[0], input.memory);
    let mut wraps = false;
    for (number, chunk) in input.chunks.iter().enumerate() {
        let exceptions = chunk.exceptions()?;
        for &column in &table.columns {
            // the one value that wraps to 0 is counted apart
            let cells = exceptions.iter().filter(|(c, _)| *c == column as u32);
            let mut exceptions: Vec<u32> = cells.map(|(_, cell)| *cell).collect();
            exceptions.sort_unstable();
            for_each_coded_cell(input, number, column, |stored, cell| {
                match stored {
                    0 if exceptions.binary_search(&cell).is_ok() => wraps = true,
                    0 => missing += 1,
                    stored => seen.insert(stored)?,
                }
                Ok(())
            })?;
        }
    }
    let distinct = seen.finish()? + u64::from(wraps);
    Ok(FittedCategorical {
        name: table.name.into(),
        encoder,
        distinct,
        missing,
        table_rows: table.rows.unwrap_or_else(|| table_rows(distinct)),
        vocabulary: None,
    })
}

/// Rows of a table for that many values: one more for row 0.
fn table_rows(values: u64) -> u32 {
    u32::try_from(values.saturating_add(1)).unwrap_or(u32::MAX).max(MIN_TABLE_ROWS)
}
