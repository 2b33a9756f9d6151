//! Candidates that share what they compute alike while they are scored: the run shows it nowhere.

use serde_json::Value;

use crate::support::{Place, search, succeed};

/// Four neighbours of one network are scored together.
const SIBLINGS: &[&str] = &[
    "--set",
    "search.strategy=local-search",
    "--set",
    "search.evaluations=13",
    "--set",
    "search.random_search=false",
    "--set",
    "train.baselines=[\"lr\"]",
];

/// Two threads score two groups side by side, one thread scores one larger group after the other.
#[test]
fn the_journal_does_not_depend_on_groups() {
    let place = Place::prepared();
    succeed(&search(&place, "one", &[SIBLINGS, &["--threads", "1"]].concat()));
    succeed(&search(&place, "three", &[SIBLINGS, &["--threads", "3"]].concat()));
    let scores = |run: &str| -> Vec<Value> {
        let journal = place.journal(&format!("runs/{run}"));
        journal.into_iter().filter(|event| event["event"] == "score").collect()
    };
    assert_eq!(scores("one").len(), 13);
    assert!(scores("one").iter().all(|event| event["result"]["score"].is_f64()));
    assert_eq!(scores("one"), scores("three"));
}

/// Killed after any of the scores of a group, a run goes on to the same end.
#[test]
fn a_group_that_was_cut_goes_on_to_the_same_scores() {
    let place = Place::prepared();
    let threads = ["--threads", "1"];
    succeed(&search(&place, "whole", &[SIBLINGS, &threads].concat()));
    let whole = place.read("runs/whole/journal.jsonl");
    let lines: Vec<&str> = whole.lines().collect();
    let is_score = |line: &&str| line.contains("\"event\":\"score\"");
    let first = lines.iter().position(is_score).unwrap();
    assert!(lines[first..first + 13].iter().all(is_score), "scores lie together");
    for kept in [1, 2, 6, 8] {
        let run = format!("runs/cut-{kept}");
        place.cut_after("runs/whole", first + kept, &run);
        succeed(&place.palmette(&["search", "--resume", &run, threads[0], threads[1]]));
        assert_eq!(place.journal(&run), place.journal("runs/whole"), "{kept}");
    }
}
