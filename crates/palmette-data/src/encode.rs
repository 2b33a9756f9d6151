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
use crate::manifest::{Encoders, ListVocabulary};
use crate::number;
use crate::parse::{CategoricalColumn, LABEL_ABSENT, ParsedBlock, Purpose, RowParser};
use crate::profile::Profile;
use crate::schema::{Keep, Schema};

/// The fitted encoders of a dataset with their vocabularies in memory.
#[derive(Debug)]
pub struct RowEncoder {
    schema: Schema,
    encoders: Encoders,
    /// By table.
    vocabularies: Vec<Option<Interner>>,
    /// The table of each list.
    list_tables: Vec<usize>,
}

impl RowEncoder {
    /// Loads the encoders of a dataset.
    pub fn open(dataset: &Dataset) -> Result<RowEncoder, DataError> {
        let encoders = dataset.manifest().encoders.clone();
        let mut vocabularies = Vec::new();
        for field in encoders.tables() {
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
        let schema = dataset.manifest().schema.clone();
        let list_tables = encoders.list_tables();
        Ok(RowEncoder { schema, encoders, vocabularies, list_tables })
    }

    /// The description of the encoders, which an exporter writes beside the model.
    pub fn encoders(&self) -> &Encoders {
        &self.encoders
    }

    /// The texts of a vocabulary in the order of their values, with `None` for the missing value;
    /// `None` for a table with another encoder. Tables are those of the categorical fields, then
    /// those of the lists that share none.
    pub fn vocabulary(&self, table: usize) -> Option<impl Iterator<Item = Option<&str>>> {
        let texts = self.vocabularies.get(table)?.as_ref()?;
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
        self.table_value(
            field,
            self.encoders.categorical[field].encoder.clone(),
            self.present(text),
        )
    }

    /// The values of list `list` before any table, each `-1..=4294967295`; its text in one field.
    pub fn list(&self, list: usize, text: &str) -> Result<Vec<i64>, RowProblem> {
        let fitted = &self.encoders.lists[list];
        let table = self.list_tables[list];
        let encoder = match &fitted.values {
            ListVocabulary::Own(field) => field.encoder.clone(),
            ListVocabulary::Shared(field) => self.encoders.categorical[*field].encoder.clone(),
        };
        let Some(whole) = self.present(text) else { return Ok(Vec::new()) };
        let whole = std::str::from_utf8(whole).unwrap_or_default();
        let values = whole.split(fitted.separator).map(|value| self.present(value)).enumerate();
        let values: Vec<(usize, &[u8])> =
            values.filter_map(|(i, value)| value.map(|value| (i + 1, value))).collect();
        let cut = values.len().saturating_sub(fitted.max_length as usize);
        let kept = match fitted.keep {
            Keep::First => &values[..values.len() - cut],
            Keep::Last => &values[cut..],
        };
        let encoded = kept.iter().map(|&(position, value)| {
            self.table_value(table, encoder.clone(), Some(value))
                .map_err(|problem| RowProblem::ListValue { position, problem: Box::new(problem) })
        });
        encoded.collect()
    }

    fn table_value(
        &self,
        table: usize,
        encoder: CategoricalEncoder,
        present: Option<&[u8]>,
    ) -> Result<i64, RowProblem> {
        if let Some(vocabulary) = &self.vocabularies[table] {
            return Ok(vocabulary.find(present.unwrap_or_default()).map_or(-1, i64::from));
        }
        let Some(text) = present else { return Ok(-1) };
        match encoder {
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
        debug_assert_eq!(table_rows.len(), self.vocabularies.len());
        batch.resize(raw.rows, dense_fields, fields, raw.lists.len());
        for row in 0..raw.rows {
            for (field, dense) in self.encoders.dense.iter().enumerate() {
                let at = row * dense_fields + field;
                batch.dense[at] = dense.transform.apply(raw.dense[at]);
            }
            for (field, &table) in table_rows[..fields].iter().enumerate() {
                batch.ids[field * raw.rows + row] =
                    table_index(raw.values[row * fields + field], table);
            }
        }
        for (list, (out, raw)) in batch.lists.iter_mut().zip(&raw.lists).enumerate() {
            let table = table_rows[self.list_tables[list]];
            out.offsets.clone_from(&raw.offsets);
            out.values.extend(raw.values.iter().map(|&value| table_index(value, table)));
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
    let parser = RowParser::new(schema, &input, Purpose::Predict)?;
    input.project(&parser.used())?;
    let rows = input.header_rows;
    Ok(OpenLog { input, parser, rows })
}

impl RowEncoder {
    /// Parsed columns into raw rows.
    fn collect(&self, parsed: &ParsedBlock, batch: &mut RawBatch) {
        let (dense_fields, fields) = (self.encoders.dense.len(), self.encoders.categorical.len());
        let rows = parsed.rows();
        batch.resize(rows, dense_fields, fields, parsed.lists.len());
        let mut stored = parsed.dense.iter();
        for (field, dense) in self.encoders.dense.iter().enumerate() {
            let column = if dense.constant.is_none() { stored.next() } else { None };
            for row in 0..rows {
                let value = column.map(|column| column[row]).or(dense.constant);
                batch.dense[row * dense_fields + field] = value.unwrap_or(f32::NAN);
            }
        }
        for (field, column) in parsed.categorical.iter().enumerate() {
            let values = self.values(field, column);
            for (row, value) in values.into_iter().enumerate() {
                batch.values[row * fields + field] = value;
            }
        }
        for (list, column) in parsed.lists.iter().enumerate() {
            let out = &mut batch.lists[list];
            out.offsets.extend(column.ends.iter().map(|&end| end as usize));
            out.values = self.values(self.list_tables[list], &column.values);
        }
        for &(column, cell) in &parsed.exceptions {
            let (column, cell) = (column as usize, cell as usize);
            match column.checked_sub(fields) {
                None => batch.values[cell * fields + column] = i64::from(u32::MAX),
                Some(list) => batch.lists[list].values[cell] = i64::from(u32::MAX),
            }
        }
        for (out, &label) in batch.labels.iter_mut().zip(&parsed.labels) {
            *out = if label == LABEL_ABSENT { f32::NAN } else { f32::from(label) };
        }
    }

    /// The values of a parsed column with the encoder of a table.
    fn values(&self, table: usize, column: &CategoricalColumn) -> Vec<i64> {
        match (column, &self.vocabularies[table]) {
            (CategoricalColumn::Values(values), _) => {
                values.iter().map(|&stored| i64::from(stored) - 1).collect()
            }
            (CategoricalColumn::Texts(texts), Some(vocabulary)) => {
                let find = |text| vocabulary.find(text).map_or(-1, i64::from);
                let found: Vec<i64> = texts.texts.texts().map(find).collect();
                texts.numbers.iter().map(|&number| found[number as usize]).collect()
            }
            (CategoricalColumn::Texts(texts), None) => vec![-1; texts.numbers.len()],
        }
    }
}
