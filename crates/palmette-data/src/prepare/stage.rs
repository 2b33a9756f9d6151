//! Reads the log once and stages its rows; goes on behind the last chunk of a killed run.

use std::collections::VecDeque;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, sync_channel};

use rayon::prelude::*;

use crate::error::DataError;
use crate::input::{BLOCK_BYTES, Block, Input, bad_row};
use crate::manifest::ListCounts;
use crate::parse::{BadRecord, ParsedBlock, Purpose, RowParser};
use crate::profile::Profile;
use crate::schema::Schema;
use crate::shard::Columns;
use crate::staging::{Chunk, ChunkInfo, Position, bad_rows_path, chunk_path, write_atomically};

use super::{Observer, OnBadRow, PrepareOptions, QUARANTINE_FILE, Stage, check_stop};

/// The staged log.
pub(super) struct Staged {
    pub chunks: Vec<Chunk>,
    /// Rows of each input.
    pub file_rows: Vec<u64>,
    /// Columns of the first input that the schema does not use.
    pub unused_columns: Vec<String>,
}

impl Staged {
    /// What the lists held.
    pub fn list_counts(&self, schema: &Schema) -> Vec<ListCounts> {
        let counts = schema.lists.iter().enumerate().map(|(i, list)| {
            let staged = self.chunks.iter().map(|chunk| chunk.info.lists[i]);
            let mut counts =
                ListCounts { name: list.name.clone(), elements: 0, empty: 0, truncated: 0, cut: 0 };
            for staged in staged {
                counts.elements += staged.elements;
                counts.empty += staged.empty;
                counts.truncated += staged.truncated;
                counts.cut += staged.cut;
            }
            counts
        });
        counts.collect()
    }

    /// Joins the bad rows of all chunks in one file and returns their number.
    pub fn collect_bad_rows(&self, staging: &Path, path: &Path) -> Result<u64, DataError> {
        let count: u64 = self.chunks.iter().map(|chunk| chunk.info.bad).sum();
        if count == 0 {
            return Ok(0);
        }
        let mut file = crate::staging::AtomicFile::create(path)?;
        for (number, chunk) in self.chunks.iter().enumerate() {
            if chunk.info.bad > 0 {
                let part = bad_rows_path(staging, number);
                file.write(&std::fs::read(&part).map_err(DataError::io("read", &part))?)?;
            }
        }
        file.finish()?;
        Ok(count)
    }
}

/// The state of staging: finished chunks and the rows of the next one.
struct Stager<'a> {
    options: &'a PrepareOptions,
    staging: &'a Path,
    columns: Columns,
    bytes: u64,
    chunks: Vec<Chunk>,
    file_rows: Vec<u64>,
    /// Blocks of the next chunk.
    blocks: Vec<ParsedBlock>,
    rows: u64,
    info: ChunkInfo,
    /// Lines of the quarantine.
    bad_lines: Vec<u8>,
    bad_total: u64,
    position: Position,
}

/// Stages all inputs.
pub(super) fn stage(
    options: &PrepareOptions,
    schema: &Schema,
    staging: &Path,
    observer: &dyn Observer,
) -> Result<Staged, DataError> {
    let profile = match (&schema.profile, &options.profile) {
        (Some(rule), Some(path)) => Some(Profile::read(path, rule, schema, options.memory / 2)?),
        _ => None,
    };
    let columns = Columns::new(schema, &schema.extras());
    let mut stager = Stager::new(options, staging, columns);
    stager.resume()?;
    let mut sizes = Vec::new();
    for path in &options.inputs {
        sizes.push(std::fs::metadata(path).map_err(DataError::io("open", path))?.len());
    }
    let total: u64 = sizes.iter().sum();
    let mut unused_columns = Vec::new();
    for (number, path) in options.inputs.iter().enumerate() {
        let mut input = Input::open(path, schema, BLOCK_BYTES)?;
        let parser = RowParser::new(schema, &input, Purpose::Prepare)?;
        if number == 0 {
            unused_columns = parser.unused_names();
        }
        if number < stager.position.file {
            continue;
        }
        input.project(&parser.used())?;
        input.skip_to(stager.position.offset)?;
        let before: u64 = sizes[..number].iter().sum();
        stager.read_file(input, &parser, profile.as_ref(), &mut |consumed, rows| {
            observer.progress(Stage::Read, before + consumed.min(sizes[number]), total, rows);
            check_stop(observer)
        })?;
    }
    stager.write_chunk()?;
    Ok(Staged { chunks: stager.chunks, file_rows: stager.file_rows, unused_columns })
}

impl<'a> Stager<'a> {
    fn new(options: &'a PrepareOptions, staging: &'a Path, columns: Columns) -> Self {
        Self {
            options,
            staging,
            columns,
            chunks: Vec::new(),
            file_rows: Vec::new(),
            blocks: Vec::new(),
            rows: 0,
            bytes: 0,
            info: ChunkInfo::default(),
            bad_lines: Vec::new(),
            bad_total: 0,
            position: Position::default(),
        }
    }

    /// Takes over the chunks of an interrupted run.
    fn resume(&mut self) -> Result<(), DataError> {
        while let Some(chunk) =
            Chunk::open(&chunk_path(self.staging, self.chunks.len()), self.columns)?
        {
            self.position = chunk.info.next;
            self.file_rows.extend(&chunk.info.finished_files);
            self.bad_total += chunk.info.bad;
            self.chunks.push(chunk);
        }
        Ok(())
    }

    /// Reads one file: one thread cuts it into blocks, all threads parse, results are taken in
    /// order.
    fn read_file(
        &mut self,
        mut input: Input,
        parser: &RowParser,
        profile: Option<&Profile>,
        advance: &mut dyn FnMut(u64, u64) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let width = 2 * rayon::current_num_threads();
        let (path, header_rows) = (input.path.clone(), input.header_rows);
        let consumed = input.consumed.clone();
        let (send, receive) = sync_channel::<Result<Block, DataError>>(width);
        std::thread::scope(|scope| {
            // dropped on every way out, so that the reading thread never waits for nobody
            let receive = receive;
            scope.spawn(move || {
                loop {
                    let (block, last) = match input.next_block() {
                        Ok(Some(block)) => (Ok(block), false),
                        Ok(None) => return,
                        Err(error) => (Err(error), true),
                    };
                    // the receiver hangs up when it has met an error
                    if send.send(block).is_err() || last {
                        return;
                    }
                }
            });
            while let Some((blocks, error)) = receive_some(&receive, width) {
                let parsed: Vec<ParsedBlock> =
                    blocks.par_iter().map(|block| parser.parse(block, profile)).collect();
                drop(blocks);
                for block in parsed {
                    self.take(block, &path, header_rows)?;
                }
                if let Some(error) = error {
                    return Err(error);
                }
                advance(consumed.load(Ordering::Relaxed), self.total_rows())?;
            }
            Ok(())
        })?;
        if self.position.records == 0 {
            return Err(DataError::EmptyFile { file: path });
        }
        self.file_rows.push(self.position.records);
        self.info.finished_files.push(self.position.records);
        self.position = Position { file: self.position.file + 1, offset: 0, records: 0 };
        Ok(())
    }

    fn total_rows(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.info.rows).sum::<u64>() + self.rows
    }

    fn take(
        &mut self,
        mut block: ParsedBlock,
        path: &Path,
        header_rows: u64,
    ) -> Result<(), DataError> {
        for bad in std::mem::take(&mut block.bad) {
            let row = header_rows + self.position.records + bad.record + 1;
            self.take_bad_row(path, row, bad)?;
        }
        self.position.records += block.records;
        self.position.offset = block.end;
        self.info.dropped += block.dropped;
        self.rows += block.rows() as u64;
        self.bytes += block.bytes();
        self.blocks.push(block);
        let full = self.rows >= CHUNK_ROWS || self.bytes >= chunk_bytes(self.options.memory);
        if full { self.write_chunk() } else { Ok(()) }
    }

    fn take_bad_row(&mut self, path: &Path, row: u64, bad: BadRecord) -> Result<(), DataError> {
        let line = serde_json::json!({
            "file": path.display().to_string(),
            "row": row,
            "field": bad.field,
            "problem": bad.problem.to_string(),
            "text": bad.text,
        });
        let error = bad_row(path, row, bad.field, bad.problem);
        let OnBadRow::Quarantine { max_bad } = self.options.on_bad_row else {
            return Err(error);
        };
        // writing to a vector cannot fail
        let _ = writeln!(self.bad_lines, "{line}");
        self.bad_total += 1;
        self.info.bad += 1;
        if self.bad_total <= max_bad {
            return Ok(());
        }
        let quarantine = self.options.output.join(QUARANTINE_FILE);
        let mut lines = Vec::new();
        for number in (0..self.chunks.len()).filter(|&number| self.chunks[number].info.bad > 0) {
            let part = bad_rows_path(self.staging, number);
            lines.extend(std::fs::read(&part).map_err(DataError::io("read", &part))?);
        }
        lines.append(&mut self.bad_lines);
        write_atomically(&quarantine, &lines)?;
        Err(DataError::TooManyBadRows {
            count: self.bad_total,
            limit: max_bad,
            quarantine,
            last: Box::new(error),
        })
    }

    fn write_chunk(&mut self) -> Result<(), DataError> {
        if self.blocks.is_empty() && self.info.finished_files.is_empty() {
            return Ok(());
        }
        let number = self.chunks.len();
        if self.info.bad > 0 {
            write_atomically(&bad_rows_path(self.staging, number), &self.bad_lines)?;
            self.bad_lines.clear();
        }
        let mut info = std::mem::take(&mut self.info);
        info.next = self.position;
        let path = chunk_path(self.staging, number);
        self.chunks.push(Chunk::write(&path, self.columns, &self.blocks, info)?);
        self.blocks.clear();
        self.rows = 0;
        self.bytes = 0;
        Ok(())
    }
}

/// The most rows of a staged chunk: its columns are read one by one, a megabyte each.
pub(crate) const CHUNK_ROWS: u64 = 1 << 18;

/// Bytes of a staged chunk. Its vectors may have grown to twice what they hold and its texts are
/// held a second time while dictionaries are merged; the rest is for blocks on their way.
pub(crate) fn chunk_bytes(memory: u64) -> u64 {
    memory / 8
}

/// Up to `width` blocks, and the error that ended the reading; `None` at the end.
fn receive_some(
    receive: &Receiver<Result<Block, DataError>>,
    width: usize,
) -> Option<(Vec<Block>, Option<DataError>)> {
    let mut blocks = VecDeque::new();
    while blocks.len() < width {
        match receive.recv() {
            Ok(Ok(block)) => blocks.push_back(block),
            Ok(Err(error)) => return Some((blocks.into(), Some(error))),
            Err(_) if blocks.is_empty() => return None,
            Err(_) => break,
        }
    }
    Some((blocks.into(), None))
}
