//! Parameters of a NASRec network, shared (supernet) or its own (standalone).

use palmette_engine::{EngineError, Init, ParamId, ParamLayout, ParamStore, Real};

use super::{DenseOp, EMBEDDING_DIM, MERGE_FIELDS, NasRecConfig, Path, Set, Shape, SparseOp};
use super::{liveness, projected_fields};

/// Width that the dense-to-sparse merge reads as fields.
pub const MERGE_WIDTH: usize = EMBEDDING_DIM * MERGE_FIELDS;
/// Scale that attention's norms start from.
pub const ATTENTION_NORM_SCALE: f64 = 0.17;
/// Heads of attention.
pub const HEADS: usize = 8;

/// In which of its two forms a path is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Slices of shared weights: projections are never skipped, SG and Sum keep their source
    /// slots, norms run over the active units.
    Supernet,
    /// The network that is exported: projections that change no size are left out, SG and Sum
    /// align their operands at coordinate 0.
    Standalone,
}

/// How the parts of a logical tensor lie in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// Side by side: one block of columns a source.
    Columns,
    /// One after the other, each flattened row by row.
    Stacked,
}

/// A tensor as users and exporters know it, made of one or more parameters.
#[derive(Clone, Debug)]
pub struct LogicalTensor {
    /// E.g. `blocks.0.fc.weight`.
    pub name: String,
    /// `[out, in]`, or `[len]`.
    pub shape: Vec<usize>,
    /// Its parameters.
    pub parts: Vec<ParamId>,
    /// How they lie.
    pub arrangement: Arrangement,
}

/// A layer over several sources: a weight block for each, and either a bias or a norm.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// By source; `None` where a standalone network has no such input.
    pub weights: Vec<Option<ParamId>>,
    pub bias: Option<ParamId>,
    pub norm: Option<(ParamId, ParamId)>,
}

/// Weights over the sparse sources: the fields of a source and the merge's fields it may carry.
#[derive(Clone, Debug)]
pub(super) struct FieldLayer {
    pub fields: Layer,
    pub merges: Vec<Option<ParamId>>,
}

#[derive(Clone, Debug)]
pub(super) struct Affine {
    pub weight: ParamId,
    pub bias: ParamId,
}

#[derive(Clone, Debug)]
pub(super) struct Attention {
    pub mix: FieldLayer,
    pub query: Affine,
    pub key: Affine,
    pub value: Affine,
    pub out: Affine,
    pub norm_attention: (ParamId, ParamId),
    pub feed1: Affine,
    pub feed2: Affine,
    pub norm_feed: (ParamId, ParamId),
}

#[derive(Clone, Debug)]
pub(super) struct DotProduct {
    /// `None` where the assembled vector has 16 elements already.
    pub vector: Option<Layer>,
    /// `None` where the assembled fields are k already.
    pub fields: Option<FieldLayer>,
    /// `None` where the pairs are d already.
    pub out: Option<Layer>,
}

#[derive(Clone, Debug)]
pub(super) struct Gating {
    /// U: by right source, by left source. Standalone: one block, in `[0][0]`.
    pub gate: Vec<Vec<Option<ParamId>>>,
    /// b: by right source.
    pub gate_bias: Vec<Option<ParamId>>,
    /// V: by right source. `None` where it changes no size.
    pub out: Option<Layer>,
}

/// What a block owns; absent where it can never be live.
#[derive(Clone, Debug, Default)]
pub(super) struct BlockParams {
    pub fc: Option<Layer>,
    pub dot_product: Option<DotProduct>,
    pub gating: Option<Gating>,
    pub sum: Option<Option<Layer>>,
    pub efc: Option<FieldLayer>,
    pub attention: Option<Attention>,
    pub dense_to_sparse: Option<Option<Layer>>,
    pub sparse_to_dense: Option<Option<Layer>>,
}

#[derive(Clone, Debug)]
pub(super) struct HeadParams {
    pub dense: ParamId,
    pub fields: ParamId,
    pub merge: Option<ParamId>,
    pub bias: ParamId,
}

/// The declared parameters of a network and how programs use them.
#[derive(Clone, Debug)]
pub struct Network {
    pub(super) shape: Shape,
    pub(super) form: Form,
    pub(super) blocks: Vec<BlockParams>,
    pub(super) head: HeadParams,
    tensors: Vec<LogicalTensor>,
    layout: ParamLayout,
}

impl Network {
    /// The supernet of a space: every operator at its maximal size, with layer norm (as
    /// published) or with biases instead.
    pub fn supernet(config: &NasRecConfig, shape: Shape, layer_norm: bool) -> Self {
        let width = usize::from(*config.dense_widths.last().unwrap_or(&0));
        let fields = usize::from(*config.sparse_widths.last().unwrap_or(&0));
        let mut d = Declarer::new(Form::Supernet, layer_norm);
        let mut blocks = Vec::new();
        for i in 0..config.blocks {
            let dense: Vec<_> =
                (0..=i).map(|j| Some(if j == 0 { shape.dense } else { width })).collect();
            let sparse: Vec<_> = (0..=i)
                .map(|j| Some(if j == 0 { (shape.fields, 0) } else { (fields, MERGE_FIELDS) }))
                .collect();
            let mut block = BlockParams::default();
            d.prefix = format!("blocks.{i}");
            for op in config.operators.dense() {
                match op {
                    DenseOp::Fc => block.fc = Some(d.layer("fc", &dense, width)),
                    DenseOp::DotProduct => {
                        let k = projected_fields(width);
                        block.dot_product = Some(DotProduct {
                            vector: Some(d.layer("dot_product.vector", &dense, EMBEDDING_DIM)),
                            fields: Some(d.field_layer("dot_product.fields", &sparse, k)),
                            out: Some(d.layer("dot_product.out", &[Some(k * (k + 1) / 2)], width)),
                        });
                    }
                    DenseOp::SigmoidGating => {
                        let total: usize = dense.iter().flatten().sum();
                        let init = Init::XavierUniform { fan_in: total, fan_out: total };
                        let gate = dense.iter().enumerate().map(|(r, rows)| {
                            let block = |(l, cols): (usize, &Option<usize>)| {
                                let name = format!("gating.gate.weight.{r}.{l}");
                                Some(d.matrix(&name, rows.unwrap_or(0), cols.unwrap_or(0), init))
                            };
                            dense.iter().enumerate().map(block).collect()
                        });
                        let gate = gate.collect();
                        let bias = |(r, rows): (usize, &Option<usize>)| {
                            let name = format!("gating.gate.bias.{r}");
                            Some(d.vector(&name, rows.unwrap_or(0), 0.0))
                        };
                        let gate_bias = dense.iter().enumerate().map(bias).collect();
                        let out = Some(d.layer("gating.out", &dense, width));
                        block.gating = Some(Gating { gate, gate_bias, out });
                    }
                    DenseOp::Sum => block.sum = Some(Some(d.layer("sum.out", &dense, width))),
                    DenseOp::Zero => {}
                }
            }
            for op in config.operators.sparse() {
                match op {
                    SparseOp::Efc => block.efc = Some(d.field_layer("efc", &sparse, fields)),
                    SparseOp::Attention => block.attention = Some(d.attention(&sparse, fields)),
                    SparseOp::Zero => {}
                }
            }
            block.dense_to_sparse =
                Some(Some(d.layer("dense_to_sparse", &[Some(width)], MERGE_WIDTH)));
            block.sparse_to_dense =
                Some(Some(d.layer("sparse_to_dense", &[Some(EMBEDDING_DIM)], width)));
            blocks.push(block);
        }
        let head = d.head(width, fields, true);
        Self { shape, form: Form::Supernet, blocks, head, tensors: d.tensors, layout: d.layout }
    }

    /// One path as a network of its own; what never reaches the head has no parameters.
    pub fn standalone(path: &Path, shape: Shape, layer_norm: bool) -> Self {
        let live = liveness(path);
        let mut d = Declarer::new(Form::Standalone, layer_norm);
        let mut blocks = Vec::new();
        for (i, (choice, live)) in path.blocks.iter().zip(&live).enumerate() {
            d.prefix = format!("blocks.{i}");
            let mut block = BlockParams::default();
            let width = usize::from(choice.dense_width);
            let dense: Vec<_> = (0..=i)
                .map(|j| choice.dense_sources.has(j).then(|| path.dense_width(shape, j)))
                .collect();
            let sparse: Vec<_> = (0..=i)
                .map(|j| {
                    choice.sparse_sources.has(j).then(|| {
                        let merge = if j > 0 && path.blocks[j - 1].dense_to_sparse {
                            MERGE_FIELDS
                        } else {
                            0
                        };
                        (path.sparse_fields(shape, j) - merge, merge)
                    })
                })
                .collect();
            let operand = |set: Set| path.dense_concat(shape, set);
            let wide = operand(choice.left).max(operand(choice.right));
            if live.dense_operator {
                if choice.has_dense(DenseOp::Fc) {
                    block.fc = Some(d.layer("fc", &dense, width));
                }
                if choice.has_dense(DenseOp::DotProduct) {
                    let k = projected_fields(width);
                    let (p, n) = (
                        path.dense_concat(shape, choice.dense_sources),
                        path.sparse_concat(shape, choice.sparse_sources),
                    );
                    let pairs = k * (k + 1) / 2;
                    block.dot_product = Some(DotProduct {
                        vector: (p != EMBEDDING_DIM)
                            .then(|| d.layer("dot_product.vector", &dense, EMBEDDING_DIM)),
                        fields: (n != k).then(|| d.field_layer("dot_product.fields", &sparse, k)),
                        out: (pairs != width)
                            .then(|| d.layer("dot_product.out", &[Some(pairs)], width)),
                    });
                }
                if choice.has_dense(DenseOp::SigmoidGating) {
                    let init = Init::XavierUniform { fan_in: wide, fan_out: wide };
                    let gate = d.tensor("gating.gate.weight", &[wide, wide], |d| {
                        vec![d.matrix("gating.gate.weight", wide, wide, init)]
                    });
                    let bias = d.bias("gating.gate.bias", wide);
                    block.gating = Some(Gating {
                        gate: vec![vec![Some(gate[0])]],
                        gate_bias: vec![Some(bias)],
                        out: (wide != width).then(|| d.layer("gating.out", &[Some(wide)], width)),
                    });
                }
                if choice.has_dense(DenseOp::Sum) {
                    block.sum =
                        Some((wide != width).then(|| d.layer("sum.out", &[Some(wide)], width)));
                }
            }
            if live.sparse_operator {
                let fields = usize::from(choice.sparse_width);
                if choice.has_sparse(SparseOp::Attention) {
                    block.attention = Some(d.attention(&sparse, fields));
                }
                if choice.has_sparse(SparseOp::Efc) {
                    block.efc = Some(d.field_layer("efc", &sparse, fields));
                }
            }
            if live.sparse_output && choice.dense_to_sparse {
                block.dense_to_sparse = Some(
                    (width != MERGE_WIDTH)
                        .then(|| d.layer("dense_to_sparse", &[Some(width)], MERGE_WIDTH)),
                );
            }
            if choice.adds_pairs(*live, Form::Standalone) {
                block.sparse_to_dense = Some(
                    (width != EMBEDDING_DIM)
                        .then(|| d.layer("sparse_to_dense", &[Some(EMBEDDING_DIM)], width)),
                );
            }
            blocks.push(block);
        }
        let last = path.blocks.last();
        let head = d.head(
            last.map_or(0, |b| usize::from(b.dense_width)),
            last.map_or(0, |b| usize::from(b.sparse_width)),
            last.is_some_and(|b| b.dense_to_sparse),
        );
        Self { shape, form: Form::Standalone, blocks, head, tensors: d.tensors, layout: d.layout }
    }

    /// The declared parameters.
    pub fn layout(&self) -> &ParamLayout {
        &self.layout
    }

    /// Tensors as users know them, in the order of the released code.
    pub fn tensors(&self) -> &[LogicalTensor] {
        &self.tensors
    }

    /// The parameters of the head.
    pub fn head_params(&self) -> Vec<ParamId> {
        let head = &self.head;
        [head.dense, head.fields, head.bias].into_iter().chain(head.merge).collect()
    }

    /// Declares parameters of the head's shape in `layout`, in the order of [`Self::head_params`].
    pub(super) fn declare_head(&self, index: usize, layout: &mut ParamLayout) -> HeadParams {
        let mut copy = |id: ParamId| {
            let spec = self.layout.spec(id);
            layout.matrix(format!("{index}.{}", spec.name), spec.rows, spec.cols, spec.init)
        };
        let HeadParams { dense, fields, merge, bias } = self.head;
        let (dense, fields, bias) = (copy(dense), copy(fields), copy(bias));
        HeadParams { dense, fields, merge: merge.map(copy), bias }
    }

    /// Heads of a group that [`Network::build_group`] laid out, each with the
    /// weights of this network's own head in `params`, and a fresh state of `slots` numbers beside
    /// each.
    ///
    /// # Errors
    /// When the system has not enough memory.
    pub fn heads<T: Real>(
        &self,
        layout: ParamLayout,
        params: &ParamStore<T>,
        slots: usize,
    ) -> Result<ParamStore<T>, EngineError> {
        let mut heads = ParamStore::new(layout, 0, slots)?;
        let copies: Vec<(ParamId, usize)> =
            heads.layout().iter().map(|(id, spec)| (id, spec.rows)).collect();
        for ((copy, rows), id) in copies.into_iter().zip(self.head_params().into_iter().cycle()) {
            for row in 0..rows {
                heads.row_mut(copy, row).copy_from_slice(params.row(id, row));
            }
        }
        Ok(heads)
    }

    /// Dense inputs and fields.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Shared or its own.
    pub fn form(&self) -> Form {
        self.form
    }
}

/// Declares parameters and the logical tensors they make up.
struct Declarer {
    form: Form,
    layer_norm: bool,
    prefix: String,
    layout: ParamLayout,
    tensors: Vec<LogicalTensor>,
}

impl Declarer {
    fn new(form: Form, layer_norm: bool) -> Self {
        Self {
            form,
            layer_norm,
            prefix: String::new(),
            layout: ParamLayout::default(),
            tensors: Vec::new(),
        }
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize, init: Init) -> ParamId {
        self.layout.matrix(format!("{}.{name}", self.prefix), rows, cols, init)
    }

    fn vector(&mut self, name: &str, len: usize, value: f64) -> ParamId {
        self.layout.vector(format!("{}.{name}", self.prefix), len, Init::Constant(value))
    }

    /// Declares one logical tensor whose parts `declare` returns, side by side.
    fn tensor(
        &mut self,
        name: &str,
        shape: &[usize],
        declare: impl FnOnce(&mut Self) -> Vec<ParamId>,
    ) -> Vec<ParamId> {
        let parts = declare(self);
        self.tensors.push(LogicalTensor {
            name: format!("{}.{name}", self.prefix),
            shape: shape.to_vec(),
            parts: parts.clone(),
            arrangement: Arrangement::Columns,
        });
        parts
    }

    fn bias(&mut self, name: &str, len: usize) -> ParamId {
        self.tensor(name, &[len], |d| vec![d.vector(name, len, 0.0)])[0]
    }

    fn norm(&mut self, name: &str, len: usize, scale: f64) -> (ParamId, ParamId) {
        let (scale_name, shift_name) = (format!("{name}.norm.scale"), format!("{name}.norm.shift"));
        let scale =
            self.tensor(&scale_name, &[len], |d| vec![d.vector(&scale_name, len, scale)])[0];
        let shift = self.tensor(&shift_name, &[len], |d| vec![d.vector(&shift_name, len, 0.0)])[0];
        (scale, shift)
    }

    /// A layer from `sources` (width by source) to `out` units.
    fn layer(&mut self, name: &str, sources: &[Option<usize>], out: usize) -> Layer {
        let fan_in = sources.iter().flatten().sum();
        let init = Init::XavierUniform { fan_in, fan_out: out };
        let mut weights = Vec::new();
        self.tensor(&format!("{name}.weight"), &[out, fan_in], |d| {
            for (j, width) in sources.iter().enumerate() {
                let part =
                    |width: &usize| d.matrix(&format!("{name}.weight.{j}"), out, *width, init);
                weights.push(width.as_ref().map(part));
            }
            weights.iter().flatten().copied().collect()
        });
        let (bias, norm) = self.epilogue(name, out);
        Layer { weights, bias, norm }
    }

    fn epilogue(
        &mut self,
        name: &str,
        out: usize,
    ) -> (Option<ParamId>, Option<(ParamId, ParamId)>) {
        if self.layer_norm {
            (None, Some(self.norm(name, out, 1.0)))
        } else {
            (Some(self.bias(&format!("{name}.bias"), out)), None)
        }
    }

    /// A layer over the field axis; sources are (fields, merge fields).
    fn field_layer(
        &mut self,
        name: &str,
        sources: &[Option<(usize, usize)>],
        out: usize,
    ) -> FieldLayer {
        let fan_in = sources.iter().flatten().map(|s| s.0 + s.1).sum();
        let init = Init::XavierUniform { fan_in, fan_out: out };
        let (mut weights, mut merges) = (Vec::new(), Vec::new());
        self.tensor(&format!("{name}.weight"), &[out, fan_in], |d| {
            let mut parts = Vec::new();
            for (j, source) in sources.iter().enumerate() {
                let mut part = |kind: &str, n: usize| {
                    (n > 0).then(|| d.matrix(&format!("{name}.weight.{kind}{j}"), out, n, init))
                };
                let (own, merge) = match source {
                    Some((fields, merge)) => (part("", *fields), part("merge", *merge)),
                    None => (None, None),
                };
                parts.extend(own.into_iter().chain(merge));
                weights.push(own);
                merges.push(merge);
            }
            parts
        });
        let (bias, norm) = self.epilogue(name, out);
        FieldLayer { fields: Layer { weights, bias, norm }, merges }
    }

    fn affine(&mut self, name: &str) -> Affine {
        const E: usize = EMBEDDING_DIM;
        let init = Init::XavierUniform { fan_in: E, fan_out: E };
        let weight_name = format!("{name}.weight");
        let weight =
            self.tensor(&weight_name, &[E, E], |d| vec![d.matrix(&weight_name, E, E, init)])[0];
        Affine { weight, bias: self.bias(&format!("{name}.bias"), E) }
    }

    fn attention(&mut self, sparse: &[Option<(usize, usize)>], fields: usize) -> Attention {
        const E: usize = EMBEDDING_DIM;
        let mix = self.field_layer("attention.mix", sparse, fields);
        // The released code keeps the three input projections in one matrix.
        let init = Init::XavierUniform { fan_in: E, fan_out: 3 * E };
        let names = ["query", "key", "value"];
        let weights = self.tensor("attention.in.weight", &[3 * E, E], |d| {
            names.map(|n| d.matrix(&format!("attention.{n}.weight"), E, E, init)).to_vec()
        });
        self.stack_last();
        let biases = self.tensor("attention.in.bias", &[3 * E], |d| {
            names.map(|n| d.vector(&format!("attention.{n}.bias"), E, 0.0)).to_vec()
        });
        self.stack_last();
        let [query, key, value] = [0, 1, 2].map(|i| Affine { weight: weights[i], bias: biases[i] });
        let out = self.affine("attention.out");
        let norm_attention = self.norm("attention", E, ATTENTION_NORM_SCALE);
        let feed1 = self.affine("attention.feed1");
        let feed2 = self.affine("attention.feed2");
        let norm_feed = self.norm("attention.feed", E, ATTENTION_NORM_SCALE);
        Attention { mix, query, key, value, out, norm_attention, feed1, feed2, norm_feed }
    }

    fn stack_last(&mut self) {
        if let Some(tensor) = self.tensors.last_mut() {
            tensor.arrangement = Arrangement::Stacked;
        }
    }

    fn head(&mut self, width: usize, fields: usize, merge: bool) -> HeadParams {
        const E: usize = EMBEDDING_DIM;
        self.prefix = "head".into();
        let fan_in = width + E * (fields + if merge { MERGE_FIELDS } else { 0 });
        let init = Init::XavierUniform { fan_in, fan_out: 1 };
        let parts = self.tensor("weight", &[1, fan_in], |d| {
            let mut parts = vec![
                d.matrix("weight.dense", 1, width, init),
                d.matrix("weight.fields", fields, E, init),
            ];
            if merge {
                parts.push(d.matrix("weight.merge", MERGE_FIELDS, E, init));
            }
            parts
        });
        self.stack_last();
        let bias = self.bias("bias", 1);
        debug_assert!(self.form == Form::Supernet || parts.len() == 2 + usize::from(merge));
        HeadParams { dense: parts[0], fields: parts[1], merge: parts.get(2).copied(), bias }
    }
}
