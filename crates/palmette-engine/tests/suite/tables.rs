//! Tables in 16 bits, with row-wise state, and in files.

use palmette_engine::*;

use crate::gradients::{CASES, Data, build, data, declared};

const OPTIMIZER: Optimizer = Optimizer::Adagrad { epsilon: 1e-2 };
const ROWS: usize = 40;
const DIM: usize = 16;

fn tables(options: &TableOptions) -> Result<Tables<f32>, EngineError> {
    let spec = |f| TableSpec { name: format!("t{f}"), rows: ROWS, dim: DIM };
    Tables::with_options((0..5).map(spec).collect(), OPTIMIZER.state_slots(), 3, options)
}

fn model(options: &TableOptions) -> Model<f32> {
    let layout = declared(CASES[3].1).layout;
    Model { params: ParamStore::new(layout, 3, 1).unwrap(), tables: tables(options).unwrap() }
}

fn step(index: u64) -> Step {
    let trainable = Trainable::Everything;
    Step { index, learning_rate: 0.1, optimizer: OPTIMIZER, clip_norm: Some(5.0), trainable }
}

/// Losses of steps `from .. to`, always on the same rows.
fn train(model: &mut Model<f32>, data: &Data<f32>, from: u64, to: u64) -> Vec<f64> {
    let mut program = build(&mut declared(CASES[3].1), CASES[3].1);
    let mut executor = Executor::new();
    let batch = data.batch();
    (from..to)
        .map(|i| executor.train_step(model, &mut program, &batch, &step(i)).unwrap())
        .collect()
}

fn weights(model: &Model<f32>) -> Vec<f32> {
    let mut all = vec![0.0; 5 * ROWS * DIM];
    for (i, row) in all.chunks_exact_mut(DIM).enumerate() {
        model.tables.table(i / ROWS).read_row(i % ROWS, row);
    }
    all
}

fn options(storage: TableStorage, row_wise_state: bool) -> TableOptions {
    TableOptions { storage, row_wise_state, directory: None }
}

#[test]
fn tables_in_files_have_the_bits_of_tables_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    let data = data::<f32>(200, 3);
    for storage in [TableStorage::Full, TableStorage::Bf16] {
        let in_memory = options(storage, false);
        let in_files =
            TableOptions { directory: Some(directory.path().into()), ..in_memory.clone() };
        let (mut a, mut b) = (model(&in_memory), model(&in_files));
        assert_eq!(weights(&a), weights(&b));
        assert_eq!(train(&mut a, &data, 0, 5), train(&mut b, &data, 0, 5));
        assert_eq!(weights(&a), weights(&b));
        let mut copy = b.try_clone().unwrap();
        assert_eq!(train(&mut a, &data, 5, 8), train(&mut copy, &data, 5, 8));
        assert_ne!(weights(&copy), weights(&b), "a copy has rows of its own");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "the files have no name");
}

#[test]
fn small_tables_train_nearly_like_large_ones() {
    let data = data::<f32>(200, 3);
    let mut full = model(&TableOptions::default());
    let exact = train(&mut full, &data, 0, 60);
    assert!(exact[59] < 0.8 * exact[0], "the tables are not what is learned: {exact:?}");
    for storage in [TableStorage::F16, TableStorage::Bf16] {
        let mut small = model(&options(storage, false));
        assert!(small.tables.bytes() < full.tables.bytes());
        let losses = train(&mut small, &data, 0, 60);
        let difference = (losses[59] - exact[59]).abs();
        // Weights are a few tenths: 2^-9 of them is far below what 60 steps gained.
        assert!(difference < 0.02 * (exact[0] - exact[59]), "{storage:?}: {difference}");
        assert!(losses != exact);
    }
}

#[test]
fn a_killed_run_rounds_as_it_would_have() {
    let data = data::<f32>(200, 3);
    for storage in [TableStorage::Full, TableStorage::F16, TableStorage::Bf16] {
        for row_wise in [false, true] {
            let options = options(storage, row_wise);
            let mut whole = model(&options);
            let mut losses = train(&mut whole, &data, 0, 4);
            let mut state = Vec::new();
            whole.write_state(&mut state).unwrap();
            assert_eq!(state.len() as u64, whole.state_bytes());
            losses = [losses, train(&mut whole, &data, 4, 8)].concat();
            let mut resumed = model(&options);
            resumed.read_state(&mut &state[..]).unwrap();
            assert_eq!(train(&mut resumed, &data, 4, 8), losses[4..]);
            assert_eq!(weights(&resumed), weights(&whole), "{options:?}");
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut again = model(&options);
                assert_eq!(pool.install(|| train(&mut again, &data, 0, 8)), losses);
                assert_eq!(weights(&again), weights(&whole), "{options:?}, {threads} threads");
            }
        }
    }
}

#[test]
fn row_wise_adagrad_divides_by_the_mean_square_of_the_row() {
    let data = data::<f32>(60, 4);
    let mut model = model(&options(TableStorage::Full, true));
    let before = weights(&model);
    let mut program = build(&mut declared(CASES[3].1), CASES[3].1);
    let mut executor = Executor::new();
    let unclipped = Step { clip_norm: None, ..step(0) };
    let mut sums = vec![0.0f64; 5 * ROWS];
    let mut expected: Vec<f64> = before.iter().map(|&w| f64::from(w)).collect();
    for _ in 0..2 {
        executor.train_step(&mut model, &mut program, &data.batch(), &unclipped).unwrap();
        for (table, ids, gradients) in executor.table_gradients() {
            for (id, g) in ids.iter().zip(gradients.chunks_exact(DIM)) {
                let row = table * ROWS + *id as usize;
                let square = |g: &f32| f64::from(*g) * f64::from(*g);
                sums[row] += g.iter().map(square).sum::<f64>() / DIM as f64;
                for (w, &g) in expected[row * DIM..].iter_mut().zip(g) {
                    *w -= 0.1 * f64::from(g) / (sums[row].sqrt() + 1e-2);
                }
            }
        }
    }
    let after = weights(&model);
    assert!(after.iter().zip(&expected).all(|(a, e)| (f64::from(*a) - e).abs() < 1e-6));
    assert_ne!(before, after);
}

#[test]
fn options_that_cannot_be_are_refused() {
    let mut model = model(&options(TableStorage::Full, true));
    let mut program = build(&mut declared(CASES[3].1), CASES[3].1);
    let data = data::<f32>(9, 1);
    let adam = Optimizer::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
    model.params = ParamStore::new(model.params.layout().clone(), 3, 2).unwrap();
    let step = Step { optimizer: adam, ..step(0) };
    let error =
        Executor::new().train_step(&mut model, &mut program, &data.batch(), &step).unwrap_err();
    assert!(error.to_string().ends_with("keeps numbers beside each weight, table t0 one a row"));
    let spec = TableSpec { name: "t".into(), rows: 2, dim: 4 };
    let row_wise = options(TableStorage::Full, true);
    let error = Tables::<f32>::with_options(vec![spec], 2, 1, &row_wise).err().unwrap();
    assert!(error.to_string().contains("row-wise state is one number a row"), "{error}");
    let missing = TableOptions { directory: Some("/no such folder".into()), ..row_wise };
    let error = tables(&missing).err().unwrap().to_string();
    assert!(error.starts_with("a file for table rows in /no such folder: "), "{error}");
}
