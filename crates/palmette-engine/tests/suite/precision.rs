//! Products of bf16 factors against those of f32.

use palmette_engine::*;
use palmette_random::{Draw, stream};

use crate::gradients::{CASES, all_gradients, build, data, declared, model};

/// Half a unit in the last place of eight bits of mantissa.
const HALF_UNIT: f64 = 1.0 / 512.0;

/// Whether this processor has bf16 products; says so where it has not.
fn available() -> bool {
    if !Precision::bf16_is_available() {
        println!("skipped: this processor has no bf16 products");
    }
    Precision::bf16_is_available()
}

#[test]
fn f64_executors_keep_their_precision() {
    let mut executor = Executor::<f64>::new();
    executor.set_precision(Precision::Bf16);
    assert_eq!(executor.precision(), Precision::F32);
}

/// One layer and a head of ones: `|z - z'| <= sum |w| |x| (2 u + u^2)`, u the rounding of a factor.
#[test]
fn bf16_logits_stay_within_the_rounding_of_their_factors() {
    if !available() {
        return;
    }
    let (inputs, width, rows) = (93, 71, 150);
    let mut layout = ParamLayout::default();
    let init = Init::XavierUniform { fan_in: inputs, fan_out: width };
    let weight = layout.matrix("weight", width, inputs, init);
    let ones = layout.vector("ones", width, Init::Constant(1.0));
    let model = Model {
        params: ParamStore::<f32>::new(layout, 5, 0).unwrap(),
        tables: Tables::new(vec![], 0, 5).unwrap(),
    };
    let mut program = Program::new();
    let x = program.dense_input(inputs);
    let y = program.linear(&[(x, weight)], width, Epilogue::default());
    program.head(&[(y, HeadInput::Weight(ones))], None);
    let mut rng = stream(5, "test/dense", 0);
    let dense: Vec<f32> = (0..rows * inputs).map(|_| rng.normal() as f32).collect();
    let batch = Batch { rows, dense: &dense, ids: &[], labels: &[], weights: &[], lists: &[] };
    let mut executor = Executor::new();
    let full = executor.forward(&model, &mut program, &batch).unwrap().to_vec();
    executor.set_precision(Precision::Bf16);
    assert_eq!(executor.precision(), Precision::Bf16);
    let rounded = executor.forward(&model, &mut program, &batch).unwrap();
    assert_ne!(full, rounded);
    for r in 0..rows {
        let x = &dense[r * inputs..(r + 1) * inputs];
        let row = |i| model.params.row(weight, i).iter().zip(x);
        let magnitude: f64 = (0..width).flat_map(row).map(|(w, x)| f64::from(w * x).abs()).sum();
        // The last term is what summing in f32 may add on either side.
        let bound = magnitude * (2.0 * HALF_UNIT + HALF_UNIT * HALF_UNIT + 1e-4);
        let error = f64::from(full[r] - rounded[r]).abs();
        assert!(error <= bound, "row {r}: {} {}, allowed {bound}", full[r], rounded[r]);
    }
}

/// Gradients through several layers have no such bound; their direction and length hold.
#[test]
fn bf16_gradients_point_where_f32_gradients_point() {
    if !available() {
        return;
    }
    for (seed, &(name, case)) in CASES.iter().enumerate() {
        let mut d = declared(case);
        let model = model::<f32>(d.layout.clone(), seed as u64);
        let mut program = build(&mut d, case);
        let data = data::<f32>(300, 3);
        let full = all_gradients(&model, &mut program, &data, Precision::F32);
        let rounded = all_gradients(&model, &mut program, &data, Precision::Bf16);
        let length = |g: &[f64]| g.iter().map(|x| x * x).sum::<f64>().sqrt();
        let difference: Vec<f64> = full.iter().zip(&rounded).map(|(a, b)| a - b).collect();
        let relative = length(&difference) / length(&full);
        // A few layers, each with roundings of 2^-9 that are independent of each other.
        assert!(relative < 8.0 * HALF_UNIT, "{name}: {relative}");
    }
}
