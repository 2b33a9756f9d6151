//! A supernet's ranking against training from scratch, through the real binary.

use serde_json::Value;

use crate::support::{Place, stderr, succeed};

const STUDY: [&str; 12] = [
    "bench",
    "ranking",
    "dataset",
    "--config",
    "search.toml",
    "--networks",
    "6",
    "--seeds",
    "2",
    "--name",
    "study",
    "-o",
];

fn arguments<'a>(more: &[&'a str]) -> Vec<&'a str> {
    STUDY.iter().copied().chain(more.iter().copied()).collect()
}

#[test]
fn a_study_ranks_trains_and_compares() {
    let place = Place::prepared();
    let report = place.json(&arguments(&["ranking.json", "--threads", "1"]));
    let saved: Value = serde_json::from_str(&place.read("ranking.json")).unwrap();
    assert_eq!(report, saved);
    let networks = report["networks"].as_array().unwrap();
    assert_eq!((networks.len(), report["compared"].as_u64()), (6, Some(6)));
    let mut genotypes: Vec<String> = Vec::new();
    for network in networks {
        let number = |key: &str| network[key].as_f64().unwrap();
        assert!(number("macs") > 0.0 && (0.1..3.0).contains(&number("supernet")), "{network}");
        // Two steps on the head change the score.
        assert_ne!(network["supernet"], network["fine_tuned"]);
        let losses = network["from_scratch"].as_array().unwrap();
        assert_eq!(losses.len(), 2);
        assert_ne!(losses[0], losses[1], "seeds differ");
        genotypes.push(network["genotype"].to_string());
    }
    genotypes.sort();
    genotypes.dedup();
    assert_eq!(genotypes.len(), 6, "no two alike");

    // The printed figure is tau-b of the printed losses.
    let column = |f: &dyn Fn(&Value) -> f64| networks.iter().map(f).collect::<Vec<f64>>();
    let loss = |n: &Value, i: usize| n["from_scratch"][i].as_f64().unwrap();
    let means = column(&|n| (loss(n, 0) + loss(n, 1)) / 2.0);
    for (figure, scores) in [
        ("supernet", column(&|n| n["supernet"].as_f64().unwrap())),
        ("fine_tuned", column(&|n| n["fine_tuned"].as_f64().unwrap())),
        ("log_macs", column(&|n| -n["macs"].as_f64().unwrap())),
    ] {
        let tau = palmette_search::kendall_tau_b(&scores, &means);
        assert!((report[figure]["tau"].as_f64().unwrap() - tau).abs() < 1e-12, "{figure}");
        assert!(report[figure]["low"].as_f64() <= report[figure]["high"].as_f64());
    }
    let between =
        palmette_search::kendall_tau_b(&column(&|n| loss(n, 0)), &column(&|n| loss(n, 1)));
    assert!((report["seed_to_seed"]["tau"].as_f64().unwrap() - between).abs() < 1e-12);

    // Given again it trains nothing; another number of threads finds the same.
    let before = place.journal("runs/study");
    let again = place.json(&arguments(&["ranking.json", "--threads", "3"]));
    assert_eq!(again, report);
    assert_eq!(place.journal("runs/study"), before);
    let listed = place.json(&["runs"]);
    assert_eq!((&listed[0]["state"], &listed[0]["trials"]), (&"finished".into(), &12.into()));
    let text = place.palmette(&arguments(&["ranking.json"]));
    succeed(&text);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("6 of 6 networks") && text.contains("log(MACs)"), "{text}");

    // A study that was killed goes on where it was, to the same bits.
    let journal = place.read("runs/study/journal.jsonl");
    let lines: Vec<&str> = journal.lines().collect();
    // With the supernet and three scores, and half of the line of the fourth.
    let kept = lines.iter().filter(|l| l.contains("\"score\"")).nth(3).unwrap();
    let cut = journal.find(kept).unwrap() + kept.len() / 2;
    place.cut_at("runs/study", cut, "runs/cut");
    let mut again = STUDY[..STUDY.len() - 1].to_vec();
    again[STUDY.len() - 2] = "cut";
    let resumed = place.json(&again);
    assert_eq!(resumed, report);
    assert_eq!(place.journal("runs/cut"), before);
}

#[test]
fn a_folder_holds_one_study() {
    let place = Place::prepared();
    let quick = ["--set", "search.supernet.steps=5", "--set", "train.network.epochs=0.1"];
    let start = ["bench", "ranking", "dataset", "--config", "search.toml", "--name", "study"];
    let with = |more: &[&'static str]| -> Vec<&str> { [&start[..], &quick, more].concat() };
    succeed(&place.palmette(&with(&["--networks", "3", "--seeds", "1"])));
    let check = |arguments: Vec<&str>, expected: &str| {
        let output = place.palmette(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    };
    check(with(&["--networks", "4", "--seeds", "1"]), "holds a study of {\"networks\":3");
    check(with(&["--seed", "9"]), "another configuration");
    check(with(&["--networks", "2"]), "2");
    check(with(&["--set", "run.budget_seconds=60"]), "leave out run.budget_seconds");
}
