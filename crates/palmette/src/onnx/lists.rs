//! Lists in a graph: padded to the longest row of the batch, with a mask.
//!
//! The engine keeps rows of varying length behind each other. The format has no such tensor, so
//! a list is an input `[batch, longest]` filled up with [`PADDING`], `longest` at least 1, and
//! what belongs to the padding is kept out of sums, maxima and softmaxes.

use palmette_engine::ops::Pooling;

use super::graph::{Attribute, Dim, ElementType, GraphBuilder, Value};

/// What fills up the rows of a list; no value before a table is below -1.
pub const PADDING: i64 = -2;

/// A score that no softmax sees.
const HIDDEN: f32 = -1e30;

/// An input of a list and what is derived from it.
#[derive(Clone)]
pub(super) struct ListInput {
    /// Values before the table, -1 in the padding, `[batch, longest]`.
    values: Value,
    /// 1 for a value and 0 for padding, f32 `[batch, longest]`.
    weight: Value,
}

impl GraphBuilder<'_> {
    /// The input `list.NAME`.
    pub(super) fn list_input(&mut self, name: &str) -> ListInput {
        // Lists have lengths of their own: one name for all would let the runtime share buffers.
        let longest = format!("longest.{name}");
        let shape = [Dim::Named("batch"), Dim::Named(&longest)];
        let raw = self.input(&format!("list.{name}"), ElementType::I64, &shape);
        self.scope("lists", |graph| {
            let (padding, missing) = (graph.integer(PADDING), graph.integer(-1));
            let present = graph.binary("Greater", &raw, &padding);
            let values = graph.node("Where", &[&present, &raw, &missing], &[]);
            let weight = graph.cast(&present, ElementType::F32);
            ListInput { values, weight }
        })
    }

    /// Rows of a table for the values of a list, `[batch, longest, dim]`.
    pub(super) fn list_rows(&mut self, list: &ListInput, table: &Value, rows: usize) -> Value {
        let modulus = self.integer(rows as i64 - 1);
        let rows = self.modulo_row(&list.values, &modulus);
        self.gather(table, &rows, 0)
    }

    /// A list as one field: x `[batch, longest, dim]` to `[batch, 1, dim]`, zeros where empty.
    pub(super) fn pool_list(&mut self, list: &ListInput, x: &Value, pooling: Pooling) -> Value {
        let weight = self.reshape(&list.weight, &[0, 0, 1]);
        let axes = self.integers(&[1]);
        let over_values = [("keepdims", Attribute::Int(1))];
        let count = self.node("ReduceSum", &[&weight, &axes], &over_values);
        let one = self.number(1.0);
        if pooling == Pooling::Max {
            let (half, hidden) = (self.number(0.5), self.number(HIDDEN));
            let present = self.binary("Greater", &weight, &half);
            let shown = self.node("Where", &[&present, x, &hidden], &[]);
            let largest = self.node("ReduceMax", &[&shown, &axes], &over_values);
            let any = self.binary("Min", &count, &one);
            return self.binary("Mul", &largest, &any);
        }
        let weighted = self.binary("Mul", x, &weight);
        let sum = self.node("ReduceSum", &[&weighted, &axes], &over_values);
        if pooling == Pooling::Sum {
            return sum;
        }
        let count = self.binary("Max", &count, &one);
        self.binary("Div", &sum, &count)
    }

    /// `softmax(q k^T / sqrt(dim / heads)) v` over the values of a list: q `[batch, n, dim]`, k and
    /// v `[batch, longest, dim]`, result `[batch, n, dim]`; `causal`, where q are the list's values
    /// too, over those up to the query. `n` of `None` is `longest`.
    pub(super) fn attend_list(
        &mut self,
        list: &ListInput,
        [q, k, v]: [&Value; 3],
        n: Option<usize>,
        (dim, heads): (usize, usize),
        causal: bool,
    ) -> Value {
        let width = dim / heads;
        let split = [0, 0, heads as i64, width as i64];
        let [q, k, v] = [q, k, v].map(|x| self.reshape(x, &split));
        let q = self.transpose(&q, &[0, 2, 1, 3]);
        let k = self.transpose(&k, &[0, 2, 3, 1]);
        let v = self.transpose(&v, &[0, 2, 1, 3]);
        let scores = self.binary("MatMul", &q, &k);
        let scale = self.number(1.0 / (width as f32).sqrt());
        let scores = self.binary("Mul", &scores, &scale);
        let mut weight = self.reshape(&list.weight, &[0, 1, 1, -1]);
        if causal {
            // ones of the scores' shape, above the diagonal zero
            let (zero, one) = (self.number(0.0), self.number(1.0));
            let zeros = self.binary("Mul", &scores, &zero);
            let ones = self.binary("Add", &zeros, &one);
            let lower = self.node("Trilu", &[&ones], &[("upper", Attribute::Int(0))]);
            weight = self.binary("Mul", &weight, &lower);
        }
        let (half, hidden) = (self.number(0.5), self.number(HIDDEN));
        let seen = self.binary("Greater", &weight, &half);
        let scores = self.node("Where", &[&seen, &scores, &hidden], &[]);
        let shares = self.softmax(&scores, -1);
        // a row without values has shares of padding
        let shares = self.binary("Mul", &shares, &weight);
        let mixed = self.binary("MatMul", &shares, &v);
        let heads_last = self.transpose(&mixed, &[0, 2, 1, 3]);
        self.reshape(&heads_last, &[0, n.map_or(0, |n| n as i64), dim as i64])
    }
}
