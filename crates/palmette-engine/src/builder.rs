//! Building programs: one method an operator.
//!
//! Kernels read through pointers, so every method first asserts that the
//! buffers it joins have the shapes its operator documents, before anything is
//! added: a program that was built is safe to run. A shape that does not fit is
//! a mistake of the code that builds, never of its input, hence panics.

use crate::ops::*;
use crate::params::ParamId;
use crate::program::{BufferId, Extent, NormSlices, Program, SliceId, Span};

/// What follows the products of [`Program::linear`] and [`Program::field_mix`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epilogue {
    /// b.
    pub bias: Option<ParamId>,
    /// Scale and shift of a layer normalisation.
    pub norm: Option<(ParamId, ParamId)>,
    /// Whether a ReLU comes last.
    pub relu: bool,
}

/// How a buffer enters the logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HeadInput {
    /// A trained weight: `[1, width]` for rows, `[fields, dim]` for fields.
    Weight(ParamId),
    /// The sum of all elements times a constant.
    Constant(f64),
}

impl Program {
    fn vector(&mut self, param: ParamId, len: usize) -> SliceId {
        self.add_slice(param, 1, len, true, 0)
    }

    fn norm(
        &mut self,
        norm: Option<(ParamId, ParamId)>,
        len: usize,
        stats: Extent,
    ) -> Option<NormSlices> {
        norm.map(|(scale, shift)| NormSlices {
            scale: self.vector(scale, len),
            shift: self.vector(shift, len),
            stats: self.add_buffer(stats, false),
        })
    }

    fn assert_rows(&self, operator: &str, buffers: impl IntoIterator<Item = BufferId>) {
        for buffer in buffers {
            let extent = self.extent(buffer);
            assert!(matches!(extent, Extent::Rows { .. }), "{operator} takes rows, not {extent:?}");
        }
    }

    fn assert_dim(&self, operator: &str, dim: usize, buffers: impl IntoIterator<Item = BufferId>) {
        for buffer in buffers {
            let extent = self.extent(buffer);
            assert!(
                matches!(extent, Extent::Fields { dim: own, .. } if own == dim),
                "{operator} takes fields of {dim} channels, not {extent:?}"
            );
        }
    }

    fn assert_extent(
        &self,
        operator: &str,
        extent: Extent,
        buffers: impl IntoIterator<Item = BufferId>,
    ) {
        for buffer in buffers {
            let own = self.extent(buffer);
            assert!(own == extent, "{operator} takes buffers of one extent: {extent:?}, {own:?}");
        }
    }

    fn assert_no_list(&self, operator: &str, buffers: impl IntoIterator<Item = BufferId>) {
        for buffer in buffers {
            let extent = self.extent(buffer);
            assert!(
                !matches!(extent, Extent::Jagged { .. }),
                "{operator} takes no list, which {extent:?} is; pool it first"
            );
        }
    }

    /// The list that all of `buffers` hold with `dim` channels.
    fn assert_list(&self, operator: &str, dim: usize, buffers: &[BufferId]) -> usize {
        match self.extent(buffers[0]) {
            Extent::Jagged { list, .. } => {
                let extent = Extent::Jagged { list, dim };
                self.assert_extent(operator, extent, buffers.iter().copied());
                list
            }
            extent => panic!("{operator} takes a list, not {extent:?}"),
        }
    }

    fn trains(&self, buffer: BufferId) -> bool {
        self.buffer(buffer).needs_grad
    }

    /// Channels of a fields buffer or of a list.
    ///
    /// # Panics
    /// When `buffer` holds rows: a program is built by code, not by input.
    pub fn dim(&self, buffer: BufferId) -> usize {
        match self.extent(buffer) {
            Extent::Fields { dim, .. } | Extent::Jagged { dim, .. } => dim,
            Extent::Rows { .. } => panic!("a rows buffer has no channels"),
        }
    }

    /// The batch's dense values, `[rows, width]`.
    pub fn dense_input(&mut self, width: usize) -> BufferId {
        let out = self.add_buffer(Extent::Rows { width }, false);
        self.push(Op::DenseInput(DenseInput { out }), out)
    }

    /// Rows of tables `first_table ..`, one a field of the batch, `[fields, rows, dim]`.
    ///
    /// # Panics
    /// Without channels.
    pub fn embedding(&mut self, first_table: usize, fields: usize, dim: usize) -> BufferId {
        assert!(dim > 0, "an embedding has at least one channel");
        let out = self.add_buffer(Extent::Fields { fields, dim }, true);
        self.push(Op::Embedding(Embedding { out, first_table, dim }), out)
    }

    /// Rows of one table for the values of a list, `[values, dim]`; see [`JaggedEmbedding`].
    ///
    /// # Panics
    /// Without channels.
    pub fn jagged_embedding(&mut self, list: usize, table: usize, dim: usize) -> BufferId {
        assert!(dim > 0, "an embedding has at least one channel");
        let out = self.add_buffer(Extent::Jagged { list, dim }, true);
        self.push(Op::JaggedEmbedding(JaggedEmbedding { out, list, table, dim }), out)
    }

    /// The values of a list as one field; see [`Pool`].
    pub fn pool(&mut self, x: BufferId, pooling: Pooling) -> BufferId {
        let dim = self.dim(x);
        let list = self.assert_list("pooling", dim, &[x]);
        let needs_grad = self.trains(x);
        let inputs = self.add_inputs([x]);
        let out = self.add_buffer(Extent::Fields { fields: 1, dim }, needs_grad);
        self.push(Op::Pool(Pool { inputs, out, list, dim, pooling }), out)
    }

    /// Attention of fields over the values of a list; see [`TargetAttention`].
    ///
    /// # Panics
    /// When the heads do not divide the channels.
    pub fn target_attention(
        &mut self,
        targets: BufferId,
        keys: BufferId,
        values: BufferId,
        heads: usize,
    ) -> BufferId {
        let dim = self.dim(targets);
        self.assert_dim("target attention", dim, [targets]);
        let list = self.assert_list("target attention", dim, &[keys, values]);
        assert!(heads > 0 && dim.is_multiple_of(heads), "{dim} channels in {heads} heads");
        let fields = self.width(targets);
        let inputs = self.add_inputs([targets, keys, values]);
        let out = self.add_buffer(Extent::Fields { fields, dim }, true);
        let stats = self.add_buffer(Extent::Fields { fields, dim: 2 * heads }, false);
        self.push(
            Op::TargetAttention(TargetAttention { inputs, out, stats, list, dim, heads }),
            out,
        )
    }

    /// Self-attention inside each row of a list; see [`JaggedAttention`].
    ///
    /// # Panics
    /// When the heads do not divide the channels.
    pub fn jagged_attention(
        &mut self,
        [q, k, v]: [BufferId; 3],
        heads: usize,
        causal: bool,
    ) -> BufferId {
        let dim = self.dim(q);
        let list = self.assert_list("attention over a list", dim, &[q, k, v]);
        assert!(heads > 0 && dim.is_multiple_of(heads), "{dim} channels in {heads} heads");
        let inputs = self.add_inputs([q, k, v]);
        let out = self.add_buffer(Extent::Jagged { list, dim }, true);
        let stats = self.add_buffer(Extent::Jagged { list, dim: 2 * heads }, false);
        self.push(
            Op::JaggedAttention(JaggedAttention { inputs, out, stats, list, dim, heads, causal }),
            out,
        )
    }

    /// A fully connected layer over `sources` (buffer, weight block); see [`Linear`].
    pub fn linear(
        &mut self,
        sources: &[(BufferId, ParamId)],
        width: usize,
        epilogue: Epilogue,
    ) -> BufferId {
        assert!(!sources.is_empty(), "a linear layer takes at least one source");
        self.assert_rows("a linear layer", sources.iter().map(|s| s.0));
        let inputs = self.add_inputs(sources.iter().map(|s| s.0));
        let weights = self.add_weights(sources, width);
        let out = self.add_buffer(Extent::Rows { width }, true);
        let pre = match epilogue.norm {
            Some(_) => self.add_buffer(Extent::Rows { width }, true),
            None => out,
        };
        let bias = epilogue.bias.map(|b| self.vector(b, width));
        let norm = self.norm(epilogue.norm, width, Extent::Rows { width: 2 });
        self.push(
            Op::Linear(Linear { inputs, weights, out, pre, bias, norm, relu: epilogue.relu }),
            out,
        )
    }

    fn add_weights(&mut self, sources: &[(BufferId, ParamId)], width: usize) -> Span {
        let start = self.weights.len() as u32;
        for (j, &(buffer, param)) in sources.iter().enumerate() {
            let slice = self.add_slice(param, width, self.width(buffer), false, j as u32);
            self.weights.push(slice);
        }
        Span { start, len: sources.len() as u32 }
    }

    /// A layer that mixes the field axis of `sources`; see [`FieldMix`].
    pub fn field_mix(
        &mut self,
        sources: &[(BufferId, ParamId)],
        fields: usize,
        epilogue: Epilogue,
    ) -> BufferId {
        let dim = self.dim(sources[0].0);
        self.assert_dim("a field mix", dim, sources.iter().map(|s| s.0));
        let inputs = self.add_inputs(sources.iter().map(|s| s.0));
        let weights = self.add_weights(sources, fields);
        let extent = Extent::Fields { fields, dim };
        let out = self.add_buffer(extent, true);
        let pre = match epilogue.norm {
            Some(_) => self.add_buffer(extent, true),
            None => out,
        };
        let bias = epilogue.bias.map(|b| self.vector(b, fields));
        let norm = self.norm(epilogue.norm, fields, Extent::Fields { fields: 2, dim });
        self.push(
            Op::FieldMix(FieldMix {
                inputs,
                weights,
                out,
                pre,
                bias,
                norm,
                relu: epilogue.relu,
                dim,
            }),
            out,
        )
    }

    /// A linear map of the channels; see [`RowMap`].
    pub fn row_map(
        &mut self,
        x: BufferId,
        weight: ParamId,
        dim_out: usize,
        bias: Option<ParamId>,
        relu: bool,
    ) -> BufferId {
        let dim_in = self.dim(x);
        assert!(
            (1..=64).contains(&dim_in) && (1..=64).contains(&dim_out),
            "a row map takes 1 to 64 channels to 1 to 64, not {dim_in} to {dim_out}"
        );
        let inputs = self.add_inputs([x]);
        let weight = self.add_slice(weight, dim_out, dim_in, true, 0);
        let extent = match self.extent(x) {
            Extent::Jagged { list, .. } => Extent::Jagged { list, dim: dim_out },
            _ => Extent::Fields { fields: self.width(x), dim: dim_out },
        };
        let out = self.add_buffer(extent, true);
        let bias = bias.map(|b| self.vector(b, dim_out));
        self.push(Op::RowMap(RowMap { inputs, weight, out, bias, relu, dim_in, dim_out }), out)
    }

    /// Dot products of all pairs of an optional vector and fields; see [`Gram`].
    pub fn gram(&mut self, vector: Option<BufferId>, fields: &[BufferId]) -> BufferId {
        let dim = self.dim(fields[0]);
        self.assert_dim("a gram", dim, fields.iter().copied());
        self.assert_extent("a gram's vector", Extent::Rows { width: dim }, vector);
        let vectors =
            usize::from(vector.is_some()) + fields.iter().map(|&f| self.width(f)).sum::<usize>();
        assert!((1..=1 << 15).contains(&vectors), "a gram of {vectors} vectors, not of 1 to 32768");
        let inputs = self.add_inputs(vector.into_iter().chain(fields.iter().copied()));
        let out = self.add_buffer(Extent::Rows { width: vectors * (vectors - 1) / 2 }, true);
        self.scratch_len = self.scratch_len.max(Gram::scratch_len(vectors, dim));
        self.push(Op::Gram(Gram { inputs, has_vector: vector.is_some(), out, dim, vectors }), out)
    }

    /// `sigmoid(u) * x`, continued with zeros to `width`; see [`Gate`].
    pub fn gate(&mut self, u: BufferId, x: BufferId, width: usize) -> BufferId {
        self.assert_rows("a gate", [u, x]);
        let inputs = self.add_inputs([u, x]);
        let out = self.add_buffer(Extent::Rows { width }, true);
        self.push(Op::Gate(Gate { inputs, out }), out)
    }

    /// Sum of buffers, as wide as the widest; see [`Add`].
    pub fn add(&mut self, terms: &[BufferId], relu: bool) -> BufferId {
        let widest = terms.iter().copied().max_by_key(|&t| self.width(t)).unwrap_or(terms[0]);
        let needs_grad = terms.iter().any(|&t| self.trains(t));
        let extent = self.extent(widest);
        match extent {
            Extent::Rows { .. } => self.assert_rows("a sum", terms.iter().copied()),
            _ => self.assert_extent("a sum", extent, terms.iter().copied()),
        }
        let inputs = self.add_inputs(terms.iter().copied());
        let out = self.add_buffer(extent, needs_grad);
        self.push(Op::Add(Add { inputs, out, relu }), out)
    }

    /// Element-wise product of two buffers of one shape; see [`Multiply`].
    pub fn multiply(&mut self, a: BufferId, b: BufferId) -> BufferId {
        self.assert_extent("a product", self.extent(a), [b]);
        let needs_grad = self.trains(a) || self.trains(b);
        let extent = self.extent(a);
        let inputs = self.add_inputs([a, b]);
        let out = self.add_buffer(extent, needs_grad);
        self.push(Op::Multiply(Multiply { inputs, out }), out)
    }

    /// Multi-head attention over the fields; see [`AttentionCore`].
    ///
    /// # Panics
    /// When the head dimension is none of 1, 2, 4, 8, 16.
    pub fn attention(&mut self, q: BufferId, k: BufferId, v: BufferId, heads: usize) -> BufferId {
        let extent = self.extent(q);
        let (fields, dim) = (self.width(q), self.dim(q));
        self.assert_no_list("attention over fields", [q, k, v]);
        self.assert_extent("attention", extent, [k, v]);
        assert!(
            heads > 0 && dim % heads == 0 && [1, 2, 4, 8, 16].contains(&(dim / heads)),
            "{dim} channels in {heads} heads: the head dimension must be 1, 2, 4, 8 or 16"
        );
        let inputs = self.add_inputs([q, k, v]);
        let out = self.add_buffer(extent, true);
        let stats = self.add_buffer(Extent::Fields { fields, dim: 2 * heads }, false);
        self.scratch_len = self.scratch_len.max(AttentionCore::scratch_len(fields, dim, heads));
        self.push(Op::Attention(AttentionCore { inputs, out, stats, dim, heads }), out)
    }

    /// `norm(a + b)` over the channels; see [`AddNorm`].
    pub fn add_norm(
        &mut self,
        a: BufferId,
        b: BufferId,
        scale: ParamId,
        shift: ParamId,
    ) -> BufferId {
        let extent = self.extent(a);
        let (fields, dim) = (self.width(a), self.dim(a));
        self.assert_extent("a residual norm", extent, [b]);
        let stats = match extent {
            Extent::Jagged { list, .. } => Extent::Jagged { list, dim: 2 },
            _ => Extent::Fields { fields, dim: 2 },
        };
        let inputs = self.add_inputs([a, b]);
        let out = self.add_buffer(extent, true);
        let pre = self.add_buffer(extent, true);
        let norm = NormSlices {
            scale: self.vector(scale, dim),
            shift: self.vector(shift, dim),
            stats: self.add_buffer(stats, false),
        };
        self.push(Op::AddNorm(AddNorm { inputs, out, pre, norm, dim }), out)
    }

    /// Reads a vector as fields of `dim` channels; see [`FieldsFromRows`].
    pub fn fields_from_rows(&mut self, x: BufferId, dim: usize) -> BufferId {
        self.assert_rows("reading a vector as fields", [x]);
        let (width, fields) = (self.width(x), self.width(x) / dim);
        assert!(fields * dim == width, "{width} elements are no whole fields of {dim} channels");
        let needs_grad = self.trains(x);
        let inputs = self.add_inputs([x]);
        let out = self.add_buffer(Extent::Fields { fields, dim }, needs_grad);
        self.push(Op::FieldsFromRows(FieldsFromRows { inputs, out, dim }), out)
    }

    /// Flattens fields; see [`RowsFromFields`].
    pub fn rows_from_fields(&mut self, x: BufferId) -> BufferId {
        let (dim, needs_grad) = (self.dim(x), self.trains(x));
        self.assert_no_list("flattening", [x]);
        let width = self.width(x) * dim;
        let inputs = self.add_inputs([x]);
        let out = self.add_buffer(Extent::Rows { width }, needs_grad);
        self.push(Op::RowsFromFields(RowsFromFields { inputs, out, dim }), out)
    }

    /// The factorisation machine's pair term; see [`FactorizationMachine`].
    pub fn factorization_machine(&mut self, fields: &[BufferId]) -> BufferId {
        let dim = self.dim(fields[0]);
        self.assert_dim("a factorisation machine", dim, fields.iter().copied());
        let inputs = self.add_inputs(fields.iter().copied());
        let out = self.add_buffer(Extent::Rows { width: dim }, true);
        let sums = self.add_buffer(Extent::Rows { width: dim }, false);
        self.push(Op::FactorizationMachine(FactorizationMachine { inputs, out, sums, dim }), out)
    }

    /// Sums over the channels; see [`FieldSums`].
    pub fn field_sums(&mut self, x: BufferId) -> BufferId {
        let (dim, needs_grad) = (self.dim(x), self.trains(x));
        self.assert_no_list("sums over channels", [x]);
        let width = self.width(x);
        let inputs = self.add_inputs([x]);
        let out = self.add_buffer(Extent::Rows { width }, needs_grad);
        self.push(Op::FieldSums(FieldSums { inputs, out, dim }), out)
    }

    /// Products of all pairs of fields; see [`Outer`].
    pub fn outer(&mut self, x: BufferId, y: BufferId) -> BufferId {
        let dim = self.dim(x);
        self.assert_dim("outer products", dim, [x, y]);
        let fields = self.width(x) * self.width(y);
        let inputs = self.add_inputs([x, y]);
        let out = self.add_buffer(Extent::Fields { fields, dim }, true);
        self.push(Op::Outer(Outer { inputs, out, dim }), out)
    }

    /// Zeros, `[rows, width]`.
    pub fn zero_rows(&mut self, width: usize) -> BufferId {
        let out = self.add_buffer(Extent::Rows { width }, false);
        self.push(Op::Zeros(Zeros { out }), out)
    }

    /// Zeros, `[fields, rows, dim]`.
    pub fn zero_fields(&mut self, fields: usize, dim: usize) -> BufferId {
        let out = self.add_buffer(Extent::Fields { fields, dim }, false);
        self.push(Op::Zeros(Zeros { out }), out)
    }

    /// The logit; must come last in a program that trains more than heads. See [`Head`].
    ///
    /// # Panics
    /// With more than eight inputs.
    pub fn head(&mut self, pieces: &[(BufferId, HeadInput)], bias: Option<ParamId>) -> BufferId {
        assert!(pieces.len() <= 8, "the head takes at most eight inputs");
        // Before anything is added: a buffer of another program panics here.
        assert!(pieces.iter().all(|p| (p.0.0 as usize) < self.buffers.len()), "no such buffer");
        self.assert_no_list("the head", pieces.iter().map(|p| p.0));
        let first = self.slices.len();
        let inputs = self.add_inputs(pieces.iter().map(|p| p.0));
        let mut kinds = [None; 8];
        for (kind, &(buffer, piece)) in kinds.iter_mut().zip(pieces) {
            *kind = Some(match piece {
                HeadInput::Constant(c) => HeadPiece::Fixed(c),
                HeadInput::Weight(param) => {
                    let (rows, cols) = match self.extent(buffer) {
                        Extent::Rows { width } => (1, width),
                        Extent::Fields { fields, dim } => (fields, dim),
                        Extent::Jagged { .. } => unreachable!("a head takes no list"),
                    };
                    HeadPiece::Trained(self.add_slice(param, rows, cols, true, 0))
                }
            });
        }
        let bias = bias.map(|b| self.vector(b, 1));
        let slices = Span { start: first as u32, len: (self.slices.len() - first) as u32 };
        let out = self.add_buffer(Extent::Rows { width: 1 }, true);
        self.push(Op::Head(Head { inputs, pieces: kinds, slices, out, bias }), out)
    }
}
