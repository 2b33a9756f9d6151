//! Number types of products and tables, their state, and tables in files.

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use palmette_ctr::train::Numbers;
use palmette_random::{Draw, stream};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::kill::kill_after;
use crate::support::{Place, exists, search, stderr, succeed};

const SMALL: [&str; 6] =
    ["--precision", "bf16", "--table-storage", "bf16", "--table-state", "row-wise"];

/// The weights of all embedding tables of a trained folder, as bits.
fn table_bits(folder: &Path) -> Vec<u32> {
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tables = file.tensors().into_iter().filter(|(name, _)| name.contains("embedding."));
    let words = tables.flat_map(|(_, view)| {
        let words = view.data().as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
        words.collect::<Vec<u32>>()
    });
    words.collect()
}

fn train(place: &Place, output: &str, more: &[&str]) -> std::process::Output {
    let fixed = ["train", "dataset", "--baseline", "dlrm", "-o", output, "--seed", "5"];
    place.palmette(&[&fixed, more].concat())
}

/// Everything that reads a trained model reads one with 16-bit tables, whose weights are exported
/// as the 32-bit numbers that they are.
#[test]
fn sixteen_bit_tables_leave_the_tool() {
    let place = Place::prepared();
    for (storage, lost) in [("f16", 13), ("bf16", 16)] {
        let more = ["--table-storage", storage, "--table-state", "row-wise", "--precision", "bf16"];
        succeed(&train(&place, storage, &more));
        let bits = table_bits(&place.path(storage));
        assert!(bits.len() > 1000 && bits.iter().any(|&b| b != 0));
        let mask = (1u32 << lost) - 1;
        assert!(bits.iter().all(|b| b & mask == 0), "{storage}: weights of 16 bits");

        let record: Value =
            serde_json::from_str(&place.read(&format!("{storage}/training.json"))).unwrap();
        assert_eq!(record["request"]["numbers"]["table_storage"], storage);
        assert_eq!(record["request"]["numbers"]["table_state"], "row-wise");
        // The record's figure is that of the exported weights.
        let eval = place.json(&["eval", storage, "--dataset", "dataset", "--split", "validation"]);
        let (found, recorded) = (&eval["log_loss"], &record["validation_log_loss"]);
        assert_eq!(found.as_f64().unwrap(), recorded.as_f64().unwrap(), "{storage}");
        succeed(&place.palmette(&["predict", storage, "log.csv", "-o", "predictions.csv"]));
        // Foreign folders stay; what is another model's in an earlier export does not.
        let serving = place.path(&format!("{storage}-serving"));
        std::fs::create_dir_all(serving.join("notes")).unwrap();
        for old in ["model.json", "arch.json", "arch.svg"] {
            std::fs::write(serving.join(old), "of another model").unwrap();
        }
        succeed(&place.palmette(&["export", storage, "-o", &format!("{storage}-serving")]));
        assert!(serving.join("notes").is_dir());
        assert!(!serving.join("arch.json").exists() && !serving.join("arch.svg").exists());
        assert_eq!(
            place.sha256(&format!("{storage}-serving/model.safetensors")),
            place.sha256(&format!("{storage}/model.safetensors"))
        );
        // A warm start keeps the numbers of the earlier model, and what it knows.
        let next = format!("{storage}-next");
        succeed(&place.palmette(&["train", "dataset", "--from", storage, "-o", &next]));
        assert!(table_bits(&place.path(&next)).iter().all(|b| b & mask == 0), "{storage}");
    }
    succeed(&train(&place, "f32", &[]));
    assert!(table_bits(&place.path("f32")).iter().any(|b| b & 0x1fff != 0));
    // A folder answers one request: other numbers are another one.
    let other = train(&place, "f32", &["--table-storage", "f16"]);
    assert_eq!(other.status.code(), Some(2));
    assert!(stderr(&other).contains("other data, settings"), "{}", stderr(&other));
}

#[test]
fn tables_in_files_give_the_same_bits() {
    let place = Place::prepared();
    succeed(&train(&place, "memory", &["--table-storage", "f16"]));
    std::fs::create_dir(place.path("tables")).unwrap();
    succeed(&train(&place, "files", &["--table-storage", "f16", "--table-files", "tables"]));
    for file in ["model.safetensors", "model.onnx", "training.json"] {
        assert_eq!(
            place.sha256(&format!("memory/{file}")),
            place.sha256(&format!("files/{file}")),
            "{file}"
        );
    }
    let nowhere = train(&place, "nowhere", &["--table-files", "no/such/folder"]);
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(stderr(&nowhere).contains("no/such/folder"), "{}", stderr(&nowhere));
}

#[test]
fn number_types_are_recorded_and_unknown_ones_named() {
    let place = Place::prepared();
    succeed(&search(&place, "small", &SMALL));
    let environment: Value = serde_json::from_str(&place.read("runs/small/env.json")).unwrap();
    let numbers: Numbers = serde_json::from_str(
        r#"{"precision": "bf16", "table_storage": "bf16", "table_state": "row-wise"}"#,
    )
    .unwrap();
    assert_eq!(environment["number_type"], numbers.here().0.describe());
    assert!(place.read("runs/small/config.toml").contains("table_state = \"row-wise\""));
    // Two bytes a weight and one accumulator a row.
    let cost: Value = serde_json::from_str(&place.read("runs/small/best/cost.json")).unwrap();
    let count = |key: &str| cost[key].as_u64().unwrap();
    assert_eq!(count("memory"), 8 * count("params") + count("embedding_params") / 16 * 36);

    for (set, expect) in [
        ("numbers.precision=f16", "f32"),
        ("numbers.table_storage=f8", "bf16"),
        ("numbers.tables=f16", "table_storage"),
    ] {
        let output = search(&place, "wrong", &["--set", set]);
        assert_eq!(output.status.code(), Some(2), "{set}");
        assert!(stderr(&output).contains(expect), "{set}: {}", stderr(&output));
        assert!(!exists(&place.path("runs/wrong/config.toml")));
    }
}

/// A processor without bf16 products says so; one that has them does not.
#[test]
fn the_fallback_to_f32_is_said() {
    let place = Place::prepared();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_palmette"))
        .current_dir(place.path(""))
        .args(["train", "dataset", "--baseline", "lr", "-o", "lr", "--precision", "bf16"])
        .output()
        .unwrap();
    succeed(&output);
    let asked: Numbers = serde_json::from_str(r#"{"precision": "bf16"}"#).unwrap();
    assert_eq!(stderr(&output).contains("no bf16 products"), asked.here().1);
}

/// Killed at random moments and resumed, a search with 16-bit tables, row-wise state and bf16
/// products ends with the same journal and the same files.
#[test]
fn a_killed_search_with_small_tables_gives_the_same_bits() {
    let place = Place::prepared();
    let start = Instant::now();
    succeed(&search(&place, "whole", &SMALL));
    let whole = start.elapsed();
    let (mut kills, mut life) = (0, 0);
    loop {
        let run = place.path("runs/chain");
        let mut arguments = vec!["search"];
        let folder = run.to_string_lossy().into_owned();
        if run.join("config.toml").exists() {
            arguments.extend(["--resume", &folder]);
        } else {
            arguments.extend(["dataset", "--config", "search.toml", "--name", "chain"]);
            arguments.extend(SMALL);
        }
        if kills == 12 {
            succeed(&place.palmette(&arguments));
            break;
        }
        let child = place.command(&arguments).stdout(Stdio::null()).spawn().unwrap();
        life += 1;
        let moment = whole.mul_f64(0.4 * stream(7, "test/small-tables", life).unit());
        if !kill_after(child, moment) {
            break;
        }
        kills += 1;
    }
    assert!(kills >= 2, "{kills} kills test nothing");
    assert_eq!(place.journal("runs/chain"), place.journal("runs/whole"));
    for file in ["best/arch.json", "best/model.safetensors", "best/model.onnx"] {
        let (a, b) = (format!("runs/chain/{file}"), format!("runs/whole/{file}"));
        assert_eq!(place.sha256(&a), place.sha256(&b), "{file}");
    }
}
