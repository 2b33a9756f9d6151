//! Logs that are not what a search expects: it works or says why not.

use crate::support::{Place, stderr, succeed};

/// A dataset whose schema has these two lines changed.
fn prepared(dense: &str, categorical: &str) -> Place {
    let place = Place::new();
    let schema = crate::support::SCHEMA
        .replace("dense = [\"price\", \"age\"]", &format!("dense = {dense}"))
        .replace(
            "categorical = [\"user\", \"item\", \"site\"]",
            &format!("categorical = {categorical}"),
        )
        .replace("group = \"user\"\n", "");
    std::fs::write(place.path("schema.toml"), schema).unwrap();
    succeed(&place.palmette(&place.prepare_arguments("dataset")));
    place
}

#[test]
fn a_log_with_one_kind_of_fields_is_refused_by_searches_and_trained_on_by_others() {
    for (dense, categorical, count) in
        [("[]", "[\"user\"]", "0 and 1"), ("[\"age\"]", "[]", "1 and 0")]
    {
        let place = prepared(dense, categorical);
        for arguments in [
            ["search", "dataset", "--config", "search.toml", "--name", "one"],
            ["bench", "ranking", "dataset", "--config", "search.toml", "--networks=3"],
        ] {
            let output = place.palmette(&arguments);
            assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
            assert!(stderr(&output).contains(count), "{}", stderr(&output));
        }
        assert!(!place.path("runs/one/journal.jsonl").exists(), "nothing has happened");
        let train =
            ["train", "dataset", "--baseline", "mlp", "--config", "search.toml", "-o", "mlp"];
        succeed(&place.palmette(&train));
    }
}
