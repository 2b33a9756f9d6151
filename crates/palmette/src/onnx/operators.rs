//! The operators that models here are made of, each with its formula and shapes.

use super::graph::{Attribute, ElementType, GraphBuilder, Value};

impl GraphBuilder<'_> {
    /// An operator with one input and no attributes, such as `Relu` or `Sigmoid`.
    pub fn unary(&mut self, operator: &str, x: &Value) -> Value {
        self.node(operator, &[x], &[])
    }

    /// An operator with two inputs that broadcast, such as `Add` or `Mul`.
    pub fn binary(&mut self, operator: &str, x: &Value, y: &Value) -> Value {
        self.node(operator, &[x, y], &[])
    }

    /// `x W^T + b`; x `[batch, in]`, W `[out, in]`, b `[out]`, result `[batch, out]`.
    pub fn linear(&mut self, x: &Value, weight: &Value, bias: Option<&Value>) -> Value {
        let mut inputs = vec![x, weight];
        inputs.extend(bias);
        self.node("Gemm", &inputs, &[("transB", Attribute::Int(1))])
    }

    /// Mixes the field axis: `W X + b`; X `[batch, n, e]`, W `[s, n]`, b `[s, 1]`, result `[batch, s, e]`.
    pub fn mix_fields(&mut self, x: &Value, weight: &Value, bias: Option<&Value>) -> Value {
        let mixed = self.binary("MatMul", weight, x);
        match bias {
            Some(bias) => self.binary("Add", &mixed, bias),
            None => mixed,
        }
    }

    /// Joins tensors along an axis; a single one passes through.
    pub fn concat(&mut self, values: &[&Value], axis: i64) -> Value {
        match values {
            [value] => (*value).clone(),
            _ => self.node("Concat", values, &[("axis", Attribute::Int(axis))]),
        }
    }

    /// Reshapes; 0 keeps a dimension, -1 is what remains.
    pub fn reshape(&mut self, x: &Value, shape: &[i64]) -> Value {
        let shape = self.integers(shape);
        self.node("Reshape", &[x, &shape], &[])
    }

    /// Zeros of a shape for every row of the batch that `like` has.
    pub fn zeros(&mut self, like: &Value, shape: &[i64]) -> Value {
        let range = [("start", Attribute::Int(0)), ("end", Attribute::Int(1))];
        let batch = self.node("Shape", &[like], &range);
        let rest = self.integers(shape);
        let whole = self.concat(&[&batch, &rest], 0);
        let zero = self.number(0.0);
        self.node("Expand", &[&zero, &whole], &[])
    }

    /// Permutes the axes.
    pub fn transpose(&mut self, x: &Value, permutation: &[i64]) -> Value {
        self.node("Transpose", &[x], &[("perm", Attribute::Ints(permutation))])
    }

    /// Picks entries along an axis; a vector of `indices` keeps the axis, a single one drops it.
    pub fn gather(&mut self, data: &Value, indices: &Value, axis: i64) -> Value {
        self.node("Gather", &[data, indices], &[("axis", Attribute::Int(axis))])
    }

    /// `x[.., start..end]` along an axis.
    pub fn slice(&mut self, x: &Value, axis: i64, start: usize, end: usize) -> Value {
        let bounds = [start as i64, end as i64, axis].map(|bound| self.integers(&[bound]));
        let [start, end, axis] = &bounds;
        self.node("Slice", &[x, start, end, axis], &[])
    }

    /// Appends zeros at the end of the last axis of x `[batch, from]` up to `to`.
    pub fn pad_to(&mut self, x: &Value, from: usize, to: usize) -> Value {
        if from >= to {
            return x.clone();
        }
        let pads = self.integers(&[0, 0, 0, (to - from) as i64]);
        self.node("Pad", &[x, &pads], &[])
    }

    /// Sum along an axis, which is dropped.
    pub fn sum_over(&mut self, x: &Value, axis: i64) -> Value {
        let axes = self.integers(&[axis]);
        self.node("ReduceSum", &[x, &axes], &[("keepdims", Attribute::Int(0))])
    }

    /// Softmax along an axis.
    pub fn softmax(&mut self, x: &Value, axis: i64) -> Value {
        self.node("Softmax", &[x], &[("axis", Attribute::Int(axis))])
    }

    /// `(x - mean) / sqrt(variance + epsilon) * scale + shift` over the last axis.
    pub fn layer_norm(&mut self, x: &Value, scale: &Value, shift: &Value, epsilon: f32) -> Value {
        let attributes = [("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(epsilon))];
        self.node("LayerNormalization", &[x, scale, shift], &attributes)
    }

    /// Row of a table for a value before the table: `fmod(v, rows - 1) + 1` with the sign of v
    /// (C's remainder), so that a missing value, -1, is row 0.
    pub fn modulo_row(&mut self, values: &Value, modulus: &Value) -> Value {
        let remainder = self.node("Mod", &[values, modulus], &[("fmod", Attribute::Int(1))]);
        let one = self.integer(1);
        self.binary("Add", &remainder, &one)
    }

    /// `x` with 0 wherever `raw` is not a number.
    pub fn where_missing(&mut self, raw: &Value, x: &Value) -> Value {
        let missing = self.unary("IsNaN", raw);
        let zero = self.number(0.0);
        self.node("Where", &[&missing, &zero, x], &[])
    }

    /// The same numbers as another type.
    pub fn cast(&mut self, x: &Value, kind: ElementType) -> Value {
        self.node("Cast", &[x], &[("to", Attribute::Int(kind as i64))])
    }

    /// `(x - mean) / deviation` in f64, x `[batch, columns]`, as the training data were standardised.
    pub fn standardise(&mut self, x: &Value, means: &[f64], deviations: &[f64]) -> Value {
        let (means, deviations) = (self.doubles(means), self.doubles(deviations));
        let wide = self.cast(x, ElementType::F64);
        let centred = self.binary("Sub", &wide, &means);
        let scaled = self.binary("Div", &centred, &deviations);
        self.cast(&scaled, ElementType::F32)
    }

    /// `ln(max(x, 0) + 1)`.
    pub fn log_transform(&mut self, x: &Value) -> Value {
        let (zero, one) = (self.number(0.0), self.number(1.0));
        let positive = self.binary("Max", x, &zero);
        let shifted = self.binary("Add", &positive, &one);
        self.unary("Log", &shifted)
    }

    /// Products of all pairs of rows: the strict lower triangle of `X X^T`, row by row;
    /// X `[batch, rows, e]`, result `[batch, rows (rows - 1) / 2]`.
    pub fn pair_products(&mut self, x: &Value, rows: usize) -> Value {
        let transposed = self.transpose(x, &[0, 2, 1]);
        let gram = self.binary("MatMul", x, &transposed);
        let flat = self.reshape(&gram, &[0, (rows * rows) as i64]);
        let below = (0..rows).flat_map(|i| (0..i).map(move |j| (i * rows + j) as i64));
        let indices = self.integers(&below.collect::<Vec<_>>());
        self.gather(&flat, &indices, 1)
    }

    /// Factorisation-machine term `(sum of rows)^2 - sum of (rows^2)`, without the factor 1/2;
    /// X `[batch, rows, e]`, result `[batch, e]`.
    pub fn factorisation_machine(&mut self, x: &Value) -> Value {
        let sum = self.sum_over(x, 1);
        let square_of_sum = self.binary("Mul", &sum, &sum);
        let squares = self.binary("Mul", x, x);
        let sum_of_squares = self.sum_over(&squares, 1);
        self.binary("Sub", &square_of_sum, &sum_of_squares)
    }
}
