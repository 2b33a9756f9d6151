//! Raw rows through the fitted encoders of a dataset, outside `prepare`.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crate::batch::{Batch, RawBatch};
use crate::dataset::Dataset;
use crate::encoder::{CategoricalEncoder, hash_value, table_index};
use crate::error::{DataError, RowProblem};
use crate::fit::VocabularyReader;
use crate::input::{BLOCK_BYTES, Input, bad_row};
use crate::interner::Interner;
use crate::manifest::Encoders;
use crate::number;
use crate::parse::{CategoricalColumn, LABEL_ABSENT, ParsedBlock, Purpose, RowParser};
use crate::profile::Profile;
use crate::schema::Schema;

/// The fitted encoders of a dataset with their vocabularies in memory.
#[derive(Debug)]
pub struct RowEncoder {
    schema: Schema,
    encoders: Encoders,
    vocabularies: Vec<Option<Interner>>,
}

impl RowEncoder {
    /// Loads the encoders of a dataset.
    pub fn open(dataset: &Dataset) -> Result<RowEncoder, DataError> {
        let encoders = dataset.manifest().encoders.clone();
        let mut vocabularies = Vec::new();
        for field in &encoders.categorical {
            vocabularies.push(match &field.vocabulary {
                Some(entry) => {
                    let mut texts = Interner::default();
                    VocabularyReader::open(&dataset.dir().join(&entry.file))?
                        .next_piece(&mut texts, u64::MAX)?;
                    Some(texts)
                }
                None => None,
            });
        }
        Ok(RowEncoder { schema: dataset.manifest().schema.clone(), encoders, vocabularies })
    }

    /// The description of the encoders, which an exporter writes beside the model.
    pub fn encoders(&self) -> &Encoders {
        &self.encoders
    }

    /// The texts of a dictionary field's vocabulary in the order of their values, with `None`
    /// for the missing value; `None` for a field with another encoder.
    pub fn vocabulary(&self, field: usize) -> Option<impl Iterator<Item = Option<&str>>> {
        let texts = self.vocabularies.get(field)?.as_ref()?;
        Some(texts.texts().map(|text| {
            let text = std::str::from_utf8(text).unwrap_or_default();
            (!text.is_empty()).then_some(text)
        }))
    }

    /// The raw value of dense field `field`: its number, or NaN where missing.
    pub fn dense(&self, field: usize, text: &str) -> Result<f32, RowProblem> {
        if let Some(constant) = self.encoders.dense[field].constant {
            return Ok(constant);
        }
        match self.present(text) {
            None => Ok(f32::NAN),
            Some(text) => number::parse_f32(text)
                .ok_or_else(|| RowProblem::NotANumber(String::from_utf8_lossy(text).into_owned())),
        }
    }

    /// The value of categorical field `field` before any table, `-1..=4294967295`.
    pub fn value(&self, field: usize, text: &str) -> Result<i64, RowProblem> {
        let present = self.present(text);
        if let Some(vocabulary) = &self.vocabularies[field] {
            return Ok(vocabulary.find(present.unwrap_or_default()).map_or(-1, i64::from));
        }
        let Some(text) = present else { return Ok(-1) };
        match self.encoders.categorical[field].encoder {
            CategoricalEncoder::Modulo { base } => {
                base.parse(text).map(i64::from).ok_or_else(|| {
                    let value = String::from_utf8_lossy(text).into_owned();
                    RowProblem::NotAnInteger { value, expected: base.expected() }
                })
            }
            CategoricalEncoder::Hash => Ok(i64::from(hash_value(text))),
            CategoricalEncoder::Dictionary { .. } => Ok(-1),
        }
    }

    /// The trimmed text, unless it means a missing value.
    fn present<'a>(&self, text: &'a str) -> Option<&'a [u8]> {
        let text = number::trimmed(text.as_bytes());
        let missing =
            text.is_empty() || self.encoders.missing.iter().any(|m| m.trim().as_bytes() == text);
        (!missing).then_some(text)
    }

    /// Applies the transforms and the tables to raw rows.
    pub fn finish(&self, raw: &RawBatch, table_rows: &[u32], batch: &mut Batch) {
        let (dense_fields, fields) = (self.encoders.dense.len(), self.encoders.categorical.len());
        debug_assert_eq!(table_rows.len(), fields);
        batch.resize(raw.rows, dense_fields, fields);
        for row in 0..raw.rows {
            for (field, dense) in self.encoders.dense.iter().enumerate() {
                let at = row * dense_fields + field;
                batch.dense[at] = dense.transform.apply(raw.dense[at]);
            }
            for (field, &table) in table_rows.iter().enumerate() {
                batch.ids[field * raw.rows + row] =
                    table_index(raw.values[row * fields + field], table);
            }
        }
        batch.labels.copy_from_slice(&raw.labels);
        batch.weights.fill(1.0);
    }
}

/// Reads log files row by row through fitted encoders, for predictions. The files have the form
/// that the dataset's schema describes; the label may be missing.
pub struct LogReader<'a> {
    encoder: &'a RowEncoder,
    profile: Option<Profile>,
    /// Files not yet opened, in reverse order.
    waiting: Vec<PathBuf>,
    current: Option<OpenLog>,
    /// Bytes of the files that are read to their end.
    finished_bytes: u64,
}

struct OpenLog {
    input: Input,
    parser: RowParser,
    /// Rows read, the header counted.
    rows: u64,
}

impl<'a> LogReader<'a> {
    /// Opens the files, with a profile where the schema has one.
    pub fn open(
        encoder: &'a RowEncoder,
        inputs: &[PathBuf],
        profile: Option<&Path>,
    ) -> Result<LogReader<'a>, DataError> {
        let schema = &encoder.schema;
        let profile = match (&schema.profile, profile) {
            (Some(rule), Some(path)) => Some(Profile::read(path, rule, schema, u64::MAX)?),
            (Some(_), None) => {
                return Err(DataError::Options(format!(
                    "the schema `{}` needs its profile file; name it with --profile",
                    schema.name
                )));
            }
            (None, _) => None,
        };
        let waiting = inputs.iter().rev().cloned().collect();
        Ok(LogReader { encoder, profile, waiting, current: None, finished_bytes: 0 })
    }

    /// Bytes of the files that have been read, as they lie on the disk: for progress.
    pub fn bytes_read(&self) -> u64 {
        let current = self.current.as_ref().map(|log| log.input.consumed.load(Ordering::Relaxed));
        self.finished_bytes + current.unwrap_or(0)
    }

    /// Fills `batch` with the next rows, as many as fit a block of input; false at the end.
    /// A bad row is an error that names it.
    pub fn next_batch(&mut self, batch: &mut RawBatch) -> Result<bool, DataError> {
        loop {
            let Some(log) = &mut self.current else {
                let Some(path) = self.waiting.pop() else { return Ok(false) };
                self.current = Some(open_log(&path, &self.encoder.schema)?);
                continue;
            };
            let Some(block) = log.input.next_block()? else {
                self.finished_bytes += log.input.consumed.load(Ordering::Relaxed);
                self.current = None;
                continue;
            };
            let mut parsed = log.parser.parse(&block, self.profile.as_ref());
            if let Some(bad) = parsed.bad.drain(..).next() {
                return Err(bad_row(
                    &log.input.path,
                    log.rows + bad.record + 1,
                    bad.field,
                    bad.problem,
                ));
            }
            log.rows += parsed.records;
            self.encoder.collect(&parsed, batch);
            return Ok(true);
        }
    }
}

fn open_log(path: &Path, schema: &Schema) -> Result<OpenLog, DataError> {
    let mut input = Input::open(path, schema, BLOCK_BYTES)?;
    let parser = RowParser::new(schema, &input.names, path, Purpose::Predict)?;
    input.project(&parser.used())?;
    let rows = input.header_rows;
    Ok(OpenLog { input, parser, rows })
}

impl RowEncoder {
    /// Parsed columns into raw rows.
    fn collect(&self, parsed: &ParsedBlock, batch: &mut RawBatch) {
        let (dense_fields, fields) = (self.encoders.dense.len(), self.encoders.categorical.len());
        let rows = parsed.rows();
        batch.resize(rows, dense_fields, fields);
        let mut stored = parsed.dense.iter();
        for (field, dense) in self.encoders.dense.iter().enumerate() {
            let column = if dense.constant.is_none() { stored.next() } else { None };
            for row in 0..rows {
                let value = column.map(|column| column[row]).or(dense.constant);
                batch.dense[row * dense_fields + field] = value.unwrap_or(f32::NAN);
            }
        }
        for (field, column) in parsed.categorical.iter().enumerate() {
            let mut put = |row: usize, value: i64| batch.values[row * fields + field] = value;
            match (column, &self.vocabularies[field]) {
                (CategoricalColumn::Values(values), _) => {
                    values
                        .iter()
                        .enumerate()
                        .for_each(|(row, &stored)| put(row, i64::from(stored) - 1));
                }
                (CategoricalColumn::Texts(texts), Some(vocabulary)) => {
                    let found: Vec<i64> = texts
                        .texts
                        .texts()
                        .map(|text| vocabulary.find(text).map_or(-1, i64::from))
                        .collect();
                    texts
                        .numbers
                        .iter()
                        .enumerate()
                        .for_each(|(row, &n)| put(row, found[n as usize]));
                }
                (CategoricalColumn::Texts(_), None) => {}
            }
        }
        for &(field, row) in &parsed.exceptions {
            batch.values[row as usize * fields + field as usize] = i64::from(u32::MAX);
        }
        for (out, &label) in batch.labels.iter_mut().zip(&parsed.labels) {
            *out = if label == LABEL_ABSENT { f32::NAN } else { f32::from(label) };
        }
    }
}
