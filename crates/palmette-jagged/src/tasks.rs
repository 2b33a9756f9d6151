//! Work queues over rayon's threads and disjoint writes into one buffer.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs `work(scratch, i)` for every `i < count`, in order of `i` as threads come
/// free: unlike a parallel iterator, which gives each thread a contiguous half, the
/// first tasks (the longest rows) are the first to start.
pub(crate) fn for_each_task<C>(
    count: usize,
    scratch: impl Fn() -> C + Sync,
    work: impl Fn(&mut C, usize) + Sync,
) {
    let workers = rayon::current_num_threads().min(count);
    let next = AtomicUsize::new(0);
    let run = || {
        let mut scratch = scratch();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                break;
            }
            work(&mut scratch, i);
        }
    };
    if workers <= 1 {
        run();
    } else {
        rayon::scope(|scope| (0..workers).for_each(|_| scope.spawn(|_| run())));
    }
}

/// A buffer that tasks write at disjoint places, such as the rows of one head.
pub(crate) struct Scattered<'a, T> {
    start: *mut T,
    length: usize,
    buffer: PhantomData<&'a mut [T]>,
}

// SAFETY: `Scattered` only hands out slices through `slice`, whose contract keeps
// them disjoint, so sharing it between threads is sharing disjoint parts of a
// mutable slice.
unsafe impl<T: Send> Sync for Scattered<'_, T> {}

impl<'a, T> Scattered<'a, T> {
    pub(crate) fn new(buffer: &'a mut [T]) -> Self {
        Self { start: buffer.as_mut_ptr(), length: buffer.len(), buffer: PhantomData }
    }

    /// The elements `at..at + length`.
    ///
    /// # Safety
    /// No two slices alive at the same time may overlap.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, at: usize, length: usize) -> &mut [T] {
        assert!(at <= self.length && length <= self.length - at, "a slice outside its buffer");
        // SAFETY: inside the buffer by the assertion, disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for count in [0, 1, 2, 1000] {
            let mut seen = vec![0u8; count];
            let shared = Scattered::new(&mut seen);
            // SAFETY: each task writes its own element.
            for_each_task(count, || (), |(), i| unsafe { shared.slice(i, 1)[0] += 1 });
            assert!(seen.iter().all(|&n| n == 1));
        }
    }
}
