//! A prepared log: memory-mapped shards behind a manifest.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::batch::{Batch, RawBatch};
use crate::encoder::{DenseTransform, MIN_TABLE_ROWS, table_index};
use crate::error::DataError;
use crate::hash;
use crate::manifest::{FORMAT_VERSION, MANIFEST_FILE, Manifest, ShardEntry, Split};
use crate::schema::ExtraKind;
use crate::shard::{Column, Columns, HEADER_BYTES, MAGIC};

/// A prepared log. Opening reads the manifest and maps the shards; nothing is copied to memory.
#[derive(Debug)]
pub struct Dataset {
    dir: PathBuf,
    manifest: Manifest,
    columns: Columns,
    /// Shards of each part, in order.
    parts: [Vec<Shard>; 3],
    /// Where the field's values are: a stored column or a constant.
    dense: Vec<DenseSource>,
    /// The table of each list.
    list_tables: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
enum DenseSource {
    Column(usize, DenseTransform),
    Constant(f32, DenseTransform),
}

#[derive(Debug)]
struct Shard {
    map: Mmap,
    rows: usize,
    /// Offsets of the columns, in stored order.
    offsets: Vec<usize>,
    /// Values of each list.
    elements: Vec<usize>,
    /// `(column, row)` of the cells that hold 4294967295, sorted.
    exceptions: Vec<(u32, u32)>,
}

impl Shard {
    /// The bytes of a column of `W`-byte cells, as cells.
    fn cells<const W: usize>(&self, position: usize) -> &[[u8; W]] {
        let start = self.offsets[position];
        self.map[start..start + self.rows * W].as_chunks::<W>().0
    }

    /// Cells of the values of a list, and the range of each row in them. A damaged file may give
    /// any range: it is cut to what is there.
    fn list(&self, columns: Columns, list: usize) -> (&[[u8; 4]], impl Fn(usize) -> Range<usize>) {
        let start = self.offsets[columns.elements_position(list)];
        let count = self.elements[list];
        let cells = self.map[start..start + 4 * count].as_chunks::<4>().0;
        let ends = self.cells::<8>(columns.position(Column::ListEnds(list)));
        let end = move |row: usize| (u64::from_le_bytes(ends[row]) as usize).min(count);
        let range = move |row: usize| {
            let start = if row == 0 { 0 } else { end(row - 1) };
            start..end(row).max(start)
        };
        (cells, range)
    }

    /// `v + 1`, and 2^32 for the value that wraps.
    fn widened(&self, column: usize, row: usize, stored: u32) -> u64 {
        if stored == 0 && self.exceptions.binary_search(&(column as u32, row as u32)).is_ok() {
            return 1 << 32;
        }
        u64::from(stored)
    }
}

impl Dataset {
    /// Opens a dataset and checks its manifest, versions and file sizes (not the content: that
    /// is [`Dataset::verify`]).
    pub fn open(dir: &Path) -> Result<Dataset, DataError> {
        let path = dir.join(MANIFEST_FILE);
        let refuse = |problem: String| DataError::NotADataset { dir: dir.into(), problem };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e)
                if e.kind() == std::io::ErrorKind::NotFound
                    && dir.join(crate::staging::STAGING_DIR).exists() =>
            {
                return Err(refuse(
                    "preparing it was interrupted; give the same `palmette prepare` command again"
                        .into(),
                ));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(refuse(format!(
                    "no {MANIFEST_FILE} here; make a dataset with `palmette prepare`"
                )));
            }
            Err(e) => return Err(DataError::io("read", &path)(e)),
        };
        let version: Version = serde_json::from_str(&text)
            .map_err(|e| DataError::Damaged { file: path.clone(), problem: e.to_string() })?;
        if version.format_version != FORMAT_VERSION {
            return Err(refuse(format!(
                "written in format {}, this program reads format {FORMAT_VERSION}; prepare the log again",
                version.format_version
            )));
        }
        let manifest: Manifest = serde_json::from_str(&text)
            .map_err(|e| DataError::Damaged { file: path.clone(), problem: e.to_string() })?;
        Dataset::from_manifest(dir, manifest)
    }

    fn from_manifest(dir: &Path, manifest: Manifest) -> Result<Dataset, DataError> {
        let columns =
            Columns::of_encoders(&manifest.encoders, manifest.weighted, manifest.extras.len());
        let mut parts = [Vec::new(), Vec::new(), Vec::new()];
        for entry in &manifest.shards {
            let shard = open_shard(dir, entry, columns)?;
            parts[entry.split as usize].push(shard);
        }
        for split in Split::ALL {
            let shards: &[Shard] = &parts[split as usize];
            let full = shards.iter().rev().skip(1).all(|s| s.rows as u64 == manifest.shard_rows);
            let total: u64 = shards.iter().map(|s| s.rows as u64).sum();
            if !full || total != manifest.rows.get(split) || total > u64::from(u32::MAX) {
                return Err(DataError::Damaged {
                    file: dir.join(MANIFEST_FILE),
                    problem: format!("the shards of the {} part do not add up", split.name()),
                });
            }
        }
        let mut stored = 0..;
        let dense = manifest.encoders.dense.iter().map(|field| match field.constant {
            Some(constant) => DenseSource::Constant(constant, field.transform),
            None => DenseSource::Column(stored.next().unwrap_or_default(), field.transform),
        });
        let dense = dense.collect();
        let list_tables = manifest.encoders.list_tables();
        Ok(Dataset { dir: dir.into(), manifest, columns, parts, dense, list_tables })
    }

    /// Compares every file with its content hash; the error names the damaged one.
    pub fn verify(&self) -> Result<(), DataError> {
        let check = |file: &Path, expected: &str| {
            let found = hash::file(file)?;
            if found == expected {
                return Ok(());
            }
            let problem = format!("its content hash is {found}, the manifest says {expected}");
            Err(DataError::Damaged { file: file.into(), problem })
        };
        for entry in &self.manifest.shards {
            check(&self.dir.join(&entry.file), &entry.hash)?;
        }
        for field in self.manifest.encoders.tables() {
            if let Some(vocabulary) = &field.vocabulary {
                check(&self.dir.join(&vocabulary.file), &vocabulary.hash)?;
            }
        }
        Ok(())
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Schema, encoders, counts and hashes.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// A text that identifies content and schema: equal for equal data, different otherwise.
    pub fn fingerprint(&self) -> String {
        // the names of the inputs say nothing about the content
        let manifest = Manifest { inputs: Vec::new(), ..self.manifest.clone() };
        hash::bytes(&serde_json::to_vec(&manifest).unwrap_or_default())
    }

    /// Number of dense fields.
    pub fn dense_fields(&self) -> usize {
        self.dense.len()
    }

    /// Number of categorical fields.
    pub fn categorical_fields(&self) -> usize {
        self.columns.categorical
    }

    /// Number of lists.
    pub fn list_fields(&self) -> usize {
        self.columns.lists
    }

    /// The embedding table of each list, as a place in [`Dataset::table_rows`].
    pub fn list_tables(&self) -> &[usize] {
        &self.list_tables
    }

    /// Rows of a part.
    pub fn rows(&self, split: Split) -> usize {
        self.manifest.rows.get(split) as usize
    }

    /// Rows of each embedding table, at most `cap` and at least [`MIN_TABLE_ROWS`]: of each
    /// categorical field, then of each list that has a table of its own.
    pub fn table_rows(&self, cap: Option<u32>) -> Vec<u32> {
        let rows = self.manifest.encoders.tables().map(|field| field.table_rows);
        rows.map(|rows| rows.min(cap.unwrap_or(u32::MAX)).max(MIN_TABLE_ROWS)).collect()
    }

    /// Fills `batch` with the given rows of a part (numbers inside the part, in any order).
    ///
    /// `table_rows` has one entry a table, see [`Dataset::table_rows`].
    pub fn fill(
        &self,
        split: Split,
        rows: &[u32],
        table_rows: &[u32],
        batch: &mut Batch,
    ) -> Result<(), DataError> {
        let total = self.rows(split);
        if let Some(row) = rows.iter().find(|&&row| row as usize >= total) {
            return Err(DataError::Batch(format!(
                "row {row} of the {} part, which has {total} rows",
                split.name()
            )));
        }
        self.check_tables(table_rows)?;
        batch.resize(rows.len(), self.dense.len(), self.columns.categorical, self.columns.lists);
        let shards = &self.parts[split as usize];
        let shard_rows = self.manifest.shard_rows as usize;
        let mut start = 0;
        // a run of rows that lie in one shard is filled column by column
        while start < rows.len() {
            let shard = rows[start] as usize / shard_rows;
            let run =
                rows[start..].iter().take_while(|&&row| row as usize / shard_rows == shard).count();
            let first = shard * shard_rows;
            let pick = |i: usize| rows[start + i] as usize - first;
            self.fill_run(&shards[shard], run, pick, table_rows, start, batch);
            start += run;
        }
        Ok(())
    }

    /// Fills `batch` with consecutive rows of a part.
    pub fn fill_range(
        &self,
        split: Split,
        rows: Range<usize>,
        table_rows: &[u32],
        batch: &mut Batch,
    ) -> Result<(), DataError> {
        self.check_range(split, &rows)?;
        self.check_tables(table_rows)?;
        batch.resize(rows.len(), self.dense.len(), self.columns.categorical, self.columns.lists);
        let mut at = 0;
        for (shard, range) in self.pieces(split, rows) {
            let (first, run) = (range.start, range.len());
            self.fill_run(shard, run, |i| first + i, table_rows, at, batch);
            at += run;
        }
        Ok(())
    }

    /// Fills rows `at..at + run` of the batch with the shard's rows `pick(0..run)`.
    fn fill_run(
        &self,
        shard: &Shard,
        run: usize,
        pick: impl Fn(usize) -> usize,
        table_rows: &[u32],
        at: usize,
        batch: &mut Batch,
    ) {
        let labels = shard.cells::<1>(self.columns.position(Column::Label));
        for (i, label) in batch.labels[at..at + run].iter_mut().enumerate() {
            *label = f32::from(labels[pick(i)][0]);
        }
        if self.columns.weighted {
            let weights = shard.cells::<4>(self.columns.position(Column::Weight));
            for (i, weight) in batch.weights[at..at + run].iter_mut().enumerate() {
                *weight = f32::from_le_bytes(weights[pick(i)]);
            }
        }
        let dense_fields = self.dense.len();
        for (field, source) in self.dense.iter().enumerate() {
            let out = batch.dense[at * dense_fields..].iter_mut().skip(field).step_by(dense_fields);
            match *source {
                DenseSource::Constant(constant, transform) => {
                    let value = transform.apply(constant);
                    out.take(run).for_each(|x| *x = value);
                }
                DenseSource::Column(column, transform) => {
                    let cells = shard.cells::<4>(self.columns.position(Column::Dense(column)));
                    for (i, x) in out.take(run).enumerate() {
                        *x = transform.apply(f32::from_le_bytes(cells[pick(i)]));
                    }
                }
            }
        }
        let rows = batch.rows;
        for (field, &table) in table_rows[..self.columns.categorical].iter().enumerate() {
            let cells = shard.cells::<4>(self.columns.position(Column::Categorical(field)));
            let out = &mut batch.ids[field * rows + at..field * rows + at + run];
            for (i, id) in out.iter_mut().enumerate() {
                let row = pick(i);
                let stored = u32::from_le_bytes(cells[row]);
                // 32-bit division; the rare wrapped value takes the wide road
                *id = match stored {
                    0 => table_index(shard.widened(field, row, 0) as i64 - 1, table),
                    _ => (stored - 1) % (table - 1) + 1,
                };
            }
        }
        for (list, out) in batch.lists.iter_mut().enumerate() {
            let (cells, range) = shard.list(self.columns, list);
            let table = table_rows[self.list_tables[list]];
            let coded = self.columns.categorical + list;
            for i in 0..run {
                let values = range(pick(i));
                let first = values.start;
                out.push(cells[values].iter().enumerate().map(
                    |(i, cell)| match u32::from_le_bytes(*cell) {
                        0 => table_index(shard.widened(coded, first + i, 0) as i64 - 1, table),
                        stored => (stored - 1) % (table - 1) + 1,
                    },
                ));
            }
        }
    }

    /// Fills `batch` with consecutive rows of a part as an exported model takes them.
    pub fn fill_raw(
        &self,
        split: Split,
        rows: Range<usize>,
        batch: &mut RawBatch,
    ) -> Result<(), DataError> {
        self.check_range(split, &rows)?;
        let (dense_fields, categorical_fields) = (self.dense.len(), self.columns.categorical);
        batch.resize(rows.len(), dense_fields, categorical_fields, self.columns.lists);
        let mut at = 0;
        for (shard, range) in self.pieces(split, rows) {
            let labels = shard.cells::<1>(self.columns.position(Column::Label));
            for (i, row) in range.clone().enumerate() {
                batch.labels[at + i] = f32::from(labels[row][0]);
            }
            for (field, source) in self.dense.iter().enumerate() {
                for (i, row) in range.clone().enumerate() {
                    batch.dense[(at + i) * dense_fields + field] = match *source {
                        DenseSource::Constant(constant, _) => constant,
                        DenseSource::Column(column, _) => {
                            let position = self.columns.position(Column::Dense(column));
                            f32::from_le_bytes(shard.cells::<4>(position)[row])
                        }
                    };
                }
            }
            for field in 0..categorical_fields {
                let cells = shard.cells::<4>(self.columns.position(Column::Categorical(field)));
                for (i, row) in range.clone().enumerate() {
                    let stored = u32::from_le_bytes(cells[row]);
                    batch.values[(at + i) * categorical_fields + field] =
                        shard.widened(field, row, stored) as i64 - 1;
                }
            }
            for (list, out) in batch.lists.iter_mut().enumerate() {
                let (cells, values) = shard.list(self.columns, list);
                for row in range.clone() {
                    let values = values(row);
                    let first = values.start;
                    out.push(cells[values].iter().enumerate().map(|(i, cell)| {
                        let coded = categorical_fields + list;
                        shard.widened(coded, first + i, u32::from_le_bytes(*cell)) as i64 - 1
                    }));
                }
            }
            at += range.len();
        }
        Ok(())
    }

    /// The labels of a part, 0 or 1.
    pub fn labels(&self, split: Split) -> Vec<f32> {
        let position = self.columns.position(Column::Label);
        let shards = self.parts[split as usize].iter();
        shards.flat_map(|s| s.cells::<1>(position)).map(|cell| f32::from(cell[0])).collect()
    }

    /// A kept numeric column of a part (NaN where missing), or the time in seconds since 1970.
    pub fn extra_f64(&self, split: Split, name: &str) -> Result<Vec<f64>, DataError> {
        let (position, kind) = self.extra(name, |kind| kind != ExtraKind::Key)?;
        let cells = self.parts[split as usize].iter().flat_map(|s| s.cells::<8>(position));
        Ok(match kind {
            ExtraKind::Time => cells.map(|cell| i64::from_le_bytes(*cell) as f64).collect(),
            _ => cells.map(|cell| f64::from_le_bytes(*cell)).collect(),
        })
    }

    /// A kept key column of a part: equal keys mean equal texts (the group, for instance).
    pub fn extra_keys(&self, split: Split, name: &str) -> Result<Vec<u64>, DataError> {
        let (position, _) = self.extra(name, |kind| kind == ExtraKind::Key)?;
        let cells = self.parts[split as usize].iter().flat_map(|s| s.cells::<8>(position));
        Ok(cells.map(|cell| u64::from_le_bytes(*cell)).collect())
    }

    fn extra(
        &self,
        name: &str,
        fits: impl Fn(ExtraKind) -> bool,
    ) -> Result<(usize, ExtraKind), DataError> {
        let extras = &self.manifest.extras;
        match extras.iter().position(|extra| extra.name == name && fits(extra.kind)) {
            Some(i) => Ok((self.columns.position(Column::Extra(i)), extras[i].kind)),
            None => {
                let known: Vec<&str> = extras.iter().map(|extra| extra.name.as_str()).collect();
                Err(DataError::Options(format!(
                    "the dataset keeps no column `{name}` for this use; it keeps: {} (numbers stand under \
                     `keep`, `baseline` or `time` in the schema, keys under `group`)",
                    if known.is_empty() { "none".into() } else { known.join(", ") }
                )))
            }
        }
    }

    /// The shards that a range of rows touches, with the rows inside each.
    fn pieces(
        &self,
        split: Split,
        rows: Range<usize>,
    ) -> impl Iterator<Item = (&Shard, Range<usize>)> {
        let shard_rows = self.manifest.shard_rows as usize;
        let shards = self.parts[split as usize].iter().enumerate();
        shards.filter_map(move |(i, shard)| {
            let first = i * shard_rows;
            let start = rows.start.max(first);
            let end = rows.end.min(first + shard.rows);
            (start < end).then(|| (shard, start - first..end - first))
        })
    }

    fn check_range(&self, split: Split, rows: &Range<usize>) -> Result<(), DataError> {
        let total = self.rows(split);
        if rows.start <= rows.end && rows.end <= total {
            return Ok(());
        }
        Err(DataError::Batch(format!(
            "rows {}..{} of the {} part, which has {total} rows",
            rows.start,
            rows.end,
            split.name()
        )))
    }

    fn check_tables(&self, table_rows: &[u32]) -> Result<(), DataError> {
        let tables = self.manifest.encoders.tables().count();
        if table_rows.len() != tables {
            return Err(DataError::Batch(format!(
                "{} table sizes for {} categorical fields and {} lists with tables of their own",
                table_rows.len(),
                self.columns.categorical,
                tables - self.columns.categorical
            )));
        }
        match table_rows.iter().position(|&rows| rows < MIN_TABLE_ROWS) {
            Some(field) => Err(DataError::Batch(format!(
                "table {field} has {} rows, fewer than {MIN_TABLE_ROWS}",
                table_rows[field]
            ))),
            None => Ok(()),
        }
    }
}

#[derive(serde::Deserialize)]
struct Version {
    format_version: u32,
}

fn open_shard(dir: &Path, entry: &ShardEntry, columns: Columns) -> Result<Shard, DataError> {
    let path = &dir.join(&entry.file);
    let (rows, bytes) = (entry.rows, entry.bytes);
    let damaged = |problem: String| DataError::Damaged { file: path.into(), problem };
    let file = File::open(path).map_err(DataError::io("open", path))?;
    // SAFETY: shards are written once under another name and renamed; the program never changes
    // one in place, and a foreign process that truncates one is outside what a reader can survive.
    let map = unsafe { Mmap::map(&file) }.map_err(DataError::io("map", path))?;
    if map.len() as u64 != bytes {
        return Err(damaged(format!("{} bytes long, the manifest says {bytes}", map.len())));
    }
    if entry.elements.len() != columns.lists {
        return Err(damaged(format!(
            "the manifest counts the values of {} lists, there are {}",
            entry.elements.len(),
            columns.lists
        )));
    }
    let offsets = columns.offsets(rows, &entry.elements);
    let offsets = offsets.ok_or_else(|| damaged("its size does not fit its columns".into()))?;
    let tail = offsets[offsets.len() - 1];
    if map.len() < HEADER_BYTES as usize || map[..8] != MAGIC || map[8..16] != rows.to_le_bytes() {
        return Err(damaged("its header is not that of a shard with these rows".into()));
    }
    let count = u64::from_le_bytes(map[16..24].try_into().unwrap_or_default());
    if tail.checked_add(count.saturating_mul(8)) != Some(bytes) {
        return Err(damaged("its size does not fit its columns".into()));
    }
    let word = |at: usize| u32::from_le_bytes(map[at..at + 4].try_into().unwrap_or_default());
    let exceptions = (0..count as usize)
        .map(|i| (word(tail as usize + 8 * i), word(tail as usize + 8 * i + 4)))
        .collect();
    let offsets = offsets.iter().map(|&offset| offset as usize).collect();
    let elements = entry.elements.iter().map(|&count| count as usize).collect();
    Ok(Shard { map, rows: rows as usize, offsets, elements, exceptions })
}
