//! Input files as blocks of whole rows.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{DataError, RowProblem};
use crate::schema::{FileFormat, Schema};

mod columnar;
pub(crate) mod record;
mod text;

pub(crate) use record::Delimiter;

/// Bytes of text a block. A quarter of a megabyte keeps a block's text and its columns in the
/// second-level cache.
pub(crate) const BLOCK_BYTES: usize = 1 << 18;

/// What stands between the values of a Parquet list once it is text: a character that texts do not
/// have. A value that has it nevertheless gets U+FFFD in its place.
pub(crate) const NATIVE_SEPARATOR: u8 = 0x1f;

/// Whole rows of one file, not yet parsed.
#[derive(Debug)]
pub(crate) struct Block {
    /// The rows.
    pub rows: BlockRows,
    /// The position behind the last row: bytes of decompressed text, or rows of Parquet.
    pub end: u64,
}

impl Block {
    /// Bytes of the rows' text.
    pub fn bytes(&self) -> u64 {
        match &self.rows {
            BlockRows::Text { bytes, .. } | BlockRows::Fields { bytes, .. } => bytes.len() as u64,
        }
    }
}

/// The rows of a block.
#[derive(Debug)]
pub(crate) enum BlockRows {
    /// Text, one or more whole lines.
    Text {
        /// The bytes.
        bytes: Vec<u8>,
        /// What separates fields.
        delimiter: Delimiter,
    },
    /// Fields that are already separate.
    Fields {
        /// Fields of a row.
        width: usize,
        /// All fields' bytes.
        bytes: Vec<u8>,
        /// Where each field ends.
        ends: Vec<u32>,
    },
}

/// An opened input file.
pub(crate) struct Input {
    /// Its path.
    pub path: PathBuf,
    /// Its column names.
    pub names: Vec<String>,
    /// Which columns are lists of the file's own; empty for text.
    pub native_lists: Vec<bool>,
    /// Header rows before the first row (0 or 1).
    pub header_rows: u64,
    /// Bytes of the file that have been read, for progress; shared with whoever watches.
    pub consumed: Arc<AtomicU64>,
    source: Source,
}

/// Counts what is read of a file.
struct Counted {
    file: File,
    consumed: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.consumed.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

enum Source {
    Text(Box<text::TextBlocks>),
    Parquet(Box<columnar::ParquetBlocks>),
}

impl Input {
    /// Opens a file, finds out its form and compression, and reads its column names.
    pub fn open(path: &Path, schema: &Schema, block_bytes: usize) -> Result<Input, DataError> {
        let mut file = File::open(path).map_err(DataError::io("open", path))?;
        let metadata = file.metadata().map_err(DataError::io("read", path))?;
        if metadata.is_dir() {
            return Err(DataError::Options(format!(
                "{}: a directory, not a log; name its files",
                path.display()
            )));
        }
        let mut magic = Vec::new();
        (&mut file).take(4).read_to_end(&mut magic).map_err(DataError::io("read", path))?;
        if magic.is_empty() {
            return Err(DataError::EmptyFile { file: path.into() });
        }
        let format = match schema.format.filter(|_| magic != *b"PAR1") {
            Some(format) => format,
            None => detect(path, &magic)?,
        };
        let consumed = Arc::new(AtomicU64::new(0));
        if format == FileFormat::Parquet {
            let (blocks, names, native_lists) =
                columnar::ParquetBlocks::open(path, metadata.len(), consumed.clone())?;
            let source = Source::Parquet(Box::new(blocks));
            let path = path.into();
            return Ok(Input { path, names, native_lists, header_rows: 0, consumed, source });
        }
        let file = File::open(path).map_err(DataError::io("open", path))?;
        let file = Counted { file, consumed: consumed.clone() };
        let (compression, reader): (_, Box<dyn Read + Send>) = match magic[..] {
            [0x1f, 0x8b, ..] => (
                Some("gzip"),
                Box::new(flate2::read::MultiGzDecoder::new(BufReader::with_capacity(
                    1 << 18,
                    file,
                ))),
            ),
            [0x28, 0xb5, 0x2f, 0xfd] => {
                let decoder = zstd::Decoder::new(file).map_err(DataError::io("read", path))?;
                (Some("zstd"), Box::new(decoder))
            }
            _ => (None, Box::new(file)),
        };
        let delimiter = if format == FileFormat::Csv { Delimiter::CSV } else { Delimiter::TSV };
        let mut blocks = text::TextBlocks::new(path, reader, compression, delimiter, block_bytes);
        let (names, header_rows) = match &schema.columns {
            Some(columns) => {
                blocks.skip_byte_order_mark()?;
                (columns.clone(), 0)
            }
            None => (blocks.header()?, 1),
        };
        let source = Source::Text(Box::new(blocks));
        let native_lists = Vec::new();
        Ok(Input { path: path.into(), names, native_lists, header_rows, consumed, source })
    }

    /// The next block, or `None` at the end of the file.
    pub fn next_block(&mut self) -> Result<Option<Block>, DataError> {
        match &mut self.source {
            Source::Text(blocks) => blocks.next_block(),
            Source::Parquet(blocks) => blocks.next_block(),
        }
    }

    /// Says which columns will be looked at; the fields of the others may stay empty.
    pub fn project(&mut self, used: &[bool]) -> Result<(), DataError> {
        match &mut self.source {
            Source::Text(_) => Ok(()),
            Source::Parquet(blocks) => blocks.project(used),
        }
    }

    /// Leaves out columns of types that are no fields (structures, maps).
    pub fn project_supported(&mut self) -> Result<(), DataError> {
        match &mut self.source {
            Source::Text(_) => Ok(()),
            Source::Parquet(blocks) => blocks.project_supported(),
        }
    }

    /// Goes on from the `end` of an earlier block.
    pub fn skip_to(&mut self, end: u64) -> Result<(), DataError> {
        match &mut self.source {
            Source::Text(blocks) => blocks.skip_to(end),
            Source::Parquet(blocks) => blocks.skip_to(end),
        }
    }
}

/// The form of a file by its beginning and its name's ending.
fn detect(path: &Path, magic: &[u8]) -> Result<FileFormat, DataError> {
    if magic == b"PAR1" {
        return Ok(FileFormat::Parquet);
    }
    let name =
        path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name =
        [".gz", ".zst", ".zstd"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    match name.rsplit('.').next() {
        Some("csv") => Ok(FileFormat::Csv),
        Some("tsv" | "txt" | "tab") => Ok(FileFormat::Tsv),
        _ => Err(DataError::Options(format!(
            "{}: unknown kind of file; set `format = \"csv\"`, \"tsv\" or \"parquet\" in the schema",
            path.display()
        ))),
    }
}

/// An error for one row of a file.
pub(crate) fn bad_row(
    file: &Path,
    row: u64,
    field: Option<String>,
    problem: RowProblem,
) -> DataError {
    DataError::BadRow { file: file.into(), row, field, problem }
}
