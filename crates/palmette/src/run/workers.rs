//! Independent pieces of work, several at a time, handed over in order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use anyhow::{Context, Result};
use palmette_ctr::nasrec::EMBEDDING_DIM;
use palmette_ctr::train::Numbers;
use palmette_engine::CHUNK_ROWS;

/// Bytes that models held at the same time may take together.
const SIDE_BY_SIDE_BYTES: u64 = 1 << 30;

/// Trainings at a time of models of `bytes` each: a step of one chunk keeps a single thread busy,
/// so that as many networks are trained as there are threads and memory for; larger batches are
/// spread over the threads themselves.
pub fn trainings_at_a_time(batch_rows: usize, bytes: u64) -> usize {
    trainings_of(rayon::current_num_threads(), batch_rows, bytes)
}

/// The same of a machine with so many threads.
pub fn trainings_of(threads: usize, batch_rows: usize, bytes: u64) -> usize {
    if batch_rows > CHUNK_ROWS {
        return 1;
    }
    let room = (SIDE_BY_SIDE_BYTES / bytes.max(1)).max(1);
    threads.min(usize::try_from(room).unwrap_or(usize::MAX))
}

/// Bytes of embedding tables with Adagrad's state, which are nearly all of a model.
pub fn table_bytes(table_rows: &[u32], numbers: Numbers) -> u64 {
    let row = numbers.memory().row_bytes(EMBEDDING_DIM as u64);
    table_rows.iter().map(|&rows| u64::from(rows) * row).sum()
}

/// Does `work` on every unit, at most `at_a_time` at once, and calls `done` with the outcomes in
/// the order of the units, so that a journal does not depend on which of them was faster.
///
/// # Errors
/// The first error in the order of the units; no unit is begun after one was found.
pub fn in_order<T: Sync, R: Send>(
    units: &[T],
    at_a_time: usize,
    work: impl Fn(&T) -> Result<R> + Sync,
    mut done: impl FnMut(usize, R) -> Result<()>,
) -> Result<()> {
    let workers = at_a_time.min(units.len());
    if workers <= 1 {
        return units.iter().enumerate().try_for_each(|(i, unit)| done(i, work(unit)?));
    }
    let next = AtomicUsize::new(0);
    let (sender, outcomes) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let sender = sender.clone();
            let (next, work) = (&next, &work);
            // One thread each: `workers` of them are the whole pool.
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(1)
                .build()
                .context("cannot start a worker thread")?;
            scope.spawn(move || {
                pool.install(|| {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        let Some(unit) = units.get(i) else { break };
                        let outcome = work(unit);
                        if outcome.is_err() {
                            next.store(units.len(), Ordering::Relaxed);
                        }
                        if sender.send((i, outcome)).is_err() {
                            break;
                        }
                    }
                });
            });
        }
        drop(sender);
        let mut waiting = BTreeMap::new();
        let mut expected = 0;
        let mut handed = Ok(());
        for (i, outcome) in outcomes {
            waiting.insert(i, outcome);
            while let Some(outcome) = waiting.remove(&expected) {
                if handed.is_ok() {
                    handed = outcome.and_then(|outcome| done(expected, outcome));
                    if handed.is_err() {
                        next.store(units.len(), Ordering::Relaxed);
                    }
                }
                expected += 1;
            }
        }
        // A unit that failed may stand behind one that was never begun.
        let left = waiting.into_values().find_map(Result::err);
        handed.and(left.map_or(Ok(()), Err))
    })
}

#[cfg(test)]
mod tests {
    use super::{in_order, trainings_at_a_time};

    #[test]
    fn large_batches_and_large_models_train_alone() {
        let threads = rayon::current_num_threads();
        assert_eq!(trainings_at_a_time(64, 1 << 20), threads.min(1024));
        assert_eq!(trainings_at_a_time(512, 1 << 20), 1);
        assert_eq!(trainings_at_a_time(64, 4 << 30), 1);
    }

    #[test]
    fn outcomes_come_in_order() {
        for at_a_time in [1, 2, 5] {
            let units: Vec<u64> = (0..40).collect();
            let mut found = Vec::new();
            let work = |&n: &u64| {
                std::thread::sleep(std::time::Duration::from_micros(n * 7919 % 400));
                Ok(n * n)
            };
            in_order(&units, at_a_time, work, |i, square| {
                found.push((i as u64, square));
                Ok(())
            })
            .unwrap();
            assert_eq!(found, (0..40).map(|n| (n, n * n)).collect::<Vec<_>>(), "{at_a_time}");
        }
    }

    #[test]
    fn an_error_ends_the_work_after_what_stands_before_it() {
        for at_a_time in [1, 3] {
            let units: Vec<u64> = (0..1000).collect();
            let mut found = 0;
            let work = |&n: &u64| if n == 5 { anyhow::bail!("five") } else { Ok(n) };
            let error = in_order(&units, at_a_time, work, |_, _| {
                found += 1;
                Ok(())
            });
            assert_eq!(error.unwrap_err().to_string(), "five");
            assert_eq!(found, 5, "{at_a_time}");
        }
    }
}
