//! The single matrix product of the engine.

use std::cell::Cell;

use crate::Real;

thread_local! {
    static COUNTED: Cell<u64> = const { Cell::new(0) };
}

/// Multiply-accumulates done by products on this thread so far.
///
/// Tests compare its increase with what a program says it costs.
pub fn counted_macs() -> u64 {
    COUNTED.get()
}

/// Adds to this thread's count; for kernels that multiply outside [`matmul`].
#[inline(always)]
pub(crate) fn count_macs(macs: usize) {
    COUNTED.set(COUNTED.get() + macs as u64);
}

/// A strided matrix: element `(i, j)` is at `pointer + i * row + j * col`.
#[derive(Clone, Copy)]
pub(crate) struct Strided<P> {
    pub pointer: P,
    pub row: usize,
    pub col: usize,
}

impl<T> Strided<*const T> {
    /// Row-major with `row` elements from one row to the next.
    #[inline(always)]
    pub fn row_major(pointer: *const T, row: usize) -> Self {
        Self { pointer, row, col: 1 }
    }

    /// The transpose.
    #[inline(always)]
    pub fn transposed(self) -> Self {
        Self { pointer: self.pointer, row: self.col, col: self.row }
    }
}

/// `C (+)= A B` with `A: m x k`, `B: k x n`; `accumulate` keeps what `C` holds.
///
/// Single-threaded: threads share a batch by chunks of rows and weight
/// gradients by tiles, because threaded products of these sizes collapse.
///
/// # Safety
/// The three matrices must lie in live allocations and `C` must overlap neither operand.
#[inline(always)]
pub(crate) unsafe fn matmul<T: Real>(
    m: usize,
    n: usize,
    k: usize,
    c: Strided<*mut T>,
    accumulate: bool,
    a: Strided<*const T>,
    b: Strided<*const T>,
) {
    count_macs(m * n * k);
    // SAFETY: passed on to the caller.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.pointer,
            c.col as isize,
            c.row as isize,
            accumulate,
            a.pointer,
            a.col as isize,
            a.row as isize,
            b.pointer,
            b.col as isize,
            b.row as isize,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
