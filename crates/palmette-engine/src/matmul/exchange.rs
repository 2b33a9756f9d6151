//! The last few columns of a weight gradient, with rows and columns exchanged.
//!
//! Where both factors lie in panels, a tile of one register of columns reads a line of either for
//! eight multiply-adds, and waits for them. Exchanged, the few columns are the rows of tiles of full
//! width, which read three lines of one factor and one of the other for 24.

use std::mem::MaybeUninit;

use pulp::Simd;

use super::{COLUMNS, Product, Wide};
use crate::Real;
use crate::simd::BLOCK;

/// Rows of C that are computed at a time.
const ROWS: usize = 128;

/// How many of the last columns are better computed as rows.
#[inline(always)]
pub(super) fn columns<T>(p: &Product<'_, T>) -> usize {
    let [m, n, _] = p.shape;
    let last = n % COLUMNS;
    let is_gradient = !p.accumulate && p.finish.is_none() && p.passage.is_none();
    let suits = match &p.panels {
        [Some(_), Some(b)] => b.column == 0 && is_gradient && m >= COLUMNS && last <= BLOCK,
        _ => false,
    };
    if suits { last } else { 0 }
}

/// Computes the last `narrow` columns of `p`, for which [`columns`] asked. Every sum has the terms
/// in the same order, hence the same bits.
///
/// # Safety
/// As for [`matmul`](super::matmul).
#[inline(always)]
pub(super) unsafe fn last_columns<T: Real, S: Simd>(simd: S, p: Product<'_, T>, narrow: usize) {
    let [m, n, k] = p.shape;
    let (c, stride) = p.c;
    let mut exchanged = [const { MaybeUninit::<T>::uninit() }; BLOCK * ROWS];
    let exchanged = exchanged.as_mut_ptr().cast::<T>();
    let column = n - narrow;
    for first in (0..m).step_by(ROWS) {
        let rows = ROWS.min(m - first);
        let [rows_of, columns_of] = p.panels;
        let product = Product {
            shape: [narrow, rows, k],
            c: (exchanged, ROWS),
            panels: [
                columns_of.map(|panels| panels.from(column)),
                rows_of.map(|panels| panels.from(first)),
            ],
            ..Product::empty()
        };
        simd.vectorize(Wide { simd, product });
        for r in 0..rows {
            for j in 0..narrow {
                // SAFETY: an element that the product wrote, and one of C.
                unsafe {
                    *c.add((first + r) * stride + column + j) = *exchanged.add(j * ROWS + r);
                }
            }
        }
    }
}
