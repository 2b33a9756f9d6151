//! Programs: a network as a list of typed operators on virtual buffers.
//!
//! Shapes are static except the number of rows (the batch). A program owns no
//! numbers: buffers are offsets into the executor's arenas, weights are slices
//! of a [`ParamStore`](crate::ParamStore). Building one reuses the vectors of
//! the last, so that a training step over fresh paths allocates nothing.

use crate::EngineError;
use crate::executor::CHUNK_ROWS;
use crate::ops::{Head, Op};
use crate::params::ParamId;
use crate::sharing::{Ends, Known};

/// A virtual buffer of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferId(pub(crate) u32);

/// What a buffer holds for every row of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// A vector: `[rows, width]`, row-major.
    Rows {
        /// Elements a row.
        width: usize,
    },
    /// A vector of `dim` channels for each field: `[fields, rows, dim]`.
    ///
    /// Fields come first, so that mixing fields is one wide product, `[s, n] x
    /// [n, rows * dim]`, and concatenating along the fields moves nothing.
    Fields {
        /// Number of fields.
        fields: usize,
        /// Channels of a field.
        dim: usize,
    },
    /// A vector of `dim` channels for each value of a list: `[values, dim]`.
    Jagged {
        /// Index of the list in the batch.
        list: usize,
        /// Channels of a value.
        dim: usize,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    pub extent: Extent,
    /// Whether anything trainable lies behind it.
    pub needs_grad: bool,
    /// Rows: elements from row to row. Fields: elements from field to field.
    pub stride: usize,
    pub offset: usize,
    /// Whether any operator reads it; tables behind an unread embedding get no gradient.
    pub read: bool,
    /// Whether it holds the rows of the chunks that run at a time, and not all of the batch.
    pub passing: bool,
    /// Where its panels lie, for a factor of a fully connected layer's weight gradient.
    pub panels: usize,
    /// Which operator writes it, where that is a fully connected layer without a norm and none but
    /// such layers read it: a step in f32 keeps it in its panels alone.
    pub layer: Option<u32>,
}

impl Buffer {
    /// Chooses the stride for `rows` rows; returns the buffer's elements, or nothing where they
    /// cannot be addressed.
    fn set_stride(&mut self, rows: usize, lists: &[(usize, usize)]) -> Option<usize> {
        match self.extent {
            Extent::Rows { width } => {
                self.stride = crate::params::padded(width);
                (width <= LARGEST_EXTENT).then(|| rows.checked_mul(self.stride)).flatten()
            }
            Extent::Fields { fields, dim } => {
                // An odd number of cache lines from field to field: the fields of one row
                // then spread over all sets of the first-level cache.
                let lines = rows.checked_mul(dim).map(|elements| elements.div_ceil(16));
                let stride = lines.and_then(|lines| (lines | 1).checked_mul(16));
                self.stride = stride.unwrap_or(usize::MAX);
                (fields.max(dim) <= LARGEST_EXTENT)
                    .then(|| fields.checked_mul(self.stride))
                    .flatten()
            }
            Extent::Jagged { list, dim } => {
                // Whole cache lines, so that the next buffer starts on one.
                let values = lists.get(list).map_or(0, |list| list.0);
                let elements = values.checked_mul(dim).filter(|_| dim <= LARGEST_EXTENT);
                let elements = elements.and_then(|n| n.checked_next_multiple_of(16));
                self.stride = elements.unwrap_or(usize::MAX);
                elements
            }
        }
    }

    /// Elements of `rows` rows; a list counts as if it had no values.
    pub(crate) fn elements(&self, rows: usize) -> u64 {
        let rows = rows as u64;
        match self.extent {
            Extent::Rows { width } => rows * crate::params::padded(width) as u64,
            Extent::Fields { fields, dim } => {
                fields as u64 * ((rows * dim as u64).div_ceil(16) | 1) * 16
            }
            Extent::Jagged { .. } => 0,
        }
    }
}

/// One use of a buffer by an operator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input {
    pub buffer: BufferId,
    /// Whether backward must write a gradient for it.
    pub grad: bool,
    /// Whether that gradient adds to an earlier one.
    pub accumulate: bool,
    /// Whether that gradient is the last one.
    pub closes: bool,
    /// Whether this use is the one that lays the buffer out in panels.
    pub packs: bool,
}

/// Consecutive entries of one of a program's pools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub(crate) start: u32,
    pub(crate) len: u32,
}

impl Span {
    pub(crate) fn range(self) -> std::ops::Range<usize> {
        self.start as usize..(self.start + self.len) as usize
    }
}

/// Where the gradient of a weight slice comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum GradSource {
    /// A product over the whole batch, done by operator `op` for its input `input`.
    Product { op: u32, input: u32 },
    /// The sum over chunks of what each chunk left at this offset.
    Partial { offset: usize },
}

/// The part of a parameter that a program uses: its first `rows` rows and `cols` columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WeightSlice {
    pub param: ParamId,
    pub rows: usize,
    pub cols: usize,
    /// Offset of the contiguous gradient `[rows, grad_stride]`.
    pub grad: usize,
    pub grad_stride: usize,
    pub source: GradSource,
    /// Where the panels of its transpose and its own lie, for a fully connected layer's weights.
    pub panels: [usize; 2],
    /// Whether they are laid out for this slice, and not for an earlier one of the same weights.
    pub packs: bool,
}

/// Index of a [`WeightSlice`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceId(pub(crate) u32);

/// Layer normalisation of an operator's output: `y = (x - mean) / sqrt(var + 1e-5) * scale + shift`.
#[derive(Clone, Copy, Debug)]
pub struct NormSlices {
    /// Scale, one an element of the normalised axis.
    pub scale: SliceId,
    /// Shift, likewise.
    pub shift: SliceId,
    /// Mean and reciprocal standard deviation.
    pub(crate) stats: BufferId,
}

/// Most elements of a vector, fields of a tensor or channels of a field: with it, products of two
/// extents and of the rows of a batch stay far from overflow.
const LARGEST_EXTENT: usize = 1 << 24;

/// Added to the variance (PyTorch's default).
pub const NORM_EPSILON: f64 = 1e-5;

/// A network as a list of operators; see the [module](self).
#[derive(Default)]
pub struct Program {
    pub(crate) buffers: Vec<Buffer>,
    pub(crate) ops: Vec<Op>,
    pub(crate) inputs: Vec<Input>,
    pub(crate) weights: Vec<SliceId>,
    pub(crate) slices: Vec<WeightSlice>,
    /// Elements of each chunk's partial sums.
    pub(crate) partial_len: usize,
    pub(crate) grad_len: usize,
    pub(crate) scratch_len: usize,
    pub(crate) arena_len: usize,
    /// Elements of the panels of weights and of buffers.
    pub(crate) panels_len: [usize; 2],
    /// Chunks that may run at a time: each has a slot in passing buffers and in scratch.
    pub(crate) slots: usize,
    /// Rows that the buffers were placed for, and whether for predictions of several chunks; `None`
    /// since an operator was added.
    placed: Option<(usize, bool)>,
    /// Values and longest row of each list that the buffers were placed for.
    placed_lists: Vec<(usize, usize)>,
    /// Scratch that depends on the lists.
    list_scratch_len: usize,
    /// Where the pools ended after the last operator.
    pub(crate) ends: Ends,
    /// Buffers that there were after each operator.
    pub(crate) buffers_after: Vec<u32>,
    /// The operators so far, where equal ones are not to be added again.
    pub(crate) known: Option<Known>,
    pub(crate) seen: Vec<bool>,
}

/// Chunks of `rows` rows that `threads` threads run at a time.
pub(crate) fn slots(rows: usize, threads: usize) -> usize {
    rows.div_ceil(CHUNK_ROWS).min(threads)
}

/// Rows of a passing buffer: those of all slots, or of the only chunk.
pub(crate) fn passing_rows(rows: usize, slots: usize) -> usize {
    if rows <= CHUNK_ROWS { rows } else { slots * CHUNK_ROWS }
}

impl Program {
    /// An empty program.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets everything but the memory it occupies.
    pub fn clear(&mut self) {
        self.buffers.clear();
        self.ops.clear();
        self.inputs.clear();
        self.weights.clear();
        self.slices.clear();
        self.partial_len = 0;
        self.grad_len = 0;
        self.scratch_len = 0;
        self.ends = Ends::default();
        self.buffers_after.clear();
        self.known = None;
        self.arena_len = 0;
        self.panels_len = [0; 2];
        self.placed = None;
    }

    /// Multiply-accumulates of one row's forward pass, products only. Of a list one value counts:
    /// how many there are is a matter of the data.
    pub fn macs(&self) -> u64 {
        self.ops.iter().map(|op| op.macs(self)).sum()
    }

    /// Weights that a row passes through, embeddings not counted.
    pub fn active_params(&self) -> u64 {
        self.slices.iter().map(|s| (s.rows * s.cols) as u64).sum()
    }

    /// Operators, in order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The heads, in order.
    pub(crate) fn heads(&self) -> impl DoubleEndedIterator<Item = &Head> {
        self.ops.iter().filter_map(|op| if let Op::Head(head) = op { Some(head) } else { None })
    }

    /// What `buffer` holds.
    pub fn extent(&self, buffer: BufferId) -> Extent {
        self.buffers[buffer.0 as usize].extent
    }

    /// What each buffer holds, in the order of their making.
    pub fn extents(&self) -> impl ExactSizeIterator<Item = Extent> + '_ {
        self.buffers.iter().map(|buffer| buffer.extent)
    }

    /// Width of a rows buffer, or fields of a fields buffer; a list is one field.
    pub fn width(&self, buffer: BufferId) -> usize {
        match self.extent(buffer) {
            Extent::Rows { width } => width,
            Extent::Fields { fields, .. } => fields,
            Extent::Jagged { .. } => 1,
        }
    }

    /// Buffers read by an operator.
    pub fn inputs(&self, span: Span) -> impl ExactSizeIterator<Item = BufferId> + '_ {
        self.inputs[span.range()].iter().map(|input| input.buffer)
    }

    /// Weight slices of an operator with several inputs, parallel to its inputs.
    pub fn weights(&self, span: Span) -> &[SliceId] {
        &self.weights[span.range()]
    }

    /// Parameter, rows and columns of a weight slice.
    pub fn slice(&self, id: SliceId) -> (ParamId, usize, usize) {
        let s = &self.slices[id.0 as usize];
        (s.param, s.rows, s.cols)
    }

    /// All weight slices.
    pub fn slice_ids(&self) -> impl Iterator<Item = SliceId> + use<> {
        (0..self.slices.len() as u32).map(SliceId)
    }

    /// Whether the buffers have their places for such a batch.
    pub(crate) fn is_placed(
        &self,
        rows: usize,
        predicting: bool,
        lists: impl Iterator<Item = (usize, usize)>,
    ) -> bool {
        self.placed == Some((rows, predicting && rows > CHUNK_ROWS))
            && self.slots == slots(rows, rayon::current_num_threads())
            && self.placed_lists.iter().copied().eq(lists)
    }

    /// Elements of each chunk's scratch.
    pub(crate) fn scratch(&self) -> usize {
        self.scratch_len.max(self.list_scratch_len)
    }

    pub(crate) fn buffer(&self, id: BufferId) -> &Buffer {
        &self.buffers[id.0 as usize]
    }

    pub(crate) fn weight_slice(&self, id: SliceId) -> &WeightSlice {
        &self.slices[id.0 as usize]
    }

    pub(crate) fn add_buffer(&mut self, extent: Extent, needs_grad: bool) -> BufferId {
        let id = BufferId(self.buffers.len() as u32);
        self.placed = None;
        self.buffers.push(Buffer {
            extent,
            needs_grad,
            stride: 0,
            offset: 0,
            read: false,
            passing: false,
            panels: crate::panels::NOWHERE,
            layer: None,
        });
        id
    }

    pub(crate) fn add_inputs(&mut self, buffers: impl IntoIterator<Item = BufferId>) -> Span {
        let start = self.inputs.len();
        for buffer in buffers {
            let flags =
                Input { buffer, grad: false, accumulate: false, closes: false, packs: false };
            self.inputs.push(flags);
        }
        Span { start: start as u32, len: (self.inputs.len() - start) as u32 }
    }

    pub(crate) fn add_slice(
        &mut self,
        param: ParamId,
        rows: usize,
        cols: usize,
        partial: bool,
        input: u32,
    ) -> SliceId {
        let id = SliceId(self.slices.len() as u32);
        let source = if partial {
            let offset = self.partial_len;
            self.partial_len += (rows * cols).next_multiple_of(16);
            GradSource::Partial { offset }
        } else {
            GradSource::Product { op: self.ops.len() as u32, input }
        };
        let grad_stride = if rows == 1 { cols } else { cols.next_multiple_of(16) };
        self.slices.push(WeightSlice {
            param,
            rows,
            cols,
            grad: self.grad_len,
            grad_stride,
            source,
            panels: [0; 2],
            packs: true,
        });
        self.grad_len += (rows * grad_stride).next_multiple_of(16);
        id
    }

    /// Gives every buffer its place for `rows` rows and finds which gradients add up.
    ///
    /// Vectors of a row that nothing reads after its chunk are kept for as many chunks as the
    /// current thread pool runs at a time, in predictions those of its fields too.
    ///
    /// # Errors
    /// [`EngineError::Unfit`] when the buffers of so many rows cannot be addressed.
    pub fn place(&mut self, rows: usize) -> Result<(), EngineError> {
        self.place_lists(rows, false, std::iter::empty())
    }

    /// [`Program::place`] for steps or for predictions, and for lists with these numbers of values
    /// and longest rows.
    pub(crate) fn place_lists(
        &mut self,
        rows: usize,
        predicting: bool,
        lists: impl Iterator<Item = (usize, usize)>,
    ) -> Result<(), EngineError> {
        self.placed = None;
        self.placed_lists.clear();
        self.placed_lists.extend(lists);
        let lists = &self.placed_lists;
        let longest = |list: usize| lists.get(list).map_or(0, |list| list.1);
        let scratch = self.ops.iter().map(|op| op.scratch_len(longest));
        self.list_scratch_len = scratch.max().unwrap_or(0);
        let slots = slots(rows, rayon::current_num_threads());
        let passing_rows = passing_rows(rows, slots);
        self.slots = slots;
        for buffer in &mut self.buffers {
            buffer.passing = match buffer.extent {
                Extent::Rows { .. } => true,
                // Field mixes read them for the gradients of weights, tables their gradients.
                Extent::Fields { .. } => predicting,
                Extent::Jagged { .. } => false,
            };
        }
        let mut offset = 0usize;
        for buffer in &mut self.buffers {
            buffer.offset = offset;
            let held = if buffer.passing { passing_rows } else { rows };
            let elements = buffer.set_stride(held, lists);
            let end = elements.and_then(|elements| elements.checked_add(offset));
            offset = end.ok_or_else(|| {
                EngineError::Unfit(format!("{rows} rows of {:?} have no address", buffer.extent))
            })?;
        }
        self.arena_len = if self.is_shared() { self.place_compactly(rows) } else { offset };
        self.seen.clear();
        self.seen.resize(self.buffers.len(), false);
        for op in self.ops.iter().rev() {
            for input in &mut self.inputs[op.inputs().range()] {
                let index = input.buffer.0 as usize;
                input.grad = self.buffers[index].needs_grad;
                input.accumulate = self.seen[index];
                self.seen[index] = true;
            }
        }
        for (buffer, &read) in self.buffers.iter_mut().zip(&self.seen) {
            buffer.read = read;
        }
        self.seen.fill(false);
        for op in &self.ops {
            for input in self.inputs[op.inputs().range()].iter_mut().rev() {
                input.closes = !std::mem::replace(&mut self.seen[input.buffer.0 as usize], true);
            }
        }
        self.place_panels(rows);
        self.placed = Some((rows, predicting && rows > CHUNK_ROWS));
        Ok(())
    }
}
