//! Random networks of the search space against their exported graphs in onnxruntime.

use std::collections::BTreeMap;
use std::fs;

use palmette::onnx::{Export, ExternalData, export};
use palmette_ctr::nasrec::{EMBEDDING_DIM, NasRecSpace, Network, Operators, Path, Shape};
use palmette_data::DenseTransform;
use palmette_engine::{
    Batch, Executor, Model, Optimizer, ParamStore, Program, Step, TableSpec, Tables, Trainable,
};
use palmette_random::{Draw, stream};

use crate::python::{Input, interpreter, run_onnx};

const ROWS: usize = 1_000;
const SHAPE: Shape = Shape { dense: 13, fields: 26 };
const TRANSFORMS: [DenseTransform; 13] = [DenseTransform::Log; 13];

fn table_rows(field: usize) -> usize {
    5 + 37 * field
}

/// A network after a few steps of training, and the rows it was trained on.
struct Trained {
    program: Program,
    model: Model<f32>,
    dense: Vec<f32>,
    values: Vec<i64>,
    logits: Vec<f32>,
}

fn train(network: &Network, path: &Path, seed: u64) -> Trained {
    let mut random = stream(seed, "test/rows", 0);
    let dense: Vec<f32> = (0..ROWS * SHAPE.dense)
        .map(|_| if random.chance(0.1) { f32::NAN } else { random.below(200) as f32 })
        .collect();
    let values: Vec<i64> = (0..ROWS * SHAPE.fields)
        .map(|_| if random.chance(0.1) { -1 } else { random.below(1 << 32) as i64 })
        .collect();
    let transformed: Vec<f32> =
        dense.iter().map(|x| if x.is_nan() { 0.0 } else { (x.max(0.0) + 1.0).ln() }).collect();
    let id = |field: usize, row: usize| {
        let modulus = table_rows(field) as i64 - 1;
        (values[row * SHAPE.fields + field] % modulus + 1) as u32
    };
    let ids: Vec<u32> =
        (0..SHAPE.fields).flat_map(|field| (0..ROWS).map(move |row| id(field, row))).collect();
    let labels: Vec<f32> = (0..ROWS).map(|row| f32::from(values[row * 26] % 3 == 0)).collect();

    let specs = (0..SHAPE.fields).map(|f| TableSpec {
        name: format!("embedding.{f}"),
        rows: table_rows(f),
        dim: EMBEDDING_DIM,
    });
    let optimizer = Optimizer::Adagrad { epsilon: 1e-2 };
    let slots = optimizer.state_slots();
    let mut model = Model {
        params: ParamStore::new(network.layout().clone(), seed, slots).unwrap(),
        tables: Tables::new(specs.collect(), slots, seed).unwrap(),
    };
    let mut program = Program::new();
    network.build(path, &mut program);
    let batch = Batch {
        rows: ROWS,
        dense: &transformed,
        ids: &ids,
        labels: &labels,
        weights: &[],
        lists: &[],
    };
    let mut executor = Executor::new();
    for index in 0..5 {
        let step = Step {
            index,
            learning_rate: 0.02,
            optimizer,
            clip_norm: Some(5.0),
            trainable: Trainable::Everything,
        };
        executor.train_step(&mut model, &mut program, &batch, &step).unwrap();
    }
    let batch = Batch { labels: &[], ..batch };
    let logits = executor.forward(&model, &mut program, &batch).unwrap().to_vec();
    Trained { program, model, dense, values, logits }
}

#[test]
fn searched_networks_agree_with_onnxruntime_over_a_thousand_rows() {
    let test = "searched_networks_agree_with_onnxruntime_over_a_thousand_rows";
    let Some(python) = interpreter(test) else { return };
    let folder = tempfile::tempdir().unwrap();
    for seed in 0..6 {
        let operators = match seed % 3 {
            0 => Operators::Full,
            1 => Operators::Small,
            _ => Operators::FullWithZeros,
        };
        let space = NasRecSpace::published(operators);
        let path = space.random_path(&mut stream(seed, "test/path", 0));
        // The final fit has no layer norm; networks in a supernet have.
        let network = Network::standalone(&path, SHAPE, seed == 5);
        let trained = train(&network, &path, seed);
        let encoded = export(&Export {
            name: "network",
            program: &trained.program,
            model: &trained.model,
            transforms: &TRANSFORMS,
            lists: &[],
            logit_shift: 0.0,
            metadata: &[],
        })
        .unwrap()
        .encode(&ExternalData::default())
        .unwrap();
        let file = folder.path().join(format!("network{seed}.onnx"));
        fs::write(&file, encoded.model.to_vec()).unwrap();
        let found = run_onnx(
            &python,
            &file,
            &BTreeMap::from([
                ("dense", Input::F32 { shape: vec![ROWS, SHAPE.dense], data: trained.dense }),
                (
                    "categorical",
                    Input::I64 { shape: vec![ROWS, SHAPE.fields], data: trained.values },
                ),
            ]),
        );
        let expect = trained.logits.iter().map(|&z| 1.0 / (1.0 + (-f64::from(z)).exp()));
        let gaps = found["probability"].data.iter().zip(expect).map(|(p, e)| (p - e).abs());
        let worst = gaps.fold(0.0, f64::max);
        println!("network {seed}: largest difference {worst:.2e}");
        assert!(worst <= 1e-5, "network {seed}: {worst}");
        let (low, high) = trained
            .logits
            .iter()
            .fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &z| (l.min(z), h.max(z)));
        assert!(high - low > 0.01, "network {seed} must depend on its inputs: {low}..{high}");
    }
}
