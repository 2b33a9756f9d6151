//! Which path a supernet step trains (NASRec, section 3 of the released trainer).

use palmette_random::{ChaCha8Rng, Draw, stream};
use palmette_space::sample_subset;

use super::{Block, NasRecSpace, Path, Set};

/// How a supernet step draws its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathStrategy {
    /// One source a side, one left, one right, one operator a side.
    SinglePath,
    /// Random subsets of sources, and random subsets of operators whose outputs are summed.
    AnyPath,
    /// Random subsets of sources, one operator a side: the paper's proposal.
    SingleOperatorAnyConnection,
    /// Everything on at maximal widths.
    FullPath,
}

/// The path of step `step`.
///
/// For the first `warmup` steps (T) a full path is drawn with probability
/// 1 - step/T: once for all connections (macro), and independently for the
/// operators, widths and merges of every block (micro), so mixtures occur.
/// Counts of sources follow 1 + Binomial(min(m, max) - 1, 1/2) over m candidates, sources are
/// drawn without replacement, left and right independently; counts of operators
/// under any-path follow 1 + Binomial(n - 1, 1/2); widths and merges are uniform.
/// A pure function of its arguments.
pub fn supernet_path(
    space: &NasRecSpace,
    strategy: PathStrategy,
    step: u64,
    warmup: u64,
    seed: u64,
) -> Path {
    let mut rng = stream(seed, "supernet/path", step);
    let full_probability = if strategy == PathStrategy::FullPath {
        1.0
    } else if step < warmup {
        1.0 - step as f64 / warmup as f64
    } else {
        0.0
    };
    let full_macro = rng.chance(full_probability);
    let blocks = (1..=space.config().blocks).map(|candidates| {
        let mut block = if full_macro {
            full_connections(candidates)
        } else {
            random_connections(space, strategy, candidates, &mut rng)
        };
        if rng.chance(full_probability) {
            full_operators(space, &mut block);
        } else {
            random_operators(space, strategy, &mut block, &mut rng);
        }
        block
    });
    Path { blocks: blocks.collect() }
}

fn full_connections(candidates: usize) -> Block {
    let all = Set::first(candidates);
    Block { dense_sources: all, sparse_sources: all, left: all, right: all, ..Block::default() }
}

fn random_connections(
    space: &NasRecSpace,
    strategy: PathStrategy,
    candidates: usize,
    rng: &mut ChaCha8Rng,
) -> Block {
    let most = match strategy {
        PathStrategy::SinglePath => 1,
        _ => candidates.min(space.config().max_sources),
    };
    let mut sources = || {
        let count = one_plus_binomial(rng, most);
        Set(sample_subset(rng, candidates, count))
    };
    let (dense_sources, sparse_sources) = (sources(), sources());
    Block {
        dense_sources,
        sparse_sources,
        left: Set::only(rng.below(candidates as u64) as usize),
        right: Set::only(rng.below(candidates as u64) as usize),
        ..Block::default()
    }
}

fn full_operators(space: &NasRecSpace, block: &mut Block) {
    let config = space.config();
    block.dense_ops = config.operators.dense().iter().map(|&op| op as usize).collect();
    block.sparse_ops = config.operators.sparse().iter().map(|&op| op as usize).collect();
    block.dense_width = *config.dense_widths.last().unwrap_or(&0);
    block.sparse_width = *config.sparse_widths.last().unwrap_or(&0);
    block.dense_to_sparse = true;
    block.sparse_to_dense = true;
}

fn random_operators(
    space: &NasRecSpace,
    strategy: PathStrategy,
    block: &mut Block,
    rng: &mut ChaCha8Rng,
) {
    let config = space.config();
    let mut subset = |n: usize| {
        let count = match strategy {
            PathStrategy::AnyPath => one_plus_binomial(rng, n),
            _ => 1,
        };
        Set(sample_subset(rng, n, count))
    };
    let (dense, sparse) = (config.operators.dense(), config.operators.sparse());
    block.dense_ops = subset(dense.len()).iter().map(|i| dense[i] as usize).collect();
    block.sparse_ops = subset(sparse.len()).iter().map(|i| sparse[i] as usize).collect();
    block.dense_width = pick(&config.dense_widths, rng);
    block.sparse_width = pick(&config.sparse_widths, rng);
    block.dense_to_sparse = rng.chance(0.5);
    block.sparse_to_dense = rng.chance(0.5);
}

/// 1 + Binomial(most - 1, 1/2).
fn one_plus_binomial(rng: &mut ChaCha8Rng, most: usize) -> usize {
    1 + (1..most).filter(|_| rng.chance(0.5)).count()
}

fn pick(widths: &[u16], rng: &mut ChaCha8Rng) -> u16 {
    widths[rng.below(widths.len() as u64) as usize]
}
