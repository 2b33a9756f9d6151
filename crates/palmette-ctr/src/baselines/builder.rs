//! The parts that baselines share, declared and built in one go.

use palmette_engine::{
    BufferId, Epilogue, Extent, HeadInput, Init, ParamId, ParamLayout, Program, TableSpec,
};

use super::BaselineError;
use crate::nasrec::{Arrangement, LogicalTensor};
use crate::{CompiledModel, ListTable, ModelInputs};

/// Declares parameters and writes the program over them.
///
/// Every parameter is used once, in the order of its declaration.
pub(super) struct ModelBuilder<'a> {
    inputs: &'a ModelInputs,
    layout: ParamLayout,
    tables: Vec<TableSpec>,
    pub program: Program,
    tensors: Vec<LogicalTensor>,
    dense: Option<BufferId>,
    head: Vec<(BufferId, HeadInput)>,
}

/// The embedded values of a list.
pub(super) struct ListValues<'a> {
    /// Name of the column.
    pub name: &'a str,
    /// The field whose table they share, where there is one.
    pub shared: Option<usize>,
    /// `[values, dim]`.
    pub values: BufferId,
}

impl<'a> ModelBuilder<'a> {
    /// An empty network on these inputs.
    pub fn new(inputs: &'a ModelInputs) -> Result<Self, BaselineError> {
        if inputs.dense == 0 && inputs.fields.is_empty() && inputs.lists.is_empty() {
            return Err(BaselineError::NoInputs);
        }
        let mut program = Program::new();
        let dense = (inputs.dense > 0).then(|| program.dense_input(inputs.dense));
        Ok(Self {
            inputs,
            layout: ParamLayout::default(),
            tables: Vec::new(),
            program,
            tensors: Vec::new(),
            dense,
            head: Vec::new(),
        })
    }

    /// The dense inputs, `[rows, nd]`, if there are any.
    pub fn dense(&self) -> Option<BufferId> {
        self.dense
    }

    /// The fields' embeddings, `[ns, rows, dim]`, if there are any.
    pub fn embeddings(&mut self, dim: usize) -> Option<BufferId> {
        self.read_tables("embedding", dim)
    }

    /// The fields' embeddings as [`ModelBuilder::embeddings`] and the values of each list,
    /// `[values, dim]`.
    pub fn embeddings_and_lists(&mut self, dim: usize) -> (Option<BufferId>, Vec<ListValues<'a>>) {
        let first = self.tables.len();
        let fields = self.embeddings(dim);
        let mut lists = Vec::new();
        for (i, list) in self.inputs.lists.iter().enumerate() {
            let (shared, table) = match list.table {
                ListTable::Shared(field) => (Some(field), first + field),
                ListTable::Own(rows) => {
                    let name = format!("embedding.{}", list.name);
                    self.tables.push(TableSpec { name, rows, dim });
                    (None, self.tables.len() - 1)
                }
            };
            let values = self.program.jagged_embedding(i, table, dim);
            lists.push(ListValues { name: &list.name, shared, values });
        }
        (fields, lists)
    }

    /// `W x + b` for every vector of channels, with a ReLU where wanted.
    pub fn channel_map(&mut self, name: &str, x: BufferId, relu: bool) -> BufferId {
        let dim = self.program.dim(x);
        let weight = self.weight(&format!("{name}.weight"), dim, &[dim]);
        let bias = self.bias(&format!("{name}.bias"), dim);
        self.program.row_map(x, weight[0], dim, Some(bias), relu)
    }

    /// `norm(a + b)` over the channels.
    pub fn add_norm(&mut self, name: &str, a: BufferId, b: BufferId) -> BufferId {
        let dim = self.program.dim(a);
        let scale = format!("{name}.scale");
        let ones = self.layout.vector(scale.clone(), dim, Init::Constant(1.0));
        self.tensor(&scale, &[dim], &[ones], Arrangement::Columns);
        let shift = self.bias(&format!("{name}.shift"), dim);
        self.program.add_norm(a, b, ones, shift)
    }

    fn read_tables(&mut self, prefix: &str, dim: usize) -> Option<BufferId> {
        let first = self.tables.len();
        self.tables.extend(self.inputs.tables(prefix, dim));
        let fields = self.inputs.fields.len();
        (fields > 0).then(|| self.program.embedding(first, fields, dim))
    }

    /// The dense inputs as nd fields of `dim` channels: `reshape(W x)` with `W: [nd dim, nd]`.
    ///
    /// Papers scale one vector per dense input, `x_j v_j`; that is the part of W
    /// in which output field j reads input j alone. The engine has no such
    /// product, and the whole W costs `nd^2 dim` multiply-accumulates.
    pub fn dense_as_fields(&mut self, dim: usize) -> Option<BufferId> {
        let dense = self.dense?;
        let width = self.inputs.dense * dim;
        let weight = self.weight("dense_embedding.weight", width, &[self.inputs.dense]);
        let wide = self.program.linear(&[(dense, weight[0])], width, Epilogue::default());
        Some(self.program.fields_from_rows(wide, dim))
    }

    /// All inputs as fields of `dim` channels: embeddings first, then the dense inputs.
    pub fn all_fields(&mut self, dim: usize) -> Vec<BufferId> {
        let embeddings = self.embeddings(dim);
        embeddings.into_iter().chain(self.dense_as_fields(dim)).collect()
    }

    /// All inputs as `ns + nd` fields in one buffer: `pad(E) + reshape(W x)` with
    /// `W: [(ns + nd) dim, nd]`.
    ///
    /// As in [`ModelBuilder::dense_as_fields`], W does more than one vector per dense input:
    /// the embeddings, too, get a linear function of the dense inputs added.
    pub fn one_field_buffer(&mut self, dim: usize) -> BufferId {
        let embeddings = self.embeddings(dim);
        let Some(dense) = self.dense else {
            return embeddings.unwrap_or_else(|| unreachable!("there are inputs"));
        };
        let width = (self.inputs.fields.len() + self.inputs.dense) * dim;
        let weight = self.weight("dense_embedding.weight", width, &[self.inputs.dense]);
        let wide = self.program.linear(&[(dense, weight[0])], width, Epilogue::default());
        // Sums of rows continue the shorter with zeros; sums of fields need equal shapes.
        let flat = embeddings.map(|e| self.program.rows_from_fields(e));
        let all = flat.map_or(wide, |flat| self.program.add(&[wide, flat], false));
        self.program.fields_from_rows(all, dim)
    }

    /// Flattened embeddings of `dim` channels after the dense inputs.
    pub fn all_rows(&mut self, dim: usize) -> Vec<BufferId> {
        let embeddings = self.embeddings(dim);
        let flat = embeddings.map(|e| self.program.rows_from_fields(e));
        self.dense.into_iter().chain(flat).collect()
    }

    /// One tensor `[out, sum of widths]`, cut into a block of columns a source.
    pub fn weight(&mut self, name: &str, out: usize, widths: &[usize]) -> Vec<ParamId> {
        let fan_in = widths.iter().sum();
        let init = Init::XavierUniform { fan_in, fan_out: out };
        let block = |(j, &width): (usize, &usize)| {
            let name = if widths.len() == 1 { name.to_owned() } else { format!("{name}.{j}") };
            self.layout.matrix(name, out, width, init)
        };
        let parts: Vec<_> = widths.iter().enumerate().map(block).collect();
        self.tensor(name, &[out, fan_in], &parts, Arrangement::Columns);
        parts
    }

    /// A vector of zeros.
    pub fn bias(&mut self, name: &str, len: usize) -> ParamId {
        let bias = self.layout.vector(name, len, Init::Constant(0.0));
        self.tensor(name, &[len], &[bias], Arrangement::Columns);
        bias
    }

    fn tensor(&mut self, name: &str, shape: &[usize], parts: &[ParamId], arrangement: Arrangement) {
        let (name, shape, parts) = (name.to_owned(), shape.to_vec(), parts.to_vec());
        self.tensors.push(LogicalTensor { name, shape, parts, arrangement });
    }

    /// `relu?(W [sources] + b)`.
    pub fn layer(&mut self, name: &str, sources: &[BufferId], out: usize, relu: bool) -> BufferId {
        let widths: Vec<_> = sources.iter().map(|&s| self.program.width(s)).collect();
        let weights = self.weight(&format!("{name}.weight"), out, &widths);
        let bias = Some(self.bias(&format!("{name}.bias"), out));
        let sources: Vec<_> = sources.iter().copied().zip(weights).collect();
        self.program.linear(&sources, out, Epilogue { bias, relu, norm: None })
    }

    /// Layers with ReLU, one after the other; without any, the sources themselves.
    pub fn tower(&mut self, name: &str, sources: Vec<BufferId>, widths: &[usize]) -> Vec<BufferId> {
        let stack = |sources: Vec<BufferId>, (i, &width): (usize, &usize)| {
            vec![self.layer(&format!("{name}.{i}"), &sources, width, true)]
        };
        widths.iter().enumerate().fold(sources, stack)
    }

    /// `c * x` with `c` fixed joins the logit.
    pub fn add_sum_to_logit(&mut self, x: BufferId, c: f64) {
        self.head.push((x, HeadInput::Constant(c)));
    }

    /// `w . x` with trained w joins the logit for each of `sources`.
    pub fn add_to_logit(&mut self, name: &str, sources: &[BufferId]) {
        let len = |extent: Extent| match extent {
            Extent::Rows { width } => (1, width),
            Extent::Fields { fields, dim } => (fields, dim),
            Extent::Jagged { .. } => unreachable!("lists are pooled before they join the logit"),
        };
        let extents: Vec<_> = sources.iter().map(|&s| len(self.program.extent(s))).collect();
        let fan_in = extents.iter().map(|(rows, cols)| rows * cols).sum();
        let init = Init::XavierUniform { fan_in, fan_out: 1 };
        let mut parts = Vec::new();
        for (j, (&source, (rows, cols))) in sources.iter().zip(extents).enumerate() {
            let part = if sources.len() == 1 { name.to_owned() } else { format!("{name}.{j}") };
            let weight = self.layout.matrix(part, rows, cols, init);
            self.head.push((source, HeadInput::Weight(weight)));
            parts.push(weight);
        }
        self.tensor(name, &[1, fan_in], &parts, Arrangement::Stacked);
    }

    /// The first-order terms join the logit: `w . x` and one number a categorical value.
    pub fn add_first_order_to_logit(&mut self) {
        if let Some(dense) = self.dense {
            self.add_to_logit("first_order.weight", &[dense]);
        }
        if let Some(values) = self.read_tables("first_order", 1) {
            self.add_sum_to_logit(values, 1.0);
        }
    }

    /// Closes the program: the logit is the sum of what was added, and a bias.
    pub fn finish(mut self) -> CompiledModel {
        let bias = self.bias("bias", 1);
        self.program.head(&self.head, Some(bias));
        CompiledModel {
            layout: self.layout,
            tables: self.tables,
            program: self.program,
            tensors: self.tensors,
        }
    }
}
