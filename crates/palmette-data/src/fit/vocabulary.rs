//! Vocabularies: fitted in two external sorts, looked up in pieces that fit in memory.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::encoder::CategoricalEncoder;
use crate::error::DataError;
use crate::hash;
use crate::interner::Interner;
use crate::manifest::{FittedCategorical, VocabularyEntry};
use crate::staging::AtomicFile;

use super::counts::SortedCounts;
use super::{FitInput, Table, for_each_coded_cell, table_rows};

/// Directory of the vocabularies inside a dataset.
const VOCABULARY_DIR: &str = "vocabularies";

/// Counts the texts of the training part and writes those seen at least `min_count` times, by
/// falling count and then by text.
pub(super) fn fit(
    input: &FitInput,
    table: &Table,
    min_count: u64,
) -> Result<FittedCategorical, DataError> {
    let column = table.columns[0];
    let prefix = |stage: &str| input.staging.join(format!("counts-{stage}-{column}.run"));
    // two sorts overlap: the first one's result is fed to the second
    let mut by_text = SortedCounts::new(prefix("text"), input.memory / 2);
    for (number, chunk) in input.chunks.iter().enumerate() {
        for &column in &table.columns {
            let mut counts = vec![0u32; chunk.texts(column)];
            for_each_coded_cell(input, number, column, |text, _| {
                counts[text as usize] += 1;
                Ok(())
            })?;
            chunk.for_each_text(column, |number, text| match counts[number] {
                0 => Ok(()),
                count => by_text.add(text, u64::from(count)),
            })?;
        }
    }
    let (mut distinct, mut missing) = (0, 0);
    let mut by_count = SortedCounts::new(prefix("count"), input.memory / 2);
    let mut key = Vec::new();
    by_text.finish(|text, count| {
        match text.is_empty() {
            true => missing = count,
            false => distinct += 1,
        }
        if count < min_count {
            return Ok(());
        }
        // big-endian complements sort by falling count
        key.clear();
        key.extend_from_slice(&(!count).to_be_bytes());
        key.extend_from_slice(text);
        by_count.add(&key, count)
    })?;
    let dir = input.output.join(VOCABULARY_DIR);
    std::fs::create_dir_all(&dir).map_err(DataError::io("create", &dir))?;
    let name = format!("{VOCABULARY_DIR}/{column:04}.jsonl");
    let path = input.output.join(&name);
    let mut file = AtomicFile::create(&path)?;
    let mut entries = 0;
    by_count.finish(|key, count| {
        let text = std::str::from_utf8(&key[8..]).unwrap_or_default();
        let text = (!text.is_empty()).then_some(text);
        entries += 1;
        let line = serde_json::to_string(&(text, count)).unwrap_or_default();
        file.write(line.as_bytes())?;
        file.write(b"\n")
    })?;
    let bytes = file.position();
    file.finish()?;
    if entries >= u64::from(u32::MAX) - 1 {
        return Err(DataError::Options(format!(
            "field `{}` has {entries} values, more than a table can have rows; raise its min_count or use the hash encoder",
            table.name
        )));
    }
    Ok(FittedCategorical {
        name: table.name.into(),
        encoder: CategoricalEncoder::Dictionary { min_count },
        distinct,
        missing,
        table_rows: table.rows.unwrap_or_else(|| table_rows(entries)),
        vocabulary: Some(VocabularyEntry { file: name, entries, bytes, hash: hash::file(&path)? }),
    })
}

/// Reads a vocabulary file from its beginning.
pub(crate) struct VocabularyReader {
    path: PathBuf,
    reader: BufReader<File>,
    line: String,
    read: u64,
}

impl VocabularyReader {
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::io("open", path))?;
        let reader = BufReader::with_capacity(1 << 16, file);
        Ok(Self { path: path.into(), reader, line: String::new(), read: 0 })
    }

    /// Reads further texts into `texts` until it uses `memory` bytes; returns the value of the
    /// first one, or `None` at the end. The missing value is the empty text.
    pub fn next_piece(
        &mut self,
        texts: &mut Interner,
        memory: u64,
    ) -> Result<Option<u64>, DataError> {
        *texts = Interner::default();
        let first = self.read;
        // a growth doubles the vectors
        while (texts.bytes() as u64) < memory / 3 || texts.len() == 0 {
            self.line.clear();
            if self.reader.read_line(&mut self.line).map_err(DataError::io("read", &self.path))?
                == 0
            {
                break;
            }
            let damaged = |problem: String| DataError::Damaged { file: self.path.clone(), problem };
            let (text, _): (Option<String>, u64) = serde_json::from_str(&self.line)
                .map_err(|e| damaged(format!("line {}: {e}", self.read + 1)))?;
            texts.intern(text.unwrap_or_default().as_bytes());
            self.read += 1;
            if texts.len() as u64 != self.read - first {
                return Err(damaged(format!("line {} repeats a text", self.read)));
            }
        }
        Ok((texts.len() > 0).then_some(first))
    }
}
