//! Attention over the fields of a single row: sixteen of its queries at once.

use pulp::{NullaryFnOnce, Simd};

use crate::Real;
use crate::chunk::{slice, slice_mut};
use crate::lanes::update;
use crate::ops::attend::{Keys, UNSHIFTED, attend_all, largest_score};
use crate::ops::panel::{Panel, Rows};
use crate::simd::BLOCK;

/// [`AttentionCore`](super::AttentionCore) for one row.
pub(super) struct RowAttention<T, S, const D: usize> {
    pub simd: S,
    /// Fields and channels.
    pub shape: [usize; 2],
    /// Q, K, V and O: the first field, and elements from field to field.
    pub tensors: [(*mut T, usize); 4],
    /// Statistics of the first field, and elements from field to field and from one to the next.
    pub stats: (*mut T, [usize; 2]),
    /// `AttentionCore::scratch_len` elements.
    pub scratch: *mut T,
}

/// Keys of one row: the same for every query.
#[derive(Clone, Copy)]
struct SameKeys<T> {
    first: *const T,
    stride: usize,
    count: usize,
}

impl<T: Real> Keys<T> for SameKeys<T> {
    #[inline(always)]
    fn count(self) -> usize {
        self.count
    }

    #[inline(always)]
    fn key<S: Simd>(self, simd: S, c: usize, j: usize, _: usize) -> T::Register<S> {
        // SAFETY: the row has this field and channel.
        T::splat(simd, unsafe { *self.first.add(j * self.stride + c) })
    }
}

impl<T: Real, S: Simd, const D: usize> NullaryFnOnce for RowAttention<T, S, D> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, shape: [fields, dim], tensors, scratch, .. } = self;
        let (blocks, heads) = (fields.div_ceil(BLOCK), dim / D);
        let q = Panel { data: scratch, fields: blocks };
        let o = Panel { data: q.at(dim, 0), fields: blocks };
        let stats = Panel { data: o.at(dim, 0), fields: blocks };
        for (rows, block) in Rows::of_one_row(tensors[0], fields, dim) {
            rows.load(simd, q, block);
        }
        // Powers of two instead of e: the logarithm goes into the scale of the queries.
        let scale = T::from_f64(std::f64::consts::LOG2_E / (D as f64).sqrt());
        q.elements(dim).iter_mut().for_each(|q| *q *= scale);
        // SAFETY: the scratch has room for panels of as many blocks as there are fields.
        let largest = unsafe { slice_mut(stats.at(2 * heads, 0), dim) };
        largest.fill(T::ZERO);
        for j in 0..fields {
            // SAFETY: field `j` of the keys.
            let key = unsafe { slice(tensors[1].0.add(j * tensors[1].1), dim) };
            update(largest, key, |k, m| m.max(k.max(-k)));
        }
        for head in 0..heads {
            let first = head * D;
            let [q, o] = [q, o].map(|panel| Panel { data: panel.at(first, 0), ..panel });
            let [k, v] = [tensors[1], tensors[2]].map(|(start, stride)| SameKeys {
                first: start.wrapping_add(first).cast_const(),
                stride,
                count: fields,
            });
            let stats = Panel { data: stats.at(2 * head, 0), ..stats };
            let bound = largest_score::<T, D>(q, |c| largest[first + c].to_f64());
            // SAFETY: keys and panels have these channels and fields.
            unsafe { attend_all::<T, S, _, D>(simd, [q, o], [k, v], stats, bound < UNSHIFTED) };
        }
        for (rows, block) in Rows::of_one_row(tensors[3], fields, dim) {
            rows.store(simd, o, block, T::ONE, false);
        }
        let (kept, [field_stride, stride]) = self.stats;
        for f in 0..fields {
            for c in 0..2 * heads {
                // SAFETY: statistic `c` of field `f`.
                unsafe {
                    *kept.add(f * field_stride + c * stride) =
                        *stats.at(c, f / BLOCK).add(f % BLOCK)
                };
            }
        }
    }
}
