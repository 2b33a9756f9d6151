//! Blocks of delimited text, decompressed as they are read.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{DataError, RowProblem};

use super::record::{last_record_end, record_end, split_fields, without_line_end};
use super::{Block, BlockRows, Delimiter, bad_row};

/// The longest record: a quote that is never closed must not swallow the file.
const MAX_RECORD_BYTES: usize = 16 << 20;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Cuts a stream of text into blocks of whole records.
pub(super) struct TextBlocks {
    path: PathBuf,
    reader: Box<dyn Read + Send>,
    compression: Option<&'static str>,
    delimiter: Delimiter,
    block_bytes: usize,
    /// Bytes behind the last block's end.
    carry: Vec<u8>,
    /// Position of the carry in the text.
    position: u64,
    finished: bool,
}

impl TextBlocks {
    pub fn new(
        path: &Path,
        reader: Box<dyn Read + Send>,
        compression: Option<&'static str>,
        delimiter: Delimiter,
        block_bytes: usize,
    ) -> Self {
        let (path, carry) = (path.into(), Vec::new());
        Self {
            path,
            reader,
            compression,
            delimiter,
            block_bytes,
            carry,
            position: 0,
            finished: false,
        }
    }

    /// Skips the mark that some editors put before UTF-8 text.
    pub fn skip_byte_order_mark(&mut self) -> Result<(), DataError> {
        let mut bytes = std::mem::take(&mut self.carry);
        while bytes.len() < BYTE_ORDER_MARK.len() && self.read_more(&mut bytes, 3)? {}
        if bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.drain(..BYTE_ORDER_MARK.len());
            self.position += BYTE_ORDER_MARK.len() as u64;
        }
        self.carry = bytes;
        Ok(())
    }

    /// Reads the column names.
    pub fn header(&mut self) -> Result<Vec<String>, DataError> {
        let mut bytes = std::mem::take(&mut self.carry);
        let end = loop {
            match record_end(&bytes, self.delimiter) {
                Some(end) => break end,
                None if self.read_more(&mut bytes, 1 << 12)? => self.check_length(&bytes, 0)?,
                None if bytes.is_empty() => {
                    return Err(DataError::EmptyFile { file: self.path.clone() });
                }
                None => break bytes.len(),
            }
        };
        let text = bytes[..end].strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes[..end]);
        let record = without_line_end(text);
        let mut names = Vec::new();
        let mut valid = true;
        let mut push = |field: &[u8]| match std::str::from_utf8(field) {
            Ok(name) => names.push(name.trim().to_string()),
            Err(_) => valid = false,
        };
        let split = split_fields(record, self.delimiter, &mut Vec::new(), &mut push);
        let problem = split.err().or((!valid).then_some(RowProblem::InvalidUtf8));
        if let Some(problem) = problem {
            return Err(bad_row(&self.path, 1, None, problem));
        }
        self.carry = bytes.split_off(end);
        self.position += end as u64;
        Ok(names)
    }

    /// The next block, or `None` at the end.
    pub fn next_block(&mut self) -> Result<Option<Block>, DataError> {
        let mut bytes = Vec::with_capacity(self.block_bytes + self.carry.len());
        bytes.append(&mut self.carry);
        let mut wanted = self.block_bytes;
        let end = loop {
            let more = bytes.len() < wanted && self.read_more(&mut bytes, wanted)?;
            let finished = self.finished;
            if bytes.is_empty() {
                return Ok(None);
            }
            match last_record_end(&bytes, self.delimiter) {
                _ if finished => break bytes.len(),
                Some(end) => break end,
                None => {
                    debug_assert!(more || bytes.len() >= wanted);
                    self.check_length(&bytes, 1)?;
                    wanted = bytes.len() * 2;
                }
            }
        };
        self.carry = bytes.split_off(end);
        self.position += end as u64;
        Ok(Some(Block {
            rows: BlockRows::Text { bytes, delimiter: self.delimiter },
            end: self.position,
        }))
    }

    /// Goes on from a position in the text.
    pub fn skip_to(&mut self, end: u64) -> Result<(), DataError> {
        while self.position < end {
            let mut bytes = std::mem::take(&mut self.carry);
            if bytes.is_empty() && !self.read_more(&mut bytes, 1 << 20)? {
                return Err(DataError::Options(format!(
                    "{}: the file has become shorter since the interrupted run; use --overwrite to start again",
                    self.path.display()
                )));
            }
            let skip = bytes.len().min((end - self.position) as usize);
            self.carry = bytes.split_off(skip);
            self.position += skip as u64;
        }
        Ok(())
    }

    /// Reads until `bytes` has `wanted` bytes or the text ends; false if nothing came.
    fn read_more(&mut self, bytes: &mut Vec<u8>, wanted: usize) -> Result<bool, DataError> {
        if self.finished {
            return Ok(false);
        }
        let room = wanted.saturating_sub(bytes.len()).max(1 << 12);
        let read = (&mut self.reader).take(room as u64).read_to_end(bytes);
        let read = read.map_err(|source| match self.compression {
            Some(what) => DataError::DamagedInput {
                file: self.path.clone(),
                what,
                problem: source.to_string(),
            },
            None => DataError::Io { action: "read", path: self.path.clone(), source },
        })?;
        self.finished = read < room;
        Ok(read > 0)
    }

    fn check_length(&self, bytes: &[u8], row: u64) -> Result<(), DataError> {
        if bytes.len() <= MAX_RECORD_BYTES {
            return Ok(());
        }
        Err(DataError::DamagedInput {
            file: self.path.clone(),
            what: "text",
            problem: format!(
                "no row ends within {} MiB after byte {} (row {}); is a quote not closed, or is this no text file?",
                MAX_RECORD_BYTES >> 20,
                self.position,
                row.max(1)
            ),
        })
    }
}
