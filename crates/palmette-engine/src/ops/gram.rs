//! Dot products of all pairs (DP, factorisation-machine style interactions).

use pulp::Simd;

use crate::Real;
use crate::chunk::{Chunk, slice, slice_mut};
use crate::ops::gram_row::RowGram;
use crate::ops::panel::{Panel, Rows, one_by_one};
use crate::program::{BufferId, Program, Span};
use crate::simd::BLOCK;

/// `G = T T^T`, of which the strict lower triangle leaves row by row.
///
/// T stacks an optional vector `x: [rows, dim]` (row 0) and fields
/// `Y_j: [n_j, rows, dim]`; with k + 1 vectors the output is `[rows, k (k + 1) / 2]`,
/// pairs in the order (1,0), (2,0), (2,1), ...
#[derive(Clone, Debug)]
pub struct Gram {
    pub(crate) inputs: Span,
    /// Whether the first input is the vector.
    pub has_vector: bool,
    /// Output.
    pub out: BufferId,
    /// Channels.
    pub dim: usize,
    /// Vectors stacked, k + 1.
    pub vectors: usize,
}

impl Gram {
    pub(crate) fn inputs(&self) -> Span {
        self.inputs
    }

    /// Counted as the whole product, `dim (k + 1)^2`, as NASRec counts it.
    pub(crate) fn macs(&self, _: &Program) -> u64 {
        (self.dim * self.vectors * self.vectors) as u64
    }

    /// Elements of scratch: panels of the vectors and their gradients, and sixteen rows of pairs.
    pub(crate) fn scratch_len(vectors: usize, dim: usize) -> usize {
        let padded = vectors.next_multiple_of(TILE);
        let pairs = (padded * (padded - 1) / 2).next_multiple_of(BLOCK);
        (2 * dim * (padded + 1) + pairs) * BLOCK
    }

    /// Panels of the vectors and of their gradients, and the pairs behind them.
    #[inline(always)]
    fn panels<T: Real>(&self, chunk: &Chunk<'_, T>) -> (Panel<T>, Panel<T>, *mut T) {
        let fields = self.vectors.next_multiple_of(TILE);
        let t = Panel { data: chunk.scratch, fields };
        // SAFETY: `scratch_len` elements belong to this chunk.
        unsafe {
            let d = Panel { data: t.data.add(self.dim * t.stride()), fields };
            (t, d, d.data.add(self.dim * d.stride()))
        }
    }

    /// Rows `first .. first + count` of input `j`, values or gradients.
    #[inline(always)]
    fn rows<T: Real>(
        &self,
        chunk: &Chunk<'_, T>,
        j: usize,
        grads: bool,
        first: usize,
        count: usize,
    ) -> Rows<T> {
        let buffer = chunk.program.inputs[self.inputs.range()][j].buffer;
        let dim = self.dim;
        let (fields, row_stride, (start, field_stride)) = if j == 0 && self.has_vector {
            let (start, stride) =
                if grads { chunk.row_grads_of(buffer) } else { chunk.rows_of(buffer) };
            (1, stride, (start, 0))
        } else {
            let place = if grads {
                chunk.field_grads_of(buffer, dim)
            } else {
                chunk.fields_of(buffer, dim)
            };
            (chunk.program.width(buffer), dim, place)
        };
        // SAFETY: the chunk has these rows.
        let first = unsafe { start.add(first * row_stride) };
        Rows { first, field_stride, row_stride, fields, dim, count }
    }

    /// Stacks all inputs of `count` rows.
    #[inline(always)]
    fn stack<T: Real, S: Simd>(
        &self,
        simd: S,
        chunk: &Chunk<'_, T>,
        panel: Panel<T>,
        first: usize,
        count: usize,
    ) {
        let mut position = 0;
        for j in 0..self.inputs.range().len() {
            let rows = self.rows(chunk, j, false, first, count);
            rows.load(simd, panel, position);
            position += rows.fields;
        }
    }

    /// Copies all vectors of one row, one behind the other.
    #[inline(always)]
    fn line_up<T: Real>(&self, chunk: &Chunk<'_, T>, mut target: *mut T, row: usize) {
        for j in 0..self.inputs.range().len() {
            let rows = self.rows(chunk, j, false, row, 1);
            for f in 0..rows.fields {
                // SAFETY: field `f` of the input; the scratch has room for all vectors.
                unsafe {
                    let vector = slice(rows.first.add(f * rows.field_stride), self.dim);
                    slice_mut(target, self.dim).copy_from_slice(vector);
                    target = target.add(self.dim);
                }
            }
        }
    }

    #[inline(always)]
    pub(crate) fn forward<T: Real, S: Simd>(&self, simd: S, chunk: &Chunk<'_, T>) {
        let (vectors, dim) = (self.vectors, self.dim);
        let (t, _, pairs) = self.panels(chunk);
        let (out, out_stride) = chunk.rows_of(self.out);
        let width = vectors * (vectors - 1) / 2;
        for first in (0..chunk.rows).step_by(BLOCK) {
            let count = BLOCK.min(chunk.rows - first);
            if one_by_one(count, vectors) {
                for row in first..first + count {
                    self.line_up(chunk, t.data, row);
                    // SAFETY: row `row` of the output; the scratch holds the vectors and the panel.
                    let (vectors_of_row, out) = unsafe { (t.data, out.add(row * out_stride)) };
                    simd.vectorize(RowGram {
                        simd,
                        shape: [vectors, dim],
                        vectors: vectors_of_row,
                        out,
                    });
                }
                continue;
            }
            self.stack(simd, chunk, t, first, count);
            for lane in (0..BLOCK).step_by(T::width::<S>()) {
                for i in (0..vectors).step_by(TILE) {
                    for j in (0..=i).step_by(TILE) {
                        // SAFETY: the panels are padded to whole tiles.
                        unsafe { tile_products(simd, t, dim, pairs, i, j, lane) };
                    }
                }
            }
            // SAFETY: rows of this chunk are padded to whole registers, as the pairs are.
            unsafe {
                copy_pairs(simd, out.add(first * out_stride), out_stride, pairs, width, count)
            };
        }
        crate::matmul::count_macs(chunk.rows * dim * vectors * vectors);
    }

    /// `dT_i = sum_{j<i} g_ij T_j + sum_{j>i} g_ji T_j`.
    #[inline(always)]
    pub(crate) fn backward<T: Real, S: Simd>(&self, simd: S, chunk: &Chunk<'_, T>) {
        let (vectors, dim) = (self.vectors, self.dim);
        let (t, d, pairs) = self.panels(chunk);
        let (dout, dout_stride) = chunk.row_grads_of(self.out);
        let width = vectors * (vectors - 1) / 2;
        for first in (0..chunk.rows).step_by(BLOCK) {
            let count = BLOCK.min(chunk.rows - first);
            for (j, input) in chunk.program.inputs[self.inputs.range()].iter().enumerate() {
                if input.grad {
                    self.rows(chunk, j, true, first, count).ask();
                }
            }
            self.stack(simd, chunk, t, first, count);
            // SAFETY: as in forward.
            unsafe {
                let dout = dout.add(first * dout_stride).cast_const();
                load_pairs(simd, dout, dout_stride, pairs, width, count);
                for lane in (0..BLOCK).step_by(T::width::<S>()) {
                    for i in (0..vectors).step_by(TILE) {
                        let mut e = 0;
                        while e + TILE <= dim {
                            tile_gradients::<T, S, TILE>(simd, [t, d], vectors, pairs, i, e, lane);
                            e += TILE;
                        }
                        while e < dim {
                            tile_gradients::<T, S, 1>(simd, [t, d], vectors, pairs, i, e, lane);
                            e += 1;
                        }
                    }
                }
            }
            let mut position = 0;
            for (j, input) in chunk.program.inputs[self.inputs.range()].iter().enumerate() {
                let rows = self.rows(chunk, j, true, first, count);
                if input.grad {
                    rows.store(simd, d, position, T::ONE, input.accumulate);
                }
                position += rows.fields;
            }
        }
    }
}

/// Vectors of a register tile: 4 x 4 sums, 4 + 4 operands.
pub(super) const TILE: usize = 4;

/// Place of the pair (i, j), j < i.
#[inline(always)]
pub(super) fn pair(i: usize, j: usize) -> usize {
    i * (i - 1) / 2 + j
}

/// Products of vectors `i ..` with vectors `j ..`, for a register of rows; pairs at or above the
/// diagonal are dropped.
///
/// # Safety
/// The panel has `dim` channels, and both are padded to whole tiles.
#[inline(always)]
unsafe fn tile_products<T: Real, S: Simd>(
    simd: S,
    t: Panel<T>,
    dim: usize,
    pairs: *mut T,
    i: usize,
    j: usize,
    lane: usize,
) {
    let mut acc = [[T::splat(simd, T::ZERO); TILE]; TILE];
    for e in 0..dim {
        let mut right = [T::splat(simd, T::ZERO); TILE];
        for b in 0..TILE {
            right[b] = t.get(simd, e, j + b, lane);
        }
        for a in 0..TILE {
            let left = t.get(simd, e, i + a, lane);
            for b in 0..TILE {
                acc[a][b] = T::fma(simd, left, right[b], acc[a][b]);
            }
        }
    }
    for a in 0..TILE {
        for b in 0..TILE {
            if j + b < i + a {
                // SAFETY: the pair's sixteen rows.
                unsafe {
                    T::store(simd, pairs.add(pair(i + a, j + b) * BLOCK + lane), acc[a][b]);
                }
            }
        }
    }
}

/// Gradients of `E` channels from `e` of vectors `i ..`, for a register of rows.
///
/// # Safety
/// As for [`tile_products`].
#[inline(always)]
unsafe fn tile_gradients<T: Real, S: Simd, const E: usize>(
    simd: S,
    [t, d]: [Panel<T>; 2],
    vectors: usize,
    pairs: *const T,
    i: usize,
    e: usize,
    lane: usize,
) {
    let mut acc = [[T::splat(simd, T::ZERO); E]; TILE];
    let mut starts = [0; TILE];
    for a in 0..TILE {
        starts[a] = (i + a) * (i + a).saturating_sub(1) / 2;
    }
    let mut start = 0;
    for j in 0..vectors {
        let mut other = [T::splat(simd, T::ZERO); E];
        for c in 0..E {
            other[c] = t.get(simd, e + c, j, lane);
        }
        for a in 0..TILE {
            let own = i + a;
            if own == j {
                continue;
            }
            let place = if j < own { starts[a] + j } else { start + own };
            // SAFETY: the pair's sixteen rows.
            let g = unsafe { T::load(simd, pairs.add(place * BLOCK + lane)) };
            for c in 0..E {
                acc[a][c] = T::fma(simd, g, other[c], acc[a][c]);
            }
        }
        start += j;
    }
    for a in 0..TILE {
        for c in 0..E {
            // SAFETY: channel `e + c` of vector `i + a`.
            unsafe { T::store(simd, d.at(e + c, i + a).add(lane), acc[a][c]) };
        }
    }
}

/// Writes `width` pairs of `count` rows, `[pairs][16]`, to rows `stride` apart.
///
/// # Safety
/// Rows and pairs must have room for whole registers.
#[inline(always)]
unsafe fn copy_pairs<T: Real, S: Simd>(
    simd: S,
    rows: *mut T,
    stride: usize,
    pairs: *const T,
    width: usize,
    count: usize,
) {
    for p in (0..width).step_by(BLOCK) {
        // SAFETY: passed on to the caller.
        unsafe {
            if count == BLOCK {
                T::transpose(simd, (pairs.add(p * BLOCK), BLOCK), (rows.add(p), stride));
                continue;
            }
            for p in p..width.min(p + BLOCK) {
                for l in 0..count {
                    *rows.add(l * stride + p) = *pairs.add(p * BLOCK + l);
                }
            }
        }
    }
}

/// Reads `width` pairs of `count` rows that are `stride` apart; rows past them are zero.
///
/// # Safety
/// As for [`copy_pairs`].
#[inline(always)]
unsafe fn load_pairs<T: Real, S: Simd>(
    simd: S,
    rows: *const T,
    stride: usize,
    pairs: *mut T,
    width: usize,
    count: usize,
) {
    for p in (0..width).step_by(BLOCK) {
        // SAFETY: passed on to the caller.
        unsafe {
            if count == BLOCK {
                T::transpose(simd, (rows.add(p), stride), (pairs.add(p * BLOCK), BLOCK));
                continue;
            }
            for p in p..width.min(p + BLOCK) {
                for l in 0..BLOCK {
                    let live = l < count;
                    *pairs.add(p * BLOCK + l) =
                        if live { *rows.add(l * stride + p) } else { T::ZERO };
                }
            }
        }
    }
}
