//! Products of operands rounded to bf16, with sums in f32.
//!
//! AVX512-BF16 multiplies pairs of neighbouring terms: an element of a register
//! holds terms `2 p` and `2 p + 1` of one row or column, and one instruction adds
//! both products to sixteen sums. Operands are rounded to nearest even while they
//! are copied into pairs, A as 128 rows by 128 pairs, B as panels of 48 columns.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::{Product, Strided, even_parts};
use crate::simd::{BLOCK, avx512};

/// Pairs of terms that one pass over the tiles takes.
const PAIRS: usize = 128;
/// Rows of A that are copied at a time.
const ROWS: usize = 128;
/// Elements from row to row (or pair to pair) of the copy of A: one line more than a power of two.
const A_STRIDE: usize = 128 + BLOCK;
/// Columns of a panel of B.
const COLUMNS: usize = 3 * BLOCK;
/// Rows of a tile.
const TILE: usize = 8;

/// Whether this processor has the instructions.
pub(crate) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
}

/// Memory of one pass, aligned to cache lines.
#[repr(align(64))]
struct Pass {
    a: [MaybeUninit<u32>; ROWS * A_STRIDE],
    b: [MaybeUninit<u32>; PAIRS * COLUMNS],
}

/// Computes `product` with operands rounded to bf16.
///
/// # Safety
/// As for [`matmul`](super::matmul), and [`is_available`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) unsafe fn product(p: Product<f32>) {
    let [m, n, k] = p.shape;
    let mut pass = MaybeUninit::<Pass>::uninit();
    // SAFETY: both arrays are plain numbers that are written before they are read.
    let (a, b) = unsafe {
        let pass = &mut *pass.as_mut_ptr();
        (pass.a.as_mut_ptr().cast::<u32>(), pass.b.as_mut_ptr().cast::<u32>())
    };
    let terms = even_parts(k, 2 * PAIRS).next_multiple_of(2 * BLOCK).min(2 * PAIRS);
    for first in (0..m).step_by(ROWS) {
        let rows = ROWS.min(m - first);
        let mut term = 0;
        // No terms still make a pass, which writes zeros.
        while term < k || term == 0 {
            let count = terms.min(k - term);
            // SAFETY: these rows and terms lie within A and B, these columns within B and C; the
            // copies have room for them.
            unsafe {
                let start = p.a.pointer.add(first * p.a.row + term * p.a.col);
                let a = if p.a.col == 1 {
                    pair_rows(start, p.a.row, [rows, count], a);
                    Strided { pointer: a.cast_const(), row: A_STRIDE, col: 1 }
                } else {
                    interleave((start, p.a.col), [count, rows], (a, A_STRIDE));
                    Strided { pointer: a.cast_const(), row: 1, col: A_STRIDE }
                };
                for column in (0..n).step_by(COLUMNS) {
                    let columns = COLUMNS.min(n - column);
                    let start = p.b.pointer.add(term * p.b.row + column * p.b.col);
                    if p.b.col == 1 {
                        interleave((start, p.b.row), [count, columns], (b, COLUMNS));
                    } else {
                        pair_columns((start, p.b.col), [count, columns], b);
                    }
                    let panel = Panel {
                        pairs: count.div_ceil(2),
                        b,
                        c: (p.c.0.add(first * p.c.1 + column), p.c.1),
                        last: ends(columns),
                        accumulate: p.accumulate || term > 0,
                    };
                    match columns.div_ceil(BLOCK) {
                        1 => tiles::<1>(rows, panel, a),
                        2 => tiles::<2>(rows, panel, a),
                        _ => tiles::<3>(rows, panel, a),
                    }
                }
            }
            term += terms;
        }
    }
}

/// The live elements of the last of the registers that hold `count`.
#[inline(always)]
fn ends(count: usize) -> __mmask16 {
    u16::MAX >> (count.next_multiple_of(BLOCK) - count)
}

/// What all tiles of one panel of columns share.
#[derive(Clone, Copy)]
struct Panel {
    pairs: usize,
    b: *const u32,
    c: (*mut f32, usize),
    last: __mmask16,
    accumulate: bool,
}

/// All rows of a pass against one panel, in tiles of nearly equal height.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn tiles<const V: usize>(rows: usize, panel: Panel, a: Strided<*const u32>) {
    let count = rows.div_ceil(TILE);
    for t in 0..count {
        let (first, end) = (t * rows / count, (t + 1) * rows / count);
        // SAFETY: rows `first .. end` of A and C.
        unsafe {
            let a = Strided { pointer: a.pointer.add(first * a.row), ..a };
            let panel = Panel { c: (panel.c.0.add(first * panel.c.1), panel.c.1), ..panel };
            match end - first {
                1 => tile::<1, V>(panel, a),
                2 => tile::<2, V>(panel, a),
                3 => tile::<3, V>(panel, a),
                4 => tile::<4, V>(panel, a),
                5 => tile::<5, V>(panel, a),
                6 => tile::<6, V>(panel, a),
                7 => tile::<7, V>(panel, a),
                _ => tile::<8, V>(panel, a),
            }
        }
    }
}

/// `M` rows by `V` registers of columns.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline(never)]
unsafe fn tile<const M: usize, const V: usize>(panel: Panel, a: Strided<*const u32>) {
    let mut sums = [[_mm512_setzero_ps(); V]; M];
    let (mut a_pair, mut b_pair) = (a.pointer, panel.b);
    for _ in 0..panel.pairs {
        let mut b = [_mm512_setzero_si512(); V];
        for v in 0..V {
            // SAFETY: the panel has whole registers of this pair.
            b[v] = unsafe { _mm512_load_si512(b_pair.add(v * BLOCK).cast()) };
        }
        for r in 0..M {
            // SAFETY: row `r` of this pair.
            let x = _mm512_set1_epi32(unsafe { *a_pair.add(r * a.row) }.cast_signed());
            for v in 0..V {
                // SAFETY: both types are sixteen pairs of bf16.
                sums[r][v] = unsafe {
                    let x = std::mem::transmute::<__m512i, __m512bh>(x);
                    let b = std::mem::transmute::<__m512i, __m512bh>(b[v]);
                    _mm512_dpbf16_ps(sums[r][v], x, b)
                };
            }
        }
        a_pair = a_pair.wrapping_add(a.col);
        b_pair = b_pair.wrapping_add(COLUMNS);
    }
    for r in 0..M {
        for v in 0..V {
            let live = if v + 1 == V { panel.last } else { u16::MAX };
            // SAFETY: these columns of row `r` of C.
            unsafe {
                let place = panel.c.0.add(r * panel.c.1 + v * BLOCK);
                let mut sum = sums[r][v];
                if panel.accumulate {
                    sum = _mm512_add_ps(_mm512_maskz_loadu_ps(live, place), sum);
                }
                _mm512_mask_storeu_ps(place, live, sum);
            }
        }
    }
}

/// Sixteen pairs of the 32 elements from `source`, of which `live` exist.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pairs_of(source: *const f32, live: usize) -> __m512i {
    // SAFETY: only elements that exist are read.
    unsafe {
        let (low, high) = if live >= 2 * BLOCK {
            (_mm512_loadu_ps(source), _mm512_loadu_ps(source.add(BLOCK)))
        } else {
            let (low, high) = (live.min(BLOCK), live.saturating_sub(BLOCK));
            let mask = |count: usize| ((1u32 << count) - 1) as u16;
            let end = source.wrapping_add(BLOCK);
            (_mm512_maskz_loadu_ps(mask(low), source), _mm512_maskz_loadu_ps(mask(high), end))
        };
        std::mem::transmute(_mm512_cvtne2ps_pbh(high, low))
    }
}

/// Pairs of rows whose terms are contiguous: `target[r][p] = (source[r][2p], source[r][2p + 1])`.
///
/// # Safety
/// The source must have these elements and the target as many rows.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pair_rows(
    source: *const f32,
    stride: usize,
    [rows, terms]: [usize; 2],
    target: *mut u32,
) {
    for r in 0..rows {
        for term in (0..terms).step_by(2 * BLOCK) {
            // SAFETY: elements of row `r`; a row of the target has whole registers.
            unsafe {
                let pairs = pairs_of(source.add(r * stride + term), terms - term);
                _mm512_store_si512(target.add(r * A_STRIDE + term / 2).cast(), pairs);
            }
        }
    }
}

/// Pairs of terms whose elements are contiguous: `target[p][i] = (source[2p][i], source[2p + 1][i])`.
///
/// Elements past the end of a row are zero up to a whole register, and so is a missing last term.
///
/// # Safety
/// The source must have these elements and the target room for whole registers.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn interleave(
    (source, source_stride): (*const f32, usize),
    [terms, width]: [usize; 2],
    (target, target_stride): (*mut u32, usize),
) {
    // Alternately an element of the lower and of the upper half.
    let order = _mm512_add_epi32(
        _mm512_set1_epi32(16 << 16),
        _mm512_mullo_epi32(
            _mm512_set1_epi32(0x1_0001),
            _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
        ),
    );
    for term in (0..terms).step_by(2) {
        for i in (0..width).step_by(BLOCK) {
            let live = if i + BLOCK <= width { u16::MAX } else { ends(width) };
            // SAFETY: only elements that exist are read; whole registers are written.
            unsafe {
                let place = source.add(term * source_stride + i);
                let even = _mm512_maskz_loadu_ps(live, place);
                let odd = if term + 1 < terms {
                    _mm512_maskz_loadu_ps(live, place.add(source_stride))
                } else {
                    _mm512_setzero_ps()
                };
                let halves: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(odd, even));
                let pairs = _mm512_permutexvar_epi16(order, halves);
                _mm512_storeu_si512(target.add(term / 2 * target_stride + i).cast(), pairs);
            }
        }
    }
}

/// Pairs of columns whose terms are contiguous: `target[p][j] = (source[j][2p], source[j][2p + 1])`.
///
/// Missing columns are zero up to a whole register.
///
/// # Safety
/// The source must have these elements, `stride` apart from column to column.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pair_columns(
    (source, stride): (*const f32, usize),
    [terms, columns]: [usize; 2],
    target: *mut u32,
) {
    let mut block = [[0u32; BLOCK]; BLOCK];
    for column in (0..columns).step_by(BLOCK) {
        for term in (0..terms).step_by(2 * BLOCK) {
            for (j, row) in block.iter_mut().enumerate() {
                let live = if column + j < columns { terms - term } else { 0 };
                // SAFETY: terms that exist of a column that exists.
                unsafe {
                    let start = source.wrapping_add((column + j) * stride + term);
                    _mm512_storeu_si512(row.as_mut_ptr().cast(), pairs_of(start, live));
                }
            }
            // SAFETY: the panel has sixteen pairs from here, since passes are whole blocks.
            unsafe {
                let to = target.add(term / 2 * COLUMNS + column).cast();
                avx512::transpose((block.as_ptr().cast(), BLOCK), (to, COLUMNS));
            }
        }
    }
}
