//! Dot products of all pairs of vectors of a single row: sixteen pairs at once.

use pulp::{NullaryFnOnce, Simd};

use crate::Real;
use crate::ops::gram::{TILE, pair};
use crate::ops::panel::{Panel, Rows};
use crate::simd::BLOCK;

/// [`Gram`](super::Gram) for one row.
pub(super) struct RowGram<T, S> {
    pub simd: S,
    /// Vectors and channels.
    pub shape: [usize; 2],
    /// The vectors, one behind the other, with the rest of `Gram::scratch_len` elements.
    pub vectors: *mut T,
    /// The pairs.
    pub out: *mut T,
}

impl<T: Real, S: Simd> NullaryFnOnce for RowGram<T, S> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, shape: [vectors, dim], vectors: first, out } = self;
        let width = T::width::<S>();
        // The vectors again with the channels first, behind whole tiles of them.
        let data = first.wrapping_add(vectors.next_multiple_of(TILE) * dim);
        let panel = Panel { data, fields: vectors.div_ceil(BLOCK) };
        for (rows, block) in Rows::of_one_row((first, dim), vectors, dim) {
            rows.load(simd, panel, block);
        }
        for i in (0..vectors).step_by(TILE) {
            let last = vectors.min(i + TILE) - 1;
            for j in (0..last).step_by(width) {
                let mut acc = [T::splat(simd, T::ZERO); TILE];
                for c in 0..dim {
                    let right = panel.get(simd, c, j / BLOCK, j % BLOCK);
                    for a in 0..TILE {
                        // SAFETY: whole tiles of vectors lie in the scratch.
                        let left = T::splat(simd, unsafe { *first.add((i + a) * dim + c) });
                        acc[a] = T::fma(simd, left, right, acc[a]);
                    }
                }
                for a in 0..TILE {
                    let own = i + a;
                    if own <= last && j < own {
                        // SAFETY: pairs of the vector `own` with those from `j` on and before it.
                        unsafe {
                            let place = out.add(pair(own, j));
                            match own - j {
                                some if some < width => T::store_first(simd, place, some, acc[a]),
                                _ => T::store(simd, place, acc[a]),
                            }
                        }
                    }
                }
            }
        }
    }
}
