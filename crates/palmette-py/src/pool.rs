//! Threads that survive a fork.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// The process that began to compute: its children have its thread pool's memory, not its threads.
static FIRST: OnceLock<u32> = OnceLock::new();
/// The pool of a forked process.
static FORKED: Mutex<Option<(u32, Arc<ThreadPool>)>> = Mutex::new(None);

/// Runs `work` on the threads of this process, which are new ones in a forked child (a worker of
/// PyTorch's `DataLoader`, for example): work for threads of the parent would wait for ever.
///
/// # Errors
/// The system gives a forked child no threads.
pub fn run<R: Send>(work: impl FnOnce() -> R + Send) -> Result<R, ThreadPoolBuildError> {
    let process = std::process::id();
    if *FIRST.get_or_init(|| process) == process {
        return Ok(work());
    }
    let pool = {
        let mut forked = FORKED.lock().unwrap_or_else(PoisonError::into_inner);
        match &*forked {
            Some((owner, pool)) if *owner == process => pool.clone(),
            _ => {
                let threads = rayon::current_num_threads();
                let pool = Arc::new(ThreadPoolBuilder::new().num_threads(threads).build()?);
                // An ancestor's pool has no threads here that could be waited for.
                std::mem::forget(forked.replace((process, pool.clone())));
                pool
            }
        }
    };
    Ok(pool.install(work))
}
