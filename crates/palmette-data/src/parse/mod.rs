//! Rows of a block into columns, by the schema.

use xxhash_rust::xxh3::xxh3_64;

use crate::encoder::{IntegerBase, hash_value};
use crate::error::{DataError, RowProblem, listed, nearest};
use crate::input::record::{record_end, split_fields, without_line_end};
use crate::input::{Block, BlockRows, Input, NATIVE_SEPARATOR};
use crate::number;
use crate::profile::Profile;
use crate::schema::{EncoderRule, ExtraKind, Keep, Schema, SplitRule};
use crate::shard::{Columns, stored};
use crate::time::{TimeFormat, from_parts};

mod block;

pub(crate) use block::{
    BadRecord, CategoricalColumn, LABEL_ABSENT, ListColumn, ParsedBlock, ROUTE_DROP,
};

/// What a field is used for. A field may have several uses.
#[derive(Clone, Copy, Debug)]
enum Use {
    Label,
    Weight,
    Dense(usize),
    /// A categorical field.
    Categorical(usize, Coder),
    /// A field of any number of values.
    List(usize, Coder),
    /// A kept number.
    Number(usize),
    /// A kept key.
    Key(usize),
    /// The time, in one column.
    Time(usize),
    /// Part `i` of the time.
    TimePart(usize),
    /// The value that decides the part of the log.
    Route,
    /// The key of the profile.
    ProfileKey,
}

/// How one categorical value becomes a cell.
#[derive(Clone, Copy, Debug)]
enum Coder {
    /// The modulo encoder.
    Integer(IntegerBase),
    /// The hash encoder.
    Hash,
    /// A dictionary.
    Text,
}

impl Coder {
    fn new(encoder: EncoderRule) -> Coder {
        match encoder {
            EncoderRule::Modulo { base } => Coder::Integer(base),
            EncoderRule::Hash => Coder::Hash,
            EncoderRule::Dictionary { .. } => Coder::Text,
        }
    }

    /// Appends the cell of a text that is not missing; true for the value that wraps to 0.
    #[inline]
    fn push(self, text: &[u8], column: &mut CategoricalColumn) -> Result<bool, RowProblem> {
        let value = match (self, &mut *column) {
            (_, CategoricalColumn::Texts(column)) => {
                let number = column.texts.intern(text);
                column.numbers.push(number);
                return Ok(false);
            }
            (Coder::Integer(base), _) => base.parse(text).ok_or_else(|| {
                RowProblem::NotAnInteger { value: lossy(text), expected: base.expected() }
            })?,
            _ => hash_value(text),
        };
        if let CategoricalColumn::Values(values) = column {
            values.push(stored(value));
        }
        Ok(value == u32::MAX)
    }
}

/// The beginning of a text, for an error.
fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(80)]).into_owned()
}

/// How the text of a list falls into values.
#[derive(Clone, Copy, Debug)]
struct ListRule {
    separator: u8,
    max_length: usize,
    keep: Keep,
}

/// A schema matched to the columns of one file.
pub(crate) struct RowParser {
    /// Number of fields of a good row in the file.
    width: usize,
    /// Names of the fields, then of the profile's columns.
    names: Vec<String>,
    /// Uses of field `i`: `uses[starts[i]..starts[i + 1]]`.
    uses: Vec<Use>,
    starts: Vec<usize>,
    columns: Columns,
    /// Whether each coded column has a dictionary.
    dictionaries: Vec<bool>,
    lists: Vec<ListRule>,
    missing: Vec<Vec<u8>>,
    at_least: Option<f64>,
    drop_missing_label: bool,
    label_optional: bool,
    time_format: TimeFormat,
    time_extra: Option<usize>,
    time_parts: usize,
    /// Listed values of the split column with their route.
    routes: Option<Vec<(Vec<u8>, u8)>>,
    profile_columns: usize,
    profile_absent: Vec<u8>,
}

/// The state of the row being parsed.
struct RowState {
    label: Option<u8>,
    drop: bool,
    time_parts: [i64; 6],
    problem: Option<(usize, RowProblem)>,
}

/// What rows are parsed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A dataset: every column of the schema must be there.
    Prepare,
    /// Predictions: only the model's inputs must be there; the label is read if it is.
    Predict,
}

impl RowParser {
    /// Matches a schema to the columns of a file.
    pub fn new(schema: &Schema, input: &Input, purpose: Purpose) -> Result<RowParser, DataError> {
        let predict = purpose == Purpose::Predict;
        let file = &*input.path;
        let width = input.names.len();
        let mut names = input.names.clone();
        if let Some(profile) = &schema.profile {
            names.extend(profile.columns.iter().cloned());
        }
        let mut uses: Vec<(usize, Use)> = Vec::new();
        let find = |column: &str| {
            let mut named = names.iter().enumerate().filter(|(_, name)| *name == column);
            let Some((at, _)) = named.next() else {
                return Err(DataError::MissingColumn {
                    file: file.into(),
                    column: column.into(),
                    suggestion: nearest(column, names.iter().map(String::as_str)).map(String::from),
                    available: listed(&names),
                });
            };
            match named.next() {
                Some((again, _)) => Err(DataError::DuplicateColumn {
                    file: file.into(),
                    column: column.into(),
                    first: at + 1,
                    second: again + 1,
                }),
                None => Ok(at),
            }
        };
        let stored = schema.dense.iter().filter(|field| field.constant.is_none());
        for (i, field) in stored.enumerate() {
            uses.push((find(&field.name)?, Use::Dense(i)));
        }
        for (i, field) in schema.categorical.iter().enumerate() {
            uses.push((find(&field.name)?, Use::Categorical(i, Coder::new(field.encoder))));
        }
        let mut lists = Vec::new();
        for (i, field) in schema.lists.iter().enumerate() {
            let at = find(&field.name)?;
            uses.push((at, Use::List(i, Coder::new(field.encoder))));
            let native = input.native_lists.get(at).copied().unwrap_or(false);
            lists.push(ListRule {
                separator: if native { NATIVE_SEPARATOR } else { field.separator as u8 },
                max_length: field.max_length as usize,
                keep: field.keep,
            });
        }
        if let Some(profile) = &schema.profile {
            uses.push((find(&profile.key)?, Use::ProfileKey));
        }
        let extras = schema.extras();
        let mut label_optional = false;
        if predict {
            match find(&schema.label.column) {
                Ok(at) => uses.push((at, Use::Label)),
                Err(_) => label_optional = true,
            }
        } else {
            uses.push((find(&schema.label.column)?, Use::Label));
            if let Some(weight) = &schema.weight {
                uses.push((find(weight)?, Use::Weight));
            }
            for (i, extra) in extras.iter().enumerate() {
                match (extra.kind, &schema.time) {
                    (ExtraKind::Number, _) => uses.push((find(&extra.name)?, Use::Number(i))),
                    (ExtraKind::Key, _) => uses.push((find(&extra.name)?, Use::Key(i))),
                    (ExtraKind::Time, Some(time)) if time.columns.len() == 1 => {
                        uses.push((find(&time.columns[0])?, Use::Time(i)));
                    }
                    (ExtraKind::Time, Some(time)) => {
                        for (part, column) in time.columns.iter().enumerate() {
                            uses.push((find(column)?, Use::TimePart(part)));
                        }
                    }
                    (ExtraKind::Time, None) => {}
                }
            }
            if let SplitRule::Column { column, .. } = &schema.split {
                uses.push((find(column)?, Use::Route));
            }
            for column in &schema.ignore {
                find(column)?;
            }
        }
        for (at, usage) in &uses {
            let native = input.native_lists.get(*at).copied().unwrap_or(false);
            if native && !matches!(usage, Use::List(..)) {
                return Err(DataError::UnsupportedColumnType {
                    file: file.into(),
                    column: names[*at].clone(),
                    found: "list".into(),
                });
            }
        }
        uses.sort_by_key(|(at, _)| *at);
        let starts = (0..=names.len()).map(|i| uses.partition_point(|(at, _)| *at < i)).collect();
        let columns = Columns::new(schema, &extras);
        let columns = match predict {
            true => Columns { weighted: false, extras: 0, ..columns },
            false => columns,
        };
        Ok(RowParser {
            width,
            names,
            uses: uses.into_iter().map(|(_, usage)| usage).collect(),
            starts,
            columns,
            dictionaries: (0..schema.coded_columns())
                .map(|i| matches!(schema.coded_encoder(i), EncoderRule::Dictionary { .. }))
                .collect(),
            lists,
            missing: schema.missing.iter().map(|text| text.trim().as_bytes().to_vec()).collect(),
            at_least: schema.label.at_least,
            drop_missing_label: schema.label.drop_missing,
            label_optional: label_optional || predict,
            time_format: schema.time.as_ref().map(|time| time.format).unwrap_or_default(),
            time_extra: extras.iter().position(|extra| extra.kind == ExtraKind::Time),
            time_parts: match &schema.time {
                Some(time) if time.columns.len() > 1 && !predict => time.columns.len(),
                _ => 0,
            },
            routes: match predict {
                true => None,
                false => routes(&schema.split),
            },
            profile_columns: schema.profile.as_ref().map_or(0, |profile| profile.columns.len()),
            profile_absent: schema
                .profile
                .as_ref()
                .map(|p| p.absent.as_bytes().to_vec())
                .unwrap_or_default(),
        })
    }

    /// Which fields of the file are used.
    pub fn used(&self) -> Vec<bool> {
        (0..self.width).map(|i| self.starts[i] < self.starts[i + 1]).collect()
    }

    /// Names of the file's fields that the schema does not use.
    pub fn unused_names(&self) -> Vec<String> {
        let used = self.used();
        (0..self.width).filter(|&i| !used[i]).map(|i| self.names[i].clone()).collect()
    }

    /// Parses a block.
    pub fn parse(&self, block: &Block, profile: Option<&Profile>) -> ParsedBlock {
        let mut out = self.empty();
        out.end = block.end;
        match &block.rows {
            BlockRows::Text { bytes, delimiter } => {
                let valid = std::str::from_utf8(bytes).is_ok();
                let mut scratch = Vec::new();
                let mut at = 0;
                while at < bytes.len() {
                    let end =
                        record_end(&bytes[at..], *delimiter).map_or(bytes.len(), |end| at + end);
                    let record = without_line_end(&bytes[at..end]);
                    at = end;
                    // an empty line is no row, but counts where rows are numbered
                    if record.is_empty() && self.width > 1 {
                        out.records += 1;
                        continue;
                    }
                    if !valid && std::str::from_utf8(record).is_err() {
                        self.reject(&mut out, None, RowProblem::InvalidUtf8, record);
                        continue;
                    }
                    let mut row = RowState::new();
                    let mut field = 0;
                    let split = split_fields(record, *delimiter, &mut scratch, |text| {
                        self.field(field, text, &mut row, &mut out, profile);
                        field += 1;
                    });
                    let found = (field != self.width).then_some(RowProblem::WrongColumnCount {
                        found: field,
                        expected: self.width,
                    });
                    self.finish(row, split.err().or(found), record, &mut out);
                }
            }
            BlockRows::Fields { width, bytes, ends } => {
                let mut start = 0;
                for row_ends in ends.chunks_exact((*width).max(1)) {
                    let row_start = start;
                    let mut row = RowState::new();
                    for (field, &end) in row_ends.iter().enumerate() {
                        self.field(field, &bytes[start..end as usize], &mut row, &mut out, profile);
                        start = end as usize;
                    }
                    let record = &bytes[row_start..start];
                    self.finish(row, None, record, &mut out);
                }
            }
        }
        out
    }

    fn empty(&self) -> ParsedBlock {
        let (scalars, lists) = self.dictionaries.split_at(self.columns.categorical);
        let list = |&dictionary: &bool| ListColumn {
            ends: Vec::new(),
            values: CategoricalColumn::new(dictionary),
            cut: Vec::new(),
        };
        ParsedBlock {
            dense: vec![Vec::new(); self.columns.dense],
            categorical: scalars
                .iter()
                .map(|&dictionary| CategoricalColumn::new(dictionary))
                .collect(),
            lists: lists.iter().map(list).collect(),
            extras: vec![Vec::new(); self.columns.extras],
            ..ParsedBlock::default()
        }
    }

    fn is_missing(&self, text: &[u8]) -> bool {
        text.is_empty() || (!self.missing.is_empty() && self.missing.iter().any(|m| m == text))
    }

    /// Parses one field of a row.
    #[inline]
    fn field(
        &self,
        field: usize,
        text: &[u8],
        row: &mut RowState,
        out: &mut ParsedBlock,
        profile: Option<&Profile>,
    ) {
        if field >= self.width && field < self.names.len() && profile.is_none() {
            return;
        }
        let Some(&[start, end]) = self.starts.get(field..field + 2).and_then(|s| s.first_chunk())
        else {
            return;
        };
        let text = number::trimmed(text);
        for &usage in &self.uses[start..end] {
            if let Err(problem) = self.apply(usage, text, row, out, profile) {
                row.problem.get_or_insert((field, problem));
            }
        }
    }

    #[inline]
    fn apply(
        &self,
        usage: Use,
        text: &[u8],
        row: &mut RowState,
        out: &mut ParsedBlock,
        profile: Option<&Profile>,
    ) -> Result<(), RowProblem> {
        let missing = self.is_missing(text);
        let lossy = || lossy(text);
        match usage {
            Use::Dense(i) => {
                let value = match missing {
                    true => f32::NAN,
                    false => {
                        number::parse_f32(text).ok_or_else(|| RowProblem::NotANumber(lossy()))?
                    }
                };
                out.dense[i].push(value);
            }
            Use::Categorical(i, coder) => {
                let column = &mut out.categorical[i];
                match (missing, &mut *column) {
                    (true, CategoricalColumn::Values(values)) => values.push(0),
                    (true, CategoricalColumn::Texts(_)) => {
                        coder.push(b"", column)?;
                    }
                    (false, _) => {
                        if coder.push(text, column)? {
                            out.exceptions.push((i as u32, column.len() as u32 - 1));
                        }
                    }
                }
            }
            Use::List(i, coder) => self.list(i, coder, text, missing, out)?,
            Use::Label => self.label(text, missing, row)?,
            Use::Weight => {
                let weight = number::parse_f32(text).filter(|weight| *weight >= 0.0 && !missing);
                out.weights.push(weight.ok_or_else(|| RowProblem::NotAWeight(lossy()))?);
            }
            Use::Number(i) => {
                let value = match missing {
                    true => f64::NAN,
                    false => {
                        number::parse_f64(text).ok_or_else(|| RowProblem::NotANumber(lossy()))?
                    }
                };
                out.extras[i].push(value.to_bits());
            }
            Use::Key(i) => out.extras[i].push(xxh3_64(if missing { b"" } else { text })),
            Use::Time(i) => {
                let time = self.time_format.parse(text);
                let time = time.ok_or_else(|| RowProblem::NotATime {
                    value: lossy(),
                    expected: self.time_format.expected(),
                })?;
                out.extras[i].push(time as u64);
            }
            Use::TimePart(part) => {
                let value = number::parse_f64(text).filter(|v| v.fract() == 0.0 && v.abs() < 1e9);
                row.time_parts[part] = value.ok_or_else(|| RowProblem::NotATime {
                    value: lossy(),
                    expected: TimeFormat::Parts.expected(),
                })? as i64;
            }
            Use::Route => {
                let routes = self.routes.iter().flatten();
                let route =
                    routes.into_iter().find(|(value, _)| value == text).map(|(_, route)| *route);
                match route.ok_or_else(|| RowProblem::UnlistedSplitValue(lossy()))? {
                    ROUTE_DROP => row.drop = true,
                    route => out.routes.push(route),
                }
            }
            Use::ProfileKey => {
                let found = profile.and_then(|profile| profile.get(text));
                for column in 0..self.profile_columns {
                    let value = match (found, profile) {
                        (Some(entry), Some(profile)) => profile.text(entry, column),
                        _ => &self.profile_absent,
                    };
                    self.field(self.width + column, value, row, out, profile);
                }
            }
        }
        Ok(())
    }

    /// Appends the values of a list, at most as many as it keeps.
    fn list(
        &self,
        list: usize,
        coder: Coder,
        text: &[u8],
        missing: bool,
        out: &mut ParsedBlock,
    ) -> Result<(), RowProblem> {
        let rule = self.lists[list];
        let whole: &[u8] = if missing { b"" } else { text };
        let present = || {
            let texts = whole.split(|&byte| byte == rule.separator).map(number::trimmed);
            texts.enumerate().filter(|(_, text)| !self.is_missing(text))
        };
        let count = present().count();
        let cut = count.saturating_sub(rule.max_length);
        let skipped = if rule.keep == Keep::Last { cut } else { 0 };
        let column = &mut out.lists[list];
        for (position, text) in present().skip(skipped).take(count - cut) {
            let wraps = coder.push(text, &mut column.values).map_err(|problem| {
                RowProblem::ListValue { position: position + 1, problem: Box::new(problem) }
            })?;
            if wraps {
                let coded = self.columns.categorical + list;
                out.exceptions.push((coded as u32, column.values.len() as u32 - 1));
            }
        }
        column.ends.push(column.values.len() as u64);
        column.cut.push(cut as u32);
        Ok(())
    }

    fn label(&self, text: &[u8], missing: bool, row: &mut RowState) -> Result<(), RowProblem> {
        if missing && self.drop_missing_label {
            row.drop = true;
            return Ok(());
        }
        if missing {
            return if self.label_optional { Ok(()) } else { Err(RowProblem::LabelMissing) };
        }
        row.label = Some(match text {
            b"0" if self.at_least.is_none() => 0,
            b"1" if self.at_least.is_none() => 1,
            _ if self.at_least.is_none() && number::is_boolean(text) => {
                u8::from(text.eq_ignore_ascii_case(b"true"))
            }
            _ => {
                let value = number::parse_f64(text)
                    .ok_or_else(|| RowProblem::LabelNotNumeric(lossy(text)))?;
                match self.at_least {
                    Some(at_least) => u8::from(value >= at_least),
                    None if value == 0.0 => 0,
                    None if value == 1.0 => 1,
                    None => return Err(RowProblem::LabelOutside(lossy(text))),
                }
            }
        });
        Ok(())
    }

    /// Completes a row, or takes its cells back.
    fn finish(
        &self,
        row: RowState,
        structure: Option<RowProblem>,
        record: &[u8],
        out: &mut ParsedBlock,
    ) {
        if let Some(problem) = structure {
            return self.reject(out, None, problem, record);
        }
        // a dropped row need not be good: an unlabelled row often lacks more than its label
        if row.drop {
            out.truncate();
            out.records += 1;
            out.dropped += 1;
            return;
        }
        if let Some((field, problem)) = row.problem {
            return self.reject(out, Some(self.names[field].clone()), problem, record);
        }
        if self.time_parts > 0 {
            match (from_parts(&row.time_parts[..self.time_parts]), self.time_extra) {
                (Some(time), Some(extra)) => out.extras[extra].push(time as u64),
                _ => {
                    let value = format!("{:?}", &row.time_parts[..self.time_parts]);
                    let expected = TimeFormat::Parts.expected();
                    return self.reject(
                        out,
                        None,
                        RowProblem::NotATime { value, expected },
                        record,
                    );
                }
            }
        }
        out.labels.push(row.label.unwrap_or(LABEL_ABSENT));
        out.records += 1;
    }

    fn reject(
        &self,
        out: &mut ParsedBlock,
        field: Option<String>,
        problem: RowProblem,
        record: &[u8],
    ) {
        out.truncate();
        let text = String::from_utf8_lossy(record).into_owned();
        out.bad.push(BadRecord { record: out.records, field, problem, text });
        out.records += 1;
    }
}

impl RowState {
    fn new() -> Self {
        // a date without a day or a month starts its month or year
        Self { label: None, drop: false, time_parts: [0, 1, 1, 0, 0, 0], problem: None }
    }
}

/// The routes of a split by column: bit 0 training, bit 1 validation, bit 2 test.
fn routes(split: &SplitRule) -> Option<Vec<(Vec<u8>, u8)>> {
    let SplitRule::Column { train, validation, test, drop, .. } = split else { return None };
    let mut routes: Vec<(Vec<u8>, u8)> = Vec::new();
    for (bit, values) in [train, validation, test].into_iter().enumerate() {
        for value in values {
            let value = value.trim().as_bytes();
            match routes.iter_mut().find(|(known, _)| known == value) {
                Some((_, route)) => *route |= 1 << bit,
                None => routes.push((value.to_vec(), 1 << bit)),
            }
        }
    }
    routes.extend(drop.iter().map(|value| (value.trim().as_bytes().to_vec(), ROUTE_DROP)));
    Some(routes)
}
