//! Operators and optimisers against PyTorch's double precision: vectors.json, written by
//! oracle/operators.py. Inputs and weights are formulas that both files hold.

use palmette_engine::*;
use serde_json::Value;

const ROWS: usize = 4;
const DENSE: usize = 5;
const FIELDS: usize = 3;
const DIM: usize = 8;
const TABLE_ROWS: usize = 6;

/// Declares weights in the order of their use.
#[derive(Default)]
struct Parameters {
    layout: ParamLayout,
    all: Vec<ParamId>,
    program: Program,
}

impl Parameters {
    fn declare(&mut self, kind: &str, rows: usize, cols: usize) -> ParamId {
        let name = format!("{kind}.{}", self.all.len());
        self.all.push(self.layout.matrix(name, rows, cols, Init::Constant(0.0)));
        self.all[self.all.len() - 1]
    }

    fn norm(&mut self, len: usize) -> (ParamId, ParamId) {
        (self.declare("scale", 1, len), self.declare("weight", 1, len))
    }

    fn linear(&mut self, x: BufferId, out: usize) -> BufferId {
        let weight = self.declare("weight", out, self.program.width(x));
        let bias = Some(self.declare("weight", 1, out));
        self.program.linear(&[(x, weight)], out, Epilogue { bias, ..Epilogue::default() })
    }

    fn row_map(&mut self, x: BufferId, relu: bool) -> BufferId {
        let weight = self.declare("weight", DIM, DIM);
        let bias = Some(self.declare("weight", 1, DIM));
        self.program.row_map(x, weight, DIM, bias, relu)
    }

    fn head(&mut self, pieces: &[BufferId]) {
        let piece = |&x: &BufferId| {
            let weight = match self.program.extent(x) {
                Extent::Rows { width } => self.declare("weight", 1, width),
                Extent::Fields { fields, dim } => self.declare("weight", fields, dim),
                Extent::Jagged { .. } => unreachable!("no lists here"),
            };
            (x, HeadInput::Weight(weight))
        };
        let pieces: Vec<_> = pieces.iter().map(piece).collect();
        let bias = self.declare("weight", 1, 1);
        self.program.head(&pieces, Some(bias));
    }
}

type Build = fn(&mut Parameters, BufferId, BufferId);

const CASES: &[(&str, Build)] = &[
    ("fully_connected", |p, x, _| {
        let weight = p.declare("weight", 7, DENSE);
        let norm = Some(p.norm(7));
        let h = p.program.linear(&[(x, weight)], 7, Epilogue { bias: None, norm, relu: true });
        let y = p.linear(h, 3);
        p.head(&[y]);
    }),
    ("embedding_fully_connected", |p, _, s| {
        let weight = p.declare("weight", 6, FIELDS);
        let norm = Some(p.norm(6));
        let y = p.program.field_mix(&[(s, weight)], 6, Epilogue { bias: None, norm, relu: true });
        p.head(&[y]);
    }),
    ("dot_product", |p, x, s| {
        let v = p.linear(x, DIM);
        let pairs = p.program.gram(Some(v), &[s]);
        p.head(&[pairs]);
    }),
    ("sigmoid_gating", |p, x, _| {
        let r = p.linear(x, 6);
        let u = p.linear(x, 6);
        let y = p.program.gate(u, r, 6);
        p.head(&[y]);
    }),
    ("factorization_machine", |p, _, s| {
        let pairs = p.program.factorization_machine(&[s]);
        p.head(&[pairs]);
    }),
    ("attention_block", |p, _, s| {
        let [q, k, v] = [(); 3].map(|()| p.row_map(s, false));
        let a = p.program.attention(q, k, v, 4);
        let o = p.row_map(a, false);
        let (scale, shift) = p.norm(DIM);
        let h = p.program.add_norm(s, o, scale, shift);
        let f = p.row_map(h, true);
        let f = p.row_map(f, false);
        let (scale, shift) = p.norm(DIM);
        let y = p.program.add_norm(h, f, scale, shift);
        p.head(&[y]);
    }),
    ("dense_to_sparse_merge", |p, x, s| {
        let wide = p.linear(x, 2 * DIM);
        let merged = p.program.fields_from_rows(wide, DIM);
        p.head(&[merged, s]);
    }),
    ("cross_layer", |p, x, _| {
        let x0 = p.linear(x, 6);
        let mixed = p.linear(x0, 6);
        let product = p.program.multiply(x0, mixed);
        let y = p.program.add(&[product, x0], false);
        p.head(&[y]);
    }),
    ("compressed_interaction", |p, _, s| {
        let products = p.program.outer(s, s);
        let weight = p.declare("weight", 4, FIELDS * FIELDS);
        let y = p.program.field_mix(&[(products, weight)], 4, Epilogue::default());
        let sums = p.program.field_sums(y);
        p.head(&[sums]);
    }),
];

/// Element i (from 0) of tensor `ordinal`.
fn wave(ordinal: usize, i: usize) -> f64 {
    (0.37 * (i + 1) as f64 + 1.3 * (ordinal + 1) as f64).sin()
}

fn build<T: Real>(build: Build, state_slots: usize) -> (Parameters, Model<T>) {
    let mut p = Parameters::default();
    let dense = p.program.dense_input(DENSE);
    let sparse = p.program.embedding(0, FIELDS, DIM);
    build(&mut p, dense, sparse);
    let spec = |f| TableSpec { name: format!("t{f}"), rows: TABLE_ROWS, dim: DIM };
    let mut model = Model {
        params: ParamStore::<T>::new(p.layout.clone(), 1, state_slots).unwrap(),
        tables: Tables::new((0..FIELDS).map(spec).collect(), state_slots, 1).unwrap(),
    };
    for (ordinal, &id) in p.all.iter().enumerate() {
        let spec = p.layout.spec(id);
        let scale = spec.name.starts_with("scale");
        for r in 0..spec.rows {
            for (c, w) in model.params.row_mut(id, r).iter_mut().enumerate() {
                let s = wave(ordinal, r * spec.cols + c);
                *w = T::from_f64(if scale { 1.0 + 0.1 * s } else { 0.5 * s });
            }
        }
    }
    for f in 0..FIELDS {
        for r in 0..TABLE_ROWS {
            for (c, w) in model.tables.table_mut(f).row_mut(r).iter_mut().enumerate() {
                *w = T::from_f64(0.5 * wave(100 + f, r * DIM + c));
            }
        }
    }
    (p, model)
}

struct Data<T> {
    dense: Vec<T>,
    ids: Vec<u32>,
}

fn data<T: Real>() -> Data<T> {
    let id = |f: usize, r: usize| ((2 * r + 3 * f + r * f) % TABLE_ROWS) as u32;
    Data {
        dense: (1..=ROWS * DENSE).map(|i| T::from_f64((0.9 * i as f64).sin())).collect(),
        ids: (0..FIELDS).flat_map(|f| (0..ROWS).map(move |r| id(f, r))).collect(),
    }
}

impl<T> Data<T> {
    fn batch(&self) -> Batch<'_, T> {
        let weights = &[0.5, 0.75, 1.0, 1.25];
        Batch {
            rows: ROWS,
            dense: &self.dense,
            ids: &self.ids,
            labels: &[0.0, 1.0, 0.0, 1.0],
            weights,
            lists: &[],
        }
    }
}

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn lists(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(numbers).collect()
}

fn close(what: &str, found: &[f64], expect: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expect.len(), "{what}");
    for (i, (a, b)) in found.iter().zip(expect).enumerate() {
        assert!((a - b).abs() <= tolerance * (1.0 + b.abs()), "{what}[{i}]: {a}, PyTorch {b}");
    }
}

fn wide<T: Real>(values: &[T]) -> Vec<f64> {
    values.iter().map(|x| x.to_f64()).collect()
}

fn check_gradients<T: Real>(tolerance: f64) {
    let vectors = vectors();
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), CASES.len());
    for (expect, &(name, case)) in cases.iter().zip(CASES) {
        assert_eq!(expect["name"], name);
        let (mut p, model) = build::<T>(case, 0);
        let data = data::<T>();
        let mut executor = Executor::new();
        let logits = executor.forward(&model, &mut p.program, &data.batch()).unwrap();
        close(name, &wide(logits), &numbers(&expect["logits"]), tolerance);
        let all = Trainable::Everything;
        let (loss, _) = executor.gradients(&model, &mut p.program, &data.batch(), all).unwrap();
        close(name, &[loss], &[expect["loss"].as_f64().unwrap()], tolerance);
        let expected = lists(&expect["gradients"]);
        assert_eq!(expected.len(), p.all.len(), "{name}");
        for slice in p.program.slice_ids() {
            let (param, ..) = p.program.slice(slice);
            let ordinal = p.all.iter().position(|&id| id == param).unwrap();
            let found: Vec<f64> =
                executor.slice_gradient(&p.program, slice).flat_map(wide).collect();
            close(&format!("{name}, weight {ordinal}"), &found, &expected[ordinal], tolerance);
        }
        let mut found = vec![vec![0.0; TABLE_ROWS * DIM]; FIELDS];
        for (table, ids, sums) in executor.table_gradients() {
            for (&id, sum) in ids.iter().zip(sums.chunks(DIM)) {
                found[table][id as usize * DIM..][..DIM].copy_from_slice(&wide(sum));
            }
        }
        for (f, expected) in lists(&expect["table_gradients"]).iter().enumerate() {
            close(&format!("{name}, table {f}"), &found[f], expected, tolerance);
        }
    }
}

#[test]
fn logits_loss_and_gradients_are_pytorchs_in_f64() {
    check_gradients::<f64>(1e-12);
}

#[test]
fn logits_loss_and_gradients_are_pytorchs_in_f32() {
    check_gradients::<f32>(1e-5);
}

fn check_steps<T: Real>(tolerance: f64) {
    let vectors = vectors();
    let attention = CASES.iter().find(|case| case.0 == "attention_block").unwrap().1;
    for expect in vectors["steps"].as_array().unwrap() {
        let name = expect["name"].as_str().unwrap();
        let optimizer = match name {
            "adagrad" => Optimizer::Adagrad { epsilon: 1e-2 },
            "sgd" => Optimizer::Sgd,
            _ => panic!("unknown optimiser {name}"),
        };
        let clip = expect["clip"].as_f64().unwrap();
        let (mut p, mut model) = build::<T>(attention, optimizer.state_slots());
        let data = data::<T>();
        let mut executor = Executor::new();
        let (losses, norms) = (numbers(&expect["losses"]), numbers(&expect["norms"]));
        assert!(norms.iter().all(|&n| (n > clip) == (clip < 1.0)), "clipping is on or off");
        for (index, (loss, norm)) in losses.iter().zip(norms).enumerate() {
            let all = Trainable::Everything;
            let (_, squares) =
                executor.gradients(&model, &mut p.program, &data.batch(), all).unwrap();
            close(name, &[squares.sqrt()], &[norm], tolerance);
            let step = Step {
                index: index as u64,
                learning_rate: 0.12,
                optimizer,
                clip_norm: Some(clip),
                trainable: all,
            };
            let batch = data.batch();
            let found = executor.train_step(&mut model, &mut p.program, &batch, &step).unwrap();
            close(name, &[found], &[*loss], tolerance);
        }
        for (&id, expected) in p.all.iter().zip(lists(&expect["weights"])) {
            let rows = 0..p.layout.spec(id).rows;
            let found: Vec<f64> = rows.flat_map(|r| wide(model.params.row(id, r))).collect();
            close(name, &found, &expected, tolerance);
        }
        for (f, expected) in lists(&expect["tables"]).iter().enumerate() {
            let table = model.tables.table(f);
            let found: Vec<f64> = (0..TABLE_ROWS).flat_map(|r| wide(table.row(r))).collect();
            close(name, &found, expected, tolerance);
        }
    }
}

#[test]
fn optimiser_steps_with_clipping_are_pytorchs_in_f64() {
    check_steps::<f64>(1e-11);
}

#[test]
fn optimiser_steps_with_clipping_are_pytorchs_in_f32() {
    check_steps::<f32>(5e-5);
}
