//! Raw inputs to what the first operators read.

use palmette_data::DenseTransform;

use super::graph::{Dim, ElementType, GraphBuilder, Value};

/// Whether two columns can be transformed together.
fn same_kind(a: &DenseTransform, b: &DenseTransform) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}

/// Input `dense`: raw values `[batch, columns]`, NaN where missing, to transformed ones.
pub fn dense(graph: &mut GraphBuilder, transforms: &[DenseTransform]) -> Value {
    let shape = [Dim::Named("batch"), Dim::Fixed(transforms.len())];
    let raw = graph.input("dense", ElementType::F32, &shape);
    graph.scope("transforms", |graph| {
        // Neighbouring columns with one kind of transform are transformed together.
        let (mut parts, mut start) = (Vec::new(), 0);
        for run in transforms.chunk_by(same_kind) {
            let end = start + run.len();
            let columns = match run.len() == transforms.len() {
                true => raw.clone(),
                false => graph.slice(&raw, 1, start, end),
            };
            parts.push(transformed(graph, &columns, run));
            start = end;
        }
        let joined = graph.concat(&parts.iter().collect::<Vec<_>>(), 1);
        graph.where_missing(&raw, &joined)
    })
}

fn transformed(graph: &mut GraphBuilder, x: &Value, run: &[DenseTransform]) -> Value {
    match run[0] {
        DenseTransform::Log => graph.log_transform(x),
        DenseTransform::None => x.clone(),
        DenseTransform::Standard { .. } => {
            let moments = run.iter().map(|transform| match *transform {
                DenseTransform::Standard { mean, deviation } => (mean, deviation),
                _ => (0.0, 1.0),
            });
            let (means, deviations): (Vec<f64>, Vec<f64>) = moments.unzip();
            graph.standardise(x, &means, &deviations)
        }
    }
}

/// Input `categorical`: values before the tables `[batch, fields]` to rows of tables with
/// `table_rows` rows each.
pub fn table_rows(graph: &mut GraphBuilder, table_rows: &[usize]) -> Value {
    let shape = [Dim::Named("batch"), Dim::Fixed(table_rows.len())];
    let values = graph.input("categorical", ElementType::I64, &shape);
    graph.scope("tables", |graph| {
        let moduli: Vec<i64> = table_rows.iter().map(|&rows| rows as i64 - 1).collect();
        let moduli = graph.integers(&moduli);
        graph.modulo_row(&values, &moduli)
    })
}
