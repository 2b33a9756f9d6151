//! Spaces, canonical form and path draws, by brute force and by counting.

use std::collections::HashMap;
use std::fmt::Write;

use palmette_random::stream;
use palmette_space::{Domain, Genotype};
use proptest::prelude::*;

use super::*;

fn published(operators: Operators) -> NasRecSpace {
    NasRecSpace::published(operators)
}

#[test]
fn cardinalities_are_those_of_the_table() {
    // Operators, largest subset, with operands, value.
    for (operators, most, operands, value) in [
        (Operators::Full, 4, true, 8.1e43),
        (Operators::Small, 4, true, 4.9e39),
        (Operators::Full, 7, true, 1.8e44),
        (Operators::Small, 7, true, 1.1e40),
        (Operators::Full, 4, false, 3.2e36),
        (Operators::Small, 4, false, 1.9e32),
        (Operators::Full, 7, false, 7.2e36),
        (Operators::Small, 7, false, 4.4e32),
    ] {
        let config = NasRecConfig { max_sources: most, ..NasRecConfig::published(operators) };
        let space = NasRecSpace::new(config).unwrap();
        let got = 10f64.powf(space.log10_cardinality(operands));
        // The table has two digits.
        assert!((got / value - 1.0).abs() < 0.03, "{operators:?} {most} {operands}: {got:e}");
    }
}

#[test]
fn sets_list_their_members_in_order() {
    for bits in [0, 1, 0b1011_0100, 1 << 31, u32::MAX, 0x8000_0001] {
        let members: Vec<usize> = Set(bits).iter().collect();
        let want: Vec<usize> = (0..32).filter(|&i| Set(bits).has(i)).collect();
        assert_eq!(members, want);
        assert_eq!(members.into_iter().collect::<Set>(), Set(bits));
    }
}

#[test]
fn tokens_have_the_published_lengths() {
    for (operators, length) in [(Operators::Full, 280), (Operators::Small, 259)] {
        let space = published(operators);
        let genotype = space.sample(&mut stream(1, "test/token", 0));
        assert_eq!(space.space().token(&genotype).len(), length);
    }
}

/// What the head computes, written out from the head down: blocks are named in the order of their
/// positions among those visited. An independent reading of the semantics, for comparison.
fn expression(path: &Path) -> String {
    fn dense(path: &Path, i: usize, seen: &mut Vec<(usize, char)>) {
        if i == 0 || seen.contains(&(i, 'D')) {
            return;
        }
        seen.push((i, 'D'));
        dense_op(path, i, seen);
        if path.blocks[i - 1].sparse_to_dense {
            sparse_op(path, i, seen);
        }
    }
    fn sparse(path: &Path, i: usize, seen: &mut Vec<(usize, char)>) {
        if i == 0 || seen.contains(&(i, 'S')) {
            return;
        }
        seen.push((i, 'S'));
        sparse_op(path, i, seen);
        if path.blocks[i - 1].dense_to_sparse {
            dense_op(path, i, seen);
        }
    }
    fn dense_op(path: &Path, i: usize, seen: &mut Vec<(usize, char)>) {
        if seen.contains(&(i, 'd')) {
            return;
        }
        seen.push((i, 'd'));
        let block = &path.blocks[i - 1];
        let op = DenseOp::ALL[block.dense_ops.iter().next().unwrap()];
        if matches!(op, DenseOp::Fc | DenseOp::DotProduct) {
            block.dense_sources.iter().for_each(|j| dense(path, j, seen));
        }
        if op == DenseOp::DotProduct {
            block.sparse_sources.iter().for_each(|j| sparse(path, j, seen));
        }
        if matches!(op, DenseOp::SigmoidGating | DenseOp::Sum) {
            dense(path, block.left.iter().next().unwrap(), seen);
            dense(path, block.right.iter().next().unwrap(), seen);
        }
    }
    fn sparse_op(path: &Path, i: usize, seen: &mut Vec<(usize, char)>) {
        if seen.contains(&(i, 's')) {
            return;
        }
        seen.push((i, 's'));
        let block = &path.blocks[i - 1];
        if !block.has_sparse(SparseOp::Zero) {
            block.sparse_sources.iter().for_each(|j| sparse(path, j, seen));
        }
    }
    let mut seen = Vec::new();
    dense(path, path.blocks.len(), &mut seen);
    sparse(path, path.blocks.len(), &mut seen);
    let mut names: Vec<usize> = seen.iter().map(|&(i, _)| i).collect();
    names.sort_unstable();
    names.dedup();
    let rename = |set: Set| -> Vec<usize> {
        set.iter().map(|j| names.iter().position(|&n| n == j).map_or(0, |n| n + 1)).collect()
    };
    let mut text = String::new();
    for &i in &names {
        let block = &path.blocks[i - 1];
        let op = DenseOp::ALL[block.dense_ops.iter().next().unwrap()];
        text.push('[');
        if seen.contains(&(i, 'd')) {
            let mut operands = [rename(block.left), rename(block.right)];
            if op == DenseOp::Sum {
                operands.sort();
            }
            match op {
                DenseOp::Fc => write!(text, "fc {:?}", rename(block.dense_sources)),
                DenseOp::DotProduct => write!(
                    text,
                    "dp {:?} {:?}",
                    rename(block.dense_sources),
                    rename(block.sparse_sources)
                ),
                DenseOp::Zero => write!(text, "zero"),
                op => write!(text, "{op:?} {operands:?}"),
            }
            .unwrap();
            write!(text, " width {}", block.dense_width).unwrap();
        }
        if seen.contains(&(i, 's')) {
            let op = SparseOp::ALL[block.sparse_ops.iter().next().unwrap()];
            let sources = if op == SparseOp::Zero { vec![] } else { rename(block.sparse_sources) };
            write!(text, " {op:?} {sources:?} fields {}", block.sparse_width).unwrap();
        }
        // With 128 units the merge is a view of D, which the pair term changes in place.
        let view = seen.contains(&(i, 'S')) && block.dense_to_sparse && block.dense_width == 128;
        if (seen.contains(&(i, 'D')) || view) && block.sparse_to_dense {
            text.push_str(" +fm");
        }
        if seen.contains(&(i, 'S')) && block.dense_to_sparse {
            text.push_str(" +ds");
        }
        text.push(']');
    }
    text
}

/// Fails unless equal expressions and equal keys are the same thing over these paths.
fn check_keys(paths: impl Iterator<Item = Path>) -> usize {
    let mut key_of: HashMap<String, u128> = HashMap::new();
    let mut expression_of: HashMap<u128, String> = HashMap::new();
    for path in paths {
        let (text, key) = (expression(&path), canonical_key(&path));
        let known = key_of.entry(text.clone()).or_insert(key);
        assert_eq!(*known, key, "equal networks, different keys: {text}\n{path:?}");
        let known = expression_of.entry(key).or_insert(text.clone());
        assert_eq!(*known, text, "different networks, equal keys: {path:?}");
    }
    key_of.len()
}

fn small(operators: Operators, blocks: usize) -> NasRecSpace {
    NasRecSpace::new(NasRecConfig {
        operators,
        blocks,
        dense_widths: vec![16, 32],
        sparse_widths: vec![16],
        max_sources: 2,
    })
    .unwrap()
}

/// Every genotype of a small space.
pub(super) fn all_genotypes(space: &NasRecSpace) -> impl Iterator<Item = Genotype> + '_ {
    let choices = space.space().choices();
    let values: Vec<Vec<u32>> = choices
        .iter()
        .map(|c| (0..1 << c.kind.width()).filter(|&g| c.kind.accepts(g)).collect())
        .collect();
    let total: u128 = values.iter().map(|v| v.len() as u128).product();
    (0..total).map(move |mut number| {
        let genes: Vec<u32> = values
            .iter()
            .map(|v| {
                let gene = v[(number % v.len() as u128) as usize];
                number /= v.len() as u128;
                gene
            })
            .collect();
        Genotype::new(genes)
    })
}

#[test]
fn equal_networks_have_equal_keys_over_a_whole_space() {
    let space = small(Operators::Full, 2);
    let genotypes = 64 * 64 * 36;
    let distinct = check_keys(all_genotypes(&space).map(|genotype| space.path(&genotype)));
    assert!(distinct > 1_000 && distinct < genotypes, "{distinct}");
}

#[test]
fn equal_networks_have_equal_keys_on_random_paths() {
    for operators in [Operators::Full, Operators::Small, Operators::FullWithZeros] {
        let space = small(operators, 4);
        let paths = (0..30_000).map(|i| space.random_path(&mut stream(2, "test/paths", i)));
        check_keys(paths);
    }
}

proptest! {
    #[test]
    fn a_canonical_path_is_its_own_canonical_form(seed in any::<u64>()) {
        let space = published(Operators::FullWithZeros);
        let path = space.random_path(&mut stream(seed, "test/canonical", 0));
        let once = canonical(&path);
        prop_assert_eq!(&canonical(&once), &once);
        prop_assert_eq!((path.check(), once.check()), (Ok(()), Ok(())));
        prop_assert_eq!(expression(&once), expression(&path));
        let shape = Shape { dense: 13, fields: 26 };
        prop_assert_eq!(macs(&once, shape), macs(&path, shape));
        prop_assert!(macs(&path, shape) <= macs_with_dead_code(&path, shape));
        let (blocks, head) = macs_by_block(&path, shape);
        let parts =
            blocks.iter().map(|b| b.dense + b.sparse + b.dense_to_sparse + b.sparse_to_dense);
        prop_assert_eq!(head + parts.sum::<u64>(), macs_with_dead_code(&path, shape));
        prop_assert_eq!(params(&once, shape), params(&path, shape));
        prop_assert_eq!(supernet_macs(&once, shape), supernet_macs(&path, shape));
    }

    #[test]
    fn changing_a_dead_gene_changes_nothing(seed in any::<u64>()) {
        let space = published(Operators::Full);
        let mut rng = stream(seed, "test/dead", 0);
        let genotype = space.sample(&mut rng);
        let shape = Shape { dense: 13, fields: 26 };
        let text = expression(&space.path(&genotype));
        for (position, choice) in space.space().choices().iter().enumerate() {
            let mut changed = genotype.clone();
            changed.genes_mut()[position] = choice.kind.sample(&mut rng);
            let path = space.path(&changed);
            let same = expression(&path) == text;
            prop_assert_eq!(space.key(&changed) == space.key(&genotype), same, "{}", &choice.name);
            if same {
                prop_assert_eq!(macs(&path, shape), macs(&space.path(&genotype), shape));
            }
        }
    }

    #[test]
    fn genotypes_and_files_survive_round_trips(seed in any::<u64>()) {
        for operators in [Operators::Full, Operators::Small, Operators::FullWithZeros] {
            let space = published(operators);
            let genotype = space.sample(&mut stream(seed, "test/round", 0));
            let path = space.path(&genotype);
            prop_assert_eq!(&space.genotype(&path).unwrap(), &genotype);
            let file = ArchitectureFile::new(path, space.config());
            let text = file.to_json().unwrap().to_string();
            prop_assert_eq!(ArchitectureFile::parse(&text).unwrap(), file);
        }
    }
}

#[test]
fn dp_projects_to_the_published_number_of_fields() {
    let widths = [16, 32, 64, 128, 256, 512, 768, 1024];
    assert_eq!(widths.map(projected_fields), [6, 8, 11, 16, 23, 32, 39, 45]);
}

#[test]
fn any_connection_draws_one_plus_binomial_sources() {
    let space = published(Operators::Full);
    let mut counts = [0u32; 5];
    let steps = 40_000;
    for step in 0..steps {
        let path = supernet_path(&space, PathStrategy::SingleOperatorAnyConnection, step, 0, 11);
        let block = path.blocks[5];
        assert_eq!((block.dense_ops.len(), block.sparse_ops.len()), (1, 1));
        counts[block.dense_sources.len()] += 1;
    }
    // 1 + Binomial(3, 1/2): 1/8, 3/8, 3/8, 1/8, within six standard deviations (100).
    for (&count, eighths) in counts[1..].iter().zip([1u32, 3, 3, 1]) {
        assert!(count.abs_diff(steps as u32 / 8 * eighths) < 600, "{counts:?}");
    }
}

#[test]
fn warm_start_decays_linearly_and_mixes() {
    let space = published(Operators::Full);
    let is_full_macro = |path: &Path| {
        path.blocks
            .iter()
            .enumerate()
            .all(|(i, b)| b.left == Set::first(i + 1) && b.dense_sources == Set::first(i + 1))
    };
    let is_full_micro = |block: &Block| block.dense_ops.len() == 4 && block.dense_width == 1024;
    let warmup = 40_000;
    let (mut macros, mut micros, mut mixtures) = (0u32, 0u32, 0u32);
    // The middle half of the warm-up: full with probability 1/2 on average.
    for step in warmup / 4..3 * warmup / 4 {
        let path =
            supernet_path(&space, PathStrategy::SingleOperatorAnyConnection, step, warmup, 4);
        // Block 1 has one candidate; a random macro level is all ones there, so look at them all.
        macros += u32::from(is_full_macro(&path));
        let full = path.blocks.iter().filter(|b| is_full_micro(b)).count() as u32;
        micros += full;
        mixtures += u32::from(full > 0 && full < 7);
    }
    assert!(macros.abs_diff(10_000) < 600, "{macros}");
    assert!(micros.abs_diff(70_000) < 1_200, "{micros}");
    assert!(mixtures > 15_000, "{mixtures}");
    let first = supernet_path(&space, PathStrategy::SinglePath, 0, warmup, 4);
    assert!(is_full_macro(&first) && first.blocks.iter().all(is_full_micro));
    let after = supernet_path(&space, PathStrategy::SinglePath, warmup, warmup, 4);
    assert!(after.blocks.iter().all(|b| b.dense_sources.len() == 1 && b.dense_ops.len() == 1));
}

#[test]
fn path_strategies_differ_where_they_should() {
    let space = published(Operators::Full);
    let any = |strategy, test: fn(&Block) -> bool| {
        (0..200).any(|step| supernet_path(&space, strategy, step, 0, 1).blocks.iter().any(test))
    };
    let several_sources = |b: &Block| b.dense_sources.len() > 1;
    let several_ops = |b: &Block| b.dense_ops.len() > 1;
    assert!(!any(PathStrategy::SinglePath, several_sources));
    assert!(!any(PathStrategy::SinglePath, several_ops));
    assert!(any(PathStrategy::AnyPath, several_sources));
    assert!(any(PathStrategy::AnyPath, several_ops));
    assert!(any(PathStrategy::SingleOperatorAnyConnection, several_sources));
    assert!(!any(PathStrategy::SingleOperatorAnyConnection, several_ops));
    let full = supernet_path(&space, PathStrategy::FullPath, 123, 0, 1);
    assert!(full.blocks.iter().enumerate().all(|(i, b)| b.sparse_sources == Set::first(i + 1)
        && b.dense_to_sparse
        && b.sparse_width == 64));
}

#[test]
fn bad_files_name_the_field() {
    let space = small(Operators::Full, 2);
    let path = space.random_path(&mut stream(1, "test/bad", 0));
    let good =
        ArchitectureFile::new(path, &NasRecConfig::published(Operators::Full)).to_json().unwrap();
    type Edit = fn(&mut serde_json::Value);
    let cases: [(Edit, &str); 14] = [
        (|v| v["config"] = "large".into(), "field `config` is \"large\"; needed: \"xlarge\""),
        (
            |v| v["num_blocks"] = 3.into(),
            "field `micro` is a list of 2; needed: one entry for each",
        ),
        (
            |v| v["num_blocks"] = 0.into(),
            "field `num_blocks` is 0; needed: an integer from 1 to 31",
        ),
        (|v| v["use_layernorm"] = 2.into(), "field `use_layernorm` is 2; needed: 0 or 1"),
        (|v| v["extra"] = 2.into(), "unknown field `extra`; known here: micro, macro"),
        (|v| v["test_loss"] = "x".into(), "field `test_loss` is \"x\"; needed: a number"),
        (|v| v["micro"][1]["deep_fm"] = (-1).into(), "field `micro[1].deep_fm` is -1"),
        (|v| v["micro"][1]["dense_in_dims"] = 100.into(), "field `micro[1].dense_in_dims` is 100"),
        (
            |v| v["micro"][0]["active_nodes"] = serde_json::json!([0, 1]),
            "field `micro[0].active_nodes` is [0,1]; needed: one dense node (0 to 3) and one sparse node (4 to 5)",
        ),
        (|v| v["micro"][0] = 7.into(), "field `micro[0]` is 7; needed: an object"),
        (
            |v| v["macro"][1]["dense_idx"] = serde_json::json!([2]),
            "field `macro[1].dense_idx` is [2]; needed: a list of one or more sources from 0 (raw inputs) to 1",
        ),
        (
            |v| v["macro"][1]["sparse_idx"] = serde_json::json!([]),
            "field `macro[1].sparse_idx` is []",
        ),
        (
            |v| v["macro"][1]["dense_left_idx"] = serde_json::json!([0, 1]),
            "field `macro[1].dense_left_idx` is [0,1]; needed: a list of one source",
        ),
        (
            |v| {
                v["macro"][1].as_object_mut().unwrap().remove("dense_right_idx");
            },
            "field `macro[1].dense_right_idx` is missing",
        ),
    ];
    assert!(ArchitectureFile::parse(&good.to_string()).is_ok());
    for (edit, want) in cases {
        let mut document = good.clone();
        edit(&mut document);
        let got = ArchitectureFile::parse(&document.to_string()).unwrap_err().to_string();
        assert!(got.starts_with(want), "{got}\nagainst\n{want}");
    }
    let got = ArchitectureFile::parse("[]").unwrap_err().to_string();
    assert_eq!(got, "not an architecture document: it is []; needed: a JSON object");
}

#[test]
fn a_path_outside_the_space_is_named() {
    let space = published(Operators::Small);
    let full = published(Operators::Full);
    let mut path = space.random_path(&mut stream(1, "test/outside", 0));
    path.blocks[2].dense_ops = Set::only(DenseOp::Sum as usize);
    let got = space.genotype(&path).unwrap_err().to_string();
    assert_eq!(got, "gene `block.3.dense_operator` is sum; accepted: one of fc, dot-product");
    assert!(full.genotype(&path).is_ok());
}
