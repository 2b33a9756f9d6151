//! Staged chunks into shards: rows go to their parts, dictionary texts to their values.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::error::DataError;
use crate::fit::VocabularyReader;
use crate::hash;
use crate::interner::Interner;
use crate::manifest::{Encoders, FittedCategorical, ListVocabulary, ShardEntry, Split};
use crate::shard::{Column, Columns, SHARD_ROWS, header};
use crate::split::Assignment;
use crate::staging::{Chunk, temporary_name};

/// Directory of the shards inside a dataset.
const SHARD_DIR: &str = "shards";

/// For each dictionary column, the stored cell (`v + 1`, 0 if out of vocabulary) of each text of
/// each chunk, in a file.
pub(crate) struct Remaps {
    /// By coded column; `None` where values are stored as they are.
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
    /// Values of each list that the whole shard has, and that are written so far.
    elements: Vec<u64>,
    written: Vec<AtomicU64>,
    exceptions: Vec<(u32, u32)>,
}

/// A value that wraps to 0 on its way: part, shard, coded column and cell.
type RoutedException = (usize, u64, u32, u32);

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
    let totals = list_totals(columns, chunks, assignment)?;
    let mut entries = Vec::new();
    let mut routes = Vec::new();
    for (number, chunk) in chunks.iter().enumerate() {
        assignment.read(number, chunk, &mut routes)?;
        let mut counts = [0u64; 3];
        routes.iter().for_each(|&part| counts[usize::from(part)] += 1);
        for ((part, count), totals) in parts.iter_mut().zip(counts).zip(&totals) {
            part.open_shards(&dir, columns, part.written + count, totals)?;
        }
        let all: Vec<Column> = columns.iter().collect();
        let routed = all.par_iter().map(|&column| {
            let remap = match column {
                Column::Categorical(i) => remaps.read(i, number, chunk)?,
                Column::ListEnds(i) => remaps.read(columns.categorical + i, number, chunk)?,
                _ => None,
            };
            let remap = remap.as_deref();
            if let Column::ListEnds(list) = column {
                return copy_list(&dir, &parts, columns, list, chunk, &routes, remap);
            }
            copy_column(&dir, &parts, columns, column, chunk, &routes, remap).map(|()| Vec::new())
        });
        let routed = routed.collect::<Result<Vec<Vec<RoutedException>>, DataError>>()?;
        route_exceptions(&mut parts, columns, chunk, &routes)?;
        for (part, shard, column, cell) in routed.into_iter().flatten() {
            let part = &mut parts[part];
            let first = part.open[0].number;
            part.open[(shard - first) as usize].exceptions.push((column, cell));
        }
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
    fn open_shards(
        &mut self,
        dir: &Path,
        columns: Columns,
        end: u64,
        totals: &[Vec<u64>],
    ) -> Result<(), DataError> {
        while self.opened * SHARD_ROWS < end {
            let next = self.opened;
            let rows = (self.rows - next * SHARD_ROWS).min(SHARD_ROWS);
            let path = temporary_name(&dir.join(shard_name(self.split, next)));
            let file =
                File::options().read(true).write(true).create(true).truncate(true).open(&path);
            let file = file.map_err(DataError::io("create", &path))?;
            let elements = totals[next as usize].clone();
            let offsets = columns.offsets(rows, &elements).ok_or_else(|| {
                DataError::Options(format!("{}: too many values for one file", path.display()))
            })?;
            let written = elements.iter().map(|_| AtomicU64::new(0)).collect();
            let exceptions = Vec::new();
            self.open.push(OpenShard {
                number: next,
                file,
                offsets,
                rows,
                elements,
                written,
                exceptions,
            });
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
            let (split, rows, elements) = (self.split, shard.rows, shard.elements);
            entries.push(ShardEntry { split, file, rows, elements, bytes, hash });
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
    columns: Columns,
    chunk: &Chunk,
    routes: &[u8],
) -> Result<(), DataError> {
    let mut exceptions = chunk.exceptions()?;
    // those of lists are routed with their values
    exceptions.retain(|(column, _)| (*column as usize) < columns.categorical);
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

/// The vocabulary of each coded column, where it has one.
pub(crate) fn vocabulary_paths(dir: &Path, encoders: &Encoders) -> Vec<Option<PathBuf>> {
    let path = |field: &FittedCategorical| -> Option<PathBuf> {
        field.vocabulary.as_ref().map(|entry| dir.join(&entry.file))
    };
    let lists = encoders.lists.iter().map(|list| match &list.values {
        ListVocabulary::Shared(field) => encoders.categorical.get(*field).and_then(path),
        ListVocabulary::Own(field) => path(field),
    });
    encoders.categorical.iter().map(path).chain(lists).collect()
}

/// How many values of each list every shard of every part will have: `[part][shard][list]`.
fn list_totals(
    columns: Columns,
    chunks: &[Chunk],
    assignment: &Assignment,
) -> Result<[Vec<Vec<u64>>; 3], DataError> {
    let mut totals = Split::ALL.map(|split| {
        let shards = assignment.rows.get(split).div_ceil(SHARD_ROWS);
        vec![vec![0u64; columns.lists]; shards as usize]
    });
    if columns.lists == 0 {
        return Ok(totals);
    }
    let mut rows = [0u64; 3];
    let (mut routes, mut ends) = (Vec::new(), Vec::new());
    for (number, chunk) in chunks.iter().enumerate() {
        assignment.read(number, chunk, &mut routes)?;
        let before = rows;
        for list in 0..columns.lists {
            rows = before;
            chunk.read::<8>(Column::ListEnds(list), &mut ends)?;
            for (length, &part) in lengths(&ends).zip(&routes) {
                let part = usize::from(part);
                totals[part][(rows[part] / SHARD_ROWS) as usize][list] += length as u64;
                rows[part] += 1;
            }
        }
    }
    Ok(totals)
}

/// Lengths of lists from where they end.
fn lengths(ends: &[u8]) -> impl Iterator<Item = usize> {
    let mut start = 0;
    ends.as_chunks::<8>().0.iter().map(move |end| {
        let end = u64::from_le_bytes(*end);
        let length = end - start;
        start = end;
        length as usize
    })
}

/// Routes the rows of one list of a chunk and writes them into the open shards.
fn copy_list(
    dir: &Path,
    parts: &[PartWriter; 3],
    columns: Columns,
    list: usize,
    chunk: &Chunk,
    routes: &[u8],
    remap: Option<&[u8]>,
) -> Result<Vec<RoutedException>, DataError> {
    let (mut ends, mut cells) = (Vec::new(), Vec::new());
    chunk.read::<8>(Column::ListEnds(list), &mut ends)?;
    chunk.read_elements(list, &mut cells)?;
    let coded = columns.categorical + list;
    let wraps = chunk.exceptions()?.into_iter().filter(|(column, _)| *column == coded as u32);
    let wraps: Vec<u32> = wraps.map(|(_, cell)| cell).collect();
    let mut exceptions = Vec::new();
    for (part, writer) in parts.iter().enumerate() {
        // rows of this part, as one piece a shard
        let mut row = writer.written;
        let mut piece = Piece::default();
        let mut start = 0;
        for (length, &route) in lengths(&ends).zip(routes) {
            let values = start..start + length;
            start += length;
            if usize::from(route) != part {
                continue;
            }
            let shard = row / SHARD_ROWS;
            if shard != piece.shard {
                piece.write(dir, writer, columns, list)?;
                piece = Piece { shard, first: row, ..Piece::default() };
            } else if piece.ends.is_empty() {
                piece.first = row;
            }
            let open = &writer.open[(shard - writer.open[0].number) as usize];
            let base = open.written[list].load(Ordering::Relaxed) + piece.cells.len() as u64 / 4;
            for &cell in wraps.iter().filter(|&&cell| values.contains(&(cell as usize))) {
                let cell = (base + cell as u64 - values.start as u64) as u32;
                exceptions.push((part, shard, coded as u32, cell));
            }
            for cell in cells[4 * values.start..4 * values.end].as_chunks::<4>().0 {
                let cell = match remap {
                    Some(remap) => {
                        let at = 4 * u32::from_le_bytes(*cell) as usize;
                        &remap[at..at + 4]
                    }
                    None => &cell[..],
                };
                piece.cells.extend_from_slice(cell);
            }
            piece.ends.extend_from_slice(&(base + length as u64).to_le_bytes());
            row += 1;
        }
        piece.write(dir, writer, columns, list)?;
    }
    Ok(exceptions)
}

/// Consecutive rows of a list in one shard.
#[derive(Default)]
struct Piece {
    shard: u64,
    /// The first row, counted in the part.
    first: u64,
    ends: Vec<u8>,
    cells: Vec<u8>,
}

impl Piece {
    /// Writes the rows. One task at a time works on a list, so its count needs no order.
    fn write(
        &self,
        dir: &Path,
        writer: &PartWriter,
        columns: Columns,
        list: usize,
    ) -> Result<(), DataError> {
        if self.ends.is_empty() {
            return Ok(());
        }
        let shard = &writer.open[(self.shard - writer.open[0].number) as usize];
        let before = shard.written[list].fetch_add(self.cells.len() as u64 / 4, Ordering::Relaxed);
        let ends =
            shard.offsets[columns.position(Column::ListEnds(list))] + 8 * (self.first % SHARD_ROWS);
        let cells = shard.offsets[columns.elements_position(list)] + 4 * before;
        let path = dir.join(shard_name(writer.split, shard.number));
        let write = || -> std::io::Result<()> {
            shard.file.write_all_at(&self.ends, ends)?;
            shard.file.write_all_at(&self.cells, cells)
        };
        write().map_err(DataError::io("write", path))
    }
}
