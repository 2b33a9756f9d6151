//! Panels: sixteen rows of fields with the channels first.

use pulp::Simd;

use crate::Real;
use crate::chunk::slice_mut;
use crate::lanes::put;
use crate::memory::prefetch_to_write;
use crate::simd::BLOCK;

/// Sixteen rows of a tensor with channels first, `[channels][fields][16]`: kernels work on
/// sixteen rows at once, so that no sum runs across a register.
///
/// Channels are one block more than `fields` apart, since 64 fields would otherwise put all
/// channels of a field into one set of the first-level cache.
#[derive(Clone, Copy)]
pub(super) struct Panel<T> {
    pub data: *mut T,
    pub fields: usize,
}

impl<T: Real> Panel<T> {
    /// Elements from channel to channel.
    #[inline(always)]
    pub fn stride(self) -> usize {
        (self.fields + 1) * BLOCK
    }

    /// Sixteen rows of one channel of one field.
    #[inline(always)]
    pub fn at(self, channel: usize, field: usize) -> *mut T {
        // SAFETY: the panel has this channel and field.
        unsafe { self.data.add(channel * self.stride() + field * BLOCK) }
    }

    /// A register of rows from `lane`.
    ///
    /// A method and not a closure: a closure with several callers is not inlined, and then loses
    /// the instruction set.
    #[inline(always)]
    pub fn get<S: Simd>(
        self,
        simd: S,
        channel: usize,
        field: usize,
        lane: usize,
    ) -> T::Register<S> {
        // SAFETY: the panel has this channel and field, and a register ends within 16 rows.
        unsafe { T::load(simd, self.at(channel, field).add(lane)) }
    }

    /// `max_f |x|` of one channel over all sixteen rows.
    #[inline(always)]
    pub fn largest(self, channel: usize) -> f64 {
        let mut lanes = [T::ZERO; 2 * BLOCK];
        // SAFETY: all fields of one channel.
        let elements = unsafe { slice_mut(self.at(channel, 0), self.fields * BLOCK) };
        for x in elements.chunks(2 * BLOCK) {
            for (m, &x) in lanes.iter_mut().zip(x) {
                let magnitude = if x < T::ZERO { -x } else { x };
                // A lost NaN does no harm: its scores are NaN with any shift.
                *m = if magnitude < *m { *m } else { magnitude };
            }
        }
        let mut largest = 0.0;
        for x in lanes {
            largest = if x.to_f64() < largest { largest } else { x.to_f64() };
        }
        largest
    }

    /// All elements of `channels` channels.
    #[inline(always)]
    pub fn elements<'a>(self, channels: usize) -> &'a mut [T] {
        // SAFETY: the panel has this many channels, and only its chunk sees it.
        unsafe { slice_mut(self.data, channels * self.stride()) }
    }
}

/// Whether `count` rows with their `fields` fields in the lanes, one row after the other, fill
/// fewer registers than sixteen rows at once.
#[inline(always)]
pub(super) fn one_by_one(count: usize, fields: usize) -> bool {
    count * fields.div_ceil(BLOCK) < fields
}

/// `count` rows, at most sixteen, of `fields` fields.
#[derive(Clone, Copy)]
pub(super) struct Rows<T> {
    pub first: *mut T,
    pub field_stride: usize,
    pub row_stride: usize,
    pub fields: usize,
    pub dim: usize,
    pub count: usize,
}

impl<T: Real> Rows<T> {
    /// `fields` vectors of one row, the first at `first.0` and `first.1` from one to the next, as
    /// if they were rows: whole blocks of sixteen and the rest, each with its first block.
    #[inline(always)]
    pub fn of_one_row(first: (*mut T, usize), fields: usize, dim: usize) -> [(Self, usize); 2] {
        let (first, row_stride) = first;
        let (whole, rest) = (fields / BLOCK, fields % BLOCK);
        let field_stride = BLOCK * row_stride;
        let blocks = Self { first, field_stride, row_stride, fields: whole, dim, count: BLOCK };
        let first = first.wrapping_add(whole * field_stride);
        [(blocks, 0), (Self { first, fields: rest.min(1), count: rest, ..blocks }, whole)]
    }

    /// Fills the panel's fields from `start`.
    #[inline(always)]
    pub fn load<S: Simd>(self, simd: S, panel: Panel<T>, start: usize) {
        for f in 0..self.fields {
            // SAFETY: field `f` of these rows, and all channels of the panel.
            unsafe {
                let source = self.first.add(f * self.field_stride);
                if self.count == BLOCK && self.dim.is_multiple_of(BLOCK) {
                    for c in (0..self.dim).step_by(BLOCK) {
                        let target = (panel.at(c, start + f), panel.stride());
                        T::transpose(simd, (source.add(c), self.row_stride), target);
                    }
                    continue;
                }
                for c in 0..self.dim {
                    let lanes = slice_mut(panel.at(c, start + f), BLOCK);
                    for (l, lane) in lanes.iter_mut().enumerate() {
                        let live = l < self.count;
                        *lane = if live { *source.add(l * self.row_stride + c) } else { T::ZERO };
                    }
                }
            }
        }
    }

    /// Asks for the rows in time before they are written: fields lie apart, so that nothing guesses
    /// where the next is.
    #[inline(always)]
    pub fn ask(self) {
        for f in 0..self.fields {
            for r in 0..self.count {
                let row = self.first.wrapping_add(f * self.field_stride + r * self.row_stride);
                for c in (0..self.dim).step_by(BLOCK) {
                    prefetch_to_write(row.wrapping_add(c).cast_const());
                }
            }
        }
    }

    /// Writes or adds the panel's fields from `start`, times `factor`.
    #[inline(always)]
    pub fn store<S: Simd>(
        self,
        simd: S,
        panel: Panel<T>,
        start: usize,
        factor: T,
        accumulate: bool,
    ) {
        let mut block = [T::ZERO; BLOCK * BLOCK];
        for f in 0..self.fields {
            for c in (0..self.dim).step_by(BLOCK) {
                let width = BLOCK.min(self.dim - c);
                let source = (panel.at(c, start + f).cast_const(), panel.stride());
                if width == BLOCK && self.count == BLOCK && factor == T::ONE && !accumulate {
                    let place = self.first.wrapping_add(f * self.field_stride + c);
                    // SAFETY: sixteen channels of the panel into sixteen of each row.
                    unsafe { T::transpose(simd, source, (place, self.row_stride)) };
                    continue;
                }
                if width == BLOCK {
                    // SAFETY: sixteen channels of the panel into a block of that size.
                    unsafe { T::transpose(simd, source, (block.as_mut_ptr(), BLOCK)) };
                } else {
                    for i in 0..width {
                        for l in 0..BLOCK {
                            // SAFETY: channel `c + i` of the panel.
                            block[l * BLOCK + i] = unsafe { *panel.at(c + i, start + f).add(l) };
                        }
                    }
                }
                for (l, row) in block.chunks_exact(BLOCK).enumerate().take(self.count) {
                    let place = f * self.field_stride + l * self.row_stride + c;
                    // SAFETY: `width` channels of row `l`.
                    let target = unsafe { slice_mut(self.first.add(place), width) };
                    for (t, &x) in target.iter_mut().zip(row) {
                        put(t, x * factor, accumulate);
                    }
                }
            }
        }
    }

    /// Copies the live rows of a panel of `dim` channels, one channel behind the other, from the
    /// panel or back into it.
    #[inline(always)]
    pub fn copy_lanes(self, panel: Panel<T>, to_panel: bool) {
        for f in 0..panel.fields {
            for c in 0..self.dim {
                // SAFETY: `count * dim` elements of field `f`, and all channels of the panel.
                let (kept, lanes) = unsafe {
                    let kept = self.first.add(f * self.field_stride + c * self.count);
                    (slice_mut(kept, self.count), slice_mut(panel.at(c, f), BLOCK))
                };
                if to_panel {
                    lanes.fill(T::ZERO);
                    lanes[..self.count].copy_from_slice(kept);
                } else {
                    kept.copy_from_slice(&lanes[..self.count]);
                }
            }
        }
    }
}
