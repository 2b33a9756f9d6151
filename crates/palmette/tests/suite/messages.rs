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

/// All of these failed when everything was trained, with nothing to show for it.
#[test]
fn what_the_end_needs_is_checked_at_the_start() {
    let place = Place::prepared();
    let check = |arguments: &[&str], expected: &str| {
        let output = search(&place, "late", arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
        assert!(!place.path("runs/late").exists(), "{arguments:?} left a folder");
    };
    check(&["--baseline-column", "prad"], "no column `prad`");
    check(&["--baseline-column", "day"], "is not a probability");
    check(&["--interval-groups", "usr"], "no column `usr`");
    check(&["--set", "train.baselines=[\"lr\",\"gbdt\"]"], "gbdt");
    check(&["--limit", "foo=1"], "foo");
    for name in ["", "..", "a/b", "../b"] {
        let arguments = ["search", "dataset", "--config", "search.toml", "--name", name];
        let output = place.palmette(&arguments);
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(stderr(&output).contains("--name is the name of a folder"), "{}", stderr(&output));
    }
    let all = ["prepare", "--schema", "schema.toml", "log.csv", "-o", "trainonly", "--split"];
    succeed(&place.palmette(&[&all[..], &["validation", "--encoders-from", "dataset"]].concat()));
    let output = place.palmette(&["search", "trainonly", "--config", "search.toml"]);
    assert!(stderr(&output).contains("no test rows"), "{}", stderr(&output));
}

/// One group gave an interval of no width, which always decided.
#[test]
fn intervals_over_a_few_groups_are_refused() {
    let place = Place::new();
    let schema = crate::support::SCHEMA
        .replace("keep = [\"day\"]", "time = { column = \"day\", format = \"number\" }");
    std::fs::write(place.path("schema.toml"), schema).unwrap();
    succeed(&place.palmette(&place.prepare_arguments("dataset")));
    let output = search(&place, "days", &["--interval-groups", "time"]);
    assert!(stderr(&output).contains("the test part has 7 groups"), "{}", stderr(&output));
}

/// Edited settings were mixed into an unfinished supernet without a word.
#[test]
fn a_run_keeps_the_settings_it_was_started_with() {
    let place = Place::prepared();
    succeed(&search(&place, "one", &[]));
    let config = place.read("runs/one/config.toml");
    std::fs::write(place.path("runs/one/config.toml"), config.replace("seed = 1", "seed = 7"))
        .unwrap();
    assert_ne!(config, place.read("runs/one/config.toml"));
    let output = place.palmette(&["search", "--resume", "runs/one"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("another configuration"), "{}", stderr(&output));
}

/// Two processes renamed each other's files and wrote events twice.
#[test]
fn a_run_is_worked_on_by_one_process() {
    let place = Place::prepared();
    let dir = place.path("runs/taken");
    let held = palmette::run::RunStore::open(&dir).unwrap();
    let output = search(&place, "taken", &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("another process is working"), "{}", stderr(&output));
    drop(held);
    succeed(&search(&place, "taken", &[]));
}

/// A hand-made model that diverged ended a run whose searched network was fine.
#[test]
fn a_baseline_that_diverges_is_named_and_left_out() {
    let place = Place::prepared();
    succeed(&search(&place, "wild", &[]));
    // The same run, as it would be had LR diverged at every rate.
    let journal = place.read("runs/wild/journal.jsonl");
    let trials = journal.lines().filter(|line| !line.contains("\"event\":\"final\""));
    let without_losses = trials.map(|line| {
        let mut event: serde_json::Value = serde_json::from_str(line).unwrap();
        if event["id"].as_str().unwrap().starts_with("lr/") {
            event["result"]["validation_log_loss"] = serde_json::Value::Null;
        }
        format!("{event}\n")
    });
    std::fs::write(place.path("runs/wild/journal.jsonl"), without_losses.collect::<String>())
        .unwrap();
    succeed(&place.palmette(&["search", "--resume", "wild"]));
    let summary: serde_json::Value =
        serde_json::from_str(&place.read("runs/wild/summary.json")).unwrap();
    assert_eq!(summary["diverged"], serde_json::json!(["lr"]));
    assert!(place.read("runs/wild/report.html").contains("not in the table: lr"));
}

/// Hand-made models tried one rate less than networks, and limits could be won by breaking them.
#[test]
fn every_model_tries_the_same_rates_and_winners_keep_the_limits() {
    let place = Place::prepared();
    let more = [
        "--set",
        "train.learning_rates=[0.05]",
        "--set",
        "train.final_seeds=2",
        "--limit",
        "macs=2k",
        "--set",
        "train.baselines=[\"lr\",\"dcn-v2\"]",
    ];
    let summary = {
        succeed(&search(&place, "fair", &more));
        serde_json::from_str::<serde_json::Value>(&place.read("runs/fair/summary.json")).unwrap()
    };
    for event in place.journal("runs/fair").iter().filter(|e| e["event"] == "final") {
        assert_eq!(event["result"]["learning_rate"], 0.05, "{event}");
    }
    let models = summary["models"].as_array().unwrap();
    let of = |name: &str| models.iter().find(|m| m["name"] == name).unwrap();
    assert_eq!(of("dcn-v2")["over_limit"], true);
    assert_eq!(of("searched")["over_limit"], false);
    assert!(!summary["sentence"].as_str().unwrap().contains("dcn-v2"), "{}", summary["sentence"]);
    let page = place.read("runs/fair/report.html");
    assert!(page.contains("dcn-v2 (over the limit)") && page.contains("macs=2k"));

    // Differences are those of the losses averaged over seeds, as the table shows them.
    let mean = |name: &str| {
        let losses = of(name)["log_losses"].as_array().unwrap();
        assert_eq!(losses.len(), 2);
        losses.iter().map(|l| l.as_f64().unwrap()).sum::<f64>() / 2.0
    };
    let difference = of("lr")["difference"]["difference"].as_f64().unwrap();
    assert!((difference - (mean("searched") - mean("lr"))).abs() < 1e-12);

    // The random network is handed over too, and trains with the run's settings.
    let trained =
        place.json(&["train", "dataset", "--arch", "runs/fair/random-search.json", "-o", "r"]);
    assert_eq!(trained["request"]["settings"]["learning_rate"], 0.05);
    assert_eq!(trained["request"]["settings"]["batch_size"], 128);
    let seen = place.json(&["eval", "runs/fair", "--dataset", "dataset", "--split", "validation"]);
    assert_eq!(seen["trained_on"], true);
    let unseen = place.json(&["eval", "r", "--dataset", "dataset", "--split", "validation"]);
    assert_eq!(unseen["trained_on"], false);

    // One damaged journal does not hide the other runs.
    std::fs::create_dir_all(place.path("runs/broken")).unwrap();
    std::fs::write(place.path("runs/broken/config.toml"), "").unwrap();
    std::fs::write(place.path("runs/broken/journal.jsonl"), "{bad\n").unwrap();
    let runs = place.json(&["runs", "list"]);
    let states: Vec<&str> =
        runs.as_array().unwrap().iter().map(|r| r["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["damaged", "finished"]);
}

/// A warm start at the full rate and other batches than before made the model worse than none.
#[test]
fn a_warm_start_goes_on_gently() {
    let place = Place::prepared();
    let config = ["--config", "search.toml", "--set", "train.network.learning_rate=0.05"];
    succeed(
        &place.palmette(
            &[&["train", "dataset", "--baseline", "fm", "-o", "old"], &config[..]].concat(),
        ),
    );
    let new = place.json(&["train", "dataset", "--from", "old", "-o", "new"]);
    let settings = &new["request"]["settings"];
    assert!((settings["learning_rate"].as_f64().unwrap() - 0.005).abs() < 1e-12);
    assert_eq!(settings["batch_size"], 128);
}
