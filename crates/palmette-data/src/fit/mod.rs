//! Fits encoders and transforms on the training part, column by column, in bounded memory.

use std::path::Path;

use rayon::prelude::*;

use crate::encoder::{CategoricalEncoder, DenseTransform, MIN_TABLE_ROWS};
use crate::error::DataError;
use crate::manifest::{Encoders, FittedCategorical, FittedDense};
use crate::schema::{CategoricalField, DenseField, EncoderRule, Schema, TransformRule};
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
    let categorical = input.schema.categorical.par_iter().enumerate().map(|(column, field)| {
        let fitted = match field.encoder {
            EncoderRule::Dictionary { min_count } => {
                vocabulary::fit(input, column, field, min_count)
            }
            EncoderRule::Modulo { base } => {
                fit_values(input, column, field, CategoricalEncoder::Modulo { base })
            }
            EncoderRule::Hash => fit_values(input, column, field, CategoricalEncoder::Hash),
        };
        advance();
        fitted
    });
    let categorical = categorical.collect::<Result<_, _>>()?;
    Ok(Encoders { missing: input.schema.missing.clone(), dense, categorical })
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

/// Counts the distinct values of a column whose encoder needs no fitting.
fn fit_values(
    input: &FitInput,
    column: usize,
    field: &CategoricalField,
    encoder: CategoricalEncoder,
) -> Result<FittedCategorical, DataError> {
    let mut missing = 0;
    let mut seen = distinct::DistinctCounter::new(input.staging, column, input.memory);
    let mut wraps = false;
    // the one value that wraps to 0 is counted apart
    let mut exceptions: Vec<Vec<u32>> = Vec::new();
    for chunk in input.chunks {
        let rows = chunk.exceptions()?.into_iter().filter(|(c, _)| *c == column as u32);
        let mut rows: Vec<u32> = rows.map(|(_, row)| row).collect();
        rows.sort_unstable();
        exceptions.push(rows);
    }
    let (mut cells, mut parts) = (Vec::new(), Vec::new());
    for (number, chunk) in input.chunks.iter().enumerate() {
        chunk.read::<4>(Column::Categorical(column), &mut cells)?;
        input.assignment.read(number, chunk, &mut parts)?;
        for (row, cell) in cells.as_chunks::<4>().0.iter().enumerate() {
            if parts[row] != 0 {
                continue;
            }
            match u32::from_le_bytes(*cell) {
                0 if exceptions[number].binary_search(&(row as u32)).is_ok() => wraps = true,
                0 => missing += 1,
                stored => seen.insert(stored)?,
            }
        }
    }
    let distinct = seen.finish()? + u64::from(wraps);
    Ok(FittedCategorical {
        name: field.name.clone(),
        encoder,
        distinct,
        missing,
        table_rows: field.rows.unwrap_or_else(|| table_rows(distinct)),
        vocabulary: None,
    })
}

/// Rows of a table for that many values: one more for row 0.
fn table_rows(values: u64) -> u32 {
    u32::try_from(values.saturating_add(1)).unwrap_or(u32::MAX).max(MIN_TABLE_ROWS)
}
