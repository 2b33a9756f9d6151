//! The index over runs says what their journals say.

use std::io::Write;

use serde_json::Value;

use crate::support::{Place, stderr, succeed};

/// A run as a journal would leave it, without its minutes of work.
fn write_run(place: &Place, name: &str, trials: usize) {
    let dir = place.path("runs").join(name);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("config.toml"), "[data]\ndataset = \"log\"\n[run]\nseed = 7\n")
        .unwrap();
    let mut journal = String::from(
        "{\"event\":\"plan\",\"id\":\"\",\"result\":{},\"time\":{\"at\":1,\"seconds\":2.0}}\n",
    );
    for i in 0..trials {
        journal += &trial(i);
    }
    std::fs::write(dir.join("journal.jsonl"), journal).unwrap();
}

fn trial(i: usize) -> String {
    let event = serde_json::json!({
        "event": "trial",
        "id": format!("searched/{i}"),
        "result": { "macs": 1000 + i, "validation_log_loss": 0.5 - 0.01 * i as f64 },
        "time": { "at": 3, "seconds": 1.5 },
    });
    format!("{event}\n")
}

fn list(place: &Place) -> Vec<Value> {
    place.json(&["runs"]).as_array().unwrap().clone()
}

#[test]
fn a_listing_does_not_depend_on_the_index() {
    let place = Place::new();
    write_run(&place, "one", 3);
    write_run(&place, "two", 1);
    write_run(&place, "nested/run", 0);
    let from_journals = list(&place);
    assert_eq!(from_journals.len(), 3);

    let index = place.json(&["runs", "index"]);
    assert_eq!(index["runs"], 3);
    let file = place.path("runs/trials.sqlite");
    assert!(file.is_file());
    assert_eq!(list(&place), from_journals);

    // It is the index that is read: an entry that was changed in it shows.
    let connection = rusqlite::Connection::open(&file).unwrap();
    let changed =
        "UPDATE runs SET record = replace(record, '\"seed\":7', '\"seed\":8') WHERE run = 'one'";
    assert_eq!(connection.execute(changed, []).unwrap(), 1);
    let count: i64 = connection
        .query_row("SELECT count(*) FROM trials WHERE macs >= 1000", [], |row| row.get(0))
        .unwrap();
    assert_eq!(count, 4);
    connection.close().unwrap();
    assert_eq!(list(&place)[1]["seed"], 8);

    // A run that went on is read from its journal.
    let journal = place.path("runs/one/journal.jsonl");
    let mut journal = std::fs::OpenOptions::new().append(true).open(journal).unwrap();
    journal.write_all(trial(3).as_bytes()).unwrap();
    let grown = list(&place);
    assert_eq!((&grown[1]["seed"], &grown[1]["trials"]), (&7.into(), &4.into()));

    // Rebuilt, it says the same; damaged, it is passed over.
    succeed(&place.palmette(&["runs", "index"]));
    assert_eq!(list(&place), grown);
    std::fs::write(&file, "no database").unwrap();
    assert_eq!(list(&place), grown);
    succeed(&place.palmette(&["runs", "index"]));
    assert_eq!(list(&place), grown);

    // The folder may move.
    std::fs::rename(place.path("runs"), place.path("moved")).unwrap();
    let moved = place.json(&["runs", "--runs", "moved"]);
    assert_eq!(moved[1]["dir"], "moved/one");
    assert_eq!(moved[1]["trials"], 4);
}

#[test]
fn a_damaged_journal_is_named() {
    let place = Place::new();
    write_run(&place, "one", 1);
    let journal = place.path("runs/one/journal.jsonl");
    std::fs::write(&journal, "{}\nnonsense\n").unwrap();
    let output = place.palmette(&["runs", "index"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("line 2 is not a journal event"), "{}", stderr(&output));
}

/// `--runs` of the verb was refused beside the names to compare.
#[test]
fn runs_of_another_folder_are_compared() {
    let place = Place::new();
    write_run(&place, "one", 3);
    write_run(&place, "two", 1);
    let folder = place.path("runs");
    let folder = folder.to_str().unwrap();
    let elsewhere = Place::new();
    let records = elsewhere.json(&["runs", "compare", "--runs", folder, "one", "two"]);
    assert_eq!(records.as_array().unwrap().len(), 2);
    assert_eq!(records[1]["trials"], 1);
}
