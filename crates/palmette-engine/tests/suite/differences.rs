//! Gradients of any program against central differences in f64.

use palmette_engine::*;
use palmette_random::Draw;

/// Elements of every slice and of every table that are compared.
pub struct Elements {
    pub of_slices: usize,
    pub of_tables: usize,
}

/// Computes the gradients twice, the second time in a poisoned arena, and compares elements drawn
/// from `rng` with `(loss(x + h) - loss(x - h)) / 2h`; returns the tables that had gradients.
pub fn check_gradients(
    name: &str,
    model: &mut Model<f64>,
    program: &mut Program,
    batch: &Batch<'_, f64>,
    elements: Elements,
    rng: &mut impl Draw,
) -> Vec<usize> {
    let mut executor = Executor::new();
    executor.gradients(model, program, batch, Trainable::Everything).unwrap();
    executor.poison();
    executor.gradients(model, program, batch, Trainable::Everything).unwrap();
    let slices: Vec<_> = program
        .slice_ids()
        .map(|s| {
            let gradient: Vec<Vec<f64>> =
                executor.slice_gradient(program, s).map(<[f64]>::to_vec).collect();
            (program.slice(s), gradient)
        })
        .collect();
    let tables: Vec<(usize, Vec<u32>, Vec<f64>)> =
        executor.table_gradients().map(|(t, i, g)| (t, i.to_vec(), g.to_vec())).collect();
    let mut loss =
        |model: &Model<f64>| executor.gradients(model, program, batch, Trainable::Head).unwrap().0;
    const STEP: f64 = 1e-5;
    let check = |what: String, analytic: f64, high: f64, low: f64| {
        let numeric = (high - low) / (2.0 * STEP);
        let error = (analytic - numeric).abs() / (1e-3 + numeric.abs());
        assert!(error < 2e-5, "{name}, {what}: {analytic} against {numeric}");
    };
    for ((param, rows, cols), gradient) in slices {
        for _ in 0..elements.of_slices {
            let (i, j) = (rng.below(rows as u64) as usize, rng.below(cols as u64) as usize);
            let at = model.params.row(param, i)[j];
            model.params.row_mut(param, i)[j] = at + STEP;
            let high = loss(model);
            model.params.row_mut(param, i)[j] = at - STEP;
            let low = loss(model);
            model.params.row_mut(param, i)[j] = at;
            check(format!("{param:?}[{i}, {j}]"), gradient[i][j], high, low);
        }
    }
    for (table, ids, gradient) in &tables {
        let dim = gradient.len() / ids.len();
        for _ in 0..elements.of_tables {
            let (k, e) = (rng.below(ids.len() as u64) as usize, rng.below(dim as u64) as usize);
            let row = ids[k] as usize;
            let at = model.tables.table(*table).row(row)[e];
            model.tables.table_mut(*table).row_mut(row)[e] = at + STEP;
            let high = loss(model);
            model.tables.table_mut(*table).row_mut(row)[e] = at - STEP;
            let low = loss(model);
            model.tables.table_mut(*table).row_mut(row)[e] = at;
            check(format!("table {table} row {row}"), gradient[k * dim + e], high, low);
        }
    }
    tables.into_iter().map(|table| table.0).collect()
}
