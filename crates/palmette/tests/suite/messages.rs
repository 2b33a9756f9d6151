//! What people and scripts are told when something is missing.

use crate::support::{Place, exists, search, stderr, succeed};

/// Errors were text for people even where JSON was asked for.
#[test]
fn errors_are_json_where_results_are() {
    let place = Place::new();
    let check = |arguments: &[&str], expected: &str| {
        let output = place.palmette(&[arguments, &["--format", "json"]].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let document: serde_json::Value = serde_json::from_str(&stderr(&output)).unwrap();
        let error = document["error"].as_str().unwrap();
        assert!(error.contains(expected), "{arguments:?}: {error}");
        assert!(document["causes"].is_array());
    };
    check(&["show", "nothing.json"], "cannot read the architecture nothing.json");
    check(&["search", "nothing"], "nothing");
    check(&["search", "--no-such-option"], "--no-such-option");
    let help = place.palmette(&["search", "--help", "--format", "json"]);
    succeed(&help);
    assert!(String::from_utf8_lossy(&help.stdout).contains("Examples:"));
}

#[test]
fn runs_that_are_none_or_not_finished_are_told_apart() {
    let place = Place::prepared();
    let check = |arguments: &[&str], expected: &str| {
        let output = place.palmette(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    };
    check(&["report", "dataset"], "dataset is no run folder");
    check(&["show", "dataset"], "holds no architecture");
    check(&["search", "--resume", "one"], "one is no run folder");
    check(&["search", "dataset", "--budget", "0s"], "above zero");
    check(&["repro", "--recipes", "recipes"], "examples/recipes of Palmette's source tree");

    // A run with a plan and nothing else, as a kill leaves it.
    std::fs::create_dir_all(place.path("runs/cut")).unwrap();
    std::fs::write(place.path("runs/cut/journal.jsonl"), "").unwrap();
    check(&["report", "runs/cut"], "has no report yet");
    check(&["show", "runs/cut"], "has chosen no architecture yet");
    check(
        &["eval", "runs/cut", "--dataset", "dataset", "--split", "validation"],
        "has no trained model yet",
    );
}

#[test]
fn a_run_goes_on_by_its_name() {
    let place = Place::prepared();
    succeed(&search(&place, "named", &[]));
    let before = place.journal("runs/named");
    succeed(&place.palmette(&["search", "--resume", "named"]));
    assert_eq!(place.journal("runs/named"), before);
    assert!(!exists(&place.path("named")));
}

#[test]
fn a_part_of_one_class_is_pointed_out() {
    let place = Place::new();
    let rows: String = (0..40).map(|i| format!("0,{i},c{}\n", i % 3)).collect();
    std::fs::write(place.path("log.csv"), format!("click,x,c\n{rows}")).unwrap();
    let schema = "label = \"click\"\ndense = [\"x\"]\ncategorical = [\"c\"]\n";
    std::fs::write(place.path("schema.toml"), schema).unwrap();
    let output =
        place.palmette(&["prepare", "--schema", "schema.toml", "log.csv", "-o", "dataset"]);
    succeed(&output);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("every label of the train part is 0"), "{text}");
}
