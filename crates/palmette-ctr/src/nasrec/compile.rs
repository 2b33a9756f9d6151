//! A path as a program.

use palmette_engine::{BufferId, Epilogue, HeadInput, ParamId, ParamLayout, Program};
use smallvec::{SmallVec, smallvec};

use super::liveness::live_blocks;
use super::network::{
    Affine, BlockParams, FieldLayer, Form, HEADS, HeadParams, Layer, MERGE_WIDTH, Network,
};
use super::{Block, BlockLiveness, DenseOp, EMBEDDING_DIM, Path, Set, SparseOp, projected_fields};

/// A list that lies on the stack up to the size that seven blocks need: a fresh path is planned
/// in every step, and allocates nothing.
type List<T> = SmallVec<[T; 16]>;

/// The sparse tensor of a source: the operator's fields and the merge's.
#[derive(Clone, Copy)]
struct Fields {
    own: Option<BufferId>,
    merge: Option<BufferId>,
}

/// Compiles one path; holds what earlier blocks left.
struct Compiler<'a> {
    network: &'a Network,
    path: &'a Path,
    program: &'a mut Program,
    dense: List<Option<BufferId>>,
    sparse: List<Fields>,
}

impl Network {
    /// Writes the program of `path` over this network's parameters.
    ///
    /// Only what reaches the head is computed. Tables are numbered from 0 in
    /// the order of the fields.
    pub fn build(&self, path: &Path, program: &mut Program) {
        program.clear();
        self.compile(path, &self.head, program);
    }

    /// Writes one program for `paths`, which computes once what several of them compute; each has
    /// a head of its own, in their order. Returns the parameters of the heads: for each path those
    /// that [`Network::head_params`] lists.
    pub fn build_group<'p>(
        &self,
        paths: impl IntoIterator<Item = &'p Path>,
        program: &mut Program,
    ) -> ParamLayout {
        program.clear();
        program.share();
        let mut heads = ParamLayout::default();
        for (index, path) in paths.into_iter().enumerate() {
            let head = self.declare_head(index, &mut heads);
            self.compile(path, &head, program);
        }
        heads
    }

    fn compile(&self, path: &Path, head: &HeadParams, program: &mut Program) {
        let d0 = program.dense_input(self.shape.dense);
        let s0 = program.embedding(0, self.shape.fields, EMBEDDING_DIM);
        let mut compiler = Compiler {
            network: self,
            path,
            program,
            dense: smallvec![Some(d0)],
            sparse: smallvec![Fields { own: Some(s0), merge: None }],
        };
        for (i, live) in live_blocks(path).into_iter().enumerate() {
            compiler.block(&path.blocks[i], &self.blocks[i], live);
        }
        compiler.head(head);
    }
}

impl Compiler<'_> {
    fn block(&mut self, choice: &Block, params: &BlockParams, live: BlockLiveness) {
        let sparse = live.sparse_operator.then(|| self.sparse_operators(choice, params));
        let operators = live.dense_operator.then(|| self.dense_operators(choice, params));
        let dense = match operators {
            Some(dense) if choice.adds_pairs(live, self.network.form) => {
                Some(self.add_pairs(choice, params, dense, sparse))
            }
            other => other,
        };
        let merge = match operators {
            Some(before_pairs) if live.sparse_output && choice.dense_to_sparse => {
                let aliased = choice.merge_is_a_view(self.network.form);
                let source = if aliased { dense } else { Some(before_pairs) };
                source.map(|source| self.merge(params, source))
            }
            _ => None,
        };
        self.dense.push(dense);
        self.sparse.push(Fields { own: sparse, merge });
    }

    /// (buffer, weight block) of the dense sources, ascending.
    fn dense_sources(&self, sources: Set, layer: &Layer) -> List<(BufferId, ParamId)> {
        let used = sources.iter().filter_map(|j| self.dense[j].zip(layer.weights[j]));
        used.collect()
    }

    /// Fields of the sparse sources, ascending, each followed by its merge.
    fn sparse_pieces(&self, sources: Set) -> List<BufferId> {
        sources
            .iter()
            .flat_map(|j| self.sparse[j].own.into_iter().chain(self.sparse[j].merge))
            .collect()
    }

    fn sparse_sources(&self, sources: Set, layer: &FieldLayer) -> List<(BufferId, ParamId)> {
        let pairs = |j: usize| {
            let own = self.sparse[j].own.zip(layer.fields.weights[j]);
            own.into_iter().chain(self.sparse[j].merge.zip(layer.merges[j]))
        };
        sources.iter().flat_map(pairs).collect()
    }

    fn linear(
        &mut self,
        sources: &[(BufferId, ParamId)],
        layer: &Layer,
        width: usize,
        relu: bool,
    ) -> BufferId {
        self.program.linear(sources, width, Epilogue { bias: layer.bias, norm: layer.norm, relu })
    }

    /// A layer with the single source `x`.
    fn project(&mut self, x: BufferId, layer: &Layer, width: usize) -> BufferId {
        let weight = layer.weights.iter().flatten().next().copied();
        match weight {
            Some(weight) => self.linear(&[(x, weight)], layer, width, false),
            None => x,
        }
    }

    fn field_mix(
        &mut self,
        sources: Set,
        layer: &FieldLayer,
        fields: usize,
        relu: bool,
    ) -> BufferId {
        let sources = self.sparse_sources(sources, layer);
        let epilogue = Epilogue { bias: layer.fields.bias, norm: layer.fields.norm, relu };
        self.program.field_mix(&sources, fields, epilogue)
    }

    fn sparse_operators(&mut self, choice: &Block, params: &BlockParams) -> BufferId {
        let fields = usize::from(choice.sparse_width);
        let mut outputs = List::new();
        if let (true, Some(efc)) = (choice.has_sparse(SparseOp::Efc), &params.efc) {
            outputs.push(self.field_mix(choice.sparse_sources, efc, fields, true));
        }
        if let (true, Some(attention)) = (choice.has_sparse(SparseOp::Attention), &params.attention)
        {
            let z = self.field_mix(choice.sparse_sources, &attention.mix, fields, false);
            let mut map = |x, affine: &Affine, relu| {
                self.program.row_map(x, affine.weight, EMBEDDING_DIM, Some(affine.bias), relu)
            };
            let q = map(z, &attention.query, false);
            let k = map(z, &attention.key, false);
            let v = map(z, &attention.value, false);
            let a = self.program.attention(q, k, v, HEADS);
            let mut map = |x, affine: &Affine, relu| {
                self.program.row_map(x, affine.weight, EMBEDDING_DIM, Some(affine.bias), relu)
            };
            let o = map(a, &attention.out, false);
            let (scale, shift) = attention.norm_attention;
            let h = self.program.add_norm(z, o, scale, shift);
            let mut map = |x, affine: &Affine, relu| {
                self.program.row_map(x, affine.weight, EMBEDDING_DIM, Some(affine.bias), relu)
            };
            let f = map(h, &attention.feed1, true);
            let f = map(f, &attention.feed2, false);
            let (scale, shift) = attention.norm_feed;
            outputs.push(self.program.add_norm(h, f, scale, shift));
        }
        match outputs[..] {
            [] => self.program.zero_fields(fields, EMBEDDING_DIM),
            [one] => one,
            _ => self.program.add(&outputs, false),
        }
    }

    fn dense_operators(&mut self, choice: &Block, params: &BlockParams) -> BufferId {
        let width = usize::from(choice.dense_width);
        let mut outputs = List::new();
        if let (true, Some(fc)) = (choice.has_dense(DenseOp::Fc), &params.fc) {
            let sources = self.dense_sources(choice.dense_sources, fc);
            outputs.push(self.linear(&sources, fc, width, true));
        }
        if let (true, Some(dot)) = (choice.has_dense(DenseOp::DotProduct), &params.dot_product) {
            let k = projected_fields(width);
            let vector = match &dot.vector {
                Some(layer) => {
                    let sources = self.dense_sources(choice.dense_sources, layer);
                    self.linear(&sources, layer, EMBEDDING_DIM, false)
                }
                // Sixteen elements in all can only be one source.
                None => choice
                    .dense_sources
                    .iter()
                    .find_map(|j| self.dense[j])
                    .unwrap_or_else(|| self.program.zero_rows(EMBEDDING_DIM)),
            };
            let pairs = match &dot.fields {
                Some(layer) => {
                    let y = self.field_mix(choice.sparse_sources, layer, k, false);
                    self.program.gram(Some(vector), &[y])
                }
                None => {
                    let pieces = self.sparse_pieces(choice.sparse_sources);
                    self.program.gram(Some(vector), &pieces)
                }
            };
            outputs.push(match &dot.out {
                Some(layer) => self.project(pairs, layer, width),
                None => pairs,
            });
        }
        if choice.has_dense(DenseOp::SigmoidGating) && params.gating.is_some() {
            outputs.push(self.gating(choice, params, width));
        }
        if let (true, Some(out)) = (choice.has_dense(DenseOp::Sum), &params.sum) {
            outputs.push(match (self.network.form, out) {
                (Form::Supernet, Some(layer)) => self.sum_in_slots(choice, layer, width),
                (_, layer) => self.sum_aligned(choice, layer.as_ref(), width),
            });
        }
        match outputs[..] {
            [] => self.program.zero_rows(width),
            [one] => one,
            _ => self.program.add(&outputs, false),
        }
    }

    /// SG. In the supernet every operand keeps its slot of the concatenation, so the gate of
    /// slot r reads U[r, l] for all left slots l, and V's column block of slot r.
    fn gating(&mut self, choice: &Block, params: &BlockParams, width: usize) -> BufferId {
        let Some(gating) = &params.gating else { unreachable!("checked by the caller") };
        let mut gated = List::new();
        for r in choice.right.iter() {
            let Some(x) = self.dense[r] else { continue };
            let slot = if self.network.form == Form::Supernet { r } else { 0 };
            let sources: List<_> = choice
                .left
                .iter()
                .filter_map(|l| {
                    let column = if self.network.form == Form::Supernet { l } else { 0 };
                    self.dense[l].zip(gating.gate[slot][column])
                })
                .collect();
            let active = self.program.width(x);
            let epilogue = Epilogue { bias: gating.gate_bias[slot], ..Epilogue::default() };
            let gate = self.program.linear(&sources, active, epilogue);
            let padded = if gating.out.is_some() { active } else { width };
            gated.push((self.program.gate(gate, x, padded), slot));
        }
        match &gating.out {
            Some(layer) => {
                let sources: List<_> = gated
                    .iter()
                    .filter_map(|&(h, slot)| Some(h).zip(layer.weights[slot]))
                    .collect();
                self.linear(&sources, layer, width, false)
            }
            None => gated[0].0,
        }
    }

    fn sum_in_slots(&mut self, choice: &Block, layer: &Layer, width: usize) -> BufferId {
        let mut sources = List::new();
        for j in Set(choice.left.0 | choice.right.0).iter() {
            let (Some(x), Some(weight)) = (self.dense[j], layer.weights[j]) else { continue };
            let both = choice.left.has(j) && choice.right.has(j);
            let x = if both { self.program.add(&[x, x], false) } else { x };
            sources.push((x, weight));
        }
        self.linear(&sources, layer, width, false)
    }

    fn sum_aligned(&mut self, choice: &Block, layer: Option<&Layer>, width: usize) -> BufferId {
        let terms: List<_> =
            choice.left.iter().chain(choice.right.iter()).filter_map(|j| self.dense[j]).collect();
        let sum = self.program.add(&terms, false);
        match layer {
            Some(layer) => self.project(sum, layer, width),
            None => sum,
        }
    }

    fn add_pairs(
        &mut self,
        choice: &Block,
        params: &BlockParams,
        dense: BufferId,
        sparse: Option<BufferId>,
    ) -> BufferId {
        let (Some(fields), Some(layer)) = (sparse, &params.sparse_to_dense) else { return dense };
        let pairs = self.program.factorization_machine(&[fields]);
        let pairs = match layer {
            Some(layer) => self.project(pairs, layer, usize::from(choice.dense_width)),
            None => pairs,
        };
        self.program.add(&[dense, pairs], false)
    }

    fn merge(&mut self, params: &BlockParams, dense: BufferId) -> BufferId {
        let wide = match &params.dense_to_sparse {
            Some(Some(layer)) => self.project(dense, layer, MERGE_WIDTH),
            _ => dense,
        };
        self.program.fields_from_rows(wide, EMBEDDING_DIM)
    }

    fn head(&mut self, head: &HeadParams) {
        let last = self.path.blocks.len();
        let mut pieces = List::new();
        if let Some(dense) = self.dense[last] {
            pieces.push((dense, HeadInput::Weight(head.dense)));
        }
        if let Some(own) = self.sparse[last].own {
            pieces.push((own, HeadInput::Weight(head.fields)));
        }
        if let Some((merge, weight)) = self.sparse[last].merge.zip(head.merge) {
            pieces.push((merge, HeadInput::Weight(weight)));
        }
        self.program.head(&pieces, Some(head.bias));
    }
}
