//! Architecture and golden documents with random damage are read or refused, never a panic.

use palmette_ctr::nasrec::*;
use palmette_random::stream;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Replacements that a careless or hostile editor might write.
fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!("x")),
        Just(json!([])),
        Just(json!({})),
        Just(json!(true)),
        any::<i64>().prop_map(Value::from),
        (0u64..70).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        proptest::collection::vec(0u64..9, 0..4).prop_map(Value::from),
    ]
}

/// Replaces, removes or repeats what stands at the `at`-th place of a document.
fn damage(value: &mut Value, at: &mut usize, how: u8, new: &Value) -> bool {
    if *at == 0 {
        *value = new.clone();
        return true;
    }
    *at -= 1;
    match value {
        Value::Array(list) => {
            if *at == 0 && how == 1 {
                list.pop();
                return true;
            }
            if *at == 0 && how == 2 {
                let copies = list.clone();
                list.extend(copies);
                return true;
            }
            list.iter_mut().any(|item| damage(item, at, how, new))
        }
        Value::Object(map) => {
            if *at == 0 && how == 1 {
                let first = map.keys().next().cloned();
                first.map(|key| map.remove(&key));
                return true;
            }
            map.values_mut().any(|item| damage(item, at, how, new))
        }
        _ => false,
    }
}

fn architecture(seed: u64) -> Value {
    let space = NasRecSpace::published(Operators::Full);
    let path = space.random_path(&mut stream(seed, "test/damage", 0));
    ArchitectureFile::new(path, space.config()).to_json().unwrap()
}

/// A golden file whose parameters are missing: enough for everything before the comparison.
fn golden() -> Value {
    json!({
        "architecture": "a", "batch": 2, "table_rows": 5, "dense_inputs": 3,
        "categorical_inputs": 2, "logits": [0.1, 0.2], "loss": 0.7,
        "parameters": [
            { "k": 0, "name": "_embedding.0.weight", "shape": [5, 16], "kind": "embedding",
              "grad": { "sum": 0.0, "l2": 1.0, "dot_cos": 0.1 } },
        ],
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_damaged_architecture_is_refused_or_is_a_network(
        seed in 0u64..20, at in 0usize..160, how in 0u8..3, new in odd_value()
    ) {
        let mut document = architecture(seed);
        damage(&mut document, &mut { at }, how, &new);
        if let Ok(file) = ArchitectureFile::parse(&document.to_string()) {
            let shape = Shape { dense: 3, fields: 2 };
            prop_assert!(macs(&file.path, shape) <= macs_with_dead_code(&file.path, shape));
            prop_assert_eq!(canonical(&canonical(&file.path)), canonical(&file.path));
            let network = Network::standalone(&file.path, shape, false);
            network.build(&file.path, &mut palmette_engine::Program::new());
            let again = ArchitectureFile::parse(&file.to_json().unwrap().to_string()).unwrap();
            prop_assert_eq!(again, file);
        }
    }

    #[test]
    fn text_that_is_no_document_is_refused(cut in 0usize..4000, byte in any::<u8>()) {
        let mut text = architecture(1).to_string().into_bytes();
        let at = cut % text.len();
        text[at] = byte;
        if let Ok(text) = String::from_utf8(text.clone()) {
            let _ = ArchitectureFile::parse(&text);
        }
        text.truncate(at);
        let cut = String::from_utf8_lossy(&text).into_owned();
        prop_assert!(ArchitectureFile::parse(&cut).is_err());
    }

    #[test]
    fn a_damaged_golden_file_is_refused(
        seed in 0u64..20, at in 0usize..40, how in 0u8..3, new in odd_value()
    ) {
        let mut document = golden();
        damage(&mut document, &mut { at }, how, &new);
        if let Ok(golden) = serde_json::from_value::<GoldenFile>(document) {
            let file = ArchitectureFile::parse(&architecture(seed).to_string()).unwrap();
            // Parameters are missing, so that nothing can agree.
            prop_assert!(check_golden::<f32>(&golden, &file, 1e-4).is_err());
        }
    }
}

#[test]
fn golden_files_out_of_range_name_the_field() {
    let file = ArchitectureFile::parse(&architecture(1).to_string()).unwrap();
    for (field, value, expect) in [
        ("table_rows", 0u64, "table_rows is 0; needed: 1 to 1048576"),
        ("batch", 0, "batch is 0; needed: 1 to 65536"),
        ("batch", 1 << 40, "batch is 1099511627776"),
        ("dense_inputs", 1 << 50, "dense_inputs is 1125899906842624; needed: 1 to 65536"),
        ("categorical_inputs", 0, "categorical_inputs is 0; needed: 1 to 4096"),
    ] {
        let mut document = golden();
        document[field] = value.into();
        let golden: GoldenFile = serde_json::from_value(document).unwrap();
        let error = check_golden::<f64>(&golden, &file, 1e-9).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    }
}
