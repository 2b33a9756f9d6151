//! The number of distinct 32-bit values of a column, exactly and in bounded memory.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::staging::AtomicFile;

/// A set of non-zero values that spills sorted runs to disk when it is full.
#[derive(Debug)]
pub(crate) struct DistinctCounter {
    /// Open addressing, 0 where free; a power of two long.
    slots: Vec<u32>,
    shift: u32,
    filled: usize,
    /// The most slots that memory allows.
    limit: usize,
    runs: Vec<PathBuf>,
    dir: PathBuf,
    column: usize,
}

impl DistinctCounter {
    pub fn new(dir: &Path, column: usize, memory: u64) -> Self {
        // growing holds the old and the new table, sorting none more
        let limit = ((memory / 4 / 2) as usize).max(1 << 10);
        let limit = 1 << limit.ilog2();
        Self {
            slots: vec![0; 1 << 10],
            shift: 22,
            filled: 0,
            limit,
            runs: Vec::new(),
            dir: dir.into(),
            column,
        }
    }

    /// Adds a value that is not 0.
    #[inline]
    pub fn insert(&mut self, value: u32) -> Result<(), DataError> {
        let slot = find(&self.slots, self.shift, value);
        if self.slots[slot] == value {
            return Ok(());
        }
        self.slots[slot] = value;
        self.filled += 1;
        if self.filled * 2 > self.slots.len() { self.grow() } else { Ok(()) }
    }

    #[cold]
    fn grow(&mut self) -> Result<(), DataError> {
        if self.slots.len() >= self.limit {
            return self.spill();
        }
        let mut slots = vec![0; self.slots.len() * 2];
        self.shift -= 1;
        for &value in self.slots.iter().filter(|&&value| value != 0) {
            let slot = find(&slots, self.shift, value);
            slots[slot] = value;
        }
        self.slots = slots;
        Ok(())
    }

    fn spill(&mut self) -> Result<(), DataError> {
        self.slots.sort_unstable();
        let values = &self.slots[self.slots.len() - self.filled..];
        let path = self.dir.join(format!("distinct-{}-{}", self.column, self.runs.len()));
        let mut file = AtomicFile::create(&path)?;
        for piece in values.chunks(1 << 14) {
            let bytes: Vec<u8> = piece.iter().flat_map(|value| value.to_le_bytes()).collect();
            file.write(&bytes)?;
        }
        file.finish()?;
        self.runs.push(path);
        self.slots.fill(0);
        self.filled = 0;
        Ok(())
    }

    /// The number of distinct values; removes the runs.
    pub fn finish(mut self) -> Result<u64, DataError> {
        if self.runs.is_empty() {
            return Ok(self.filled as u64);
        }
        self.spill()?;
        self.slots = Vec::new();
        let mut readers = Vec::new();
        for path in &self.runs {
            readers.push(Run::open(path)?);
        }
        let mut heads = std::collections::BinaryHeap::new();
        for (number, reader) in readers.iter_mut().enumerate() {
            heads.extend(reader.next()?.map(|value| std::cmp::Reverse((value, number))));
        }
        let (mut count, mut last) = (0, 0);
        while let Some(std::cmp::Reverse((value, number))) = heads.pop() {
            count += u64::from(value != last);
            last = value;
            heads.extend(readers[number].next()?.map(|value| std::cmp::Reverse((value, number))));
        }
        for path in &self.runs {
            std::fs::remove_file(path).map_err(DataError::io("remove", path))?;
        }
        Ok(count)
    }
}

/// The slot that holds `value`, or the free one where it belongs (Fibonacci hashing).
#[inline]
fn find(slots: &[u32], shift: u32, value: u32) -> usize {
    let mut slot = (value.wrapping_mul(0x9e37_79b9) >> shift) as usize;
    while slots[slot] != 0 && slots[slot] != value {
        slot = (slot + 1) & (slots.len() - 1);
    }
    slot
}

struct Run {
    reader: BufReader<File>,
    path: PathBuf,
}

impl Run {
    fn open(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::io("open", path))?;
        Ok(Self { reader: BufReader::with_capacity(1 << 16, file), path: path.into() })
    }

    fn next(&mut self) -> Result<Option<u32>, DataError> {
        let mut bytes = [0; 4];
        match self.reader.read_exact(&mut bytes) {
            Ok(()) => Ok(Some(u32::from_le_bytes(bytes))),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(DataError::io("read", &self.path)(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use palmette_random::{Draw, stream};

    use super::*;

    #[test]
    fn counts_exactly_with_and_without_spilling() {
        let dir = tempfile::tempdir().unwrap();
        for (memory, range) in
            [(1 << 30, 5_000), (1 << 12, 50_000), (1 << 12, u64::from(u32::MAX) - 1)]
        {
            let mut random = stream(3, "test/distinct", range);
            let mut counter = DistinctCounter::new(dir.path(), 0, memory);
            let mut expect = BTreeSet::new();
            for _ in 0..40_000 {
                let value = random.below(range) as u32 + 1;
                counter.insert(value).unwrap();
                expect.insert(value);
            }
            let spilled = !counter.runs.is_empty();
            assert_eq!(spilled, memory == 1 << 12);
            assert_eq!(counter.finish().unwrap(), expect.len() as u64);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
