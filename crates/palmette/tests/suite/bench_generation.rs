//! `palmette bench generation` through the real binary.

use crate::support::Place;

/// What docs/numbers.md says of the published schedule: sharing whole blocks leaves 0.698 of the
/// multiply-accumulates, sharing operators less, random candidates share nothing.
#[test]
fn generations_share_what_the_docs_say() {
    let report = Place::new().json(&["bench", "generation"]);
    let left = report["left"].as_array().unwrap();
    let of = |candidates: &str, column: &str| {
        let row = left.iter().find(|row| {
            row["space"].as_str().unwrap().contains("published")
                && row["candidates"].as_str().unwrap().starts_with(candidates)
        });
        row.unwrap()[column].as_f64().unwrap()
    };
    let close = |found: f64, expected: f64| (found - expected).abs() < 5e-4;
    assert!(close(of("children, all", "blocks"), 0.698), "{report}");
    assert!(close(of("children, all", "operators"), 0.538), "{report}");
    assert!(of("random", "operators") > 0.98, "{report}");
    for row in left {
        assert!(row["operators"].as_f64() <= row["blocks"].as_f64(), "{row}");
    }
    assert!(report["scoring"].is_null(), "nothing is timed without a dataset");
}
