//! A study, run by hand: what candidates of one generation have in common, and what keeping rows
//! decoded saves.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

use palmette_ctr::nasrec::{
    NasRecConfig, NasRecSpace, Operators, Path, Shape, liveness, macs_by_block,
};
use palmette_ctr::train::{
    Batches, Keeping, Numbers, Order, RankingSettings, SubnetRanker, SupernetSettings,
    SupernetTraining, nasrec_tables,
};
use palmette_data::{Dataset, Split};
use palmette_random::stream;
use palmette_search::{Ask, EvolutionConfig, Outcome, RegularisedEvolution, Strategy};
use palmette_space::{Domain, Genotype};

const CRITEO: Shape = Shape { dense: 13, fields: 26 };

/// Candidates that an evolution scores together; a quality that most genes have a part in stands
/// for the log loss.
fn generations(space: &NasRecSpace, config: EvolutionConfig) -> Vec<Vec<Path>> {
    let quality = |genotype: &Genotype| -> f64 {
        let genes = genotype.genes().iter().enumerate();
        genes.map(|gene| unit(&gene) / genotype.genes().len() as f64).sum()
    };
    let mut evolution = RegularisedEvolution::new(config, 1).unwrap();
    let mut found = Vec::new();
    loop {
        let mut together = Vec::new();
        while let Ask::Try(suggestion) = evolution.suggest(space.space()) {
            together.push(suggestion);
        }
        if together.is_empty() {
            return found;
        }
        for suggestion in &together {
            let score = Outcome::score(quality(&suggestion.genotype));
            evolution.observe(space.space(), suggestion.trial, score).unwrap();
        }
        found.push(together.iter().map(|s| space.path(&s.genotype)).collect());
        let asked: usize = found.iter().map(Vec::len).sum();
        if asked >= config.evaluations() {
            return found;
        }
    }
}

fn unit(value: &impl Hash) -> f64 {
    hash(value) as f64 / u64::MAX as f64
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Shares of the forward pass's multiply-accumulates that are left where candidates share the
/// blocks in which they agree from the first on, and where they share every block that computes
/// the same.
fn left(groups: &[Vec<Path>]) -> [f64; 2] {
    let (mut all, mut by_prefix, mut by_function) = (0, 0, 0);
    for group in groups {
        let (mut prefixes, mut functions) = (HashSet::new(), HashSet::new());
        for path in group {
            let (blocks, head) = macs_by_block(path, CRITEO);
            let mut names = vec![0u64];
            let mut prefix = 0u64;
            for (i, (block, live)) in path.blocks.iter().zip(liveness(path)).enumerate() {
                let b = blocks[i];
                let macs = b.dense + b.sparse + b.dense_to_sparse + b.sparse_to_dense;
                prefix = hash(&(prefix, block));
                let sources = [block.dense_sources, block.sparse_sources, block.left, block.right]
                    .map(|set| set.iter().map(|j| names[j]).collect::<Vec<_>>());
                let function = hash(&(i, block, sources));
                names.push(function);
                if live.is_dead() {
                    continue;
                }
                all += macs;
                by_prefix += if prefixes.insert(prefix) { macs } else { 0 };
                by_function += if functions.insert(function) { macs } else { 0 };
            }
            all += head;
            by_prefix += head;
            by_function += head;
        }
    }
    [by_prefix, by_function].map(|shared| shared as f64 / all as f64)
}

fn space(blocks: usize, widths: &[u16], fields: &[u16]) -> NasRecSpace {
    let published = NasRecConfig::published(Operators::Full);
    let config = NasRecConfig {
        blocks,
        dense_widths: widths.to_vec(),
        sparse_widths: fields.to_vec(),
        ..published
    };
    NasRecSpace::new(config).unwrap()
}

#[test]
#[ignore = "a study"]
fn shares_of_blocks_in_common() {
    let full = NasRecSpace::published(Operators::Full);
    let small = space(3, &[16, 32, 64, 128], &[16, 32]);
    for (name, space, config) in [
        ("published space and schedule", &full, EvolutionConfig::published()),
        ("published space, 256 evaluations", &full, EvolutionConfig::for_budget(256)),
        ("three blocks, 256 evaluations", &small, EvolutionConfig::for_budget(256)),
    ] {
        let groups = generations(space, config);
        let (start, children) = groups.split_first().unwrap();
        let random: Vec<Vec<Path>> = start.chunks(8).map(<[Path]>::to_vec).collect();
        let mut by_mutations: BTreeMap<usize, Vec<Vec<Path>>> = BTreeMap::new();
        for (generation, group) in children.iter().enumerate() {
            by_mutations.entry(config.mutations(generation)).or_default().push(group.clone());
        }
        println!("{name}: left of the multiply-accumulates with equal prefixes, equal blocks");
        println!("  random candidates, 8 together: {:.3?}", left(&random));
        println!("  children, all generations:     {:.3?}", left(children));
        for (mutations, groups) in by_mutations {
            println!(
                "    of {mutations} mutations ({} generations): {:.3?}",
                groups.len(),
                left(&groups)
            );
        }
    }
}

/// `PALMETTE_DATASET` names a prepared dataset of Criteo's shape.
#[test]
#[ignore = "a study"]
fn seconds_saved_by_decoded_rows() {
    let Some(folder) = std::env::var_os("PALMETTE_DATASET") else { return };
    let dataset = Dataset::open(std::path::Path::new(&folder)).unwrap();
    let space = NasRecSpace::published(Operators::Full);
    let rows = dataset.table_rows(None);
    let names: Vec<String> = (0..rows.len()).map(|i| format!("C{i}")).collect();
    let batches =
        Batches::new(&dataset, &[Split::Train], 512, Order::Shuffled, 1, rows.clone()).unwrap();
    let settings = SupernetSettings::default();
    let (specs, keeping) = (nasrec_tables(&names, &rows), Keeping::default());
    let supernet =
        SupernetTraining::new(space.clone(), CRITEO, specs, batches, settings, &keeping, 1);
    let (network, model) = supernet.unwrap().finish();
    let settings = RankingSettings { finetune_steps: 40, validation_rows: 0, ..Default::default() };
    let numbers = Numbers::default();
    let mut ranker =
        SubnetRanker::new(network, model, &dataset, rows, settings, numbers, 1).unwrap();
    let paths: Vec<Path> = (0..8).map(|i| space.random_path(&mut stream(5, "study", i))).collect();
    let mut seconds = [Vec::new(), Vec::new()];
    for round in 0..12 {
        let kept = round % 2;
        ranker.keep_decoded(if kept == 1 { 1 << 30 } else { 0 }).unwrap();
        let start = Instant::now();
        for path in &paths {
            ranker.score(path).unwrap();
        }
        if round >= 2 {
            seconds[kept].push(start.elapsed().as_secs_f64());
        }
    }
    for (name, times) in ["decoded for every candidate", "kept decoded"].iter().zip(&mut seconds) {
        times.sort_by(f64::total_cmp);
        let (least, most) = (times[0], times[times.len() - 1]);
        println!(
            "{name}: {:.3} s for 8 candidates ({least:.3} to {most:.3})",
            times[times.len() / 2]
        );
    }
}
