//! The inner loops of attention: registers of queries against all keys.

use pulp::Simd;

use crate::Real;
use crate::ops::panel::Panel;
use crate::simd::BLOCK;

/// Scores below this (in powers of two) need no shift: 2^32 and its reciprocal leave f32 room
/// for any sum over fields and any gradient.
pub(super) const UNSHIFTED: f64 = 32.0;

/// Keys or values of one head, as they meet a register of queries.
pub(super) trait Keys<T: Real>: Copy {
    /// How many there are.
    fn count(self) -> usize;
    /// Channel `c` of key `j` for the queries from `lane`.
    fn key<S: Simd>(self, simd: S, c: usize, j: usize, lane: usize) -> T::Register<S>;
}

/// A lane is a row, with keys of its own.
impl<T: Real> Keys<T> for Panel<T> {
    #[inline(always)]
    fn count(self) -> usize {
        self.fields
    }

    #[inline(always)]
    fn key<S: Simd>(self, simd: S, c: usize, j: usize, lane: usize) -> T::Register<S> {
        self.get(simd, c, j, lane)
    }
}

/// A bound of all scores of one head: `sum_c max_i |q_ic| max_j |k_jc|` over all sixteen lanes.
#[inline(always)]
pub(super) fn largest_score<T: Real, const D: usize>(
    q: Panel<T>,
    largest_key: impl Fn(usize) -> f64,
) -> f64 {
    let mut bound = 0.0;
    for c in 0..D {
        bound += q.largest(c) * largest_key(c);
    }
    bound
}

/// All queries of `q` against all keys, into `o` and `stats`.
///
/// # Safety
/// Keys and panels must have `D` channels (two in `stats`), the panels the same fields, and they
/// must hold no other thread's data.
#[inline(always)]
pub(super) unsafe fn attend_all<T: Real, S: Simd, K: Keys<T>, const D: usize>(
    simd: S,
    [q, o]: [Panel<T>; 2],
    [k, v]: [K; 2],
    stats: Panel<T>,
    bounded: bool,
) {
    for lane in (0..BLOCK).step_by(T::width::<S>()) {
        let mut i = 0;
        // SAFETY: passed on to the caller.
        unsafe {
            while i + 2 <= q.fields {
                attend::<T, S, K, D, 2>(simd, [q, o], [k, v], stats, [i, lane], bounded);
                i += 2;
            }
            if i < q.fields {
                attend::<T, S, K, D, 1>(simd, [q, o], [k, v], stats, [i, lane], bounded);
            }
        }
    }
}

/// `B` fields of queries from `i` against all keys, for a register of lanes from `lane`.
///
/// # Safety
/// As for [`attend_all`].
#[inline(always)]
unsafe fn attend<T: Real, S: Simd, K: Keys<T>, const D: usize, const B: usize>(
    simd: S,
    [q, o]: [Panel<T>; 2],
    [k, v]: [K; 2],
    stats: Panel<T>,
    [i, lane]: [usize; 2],
    bounded: bool,
) {
    let zero = T::splat(simd, T::ZERO);
    let mut queries = [[zero; B]; D];
    for c in 0..D {
        for b in 0..B {
            queries[c][b] = q.get(simd, c, i + b, lane);
        }
    }
    let mut shifts = [zero; B];
    if !bounded {
        let mut largest = [T::splat(simd, T::from_f64(f64::NEG_INFINITY)); B];
        for j in 0..k.count() {
            for b in 0..B {
                let mut s = zero;
                for c in 0..D {
                    s = T::fma(simd, queries[c][b], k.key(simd, c, j, lane), s);
                }
                largest[b] = T::larger(simd, largest[b], s);
            }
        }
        for b in 0..B {
            shifts[b] = T::minus(simd, zero, largest[b]);
        }
    }
    let mut sums = [zero; B];
    let mut weighted = [[zero; B]; D];
    for j in 0..k.count() {
        let mut e = shifts;
        for c in 0..D {
            let key = k.key(simd, c, j, lane);
            for b in 0..B {
                e[b] = T::fma(simd, queries[c][b], key, e[b]);
            }
        }
        for b in 0..B {
            e[b] = T::exp2(simd, e[b]);
            sums[b] = T::plus(simd, sums[b], e[b]);
        }
        for c in 0..D {
            let value = v.key(simd, c, j, lane);
            for b in 0..B {
                weighted[c][b] = T::fma(simd, e[b], value, weighted[c][b]);
            }
        }
    }
    for b in 0..B {
        let inverse = T::over(simd, T::splat(simd, T::ONE), sums[b]);
        // SAFETY: as the caller promises.
        unsafe {
            T::store(simd, stats.at(0, i + b).add(lane), shifts[b]);
            T::store(simd, stats.at(1, i + b).add(lane), inverse);
            for c in 0..D {
                let mean = T::times(simd, weighted[c][b], inverse);
                T::store(simd, o.at(c, i + b).add(lane), mean);
            }
        }
    }
}
