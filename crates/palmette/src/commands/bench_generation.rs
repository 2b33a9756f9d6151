//! `palmette bench generation`: what candidates that are scored together have in common, and what
//! computing it once saves.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use palmette::console::Console;
use palmette_cost::format_bytes;
use palmette_ctr::nasrec::{
    DatasetPreset, NasRecConfig, NasRecSpace, Network, Operators, Path, Shape, liveness,
    macs_by_block,
};
use palmette_ctr::train::{
    Batches, Keeping, Order, PREDICT_ROWS, RankingSettings, SubnetRanker, SupernetSettings,
    SupernetTraining, group_bytes, nasrec_tables,
};
use palmette_data::{Dataset, Split};
use palmette_engine::Program;
use palmette_search::{Ask, EvolutionConfig, Outcome, RegularisedEvolution, Strategy};
use palmette_space::{Domain, Genotype};
use serde::Serialize;

use super::bench_engine::compare::spread;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  palmette bench generation
  palmette bench generation mini

Candidates of one generation of an evolution have one parent. Printed is which share of the forward
pass's multiply-accumulates is left when they share the blocks in which they agree from the first on,
and when they share all equal operators, which is what scoring with shared weights does; without data,
a sum over genes stands for the log loss.
With a dataset, generations of NASRec-Full spread over the published schedule are scored alternately in
three ways, over shared weights as they are before training: one candidate after the other with rows
decoded anew for each, the same with rows kept decoded, and together. The scores must be equal bit for
bit; samples a second are rows of all candidates, those of the steps on the head and validation rows.")]
pub struct Args {
    /// Dataset made by `palmette prepare`; without it nothing is timed
    #[arg(value_name = "DATASET")]
    dataset: Option<PathBuf>,
    /// Rounds, after one that does not count
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..))]
    rounds: u32,
    /// Generations that are timed
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=240))]
    generations: u32,
    /// Steps of 512 rows on the head before a score
    #[arg(long, default_value_t = 2)]
    steps: u32,
    /// Validation rows of a score; 0 for all
    #[arg(long, default_value_t = 2048)]
    rows: u32,
}

#[derive(Serialize)]
struct Report {
    left: Vec<Left>,
    scoring: Option<Scoring>,
}

/// Shares of the forward pass's multiply-accumulates that are left.
#[derive(Serialize)]
struct Left {
    space: &'static str,
    candidates: String,
    groups: usize,
    /// With equal blocks from the first on computed once.
    blocks: f64,
    /// With equal operators computed once.
    operators: f64,
}

/// What scoring took.
#[derive(Serialize)]
struct Scoring {
    candidates: usize,
    groups: usize,
    /// Candidates of the largest.
    largest: usize,
    /// Bytes of the arenas of the candidate and of the group that take most.
    arenas: [u64; 2],
    /// Rows that each candidate reads.
    rows: u64,
    /// Share of the multiply-accumulates that is left of these candidates.
    left: f64,
    ways: Vec<Way>,
    /// Time alone over time together, rows kept decoded in both; median, least, most.
    times_as_fast: [f64; 3],
}

#[derive(Serialize)]
struct Way {
    way: &'static str,
    /// Median, least, most.
    seconds: [f64; 3],
    samples_per_second: f64,
}

pub fn run(args: &Args, console: &Console) -> Result<ExitCode> {
    let full = NasRecSpace::published(Operators::Full);
    let small = NasRecSpace::new(NasRecConfig {
        blocks: 3,
        dense_widths: vec![16, 32, 64, 128],
        sparse_widths: vec![16, 32],
        ..NasRecConfig::published(Operators::Full)
    })?;
    let shape = DatasetPreset::find("criteo").map(|preset| preset.shape);
    let Some(shape) = shape else { bail!("the preset of Criteo is missing") };
    let (published, budget) = (EvolutionConfig::published(), EvolutionConfig::for_budget(256));
    let mut report = Report { left: Vec::new(), scoring: None };
    for (name, space, config) in [
        ("NASRec-Full, published schedule (2,048 evaluations)", &full, published),
        ("NASRec-Full, 256 evaluations", &full, budget),
        ("three narrow blocks, 256 evaluations", &small, budget),
    ] {
        report.left.extend(shares(name, space, config, shape)?);
    }
    if let Some(folder) = &args.dataset {
        report.scoring = Some(time(args, &Dataset::open(folder)?, &full, published)?);
    }
    console.result(&report, || text(&report))?;
    Ok(ExitCode::SUCCESS)
}

fn text(report: &Report) -> String {
    let mut text = String::from("multiply-accumulates left     equal blocks  equal operators\n");
    let mut space = "";
    for left in &report.left {
        if left.space != space {
            space = left.space;
            text += &format!("{space}\n");
        }
        let Left { candidates, groups, blocks, operators, .. } = left;
        let name = format!("  {candidates} ({groups})");
        text += &format!("{name:<36} {blocks:>5.3}  {operators:>15.3}\n");
    }
    let Some(scoring) = &report.scoring else { return text };
    let Scoring { candidates, groups, largest, arenas, rows, left, ways, times_as_fast } = scoring;
    let [alone, together] = arenas.map(format_bytes);
    let [median, least, most] = times_as_fast;
    text += &format!(
        "\n{candidates} candidates in {groups} groups of at most {largest}, {rows} rows each\n\
         multiply-accumulates left with one program a generation: {left:.3}\n\
         largest arenas: {alone} alone, {together} together\n"
    );
    for Way { way, seconds: [median, least, most], samples_per_second } in ways {
        text += &format!(
            "{way:<36} {median:>7.3} s ({least:.3}-{most:.3})  {samples_per_second:>8.0} samples/s\n"
        );
    }
    text + &format!("together instead of alone: {median:.3} times as fast ({least:.3}-{most:.3})\n")
}

/// Candidates that an evolution scores together; a quality that most genes have a part in stands
/// for the log loss.
fn generations(space: &NasRecSpace, config: EvolutionConfig) -> Result<Vec<Vec<Path>>> {
    let quality = |genotype: &Genotype| -> f64 {
        let genes = genotype.genes().iter().enumerate();
        genes.map(|gene| unit(&gene) / genotype.genes().len() as f64).sum()
    };
    let mut evolution = RegularisedEvolution::new(config, 1)?;
    let (mut found, mut asked) = (Vec::new(), 0);
    while asked < config.evaluations() {
        let mut together = Vec::new();
        while let Ask::Try(suggestion) = evolution.suggest(space.space()) {
            together.push(suggestion);
        }
        if together.is_empty() {
            break;
        }
        for suggestion in &together {
            let score = Outcome::score(quality(&suggestion.genotype));
            evolution.observe(space.space(), suggestion.trial, score)?;
        }
        asked += together.len();
        found.push(together.iter().map(|s| space.path(&s.genotype)).collect());
    }
    Ok(found)
}

fn unit(value: &impl Hash) -> f64 {
    hash(value) as f64 / u64::MAX as f64
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn shares(
    name: &'static str,
    space: &NasRecSpace,
    config: EvolutionConfig,
    shape: Shape,
) -> Result<Vec<Left>> {
    let network = Network::supernet(space.config(), shape, true);
    let groups = generations(space, config)?;
    let Some((start, children)) = groups.split_first() else { return Ok(Vec::new()) };
    let random: Vec<Vec<Path>> = start.chunks(8).map(<[Path]>::to_vec).collect();
    let mut by_mutations: BTreeMap<usize, Vec<Vec<Path>>> = BTreeMap::new();
    for (generation, group) in children.iter().enumerate() {
        by_mutations.entry(config.mutations(generation)).or_default().push(group.clone());
    }
    let all = ("children, all generations".to_owned(), children.to_vec());
    let rows = [("random, eight together".to_owned(), random), all].into_iter();
    let rows = rows.chain(by_mutations.into_iter().map(|(n, groups)| {
        (format!("children of {n} mutation{}", if n == 1 { "" } else { "s" }), groups)
    }));
    let left = rows.map(|(candidates, groups)| Left {
        space: name,
        candidates,
        groups: groups.len(),
        blocks: left_by_blocks(&groups, shape),
        operators: left_by_operators(&groups, &network),
    });
    Ok(left.collect())
}

/// What is left where candidates share the blocks in which they agree from the first on.
fn left_by_blocks(groups: &[Vec<Path>], shape: Shape) -> f64 {
    let (mut all, mut left) = (0, 0);
    for group in groups {
        let mut prefixes = HashSet::new();
        for path in group {
            let (blocks, head) = macs_by_block(path, shape);
            let mut prefix = 0u64;
            for ((block, live), b) in path.blocks.iter().zip(liveness(path)).zip(blocks) {
                let macs = b.dense + b.sparse + b.dense_to_sparse + b.sparse_to_dense;
                prefix = hash(&(prefix, block));
                if !live.is_dead() {
                    all += macs;
                    left += if prefixes.insert(prefix) { macs } else { 0 };
                }
            }
            (all, left) = (all + head, left + head);
        }
    }
    left as f64 / all as f64
}

/// What is left in one program for each group.
fn left_by_operators(groups: &[Vec<Path>], network: &Network) -> f64 {
    let (mut all, mut left, mut program) = (0, 0, Program::new());
    for group in groups {
        for path in group {
            network.build(path, &mut program);
            all += program.macs();
        }
        network.build_group(group, &mut program);
        left += program.macs();
    }
    left as f64 / all as f64
}

/// Scores generations in three ways, alternately.
fn time(
    args: &Args,
    dataset: &Dataset,
    space: &NasRecSpace,
    config: EvolutionConfig,
) -> Result<Scoring> {
    let shape = Shape { dense: dataset.dense_fields(), fields: dataset.categorical_fields() };
    let tables = dataset.table_rows(None);
    let names: Vec<String> = (0..tables.len()).map(|i| format!("C{i}")).collect();
    let batches =
        |rows| Batches::new(dataset, &[Split::Train], rows, Order::Shuffled, 1, tables.clone());
    let (specs, keeping) = (nasrec_tables(&names, &tables), Keeping::default());
    let settings = SupernetSettings::default();
    let batches = batches(settings.batch_size)?;
    let supernet =
        SupernetTraining::new(space.clone(), shape, specs, batches, settings, &keeping, 1)?;
    let (network, model) = supernet.finish();
    let settings = RankingSettings {
        finetune_steps: args.steps.into(),
        validation_rows: args.rows as usize,
        ..RankingSettings::default()
    };
    let validation = dataset.rows(Split::Validation);
    let validation = if args.rows == 0 { validation } else { validation.min(args.rows as usize) };
    let rows = u64::from(args.steps) * settings.batch_size as u64 + validation as u64;

    let children = generations(space, config)?.split_off(1);
    let apart = children.len() / args.generations as usize;
    let chosen: Vec<Vec<Path>> =
        (0..args.generations as usize).map(|i| children[i * apart + apart / 2].clone()).collect();
    let left = left_by_operators(&chosen, &network);
    let (numbers, batch_size, shared) = (keeping.numbers, settings.batch_size, network.clone());
    let mut ranker = SubnetRanker::new(network, model, dataset, tables, settings, numbers, 1)?;
    let paths: Vec<Vec<&Path>> = chosen.iter().map(|paths| paths.iter().collect()).collect();
    let groups: Vec<Vec<Vec<usize>>> = paths.iter().map(|p| ranker.groups(p, p.len())).collect();
    let single: Vec<Vec<Vec<usize>>> =
        paths.iter().map(|p| (0..p.len()).map(|i| vec![i]).collect()).collect();

    const WAYS: [&str; 3] =
        ["alone, rows decoded for each", "alone, rows kept", "together, rows kept"];
    const KEPT: usize = 512 << 20;
    let mut seconds = [const { Vec::new() }; 3];
    let mut scores = None;
    for round in 0..=args.rounds {
        for (way, (groups, kept)) in
            [(&single, 0), (&single, KEPT), (&groups, KEPT)].into_iter().enumerate()
        {
            ranker.keep_decoded(kept)?;
            let start = Instant::now();
            let mut found = Vec::new();
            for (paths, groups) in paths.iter().zip(groups) {
                found.extend(score(&mut ranker, paths, groups)?);
            }
            if round > 0 {
                seconds[way].push(start.elapsed().as_secs_f64());
            }
            if *scores.get_or_insert_with(|| found.clone()) != found {
                bail!("{}: the scores are not those of {}", WAYS[way], WAYS[0]);
            }
        }
    }
    let arenas = [&single, &groups].map(|groups| {
        let mut program = Program::new();
        let all =
            paths.iter().zip(groups).flat_map(|(p, groups)| groups.iter().map(move |g| (p, g)));
        let bytes = all.map(|(paths, group)| {
            shared.build_group(group.iter().map(|&i| paths[i]), &mut program);
            group_bytes(&program, batch_size, PREDICT_ROWS, rayon::current_num_threads())
        });
        bytes.max().unwrap_or(0)
    });
    let candidates = paths.iter().map(Vec::len).sum::<usize>();
    let ways = WAYS.into_iter().zip(&seconds).map(|(way, seconds)| {
        let seconds = spread(seconds);
        Way { way, seconds, samples_per_second: (candidates as u64 * rows) as f64 / seconds[0] }
    });
    let ratios: Vec<f64> = seconds[1].iter().zip(&seconds[2]).map(|(a, b)| a / b).collect();
    Ok(Scoring {
        candidates,
        groups: groups.iter().map(Vec::len).sum(),
        largest: groups.iter().flatten().map(Vec::len).max().unwrap_or(0),
        arenas,
        rows,
        left,
        ways: ways.collect(),
        times_as_fast: spread(&ratios),
    })
}

/// The bits of all scores, in the order of `paths`.
fn score(
    ranker: &mut SubnetRanker<'_>,
    paths: &[&Path],
    groups: &[Vec<usize>],
) -> Result<Vec<u64>> {
    let mut bits = vec![0; paths.len()];
    for group in groups {
        let members: Vec<&Path> = group.iter().map(|&i| paths[i]).collect();
        let scores = ranker.score_together(&members, &|| true)?.unwrap_or_default();
        for (&i, score) in group.iter().zip(scores) {
            bits[i] = score?.to_bits();
        }
    }
    Ok(bits)
}
