//! Scores of candidates.

use std::fmt::Write as _;
use std::path::Path as FilePath;

use palmette_ctr::nasrec::{NasRecConfig, NasRecSpace, Network, Operators, Path, Shape};
use palmette_ctr::train::{
    Batches, Keeping, Numbers, Order, PREDICT_ROWS, Products, RankingSettings, RankingWeights,
    SubnetRanker, SupernetSettings, SupernetTraining, nasrec_tables,
};
use palmette_data::{Batch, Dataset, PrepareOptions, Schema, Split, prepare};
use palmette_engine::{
    Batch as EngineBatch, Model, Optimizer, ParamId, Program, Schedule, Step, Trainable,
};
use palmette_random::{Draw, stream};
use palmette_space::Domain;

const SEED: u64 = 3;

/// 3,000 rows: 600 of them validate, less than one batch of predictions, or 2,400, more than two.
fn dataset(folder: &FilePath, validation: f64) -> Dataset {
    let mut text = String::from("click,x,y,a,b,c\n");
    for row in 0..3000 {
        let mut random = stream(1, "test/ranking", row);
        let [a, b, c] = [30, 20, 5].map(|n| random.below(n));
        let click = u8::from(random.unit() < if (a + b) % 3 == 0 { 0.6 } else { 0.2 });
        let (x, y) = (random.unit(), random.normal());
        let _ = writeln!(text, "{click},{x:.3},{y:.3},a{a},b{b},c{c}");
    }
    let log = folder.join("log.csv");
    std::fs::write(&log, text).unwrap();
    let schema = format!(
        "label = \"click\"\ndense = [\"x\", \"y\"]\ncategorical = [\"a\", \"b\", \"c\"]\n\
         [split]\nby = \"random\"\nfractions = [{}, {validation}, 0.0]\nseed = 1\n",
        1.0 - validation
    );
    let schema = Schema::parse(&schema, FilePath::new("test.toml")).unwrap();
    prepare(&PrepareOptions::new(schema, vec![log], folder.join("out")), &()).unwrap()
}

const SHAPE: Shape = Shape { dense: 2, fields: 3 };

fn space() -> NasRecSpace {
    let config = NasRecConfig {
        blocks: 3,
        dense_widths: vec![16, 32],
        sparse_widths: vec![16],
        ..NasRecConfig::published(Operators::Full)
    };
    NasRecSpace::new(config).unwrap()
}

/// A supernet after a few steps.
fn supernet(dataset: &Dataset) -> (Network, Model<f32>) {
    let rows = dataset.table_rows(None);
    let specs = nasrec_tables(&["a", "b", "c"].map(String::from), &rows);
    let settings =
        SupernetSettings { steps: 20, warmup_steps: 2, batch_size: 64, ..Default::default() };
    let batches =
        Batches::new(dataset, &[Split::Train], 64, Order::Shuffled, SEED, rows.clone()).unwrap();
    let keeping = Keeping::default();
    let mut supernet =
        SupernetTraining::new(space(), SHAPE, specs, batches, settings, &keeping, SEED).unwrap();
    while supernet.progress.step < supernet.steps() {
        supernet.advance().unwrap();
    }
    supernet.finish()
}

fn settings(weights: RankingWeights, batch_size: usize) -> RankingSettings {
    RankingSettings { weights, finetune_steps: 5, batch_size, ..Default::default() }
}

fn ranker(dataset: &Dataset, settings: RankingSettings, numbers: Numbers) -> SubnetRanker<'_> {
    let (network, model) = supernet(dataset);
    let rows = dataset.table_rows(None);
    SubnetRanker::new(network, model, dataset, rows, settings, numbers, SEED).unwrap()
}

fn random_paths() -> Vec<Path> {
    (0..6).map(|i| space().random_path(&mut stream(9, "test/paths", i))).collect()
}

/// What an evolution asks for at once: children of one parent, mutated at one or two places, and a
/// stranger.
fn generation() -> Vec<Path> {
    let space = space();
    let mut random = stream(4, "test/generation", 0);
    let parent = space.space().sample(&mut random);
    let mut child = |mutations| {
        let mut child = parent.clone();
        for _ in 0..mutations {
            child = space.space().mutate(&child, &mut random);
        }
        space.path(&child)
    };
    let mut paths: Vec<Path> = (0..7).map(|i| child(1 + i / 5)).collect();
    paths.insert(3, random_paths().remove(0));
    paths
}

/// Whether rows stay decoded, wholly, in part or not at all, no score changes by a bit, whatever
/// was scored before.
#[test]
fn decoded_rows_change_no_score() {
    for (validation, weights) in
        [(0.8, RankingWeights::Shared), (0.2, RankingWeights::Shared), (0.8, RankingWeights::Fresh)]
    {
        let folder = tempfile::tempdir().unwrap();
        let dataset = dataset(folder.path(), validation);
        let paths = random_paths();
        let mut ranker = ranker(&dataset, settings(weights, 48), Numbers::default());
        let mut copy = ranker.try_clone().unwrap();
        let scores = |ranker: &mut SubnetRanker<'_>, paths: &[Path]| -> Vec<u64> {
            paths.iter().map(|path| ranker.score(path).unwrap().to_bits()).collect()
        };
        let all = scores(&mut ranker, &paths);
        assert!(all.iter().all(|&bits| f64::from_bits(bits).is_finite()));
        assert!(all[1..].iter().any(|&bits| bits != all[0]), "networks differ");
        // A batch of predictions has 1,024 rows of 28 bytes, one of steps 48.
        for bytes in [0, 3000, 40_000] {
            ranker.keep_decoded(bytes).unwrap();
            assert_eq!(scores(&mut ranker, &paths), all, "{validation} {weights:?} {bytes}");
        }
        let reversed: Vec<Path> = paths.iter().rev().cloned().collect();
        let mut backwards = scores(&mut copy, &reversed);
        backwards.reverse();
        assert_eq!(backwards, all, "{validation} {weights:?}: order of candidates");
    }
}

fn engine(batch: &Batch) -> EngineBatch<'_, f32> {
    EngineBatch {
        rows: batch.rows,
        dense: &batch.dense,
        ids: &batch.ids,
        labels: &batch.labels,
        weights: &batch.weights,
        lists: &[],
    }
}

/// Scores as they are defined, one network at a time with a model of its own: steps on the head,
/// then the log loss of all validation rows.
fn scores_alone(
    dataset: &Dataset,
    paths: &[Path],
    batch_size: usize,
    numbers: Numbers,
) -> Vec<u64> {
    let tables = dataset.table_rows(None);
    let (network, trained) = supernet(dataset);
    let seed = SEED ^ 0x7261_6e6b;
    let batches =
        Batches::new(dataset, &[Split::Train], batch_size, Order::Shuffled, seed, tables.clone());
    let batches = batches.unwrap();
    let score = |path: &Path| {
        let mut model = trained.try_clone().unwrap();
        model.params.reset_state().unwrap();
        let (mut program, mut executor) = (Program::new(), numbers.executor());
        network.build(path, &mut program);
        let (mut batch, mut rows) = (Batch::default(), Vec::new());
        for index in 0..5 {
            batches.fill(index, &mut rows, &mut batch).unwrap();
            let step = Step {
                index,
                learning_rate: Schedule::new(0.04, 5).at(index),
                optimizer: Optimizer::Adagrad { epsilon: 1e-2 },
                clip_norm: Some(5.0),
                trainable: Trainable::Head,
            };
            executor.train_step(&mut model, &mut program, &engine(&batch), &step).unwrap();
        }
        let labels = dataset.labels(Split::Validation);
        let (mut sum, mut total) = (0.0, 0.0);
        for start in (0..labels.len()).step_by(PREDICT_ROWS) {
            let rows = start..labels.len().min(start + PREDICT_ROWS);
            dataset.fill_range(Split::Validation, rows.clone(), &tables, &mut batch).unwrap();
            let logits = executor.forward(&model, &mut program, &engine(&batch)).unwrap();
            for ((&z, &label), &weight) in logits.iter().zip(&labels[rows]).zip(&batch.weights) {
                let (z, weight) = (f64::from(z), f64::from(weight));
                let softplus = z.max(0.0) + (-z.abs()).exp().ln_1p();
                sum += weight * (softplus - f64::from(label) * z);
                total += weight;
            }
        }
        f64::to_bits(sum / total)
    };
    paths.iter().map(score).collect()
}

/// A candidate's score is the same bit for bit alone and in a group, in any order, in any grouping,
/// after any other candidates, with any number of threads, in f32 and bf16.
#[test]
fn candidates_that_are_scored_together_keep_their_scores() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path(), 0.6);
    let paths = generation();
    let bf16 = Numbers { precision: Products::Bf16, ..Numbers::default() };
    // A step of one chunk of rows, and of three.
    for (batch_size, numbers) in [(48, Numbers::default()), (300, Numbers::default()), (300, bf16)]
    {
        let expect = scores_alone(&dataset, &paths, batch_size, numbers);
        assert!(expect[1..].iter().any(|&bits| bits != expect[0]), "networks differ");
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let settings = settings(RankingWeights::Shared, batch_size);
                let mut ranker = ranker(&dataset, settings, numbers);
                for order in [vec![0, 1, 2, 3, 4, 5, 6, 7], vec![5, 3, 7, 0], vec![6], vec![2, 1]] {
                    let chosen: Vec<&Path> = order.iter().map(|&i| &paths[i]).collect();
                    let scores = ranker.score_together(&chosen, &|| true).unwrap().unwrap();
                    for (&i, score) in order.iter().zip(scores) {
                        let what =
                            format!("{batch_size} rows, {threads} threads, {i} in {order:?}");
                        assert_eq!(score.unwrap().to_bits(), expect[i], "{what}");
                        assert_eq!(ranker.score(&paths[i]).unwrap().to_bits(), expect[i], "{what}");
                    }
                }
            });
        }
    }
}

/// Children of one parent form a group, strangers stay alone, and no group is larger than asked.
#[test]
fn candidates_with_common_blocks_form_groups() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path(), 0.2);
    let paths = generation();
    let chosen: Vec<&Path> = paths.iter().collect();
    let shared = ranker(&dataset, settings(RankingWeights::Shared, 48), Numbers::default());
    for most in [1, 3, 32] {
        let groups = shared.groups(&chosen, most);
        let mut all: Vec<usize> = groups.concat();
        assert!(groups.iter().all(|group| group.len() <= most && group.is_sorted()));
        assert!(groups.is_sorted_by_key(|group| group[0]), "in the order of the candidates");
        all.sort_unstable();
        assert_eq!(all, (0..paths.len()).collect::<Vec<_>>());
        let largest = groups.iter().map(Vec::len).max().unwrap();
        assert!(largest >= most.min(4), "{groups:?}");
    }
    assert!(shared.groups(&chosen, 32).contains(&vec![3]), "a stranger shares nothing");
    let fresh = ranker(&dataset, settings(RankingWeights::Fresh, 48), Numbers::default());
    assert_eq!(
        fresh.groups(&chosen, 32).len(),
        paths.len(),
        "fresh weights have nothing in common"
    );
}

/// A stop is heard between batches, and what was begun leaves no trace.
#[test]
fn a_group_that_was_stopped_leaves_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path(), 0.6);
    let paths = generation();
    let chosen: Vec<&Path> = paths.iter().collect();
    for weights in [RankingWeights::Shared, RankingWeights::Fresh] {
        let mut ranker = ranker(&dataset, settings(weights, 48), Numbers::default());
        let bits = |scores: Option<Vec<Result<f64, _>>>| -> Vec<u64> {
            let score = |score: Result<f64, palmette_engine::EngineError>| score.unwrap().to_bits();
            scores.unwrap().into_iter().map(score).collect()
        };
        let all = bits(ranker.score_together(&chosen, &|| true).unwrap());
        // The sixth batch is the first of the validation rows.
        for batches in [0, 3, 6] {
            let left = std::cell::Cell::new(batches);
            let go_on = || left.replace(left.get() - 1) > 0;
            assert!(ranker.score_together(&chosen, &go_on).unwrap().is_none(), "{batches}");
        }
        assert_eq!(bits(ranker.score_together(&chosen, &|| true).unwrap()), all);
    }
}

/// A head that overflows is one candidate's failure and not its group's.
#[test]
fn a_candidate_that_diverges_fails_alone() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path(), 0.6);
    let (network, mut model) = supernet(&dataset);
    let merge: ParamId = *network.head_params().last().unwrap();
    model.params.row_mut(merge, 0).fill(f32::INFINITY);
    let rows = dataset.table_rows(None);
    let settings = settings(RankingWeights::Shared, 48);
    let mut ranker =
        SubnetRanker::new(network, model, &dataset, rows, settings, Numbers::default(), SEED)
            .unwrap();
    let mut paths = generation();
    // The last block's merge is what reads the spoilt weights.
    for (i, path) in paths.iter_mut().enumerate() {
        path.blocks[2].dense_to_sparse = i == 2;
    }
    let chosen: Vec<&Path> = paths.iter().collect();
    let scores = ranker.score_together(&chosen, &|| true).unwrap().unwrap();
    for (i, (score, path)) in scores.iter().zip(&paths).enumerate() {
        assert_eq!(score.is_err(), i == 2, "{i}: {score:?}");
        let alone = ranker.score(path);
        match score {
            Ok(score) => assert_eq!(alone.unwrap().to_bits(), score.to_bits()),
            Err(error) => assert_eq!(alone.unwrap_err().to_string(), error.to_string()),
        }
    }
}
