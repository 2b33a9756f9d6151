//! Which candidates are worth scoring together.

use palmette_engine::Program;

use super::PREDICT_ROWS;
use crate::nasrec::{Network, Path};

/// A candidate joins a group that has computed this part of its multiply-accumulates already, at
/// least a twentieth: what it adds to the arenas is paid for with less.
const WORTH: u64 = 20;

/// Bytes that the arenas of a group may take, unless one candidate alone takes more.
const GROUP_BYTES: u64 = 512 << 20;

/// Groups of at most `most` candidates that share what they compute alike while they are scored,
/// as indices into `paths`, each ascending; the group of the first candidate comes first, and so
/// on. A candidate that has little in common with others stays alone.
///
/// Paths are ordered by their blocks, as in a trie: those with the longest common prefix are
/// neighbours. `batch_rows` are those of a step on the heads.
pub fn groups(
    network: &Network,
    paths: &[&Path],
    batch_rows: usize,
    most: usize,
) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..paths.len()).collect();
    order.sort_by_key(|&i| (paths[i], i));
    let mut program = Program::new();
    let threads = rayon::current_num_threads();
    let mut macs_of = |members: &[usize]| {
        network.build_group(members.iter().map(|&i| paths[i]), &mut program);
        (program.macs(), group_bytes(&program, batch_rows, PREDICT_ROWS, threads))
    };
    let mut found: Vec<(u64, Vec<usize>)> = Vec::new();
    for index in order {
        let (alone, _) = macs_of(&[index]);
        if let Some((macs, group)) = found.last_mut().filter(|(_, group)| group.len() < most) {
            group.push(index);
            let (together, bytes) = macs_of(group);
            let saved = (*macs + alone).saturating_sub(together);
            if saved >= alone.div_ceil(WORTH) && bytes <= GROUP_BYTES {
                *macs = together;
                continue;
            }
            group.pop();
        }
        found.push((alone, vec![index]));
    }
    let mut groups: Vec<Vec<usize>> = found.into_iter().map(|(_, group)| group).collect();
    groups.iter_mut().for_each(|group| group.sort_unstable());
    groups.sort_unstable();
    groups
}

/// Bytes of the arenas of a group while its heads are tuned on batches of `batch_rows` rows, and
/// while its logits are computed, `scored_rows` at a time, on `threads` threads.
pub fn group_bytes(
    program: &Program,
    batch_rows: usize,
    scored_rows: usize,
    threads: usize,
) -> u64 {
    let bytes = |rows| program.footprint(rows, threads).of_prediction();
    bytes(batch_rows).max(bytes(scored_rows))
}
