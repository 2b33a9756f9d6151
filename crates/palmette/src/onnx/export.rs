//! From a program of the engine to a graph: one function an operator.

use palmette_data::DenseTransform;
use palmette_engine::ops::{
    Add, AddNorm, AttentionCore, Embedding, FieldMix, Gate, Gram, Head, HeadPiece, JaggedEmbedding,
    Linear, Op, Outer, RowMap,
};
use palmette_engine::{BufferId, Extent, Model, NORM_EPSILON, NormSlices, Program, SliceId, Span};

use super::{
    OnnxError,
    encode::Model as OnnxModel,
    graph::{Dim, GraphBuilder, Value},
    inputs::{dense, table_rows},
    lists::ListInput,
};

/// A trained model on its way out.
#[derive(Clone, Copy)]
pub struct Export<'a> {
    /// Name of the graph.
    pub name: &'a str,
    /// The network.
    pub program: &'a Program,
    /// Its weights and tables.
    pub model: &'a Model<f32>,
    /// One transform a dense input.
    pub transforms: &'a [DenseTransform],
    /// Names of the lists, in the order of a batch's.
    pub lists: &'a [&'a str],
    /// Added to the logit: `ln w` where only a share `w` of the negatives was kept for training.
    pub logit_shift: f64,
    /// Entries of the model's metadata.
    pub metadata: &'a [(&'a str, &'a str)],
}

/// Writes a whole model as a graph from raw inputs to the probability of a click.
///
/// Inputs: `dense` `[batch, nd]` f32, raw, NaN where missing; `categorical` `[batch, ns]` i64,
/// values before the tables, -1 where missing; for each list that the program reads `list.NAME`
/// `[batch, longest]` i64, such values filled up with [`PADDING`](super::PADDING), `longest` at
/// least 1. Output: `probability` `[batch]`.
/// Fields are `[batch, fields, channels]` in the graph, where the engine keeps fields first.
pub fn export<'a>(export: &Export<'a>) -> Result<OnnxModel<'a>, OnnxError> {
    let graph = GraphBuilder::new(export.name);
    let mut exporter = Exporter {
        export: *export,
        graph,
        values: Vec::new(),
        rows: None,
        tables: Vec::new(),
        lists: Vec::new(),
        probability: false,
    };
    for op in export.program.ops() {
        exporter.operator(op)?;
    }
    if !exporter.probability {
        return Err(OnnxError::Incomplete("head"));
    }
    for (key, value) in export.metadata {
        exporter.graph.metadata(key, value);
    }
    Ok(exporter.graph.finish())
}

struct Exporter<'a> {
    export: Export<'a>,
    graph: GraphBuilder<'a>,
    /// What each buffer written so far became; programs are short enough to search.
    values: Vec<(BufferId, Value)>,
    /// Rows of all tables, `[batch, fields]`, once an embedding needs them.
    rows: Option<Value>,
    /// Tables written so far, by number: a list may share one.
    tables: Vec<(usize, Value)>,
    /// Lists that have an input so far, by number.
    lists: Vec<(usize, ListInput)>,
    probability: bool,
}

impl<'a> Exporter<'a> {
    fn operator(&mut self, op: &Op) -> Result<(), OnnxError> {
        let program = self.export.program;
        let x = self.inputs(op.inputs());
        let (out, value) = match op {
            Op::DenseInput(op) => (op.out, self.dense_input(op.out)?),
            Op::Embedding(op) => (op.out, self.embedding(op)?),
            Op::Linear(op) => (op.out, self.linear(op, &x)?),
            Op::FieldMix(op) => (op.out, self.field_mix(op, &x)?),
            Op::RowMap(op) => (op.out, self.row_map(op, &x)?),
            Op::Gram(op) => (op.out, self.gram(op, x)),
            Op::Gate(op) => (op.out, self.gate(op, &x)),
            Op::Add(op) => (op.out, self.add(op, &x)),
            Op::Multiply(op) => (op.out, self.graph.binary("Mul", &x[0].value, &x[1].value)),
            Op::Attention(op) => (op.out, self.attention(op, &x)),
            Op::AddNorm(op) => (op.out, self.add_norm(op, &x)?),
            Op::FieldsFromRows(op) => {
                let shape = [0, program.width(op.out) as i64, op.dim as i64];
                (op.out, self.graph.reshape(&x[0].value, &shape))
            }
            Op::RowsFromFields(op) => {
                (op.out, self.graph.reshape(&x[0].value, &[0, program.width(op.out) as i64]))
            }
            Op::FactorizationMachine(op) => {
                let fields = self.joined(&x);
                (op.out, self.graph.factorisation_machine(&fields))
            }
            Op::FieldSums(op) => (op.out, self.graph.sum_over(&x[0].value, 2)),
            Op::Outer(op) => (op.out, self.outer(op, &x)),
            Op::Zeros(op) => (op.out, self.zeros(op.out)?),
            Op::JaggedEmbedding(op) => (op.out, self.jagged_embedding(op)?),
            Op::Pool(op) => {
                let list = self.list(op.list)?;
                (op.out, self.graph.pool_list(&list, &x[0].value, op.pooling))
            }
            Op::TargetAttention(op) => {
                let list = self.list(op.list)?;
                let [q, k, v] = [0, 1, 2].map(|i| &x[i].value);
                let (n, shape) = (Some(x[0].width), (op.dim, op.heads));
                (op.out, self.graph.attend_list(&list, [q, k, v], n, shape, false))
            }
            Op::JaggedAttention(op) => {
                let list = self.list(op.list)?;
                let [q, k, v] = [0, 1, 2].map(|i| &x[i].value);
                let shape = (op.dim, op.heads);
                (op.out, self.graph.attend_list(&list, [q, k, v], None, shape, op.causal))
            }
            Op::Head(op) => return self.head(op, &x),
        };
        self.values.push((out, value));
        Ok(())
    }

    /// What the operator's inputs became.
    fn inputs(&self, span: Span) -> Vec<Operand> {
        let operands = self.export.program.inputs(span).filter_map(|buffer| {
            let (_, value) = self.values.iter().rev().find(|(id, _)| *id == buffer)?;
            let (width, channels) = match self.export.program.extent(buffer) {
                Extent::Rows { width } => (width, None),
                Extent::Fields { fields, dim } => (fields, Some(dim)),
                Extent::Jagged { dim, .. } => (1, Some(dim)),
            };
            Some(Operand { value: value.clone(), width, channels })
        });
        operands.collect()
    }

    /// Operands joined along features or fields.
    fn joined(&mut self, x: &[Operand]) -> Value {
        self.graph.concat(&x.iter().map(|operand| &operand.value).collect::<Vec<_>>(), 1)
    }

    fn dense_input(&mut self, out: BufferId) -> Result<Value, OnnxError> {
        let (found, expected) = (self.export.transforms.len(), self.export.program.width(out));
        if found != expected {
            return Err(OnnxError::Transforms { found, expected });
        }
        Ok(dense(&mut self.graph, self.export.transforms))
    }

    fn embedding(&mut self, op: &Embedding) -> Result<Value, OnnxError> {
        let fields = self.export.program.width(op.out);
        let tables = &self.export.model.tables;
        let specs = || (0..fields).map(|f| tables.table(op.first_table + f).spec());
        if let Some(spec) = specs().find(|spec| spec.rows < 2) {
            return Err(OnnxError::Table { name: spec.name.clone(), rows: spec.rows });
        }
        let rows = match &self.rows {
            Some(rows) => rows.clone(),
            None => {
                let sizes: Vec<usize> = specs().map(|spec| spec.rows).collect();
                let rows = table_rows(&mut self.graph, &sizes);
                self.rows.insert(rows).clone()
            }
        };
        let mut embedded = Vec::with_capacity(fields);
        for (field, spec) in specs().enumerate() {
            debug_assert_eq!(spec.dim, op.dim);
            let weights = self.table(op.first_table + field);
            let column = self.graph.integers(&[field as i64]);
            let row = self.graph.gather(&rows, &column, 1);
            embedded.push(self.graph.gather(&weights, &row, 0));
        }
        Ok(self.graph.concat(&embedded.iter().collect::<Vec<_>>(), 1))
    }

    /// A table as a tensor, written once.
    fn table(&mut self, index: usize) -> Value {
        if let Some((_, value)) = self.tables.iter().find(|(known, _)| *known == index) {
            return value.clone();
        }
        let table = self.export.model.tables.table(index);
        let spec = table.spec();
        let name = self.graph.free_name(&spec.name);
        let value = self
            .graph
            .table(&name, spec.rows, spec.dim, move |row, weights| table.read_row(row, weights));
        self.tables.push((index, value.clone()));
        value
    }

    /// The input of a list, declared at its first use.
    fn list(&mut self, list: usize) -> Result<ListInput, OnnxError> {
        if let Some((_, input)) = self.lists.iter().find(|(known, _)| *known == list) {
            return Ok(input.clone());
        }
        let found = self.export.lists.len();
        let name = self.export.lists.get(list).ok_or(OnnxError::Lists { list, found })?;
        let input = self.graph.list_input(name);
        self.lists.push((list, input.clone()));
        Ok(input)
    }

    fn jagged_embedding(&mut self, op: &JaggedEmbedding) -> Result<Value, OnnxError> {
        let spec = self.export.model.tables.table(op.table).spec();
        if spec.rows < 2 {
            return Err(OnnxError::Table { name: spec.name.clone(), rows: spec.rows });
        }
        let (list, table) = (self.list(op.list)?, self.table(op.table));
        Ok(self.graph.list_rows(&list, &table, spec.rows))
    }

    fn linear(&mut self, op: &Linear, x: &[Operand]) -> Result<Value, OnnxError> {
        let weight = self.side_by_side(self.export.program.weights(op.weights))?;
        let bias = op.bias.map(|bias| self.vector(bias)).transpose()?;
        let joined = self.joined(x);
        let mut y = self.graph.linear(&joined, &weight, bias.as_ref());
        if let Some(norm) = op.norm {
            y = self.norm(&norm, &y)?;
        }
        Ok(self.relu(op.relu, y))
    }

    fn field_mix(&mut self, op: &FieldMix, x: &[Operand]) -> Result<Value, OnnxError> {
        let weight = self.side_by_side(self.export.program.weights(op.weights))?;
        let bias = match op.bias {
            Some(bias) => {
                let (name, data) = self.slice(bias);
                Some(self.graph.weights(&name, &[data.len(), 1], data)?)
            }
            None => None,
        };
        let joined = self.joined(x);
        let mut y = self.graph.mix_fields(&joined, &weight, bias.as_ref());
        if let Some(norm) = op.norm {
            // The norm runs over the fields: they go last and come back.
            let fields_last = self.graph.transpose(&y, &[0, 2, 1]);
            let normed = self.norm(&norm, &fields_last)?;
            y = self.graph.transpose(&normed, &[0, 2, 1]);
        }
        Ok(self.relu(op.relu, y))
    }

    fn row_map(&mut self, op: &RowMap, x: &[Operand]) -> Result<Value, OnnxError> {
        let (name, data) = self.slice(op.weight);
        let transposed: Vec<f32> = (0..op.dim_in * op.dim_out)
            .map(|at| data[at % op.dim_out * op.dim_in + at / op.dim_out])
            .collect();
        let weight = self.graph.weights(&name, &[op.dim_in, op.dim_out], transposed)?;
        let mut y = self.graph.binary("MatMul", &x[0].value, &weight);
        if let Some(bias) = op.bias {
            let bias = self.vector(bias)?;
            y = self.graph.binary("Add", &y, &bias);
        }
        Ok(self.relu(op.relu, y))
    }

    fn gram(&mut self, op: &Gram, mut x: Vec<Operand>) -> Value {
        if op.has_vector {
            x[0].value = self.graph.reshape(&x[0].value, &[0, 1, op.dim as i64]);
        }
        let stacked = self.joined(&x);
        self.graph.pair_products(&stacked, op.vectors)
    }

    fn gate(&mut self, op: &Gate, x: &[Operand]) -> Value {
        let width = self.export.program.width(op.out);
        let active = width.min(x[0].width).min(x[1].width);
        let [u, x] = [0, 1].map(|i| self.resized(&x[i], active));
        let gate = self.graph.unary("Sigmoid", &u);
        let product = self.graph.binary("Mul", &gate, &x);
        self.graph.pad_to(&product, active, width)
    }

    fn add(&mut self, op: &Add, x: &[Operand]) -> Value {
        let width = self.export.program.width(op.out);
        let mut sum = self.resized(&x[0], width);
        for term in &x[1..] {
            let term = self.resized(term, width);
            sum = self.graph.binary("Add", &sum, &term);
        }
        self.relu(op.relu, sum)
    }

    /// A rows operand cut or continued with zeros to `width`; a fields operand as it is.
    fn resized(&mut self, x: &Operand, width: usize) -> Value {
        match x.channels {
            None if x.width > width => self.graph.slice(&x.value, 1, 0, width),
            None => self.graph.pad_to(&x.value, x.width, width),
            Some(_) => x.value.clone(),
        }
    }

    fn attention(&mut self, op: &AttentionCore, x: &[Operand]) -> Value {
        let (fields, dim, heads) = (x[0].width as i64, op.dim as i64, op.heads as i64);
        let split = [0, fields, heads, dim / heads];
        let [q, k, v] = [0, 1, 2].map(|i| self.graph.reshape(&x[i].value, &split));
        let q = self.graph.transpose(&q, &[0, 2, 1, 3]);
        let k = self.graph.transpose(&k, &[0, 2, 3, 1]);
        let v = self.graph.transpose(&v, &[0, 2, 1, 3]);
        let scores = self.graph.binary("MatMul", &q, &k);
        let scale = self.graph.number(1.0 / ((dim / heads) as f32).sqrt());
        let scaled = self.graph.binary("Mul", &scores, &scale);
        let shares = self.graph.softmax(&scaled, -1);
        let mixed = self.graph.binary("MatMul", &shares, &v);
        let heads_last = self.graph.transpose(&mixed, &[0, 2, 1, 3]);
        self.graph.reshape(&heads_last, &[0, fields, dim])
    }

    fn add_norm(&mut self, op: &AddNorm, x: &[Operand]) -> Result<Value, OnnxError> {
        let sum = self.graph.binary("Add", &x[0].value, &x[1].value);
        self.norm(&op.norm, &sum)
    }

    fn outer(&mut self, op: &Outer, x: &[Operand]) -> Value {
        let (n, m, dim) = (x[0].width as i64, x[1].width as i64, op.dim as i64);
        let a = self.graph.reshape(&x[0].value, &[0, n, 1, dim]);
        let b = self.graph.reshape(&x[1].value, &[0, 1, m, dim]);
        let products = self.graph.binary("Mul", &a, &b);
        self.graph.reshape(&products, &[0, n * m, dim])
    }

    fn zeros(&mut self, out: BufferId) -> Result<Value, OnnxError> {
        let shape: Vec<i64> = match self.export.program.extent(out) {
            Extent::Rows { width } => vec![width as i64],
            Extent::Fields { fields, dim } => vec![fields as i64, dim as i64],
            Extent::Jagged { .. } => return Err(OnnxError::Incomplete("shape for these zeros")),
        };
        let (_, batch) = self.values.first().ok_or(OnnxError::Incomplete("input"))?;
        Ok(self.graph.zeros(batch, &shape))
    }

    fn head(&mut self, op: &Head, x: &[Operand]) -> Result<(), OnnxError> {
        let mut logit: Option<Value> = None;
        let bias = op.bias.map(|bias| self.slice(bias).1[0]).unwrap_or_default();
        let bias = self.graph.number((f64::from(bias) + self.export.logit_shift) as f32);
        for (operand, piece) in x.iter().zip(op.pieces()) {
            let width = operand.width * operand.channels.unwrap_or(1);
            let flat = match operand.channels {
                Some(_) => self.graph.reshape(&operand.value, &[0, width as i64]),
                None => operand.value.clone(),
            };
            let term = match piece {
                HeadPiece::Trained(weight) => {
                    let (name, data) = self.slice(weight);
                    let weight = self.graph.weights(&name, &[1, width], data)?;
                    self.graph.linear(&flat, &weight, None)
                }
                HeadPiece::Fixed(factor) => {
                    let sum = self.graph.sum_over(&flat, 1);
                    let column = self.graph.reshape(&sum, &[-1, 1]);
                    let factor = self.graph.number(factor as f32);
                    self.graph.binary("Mul", &column, &factor)
                }
            };
            logit = Some(match logit {
                Some(sum) => self.graph.binary("Add", &sum, &term),
                None => term,
            });
        }
        let logit = logit.ok_or(OnnxError::Incomplete("input of its head"))?;
        let shifted = self.graph.binary("Add", &logit, &bias);
        let probability = self.graph.unary("Sigmoid", &shifted);
        let flat = self.graph.reshape(&probability, &[-1]);
        self.graph.output("probability", &flat, &[Dim::Named("batch")]);
        self.probability = true;
        Ok(())
    }

    fn relu(&mut self, wanted: bool, x: Value) -> Value {
        if wanted { self.graph.unary("Relu", &x) } else { x }
    }

    fn norm(&mut self, norm: &NormSlices, x: &Value) -> Result<Value, OnnxError> {
        let (scale, shift) = (self.vector(norm.scale)?, self.vector(norm.shift)?);
        Ok(self.graph.layer_norm(x, &scale, &shift, NORM_EPSILON as f32))
    }

    fn vector(&mut self, id: SliceId) -> Result<Value, OnnxError> {
        let (name, data) = self.slice(id);
        self.graph.weights(&name, &[data.len()], data)
    }

    /// A free name for a weight slice, and its numbers, `[rows, cols]`.
    fn slice(&self, id: SliceId) -> (String, Vec<f32>) {
        let (param, rows, cols) = self.export.program.slice(id);
        let params = &self.export.model.params;
        let name = self.graph.free_name(&params.layout().spec(param).name);
        (name, (0..rows).flat_map(|row| &params.row(param, row)[..cols]).copied().collect())
    }

    /// The blocks of a layer with several sources as one matrix, named after the first and read when
    /// the model is written.
    fn side_by_side(&mut self, ids: &[SliceId]) -> Result<Value, OnnxError> {
        let program = self.export.program;
        let params = &self.export.model.params;
        let blocks: Vec<_> = ids.iter().map(|&id| program.slice(id)).collect();
        let Some(&(first, rows, _)) = blocks.first() else {
            return Err(OnnxError::Incomplete("source of one of its layers"));
        };
        let cols = blocks.iter().map(|block| block.2).sum();
        let name = self.graph.free_name(&params.layout().spec(first).name);
        Ok(self.graph.table(&name, rows, cols, move |row, mut out| {
            for &(param, _, cols) in &blocks {
                let (block, rest) = std::mem::take(&mut out).split_at_mut(cols);
                block.copy_from_slice(&params.row(param, row)[..cols]);
                out = rest;
            }
        }))
    }
}

/// A buffer in the graph.
struct Operand {
    value: Value,
    /// Width of rows, or number of fields.
    width: usize,
    /// Channels of fields.
    channels: Option<usize>,
}
