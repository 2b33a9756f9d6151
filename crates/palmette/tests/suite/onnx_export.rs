//! Programs of the engine against their exported graphs in onnxruntime: every operator, from raw
//! inputs to probabilities.

use std::collections::BTreeMap;
use std::fs;

use palmette::onnx::{Export, ExternalData, OnnxError, export};
use palmette_data::DenseTransform;
use palmette_engine::{
    Batch, BufferId, Epilogue, Executor, HeadInput, Init, Model, ParamId, ParamLayout, ParamStore,
    Program, TableSpec, Tables,
};
use palmette_random::{Draw, stream};

use crate::python::{Input, interpreter, run_onnx};

const ROWS: usize = 1_000;
const CHANNELS: usize = 16;
const TABLE_ROWS: [usize; 4] = [11, 500, 23, 3];
const TRANSFORMS: [DenseTransform; 5] = [
    DenseTransform::Log,
    DenseTransform::Log,
    DenseTransform::Standard { mean: 3.0e5, deviation: 1.25e4 },
    DenseTransform::None,
    DenseTransform::Log,
];

/// Declares parameters as a program asks for them.
#[derive(Default)]
struct Weights {
    layout: ParamLayout,
}

impl Weights {
    fn matrix(&mut self, rows: usize, cols: usize) -> ParamId {
        let name = format!("weight{}", self.layout.iter().count());
        self.layout.matrix(name, rows, cols, Init::XavierUniform { fan_in: cols, fan_out: rows })
    }

    fn vector(&mut self, len: usize) -> ParamId {
        self.matrix(1, len)
    }
}

/// One of each operator, some twice, with slices that are smaller than their parameters.
fn every_operator(program: &mut Program, w: &mut Weights) {
    let x = program.dense_input(TRANSFORMS.len());
    let s = program.embedding(0, TABLE_ROWS.len(), CHANNELS);
    let first_order = program.embedding(TABLE_ROWS.len(), TABLE_ROWS.len(), 1);

    let (d1, d2) = (24, 32);
    let epilogue =
        Epilogue { bias: Some(w.vector(40)), norm: Some((w.vector(d1), w.vector(d1))), relu: true };
    let h = program.linear(&[(x, w.matrix(40, 5))], d1, epilogue);
    let plain = Epilogue { bias: Some(w.vector(d2)), ..Epilogue::default() };
    let two = program.linear(&[(x, w.matrix(d2, 9)), (h, w.matrix(d2, d1))], d2, plain);

    let mixed_epilogue =
        Epilogue { bias: Some(w.vector(6)), norm: Some((w.vector(6), w.vector(6))), relu: true };
    let mixed = program.field_mix(&[(s, w.matrix(6, 4))], 6, mixed_epilogue);
    let shifted = Epilogue { bias: Some(w.vector(5)), ..Epilogue::default() };
    let both = program.field_mix(&[(s, w.matrix(5, 4)), (mixed, w.matrix(9, 6))], 5, shifted);

    let channels = |p: &mut Program, w: &mut Weights, x: BufferId, relu: bool| {
        let (weight, bias) = (w.matrix(CHANNELS, CHANNELS), w.vector(CHANNELS));
        p.row_map(x, weight, CHANNELS, Some(bias), relu)
    };
    let q = channels(program, w, both, false);
    let k = channels(program, w, both, false);
    let v = channels(program, w, both, false);
    let attended = program.attention(q, k, v, 8);
    let (scale, shift) = (w.vector(CHANNELS), w.vector(CHANNELS));
    let normed = program.add_norm(both, attended, scale, shift);
    let narrow = {
        let weight = w.matrix(8, CHANNELS);
        program.row_map(normed, weight, 8, None, true)
    };

    let xq = program.linear(&[(two, w.matrix(CHANNELS, d2))], CHANNELS, Epilogue::default());
    let pairs = program.gram(Some(xq), &[mixed, normed]);
    let pairs_without = program.gram(None, &[s]);
    let gate = program.gate(h, two, 40);
    let gate_short = program.gate(two, h, 10);
    let sum = program.add(&[gate, h, h, gate_short], true);
    let field_sum = program.add(&[both, normed], false);
    let product = program.multiply(both, field_sum);
    let row_product = program.multiply(two, two);
    let merged_in = program.linear(&[(sum, w.matrix(32, 40))], 32, Epilogue::default());
    let merged = program.fields_from_rows(merged_in, CHANNELS);
    let flat = program.rows_from_fields(narrow);
    let machine = program.factorization_machine(&[product, merged]);
    let outer = program.outer(both, s);
    let pooled = program.field_sums(outer);

    let rows = [pairs, pairs_without, flat, machine, pooled, row_product];
    let joined: Vec<(BufferId, ParamId)> =
        rows.iter().map(|&b| (b, w.matrix(20, program.width(b)))).collect();
    let last = program.linear(&joined, 20, Epilogue { relu: true, ..plain_bias(w, 20) });
    let pieces = [
        (last, HeadInput::Weight(w.vector(20))),
        (merged, HeadInput::Weight(w.matrix(2, CHANNELS))),
        (first_order, HeadInput::Constant(1.0)),
        (gate_short, HeadInput::Constant(0.5)),
    ];
    let bias = w.vector(1);
    program.head(&pieces, Some(bias));
}

fn plain_bias(w: &mut Weights, width: usize) -> Epilogue {
    Epilogue { bias: Some(w.vector(width)), ..Epilogue::default() }
}

fn model(layout: ParamLayout) -> Model<f32> {
    let table = |name: &str, dim: usize| {
        let specs = TABLE_ROWS.iter().enumerate();
        specs
            .map(|(f, &rows)| TableSpec { name: format!("{name}{f}"), rows, dim })
            .collect::<Vec<_>>()
    };
    let specs = [table("embedding", CHANNELS), table("first_order", 1)].concat();
    // One optimiser slot, so that rows of tables do not lie side by side.
    let tables = Tables::new(specs, 1, 5).unwrap();
    Model { params: ParamStore::new(layout, 5, 1).unwrap(), tables }
}

/// Raw inputs with missing, negative and unseen values.
struct Raw {
    dense: Vec<f32>,
    values: Vec<i64>,
}

fn raw() -> Raw {
    let mut random = stream(17, "test/raw", 0);
    let mut raw = Raw { dense: Vec::new(), values: Vec::new() };
    for _ in 0..ROWS {
        for column in 0..TRANSFORMS.len() {
            let number = match column {
                2 => 3.0e5 + 1.25e4 * random.normal(),
                3 => random.normal(),
                _ => 20.0 * random.normal(),
            };
            raw.dense.push(if random.chance(0.1) { f32::NAN } else { number as f32 });
        }
        for _ in TABLE_ROWS {
            let value = random.below(u64::from(u32::MAX) + 1) as i64;
            raw.values.push(if random.chance(0.1) { -1 } else { value });
        }
    }
    raw
}

/// What the data side hands to the engine.
fn encoded(raw: &Raw) -> (Vec<f32>, Vec<u32>) {
    let dense = raw.dense.iter().enumerate().map(|(at, &x)| {
        if x.is_nan() {
            return 0.0;
        }
        match TRANSFORMS[at % TRANSFORMS.len()] {
            DenseTransform::Log => (x.max(0.0) + 1.0).ln(),
            DenseTransform::Standard { mean, deviation } => {
                ((f64::from(x) - mean) / deviation) as f32
            }
            DenseTransform::None => x,
        }
    });
    let fields = TABLE_ROWS.len();
    let ids = (0..fields).flat_map(|field| {
        let modulus = TABLE_ROWS[field] as i64 - 1;
        (0..ROWS).map(move |row| (raw.values[row * fields + field] % modulus + 1) as u32)
    });
    (dense.collect(), ids.collect())
}

fn engine_logits(model: &Model<f32>, program: &mut Program, raw: &Raw) -> Vec<f32> {
    let (dense, ids) = encoded(raw);
    let batch =
        Batch { rows: ROWS, dense: &dense, ids: &ids, labels: &[], weights: &[], lists: &[] };
    Executor::new().forward(model, program, &batch).unwrap().to_vec()
}

fn exported<'a>(program: &'a Program, model: &'a Model<f32>) -> Export<'a> {
    Export {
        name: "test",
        program,
        model,
        transforms: &TRANSFORMS,
        lists: &[],
        logit_shift: 0.0,
        metadata: &[("config", "{}")],
    }
}

#[test]
fn probabilities_agree_with_the_engine_over_a_thousand_rows() {
    let (mut program, mut weights) = (Program::new(), Weights::default());
    every_operator(&mut program, &mut weights);
    let model = model(weights.layout);
    let raw = raw();
    let logits = engine_logits(&model, &mut program, &raw);
    let mean = logits.iter().map(|&z| f64::from(z)).sum::<f64>() / ROWS as f64;
    let spread = logits.iter().map(|&z| (f64::from(z) - mean).powi(2)).sum::<f64>() / ROWS as f64;
    assert!(spread.sqrt() > 0.2 && logits.iter().all(|z| z.abs() < 12.0), "a weak test: {spread}");

    let Some(python) = interpreter("probabilities_agree_with_the_engine_over_a_thousand_rows")
    else {
        return;
    };
    for (shift, external) in [(0.0, usize::MAX), (0.1f64.ln(), 0)] {
        let options = ExternalData { above: external, ..ExternalData::default() };
        let export_with = Export { logit_shift: shift, ..exported(&program, &model) };
        let encoded = export(&export_with).unwrap().encode(&options).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        fs::write(&path, encoded.model.to_vec()).unwrap();
        assert_eq!(encoded.external.is_some(), external == 0);
        if let Some(external) = encoded.external {
            let mut file = fs::File::create(folder.path().join(&external.file_name)).unwrap();
            external.write_to(&mut file).unwrap();
        }
        let found = run_onnx(
            &python,
            &path,
            &BTreeMap::from([
                ("dense", Input::F32 { shape: vec![ROWS, 5], data: raw.dense.clone() }),
                ("categorical", Input::I64 { shape: vec![ROWS, 4], data: raw.values.clone() }),
            ]),
        );
        let probabilities = &found["probability"];
        assert_eq!(probabilities.shape, [ROWS]);
        let worst = probabilities
            .data
            .iter()
            .zip(&logits)
            .map(|(p, &z)| (p - 1.0 / (1.0 + (-(f64::from(z) + shift)).exp())).abs())
            .fold(0.0, f64::max);
        println!("largest difference in probability: {worst:.2e}");
        assert!(worst <= 1e-5, "{worst}");
    }
}

#[test]
fn what_cannot_be_exported_is_named() {
    let (mut program, mut weights) = (Program::new(), Weights::default());
    let x = program.dense_input(2);
    let model = model(ParamLayout::default());
    let error = export(&exported(&program, &model)).err();
    assert_eq!(error, Some(OnnxError::Transforms { found: 5, expected: 2 }));
    let two = [DenseTransform::None; 2];
    let headless = Export { transforms: &two, ..exported(&program, &model) };
    assert_eq!(export(&headless).err(), Some(OnnxError::Incomplete("head")));

    let weight = weights.vector(2);
    program.head(&[(x, HeadInput::Weight(weight))], None);
    let params = ParamStore::new(weights.layout, 1, 0).unwrap();
    let small = TableSpec { name: "tiny".into(), rows: 1, dim: 4 };
    let model = Model { params, tables: Tables::new(vec![small], 0, 1).unwrap() };
    let whole = Export { transforms: &two, ..exported(&program, &model) };
    assert!(export(&whole).is_ok());
    let mut program = Program::new();
    program.embedding(0, 1, 4);
    let error = export(&Export { program: &program, ..whole }).err();
    assert_eq!(error, Some(OnnxError::Table { name: "tiny".into(), rows: 1 }));
}
