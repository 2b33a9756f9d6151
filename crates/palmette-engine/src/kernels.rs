//! The kernels of both number types, compiled once in this crate.
//!
//! A generic executor would be compiled again by every crate, test and example
//! that names it, a minute each; here it calls functions without parameters.

use pulp::Arch;

use crate::executor::{RunChunk, RunTile, SumRows, UpdateRows, UpdateTile};
use crate::matmul::{LayOut, Precision, Product, Strided};

/// What the executor asks of a number type; [`Real`](crate::Real)'s other sealed part.
pub trait Kernels: Sized {
    /// Forward, loss and backward of one chunk.
    fn run_chunk(arch: Arch, run: RunChunk<'_, '_, Self>);
    /// One tile of a weight gradient and its sum of squares.
    fn run_tile(arch: Arch, run: RunTile<'_, '_, Self>) -> f64;
    /// The update of one tile.
    fn update_tile(arch: Arch, run: UpdateTile<'_, Self>);
    /// The gradients of one table and their sum of squares.
    fn sum_rows(arch: Arch, run: SumRows<'_, Self>) -> f64;
    /// The panels of one matrix.
    fn lay_out(arch: Arch, run: LayOut<Self>);
    /// The update of one table.
    fn update_rows(arch: Arch, run: UpdateRows<'_, Self>);
    /// What products of this type can do of `wanted`.
    fn precision(wanted: Precision) -> Precision;
    /// A product with factors rounded to bf16.
    ///
    /// # Safety
    /// As for [`matmul`](crate::matmul::matmul), and [`Kernels::precision`] must allow it.
    unsafe fn bf16_product(product: Product<'_, Self>);
    /// Rounds `shape[0]` terms of `shape[1]` columns, at most a panel's, to bf16 in pairs.
    ///
    /// # Safety
    /// Matrix and panel must lie in live allocations, and [`Kernels::precision`] must allow bf16.
    unsafe fn bf16_panel(source: Strided<*const Self>, shape: [usize; 2], target: *mut Self);
}

macro_rules! dispatched {
    () => {
        #[inline(never)]
        fn run_chunk(arch: Arch, run: RunChunk<'_, '_, Self>) {
            arch.dispatch(run);
        }
        #[inline(never)]
        fn run_tile(arch: Arch, run: RunTile<'_, '_, Self>) -> f64 {
            arch.dispatch(run)
        }
        #[inline(never)]
        fn update_tile(arch: Arch, run: UpdateTile<'_, Self>) {
            arch.dispatch(run);
        }
        #[inline(never)]
        fn sum_rows(arch: Arch, run: SumRows<'_, Self>) -> f64 {
            arch.dispatch(run)
        }
        #[inline(never)]
        fn lay_out(arch: Arch, run: LayOut<Self>) {
            arch.dispatch(run);
        }
        #[inline(never)]
        fn update_rows(arch: Arch, run: UpdateRows<'_, Self>) {
            arch.dispatch(run);
        }
    };
}

impl Kernels for f32 {
    dispatched!();

    fn precision(wanted: Precision) -> Precision {
        if Precision::bf16_is_available() { wanted } else { Precision::F32 }
    }

    unsafe fn bf16_product(product: Product<'_, Self>) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: passed on to the caller.
        unsafe {
            crate::matmul::bf16::product(product);
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("no bf16 products of {:?} here", product.shape)
    }

    unsafe fn bf16_panel(source: Strided<*const Self>, shape: [usize; 2], target: *mut Self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: passed on to the caller.
        unsafe {
            crate::matmul::bf16::lay_out_panel(source, shape, target.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("no bf16 products of {shape:?} here")
    }
}

impl Kernels for f64 {
    dispatched!();

    fn precision(_: Precision) -> Precision {
        Precision::F32
    }

    unsafe fn bf16_product(product: Product<'_, Self>) {
        unreachable!("no bf16 products of f64: {:?}", product.shape)
    }

    unsafe fn bf16_panel(_: Strided<*const Self>, shape: [usize; 2], _: *mut Self) {
        unreachable!("no bf16 products of f64: {shape:?}")
    }
}
