//! The ONNX writer against PyPI's `onnx` checker and `onnxruntime`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

use palmette::onnx::{
    Attribute, Dim, ElementType, ExternalData, GraphBuilder, Model, OnnxError, Value,
};
use palmette_random::{Draw, stream};

use crate::python::{Input, Output, interpreter, run_onnx};

const BATCH: usize = 3;
const FIELDS: usize = 4;
const CHANNELS: usize = 5;

/// Random numbers in [-1, 1).
fn random(purpose: &str, count: usize) -> Vec<f32> {
    let mut random = stream(11, purpose, 0);
    (0..count).map(|_| (2.0 * random.unit() - 1.0) as f32).collect()
}

fn write(model: Model, options: &ExternalData, folder: &Path) -> std::path::PathBuf {
    let encoded = model.encode(options).unwrap();
    let path = folder.join("model.onnx");
    fs::write(&path, encoded.model.to_vec()).unwrap();
    if let Some(external) = encoded.external {
        let file = File::create(folder.join(&external.file_name)).unwrap();
        external.write_to(&mut BufWriter::new(file)).unwrap();
    }
    path
}

#[track_caller]
fn check(outputs: &BTreeMap<String, Output>, name: &str, shape: &[usize], expect: &[f64]) {
    let output = &outputs[name];
    assert_eq!(output.shape, shape, "{name}");
    assert_eq!(output.data.len(), expect.len(), "{name}");
    for (index, (found, expect)) in output.data.iter().zip(expect).enumerate() {
        let close = (found - expect).abs() <= 2e-6 * expect.abs().max(1.0);
        assert!(close, "{name}[{index}]: {found} != {expect}");
    }
}

fn at(x: &[f32], width: usize, row: usize, column: usize) -> f64 {
    f64::from(x[row * width + column])
}

/// A matrix made entry by entry.
fn table(rows: usize, columns: usize, entry: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    (0..rows * columns).map(|i| entry(i / columns, i % columns)).collect()
}

#[test]
fn operators_compute_their_formulas() {
    let Some(python) = interpreter("operators_compute_their_formulas") else { return };
    let (width, out) = (6, 7);
    let x = random("x", BATCH * width);
    let fields = random("fields", BATCH * FIELDS * CHANNELS);
    let weight = random("weight", out * width);
    let bias = random("bias", out);
    let mix = random("mix", 2 * FIELDS);
    let (scale, shift) = (random("scale", width), random("shift", width));

    let mut graph = GraphBuilder::new("operators");
    let batch = Dim::Named("batch");
    let dense = graph.input("x", ElementType::F32, &[batch, Dim::Fixed(width)]);
    let shape = [batch, Dim::Fixed(FIELDS), Dim::Fixed(CHANNELS)];
    let sparse = graph.input("fields", ElementType::F32, &shape);
    let w = graph.weights("weight", &[out, width], &weight).unwrap();
    let b = graph.weights("bias", &[out], &bias).unwrap();
    let m = graph.weights("mix", &[2, FIELDS], &mix).unwrap();
    let c = graph.weights("shift2", &[2, 1], vec![0.5, -1.5]).unwrap();
    let (s, t) = (
        graph.weights("scale", &[width], &scale).unwrap(),
        graph.weights("shift", &[width], &shift).unwrap(),
    );
    let linear = graph.scope("block1", |g| g.linear(&dense, &w, Some(&b)));
    let plain = graph.linear(&dense, &w, None);
    let mixed = graph.mix_fields(&sparse, &m, Some(&c));
    let pairs = graph.pair_products(&sparse, FIELDS);
    let machine = graph.factorisation_machine(&sparse);
    let normed = graph.layer_norm(&dense, &s, &t, 1e-5);
    let soft = graph.softmax(&dense, -1);
    let sliced = graph.slice(&dense, 1, 2, 5);
    let padded = graph.pad_to(&sliced, 3, 6);
    let joined = graph.concat(&[&sliced, &dense], 1);
    let flat = graph.reshape(&sparse, &[0, -1]);
    let single = graph.concat(&[&dense], 1);
    let two = |g: &mut GraphBuilder, name: &str, v: &Value, size: usize| {
        g.output(name, v, &[batch, Dim::Fixed(size)]);
    };
    two(&mut graph, "linear", &linear, out);
    two(&mut graph, "plain", &plain, out);
    let shape = [batch, Dim::Fixed(2), Dim::Fixed(CHANNELS)];
    graph.output("mixed", &mixed, &shape);
    two(&mut graph, "pairs", &pairs, FIELDS * (FIELDS - 1) / 2);
    two(&mut graph, "machine", &machine, CHANNELS);
    two(&mut graph, "normed", &normed, width);
    two(&mut graph, "soft", &soft, width);
    two(&mut graph, "padded", &padded, 6);
    two(&mut graph, "joined", &joined, 3 + width);
    two(&mut graph, "flat", &flat, FIELDS * CHANNELS);
    two(&mut graph, "single", &single, width);

    let folder = tempfile::tempdir().unwrap();
    let model = write(graph.finish(), &ExternalData::default(), folder.path());
    let inputs = BTreeMap::from([
        ("x", Input::F32 { shape: vec![BATCH, width], data: x.clone() }),
        ("fields", Input::F32 { shape: vec![BATCH, FIELDS, CHANNELS], data: fields.clone() }),
    ]);
    let found = run_onnx(&python, &model, &inputs);

    let product = |i: usize, o: usize| -> f64 {
        (0..width).map(|k| at(&x, width, i, k) * at(&weight, width, o, k)).sum()
    };
    check(&found, "plain", &[BATCH, out], &table(BATCH, out, product));
    let affine = |i, o| product(i, o) + f64::from(bias[o]);
    check(&found, "linear", &[BATCH, out], &table(BATCH, out, affine));
    let field = |i: usize, n: usize, e: usize| at(&fields, CHANNELS, i * FIELDS + n, e);
    let mixed = table(BATCH * 2, CHANNELS, |row, e| {
        let (i, o) = (row / 2, row % 2);
        let sum: f64 = (0..FIELDS).map(|n| at(&mix, FIELDS, o, n) * field(i, n, e)).sum();
        sum + [0.5, -1.5][o]
    });
    check(&found, "mixed", &[BATCH, 2, CHANNELS], &mixed);
    let mut pairs = Vec::new();
    for i in 0..BATCH {
        for a in 0..FIELDS {
            let dot = |b| (0..CHANNELS).map(|e| field(i, a, e) * field(i, b, e)).sum::<f64>();
            pairs.extend((0..a).map(dot));
        }
    }
    check(&found, "pairs", &[BATCH, 6], &pairs);
    let machine = table(BATCH, CHANNELS, |i, e| {
        let values: Vec<f64> = (0..FIELDS).map(|n| field(i, n, e)).collect();
        values.iter().sum::<f64>().powi(2) - values.iter().map(|v| v * v).sum::<f64>()
    });
    check(&found, "machine", &[BATCH, CHANNELS], &machine);
    let row = |i: usize| -> Vec<f64> { (0..width).map(|k| at(&x, width, i, k)).collect() };
    let normed = table(BATCH, width, |i, k| {
        let row = row(i);
        let mean = row.iter().sum::<f64>() / width as f64;
        let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / width as f64;
        (row[k] - mean) / (variance + 1e-5).sqrt() * f64::from(scale[k]) + f64::from(shift[k])
    });
    check(&found, "normed", &[BATCH, width], &normed);
    let soft =
        table(BATCH, width, |i, k| row(i)[k].exp() / row(i).iter().map(|v| v.exp()).sum::<f64>());
    check(&found, "soft", &[BATCH, width], &soft);
    let padded = table(BATCH, 6, |i, k| if k < 3 { row(i)[k + 2] } else { 0.0 });
    check(&found, "padded", &[BATCH, 6], &padded);
    let joined = table(BATCH, 9, |i, k| if k < 3 { row(i)[k + 2] } else { row(i)[k - 3] });
    check(&found, "joined", &[BATCH, 9], &joined);
    let flat = table(BATCH, FIELDS * CHANNELS, |i, k| at(&fields, FIELDS * CHANNELS, i, k));
    check(&found, "flat", &[BATCH, FIELDS * CHANNELS], &flat);
    check(&found, "single", &[BATCH, width], &table(BATCH, width, |i, k| row(i)[k]));
}

#[test]
fn inputs_are_encoded_as_in_training() {
    let Some(python) = interpreter("inputs_are_encoded_as_in_training") else { return };
    let values = [-1i64, 0, 1, 9, 10, 11, -2, -11, 4_294_967_295, 1 << 40, i64::MAX, i64::MIN];
    let numbers = [f32::NAN, -3.0, 0.0, 0.5, 1e6, f32::MIN, 1e-8, -0.0];

    let mut graph = GraphBuilder::new("inputs");
    let batch = Dim::Named("batch");
    let v = graph.input("values", ElementType::I64, &[batch]);
    let x = graph.input("numbers", ElementType::F32, &[Dim::Named("numbers")]);
    let modulus = graph.integer(10);
    let rows = graph.modulo_row(&v, &modulus);
    let lookup: Vec<f32> = (0..21).map(|row| row as f32 - 9.0).collect();
    let table = graph.weights("table", &[21, 1], lookup).unwrap();
    // A gather from a shifted table shows negative rows too, which NASRec never stores.
    let nine = graph.integer(9);
    let shifted = graph.binary("Add", &rows, &nine);
    let picked = graph.gather(&table, &shifted, 0);
    let logged = graph.log_transform(&x);
    let clean = graph.where_missing(&x, &logged);
    graph.output("rows", &picked, &[batch, Dim::Fixed(1)]);
    graph.output("clean", &clean, &[Dim::Named("numbers")]);

    let folder = tempfile::tempdir().unwrap();
    let model = write(graph.finish(), &ExternalData::default(), folder.path());
    let found = run_onnx(
        &python,
        &model,
        &BTreeMap::from([
            ("values", Input::I64 { shape: vec![values.len()], data: values.to_vec() }),
            ("numbers", Input::F32 { shape: vec![numbers.len()], data: numbers.to_vec() }),
        ]),
    );
    // Rust's remainder has the sign of the dividend, as C's.
    let rows: Vec<f64> = values.iter().map(|v| (v % 10 + 1) as f64).collect();
    assert_eq!(rows[0], 0.0, "missing is row 0");
    check(&found, "rows", &[values.len(), 1], &rows);
    let clean: Vec<f64> = numbers
        .iter()
        .map(|&x| if x.is_nan() { 0.0 } else { f64::from(x.max(0.0) + 1.0).ln() })
        .collect();
    check(&found, "clean", &[numbers.len()], &clean);
}

/// A model of two layers whose first weights are large enough to move out.
fn two_layers<'a>(first: &'a [f32], second: &'a [f32]) -> Model<'a> {
    let mut graph = GraphBuilder::new("layers");
    let x = graph.input("x", ElementType::F32, &[Dim::Named("batch"), Dim::Fixed(31)]);
    let w = graph.weights("first", &[97, 31], first).unwrap();
    let v = graph.weights("second", &[41, 97], second).unwrap();
    let small = graph.weights("small", &[41], vec![0.25; 41]).unwrap();
    let hidden = graph.linear(&x, &w, None);
    let hidden = graph.unary("Relu", &hidden);
    let y = graph.linear(&hidden, &v, Some(&small));
    graph.output("y", &y, &[Dim::Named("batch"), Dim::Fixed(41)]);
    graph.metadata("architecture", "{}");
    graph.finish()
}

#[test]
fn external_data_give_the_same_outputs() {
    let (first, second) = (random("first", 97 * 31), random("second", 41 * 97));
    let options = ExternalData { above: 0, file_name: "weights.bin".into() };
    let encoded = two_layers(&first, &second).encode(&options).unwrap();
    let mut bytes = Vec::new();
    encoded.external.as_ref().unwrap().write_to(&mut bytes).unwrap();
    // The second tensor starts at a page: 97 * 31 * 4 = 12,028 bytes end in the third.
    assert_eq!(bytes.len(), 12_288 + 41 * 97 * 4);
    assert_eq!(&bytes[12_288..12_292], second[0].to_le_bytes());
    assert!(encoded.model.len() < 2_000, "only the small weights stay inside");

    let Some(python) = interpreter("external_data_give_the_same_outputs") else { return };
    let inputs = BTreeMap::from([("x", Input::F32 { shape: vec![2, 31], data: random("in", 62) })]);
    let inside = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let model = write(two_layers(&first, &second), &ExternalData::default(), inside.path());
    let expect = run_onnx(&python, &model, &inputs);
    let model = write(two_layers(&first, &second), &options, outside.path());
    assert_eq!(run_onnx(&python, &model, &inputs), expect);
    let sum: f64 = expect["y"].data.iter().map(|y| y.abs()).sum();
    assert!(sum > 1.0, "the outputs must depend on the weights: {sum}");
}

#[test]
fn equal_graphs_give_equal_bytes() {
    let (first, second) = (random("first", 97 * 31), random("second", 41 * 97));
    let bytes =
        || two_layers(&first, &second).encode(&ExternalData::default()).unwrap().model.to_vec();
    assert_eq!(bytes(), bytes());
}

#[test]
fn wrong_shapes_and_names_are_errors() {
    let mut graph = GraphBuilder::new("wrong");
    let error = graph.weights("w", &[2, 3], vec![0.0; 5]).unwrap_err();
    assert_eq!(error.to_string(), "tensor `w`: 5 numbers do not fill the shape [2, 3]");
    let x = graph.input("x", ElementType::F32, &[Dim::Fixed(1)]);
    graph.weights("x", &[1], vec![0.0]).unwrap();
    let y = graph.node("Gather", &[&x, &x], &[("axis", Attribute::Int(0))]);
    graph.output("y", &y, &[Dim::Fixed(1)]);
    let error = graph.finish().encode(&ExternalData::default()).err();
    assert_eq!(error, Some(OnnxError::Duplicate("x".into())));
}
