//! Scores of candidates.

use std::fmt::Write as _;
use std::path::Path as FilePath;

use palmette_ctr::nasrec::{NasRecConfig, NasRecSpace, Operators, Path, Shape};
use palmette_ctr::train::{
    Batches, Keeping, Numbers, Order, RankingSettings, RankingWeights, SubnetRanker,
    SupernetSettings, SupernetTraining, nasrec_tables,
};
use palmette_data::{Dataset, PrepareOptions, Schema, Split, prepare};
use palmette_random::{Draw, stream};

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

/// A supernet after a few steps, ready to score.
fn ranker(dataset: &Dataset, weights: RankingWeights) -> (SubnetRanker<'_>, Vec<Path>) {
    let config = NasRecConfig {
        blocks: 3,
        dense_widths: vec![16, 32],
        sparse_widths: vec![16],
        ..NasRecConfig::published(Operators::Full)
    };
    let space = NasRecSpace::new(config).unwrap();
    let shape = Shape { dense: 2, fields: 3 };
    let rows = dataset.table_rows(None);
    let specs = nasrec_tables(&["a", "b", "c"].map(String::from), &rows);
    let settings =
        SupernetSettings { steps: 20, warmup_steps: 2, batch_size: 64, ..Default::default() };
    let batches =
        Batches::new(dataset, &[Split::Train], 64, Order::Shuffled, SEED, rows.clone()).unwrap();
    let keeping = Keeping::default();
    let mut supernet =
        SupernetTraining::new(space.clone(), shape, specs, batches, settings, &keeping, SEED)
            .unwrap();
    while supernet.progress.step < supernet.steps() {
        supernet.advance().unwrap();
    }
    let (network, model) = supernet.finish();
    let settings =
        RankingSettings { weights, finetune_steps: 5, batch_size: 48, ..Default::default() };
    let numbers = Numbers::default();
    let ranker = SubnetRanker::new(network, model, dataset, rows, settings, numbers, SEED).unwrap();
    let paths = (0..6).map(|i| space.random_path(&mut stream(9, "test/paths", i))).collect();
    (ranker, paths)
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
        let (mut ranker, paths) = ranker(&dataset, weights);
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
