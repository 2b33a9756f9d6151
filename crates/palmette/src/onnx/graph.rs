//! Growing a graph.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::{
    OnnxError,
    encode::Model,
    proto::{
        AttributeProto, DimensionProto, GraphProto, NodeProto, StringStringEntryProto,
        TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, attribute_kind,
    },
};

/// Element type of a tensor, with its number in `TensorProto.DataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// 32-bit floating point.
    F32 = 1,
    /// 64-bit signed integers.
    I64 = 7,
    /// 64-bit floating point.
    F64 = 11,
}

/// One dimension of an input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim<'a> {
    /// Any size, such as the batch; equal names are equal sizes.
    Named(&'a str),
    /// A fixed size.
    Fixed(usize),
}

/// A tensor of the graph, to be read by later nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value(pub(super) String);

impl Value {
    /// The name of the tensor in the file.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// An attribute of a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Attribute<'a> {
    /// A number.
    Float(f32),
    /// An integer.
    Int(i64),
    /// A list of integers.
    Ints(&'a [i64]),
}

/// Writes a row of a matrix by its index.
pub(super) type RowSource<'a> = Box<dyn Fn(usize, &mut [f32]) + 'a>;

/// A constant tensor, borrowed until the model is encoded.
pub(super) struct Initialiser<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    pub data: Data<'a>,
}

pub(super) enum Data<'a> {
    F32(Cow<'a, [f32]>),
    F64(Vec<f64>),
    I64(Vec<i64>),
    /// A matrix whose rows lie apart.
    Rows {
        rows: usize,
        cols: usize,
        read: RowSource<'a>,
    },
}

/// Grows a graph node by node, in an order in which every node reads what exists.
pub struct GraphBuilder<'a> {
    graph: GraphProto,
    initialisers: Vec<Initialiser<'a>>,
    metadata: Vec<StringStringEntryProto>,
    scopes: Vec<String>,
    names: BTreeSet<String>,
    duplicate: Option<String>,
}

impl<'a> GraphBuilder<'a> {
    /// An empty graph.
    pub fn new(name: &str) -> Self {
        Self {
            graph: GraphProto { name: name.into(), ..GraphProto::default() },
            initialisers: Vec::new(),
            metadata: Vec::new(),
            scopes: Vec::new(),
            names: BTreeSet::new(),
            duplicate: None,
        }
    }

    /// Names of nodes grown by `build` start with `scope/`, so that viewers group them.
    pub fn scope<T>(&mut self, scope: &str, build: impl FnOnce(&mut Self) -> T) -> T {
        self.scopes.push(scope.into());
        let value = build(self);
        self.scopes.pop();
        value
    }

    /// An input of the model.
    pub fn input(&mut self, name: &str, kind: ElementType, shape: &[Dim]) -> Value {
        self.claim(name);
        self.graph.input.push(value_info(name, kind, shape));
        Value(name.into())
    }

    /// Declares a value an output of the model, under `name`; outputs are `f32`.
    pub fn output(&mut self, name: &str, value: &Value, shape: &[Dim]) {
        self.claim(name);
        self.push_node("Identity", &[value], name.into(), &[]);
        self.graph.output.push(value_info(name, ElementType::F32, shape));
    }

    /// Named weights in row-major order; borrowed, because tables are large.
    pub fn weights(
        &mut self,
        name: &str,
        shape: &[usize],
        data: impl Into<Cow<'a, [f32]>>,
    ) -> Result<Value, OnnxError> {
        let data = data.into();
        if shape.iter().product::<usize>() != data.len() {
            let (shape, found) = (shape.to_vec(), data.len());
            return Err(OnnxError::Shape { name: name.into(), shape, found });
        }
        self.claim(name);
        let shape = shape.to_vec();
        self.initialisers.push(Initialiser { name: name.into(), shape, data: Data::F32(data) });
        Ok(Value(name.into()))
    }

    /// A named matrix `[rows, cols]` read row by row when the model is written, so that a large
    /// table is never copied; `read(i, row)` writes its `cols` numbers for every `i < rows`.
    pub fn table(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
        read: impl Fn(usize, &mut [f32]) + 'a,
    ) -> Value {
        self.claim(name);
        let data = Data::Rows { rows, cols, read: Box::new(read) };
        self.initialisers.push(Initialiser { name: name.into(), shape: vec![rows, cols], data });
        Value(name.into())
    }

    /// `name` if it is free, else `name` with a number.
    pub fn free_name(&self, name: &str) -> String {
        let numbered = (2..).map(|number| format!("{name}#{number}"));
        let mut candidates = std::iter::once(name.to_string()).chain(numbered);
        candidates.find(|candidate| !self.names.contains(candidate)).unwrap_or_default()
    }

    /// A vector of 64-bit floating-point constants.
    pub fn doubles(&mut self, data: &[f64]) -> Value {
        let name = self.fresh("Constant");
        let shape = vec![data.len()];
        self.initialisers.push(Initialiser {
            name: name.clone(),
            shape,
            data: Data::F64(data.to_vec()),
        });
        Value(name)
    }

    /// A vector of integers, such as a shape or a list of axes.
    pub fn integers(&mut self, data: &[i64]) -> Value {
        self.integer_tensor(vec![data.len()], data)
    }

    /// A single integer.
    pub fn integer(&mut self, value: i64) -> Value {
        self.integer_tensor(Vec::new(), &[value])
    }

    /// A single number.
    pub fn number(&mut self, value: f32) -> Value {
        let name = self.fresh("Constant");
        let data = Data::F32(vec![value].into());
        self.initialisers.push(Initialiser { name: name.clone(), shape: Vec::new(), data });
        Value(name)
    }

    fn integer_tensor(&mut self, shape: Vec<usize>, data: &[i64]) -> Value {
        let name = self.fresh("Constant");
        let data = Data::I64(data.to_vec());
        self.initialisers.push(Initialiser { name: name.clone(), shape, data });
        Value(name)
    }

    /// A node with one output.
    pub fn node(
        &mut self,
        operator: &str,
        inputs: &[&Value],
        attributes: &[(&str, Attribute)],
    ) -> Value {
        let output = self.fresh(operator);
        self.push_node(operator, inputs, output.clone(), attributes);
        Value(output)
    }

    fn push_node(
        &mut self,
        operator: &str,
        inputs: &[&Value],
        output: String,
        attributes: &[(&str, Attribute)],
    ) {
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|value| value.0.clone()).collect(),
            name: format!("{output}/node"),
            output: vec![output],
            op_type: operator.into(),
            attribute: attributes.iter().map(|&(name, value)| attribute(name, value)).collect(),
        });
    }

    /// Adds an entry to the model's metadata.
    pub fn metadata(&mut self, key: &str, value: &str) {
        self.metadata.push(StringStringEntryProto { key: key.into(), value: value.into() });
    }

    /// Ends the graph.
    pub fn finish(self) -> Model<'a> {
        Model {
            graph: self.graph,
            initialisers: self.initialisers,
            metadata: self.metadata,
            duplicate: self.duplicate,
        }
    }

    /// A name that nobody has: the scope, what it is, a number.
    fn fresh(&mut self, what: &str) -> String {
        let mut path = self.scopes.clone();
        path.push(format!("{what}_{}", self.names.len()));
        let name = path.join("/");
        self.claim(&name);
        name
    }

    /// Takes a name; a name taken twice is reported when the model is encoded.
    fn claim(&mut self, name: &str) {
        if !self.names.insert(name.into()) && self.duplicate.is_none() {
            self.duplicate = Some(name.into());
        }
    }
}

fn attribute(name: &str, value: Attribute) -> AttributeProto {
    let empty = AttributeProto { name: name.into(), ..AttributeProto::default() };
    match value {
        Attribute::Float(f) => AttributeProto { f, kind: attribute_kind::FLOAT, ..empty },
        Attribute::Int(i) => AttributeProto { i, kind: attribute_kind::INT, ..empty },
        Attribute::Ints(ints) => {
            AttributeProto { ints: ints.to_vec(), kind: attribute_kind::INTS, ..empty }
        }
    }
}

fn value_info(name: &str, kind: ElementType, shape: &[Dim]) -> ValueInfoProto {
    let dim = shape
        .iter()
        .map(|dim| match *dim {
            Dim::Named(name) => DimensionProto { dim_value: None, dim_param: Some(name.into()) },
            Dim::Fixed(size) => DimensionProto { dim_value: Some(size as i64), dim_param: None },
        })
        .collect();
    let shape = Some(TensorShapeProto { dim });
    let tensor_type = Some(TensorTypeProto { elem_type: kind as i32, shape });
    ValueInfoProto {
        name: name.into(),
        kind: Some(TypeProto { tensor_type }),
        doc_string: String::new(),
    }
}
