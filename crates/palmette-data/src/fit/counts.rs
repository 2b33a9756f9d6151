//! Counts of texts, summed and sorted in bounded memory.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::interner::Interner;
use crate::staging::AtomicFile;

/// Counts by text; sorted runs go to disk when memory is full.
#[derive(Debug)]
pub(crate) struct SortedCounts {
    texts: Interner,
    counts: Vec<u64>,
    memory: u64,
    /// Prefix of the runs' paths.
    prefix: PathBuf,
    runs: Vec<PathBuf>,
}

impl SortedCounts {
    pub fn new(prefix: PathBuf, memory: u64) -> Self {
        Self { texts: Interner::default(), counts: Vec::new(), memory, prefix, runs: Vec::new() }
    }

    /// Adds to the count of a text.
    pub fn add(&mut self, text: &[u8], count: u64) -> Result<(), DataError> {
        let number = self.texts.intern(text) as usize;
        match self.counts.get_mut(number) {
            Some(sum) => *sum += count,
            None => self.counts.push(count),
        }
        // vectors double: half of the memory may be in use before the next growth
        let used = self.texts.bytes() + 8 * self.counts.capacity();
        if used as u64 > self.memory / 2 { self.spill() } else { Ok(()) }
    }

    /// Numbers of the texts, sorted by text.
    fn order(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.texts.len() as u32).collect();
        order.sort_unstable_by(|&a, &b| {
            self.texts.text(a as usize).cmp(self.texts.text(b as usize))
        });
        order
    }

    fn spill(&mut self) -> Result<(), DataError> {
        let path = self.prefix.with_extension(format!("{}", self.runs.len()));
        let mut file = AtomicFile::create(&path)?;
        for number in self.order() {
            let text = self.texts.text(number as usize);
            file.write(&(text.len() as u32).to_le_bytes())?;
            file.write(&self.counts[number as usize].to_le_bytes())?;
            file.write(text)?;
        }
        file.finish()?;
        self.runs.push(path);
        self.texts = Interner::default();
        self.counts = Vec::new();
        Ok(())
    }

    /// Calls `visit` with every text and its sum, in the order of the texts; removes the runs.
    pub fn finish(
        mut self,
        mut visit: impl FnMut(&[u8], u64) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        if self.runs.is_empty() {
            for number in self.order() {
                visit(self.texts.text(number as usize), self.counts[number as usize])?;
            }
            return Ok(());
        }
        self.spill()?;
        let mut readers = Vec::new();
        for path in &self.runs {
            let file = File::open(path).map_err(DataError::io("open", path))?;
            readers.push((BufReader::with_capacity(1 << 16, file), path.as_path()));
        }
        let mut heads = BinaryHeap::new();
        for (number, (reader, path)) in readers.iter_mut().enumerate() {
            heads.extend(next(reader, path)?.map(|(text, count)| Reverse((text, number, count))));
        }
        let mut current: Option<(Vec<u8>, u64)> = None;
        while let Some(Reverse((text, number, count))) = heads.pop() {
            let (reader, path) = &mut readers[number];
            heads.extend(next(reader, path)?.map(|(text, count)| Reverse((text, number, count))));
            match &mut current {
                Some((same, sum)) if *same == text => *sum += count,
                _ => {
                    if let Some((done, sum)) = current.replace((text, count)) {
                        visit(&done, sum)?;
                    }
                }
            }
        }
        if let Some((done, sum)) = current {
            visit(&done, sum)?;
        }
        for path in &self.runs {
            std::fs::remove_file(path).map_err(DataError::io("remove", path))?;
        }
        Ok(())
    }
}

fn next(reader: &mut BufReader<File>, path: &Path) -> Result<Option<(Vec<u8>, u64)>, DataError> {
    let mut head = [0; 12];
    match reader.read_exact(&mut head) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(DataError::io("read", path)(e)),
    }
    let (length, count) = head.split_at(4);
    let mut text = vec![0; u32::from_le_bytes(length.try_into().unwrap_or_default()) as usize];
    reader.read_exact(&mut text).map_err(DataError::io("read", path))?;
    Ok(Some((text, u64::from_le_bytes(count.try_into().unwrap_or_default()))))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use palmette_random::{Draw, stream};

    use super::*;

    #[test]
    fn sums_and_sorts_with_and_without_spilling() {
        let dir = tempfile::tempdir().unwrap();
        for memory in [1 << 30, 1 << 14] {
            let mut random = stream(5, "test/counts", memory);
            let mut counts = SortedCounts::new(dir.path().join("counts"), memory);
            let mut expect: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
            for _ in 0..20_000 {
                let text = format!("{}", random.below(3_000)).into_bytes();
                let count = random.below(4);
                counts.add(&text, count).unwrap();
                *expect.entry(text).or_default() += count;
            }
            assert_eq!(counts.runs.is_empty(), memory == 1 << 30);
            let mut got = Vec::new();
            counts
                .finish(|text, count| {
                    got.push((text.to_vec(), count));
                    Ok(())
                })
                .unwrap();
            assert_eq!(got, expect.into_iter().collect::<Vec<_>>());
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
