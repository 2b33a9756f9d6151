//! A path costs what the path costs, and touches nothing else: NASRec-Full on Criteo's shape.

use palmette_ctr::baselines::Baseline;
use palmette_ctr::nasrec::*;
use palmette_ctr::{CompiledModel, ModelInputs};
use palmette_engine::*;
use palmette_random::{Draw, stream};

/// Rows of every table; look-ups are no products, so their size does not matter here.
const TABLE_ROWS: usize = 50;

fn criteo() -> Shape {
    DatasetPreset::find("criteo").unwrap().shape
}

fn tables(shape: Shape) -> Vec<TableSpec> {
    ModelInputs::numbered(shape.dense, &vec![TABLE_ROWS; shape.fields])
        .fields
        .into_iter()
        .map(|field| TableSpec { name: field.name, rows: field.rows, dim: EMBEDDING_DIM })
        .collect()
}

struct Rows {
    dense: Vec<f32>,
    ids: Vec<u32>,
    labels: Vec<f32>,
}

impl Rows {
    fn random(shape: Shape, rows: usize, seed: u64) -> Self {
        let mut rng = stream(seed, "test/rows", 0);
        Self {
            dense: (0..rows * shape.dense).map(|_| rng.unit() as f32).collect(),
            ids: (0..rows * shape.fields).map(|_| rng.below(TABLE_ROWS as u64) as u32).collect(),
            labels: (0..rows).map(|_| f32::from(rng.chance(0.3))).collect(),
        }
    }

    fn batch(&self) -> Batch<'_, f32> {
        let Self { dense, ids, labels } = self;
        Batch { rows: labels.len(), dense, ids, labels, weights: &[], lists: &[] }
    }
}

/// Products counted over one forward pass, a row.
fn counted(
    executor: &mut Executor<f32>,
    model: &Model<f32>,
    program: &mut Program,
    rows: &Rows,
) -> f64 {
    let before = counted_macs();
    executor.forward(model, program, &rows.batch()).unwrap();
    (counted_macs() - before) as f64 / rows.labels.len() as f64
}

/// A model of zeros: products do not look at the numbers, and zeros cost no time to draw.
fn zeros(layout: &ParamLayout, tables: Vec<TableSpec>) -> Model<f32> {
    let mut empty = ParamLayout::default();
    for (_, spec) in layout.iter() {
        empty.matrix(spec.name.clone(), spec.rows, spec.cols, Init::Constant(0.0));
    }
    Model {
        params: ParamStore::new(empty, 0, 0).unwrap(),
        tables: Tables::new(tables, 0, 0).unwrap(),
    }
}

#[test]
fn a_thousand_random_paths_multiply_no_more_than_they_say() {
    let (shape, space) = (criteo(), NasRecSpace::published(Operators::Full));
    let rows = Rows::random(shape, 2, 1);
    // The count is the calling thread's: one thread does everything.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
        let supernet = Network::supernet(space.config(), shape, true);
        let shared = zeros(supernet.layout(), tables(shape));
        let (mut executor, mut program) = (Executor::new(), Program::new());
        let mut sums = [0.0; 4];
        for i in 0..1_000 {
            let path = space.random_path(&mut stream(20, "test/thousand", i));
            supernet.build(&path, &mut program);
            let found = counted(&mut executor, &shared, &mut program, &rows);
            let own = supernet_macs(&path, shape) as f64;
            assert!(found <= 1.02 * own && found >= 0.98 * own, "{found} of {own}: {path:?}");

            let inputs = ModelInputs::numbered(shape.dense, &vec![TABLE_ROWS; shape.fields]);
            let mut alone = CompiledModel::nasrec(&path, &inputs, false);
            let model = zeros(&alone.layout, alone.tables.clone());
            let standalone = counted(&mut executor, &model, &mut alone.program, &rows);
            let own_standalone = macs(&path, shape) as f64;
            // Fewer where a gate is wider than what it gates: units that multiply zeros are not
            // computed, and the closed form counts them, as the published column does.
            assert!(standalone <= 1.02 * own_standalone, "{standalone} of {own_standalone}: {path:?}");
            assert_eq!(standalone, alone.program.macs() as f64);
            for (sum, x) in sums.iter_mut().zip([found, own, standalone, own_standalone]) {
                *sum += x / 1e3;
            }
        }
        let [found, own, standalone, own_standalone] = sums;
        println!(
            "mean of a row: supernet {found:.0} of {own:.0}, standalone {standalone:.0} of {own_standalone:.0}"
        );
        assert!(standalone > 0.5 * own_standalone, "{standalone} of {own_standalone} is no count");
    });
}

/// The first operator whose output no other reads. Inputs are there whether or not they are read.
fn unread(program: &Program) -> Option<usize> {
    let ops = program.ops();
    let read: Vec<_> = ops.iter().flat_map(|op| program.inputs(op.inputs())).collect();
    let is_read = |op: &ops::Op| {
        let is_input = program.inputs(op.inputs()).len() == 0;
        is_input || matches!(op, ops::Op::Head(_)) || read.contains(&op.out())
    };
    ops.iter().position(|op| !is_read(op))
}

/// What nothing reads has no gradient of its own, and would pass on what an arena holds.
#[test]
fn every_operator_of_a_model_is_read() {
    let mut program = Program::new();
    for [dense, fields] in [[13, 26], [0, 26], [4, 1], [3, 0], [16, 3]] {
        let shape = Shape { dense, fields };
        let inputs = ModelInputs::numbered(dense, &vec![TABLE_ROWS; fields]);
        // NASRec's networks read both kinds.
        let spaces = [Operators::Small, Operators::Full].into_iter().filter(|_| dense * fields > 0);
        for operators in spaces {
            let space = NasRecSpace::published(operators);
            let supernet = Network::supernet(space.config(), shape, true);
            for i in 0..300 {
                let path = space.random_path(&mut stream(22, "test/read", i));
                supernet.build(&path, &mut program);
                assert_eq!(unread(&program), None, "supernet, {shape:?}: {path:?}");
                let alone = CompiledModel::nasrec(&path, &inputs, false);
                assert_eq!(unread(&alone.program), None, "standalone, {shape:?}: {path:?}");
            }
        }
        for name in Baseline::names() {
            // Some need columns that there are not.
            let Ok(model) = Baseline::named(name).unwrap().compile(&inputs) else { continue };
            assert_eq!(unread(&model.program), None, "{name}, {shape:?}");
        }
    }
}

/// A NaN whose bits no computation makes.
const POISON: u32 = 0x7fc5_a5a5;

#[test]
fn weights_outside_a_path_are_neither_read_nor_written() {
    let (shape, space) = (criteo(), NasRecSpace::published(Operators::Full));
    let network = Network::supernet(space.config(), shape, true);
    let optimizer = Optimizer::Adagrad { epsilon: 1e-2 };
    let mut model = zeros(network.layout(), Vec::new());
    model = Model {
        params: ParamStore::new(model.params.layout().clone(), 0, optimizer.state_slots()).unwrap(),
        tables: Tables::new(tables(shape), optimizer.state_slots(), 3).unwrap(),
    };
    let layout = network.layout();
    let (mut executor, mut program) = (Executor::new(), Program::new());
    for (i, strategy) in [
        PathStrategy::SingleOperatorAnyConnection,
        PathStrategy::SingleOperatorAnyConnection,
        PathStrategy::AnyPath,
        PathStrategy::SinglePath,
    ]
    .into_iter()
    .enumerate()
    {
        let path = supernet_path(&space, strategy, i as u64, 0, 21);
        network.build(&path, &mut program);
        let mut active = vec![(0, 0); layout.iter().count()];
        let order: Vec<_> = layout.iter().map(|(id, _)| id).collect();
        for slice in program.slice_ids() {
            let (param, rows, cols) = program.slice(slice);
            active[order.iter().position(|&id| id == param).unwrap()] = (rows, cols);
        }
        let start = |r: usize, c: usize| ((r * 37 + c * 17) % 101) as f32 * 4e-4 - 0.02;
        for ((id, spec), &(rows, cols)) in layout.iter().zip(&active) {
            for r in 0..spec.rows {
                let row = model.params.row_mut(id, r);
                let inside = if r < rows { cols } else { 0 };
                row[inside..].fill(f32::from_bits(POISON));
                row[..inside].iter_mut().enumerate().for_each(|(c, w)| *w = start(r, c));
            }
        }
        let table_rows = |model: &Model<f32>| -> Vec<Vec<u32>> {
            let of = |t: usize, r: usize| model.tables.table(t).row(r).to_vec();
            (0..shape.fields * TABLE_ROWS)
                .map(|k| of(k / TABLE_ROWS, k % TABLE_ROWS).iter().map(|x| x.to_bits()).collect())
                .collect()
        };
        let before = table_rows(&model);
        // 20 rows leave most of a table's 50 untouched.
        let rows = Rows::random(shape, 20, i as u64);
        let step = Step {
            index: 0,
            learning_rate: 0.1,
            optimizer,
            clip_norm: Some(5.0),
            trainable: Trainable::Everything,
        };
        executor.poison();
        let loss = executor.train_step(&mut model, &mut program, &rows.batch(), &step).unwrap();
        assert!(loss.is_finite());

        let mut moved = 0;
        for ((id, spec), &(rows, cols)) in layout.iter().zip(&active) {
            for r in 0..spec.rows {
                let row = model.params.row(id, r);
                let inside = if r < rows { cols } else { 0 };
                let touched = row[inside..].iter().filter(|w| w.to_bits() != POISON).count();
                assert_eq!(touched, 0, "{} row {r} outside {rows} x {cols}: {path:?}", spec.name);
                let changed = row[..inside].iter().enumerate();
                moved += changed.filter(|&(c, &w)| w != start(r, c)).count();
            }
        }
        let weights = program.active_params() as usize;
        assert!(moved * 4 > weights && moved <= weights, "{moved} of {weights} weights moved");
        for (k, (before, after)) in before.iter().zip(table_rows(&model)).enumerate() {
            let (table, row) = (k / TABLE_ROWS, k % TABLE_ROWS);
            let ids = &rows.ids[table * 20..(table + 1) * 20];
            let named = ids.contains(&(row as u32));
            assert!(named || *before == after, "table {table} row {row} was not in the batch");
        }
    }
}
