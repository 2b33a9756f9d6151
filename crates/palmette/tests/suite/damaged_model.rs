//! Model descriptions with random damage are refused or build a model, never a panic.

use palmette::run::{Contender, ModelDescription, ModelFolder};
use palmette_ctr::baselines::Baseline;
use palmette_ctr::nasrec::{NasRecSpace, Operators};
use palmette_ctr::{List, ListTable, ModelInputs};
use palmette_data::DenseTransform;
use palmette_random::stream;
use proptest::prelude::*;
use serde_json::{Value, json};

fn description(seed: u64) -> Value {
    let space = NasRecSpace::published(Operators::Full);
    let contender = match seed {
        0..9 => Contender::Baseline(Baseline::named(Baseline::KINDS[seed as usize]).unwrap()),
        _ => Contender::Network(space.random_path(&mut stream(seed, "test/damage", 0))),
    };
    let list = |name: &str, table| List { name: name.into(), table };
    let lists = vec![list("seen", ListTable::Shared(1)), list("tags", ListTable::Own(4))];
    let description = ModelDescription {
        contender,
        inputs: ModelInputs { lists, ..ModelInputs::numbered(2, &[5, 6, 7]) },
        layer_norm: false,
        transforms: vec![DenseTransform::Log; 2],
        dataset: "log".into(),
        logit_shift: 0.0,
    };
    serde_json::to_value(description).unwrap()
}

/// Places of a document, deepest last.
fn places(value: &Value, at: String, all: &mut Vec<String>) {
    match value {
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, v)| places(v, format!("{at}/{i}"), all));
        }
        Value::Object(map) => map.iter().for_each(|(k, v)| places(v, format!("{at}/{k}"), all)),
        _ => {}
    }
    all.push(at);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_damaged_description(
        seed in 0u64..15,
        at in any::<u16>(),
        new in prop_oneof![
            Just(json!(null)), Just(json!("x")), Just(json!([])), Just(json!(true)),
            Just(json!(-1)), Just(json!(0)), Just(json!(1)), Just(json!(3)), Just(json!(65)),
            Just(json!(4096)), Just(json!(100_000)), Just(json!(u32::MAX)), Just(json!(u64::MAX)),
            Just(json!(1e300)), Just(json!([0])), Just(json!([1, 2, 3, 4, 5, 6, 7, 8, 9])),
        ],
    ) {
        let mut document = description(seed);
        let mut all = Vec::new();
        places(&document, String::new(), &mut all);
        *document.pointer_mut(&all[at as usize % all.len()]).unwrap() = new;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("model.json"), document.to_string()).unwrap();
        if let Ok(folder) = ModelFolder::open(dir.path()) {
            let ModelDescription { contender, inputs, layer_norm, .. } = folder.description;
            let _ = contender.compile(&inputs, layer_norm);
        }
    }
}

#[test]
fn what_is_wrong_with_a_description_is_said() {
    let check = |place: &str, value: Value, expect: &str| {
        let mut document = description(9);
        *document.pointer_mut(place).unwrap() = value;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("model.json"), document.to_string()).unwrap();
        let error = format!("{:#}", ModelFolder::open(dir.path()).unwrap_err());
        assert!(error.contains("model.json") && error.contains(expect), "{error}");
    };
    let block = "/contender/network/blocks/2";
    check(
        &format!("{block}/left"),
        json!(8),
        "block 3: left is the set 0b1000; needed: at least one",
    );
    check(&format!("{block}/dense_ops"), json!(0), "block 3: dense_ops is the set 0b0");
    check(&format!("{block}/sparse_width"), json!(0), "block 3: a width is 0");
    check("/contender/network/blocks", json!([]), "0 blocks; needed: 1 to 31");
    check("/transforms", json!([]), "0 transforms for 2 dense inputs");
    check("/inputs/fields/1/rows", json!(0), "the table of C2 has 0 rows; needed:");
    check("/logit_shift", json!("x"), "invalid type");
}
