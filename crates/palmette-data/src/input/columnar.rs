//! Blocks of Parquet rows, rendered as the text a CSV file would hold.
//!
//! Rendering costs some speed and buys that a value means the same in every file form: encoders
//! only ever see text.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use crate::error::DataError;
use crate::time::to_iso;

use super::{Block, BlockRows, NATIVE_SEPARATOR};

/// Rows of a block.
const BATCH_ROWS: usize = 4096;

/// Reads a Parquet file block by block.
pub(super) struct ParquetBlocks {
    path: PathBuf,
    /// Names of all columns.
    names: Vec<String>,
    /// Which columns are read, in file order.
    used: Vec<bool>,
    reader: Option<ParquetRecordBatchReader>,
    /// Rows behind the last block's end.
    position: u64,
    total_rows: u64,
    bytes: u64,
    consumed: Arc<AtomicU64>,
}

impl ParquetBlocks {
    /// Opens a file of `bytes` bytes; `consumed` is set to the share of them that has been read.
    pub fn open(
        path: &Path,
        bytes: u64,
        consumed: Arc<AtomicU64>,
    ) -> Result<(Self, Vec<String>, Vec<bool>), DataError> {
        let builder = builder(path)?;
        let names: Vec<String> =
            builder.schema().fields().iter().map(|f| f.name().clone()).collect();
        let lists = builder.schema().fields().iter().map(|f| values(f.data_type()).is_some());
        let lists = lists.collect();
        let total_rows = builder.metadata().file_metadata().num_rows().max(0) as u64;
        if total_rows == 0 {
            return Err(DataError::EmptyFile { file: path.into() });
        }
        let used = vec![true; names.len()];
        let blocks = Self {
            path: path.into(),
            names: names.clone(),
            used,
            reader: None,
            position: 0,
            total_rows,
            bytes,
            consumed,
        };
        Ok((blocks, names, lists))
    }

    /// Reads only these columns; the fields of the others stay empty.
    pub fn project(&mut self, used: &[bool]) -> Result<(), DataError> {
        let builder = builder(&self.path)?;
        for (field, _) in builder.schema().fields().iter().zip(used).filter(|(_, used)| **used) {
            if !supported(field.data_type()) {
                return Err(DataError::UnsupportedColumnType {
                    file: self.path.clone(),
                    column: field.name().clone(),
                    found: field.data_type().to_string(),
                });
            }
        }
        self.used = used.to_vec();
        Ok(())
    }

    /// Reads all columns of types that are fields.
    pub fn project_supported(&mut self) -> Result<(), DataError> {
        let builder = builder(&self.path)?;
        self.used = builder.schema().fields().iter().map(|f| supported(f.data_type())).collect();
        Ok(())
    }

    pub fn skip_to(&mut self, end: u64) -> Result<(), DataError> {
        self.reader = None;
        self.position = end;
        Ok(())
    }

    pub fn next_block(&mut self) -> Result<Option<Block>, DataError> {
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => self.start()?,
        };
        let batch = match reader.next() {
            None => return Ok(None),
            Some(batch) => batch.map_err(|e| damaged(&self.path, e))?,
        };
        self.reader = Some(reader);
        self.position += batch.num_rows() as u64;
        let share = self.position as f64 / self.total_rows as f64;
        self.consumed.store((share * self.bytes as f64) as u64, Ordering::Relaxed);
        let rows = self.render(&batch)?;
        Ok(Some(Block { rows, end: self.position }))
    }

    fn start(&self) -> Result<ParquetRecordBatchReader, DataError> {
        let builder = builder(&self.path)?;
        let roots = self.used.iter().enumerate().filter(|(_, used)| **used).map(|(i, _)| i);
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        builder
            .with_batch_size(BATCH_ROWS)
            .with_projection(mask)
            .with_offset(self.position as usize)
            .build()
            .map_err(|e| damaged(&self.path, e))
    }

    fn render(&self, batch: &RecordBatch) -> Result<BlockRows, DataError> {
        let width = self.names.len();
        let mut columns = batch.columns().iter();
        let cells: Vec<Option<Cells>> = self
            .used
            .iter()
            .map(|used| used.then(|| columns.next()).flatten().map(|c| Cells::new(c)))
            .collect();
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(batch.num_rows() * width);
        for row in 0..batch.num_rows() {
            for cells in &cells {
                if let Some(cells) = cells {
                    cells.render(row, &mut bytes);
                }
                let end = u32::try_from(bytes.len()).map_err(|_| {
                    let problem = format!("more than 4 GiB of text in {BATCH_ROWS} rows");
                    damaged(&self.path, problem)
                })?;
                ends.push(end);
            }
        }
        Ok(BlockRows::Fields { width, bytes, ends })
    }
}

fn damaged(path: &Path, error: impl std::fmt::Display) -> DataError {
    DataError::DamagedInput { file: path.into(), what: "Parquet", problem: error.to_string() }
}

fn builder(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>, DataError> {
    let file = File::open(path).map_err(DataError::io("open", path))?;
    ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| damaged(path, e))
}

fn supported(kind: &DataType) -> bool {
    use DataType::{Boolean, Date32, LargeUtf8, Timestamp, Utf8, Utf8View};
    match values(kind) {
        Some(inner) => values(inner).is_none() && supported(inner),
        None => {
            kind.is_integer()
                || matches!(kind, DataType::Float32 | DataType::Float64)
                || matches!(kind, Boolean | Date32 | Timestamp(..) | Utf8 | LargeUtf8 | Utf8View)
        }
    }
}

/// The type of a list's values.
fn values(kind: &DataType) -> Option<&DataType> {
    match kind {
        DataType::List(inner) | DataType::LargeList(inner) => Some(inner.data_type()),
        DataType::FixedSizeList(inner, _) => Some(inner.data_type()),
        _ => None,
    }
}

/// One column of a batch, by what it renders as.
enum Cells<'a> {
    Integers(&'a dyn Array, Box<dyn Fn(usize) -> i128 + 'a>),
    Singles(&'a arrow_array::Float32Array),
    Doubles(&'a arrow_array::Float64Array),
    Seconds(&'a dyn Array, Box<dyn Fn(usize) -> i64 + 'a>),
    Texts(&'a dyn Array, Box<dyn Fn(usize) -> &'a str + 'a>),
    /// Values, and which of them belong to a row.
    List(&'a dyn Array, Box<Cells<'a>>, Box<dyn Fn(usize) -> Range<usize> + 'a>),
    /// A type that `project` refuses.
    Nothing,
}

impl<'a> Cells<'a> {
    fn new(array: &'a dyn Array) -> Cells<'a> {
        macro_rules! integers {
            ($kind:ty) => {{
                let values = array.as_primitive::<$kind>();
                Cells::Integers(array, Box::new(|row| i128::from(values.value(row))))
            }};
        }
        macro_rules! seconds {
            ($kind:ty, $unit:expr) => {{
                let values = array.as_primitive::<$kind>();
                Cells::Seconds(
                    array,
                    Box::new(|row| i64::from(values.value(row)).div_euclid($unit)),
                )
            }};
        }
        match array.data_type() {
            DataType::Int8 => integers!(Int8Type),
            DataType::Int16 => integers!(Int16Type),
            DataType::Int32 => integers!(Int32Type),
            DataType::Int64 => integers!(Int64Type),
            DataType::UInt8 => integers!(UInt8Type),
            DataType::UInt16 => integers!(UInt16Type),
            DataType::UInt32 => integers!(UInt32Type),
            DataType::UInt64 => integers!(UInt64Type),
            DataType::Boolean => {
                let values = array.as_boolean();
                Cells::Integers(array, Box::new(|row| i128::from(values.value(row))))
            }
            DataType::Float32 => Cells::Singles(array.as_primitive::<Float32Type>()),
            DataType::Float64 => Cells::Doubles(array.as_primitive::<Float64Type>()),
            DataType::Date32 => {
                let values = array.as_primitive::<Date32Type>();
                Cells::Seconds(array, Box::new(|row| i64::from(values.value(row)) * 86_400))
            }
            DataType::Timestamp(TimeUnit::Second, _) => seconds!(TimestampSecondType, 1),
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                seconds!(TimestampMillisecondType, 1_000)
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                seconds!(TimestampMicrosecondType, 1_000_000)
            }
            DataType::Timestamp(TimeUnit::Nanosecond, _) => {
                seconds!(TimestampNanosecondType, 1_000_000_000)
            }
            DataType::Utf8 => {
                let values = array.as_string::<i32>();
                Cells::Texts(array, Box::new(|row| values.value(row)))
            }
            DataType::LargeUtf8 => {
                let values = array.as_string::<i64>();
                Cells::Texts(array, Box::new(|row| values.value(row)))
            }
            DataType::Utf8View => {
                let values = array.as_string_view();
                Cells::Texts(array, Box::new(|row| values.value(row)))
            }
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                let ends = list.value_offsets();
                let range = |row: usize| ends[row] as usize..ends[row + 1] as usize;
                Cells::List(array, Box::new(Cells::new(list.values())), Box::new(range))
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                let ends = list.value_offsets();
                let range = |row: usize| ends[row] as usize..ends[row + 1] as usize;
                Cells::List(array, Box::new(Cells::new(list.values())), Box::new(range))
            }
            DataType::FixedSizeList(..) => {
                let list = array.as_fixed_size_list();
                let length = list.value_length().max(0) as usize;
                let range = move |row: usize| {
                    let start = list.value_offset_at(row);
                    start..start + length
                };
                Cells::List(array, Box::new(Cells::new(list.values())), Box::new(range))
            }
            _ => Cells::Nothing,
        }
    }

    /// Appends the text of a row; nothing for null and NaN. Writing to a vector cannot fail.
    fn render(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Cells::Integers(array, value) if array.is_valid(row) => {
                drop(write!(out, "{}", value(row)))
            }
            Cells::Singles(array) if array.is_valid(row) && !array.value(row).is_nan() => {
                drop(write!(out, "{}", array.value(row)));
            }
            Cells::Doubles(array) if array.is_valid(row) && !array.value(row).is_nan() => {
                drop(write!(out, "{}", array.value(row)));
            }
            Cells::Seconds(array, value) if array.is_valid(row) => {
                out.extend_from_slice(to_iso(value(row)).as_bytes());
            }
            Cells::Texts(array, value) if array.is_valid(row) => {
                out.extend_from_slice(value(row).as_bytes());
            }
            Cells::List(array, values, range) if array.is_valid(row) => {
                for (i, value) in range(row).enumerate() {
                    if i > 0 {
                        out.push(NATIVE_SEPARATOR);
                    }
                    let start = out.len();
                    values.render(value, out);
                    if out[start..].contains(&NATIVE_SEPARATOR) {
                        let text =
                            String::from_utf8_lossy(&out[start..]).replace('\x1f', "\u{fffd}");
                        out.truncate(start);
                        out.extend_from_slice(text.as_bytes());
                    }
                }
            }
            _ => {}
        }
    }
}
