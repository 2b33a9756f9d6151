//! Properties of spaces, on random spaces and by brute force.

use std::collections::HashSet;

use palmette_random::{Draw, stream};
use proptest::prelude::*;

use crate::{ChoiceId, Domain, Genotype, MutationTree, Space, SpaceError, Subspace, key_of};

/// A small random space with conditions, from a seed.
fn random_space(seed: u64) -> Space {
    let mut rng = stream(seed, "test/space", 0);
    let mut builder = Space::builder("random");
    let names = ["a", "b", "c", "d"];
    let mut ids = Vec::new();
    for i in 0..2 + rng.below(3) as usize {
        let name = format!("choice{i}");
        let options = 1 + rng.below(4) as usize;
        let kind = rng.below(3);
        let id = match kind {
            0 => builder.one_of(&name, &names[..options]),
            1 => {
                let min = rng.below(options as u64 + 1) as usize;
                let max = min + rng.below((options - min) as u64 + 1) as usize;
                builder.subset(&name, &names[..options], min, max)
            }
            _ => builder.integer(&name, -1, rng.below(3) as i64),
        };
        if i > 0 && rng.chance(0.5) {
            let (on, value): (ChoiceId, &str) = ids[rng.below(ids.len() as u64) as usize];
            builder.only_if(id, on, &[value]);
        }
        ids.push((id, if kind == 2 { "-1" } else { "a" }));
    }
    builder.finish().unwrap()
}

/// Every genotype, by counting through all genes and keeping those that the space accepts.
fn brute_force(space: &Space) -> HashSet<Genotype> {
    let limits: Vec<u32> = space.choices().iter().map(|c| 1 << c.kind.width()).collect();
    let mut found = HashSet::new();
    let mut genes = vec![0u32; limits.len()];
    'outer: loop {
        let genotype = Genotype::new(genes.clone());
        if space.check(&genotype).is_ok() {
            found.insert(genotype);
        }
        for (gene, limit) in genes.iter_mut().zip(&limits) {
            *gene += 1;
            if *gene < *limit {
                continue 'outer;
            }
            *gene = 0;
        }
        return found;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn cardinality_is_the_number_of_accepted_genotypes(seed in any::<u64>()) {
        let space = random_space(seed);
        let all = brute_force(&space);
        prop_assert_eq!(space.cardinality().exact(), Some(all.len() as u128));
        let listed = space.enumerate(1 << 20).unwrap();
        prop_assert_eq!(listed.len(), all.len());
        prop_assert_eq!(listed.into_iter().collect::<HashSet<_>>(), all.clone());
        let log10 = space.cardinality().log10();
        prop_assert!((log10 - (all.len() as f64).log10()).abs() < 1e-9);
    }

    #[test]
    fn everything_made_is_accepted(seed in any::<u64>()) {
        let space = random_space(seed);
        let mut rng = stream(seed, "test/walk", 0);
        let mut genotype = space.sample(&mut rng);
        for _ in 0..20 {
            prop_assert!(space.check(&genotype).is_ok());
            let text = space.to_json(&genotype).to_string();
            prop_assert_eq!(&space.from_json(&text).unwrap(), &genotype);
            prop_assert_eq!(space.one_hot(&genotype).len(), space.one_hot_len());
            for neighbour in space.neighbours(&genotype) {
                prop_assert!(space.check(&neighbour).is_ok());
                prop_assert_eq!(space.hamming(&genotype, &neighbour), 1);
                prop_assert!(space.distance(&genotype, &neighbour) > 0.0);
                prop_assert!(Domain::key(&space, &genotype) != Domain::key(&space, &neighbour));
            }
            genotype = space.mutate(&genotype, &mut rng);
        }
    }

    #[test]
    fn a_space_survives_json(seed in any::<u64>()) {
        let space = random_space(seed);
        let text = serde_json::to_string(&space).unwrap();
        prop_assert_eq!(serde_json::from_str::<Space>(&text).unwrap(), space);
    }
}

#[test]
fn sampling_reaches_everything() {
    for seed in 0..20 {
        let space = random_space(seed);
        let all = brute_force(&space);
        let mut rng = stream(seed, "test/coverage", 0);
        let drawn: HashSet<Genotype> =
            (0..200 * all.len()).map(|_| space.sample(&mut rng)).collect();
        assert_eq!(drawn, all);
    }
}

#[test]
fn steps_connect_an_unconditional_space() {
    let mut builder = Space::builder("steps");
    builder.one_of("operator", &["a", "b", "c"]);
    builder.subset("sources", &["0", "1", "2", "3"], 1, 2);
    builder.integer("depth", 2, 5);
    let space = builder.finish().unwrap();
    let mut found = HashSet::from([space.sample(&mut stream(1, "test/steps", 0))]);
    let mut edge: Vec<Genotype> = found.iter().cloned().collect();
    while let Some(genotype) = edge.pop() {
        edge.extend(space.neighbours(&genotype).into_iter().filter(|n| found.insert(n.clone())));
    }
    assert_eq!(found.len() as u128, space.cardinality().exact().unwrap());
}

#[test]
fn a_subset_size_is_uniform_then_its_members() {
    let mut builder = Space::builder("subset");
    builder.subset("sources", &["0", "1", "2", "3", "4"], 1, 4);
    let space = builder.finish().unwrap();
    let mut rng = stream(3, "test/subset", 0);
    let mut counts = [0u32; 32];
    for _ in 0..160_000 {
        counts[space.sample(&mut rng).genes()[0] as usize] += 1;
    }
    for (mask, &count) in counts.iter().enumerate().skip(1) {
        let size = mask.count_ones();
        // 40,000 per size, shared by 5, 10, 10 and 5 subsets; six standard deviations of a count.
        let expected = [0.0, 8_000.0, 4_000.0, 4_000.0, 8_000.0, 0.0][size as usize];
        let tolerance = 6.0 * f64::sqrt(expected);
        assert!((f64::from(count) - expected).abs() <= tolerance, "{mask:b}: {count}");
    }
}

#[test]
fn mutation_follows_the_tree() {
    let mut builder = Space::builder("tree");
    let pair = [builder.integer("a", 0, 999), builder.integer("b", 0, 999)];
    let lone = builder.integer("c", 0, 999);
    builder.mutation(MutationTree::Any(vec![
        MutationTree::Key(pair.to_vec()),
        MutationTree::key(lone),
    ]));
    let space = builder.finish().unwrap();
    let parent = Genotype::new([1, 2, 3]);
    let mut rng = stream(5, "test/tree", 0);
    let mut changed = [0u32; 4];
    for _ in 0..10_000 {
        let child = space.mutate(&parent, &mut rng);
        let differs: Vec<bool> =
            parent.genes().iter().zip(child.genes()).map(|(a, b)| a != b).collect();
        match differs[..] {
            [true, true, false] => changed[0] += 1,
            [false, false, true] => changed[1] += 1,
            [false, false, false] => changed[2] += 1,
            _ => changed[3] += 1,
        }
    }
    // Half and half; one draw in a thousand repeats a value.
    assert!((4_700..5_300).contains(&changed[0]), "{changed:?}");
    assert!((4_700..5_300).contains(&changed[1]), "{changed:?}");
    assert!(changed[2] < 40 && changed[3] < 40, "{changed:?}");
}

#[track_caller]
fn check_error(result: Result<Space, SpaceError>, want: &str) {
    assert_eq!(result.unwrap_err().to_string(), want);
}

#[test]
fn mistakes_are_named() {
    let mut builder = Space::builder("x");
    builder.one_of::<&str>("empty", &[]);
    check_error(builder.finish(), "choice `empty`: it offers no options; give at least one");
    let mut builder = Space::builder("x");
    builder.subset("few", &["a"], 1, 2);
    check_error(
        builder.finish(),
        "choice `few`: sizes 1..=2 of 1 items; needed: min <= max <= items",
    );
    let mut builder = Space::builder("x");
    builder.flag("f");
    builder.flag("f");
    check_error(builder.finish(), "choice `f` is defined twice; names must be unique");
    let mut builder = Space::builder("x");
    let (f, g) = (builder.flag("f"), builder.flag("g"));
    builder.only_if(g, f, &["maybe"]);
    check_error(
        builder.finish(),
        "condition of `g`: `f` has no value `maybe`; it accepts one of no, yes",
    );
    let mut builder = Space::builder("x");
    let f = builder.flag("f");
    builder.flag("g");
    builder.mutation(MutationTree::key(f));
    check_error(builder.finish(), "mutation tree of space `x`: choice number 1 can never change");
}

#[test]
fn bad_genotypes_are_named() {
    let mut builder = Space::builder("x");
    let f = builder.flag("merge");
    let w = builder.integer("width", 2, 4);
    builder.only_if(w, f, &["yes"]);
    let space = builder.finish().unwrap();
    for (text, want) in [
        (
            "[]",
            "not a genotype document: invalid type: sequence, expected a map at line 1 column 0",
        ),
        (r#"{"merge":"yes","wdith":3}"#, "unknown gene `wdith`; the nearest name is `width`"),
        (r#"{"merge":"yes"}"#, "gene `width` is missing"),
        (r#"{"merge":"yes","width":5}"#, "gene `width` is 5; accepted: an integer from 2 to 4"),
        (r#"{"merge":"maybe"}"#, "gene `merge` is \"maybe\"; accepted: one of no, yes"),
        (
            r#"{"merge":"no","width":3}"#,
            "gene `width` is 3; accepted: nothing, because its condition does not hold",
        ),
    ] {
        assert_eq!(space.from_json(text).unwrap_err().to_string(), want);
    }
}

#[test]
fn a_part_keeps_to_its_members() {
    let mut builder = Space::builder("line");
    builder.integer("x", 0, 19);
    let space = builder.finish().unwrap();
    let members = [1, 2, 3, 7, 8, 15, 3].map(|x| Genotype::new([x])).to_vec();
    let part = Subspace::new(space.clone(), members).unwrap();
    assert_eq!((part.members().len(), part.pockets()), (6, 3));
    let mut rng = stream(1, "test/part", 0);
    for _ in 0..200 {
        let member = part.sample(&mut rng);
        assert!(part.contains(&part.mutate(&member, &mut rng)));
        assert!(part.neighbours(&member).iter().all(|n| part.contains(n)));
    }
    let text = serde_json::to_string(&part).unwrap();
    let again: Subspace = serde_json::from_str(&text).unwrap();
    assert_eq!(again.members(), part.members());
    assert!(Subspace::new(space, vec![]).is_err());
}

#[test]
fn keys_hash_all_genes_at_once() {
    let genes: Vec<u32> = (0..200).map(|i: u32| i.wrapping_mul(0x9e37_79b9)).collect();
    for count in 0..=genes.len() {
        let bytes: Vec<u8> = genes[..count].iter().flat_map(|gene| gene.to_le_bytes()).collect();
        assert_eq!(key_of(&genes[..count]), xxhash_rust::xxh3::xxh3_128(&bytes), "{count} genes");
    }
}
