//! Sums of many terms that are contiguous in both factors: a field mix's weight gradient.
//!
//! Neighbouring terms are pairs already, so that a register of 32 terms of a row of A and one of a
//! column of B are sixteen products of pairs. Each sum of a tile of six rows by four columns has a
//! register of its own, which is summed across at the end of a pass.
//!
//! Both factors come as f32 from beyond the second-level cache, and a row of either serves few
//! products. So nothing waits for rounding: the copy of either factor exists twice, and tiles round
//! the rows that are needed next, a register at a time between their multiply-adds, and ask for
//! the row after it. Beside 24 multiply-adds four registers are rounded and stored for nothing, eight
//! cost twelve multiply-adds (Zen 4).

use std::arch::x86_64::*;

use super::{as_bf16, pairs_of};
use crate::matmul::Product;
use crate::simd::BLOCK;

/// Pairs of terms of a pass: a tile's ten rows are 20 KiB.
const PAIRS: usize = 512;
/// Elements from row to row of a copy, one line more than a power of two.
const ROW: usize = PAIRS + BLOCK;
/// Rows and columns of a tile: 24 sums, four registers of B and one of A.
const TILE: [usize; 2] = [6, 4];
/// Columns of B that are rounded for a whole pass: twice 132 KiB of a second-level cache.
const HELD: usize = 64;
/// The most rows that a tile rounds: all of the next tile of A, and of a tile of B where there is
/// only one of either.
const MOST_JOBS: usize = TILE[0] + TILE[1];

/// The rows of a tile of A, all columns of B that are held, and in both cases those that follow.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Copies {
    a: [[u32; TILE[0] * ROW]; 2],
    b: [[u32; HELD * ROW]; 2],
}

/// Rows of a factor with contiguous terms.
#[derive(Clone, Copy)]
struct Factor {
    pointer: *const f32,
    stride: usize,
    rows: usize,
    terms: usize,
}

impl Factor {
    /// Terms of pass `pass`; none after the last.
    fn terms_of(&self, pass: usize) -> usize {
        self.terms.saturating_sub(pass * 2 * PAIRS).min(2 * PAIRS)
    }

    /// The terms of pass `pass` in a row.
    fn place(&self, row: usize, pass: usize) -> *const f32 {
        self.pointer.wrapping_add(row * self.stride + pass * 2 * PAIRS)
    }

    /// Rounding a row for a pass.
    fn job(&self, row: usize, pass: usize, target: *mut u32) -> Job {
        let next = match row + 1 < self.rows {
            true => self.place(row + 1, pass),
            false => self.place(0, pass + 1),
        };
        Job { source: self.place(row, pass), terms: self.terms_of(pass), target, next }
    }
}

/// A row to be rounded, and the one that comes after it, wherever that may be.
#[derive(Clone, Copy)]
struct Job {
    source: *const f32,
    terms: usize,
    target: *mut u32,
    next: *const f32,
}

impl Job {
    const NONE: Self = Self {
        source: std::ptr::null(),
        terms: 0,
        target: std::ptr::null_mut(),
        next: std::ptr::null(),
    };

    /// Rounds sixteen pairs; those past the end are zeros.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    #[inline]
    unsafe fn round(&self, pair: usize) {
        let next = self.next.wrapping_add(2 * pair);
        _mm_prefetch::<_MM_HINT_T1>(next.cast());
        _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(BLOCK).cast());
        // SAFETY: only terms that exist are read, and copies are whole registers.
        unsafe {
            let live = self.terms.saturating_sub(2 * pair);
            let pairs = pairs_of(self.source.wrapping_add(2 * pair), live);
            _mm512_store_si512(self.target.add(pair).cast(), pairs);
        }
    }

    /// Rounds the whole row.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn round_all(&self) {
        for pair in (0..self.terms.div_ceil(2)).step_by(BLOCK) {
            // SAFETY: passed on to the caller.
            unsafe { self.round(pair) };
        }
    }
}

/// Part `index` of nearly equal parts of at most `most`: its first element and its length.
fn part(whole: usize, most: usize, index: usize) -> (usize, usize) {
    let part = share(whole, index, whole.div_ceil(most));
    (part.start, part.len())
}

/// What of `whole` falls to `index` of `count`.
fn share(whole: usize, index: usize, count: usize) -> std::ops::Range<usize> {
    index * whole / count..(index + 1) * whole / count
}

/// Computes `p`, both of whose factors have contiguous terms.
///
/// # Safety
/// As for [`product`](super::product).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn multiply(p: &Product<f32>, copies: *mut Copies) {
    let [m, n, terms] = p.shape;
    let a = Factor { pointer: p.a.pointer, stride: p.a.row, rows: m, terms };
    for first in (0..n).step_by(HELD) {
        let pointer = p.b.pointer.wrapping_add(first * p.b.col);
        let b = Factor { pointer, stride: p.b.col, rows: HELD.min(n - first), terms };
        let c = (p.c.0.wrapping_add(first), p.c.1);
        // SAFETY: these columns of B and C.
        unsafe { multiply_held([a, b], c, p.accumulate, copies) };
    }
}

/// [`multiply`] for at most [`HELD`] columns.
///
/// # Safety
/// As for [`product`](super::product).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn multiply_held(
    [a, b]: [Factor; 2],
    c: (*mut f32, usize),
    accumulate: bool,
    copies: *mut Copies,
) {
    // SAFETY: places within the copies.
    let [a_copies, b_copies] =
        unsafe { [(&raw mut (*copies).a).cast::<u32>(), (&raw mut (*copies).b).cast()] };
    let a_copy = |tile: usize| a_copies.wrapping_add(tile % 2 * TILE[0] * ROW);
    let b_copy = |pass: usize| b_copies.wrapping_add(pass % 2 * HELD * ROW);
    let (passes, high, wide) =
        (a.terms.div_ceil(2 * PAIRS), a.rows.div_ceil(TILE[0]), b.rows.div_ceil(TILE[1]));
    let rows_of = |pass, i| if pass < passes { part(a.rows, TILE[0], i) } else { (0, 0) };
    for row in 0..rows_of(0, 0).1 {
        // SAFETY: a row of A, and of its copy.
        unsafe { a.job(row, 0, a_copy(0).add(row * ROW)).round_all() };
    }
    for row in 0..b.rows {
        // SAFETY: a column of B, and a row of its copy.
        unsafe { b.job(row, 0, b_copy(0).add(row * ROW)).round_all() };
    }
    let mut jobs = [Job::NONE; MOST_JOBS];
    for tile in 0..passes * high {
        let (pass, i) = (tile / high, tile % high);
        let (first, rows) = rows_of(pass, i);
        let (next_pass, next_i) = ((tile + 1) / high, (tile + 1) % high);
        let (next_first, next_rows) = rows_of(next_pass, next_i);
        let later_rows = if pass + 1 < passes { b.rows } else { 0 };
        for j in 0..wide {
            let of_a = share(next_rows, j, wide).map(|row| {
                a.job(next_first + row, next_pass, a_copy(tile + 1).wrapping_add(row * ROW))
            });
            let of_b = share(later_rows, i * wide + j, high * wide)
                .map(|row| b.job(row, pass + 1, b_copy(pass + 1).wrapping_add(row * ROW)));
            let mut count = 0;
            for (place, job) in jobs.iter_mut().zip(of_a.chain(of_b)) {
                *place = job;
                count += 1;
            }
            let (column, columns) = part(b.rows, TILE[1], j);
            let ends = Ends {
                terms: a.terms_of(pass),
                a: a_copy(tile),
                b: b_copy(pass).wrapping_add(column * ROW),
                c: (c.0.wrapping_add(first * c.1 + column), c.1),
                accumulate: accumulate || pass > 0,
                jobs: &jobs[..count],
            };
            // SAFETY: this tile of C, and rows that were rounded before.
            unsafe {
                match rows {
                    1 => of_rows::<1>(&ends, columns),
                    2 => of_rows::<2>(&ends, columns),
                    3 => of_rows::<3>(&ends, columns),
                    4 => of_rows::<4>(&ends, columns),
                    5 => of_rows::<5>(&ends, columns),
                    _ => of_rows::<6>(&ends, columns),
                }
            }
        }
    }
}

/// Where a tile begins, and what it rounds on the way.
struct Ends<'a> {
    terms: usize,
    a: *const u32,
    b: *const u32,
    /// C and the elements from one of its rows to the next.
    c: (*mut f32, usize),
    accumulate: bool,
    jobs: &'a [Job],
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn of_rows<const M: usize>(ends: &Ends<'_>, columns: usize) {
    // SAFETY: passed on to the caller.
    unsafe {
        match columns {
            1 => tile::<M, 1>(ends),
            2 => tile::<M, 2>(ends),
            3 => tile::<M, 3>(ends),
            _ => tile::<M, 4>(ends),
        }
    }
}

/// `M` rows by `N` columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[inline(never)]
unsafe fn tile<const M: usize, const N: usize>(ends: &Ends<'_>) {
    let mut sums = [[_mm512_setzero_ps(); N]; M];
    for pair in (0..ends.terms.div_ceil(2)).step_by(BLOCK) {
        for job in ends.jobs {
            // SAFETY: no pass is longer than the one before it.
            unsafe { job.round(pair) };
        }
        let mut columns = [_mm512_setzero_si512(); N];
        for j in 0..N {
            // SAFETY: copies are whole registers.
            columns[j] = unsafe { _mm512_load_si512(ends.b.add(j * ROW + pair).cast()) };
        }
        for i in 0..M {
            // SAFETY: as above.
            let row = unsafe { _mm512_load_si512(ends.a.add(i * ROW + pair).cast()) };
            for j in 0..N {
                sums[i][j] = _mm512_dpbf16_ps(sums[i][j], as_bf16(row), as_bf16(columns[j]));
            }
        }
    }
    // In registers and without branches: with either, a tile's end took as long as seven steps.
    let mut rows = [_mm512_setzero_ps(); 8];
    for i in 0..M {
        let at = |j: usize| if j < N { sums[i][j] } else { _mm512_setzero_ps() };
        let low = halves(at(0), at(1));
        let high = if N > 2 { halves(at(2), at(3)) } else { low };
        rows[i] = _mm512_add_ps(
            _mm512_castpd_ps(_mm512_unpacklo_pd(low, high)),
            _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)),
        );
    }
    let live: __mmask8 = (1 << N) - 1;
    let kept = if ends.accumulate { live } else { 0 };
    let low = quarters(quarters(rows[0], rows[1]), quarters(rows[2], rows[3]));
    let high = if M > 4 { quarters(quarters(rows[4], rows[5]), rows[6]) } else { rows[7] };
    let totals = [
        _mm512_castps512_ps128(low),
        _mm512_extractf32x4_ps::<1>(low),
        _mm512_extractf32x4_ps::<2>(low),
        _mm512_extractf32x4_ps::<3>(low),
        _mm512_castps512_ps128(high),
        _mm512_extractf32x4_ps::<1>(high),
    ];
    for i in 0..M {
        // SAFETY: these columns of row `i` of C.
        unsafe {
            let place = ends.c.0.add(i * ends.c.1);
            let sum = _mm_add_ps(_mm_maskz_loadu_ps(kept, place), totals[i]);
            _mm_mask_storeu_ps(place, live, sum);
        }
    }
}

/// Of every 128 bits of `a` and `b` two partial sums each: `a0 + a2, b0 + b2, a1 + a3, b1 + b3`.
#[target_feature(enable = "avx512f")]
#[inline]
fn halves(a: __m512, b: __m512) -> __m512d {
    _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)))
}

/// The sums of neighbouring quarters of `a`, then those of `b`.
#[target_feature(enable = "avx512f")]
#[inline]
fn quarters(a: __m512, b: __m512) -> __m512 {
    _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b))
}
