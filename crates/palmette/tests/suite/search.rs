//! From a click log to a searched, trained and exported model, through the real binary.

use std::process::Command;

use palmette_ctr::nasrec::ArchitectureFile;
use palmette_data::{Dataset, Split};
use serde_json::Value;

use crate::python::interpreter;
use crate::support::{Place, exists, log, search, stderr, succeed};

/// Probabilities of a predictions file.
fn probabilities(text: &str) -> Vec<f64> {
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("row,probability"));
    let parse = |(i, line): (usize, &str)| {
        let (row, probability) = line.split_once(',').unwrap();
        assert_eq!(row, (i + 1).to_string());
        probability.parse().unwrap()
    };
    lines.enumerate().map(parse).collect()
}

/// As `prepare` and `train` do, `search -o` writes into the folder that is named.
#[test]
fn a_search_goes_where_it_is_told() {
    let place = Place::prepared();
    let base = ["search", "dataset", "--config", "search.toml", "-o", "deep/down"];
    for other in [["--name", "one"], ["--runs", "elsewhere"]] {
        let output = place.palmette(&[&base[..], &other].concat());
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains("cannot be used with"), "{}", stderr(&output));
    }
    succeed(&place.palmette(&base));
    assert!(exists(&place.path("deep/down/report.html")));
    assert!(!exists(&place.path("runs")), "nothing but the folder");
    let output = place.palmette(&base);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("deep/down exists already"), "{}", stderr(&output));
    succeed(&place.palmette(&["search", "--resume", "deep/down"]));
}

/// A run's files among those of a dataset would be neither.
#[test]
fn a_search_does_not_begin_in_a_folder_of_something_else() {
    let place = Place::prepared();
    let output = place.palmette(&["search", "dataset", "--config", "search.toml", "-o", "dataset"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("dataset holds manifest.json"), "{}", stderr(&output));
    assert!(!place.path("dataset/config.toml").exists());
}

#[test]
fn from_a_log_to_a_model_that_leaves_the_tool() {
    let place = Place::prepared();
    succeed(&search(&place, "one", &["--threads", "1"]));
    for file in [
        "config.toml",
        "env.json",
        "journal.jsonl",
        "summary.json",
        "report.html",
        "best/arch.json",
        "best/arch.svg",
        "best/model.onnx",
        "best/model.safetensors",
        "best/model.json",
        "best/encoders.json",
        "best/cost.json",
    ] {
        assert!(exists(&place.path("runs/one").join(file)), "{file}");
    }

    // The same bits with any number of threads.
    for threads in ["2", "3"] {
        succeed(&search(&place, threads, &["--threads", threads]));
        let run = format!("runs/{threads}");
        assert_eq!(place.journal(&run), place.journal("runs/one"), "{threads} threads");
        for file in ["best/arch.json", "best/model.safetensors", "best/model.onnx"] {
            let (a, b) = (format!("{run}/{file}"), format!("runs/one/{file}"));
            assert_eq!(place.sha256(&a), place.sha256(&b), "{file}, {threads} threads");
        }
    }

    // The architecture can be read again, shown, drawn and trained.
    let architecture = place.read("runs/one/best/arch.json");
    let parsed = ArchitectureFile::parse(&architecture).unwrap();
    let again: Value = serde_json::from_str(&architecture).unwrap();
    assert_eq!(parsed.to_json().unwrap(), again);
    let shown = place.json(&["show", "runs/one", "--svg", "drawing.svg"]);
    let cost: Value = serde_json::from_str(&place.read("runs/one/best/cost.json")).unwrap();
    assert_eq!(shown["macs"], cost["macs"]);
    assert!(place.read("drawing.svg").starts_with("<svg"));
    let trained = place.json(&[
        "train",
        "dataset",
        "--arch",
        "runs/one",
        "--config",
        "search.toml",
        "-o",
        "model",
    ]);
    assert_eq!(trained["macs"], cost["macs"]);
    assert_eq!(trained["weights"], place.sha256("model/model.safetensors").as_str());

    // What was measured while training is what `eval` measures.
    let evaluated = place.json(&["eval", "model", "--dataset", "dataset", "--split", "validation"]);
    let dataset = Dataset::open(&place.path("dataset")).unwrap();
    assert_eq!(evaluated["rows"], dataset.rows(Split::Validation));
    assert_eq!(evaluated["log_loss"], trained["validation_log_loss"]);
    assert_eq!(evaluated["auc"], trained["validation_auc"]);
    let grouped = place.json(&[
        "eval",
        "model",
        "--dataset",
        "dataset",
        "--split",
        "validation",
        "--group",
        "user",
    ]);
    assert!(grouped["grouped_auc"]["groups"].as_u64().unwrap() > 10, "{grouped}");

    // A run reads its own test part once.
    let before = place.journal("runs/one");
    for target in ["runs/one", "runs/one/best"] {
        let again = place.palmette(&["eval", target, "--dataset", "dataset", "--split", "test"]);
        assert_eq!(again.status.code(), Some(1), "{again:?}");
        assert!(stderr(&again).contains("read once"), "{}", stderr(&again));
        assert!(String::from_utf8_lossy(&again.stdout).contains("searched"), "{again:?}");
    }
    assert_eq!(place.journal("runs/one"), before);

    // Runs are listed, compared and judged on validation rows.
    let runs = place.json(&["runs"]);
    assert_eq!(runs.as_array().unwrap().len(), 3);
    assert_eq!(runs[0]["state"], "finished");
    let best = place.json(&["runs", "best"]);
    assert_eq!(best[0]["runs"], 3);
    let unknown = place.palmette(&["runs", "show", "onee"]);
    assert!(stderr(&unknown).contains("did you mean `one`?"), "{}", stderr(&unknown));
    let page = place.read("runs/one/report.html");
    succeed(&place.palmette(&["report", "runs/one", "-o", "again.html"]));
    assert_eq!(place.read("again.html"), page);

    predictions_agree(&place);
}

/// 1,000 rows of new text: the tool, the exported copy and onnxruntime say the same.
fn predictions_agree(place: &Place) {
    let rows = 1000;
    std::fs::write(place.path("new.csv"), log(2, rows)).unwrap();
    succeed(&place.palmette(&["predict", "runs/one", "new.csv", "-o", "predictions.csv"]));
    let predicted = probabilities(&place.read("predictions.csv"));
    assert_eq!(predicted.len(), rows as usize);
    let spread = predicted.iter().fold(0.0f64, |m, p| m.max((p - predicted[0]).abs()));
    assert!(spread > 0.01, "all predictions are alike");

    succeed(&place.palmette(&["export", "runs/one", "-o", "serving", "--kept-negatives", "0.5"]));
    assert_eq!(
        place.sha256("serving/model.safetensors"),
        place.sha256("runs/one/best/model.safetensors")
    );
    succeed(&place.palmette(&["predict", "serving", "new.csv", "-o", "corrected.csv"]));
    let corrected = probabilities(&place.read("corrected.csv"));
    for (p, q) in predicted.iter().zip(&corrected) {
        let expected = p / (p + (1.0 - p) / 0.5);
        assert!((q - expected).abs() < 1e-9, "{p} {q}");
    }

    let Some(python) = interpreter("onnxruntime against predict") else { return };
    for (folder, expected) in [("runs/one/best", &predicted), ("serving", &corrected)] {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/python/predict.py");
        let output = Command::new(&python)
            .arg(script)
            .arg(place.path(folder))
            .arg(place.path("new.csv"))
            .output()
            .unwrap();
        succeed(&output);
        let found: Vec<f64> = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(found.len(), expected.len());
        let worst =
            found.iter().zip(expected.iter()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst <= 1e-5, "{folder}: {worst}");
    }
}

#[test]
fn newer_days_go_on_from_an_earlier_model() {
    let place = Place::prepared();
    let train = ["train", "dataset", "--baseline", "fm", "--config", "search.toml", "-o", "model"];
    succeed(&place.palmette(&train));
    // Given again, a finished training is read, not repeated; another one is refused.
    let modified = || place.path("model/model.onnx").metadata().unwrap().modified().unwrap();
    let before = modified();
    succeed(&place.palmette(&train));
    assert_eq!(modified(), before);
    let other = place.palmette(&[&train[..], &["--seed", "9"]].concat());
    assert_eq!(other.status.code(), Some(2));
    assert!(stderr(&other).contains("another folder"), "{}", stderr(&other));

    std::fs::write(place.path("day2.csv"), log(3, 2000)).unwrap();
    let day2 = ["prepare", "--schema", "schema.toml", "day2.csv", "-o", "day2"];
    succeed(&place.palmette(&day2));
    let foreign = place.palmette(&["train", "day2", "--from", "model", "-o", "model2"]);
    assert_eq!(foreign.status.code(), Some(2));
    assert!(stderr(&foreign).contains("--encoders-from"), "{}", stderr(&foreign));
    let day2 = [&day2[..], &["--encoders-from", "dataset", "--overwrite"]].concat();
    succeed(&place.palmette(&day2));
    let warm = place.json(&[
        "train",
        "day2",
        "--from",
        "model",
        "--config",
        "search.toml",
        "-o",
        "model2",
        "--set",
        "train.network.learning_rate=0.000001",
    ]);
    // With a learning rate of next to nothing the earlier model stays what it was.
    let earlier = place.json(&["eval", "model", "--dataset", "day2", "--split", "validation"]);
    let (a, b) = (&warm["validation_log_loss"], &earlier["log_loss"]);
    let gap = (a.as_f64().unwrap() - b.as_f64().unwrap()).abs();
    assert!(gap < 1e-3 && gap > 0.0, "{a} {b}");
}

#[test]
fn bad_configurations_name_what_would_be_right() {
    let place = Place::prepared();
    let check = |arguments: &[&str], expected: &str| {
        let output = search(&place, "bad", arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
        assert!(!place.path("runs/bad/config.toml").exists(), "{arguments:?} left a run");
    };
    check(&["--set", "search.evalutions=3"], "did you mean `search.evaluations`?");
    check(&["--set", "serch.evaluations=3"], "did you mean `search`?");
    check(&["--set", "search.evaluations=many"], "many");
    check(&["--set", "space.name=nasrec"], "nasrec-full");
    check(&["--set", "run.checkpoint_every=0"], "from 1");
    check(&["--limit", "macs=10"], "cheapest");
    check(&["--limit", "macs=1.5M", "--limit", "memory=1KiB"], "cheapest");
    check(&["--limit", "flops=3"], "macs");
}

/// A budget that is too small left a folder that could neither be resumed nor used again.
#[test]
fn a_refused_budget_leaves_no_run() {
    let place = Place::prepared();
    let refused = search(&place, "small", &["--budget", "0.001s"]);
    assert!(!refused.status.success());
    assert!(stderr(&refused).contains("too small"), "{}", stderr(&refused));
    assert!(!exists(&place.path("runs/small")));
}

/// A bad input was reported as a failure to write, and half an output stayed behind.
#[test]
fn a_prediction_that_fails_names_its_input_and_leaves_nothing() {
    let place = Place::prepared();
    succeed(&place.palmette(&["train", "dataset", "--baseline", "lr", "-o", "lr"]));
    std::fs::write(place.path("bad.csv"), "a\n1\n").unwrap();
    let failed = place.palmette(&["predict", "lr", "bad.csv", "-o", "out.csv"]);
    assert!(!failed.status.success());
    assert!(!stderr(&failed).contains("cannot write"), "{}", stderr(&failed));
    assert!(!exists(&place.path("out.csv")) && !exists(&place.path(".out.csv.tmp")));
}
