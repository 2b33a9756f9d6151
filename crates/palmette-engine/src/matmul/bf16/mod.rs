//! Products of operands rounded to bf16, with sums in f32.
//!
//! AVX512-BF16 multiplies pairs of neighbouring terms: an element of a register
//! holds terms `2 p` and `2 p + 1` of one row or column, and one instruction adds
//! both products to sixteen sums. Operands are rounded to nearest even while they
//! are copied into pairs, A as 128 rows by 512 pairs, B as panels of 48 columns, which the first
//! tile makes where B's columns are contiguous; factors that come in panels already
//! ([`lay_out_panel`]) are read where they are. Many terms that are contiguous in both
//! factors need no pairing: see [`dot`].

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::mem::MaybeUninit;

use super::finish::TileFinish;
use super::{COLUMNS, Panels, Product, Rows, Strided, even_parts};
use crate::simd::{BLOCK, avx512};

mod dot;

/// Pairs of terms that one pass over the tiles takes: 24 KiB of B then fit the first-level cache.
const PAIRS: usize = 128;
/// Pairs of terms that A is copied for: with its rows a quarter of a second-level cache.
const A_PAIRS: usize = 4 * PAIRS;
/// Rows of A that are copied at a time.
const ROWS: usize = 128;
/// Elements from row to row of the copy of A, one line more than a power of two.
const A_ROW: usize = A_PAIRS + BLOCK;
/// Elements from pair to pair where the copy of A has the rows of a pair together.
const A_PAIR: usize = ROWS + BLOCK;
/// Rows of a tile.
const TILE: usize = 8;

/// Whether this processor has the instructions.
pub(crate) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16")
}

/// Copies of the factors of one product, of whichever way it goes.
#[repr(C)]
union Copies {
    panels: PanelCopies,
    dot: dot::Copies,
}

/// Copies of A and of a panel of B, aligned to cache lines.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct PanelCopies {
    a: [u32; A_PAIRS * A_PAIR],
    b: [u32; PAIRS * COLUMNS],
}

const _: () = assert!(ROWS * A_ROW <= A_PAIRS * A_PAIR);

thread_local! {
    /// Allocated by the first product of a thread and kept for all others.
    static COPIES: RefCell<Box<MaybeUninit<Copies>>> = RefCell::new(Box::new_uninit());
}

/// Computes `product` with operands rounded to bf16.
///
/// # Safety
/// As for [`matmul`](super::matmul), and [`is_available`].
pub(crate) unsafe fn product(p: Product<'_, f32>) {
    COPIES.with_borrow_mut(|copies| {
        let copies = copies.as_mut_ptr();
        // SAFETY: plain numbers, which the products write before they read them; the rest is passed
        // on to the caller.
        unsafe {
            if p.panels[1].is_none() && super::dot::suits(&p) {
                dot::multiply(&p, &raw mut (*copies).dot);
                if let Some(finish) = p.finish {
                    finish.rows(p.shape, p.c);
                }
            } else {
                let (a, b) = (&raw mut (*copies).panels.a, &raw mut (*copies).panels.b);
                multiply(p, a.cast(), b.cast());
            }
        }
    });
}

/// Computes `p` with the given memory for the copies of A and of a panel of B.
///
/// # Safety
/// As for [`product`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn multiply(p: Product<'_, f32>, a_copy: *mut u32, b_copy: *mut u32) {
    let [m, _, k] = p.shape;
    for first in (0..m).step_by(ROWS) {
        let rows = ROWS.min(m - first);
        // No terms still make a pass, which writes zeros.
        let mut start = 0;
        while start < k || start == 0 {
            let end = k.min(start + 2 * A_PAIRS);
            // SAFETY: these rows and terms lie within A and B, these columns within B and C; the
            // copies have room for them.
            unsafe {
                let place = p.a.pointer.wrapping_add(first * p.a.row + start * p.a.col);
                let a = if let Some(panels) = p.panels[0] {
                    let Panels { pointer, stride, column } = panels.from(first);
                    Rows::of_panels(Panels { pointer: pointer.cast(), stride, column }, start / 2)
                } else if p.a.col == 1 {
                    pair_rows((place, p.a.row), [rows, end - start], (a_copy, A_ROW));
                    Rows::of(Strided { pointer: a_copy.cast_const(), row: A_ROW, col: 1 }, 0)
                } else {
                    interleave((place, p.a.col), [end - start, rows], (a_copy, A_PAIR));
                    Rows::of(Strided { pointer: a_copy.cast_const(), row: 1, col: A_PAIR }, 0)
                };
                let c = p.c.0.add(first * p.c.1);
                columns(&p, a, [start, end], rows, (c, p.c.1), b_copy);
            }
            start = end.max(1);
        }
    }
}

/// All columns of some rows for the terms `start .. end`, of which `a` is a copy.
///
/// # Safety
/// As for [`product`]; `a` must have these rows and terms.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn columns(
    p: &Product<'_, f32>,
    a: Rows<u32>,
    [start, end]: [usize; 2],
    rows: usize,
    c: (*mut f32, usize),
    b_copy: *mut u32,
) {
    let [_, n, _] = p.shape;
    let terms = match p.panels[1] {
        // Panels are read from the second-level cache at 8 bytes a cycle: all terms in one pass.
        Some(_) => (end - start).max(1),
        None => even_parts(end - start, 2 * PAIRS).next_multiple_of(2 * BLOCK).min(2 * PAIRS),
    };
    for column in (0..n).step_by(COLUMNS) {
        let columns = COLUMNS.min(n - column);
        let mut term = start;
        while term < end || term == 0 {
            let count = terms.min(end - term);
            // SAFETY: as the caller promises.
            unsafe {
                let place = p.b.pointer.wrapping_add(term * p.b.row + column * p.b.col);
                let (b, source) = match p.panels[1] {
                    Some(panels) => {
                        let start = panels.from(column).pointer.cast::<u32>();
                        (start.add(term / 2 * COLUMNS).cast_mut(), None)
                    }
                    None if p.b.col == 1 => (b_copy, Some((place, p.b.row))),
                    None => {
                        pair_columns((place, p.b.col), [count, columns], b_copy);
                        (b_copy, None)
                    }
                };
                let a = a.later((term - start) / 2);
                let last = term + count >= p.shape[2];
                let panel = Panel {
                    terms: count,
                    b,
                    source,
                    c: (c.0.add(column), c.1),
                    last: live_lanes(columns),
                    accumulate: p.accumulate || term > 0,
                    finish: p.finish.filter(|_| last).map(|finish| finish.of(column)),
                };
                match columns.div_ceil(BLOCK) {
                    1 => tiles::<1>(rows, &panel, a),
                    2 => tiles::<2>(rows, &panel, a),
                    _ => tiles::<3>(rows, &panel, a),
                }
            }
            term += terms;
        }
    }
}

/// A register of 32 numbers as the instruction's type.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn as_bf16(bits: __m512i) -> __m512bh {
    // SAFETY: both types are 512 bits of plain numbers.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
}

/// The inverse of [`as_bf16`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn as_bits(numbers: __m512bh) -> __m512i {
    // SAFETY: as above.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(numbers) }
}

/// The live elements of the last of the registers that hold `count`.
#[inline(always)]
fn live_lanes(count: usize) -> __mmask16 {
    u16::MAX >> (count.next_multiple_of(BLOCK) - count)
}

/// What all tiles of one panel of columns share.
struct Panel {
    terms: usize,
    /// The panel in pairs of terms.
    b: *mut u32,
    /// What the first tile rounds into the panel: the first term, and elements from term to term.
    source: Option<(*const f32, usize)>,
    c: (*mut f32, usize),
    last: __mmask16,
    accumulate: bool,
    finish: Option<TileFinish<f32>>,
}

/// All rows of a pass against one panel, in tiles of nearly equal height.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn tiles<const V: usize>(rows: usize, panel: &Panel, a: Rows<u32>) {
    for t in 0..rows.div_ceil(TILE) {
        let (first, end) = a.tile(t, rows, TILE);
        let source = panel.source.filter(|_| t == 0);
        // SAFETY: rows `first .. end` of A and C.
        unsafe {
            let (a, c) = (a.from(first), panel.c.0.add(first * panel.c.1));
            match source {
                Some(source) => tile_of::<V, true>(end - first, panel, a, c, source),
                None => tile_of::<V, false>(end - first, panel, a, c, (std::ptr::null(), 0)),
            }
        }
    }
}

/// [`tile`] of `rows` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
unsafe fn tile_of<const V: usize, const ROUND: bool>(
    rows: usize,
    panel: &Panel,
    a: Strided<*const u32>,
    c: *mut f32,
    source: (*const f32, usize),
) {
    // SAFETY: passed on to the caller.
    unsafe {
        match rows {
            1 => tile::<1, V, ROUND>(panel, a, c, source),
            2 => tile::<2, V, ROUND>(panel, a, c, source),
            3 => tile::<3, V, ROUND>(panel, a, c, source),
            4 => tile::<4, V, ROUND>(panel, a, c, source),
            5 => tile::<5, V, ROUND>(panel, a, c, source),
            6 => tile::<6, V, ROUND>(panel, a, c, source),
            7 => tile::<7, V, ROUND>(panel, a, c, source),
            _ => tile::<8, V, ROUND>(panel, a, c, source),
        }
    }
}

/// `M` rows by `V` registers of columns. Under `ROUND` the panel is made on the way, between
/// multiply-adds that hide it.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline(never)]
unsafe fn tile<const M: usize, const V: usize, const ROUND: bool>(
    panel: &Panel,
    a: Strided<*const u32>,
    c: *mut f32,
    (mut term, stride): (*const f32, usize),
) {
    let mut sums = [[_mm512_setzero_ps(); V]; M];
    let (mut a_pair, mut b_pair) = (a.pointer, panel.b);
    for pair in 0..panel.terms.div_ceil(2) {
        let mut b = [_mm512_setzero_si512(); V];
        // SAFETY: the panel has whole registers of this pair, the source these columns.
        unsafe {
            if ROUND {
                b = pair_of_terms::<V>((term, stride), 2 * pair + 1 < panel.terms, panel.last);
                term = term.wrapping_add(2 * stride);
            }
            for v in 0..V {
                let place = b_pair.add(v * BLOCK).cast();
                match ROUND {
                    true => _mm512_store_si512(place, b[v]),
                    false => b[v] = _mm512_load_si512(place),
                }
            }
        }
        for r in 0..M {
            // SAFETY: row `r` of this pair.
            let x = _mm512_set1_epi32(unsafe { *a_pair.add(r * a.row) }.cast_signed());
            for v in 0..V {
                sums[r][v] = _mm512_dpbf16_ps(sums[r][v], as_bf16(x), as_bf16(b[v]));
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
                let place = c.add(r * panel.c.1 + v * BLOCK);
                let mut sum = sums[r][v];
                if panel.accumulate {
                    sum = _mm512_add_ps(_mm512_maskz_loadu_ps(live, place), sum);
                }
                if let Some(TileFinish { bias, least }) = panel.finish {
                    if !bias.is_null() {
                        let bias = bias.add(v * BLOCK);
                        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(live, bias));
                    }
                    // The second where either is not a number.
                    sum = _mm512_max_ps(_mm512_set1_ps(least), sum);
                }
                _mm512_mask_storeu_ps(place, live, sum);
            }
        }
    }
}

/// Rounds a panel of `shape[0]` terms and `shape[1]` columns into pairs. The rows or the columns of
/// the source must be contiguous.
///
/// # Safety
/// The source must have these elements, the target room for whole registers; and [`is_available`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) unsafe fn lay_out_panel(
    source: Strided<*const f32>,
    shape: [usize; 2],
    target: *mut u32,
) {
    // SAFETY: passed on to the caller.
    unsafe {
        if source.col == 1 {
            interleave((source.pointer, source.row), shape, (target, COLUMNS));
        } else {
            pair_columns((source.pointer, source.col), shape, target);
        }
    }
}

/// Sixteen pairs of the 32 elements from `source`, of which `live` exist.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
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
        as_bits(_mm512_cvtne2ps_pbh(high, low))
    }
}

/// Pairs of rows whose terms are contiguous: `target[r][p] = (source[r][2p], source[r][2p + 1])`.
///
/// # Safety
/// The source must have these elements and the target as many rows.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pair_rows(
    (source, stride): (*const f32, usize),
    [rows, terms]: [usize; 2],
    (target, target_stride): (*mut u32, usize),
) {
    let whole = terms / (2 * BLOCK) * (2 * BLOCK);
    for r in 0..rows {
        // SAFETY: elements of row `r`; a row of the target has whole registers.
        unsafe {
            let (from, to) = (source.add(r * stride), target.add(r * target_stride));
            for term in (0..whole).step_by(2 * BLOCK) {
                let pairs = pairs_of(from.add(term), 2 * BLOCK);
                _mm512_store_si512(to.add(term / 2).cast(), pairs);
            }
            if whole < terms {
                let pairs = pairs_of(from.add(whole), terms - whole);
                _mm512_store_si512(to.add(whole / 2).cast(), pairs);
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
    for column in (0..width).step_by(COLUMNS) {
        let columns = COLUMNS.min(width - column);
        // SAFETY: these columns.
        unsafe {
            let source = (source.add(column), source_stride);
            let target = (target.add(column), target_stride);
            match columns.div_ceil(BLOCK) {
                1 => interleave_columns::<1>(source, [terms, columns], target),
                2 => interleave_columns::<2>(source, [terms, columns], target),
                _ => interleave_columns::<3>(source, [terms, columns], target),
            }
        }
    }
}

/// [`interleave`] for `V` registers of columns.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn interleave_columns<const V: usize>(
    (mut source, source_stride): (*const f32, usize),
    [terms, columns]: [usize; 2],
    (mut target, target_stride): (*mut u32, usize),
) {
    let last = live_lanes(columns);
    for pair in 0..terms.div_ceil(2) {
        // SAFETY: these columns of two terms; whole registers are written.
        unsafe {
            let both = 2 * pair + 1 < terms;
            let pairs = pair_of_terms::<V>((source, source_stride), both, last);
            for (v, pairs) in pairs.into_iter().enumerate() {
                _mm512_storeu_si512(target.add(v * BLOCK).cast(), pairs);
            }
        }
        source = source.wrapping_add(2 * source_stride);
        target = target.wrapping_add(target_stride);
    }
}

/// `V` registers of pairs of a term and the next, if there is one: the columns from `source`, of
/// which `last` are live in the last register.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
unsafe fn pair_of_terms<const V: usize>(
    (source, stride): (*const f32, usize),
    both: bool,
    last: __mmask16,
) -> [__m512i; V] {
    // Alternately an element of the lower and of the upper half.
    let order = _mm512_add_epi32(
        _mm512_set1_epi32(16 << 16),
        _mm512_mullo_epi32(
            _mm512_set1_epi32(0x1_0001),
            _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
        ),
    );
    let odd = if both { source.wrapping_add(stride) } else { source };
    let mut pairs = [_mm512_setzero_si512(); V];
    for v in 0..V {
        let live = if v + 1 == V { last } else { u16::MAX };
        // SAFETY: only elements that exist are read.
        unsafe {
            let low = _mm512_maskz_loadu_ps(live, source.add(v * BLOCK));
            let high = _mm512_maskz_loadu_ps(if both { live } else { 0 }, odd.add(v * BLOCK));
            let halves = as_bits(_mm512_cvtne2ps_pbh(high, low));
            pairs[v] = _mm512_permutexvar_epi16(order, halves);
        }
    }
    pairs
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
