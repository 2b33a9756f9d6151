//! What an operator sees of a step: a chunk of the batch's rows.

use std::ops::Range;

use pulp::Simd;

use crate::matmul::{COLUMNS, Panels, Precision, Strided, lay_out, panel_len};
use crate::ops::{Linear, Op};
use crate::panels::FORWARD;
use crate::params::ParamStore;
use crate::program::{Buffer, BufferId, Extent, Input, Program, SliceId};
use crate::tables::Tables;
use crate::{Batch, Real};

/// Rows `first .. first + rows` of the batch, and where their numbers are.
///
/// Chunks of one step run on different threads and share the arenas through
/// raw pointers; each touches only its own rows (or the arenas of its thread), its own partial sums
/// and its own scratch, which is what makes the accesses of operators sound.
pub(crate) struct Chunk<'a, T> {
    pub program: &'a Program,
    pub params: &'a ParamStore<T>,
    /// The parameters of heads: the same store, or one of their own.
    pub heads: &'a ParamStore<T>,
    pub tables: &'a Tables<T>,
    pub batch: &'a Batch<'a, T>,
    pub values: *mut T,
    pub grads: *mut T,
    pub partials: *mut T,
    pub scratch: *mut T,
    pub first: usize,
    /// Row of the buffers where the chunk's rows begin: `first`, or 0 where it has arenas of its own.
    pub at: usize,
    pub rows: usize,
    /// The first row in passing buffers.
    pub slot_row: usize,
    pub precision: Precision,
    pub panels: PanelArenas<T>,
}

/// Where panels lie ([`crate::panels`]); all null where the batch is one chunk.
#[derive(Clone, Copy)]
pub(crate) struct PanelArenas<T> {
    pub weights: *const T,
    /// Null where no weight gradients are wanted.
    pub values: *mut T,
    pub grads: *mut T,
}

/// Rows of a buffer as products read and write them: whole, or cut into panels.
#[derive(Clone, Copy)]
pub(crate) struct Place<T> {
    /// The chunk's first row, and elements from one to the next.
    pub rows: (*mut T, usize),
    /// [`Product::gaps`](crate::matmul::Product).
    pub gap: usize,
}

impl<T: Real> Chunk<'_, T> {
    /// The place of this chunk's first row among the rows that a buffer holds.
    #[inline(always)]
    pub fn first_row(&self, buffer: &Buffer) -> usize {
        if buffer.passing { self.slot_row } else { self.at }
    }

    /// Values of a rows buffer: pointer to this chunk's first row, and the stride between rows.
    #[inline(always)]
    pub fn rows_of(&self, id: BufferId) -> (*mut T, usize) {
        let b = self.program.buffer(id);
        // SAFETY: `place` reserved `rows * stride` elements at `offset`.
        (unsafe { self.values.add(b.offset + self.first_row(b) * b.stride) }, b.stride)
    }

    /// Gradients of a rows buffer.
    #[inline(always)]
    pub fn row_grads_of(&self, id: BufferId) -> (*mut T, usize) {
        let b = self.program.buffer(id);
        // SAFETY: the gradient arena has the layout of the values.
        (unsafe { self.grads.add(b.offset + self.first_row(b) * b.stride) }, b.stride)
    }

    /// The layer whose output `id` is, where this step keeps that in panels alone.
    #[inline(always)]
    pub fn layer_of(&self, id: BufferId) -> Option<&Linear> {
        let exist = self.precision == Precision::F32 && !self.panels.grads.is_null();
        let layer = self.program.buffer(id).layer.filter(|_| exist)?;
        match &self.program.ops[layer as usize] {
            Op::Linear(layer) => Some(layer),
            _ => None,
        }
    }

    /// Values of a rows buffer where this step keeps them.
    #[inline(always)]
    pub fn values_of(&self, id: BufferId) -> Place<T> {
        match self.layer_of(id) {
            Some(_) => self.in_panels(self.panels.values, id),
            None => Place { rows: self.rows_of(id), gap: 0 },
        }
    }

    /// Gradients of a rows buffer where this step keeps them.
    #[inline(always)]
    pub fn gradients_of(&self, id: BufferId) -> Place<T> {
        match self.layer_of(id) {
            Some(_) => self.in_panels(self.panels.grads, id),
            None => Place { rows: self.row_grads_of(id), gap: 0 },
        }
    }

    #[inline(always)]
    fn in_panels(&self, arena: *mut T, id: BufferId) -> Place<T> {
        let first = self.program.buffer(id).panels + self.first * COLUMNS;
        let gap = panel_len(self.precision, self.batch.rows) - COLUMNS;
        Place { rows: (arena.wrapping_add(first), COLUMNS), gap }
    }

    /// The first vector of channels of this chunk in a field, or in a list.
    #[inline(always)]
    pub fn first_vector(&self, buffer: &Buffer) -> usize {
        match buffer.extent {
            Extent::Jagged { list, .. } => self.batch.lists[list].offsets[self.first],
            _ => self.first_row(buffer),
        }
    }

    /// Vectors of channels that this chunk has in every field, or in a list.
    #[inline(always)]
    pub fn vectors(&self, id: BufferId) -> usize {
        match self.program.buffer(id).extent {
            Extent::Jagged { list, .. } => self.list_ids(list).len(),
            _ => self.rows,
        }
    }

    /// Table rows of this chunk's values of a list.
    #[inline(always)]
    pub fn list_ids(&self, list: usize) -> &[u32] {
        let list = &self.batch.lists[list];
        &list.ids[list.offsets[self.first]..list.offsets[self.first + self.rows]]
    }

    /// Which of this chunk's values of a list belong to its row `row`.
    #[inline(always)]
    pub fn list_row(&self, list: usize, row: usize) -> Range<usize> {
        let offsets = &self.batch.lists[list].offsets[self.first..];
        offsets[row] - offsets[0]..offsets[row + 1] - offsets[0]
    }

    /// Values of a fields buffer with `dim` channels: pointer to this chunk's first row of
    /// field 0, and the stride between fields. A list is one field of all values.
    #[inline(always)]
    pub fn fields_of(&self, id: BufferId, dim: usize) -> (*mut T, usize) {
        let b = self.program.buffer(id);
        let first = self.first_vector(b);
        // SAFETY: `place` reserved `fields * stride` elements at `offset`.
        (unsafe { self.values.add(b.offset + first * dim) }, b.stride)
    }

    /// Gradients of a fields buffer.
    #[inline(always)]
    pub fn field_grads_of(&self, id: BufferId, dim: usize) -> (*mut T, usize) {
        let b = self.program.buffer(id);
        let first = self.first_vector(b);
        // SAFETY: the gradient arena has the layout of the values.
        (unsafe { self.grads.add(b.offset + first * dim) }, b.stride)
    }

    /// A weight slice as a row-major matrix.
    #[inline(always)]
    pub fn weight(&self, id: SliceId) -> Strided<*const T> {
        self.weight_in(self.params, id)
    }

    /// A weight slice of the parameters in `store`.
    #[inline(always)]
    pub fn weight_in(&self, store: &ParamStore<T>, id: SliceId) -> Strided<*const T> {
        let slice = self.program.weight_slice(id);
        let spec = store.layout().spec(slice.param);
        debug_assert!(slice.rows <= spec.rows && slice.cols <= spec.cols);
        let pointer = store.values.as_slice()[spec.offset..].as_ptr();
        Strided::row_major(pointer, spec.stride)
    }

    /// Panels of a fully connected layer's weights, in one of two directions.
    #[inline(always)]
    pub fn weight_panels(&self, id: SliceId, direction: usize) -> Option<Panels<T>> {
        let slice = self.program.weight_slice(id);
        let terms = if direction == FORWARD { slice.cols } else { slice.rows };
        let pointer = self.panels.weights.wrapping_add(slice.panels[direction]);
        let exist = !self.panels.weights.is_null();
        exist.then(|| Panels::new(pointer, self.precision, terms))
    }

    /// Panels of the values of an input of a fully connected layer, over the whole batch.
    #[inline(always)]
    pub fn value_panels(&self, id: BufferId) -> Option<Panels<T>> {
        self.panels_of(self.panels.values, id)
    }

    /// Panels of the gradient of a fully connected layer's output, over the whole batch.
    #[inline(always)]
    pub fn grad_panels(&self, id: BufferId) -> Option<Panels<T>> {
        self.panels_of(self.panels.grads, id)
    }

    #[inline(always)]
    fn panels_of(&self, arena: *mut T, id: BufferId) -> Option<Panels<T>> {
        let pointer = arena.wrapping_add(self.program.buffer(id).panels).cast_const();
        (!arena.is_null()).then(|| Panels::new(pointer, self.precision, self.batch.rows))
    }

    /// Lays this chunk's rows of an input out, where `input` is its first use.
    #[inline(always)]
    pub fn lay_out_values<S: Simd>(&self, simd: S, input: &Input) {
        let wanted = input.packs && !self.panels.values.is_null();
        if wanted && self.layer_of(input.buffer).is_none() {
            let (x, id) = (self.rows_of(input.buffer), input.buffer);
            self.lay_out_rows(simd, x, id, self.panels.values, 0..self.rows);
        }
    }

    /// Lays these of the chunk's rows of the gradient of `id` out. They begin at an even one.
    #[inline(always)]
    pub fn lay_out_grads<S: Simd>(&self, simd: S, id: BufferId, rows: Range<usize>) {
        if !self.panels.grads.is_null() {
            self.lay_out_rows(simd, self.row_grads_of(id), id, self.panels.grads, rows);
        }
    }

    #[inline(always)]
    fn lay_out_rows<S: Simd>(
        &self,
        simd: S,
        (x, stride): (*mut T, usize),
        id: BufferId,
        arena: *mut T,
        rows: Range<usize>,
    ) {
        let shape = [rows.len(), self.program.width(id)];
        let terms = match self.precision {
            Precision::F32 => self.first + rows.start,
            Precision::Bf16 => (self.first + rows.start) / 2,
        };
        let first = self.program.buffer(id).panels + terms * COLUMNS;
        // SAFETY: `place_panels` reserved the panels; chunks begin at even rows, as `rows` does, so
        // that each owns its pairs of rows.
        unsafe {
            let target = (arena.add(first), panel_len(self.precision, self.batch.rows));
            let source = Strided::row_major(x.add(rows.start * stride).cast_const(), stride);
            lay_out(simd, self.precision, source, shape, target);
        }
    }

    /// The weights of a one-row slice.
    #[inline(always)]
    pub fn vector(&self, id: SliceId) -> &[T] {
        self.vector_in(self.params, id)
    }

    /// The weights of a one-row slice of the parameters in `store`.
    #[inline(always)]
    pub fn vector_in<'s>(&self, store: &'s ParamStore<T>, id: SliceId) -> &'s [T] {
        let slice = self.program.weight_slice(id);
        let spec = store.layout().spec(slice.param);
        &store.values.as_slice()[spec.offset..spec.offset + slice.cols]
    }

    /// This chunk's partial sums for a slice.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // disjoint by construction: one slice, one operator, one chunk
    pub fn partial(&self, id: SliceId) -> &mut [T] {
        let slice = self.program.weight_slice(id);
        let crate::program::GradSource::Partial { offset } = slice.source else {
            unreachable!("the slice's gradient is a product over the batch")
        };
        // SAFETY: `add_slice` reserved these elements for this slice alone.
        unsafe {
            std::slice::from_raw_parts_mut(self.partials.add(offset), slice.rows * slice.cols)
        }
    }
}

/// `len` elements from `pointer`.
///
/// # Safety
/// As for [`std::slice::from_raw_parts`].
#[inline(always)]
pub(crate) unsafe fn slice<'a, T>(pointer: *const T, len: usize) -> &'a [T] {
    // SAFETY: passed on to the caller.
    unsafe { std::slice::from_raw_parts(pointer, len) }
}

/// `len` elements from `pointer`.
///
/// # Safety
/// As for [`std::slice::from_raw_parts_mut`].
#[inline(always)]
pub(crate) unsafe fn slice_mut<'a, T>(pointer: *mut T, len: usize) -> &'a mut [T] {
    // SAFETY: passed on to the caller.
    unsafe { std::slice::from_raw_parts_mut(pointer, len) }
}
