//! Sums of many terms that are contiguous in both factors: a field mix's weight gradient.
//!
//! Neighbouring terms are pairs already, so that a register of 32 terms of a row of A and one of a
//! column of B are sixteen products of pairs. Each sum of a tile of six rows by four columns has a
//! register of its own, which is summed across at the end of a pass.
//!
//! Both factors come as f32 from beyond the second-level cache, and a row of either serves few
//! products. So nothing waits for rounding: the copy of either factor exists twice, and tiles round
//! the rows that are needed next, a register at a time between their multiply-adds. Beside 24
//! multiply-adds four registers are rounded and stored for nothing, eight cost twelve multiply-adds
//! (Zen 4). The processor sees by itself that rows are read one after the other; asking for the next
//! row made small products 5 to 10 % slower.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{as_bf16, pairs_of};
use crate::matmul::Product;
use crate::simd::BLOCK;

/// Pairs of terms of a pass: a tile's ten rows are 20 KiB.
const PAIRS: usize = 512;
/// Elements from row to row of a copy, one line more than a power of two.
const ROW: usize = PAIRS + BLOCK;
/// Rows and columns of a tile: 24 sums, four registers of B and one of A.
const TILE: [usize; 2] = [6, 4];
/// Rows of a factor that are held for a whole pass: twice 132 KiB of a second-level cache.
const HELD: usize = 64;
/// The most rows that a tile rounds: as many of either factor as a tile has.
const MOST_JOBS: usize = 2 * TILE[0];

/// The streamed rows of a tile, all held ones, and in both cases those that follow.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Copies {
    streamed: [[u32; TILE[0] * ROW]; 2],
    held: [[u32; HELD * ROW]; 2],
}

/// Rows of A, or columns of B, whose terms are contiguous.
#[derive(Clone, Copy)]
struct Factor {
    pointer: *const f32,
    /// Elements from row to row.
    stride: usize,
    rows: usize,
    terms: usize,
    /// Rows of a tile.
    tile: usize,
    /// Elements of C from row to row of this factor.
    c: usize,
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

    /// Tiles of all rows.
    fn tiles(&self) -> usize {
        self.rows.div_ceil(self.tile)
    }

    /// Rounding a row for a pass.
    fn job(&self, row: usize, pass: usize, target: *mut u32) -> Job {
        Job { source: self.place(row, pass), terms: self.terms_of(pass), target }
    }
}

/// A row to be rounded.
#[derive(Clone, Copy)]
struct Job {
    source: *const f32,
    terms: usize,
    target: *mut u32,
}

impl Job {
    const NONE: Self = Self { source: std::ptr::null(), terms: 0, target: std::ptr::null_mut() };

    /// Rounds sixteen pairs; those past the end are zeros.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    #[inline]
    unsafe fn round(&self, pair: usize) {
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

/// `count` nearly equal parts of `whole`. One division a part: a tile takes 700 cycles.
fn parts(whole: usize, count: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    (1..=count).map(move |part| {
        let end = part * whole / count;
        std::mem::replace(&mut start, end)..end
    })
}

/// Computes `p`, both of whose factors have contiguous terms.
///
/// The factor with fewer rows is held, the other one streamed through the first-level cache.
///
/// # Safety
/// As for [`product`](super::product).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn multiply(p: &Product<f32>, copies: *mut Copies) {
    let [m, n, terms] = p.shape;
    let factor = |pointer, stride, rows, tile, c| Factor { pointer, stride, rows, terms, tile, c };
    let a = factor(p.a.pointer, p.a.row, m, TILE[0], p.c.1);
    let b = factor(p.b.pointer, p.b.col, n, TILE[1], 1);
    let [held, streamed] = if m < n { [a, b] } else { [b, a] };
    for first in (0..held.rows).step_by(HELD) {
        let rows = HELD.min(held.rows - first);
        let held = Factor { pointer: held.place(first, 0), rows, ..held };
        let c = p.c.0.wrapping_add(first * held.c);
        // SAFETY: these rows of the held factor, and of C.
        unsafe { multiply_held([streamed, held], m < n, c, p.accumulate, copies) };
    }
}

/// [`multiply`] for at most [`HELD`] rows of the second factor, which is A under `holds_a`.
///
/// # Safety
/// As for [`product`](super::product).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn multiply_held(
    [streamed, held]: [Factor; 2],
    holds_a: bool,
    c: *mut f32,
    accumulate: bool,
    copies: *mut Copies,
) {
    // SAFETY: places within the copies.
    let (streamed_copies, held_copies) =
        unsafe { (&raw mut (*copies).streamed, &raw mut (*copies).held) };
    let streamed_copy =
        |tile: usize| streamed_copies.cast::<u32>().wrapping_add(tile % 2 * TILE[0] * ROW);
    let held_copy = |pass: usize| held_copies.cast::<u32>().wrapping_add(pass % 2 * HELD * ROW);
    let passes = held.terms.div_ceil(2 * PAIRS);
    let (outer, inner) = (streamed.tiles(), held.tiles());
    let first = parts(streamed.rows, outer).next().unwrap_or_default();
    for row in first.clone() {
        // SAFETY: a row, and one of the copy.
        unsafe { streamed.job(row, 0, streamed_copy(0).add(row * ROW)).round_all() };
    }
    for row in 0..held.rows {
        // SAFETY: as above.
        unsafe { held.job(row, 0, held_copy(0).add(row * ROW)).round_all() };
    }
    let mut jobs = [Job::NONE; MOST_JOBS];
    let mut step = 0;
    for pass in 0..passes {
        let is_last = pass + 1 == passes;
        let mut later = parts(if is_last { 0 } else { held.rows }, outer * inner);
        // Every part with the one after it: the first one again after the last, for the next pass.
        let nexts = parts(streamed.rows, outer).skip(1).map(|rows| (rows, pass));
        let again = (if is_last { 0..0 } else { first.clone() }, pass + 1);
        let nexts = nexts.chain(std::iter::once(again));
        for (rows, (next, next_pass)) in parts(streamed.rows, outer).zip(nexts) {
            let of_next = parts(next.len(), inner);
            for (held_rows, next_rows) in parts(held.rows, inner).zip(of_next) {
                let mut count = 0;
                let mut add = |job| {
                    jobs[count] = job;
                    count += 1;
                };
                for row in next_rows {
                    let target = streamed_copy(step + 1).wrapping_add(row * ROW);
                    add(streamed.job(next.start + row, next_pass, target));
                }
                for row in later.next().unwrap_or_default() {
                    let target = held_copy(pass + 1).wrapping_add(row * ROW);
                    add(held.job(row, pass + 1, target));
                }
                let copies =
                    [streamed_copy(step), held_copy(pass).wrapping_add(held_rows.start * ROW)];
                let shape = [rows.len(), held_rows.len()];
                let ([a, b], [height, width], c_row) = match holds_a {
                    false => (copies, shape, streamed.c),
                    true => ([copies[1], copies[0]], [shape[1], shape[0]], held.c),
                };
                let ends = Ends {
                    terms: held.terms_of(pass),
                    a,
                    b,
                    c: (c.wrapping_add(rows.start * streamed.c + held_rows.start * held.c), c_row),
                    accumulate: accumulate || pass > 0,
                    jobs: &jobs[..count],
                };
                // SAFETY: this tile of C, and rows that were rounded before.
                unsafe {
                    match height {
                        1 => of_rows::<1>(&ends, width),
                        2 => of_rows::<2>(&ends, width),
                        3 => of_rows::<3>(&ends, width),
                        4 => of_rows::<4>(&ends, width),
                        5 => of_rows::<5>(&ends, width),
                        _ => of_rows::<6>(&ends, width),
                    }
                }
            }
            step += 1;
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
