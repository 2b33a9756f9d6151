//! `palmette check-golden` through the real binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Files of the released code; not in the repository, so tests say so and pass without them.
fn shared() -> Option<PathBuf> {
    let dir = std::env::var_os("PALMETTE_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let dir = dir.join("data");
    if !dir.join("golden").is_dir() {
        println!("skipped: no golden files at {}", dir.display());
        return None;
    }
    Some(dir)
}

fn check(golden: &Path, architecture: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_palmette"))
        .args(["check-golden", "--format", "json", "--arch"])
        .args([architecture, golden])
        .output()
        .unwrap()
}

#[test]
fn published_networks_agree_with_the_released_code() {
    let Some(dir) = shared() else { return };
    for name in ["criteo_small", "criteo_full", "avazu_small"] {
        let file = format!("nasrec_{name}.json");
        let output = check(&dir.join("golden").join(&file), &dir.join("arch").join(&file));
        assert_eq!(output.status.code(), Some(0), "{name}: {output:?}");
        let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(verdict["passes"], true);
        let golden = std::fs::read_to_string(dir.join("golden").join(&file)).unwrap();
        let golden: Value = serde_json::from_str(&golden).unwrap();
        let parameters = golden["parameters"].as_array().unwrap();
        let live = parameters.iter().filter(|p| !p["grad"].is_null()).count();
        let logits = golden["logits"].as_array().unwrap().len();
        // Every logit, the loss, and three statistics of every gradient, in both precisions.
        for (i, precision) in ["f64", "f32"].into_iter().enumerate() {
            let p = &verdict["precisions"][i];
            assert_eq!(p["precision"], precision);
            assert_eq!(p["comparisons"], logits + 1 + 3 * live, "{name} {precision}");
            assert_eq!(p["failures"], 0);
        }
    }
}

#[test]
fn one_changed_number_fails() {
    let Some(dir) = shared() else { return };
    let architecture = dir.join("arch/nasrec_criteo_small.json");
    let text = std::fs::read_to_string(dir.join("golden/nasrec_criteo_small.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let live = golden["parameters"].as_array().unwrap().iter().position(|p| !p["grad"].is_null());
    let grad = format!("/parameters/{}/grad", live.unwrap());
    // Each is off by a few parts in a hundred million: within the f32 tolerance, not within f64's.
    for place in ["/logits/3".to_owned(), "/loss".into(), format!("{grad}/l2")] {
        let mut tampered = golden.clone();
        let number = tampered.pointer_mut(&place).unwrap();
        *number = (number.as_f64().unwrap() * (1.0 + 5e-8) + 5e-8).into();
        let file = temporary.path().join("golden.json");
        std::fs::write(&file, tampered.to_string()).unwrap();
        let output = check(&file, &architecture);
        assert_eq!(output.status.code(), Some(1), "{place}: {output:?}");
        let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(verdict["precisions"][0]["failures"], 1, "{place}");
        let what = verdict["precisions"][0]["worst"][0]["what"].as_str().unwrap();
        let expected = if place.ends_with("l2") { "grad l2" } else { &place[1..5] };
        assert!(what.contains(expected), "{place}: {what}");
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (golden, architecture) = (dir.path().join("golden.json"), dir.path().join("arch.json"));
    let output = check(&golden, &architecture);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("golden.json"), "{output:?}");
    std::fs::write(&golden, "{\"architecture\": 3}").unwrap();
    let output = check(&golden, &architecture);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not a golden file"), "{output:?}");
    let Some(shared) = shared() else { return };
    let output = check(
        &shared.join("golden/nasrec_criteo_full.json"),
        &shared.join("arch/nasrec_avazu_full.json"),
    );
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("do not fit"), "{error}");
}
