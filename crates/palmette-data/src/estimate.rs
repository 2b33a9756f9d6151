//! What preparing a log will take, from a look at its beginning.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::DataError;
use crate::input::{BLOCK_BYTES, Input};
use crate::parse::{CategoricalColumn, Purpose, RowParser};
use crate::prepare::{PrepareOptions, chunk_bytes};
use crate::profile::Profile;
use crate::shard::Columns;

/// Bytes of the log that are looked at.
const SAMPLE_BYTES: u64 = 16 << 20;

/// Bytes a second at which columns are staged, fitted and written, for each thread. Two threads
/// of a 2.5 GHz server took 0.35 s for a million Criteo rows of 157 bytes.
const COLUMN_BYTES_PER_SECOND: f64 = 220e6;

/// Memory of the program itself with its threads and buffers.
const BASE_MEMORY: u64 = 48 << 20;

/// What preparing a log will take. Rows and sizes are extrapolated from the first megabytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Rows of the log.
    pub rows: u64,
    /// Time on this machine with the current number of threads.
    pub seconds: f64,
    /// Size of the dataset without vocabularies.
    pub dataset_bytes: u64,
    /// The most that vocabularies can take: the texts of the sample were all different again.
    pub vocabulary_bytes: u64,
    /// Disk in use while preparing: staged rows and the dataset.
    pub peak_disk_bytes: u64,
    /// Memory in use, at most the limit of the options.
    pub memory_bytes: u64,
}

/// Predicts time, disk and memory of [`prepare`](crate::prepare()) without writing anything.
/// Also finds what is wrong with the columns and the first rows.
pub fn estimate(options: &PrepareOptions) -> Result<Estimate, DataError> {
    let schema = &options.schema;
    crate::prepare::check_options(options)?;
    let profile = match (&schema.profile, &options.profile) {
        (Some(rule), Some(path)) => Some(Profile::read(path, rule, schema, options.memory / 2)?),
        _ => None,
    };
    let mut total_bytes = 0;
    for path in &options.inputs {
        total_bytes += std::fs::metadata(path).map_err(DataError::io("open", path))?.len();
    }
    let mut sample = Sample::default();
    let budget = SAMPLE_BYTES / options.inputs.len() as u64;
    for path in &options.inputs {
        let mut input = Input::open(path, schema, BLOCK_BYTES)?;
        let parser = RowParser::new(schema, &input, Purpose::Prepare)?;
        input.project(&parser.used())?;
        let (mut text_bytes, mut rows) = (0, input.header_rows);
        let start = Instant::now();
        while text_bytes < budget.max(1) {
            let Some(block) = input.next_block()? else { break };
            let parsed = parser.parse(&block, profile.as_ref());
            if let (Some(bad), crate::prepare::OnBadRow::Stop) =
                (parsed.bad.first(), options.on_bad_row)
            {
                return Err(crate::input::bad_row(
                    path,
                    rows + bad.record + 1,
                    bad.field.clone(),
                    bad.problem.clone(),
                ));
            }
            rows += parsed.records;
            text_bytes += block.bytes();
            sample.rows += parsed.rows() as u64;
            sample.elements +=
                parsed.lists.iter().map(|list| list.values.len() as u64).sum::<u64>();
            sample.texts += parsed
                .categorical
                .iter()
                .chain(parsed.lists.iter().map(|list| &list.values))
                .map(|column| match column {
                    CategoricalColumn::Texts(texts) => {
                        texts.texts.texts().map(|text| text.len() as u64 + 12).sum()
                    }
                    CategoricalColumn::Values(_) => 0,
                })
                .sum::<u64>();
        }
        sample.time += start.elapsed();
        sample.file_bytes += input.consumed.load(std::sync::atomic::Ordering::Relaxed);
    }
    let columns = Columns::new(schema, &schema.extras());
    Ok(sample.extrapolate(options, columns, total_bytes))
}

#[derive(Default)]
struct Sample {
    rows: u64,
    /// Values of all lists.
    elements: u64,
    /// Bytes of the (compressed) files that held the rows.
    file_bytes: u64,
    /// Bytes of distinct texts, block by block.
    texts: u64,
    time: Duration,
}

impl Sample {
    fn extrapolate(
        &self,
        options: &PrepareOptions,
        columns: Columns,
        total_bytes: u64,
    ) -> Estimate {
        let scale = (total_bytes as f64 / self.file_bytes.max(1) as f64).max(1.0);
        let rows = (self.rows as f64 * scale).round() as u64;
        let threads = rayon::current_num_threads();
        let elements = (self.elements as f64 * scale) as u64;
        let dataset_bytes = rows * columns.row_bytes() + 4 * elements;
        let texts = (self.texts as f64 * scale) as u64;
        let parsing = self.time.as_secs_f64() * scale / threads as f64;
        let writing = (dataset_bytes + texts) as f64 / (COLUMN_BYTES_PER_SECOND * threads as f64);
        let chunk = chunk_bytes(options.memory).min(dataset_bytes + texts);
        let tables = options
            .schema
            .categorical
            .iter()
            .map(|field| 16 * u64::from(field.rows.unwrap_or(0)).min(rows));
        let table = tables.max().unwrap_or_default().max(4 * texts / columns.coded().max(1) as u64);
        let memory = BASE_MEMORY + 2 * chunk + table * threads as u64;
        Estimate {
            rows,
            seconds: parsing + writing,
            dataset_bytes,
            vocabulary_bytes: texts,
            peak_disk_bytes: 2 * dataset_bytes + 2 * texts,
            memory_bytes: memory.min(options.memory),
        }
    }
}
