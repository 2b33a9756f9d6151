//! Which part each staged row belongs to.

use std::path::Path;

use palmette_random::{Draw, stream};

use crate::error::DataError;
use crate::manifest::SplitCounts;
use crate::parse::ROUTE_DROP;
use crate::schema::{ExtraKind, Schema, SplitRule, granularity};
use crate::shard::Column;
use crate::staging::{AtomicFile, Chunk};
use crate::time::to_iso;

/// The part of every staged row, one byte a row, in a file beside the chunks.
#[derive(Debug)]
pub(crate) struct Assignment {
    path: std::path::PathBuf,
    /// Where each chunk's rows start in the file.
    starts: Vec<u64>,
    pub rows: SplitCounts,
    pub positives: SplitCounts,
}

/// Deals the rows of one label to the parts: among every `group` consecutive ones, each part gets
/// its exact share, in an order drawn for the group. So a part has the log's click rate to within
/// one row, is spread over the whole file, and is known in one pass without counting first.
struct Dealer {
    seed: u64,
    purpose: String,
    group: u32,
    shares: [u32; 3],
    dealt: u64,
    hand: Vec<u8>,
}

impl Dealer {
    fn new(seed: u64, purpose: String, (group, shares): (u32, [u32; 3])) -> Self {
        Self { seed, purpose, group, shares, dealt: 0, hand: Vec::new() }
    }

    fn next(&mut self) -> u8 {
        let place = (self.dealt % u64::from(self.group)) as usize;
        if place == 0 {
            self.hand.clear();
            for (part, &share) in self.shares.iter().enumerate() {
                self.hand.extend(std::iter::repeat_n(part as u8, share as usize));
            }
            let mut random = stream(self.seed, &self.purpose, self.dealt / u64::from(self.group));
            random.shuffle(&mut self.hand);
        }
        self.dealt += 1;
        self.hand[place]
    }
}

/// How parts are decided, with the thresholds that need a look at all rows.
enum Router {
    Stratified([Dealer; 2]),
    /// First time of validation and of test.
    Time(i64, i64),
    /// A dealer of each label for each of the eight sets of parts.
    Routes(Vec<[Dealer; 2]>),
    Groups {
        seed: u64,
        bounds: [f64; 2],
        extra: usize,
    },
}

impl Assignment {
    /// Decides the part of every row.
    pub fn make(dir: &Path, schema: &Schema, chunks: &[Chunk]) -> Result<Assignment, DataError> {
        let extras = schema.extras();
        let time =
            extras.iter().position(|extra| extra.kind == ExtraKind::Time).unwrap_or_default();
        let mut router = router(schema, chunks, time)?;
        let path = dir.join("assignment");
        let mut file = AtomicFile::create(&path)?;
        let (mut rows, mut positives) = ([0u64; 3], [0u64; 3]);
        let mut starts = Vec::new();
        let (mut labels, mut cells, mut parts) = (Vec::new(), Vec::new(), Vec::new());
        for chunk in chunks {
            starts.push(file.position());
            chunk.read::<1>(Column::Label, &mut labels)?;
            parts.clear();
            match &mut router {
                Router::Stratified(dealers) => {
                    parts
                        .extend(labels.iter().map(|&label| dealers[usize::from(label & 1)].next()));
                }
                Router::Time(validation_from, test_from) => {
                    chunk.read::<8>(Column::Extra(time), &mut cells)?;
                    let times =
                        cells.as_chunks::<8>().0.iter().map(|cell| i64::from_le_bytes(*cell));
                    parts.extend(
                        times.map(|t| u8::from(t >= *validation_from) + u8::from(t >= *test_from)),
                    );
                }
                Router::Routes(dealers) => {
                    chunk.routes(&mut cells)?;
                    let rows = cells.iter().zip(&labels);
                    parts.extend(rows.map(|(&route, &label)| {
                        debug_assert!(route != ROUTE_DROP);
                        match route {
                            1 | 2 | 4 => route.trailing_zeros() as u8,
                            shared => {
                                dealers[usize::from(shared & 7)][usize::from(label & 1)].next()
                            }
                        }
                    }));
                }
                Router::Groups { seed, bounds, extra } => {
                    chunk.read::<8>(Column::Extra(*extra), &mut cells)?;
                    let keys =
                        cells.as_chunks::<8>().0.iter().map(|cell| u64::from_le_bytes(*cell));
                    parts.extend(keys.map(|key| {
                        let unit = stream(*seed, "data/split/group", key).unit();
                        u8::from(unit >= bounds[0]) + u8::from(unit >= bounds[1])
                    }));
                }
            }
            for (&part, &label) in parts.iter().zip(&labels) {
                rows[usize::from(part)] += 1;
                positives[usize::from(part)] += u64::from(label);
            }
            file.write(&parts)?;
        }
        file.finish()?;
        if rows.iter().any(|&rows| rows > u64::from(u32::MAX)) {
            return Err(DataError::Options(
                "a part has more than 4294967295 rows; prepare the log in pieces".into(),
            ));
        }
        let rows = SplitCounts::from_array(rows);
        let positives = SplitCounts::from_array(positives);
        Ok(Assignment { path, starts, rows, positives })
    }

    /// Reads the parts of the rows of one chunk.
    pub fn read(&self, number: usize, chunk: &Chunk, parts: &mut Vec<u8>) -> Result<(), DataError> {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::open(&self.path).map_err(DataError::io("open", &self.path))?;
        parts.resize(chunk.info.rows as usize, 0);
        file.read_exact_at(parts, self.starts[number]).map_err(DataError::io("read", &self.path))
    }
}

fn router(schema: &Schema, chunks: &[Chunk], time: usize) -> Result<Router, DataError> {
    let stratified = |seed, purpose: &str, shares| {
        [0, 1].map(|label| Dealer::new(seed, format!("data/split/{purpose}/{label}"), shares))
    };
    Ok(match &schema.split {
        SplitRule::Random { fractions, seed } => {
            let shares = granularity(*fractions).ok_or_else(|| {
                DataError::Options("split: fractions need at most three decimals".into())
            })?;
            Router::Stratified(stratified(*seed, "random", shares))
        }
        SplitRule::TimeBoundaries { validation_from, test_from } => {
            Router::Time(*validation_from, *test_from)
        }
        SplitRule::TimeFractions { fractions } => {
            let total: u64 = chunks.iter().map(|chunk| chunk.info.rows).sum();
            let validation_from = time_at_rank(chunks, time, rank(total, fractions[0]), total)?;
            let test_from =
                time_at_rank(chunks, time, rank(total, fractions[0] + fractions[1]), total)?;
            if validation_from == Some(time_at_rank(chunks, time, 0, total)?.unwrap_or_default()) {
                return Err(DataError::EmptySplit {
                    split: "train",
                    problem: format!(
                        "so many rows have the earliest time ({}) that no earlier rows are left to train on; \
                         split at random, or give validation_from and test_from",
                        to_iso(validation_from.unwrap_or_default())
                    ),
                });
            }
            Router::Time(validation_from.unwrap_or(i64::MAX), test_from.unwrap_or(i64::MAX))
        }
        SplitRule::Column { seed, .. } => Router::Routes(
            (0..8u32)
                .map(|set| {
                    let shares = [set & 1, set >> 1 & 1, set >> 2 & 1];
                    let group = set.count_ones().max(1);
                    stratified(*seed, &format!("column/{set}"), (group, shares))
                })
                .collect(),
        ),
        SplitRule::Group { column, fractions, seed } => {
            let extras = schema.extras();
            let extra = extras.iter().position(|e| e.kind == ExtraKind::Key && e.name == *column);
            Router::Groups {
                seed: *seed,
                bounds: [fractions[0], fractions[0] + fractions[1]],
                extra: extra.unwrap_or_default(),
            }
        }
    })
}

fn rank(total: u64, fraction: f64) -> u64 {
    // 0.8 + 0.1 is a little below 0.9: round what is meant to be whole
    ((total as f64 * fraction - 1e-6).ceil()).max(0.0) as u64
}

/// The time of the row at `rank` in order of time, or `None` behind the last row.
///
/// Four passes over the column fix 16 bits of the answer each, so no times are held in memory.
fn time_at_rank(
    chunks: &[Chunk],
    time: usize,
    rank: u64,
    total: u64,
) -> Result<Option<i64>, DataError> {
    if rank >= total {
        return Ok(None);
    }
    let (mut prefix, mut rank) = (0u64, rank);
    let mut cells = Vec::new();
    for shift in [48u32, 32, 16, 0] {
        let mut counts = vec![0u64; 1 << 16];
        for chunk in chunks {
            chunk.read::<8>(Column::Extra(time), &mut cells)?;
            for cell in cells.as_chunks::<8>().0 {
                // flipping the sign bit makes the order of the bits that of the numbers
                let key = u64::from_le_bytes(*cell) ^ 1 << 63;
                if shift == 48 || key >> (shift + 16) == prefix {
                    counts[(key >> shift) as usize & 0xffff] += 1;
                }
            }
        }
        let mut digit = 0;
        while counts[digit] <= rank {
            rank -= counts[digit];
            digit += 1;
        }
        prefix = prefix << 16 | digit as u64;
    }
    Ok(Some((prefix ^ 1 << 63) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dealers_give_exact_shares() {
        let mut dealer = Dealer::new(1, "test".into(), (10, [8, 1, 1]));
        for _ in 0..50 {
            let mut counts = [0; 3];
            for _ in 0..10 {
                counts[usize::from(dealer.next())] += 1;
            }
            assert_eq!(counts, [8, 1, 1]);
        }
    }

    #[test]
    fn every_place_is_dealt_fairly() {
        let mut dealer = Dealer::new(1, "test".into(), (10, [8, 1, 1]));
        let mut tests = [0; 10];
        for i in 0..100_000 {
            tests[i % 10] += usize::from(dealer.next() == 2);
        }
        // a place gets the one test row of its group with probability 0.1: sd 30, six of them
        assert!(tests.iter().all(|&n| (820..1180).contains(&n)), "{tests:?}");
    }
}
