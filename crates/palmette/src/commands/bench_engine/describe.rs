//! A program as JSON, for the peer.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use palmette_engine::ops::{HeadPiece, Op};
use palmette_engine::{BufferId, Extent, NormSlices, ParamLayout, Program, SliceId, Span};
use serde_json::{Value, json};

/// Operators with their inputs as indices of earlier operators and their weights as indices of
/// `slices`, each `[parameter, rows, columns, is it a vector]`.
pub fn describe(program: &Program, layout: &ParamLayout) -> Result<Value> {
    let params: BTreeMap<_, usize> =
        layout.iter().enumerate().map(|(index, (id, _))| (id, index)).collect();
    let ids: Vec<SliceId> = program.slice_ids().collect();
    let at = |id: SliceId| ids.iter().position(|&other| other == id);
    let all = |span: Span| program.weights(span).iter().map(|&id| at(id)).collect::<Vec<_>>();
    let norm = |norm: &NormSlices| [at(norm.scale), at(norm.shift)];
    let mut outputs: Vec<BufferId> = Vec::new();
    let mut vectors: Vec<SliceId> = Vec::new();
    let mut ops = Vec::new();
    for op in program.ops() {
        let inputs: Vec<Option<usize>> = program
            .inputs(op.inputs())
            .map(|buffer| outputs.iter().rposition(|&id| id == buffer))
            .collect();
        let (out, mut value) = match op {
            Op::DenseInput(op) => (op.out, json!({ "op": "dense_input" })),
            Op::Embedding(op) => {
                if op.first_table != 0 {
                    bail!("peers read the tables from the first on");
                }
                (op.out, json!({ "op": "embedding" }))
            }
            Op::Linear(op) => {
                vectors.extend(op.bias);
                vectors.extend(op.norm.iter().flat_map(|n| [n.scale, n.shift]));
                let value = json!({
                    "op": "linear", "weights": all(op.weights), "bias": op.bias.and_then(at),
                    "norm": op.norm.as_ref().map(norm), "relu": op.relu,
                });
                (op.out, value)
            }
            Op::FieldMix(op) => {
                vectors.extend(op.bias);
                vectors.extend(op.norm.iter().flat_map(|n| [n.scale, n.shift]));
                let value = json!({
                    "op": "field_mix", "weights": all(op.weights), "bias": op.bias.and_then(at),
                    "norm": op.norm.as_ref().map(norm), "relu": op.relu,
                });
                (op.out, value)
            }
            Op::RowMap(op) => {
                vectors.extend(op.bias);
                let value = json!({
                    "op": "row_map", "weights": [at(op.weight)], "bias": op.bias.and_then(at),
                    "relu": op.relu,
                });
                (op.out, value)
            }
            Op::Gram(op) => {
                (op.out, json!({ "op": "gram", "vector": op.has_vector, "vectors": op.vectors }))
            }
            Op::Gate(op) => (op.out, json!({ "op": "gate" })),
            Op::Add(op) => (op.out, json!({ "op": "add", "relu": op.relu })),
            Op::Multiply(op) => (op.out, json!({ "op": "multiply" })),
            Op::Attention(op) => (op.out, json!({ "op": "attention", "heads": op.heads })),
            Op::AddNorm(op) => {
                vectors.extend([op.norm.scale, op.norm.shift]);
                (op.out, json!({ "op": "add_norm", "norm": norm(&op.norm), "dim": op.dim }))
            }
            Op::FieldsFromRows(op) => (op.out, json!({ "op": "fields_from_rows", "dim": op.dim })),
            Op::RowsFromFields(op) => (op.out, json!({ "op": "rows_from_fields" })),
            Op::FactorizationMachine(op) => (op.out, json!({ "op": "factorization_machine" })),
            Op::Zeros(op) => match program.extent(op.out) {
                Extent::Rows { .. } => (op.out, json!({ "op": "zero_rows" })),
                Extent::Fields { fields, dim } => {
                    (op.out, json!({ "op": "zero_fields", "fields": fields, "dim": dim }))
                }
                Extent::Jagged { .. } => bail!("peers read no lists"),
            },
            Op::Head(op) => {
                vectors.extend(op.bias);
                let pieces: Vec<Value> = op
                    .pieces()
                    .map(|piece| match piece {
                        HeadPiece::Trained(weight) => json!(["trained", at(weight)]),
                        HeadPiece::Fixed(factor) => json!(["fixed", factor]),
                    })
                    .collect();
                let value = json!({ "op": "head", "pieces": pieces, "bias": op.bias.and_then(at) });
                (op.out, value)
            }
            Op::FieldSums(_) | Op::Outer(_) => bail!("peers have no xDeepFM operators"),
            Op::JaggedEmbedding(_)
            | Op::Pool(_)
            | Op::TargetAttention(_)
            | Op::JaggedAttention(_) => bail!("peers read no lists"),
        };
        value["inputs"] = json!(inputs);
        if let Extent::Rows { width } = program.extent(out) {
            value["width"] = json!(width);
            value["rows"] = json!(true);
        } else {
            value["rows"] = json!(false);
            value["width"] = Value::Null;
        }
        outputs.push(out);
        ops.push(value);
    }
    let slice = |&id: &SliceId| {
        let (param, rows, cols) = program.slice(id);
        json!([params.get(&param), rows, cols, vectors.contains(&id)])
    };
    Ok(json!({ "ops": ops, "slices": ids.iter().map(slice).collect::<Vec<_>>() }))
}
