//! Staged chunks into shards: rows go to their parts, dictionary texts to their values.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::DataError;
use crate::fit::VocabularyReader;
use crate::hash;
use crate::interner::Interner;
use crate::manifest::{Encoders, ShardEntry, Split};
use crate::shard::{Column, Columns, SHARD_ROWS, header};
use crate::split::Assignment;
use crate::staging::{Chunk, temporary_name};

/// Directory of the shards inside a dataset.
const SHARD_DIR: &str = "shards";

/// For each dictionary column, the stored cell (`v + 1`, 0 if out of vocabulary) of each text of
/// each chunk, in a file.
pub(crate) struct Remaps {
    /// By categorical column; `None` where values are stored as they are.
    columns: Vec<Option<(PathBuf, Vec<u64>)>>,
}

impl Remaps {
    /// Looks all staged texts up. A vocabulary is loaded in pieces of at most `memory` bytes;
    /// each piece is a pass over the chunks' dictionaries.
    pub fn make(
        staging: &Path,
        vocabularies: &[Option<PathBuf>],
        chunks: &[Chunk],
        memory: u64,
        advance: &(dyn Fn() + Sync),
    ) -> Result<Remaps, DataError> {
        let columns = vocabularies.par_iter().enumerate().map(|(column, vocabulary)| {
            let Some(vocabulary) = vocabulary else { return Ok(None) };
            let path = staging.join(format!("remap-{column}"));
            let starts = remap_column(&path, column, vocabulary, chunks, memory);
            advance();
            Ok(Some((path, starts?)))
        });
        Ok(Remaps { columns: columns.collect::<Result<_, DataError>>()? })
    }

    /// The cells of chunk `number`, or `None` for a column without a dictionary.
    fn read(
        &self,
        column: usize,
        number: usize,
        chunk: &Chunk,
    ) -> Result<Option<Vec<u8>>, DataError> {
        let Some((path, starts)) = &self.columns[column] else { return Ok(None) };
        let mut cells = vec![0; 4 * chunk.texts(column)];
        let file = File::open(path).map_err(DataError::io("open", path))?;
        file.read_exact_at(&mut cells, starts[number]).map_err(DataError::io("read", path))?;
        Ok(Some(cells))
    }
}

fn remap_column(
    path: &Path,
    column: usize,
    vocabulary: &Path,
    chunks: &[Chunk],
    memory: u64,
) -> Result<Vec<u64>, DataError> {
    let mut starts = Vec::new();
    let mut end = 0;
    for chunk in chunks {
        starts.push(end);
        end += 4 * chunk.texts(column) as u64;
    }
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
    let file = file.map_err(DataError::io("create", path))?;
    file.set_len(end).map_err(DataError::io("write", path))?;
    let mut reader = VocabularyReader::open(vocabulary)?;
    let mut texts = Interner::default();
    let mut cells = Vec::new();
    while let Some(first) = reader.next_piece(&mut texts, memory)? {
        for (chunk, &start) in chunks.iter().zip(&starts) {
            cells.resize(4 * chunk.texts(column), 0);
            file.read_exact_at(&mut cells, start).map_err(DataError::io("read", path))?;
            chunk.for_each_text(column, |number, text| {
                if let Some(found) = texts.find(text) {
                    // stored cells are values plus one
                    let cell = (first + u64::from(found) + 1) as u32;
                    cells[4 * number..4 * number + 4].copy_from_slice(&cell.to_le_bytes());
                }
                Ok(())
            })?;
            file.write_all_at(&cells, start).map_err(DataError::io("write", path))?;
        }
    }
    Ok(starts)
}

/// One part being written.
struct PartWriter {
    split: Split,
    rows: u64,
    /// Rows routed so far.
    written: u64,
    /// Shards opened so far.
    opened: u64,
    open: Vec<OpenShard>,
}

struct OpenShard {
    number: u64,
    file: File,
    offsets: Vec<u64>,
    rows: u64,
    exceptions: Vec<(u32, u32)>,
}

/// Writes all shards and returns their entries.
pub(crate) fn write_shards(
    output: &Path,
    columns: Columns,
    chunks: &[Chunk],
    assignment: &Assignment,
    remaps: &Remaps,
    advance: &(dyn Fn(u64) -> Result<(), DataError> + Sync),
) -> Result<Vec<ShardEntry>, DataError> {
    let dir = output.join(SHARD_DIR);
    std::fs::create_dir_all(&dir).map_err(DataError::io("create", &dir))?;
    let mut parts = Split::ALL.map(|split| PartWriter {
        split,
        rows: assignment.rows.get(split),
        written: 0,
        opened: 0,
        open: Vec::new(),
    });
    let mut entries = Vec::new();
    let mut routes = Vec::new();
    for (number, chunk) in chunks.iter().enumerate() {
        assignment.read(number, chunk, &mut routes)?;
        let mut counts = [0u64; 3];
        routes.iter().for_each(|&part| counts[usize::from(part)] += 1);
        for (part, count) in parts.iter_mut().zip(counts) {
            part.open_shards(&dir, columns, part.written + count)?;
        }
        let all: Vec<Column> = columns.iter().collect();
        all.par_iter().try_for_each(|&column| {
            let remap = match column {
                Column::Categorical(i) => remaps.read(i, number, chunk)?,
                _ => None,
            };
            copy_column(&dir, &parts, columns, column, chunk, &routes, remap.as_deref())
        })?;
        route_exceptions(&mut parts, chunk, &routes)?;
        for (part, count) in parts.iter_mut().zip(counts) {
            part.written += count;
            part.close_full(&dir, &mut entries)?;
        }
        advance(chunk.info.rows)?;
    }
    entries.sort_by(|a, b| (a.split, &a.file).cmp(&(b.split, &b.file)));
    Ok(entries)
}

fn shard_name(split: Split, number: u64) -> String {
    format!("{}-{number:05}.shard", split.name())
}

impl PartWriter {
    /// Opens the shards that rows up to `end` need.
    fn open_shards(&mut self, dir: &Path, columns: Columns, end: u64) -> Result<(), DataError> {
        while self.opened * SHARD_ROWS < end {
            let next = self.opened;
            let rows = (self.rows - next * SHARD_ROWS).min(SHARD_ROWS);
            let path = temporary_name(&dir.join(shard_name(self.split, next)));
            let file =
                File::options().read(true).write(true).create(true).truncate(true).open(&path);
            let file = file.map_err(DataError::io("create", &path))?;
            let offsets = columns.offsets(rows);
            self.open.push(OpenShard { number: next, file, offsets, rows, exceptions: Vec::new() });
            self.opened += 1;
        }
        Ok(())
    }

    /// Finishes the shards whose rows are all written.
    fn close_full(&mut self, dir: &Path, entries: &mut Vec<ShardEntry>) -> Result<(), DataError> {
        while let Some(shard) = self.open.first() {
            if shard.number * SHARD_ROWS + shard.rows > self.written {
                return Ok(());
            }
            let mut shard = self.open.remove(0);
            let name = shard_name(self.split, shard.number);
            let (path, temporary) = (dir.join(&name), temporary_name(&dir.join(&name)));
            shard.exceptions.sort_unstable();
            let tail: Vec<u8> = shard
                .exceptions
                .iter()
                .flat_map(|(column, row)| [column.to_le_bytes(), row.to_le_bytes()])
                .flatten()
                .collect();
            let at = shard.offsets[shard.offsets.len() - 1];
            let bytes = at + tail.len() as u64;
            let write = || -> std::io::Result<()> {
                shard.file.set_len(bytes)?;
                shard.file.write_all_at(&header(shard.rows, shard.exceptions.len() as u64), 0)?;
                shard.file.write_all_at(&tail, at)
            };
            write().map_err(DataError::io("write", &temporary))?;
            let hash = hash::file(&temporary)?;
            std::fs::rename(&temporary, &path).map_err(DataError::io("rename", &temporary))?;
            let file = format!("{SHARD_DIR}/{name}");
            entries.push(ShardEntry { split: self.split, file, rows: shard.rows, bytes, hash });
        }
        Ok(())
    }
}

/// Routes the cells of one column of a chunk and writes them into the open shards.
fn copy_column(
    dir: &Path,
    parts: &[PartWriter; 3],
    columns: Columns,
    column: Column,
    chunk: &Chunk,
    routes: &[u8],
    remap: Option<&[u8]>,
) -> Result<(), DataError> {
    match column.width() {
        1 => copy_cells::<1>(dir, parts, columns, column, chunk, routes, None),
        4 => copy_cells::<4>(dir, parts, columns, column, chunk, routes, remap),
        _ => copy_cells::<8>(dir, parts, columns, column, chunk, routes, None),
    }
}

fn copy_cells<const W: usize>(
    dir: &Path,
    parts: &[PartWriter; 3],
    columns: Columns,
    column: Column,
    chunk: &Chunk,
    routes: &[u8],
    remap: Option<&[u8]>,
) -> Result<(), DataError> {
    let mut bytes = Vec::new();
    chunk.read::<W>(column, &mut bytes)?;
    let cells = bytes.as_chunks::<W>().0;
    let mut routed: [Vec<u8>; 3] = [const { Vec::new() }; 3];
    for (cell, &route) in cells.iter().zip(routes) {
        routed[usize::from(route)].extend_from_slice(cell);
    }
    if let Some(remap) = remap {
        for cell in routed.iter_mut().flat_map(|cells| cells.as_chunks_mut::<4>().0) {
            let at = 4 * u32::from_le_bytes(*cell) as usize;
            cell.copy_from_slice(&remap[at..at + 4]);
        }
    }
    let position = columns.position(column);
    for (part, cells) in parts.iter().zip(&routed) {
        let (mut row, mut rest) = (part.written, &cells[..]);
        while !rest.is_empty() {
            let first = part.open[0].number;
            let shard = &part.open[(row / SHARD_ROWS - first) as usize];
            let inside = row % SHARD_ROWS;
            let count = ((shard.rows - inside) as usize).min(rest.len() / W);
            let (now, later) = rest.split_at(count * W);
            let at = shard.offsets[position] + inside * W as u64;
            let path = dir.join(shard_name(part.split, shard.number));
            shard.file.write_all_at(now, at).map_err(DataError::io("write", path))?;
            row += count as u64;
            rest = later;
        }
    }
    Ok(())
}

/// Gives the exceptions of a chunk to the shards of their rows.
fn route_exceptions(
    parts: &mut [PartWriter; 3],
    chunk: &Chunk,
    routes: &[u8],
) -> Result<(), DataError> {
    let exceptions = chunk.exceptions()?;
    if exceptions.is_empty() {
        return Ok(());
    }
    let mut counts = [0u64; 3];
    let places: Vec<u64> = routes
        .iter()
        .map(|&route| {
            let count = &mut counts[usize::from(route)];
            *count += 1;
            *count - 1
        })
        .collect();
    for (column, row) in exceptions {
        let part = &mut parts[usize::from(routes[row as usize])];
        let place = part.written + places[row as usize];
        let first = part.open[0].number;
        let shard = &mut part.open[(place / SHARD_ROWS - first) as usize];
        shard.exceptions.push((column, (place % SHARD_ROWS) as u32));
    }
    Ok(())
}

/// The columns' total of encoders with dictionaries, for progress.
pub(crate) fn vocabulary_paths(dir: &Path, encoders: &Encoders) -> Vec<Option<PathBuf>> {
    let fields = encoders.categorical.iter();
    fields.map(|field| field.vocabulary.as_ref().map(|entry| dir.join(&entry.file))).collect()
}
