//! Parsed rows on disk, between reading the log and writing the shards.
//!
//! A log is parsed once. Its rows go, in file order, into staged chunks of unencoded columns;
//! splitting, fitting and encoding then work on columns. A chunk is written under a temporary
//! name and renamed, and its footer says where in the input it ends, so a killed run goes on
//! behind the last whole chunk. Where chunks end has no influence on the dataset.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::interner::Interner;
use crate::parse::{CategoricalColumn, ParsedBlock};
use crate::shard::{Column, Columns, HEADER_BYTES};

/// Directory of the staged files inside a dataset.
pub(crate) const STAGING_DIR: &str = ".staging";

const MAGIC: [u8; 8] = *b"PALMSTG1";

/// A place in the inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Number of the file.
    pub file: usize,
    /// Position of the next block in it.
    pub offset: u64,
    /// Rows of the file before it.
    pub records: u64,
}

/// What a chunk says about itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ChunkInfo {
    /// Rows.
    pub rows: u64,
    /// Where the inputs go on behind the chunk.
    pub next: Position,
    /// Rows of each input that ended in the chunk.
    pub finished_files: Vec<u64>,
    /// Rows left out because the schema says so.
    pub dropped: u64,
    /// Bad rows set aside.
    pub bad: u64,
    /// Where the routes start, if there are any.
    routes: Option<u64>,
    /// Where the exceptions start, and how many there are.
    exceptions: (u64, u64),
    /// For each coded column with a dictionary: start, texts, bytes.
    dictionaries: Vec<Option<(u64, u64, u64)>>,
    /// What the lists hold.
    #[serde(default)]
    pub lists: Vec<StagedList>,
}

/// The values of a list in a chunk.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct StagedList {
    /// Where they start.
    start: u64,
    /// How many there are.
    pub elements: u64,
    /// Rows without a value.
    pub empty: u64,
    /// Rows that had more values than the list keeps.
    pub truncated: u64,
    /// Values of these rows that were left out.
    pub cut: u64,
}

/// A staged chunk.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub info: ChunkInfo,
    path: PathBuf,
    columns: Columns,
    offsets: Vec<u64>,
}

/// A file written under a temporary name; `finish` gives it its own.
pub(crate) struct AtomicFile {
    temporary: PathBuf,
    path: PathBuf,
    writer: BufWriter<File>,
    written: u64,
}

impl AtomicFile {
    pub fn create(path: &Path) -> Result<Self, DataError> {
        let temporary = temporary_name(path);
        let file = File::create(&temporary).map_err(DataError::io("create", &temporary))?;
        let writer = BufWriter::with_capacity(1 << 18, file);
        Ok(Self { temporary, path: path.into(), writer, written: 0 })
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.written += bytes.len() as u64;
        self.writer.write_all(bytes).map_err(DataError::io("write", &self.temporary))
    }

    /// Bytes so far.
    pub fn position(&self) -> u64 {
        self.written
    }

    /// Fills up with zeros to a multiple of 64.
    pub fn align(&mut self) -> Result<(), DataError> {
        let gap = self.written.next_multiple_of(64) - self.written;
        self.write(&[0; 64][..gap as usize])
    }

    pub fn finish(mut self) -> Result<(), DataError> {
        self.writer.flush().map_err(DataError::io("write", &self.temporary))?;
        std::fs::rename(&self.temporary, &self.path)
            .map_err(DataError::io("rename", &self.temporary))
    }
}

/// The temporary name of a file.
pub(crate) fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    path.with_file_name(name)
}

/// Writes a small file at once, whole or not at all.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    let mut file = AtomicFile::create(path)?;
    file.write(bytes)?;
    file.finish()
}

/// The path of chunk `number`.
pub(crate) fn chunk_path(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("chunk-{number:06}"))
}

/// The path of the bad rows of chunk `number`.
pub(crate) fn bad_rows_path(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("bad-{number:06}.jsonl"))
}

/// A dictionary column merged over the blocks of a chunk.
struct MergedTexts {
    texts: Interner,
    /// For each block, the chunk's number of each of its texts.
    remaps: Vec<Vec<u32>>,
}

fn merge_texts(blocks: &[ParsedBlock], column: usize) -> Option<MergedTexts> {
    let mut merged = MergedTexts { texts: Interner::default(), remaps: Vec::new() };
    for block in blocks {
        let Some(CategoricalColumn::Texts(texts)) = block.coded(column) else { return None };
        merged.remaps.push(texts.texts.texts().map(|text| merged.texts.intern(text)).collect());
    }
    Some(merged)
}

/// Appends the cells of block `number`: values as they are, texts by their number in the chunk.
fn append_cells(
    bytes: &mut Vec<u8>,
    column: &CategoricalColumn,
    merged: Option<&MergedTexts>,
    number: usize,
) {
    match (column, merged) {
        (CategoricalColumn::Texts(texts), Some(merged)) => {
            let remap = &merged.remaps[number];
            let numbers = texts.numbers.iter().map(|&n| remap[n as usize]);
            bytes.extend(numbers.flat_map(|x| x.to_le_bytes()));
        }
        (CategoricalColumn::Values(values), _) => {
            bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        }
        _ => {}
    }
}

/// Where the columns of a chunk start. The values of lists come later, at places of their own.
fn fixed_offsets(columns: Columns, rows: u64, path: &Path) -> Result<Vec<u64>, DataError> {
    columns.offsets(rows, &vec![0; columns.lists]).ok_or_else(|| DataError::Damaged {
        file: path.into(),
        problem: format!("it cannot have {rows} rows"),
    })
}

impl Chunk {
    /// Writes the rows of some blocks as one chunk.
    pub fn write(
        path: &Path,
        columns: Columns,
        blocks: &[ParsedBlock],
        mut info: ChunkInfo,
    ) -> Result<Chunk, DataError> {
        info.rows = blocks.iter().map(|block| block.rows() as u64).sum();
        let merged: Vec<Option<MergedTexts>> = (0..columns.coded())
            .into_par_iter()
            .map(|column| merge_texts(blocks, column))
            .collect();
        let offsets = fixed_offsets(columns, info.rows, path)?;
        let mut file = AtomicFile::create(path)?;
        file.write(&[0; HEADER_BYTES as usize])?;
        let mut bytes = Vec::new();
        for column in columns.iter() {
            for (number, block) in blocks.iter().enumerate() {
                bytes.clear();
                match column {
                    Column::Label => bytes.extend_from_slice(&block.labels),
                    Column::Weight => {
                        bytes.extend(block.weights.iter().flat_map(|x| x.to_le_bytes()))
                    }
                    Column::Dense(i) => {
                        bytes.extend(block.dense[i].iter().flat_map(|x| x.to_le_bytes()))
                    }
                    Column::Extra(i) => {
                        bytes.extend(block.extras[i].iter().flat_map(|x| x.to_le_bytes()))
                    }
                    Column::Categorical(i) => {
                        append_cells(&mut bytes, &block.categorical[i], merged[i].as_ref(), number);
                    }
                    Column::ListEnds(i) => {
                        let before: u64 =
                            blocks[..number].iter().map(|b| b.lists[i].values.len() as u64).sum();
                        let ends = block.lists[i].ends.iter().map(|end| before + end);
                        bytes.extend(ends.flat_map(|x| x.to_le_bytes()));
                    }
                }
                file.write(&bytes)?;
            }
            file.align()?;
        }
        info.lists.clear();
        for i in 0..columns.lists {
            let mut list = StagedList { start: file.position(), ..StagedList::default() };
            for (number, block) in blocks.iter().enumerate() {
                let column = &block.lists[i];
                bytes.clear();
                let merged = merged[columns.categorical + i].as_ref();
                append_cells(&mut bytes, &column.values, merged, number);
                file.write(&bytes)?;
                list.elements += column.values.len() as u64;
                let mut start = 0;
                for (&end, &cut) in column.ends.iter().zip(&column.cut) {
                    list.empty += u64::from(end == start);
                    list.truncated += u64::from(cut > 0);
                    list.cut += u64::from(cut);
                    start = end;
                }
            }
            file.align()?;
            info.lists.push(list);
        }
        if blocks.iter().any(|block| !block.routes.is_empty()) {
            info.routes = Some(file.position());
            for block in blocks {
                file.write(&block.routes)?;
            }
            file.align()?;
        }
        // of a list the number of the value counts, which is why each column has its own beginning
        let mut first = vec![0u32; columns.coded()];
        let mut exceptions = 0;
        let start = file.position();
        for block in blocks {
            for (column, row) in &block.exceptions {
                file.write(&column.to_le_bytes())?;
                file.write(&(first[*column as usize] + row).to_le_bytes())?;
                exceptions += 1;
            }
            for (column, first) in first.iter_mut().enumerate() {
                *first += block.coded(column).map_or(0, CategoricalColumn::len) as u32;
            }
        }
        info.exceptions = (start, exceptions);
        info.dictionaries.clear();
        for merged in &merged {
            let Some(merged) = merged else {
                info.dictionaries.push(None);
                continue;
            };
            let start = file.position();
            for text in merged.texts.texts() {
                file.write(&(text.len() as u32).to_le_bytes())?;
                file.write(text)?;
            }
            let entry = (start, merged.texts.len() as u64, file.position() - start);
            info.dictionaries.push(Some(entry));
        }
        let footer = serde_json::to_vec(&info).unwrap_or_default();
        file.write(&footer)?;
        file.write(&(footer.len() as u64).to_le_bytes())?;
        file.write(&MAGIC)?;
        file.finish()?;
        Ok(Chunk { info, path: path.into(), columns, offsets })
    }

    /// Opens a chunk of an earlier run; `None` if there is none.
    pub fn open(path: &Path, columns: Columns) -> Result<Option<Chunk>, DataError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(DataError::io("open", path)(e)),
        };
        let damaged =
            || DataError::Damaged { file: path.into(), problem: "it has no footer".into() };
        let length = file.metadata().map_err(DataError::io("read", path))?.len();
        let mut tail = [0; 16];
        let at = length.checked_sub(16).ok_or_else(damaged)?;
        file.read_exact_at(&mut tail, at).map_err(DataError::io("read", path))?;
        let (size, magic) = tail.split_at(8);
        let size = u64::from_le_bytes(size.try_into().unwrap_or_default());
        let start = at.checked_sub(size).filter(|_| magic == MAGIC).ok_or_else(damaged)?;
        let mut footer = vec![0; size as usize];
        file.read_exact_at(&mut footer, start).map_err(DataError::io("read", path))?;
        let info: ChunkInfo = serde_json::from_slice(&footer).map_err(|_| damaged())?;
        let offsets = fixed_offsets(columns, info.rows, path)?;
        Ok(Some(Chunk { info, path: path.into(), columns, offsets }))
    }

    /// Reads the cells of a column into `cells`.
    pub fn read<const W: usize>(
        &self,
        column: Column,
        cells: &mut Vec<u8>,
    ) -> Result<(), DataError> {
        debug_assert_eq!(column.width(), W as u64);
        let at = self.offsets[self.columns.position(column)];
        self.read_at(at, self.info.rows * W as u64, cells)
    }

    /// Reads the cells of all values of a list into `cells`.
    pub fn read_elements(&self, list: usize, cells: &mut Vec<u8>) -> Result<(), DataError> {
        let list = &self.info.lists[list];
        self.read_at(list.start, 4 * list.elements, cells)
    }

    /// Reads the routes, if there are any.
    pub fn routes(&self, routes: &mut Vec<u8>) -> Result<bool, DataError> {
        match self.info.routes {
            Some(at) => self.read_at(at, self.info.rows, routes).map(|()| true),
            None => Ok(false),
        }
    }

    /// The `(coded column, row)` of the values that wrap to 0; of a list the number of the value.
    pub fn exceptions(&self) -> Result<Vec<(u32, u32)>, DataError> {
        let mut bytes = Vec::new();
        self.read_at(self.info.exceptions.0, self.info.exceptions.1 * 8, &mut bytes)?;
        let word = |b: &[u8]| u32::from_le_bytes(b.try_into().unwrap_or_default());
        Ok(bytes.chunks_exact(8).map(|pair| (word(&pair[..4]), word(&pair[4..]))).collect())
    }

    /// Number of texts in the dictionary of a coded column.
    pub fn texts(&self, column: usize) -> usize {
        self.info.dictionaries[column].map_or(0, |(_, texts, _)| texts as usize)
    }

    /// Calls `visit` with every text of a dictionary in order.
    pub fn for_each_text(
        &self,
        column: usize,
        mut visit: impl FnMut(usize, &[u8]) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let Some((start, texts, bytes)) = self.info.dictionaries[column] else { return Ok(()) };
        let file = File::open(&self.path).map_err(DataError::io("open", &self.path))?;
        let mut buffer = Vec::new();
        let (mut at, end) = (start, start + bytes);
        let mut number = 0;
        while at < end {
            // a piece ends anywhere; what is left of it is read again with the next piece
            let size = (end - at).min(1 << 18).max((end - at).min(buffer.len() as u64 * 2));
            buffer.resize(size as usize, 0);
            file.read_exact_at(&mut buffer, at).map_err(DataError::io("read", &self.path))?;
            let mut rest = &buffer[..];
            while let Some((length, tail)) = rest.split_first_chunk::<4>() {
                let length = u32::from_le_bytes(*length) as usize;
                let Some(text) = tail.get(..length) else { break };
                visit(number, text)?;
                number += 1;
                rest = &tail[length..];
            }
            let used = buffer.len() - rest.len();
            at += used as u64;
            if used > 0 {
                buffer.truncate(0);
            }
        }
        debug_assert_eq!(number as u64, texts);
        Ok(())
    }

    fn read_at(&self, at: u64, bytes: u64, into: &mut Vec<u8>) -> Result<(), DataError> {
        let file = File::open(&self.path).map_err(DataError::io("open", &self.path))?;
        into.resize(bytes as usize, 0);
        file.read_exact_at(into, at).map_err(DataError::io("read", &self.path))
    }
}
