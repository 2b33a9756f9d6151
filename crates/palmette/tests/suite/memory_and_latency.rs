//! What a machine decides: peak memory of a process, time of predictions.

use std::process::Command;

use palmette_cost::HardLimits;
use serde_json::Value;

use crate::support::{Place, exists, search, stderr, succeed};

/// A log whose three tables have 100,000 rows each.
fn place_with_large_tables() -> Place {
    let place = Place::new();
    let mut schema = place.read("schema.toml");
    for column in ["user", "item", "site"] {
        schema += &format!("\n[column.{column}]\nencoder = \"hash\"\nrows = 100000\n");
    }
    std::fs::write(place.path("schema.toml"), schema).unwrap();
    succeed(&place.palmette(&place.prepare_arguments("dataset")));
    place
}

/// The bytes of a note that begins and ends so.
fn noted(notes: &str, begin: &str, end: &str) -> f64 {
    let amount = |line: &str| Some(line.strip_prefix(begin)?.strip_suffix(end)?.replace(' ', ""));
    let amount = notes.lines().find_map(amount);
    let amount = amount.unwrap_or_else(|| panic!("no `{begin}` in {notes}"));
    HardLimits::parse(&format!("peak_memory={amount}")).unwrap().peak_memory.unwrap() as f64
}

/// The bytes that the process held at most.
fn noted_peak(notes: &str) -> f64 {
    noted(notes, "peak memory of the process: ", "")
}

/// The command without `--quiet`.
fn with_notes(place: &Place) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_palmette"));
    command.current_dir(place.path(""));
    command
}

/// Foretold over measured: never much less is foretold than is held, nor a tenth more.
fn check_ratio(foretold: f64, measured: f64, what: &dyn std::fmt::Display) {
    let ratio = foretold / measured;
    assert!((0.95..1.10).contains(&ratio), "{ratio}: {foretold} for {measured}: {what}");
}

/// `palmette cost` foretells the peak of `palmette train`. Tables and weights are exported as they
/// lie there: no second copy of them would fit what is foretold.
#[test]
#[cfg(target_os = "linux")]
fn the_peak_of_a_training_is_foretold() {
    let place = place_with_large_tables();
    let mut smaller = f64::INFINITY;
    for (n, more) in
        [&[][..], &["--table-storage", "f16", "--table-state", "row-wise"]].into_iter().enumerate()
    {
        let cost =
            [&["cost", "--baseline", "dlrm", "--dataset", "dataset", "--batch", "256"], more];
        let cost = place.json(&cost.concat());
        let foretold = cost["peak_memory"].as_f64().unwrap()
            + cost["peak_memory_parts"]["pages"].as_f64().unwrap();
        let output = with_notes(&place)
            .args(["train", "dataset", "--baseline", "dlrm", "-o", &format!("model{n}")])
            .args(["--set", "train.network.batch_size=256"])
            .args(more)
            .output()
            .unwrap();
        succeed(&output);
        let measured = noted_peak(&stderr(&output));
        check_ratio(foretold, measured, &format!("{more:?}"));
        assert!(measured < smaller, "{more:?}: smaller tables take less");
        smaller = measured;
    }
}

/// What a search holds in each phase by its dry run, and what its journal says that it held.
struct Foretold {
    memory: Value,
    journal: String,
}

impl Foretold {
    fn of(place: &Place, name: &str, settings: &[&str]) -> Self {
        let plan = ["search", "dataset", "--config", "search.toml", "--dry-run"];
        let memory = place.json(&[&plan[..], settings].concat());
        let journal = place.path(&format!("runs/{name}/journal.jsonl"));
        assert!(!exists(&journal), "a dry run leaves nothing");
        succeed(&search(place, name, settings));
        Self { memory, journal: std::fs::read_to_string(journal).unwrap() }
    }

    fn bytes(&self, phase: &str) -> f64 {
        let parts = self.memory[phase].as_array().unwrap().iter();
        let parts: f64 = parts.map(|part| part["bytes"].as_f64().unwrap()).sum();
        let other = ["program", "pages"].map(|part| self.memory[part].as_f64().unwrap());
        parts + other.iter().sum::<f64>()
    }

    fn peak(&self) -> f64 {
        let phases = ["supernet", "ranking", "networks", "final_fits"];
        phases.map(|phase| self.bytes(phase)).into_iter().fold(0.0, f64::max)
    }

    /// The most that the process had held when the last of these events happened.
    fn measured(&self, event: &str) -> f64 {
        let mut events =
            self.journal.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let last = events.rfind(|e| e["event"] == event).unwrap();
        last["time"]["peak_memory"].as_f64().unwrap()
    }

    /// The supernet's phase comes first, hence its peak is known; of the others the largest is.
    fn check(&self) {
        check_ratio(self.bytes("supernet"), self.measured("supernet"), &self.memory);
        check_ratio(self.peak(), self.measured("final"), &self.memory);
    }
}

/// Networks side by side, an export beside a training, and one after the other on one thread.
#[test]
#[cfg(target_os = "linux")]
fn the_peak_of_a_search_is_foretold() {
    let place = place_with_large_tables();
    for threads in ["1", "2"] {
        let wide = ["--set", "space.dense_widths=[16, 256]", "--set", "space.blocks=3"];
        let settings = [&wide[..], &["--threads", threads]].concat();
        Foretold::of(&place, threads, &settings).check();
    }
}

/// Batches of several chunks lay their weights out for both directions.
#[test]
#[cfg(target_os = "linux")]
fn the_peak_of_a_wide_supernet_is_foretold() {
    let place = Place::prepared();
    let settings = [
        "--set",
        "space.dense_widths=[16, 1024]",
        "--set",
        "space.blocks=4",
        "--set",
        "search.supernet.batch_size=256",
        "--set",
        "search.supernet.steps=8",
    ];
    let foretold = Foretold::of(&place, "wide", &settings);
    assert!(foretold.bytes("supernet") > 2.0 * foretold.bytes("networks"), "a weak test");
    foretold.check();
}

/// The largest of all final fits decides, with the tables and batches that only these have.
#[test]
#[cfg(target_os = "linux")]
fn the_peak_of_hand_made_final_fits_is_foretold() {
    let place = place_with_large_tables();
    for threads in ["1", "2"] {
        let settings = [
            "--set",
            "train.baselines=[\"lr\", \"xdeepfm\"]",
            "--set",
            "train.final_batch_size=1024",
            "--set",
            "search.table_cap=1000",
            "--threads",
            threads,
        ];
        let foretold = Foretold::of(&place, threads, &settings);
        assert!(foretold.bytes("final_fits") > 1.3 * foretold.bytes("networks"), "a weak test");
        check_ratio(foretold.peak(), foretold.measured("final"), &foretold.memory);
    }
}

/// Every ranker holds weights without state, and arenas for neighbours that are scored together.
#[test]
#[cfg(target_os = "linux")]
fn the_peak_of_a_ranking_in_groups_is_foretold() {
    let place = Place::prepared();
    let settings = [
        "--set",
        "space.dense_widths=[256, 512]",
        "--set",
        "space.blocks=4",
        "--set",
        "search.strategy=local-search",
        "--set",
        "search.ranking.batch_size=128",
        "--threads",
        "4",
        "--set",
        "search.supernet.batch_size=16",
        "--set",
        "search.supernet.warmup_steps=0",
    ];
    let foretold = Foretold::of(&place, "groups", &settings);
    assert!(foretold.bytes("ranking") > 1.3 * foretold.bytes("supernet"), "a weak test");
    check_ratio(foretold.bytes("ranking"), foretold.measured("score"), &foretold.memory);
}

/// Final fits whose memory depends on the networks: wide ones in large batches.
const CHOSEN_DECIDE: [&str; 12] = [
    "--set",
    "train.baselines=[]",
    "--set",
    "train.final_batch_size=4096",
    "--set",
    "space.dense_widths=[16, 256]",
    "--set",
    "space.blocks=3",
    "--set",
    "search.supernet.batch_size=16",
    "--set",
    "search.supernet.warmup_steps=0",
];

/// Before a search its memory lies between bounds; once networks are chosen it is known.
#[test]
#[cfg(target_os = "linux")]
fn the_peak_of_chosen_networks_is_foretold_between_bounds_and_then_known() {
    let place = Place::prepared();
    let plan = ["search", "dataset", "--config", "search.toml", "--dry-run"];
    let memory = place.json(&[&plan[..], &CHOSEN_DECIDE[..]].concat());
    let sum = |name: &str| -> f64 {
        let parts = memory["final_fits"].as_array().unwrap().iter();
        parts.map(|part| part.get(name).unwrap_or(&part["bytes"]).as_f64().unwrap()).sum()
    };
    let [program, pages] = ["program", "pages"].map(|part| memory[part].as_f64().unwrap());
    let (least, most) = (program + sum("at_least"), program + pages + sum("bytes"));
    assert!(least < 0.7 * most, "a weak test: {least} to {most}");
    let search = ["search", "dataset", "--config", "search.toml", "--name", "free"];
    let output = with_notes(&place).args(search).args(CHOSEN_DECIDE).output().unwrap();
    succeed(&output);
    let notes = stderr(&output);
    assert!(notes.contains("depends on which networks the search chooses"), "{notes}");
    let measured = noted_peak(&notes);
    assert!((0.95 * least..1.05 * most).contains(&measured), "{least} to {most}: {measured}");
    let known = noted(&notes, "memory: ", " during final fits") + pages;
    check_ratio(known, measured, &notes);
}

/// Candidates that would not fit are none, with the threads that the run began with.
#[test]
#[cfg(target_os = "linux")]
fn networks_keep_the_limit_on_peak_memory() {
    let place = Place::prepared();
    let search = ["search", "dataset", "--config", "search.toml", "--name"];
    let begin = |name: &str, more: &[&str]| {
        let output =
            with_notes(&place).args(search).arg(name).args(CHOSEN_DECIDE).args(more).output();
        let output = output.unwrap();
        succeed(&output);
        stderr(&output)
    };
    let free = noted_peak(&begin("free", &["--threads", "2"]));
    let limit = (0.7 * free) as u64;
    let text = format!("peak_memory={limit}B");
    let held = noted_peak(&begin("held", &["--threads", "2", "--limit", &text]));
    assert!(held <= limit as f64, "{held} for {limit}, {free} without");
    let journal = place.journal("runs/held");
    let plan = journal.iter().find(|event| event["event"] == "plan").unwrap();
    assert_eq!(plan["result"]["memory"]["threads"], 2);

    // Resumed with other threads from the middle of its ranking.
    place.cut_after("runs/held", 6, "runs/cut");
    succeed(&place.palmette(&["search", "--resume", "runs/cut", "--threads", "1"]));
    assert_eq!(place.journal("runs/cut"), place.journal("runs/held"));
}

#[test]
fn a_search_that_cannot_fit_is_refused_before_it_starts() {
    let place = place_with_large_tables();
    let output = search(&place, "large", &["--limit", "peak_memory=40MiB"]);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    for expected in [
        "more than the limit peak_memory=40.00 MiB",
        "networks trained side by side",
        "the program 16.00 MiB",
        "--table-storage bf16",
        "--table-files",
        "search.table_cap",
    ] {
        assert!(text.contains(expected), "{text} lacks {expected}");
    }
    assert!(!place.path("runs/large").exists());
    // A dry run shows every phase, and says the same.
    let plan = ["search", "dataset", "--config", "search.toml", "--dry-run", "--limit"];
    let output = place.palmette(&[&plan[..], &["peak_memory=40MiB"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stderr(&output), text);
    let output = place.palmette(&[&plan[..], &["peak_memory=64GiB"]].concat());
    succeed(&output);
    let text = String::from_utf8(output.stdout).unwrap();
    for phase in ["\n  training the supernet", "\n  ranking candidates", "\n  comparing models"] {
        assert!(text.contains(phase), "{text} lacks {phase}");
    }
    // This machine's own memory is a limit as well.
    let output = search(
        &place,
        "huge",
        &["--set", "space.dense_widths=[60000]", "--set", "space.name=nasrec-full"],
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("that this machine has left"), "{}", stderr(&output));
    assert!(!place.path("runs/huge").exists());
}

fn events<'a>(journal: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    journal.iter().filter(move |event| event["event"] == kind)
}

/// Candidates are foretold, what is trained was measured, and a resumed run measures nothing again.
#[test]
fn latency_limits_are_foretold_measured_and_journalled() {
    let place = Place::prepared();
    // Far above what any of these networks takes: no time decides this test.
    let limit = ["--limit", "latency_us=100000000@8", "--limit", "peak_memory=64GiB"];
    succeed(&search(&place, "whole", &limit));
    let journal = place.journal("runs/whole");
    let models: Vec<&Value> = events(&journal, "latency-model").collect();
    assert_eq!(models.len(), 1);
    assert_eq!(models[0]["result"]["batch"], 8);
    let measured = models[0]["result"]["networks"].as_array().unwrap();
    assert!(measured.len() >= 16, "{}", measured.len());
    // Two sides of two networks, no two alike, and two hand-made models.
    let latencies: Vec<&Value> = events(&journal, "latency").collect();
    assert!((5..=6).contains(&latencies.len()), "{latencies:?}");
    assert!(latencies.iter().all(|e| e["result"]["median"].as_f64().unwrap() > 0.0));

    // The run again from the middle of its ranking: what was measured stays as it is.
    place.cut_after("runs/whole", 8, "runs/cut");
    succeed(&place.palmette(&["search", "--resume", "runs/cut"]));
    let again = place.journal("runs/cut");
    let without = |journal: &[Value]| -> Vec<Value> {
        journal.iter().filter(|event| event["event"] != "latency").cloned().collect()
    };
    assert_eq!(without(&again), without(&journal));
    assert_eq!(
        place.sha256("runs/cut/best/model.safetensors"),
        place.sha256("runs/whole/best/model.safetensors")
    );
}

#[test]
fn latency_that_nothing_keeps_is_refused() {
    let place = Place::prepared();
    let output = search(&place, "fast", &["--limit", "latency_us=0.01@4"]);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(
        text.contains("no network of the space is expected to meet latency_us=0.01@4"),
        "{text}"
    );
    assert!(text.contains("us at 4 rows"), "{text}");
    assert!(!place.path("runs/fast").exists());
}
