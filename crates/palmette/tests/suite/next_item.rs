//! The walk of examples/next_item on real histories: log, dataset, training, probabilities.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::python::interpreter;
use crate::support::{Place, succeed};

fn probabilities(csv: &str) -> Vec<f64> {
    csv.lines().skip(1).map(|line| line.rsplit(',').next().unwrap().parse().unwrap()).collect()
}

/// Every pooling of histories learns more than fields alone do, and onnxruntime gives its
/// probabilities, and those of a model that reads no lists, from raw rows. There are no dense
/// fields, so the graphs have no such input.
#[test]
fn next_items_are_learnt_exported_and_served() {
    let test = "next_items_are_learnt_exported_and_served";
    let Some(python) = interpreter(test) else { return };
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shared =
        std::env::var_os("PALMETTE_SHARED").map_or(workspace.join("../shared"), PathBuf::from);
    let data = shared.join("data/ctr");
    if !data.join("s3rec_sequences.parquet").exists() {
        eprintln!("skipped: {test} needs s3rec_sequences.parquet in {}", data.display());
        return;
    }
    let place = Place::new();
    let run = |script: &str, arguments: &[&str]| {
        let mut command = Command::new(&python);
        let output = command.arg(workspace.join(script)).args(arguments).output().unwrap();
        succeed(&output);
        output.stdout
    };
    let path = |name: &str| place.path(name).to_str().unwrap().to_owned();
    let log = path("next.parquet");
    let users = ["--users", "1500"];
    run("examples/next_item/make_log.py", &[&[data.to_str().unwrap(), &log], &users[..]].concat());
    let schema = workspace.join("examples/schemas/s3rec_next_item.toml");
    let prepare = ["prepare", "--schema", schema.to_str().unwrap(), "next.parquet", "-o", "next"];
    let prepared = place.json(&prepare);
    assert_eq!(prepared["lists"][0]["name"], "history", "{prepared}");
    let loss = |baseline: &str| {
        let trained = place.json(&["train", "next", "--baseline", baseline, "-o", baseline]);
        trained["validation_log_loss"].as_f64().unwrap()
    };
    let alone = loss("mlp-small");
    for baseline in ["mlp-small", "history-mean", "history", "history-self-attention"] {
        if baseline != "mlp-small" {
            let found = loss(baseline);
            println!("{baseline}: log loss {found:.4}, fields alone {alone:.4}");
            assert!(found < alone, "{baseline}: {found} is not below {alone}");
        }
        succeed(&place.palmette(&["predict", baseline, "next.parquet", "-o", "predicted.csv"]));
        let expected = probabilities(&place.read("predicted.csv"));
        let served = run(
            "crates/palmette/tests/suite/python/predict.py",
            &[path(baseline).as_str(), log.as_str()],
        );
        let served: Vec<f64> = serde_json::from_slice(&served).unwrap();
        assert_eq!(served.len(), expected.len());
        let gaps = served.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        let worst = gaps.fold(0.0, f64::max);
        assert!(worst <= 1e-5, "{baseline}: {worst}");
    }
}
