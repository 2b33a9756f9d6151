//! A second file that adds columns by a key.

use std::path::Path;

use crate::error::{DataError, RowProblem};
use crate::input::record::{record_end, split_fields, without_line_end};
use crate::input::{BlockRows, Input, bad_row};
use crate::interner::Interner;
use crate::number;
use crate::schema::{ProfileRule, Schema};

/// The largest key that is looked up by position.
const MAX_KEY: u64 = 1 << 28;

/// Rows of a profile by integer key. Equal rows are stored once, so that the 24 million users of
/// KDD Cup 2012 take four bytes each.
#[derive(Debug)]
pub(crate) struct Profile {
    /// `combination + 1` of each key, 0 where absent.
    by_key: Vec<u32>,
    /// Distinct combinations of the further columns, joined by tabs.
    combinations: Interner,
}

impl Profile {
    /// Reads a profile within `memory` bytes.
    pub fn read(
        path: &Path,
        rule: &ProfileRule,
        schema: &Schema,
        memory: u64,
    ) -> Result<Profile, DataError> {
        let width = rule.columns.len() + 1;
        let names = std::iter::once(rule.key.clone()).chain(rule.columns.iter().cloned());
        let schema = Schema { columns: Some(names.collect()), ..schema.clone() };
        let mut input = Input::open(path, &schema, 1 << 20)?;
        let mut profile = Profile { by_key: Vec::new(), combinations: Interner::default() };
        let mut row = 0;
        let mut scratch = Vec::new();
        while let Some(block) = input.next_block()? {
            let BlockRows::Text { bytes, delimiter } = &block.rows else {
                return Err(DataError::Options(format!(
                    "{}: a profile must be a text file",
                    path.display()
                )));
            };
            let mut at = 0;
            while at < bytes.len() {
                let end = record_end(&bytes[at..], *delimiter).map_or(bytes.len(), |end| at + end);
                let record = without_line_end(&bytes[at..end]);
                at = end;
                row += 1;
                let mut found = 0;
                split_fields(record, *delimiter, &mut scratch, |_| found += 1)
                    .map_err(|problem| bad_row(path, row, None, problem))?;
                if found != width {
                    let problem = RowProblem::WrongColumnCount { found, expected: width };
                    return Err(bad_row(path, row, None, problem));
                }
                let cut = record.iter().position(|&b| b == delimiter.byte).unwrap_or(record.len());
                let key = key(&record[..cut]).ok_or_else(|| {
                    let value = String::from_utf8_lossy(&record[..cut]).into_owned();
                    let expected = "a decimal integer below 268435456";
                    bad_row(
                        path,
                        row,
                        Some(rule.key.clone()),
                        RowProblem::NotAnInteger { value, expected },
                    )
                })?;
                let combination =
                    profile.combinations.intern(record.get(cut + 1..).unwrap_or_default());
                if profile.by_key.len() <= key {
                    profile.grow(key, memory, path)?;
                }
                profile.by_key[key] = combination + 1;
            }
        }
        Ok(profile)
    }

    fn grow(&mut self, key: usize, memory: u64, path: &Path) -> Result<(), DataError> {
        let length = (key + 1).max(self.by_key.len() + self.by_key.len() / 4);
        let needed = 4 * length as u64 + self.combinations.bytes() as u64;
        if needed > memory {
            return Err(DataError::Options(format!(
                "{}: the profile needs {} MiB, more than its share of --memory ({} MiB); give more memory",
                path.display(),
                needed >> 20,
                memory >> 20
            )));
        }
        self.by_key.reserve_exact(length - self.by_key.len());
        self.by_key.resize(length, 0);
        Ok(())
    }

    /// The entry of a key.
    pub fn get(&self, text: &[u8]) -> Option<u32> {
        let combination = *self.by_key.get(key(text)?)?;
        combination.checked_sub(1)
    }

    /// Column `column` of an entry.
    pub fn text(&self, entry: u32, column: usize) -> &[u8] {
        self.combinations
            .text(entry as usize)
            .split(|&b| b == b'\t')
            .nth(column)
            .unwrap_or_default()
    }
}

fn key(text: &[u8]) -> Option<usize> {
    let key = number::parse_decimal_u32(text)?;
    (u64::from(key) < MAX_KEY).then_some(key as usize)
}
