//! `palmette cost` through the real binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

fn palmette(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_palmette")).args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A file that goes away with the test.
struct Document(PathBuf);

impl Document {
    fn new(name: &str, value: &Value) -> Self {
        let path =
            std::env::temp_dir().join(format!("palmette-{}-{name}.json", std::process::id()));
        std::fs::write(&path, value.to_string()).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Document {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Two blocks, the first of them dead: FC/32 + EFC/16 with both merges on the raw inputs.
fn architecture() -> Value {
    let micro = |dense: usize, sparse: usize, merge: usize| {
        json!({"active_nodes": [5, 0], "dense_in_dims": dense, "sparse_in_dims": sparse,
               "dense_sparse_interact": merge, "deep_fm": merge})
    };
    let raw =
        json!({"dense_idx": [0], "sparse_idx": [0], "dense_left_idx": [0], "dense_right_idx": [0]});
    json!({"num_blocks": 2, "use_layernorm": 0, "config": "xlarge",
           "micro": [micro(1024, 64, 0), micro(32, 16, 1)], "macro": [raw, raw]})
}

#[test]
fn costs_are_those_of_the_formulas() {
    let file = Document::new("formulas", &architecture());
    let output = palmette(&["cost", file.path(), "--dataset", "kdd12", "--format", "json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let sheet: Value = serde_json::from_slice(&output.stdout).unwrap();
    // FC 3 x 32, EFC 16 x 10 x 16, ds 128 x 32, fm 16 x 32, head 32 + 16 x 24.
    let live = 96 + 2560 + 4096 + 512 + 416;
    assert_eq!(sheet["macs"], live);
    assert_eq!(sheet["macs_with_dead_code"], live + 3 * 1024 + 16 * 10 * 64);
    let params = 96 + 32 + 160 + 16 + 4096 + 128 + 512 + 32 + 417;
    assert_eq!(sheet["params"], params);
    let rows: u64 = 26274 + 641708 + 14848 + 22122011 + 1188090 + 3735797 + 2934102 + 20004011 + 12;
    assert_eq!(sheet["embedding_params"], rows * 16);
    assert_eq!(sheet["total_params"], rows * 16 + params);
    assert_eq!(sheet["memory"], (rows * 16 + params) * 8);
    assert_eq!(sheet["dead_blocks"], json!([1]));
}

#[test]
fn limits_decide_the_exit_code() {
    let file = Document::new("limits", &architecture());
    let run = |limits: &[&str]| {
        let mut args = vec!["cost", file.path(), "--dataset", "kdd12", "--table-cap", "1000"];
        args.extend(limits.iter().flat_map(|limit| ["--limit", *limit]));
        palmette(&args)
    };
    assert_eq!(run(&["macs=7680", "memory=2MiB"]).status.code(), Some(0));
    let over = run(&["macs=7679", "memory=100KiB"]);
    assert_eq!(over.status.code(), Some(1));
    let text = String::from_utf8_lossy(&over.stdout).into_owned();
    assert!(text.contains("infeasible: macs 7.680 k over the limit of 7.679 k"), "{text}");
    assert!(stderr(&over).contains("memory would fit with --table-cap "), "{}", stderr(&over));
    let unknown = run(&["mcas=1"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("did you mean `macs`"), "{}", stderr(&unknown));
}

#[test]
fn bad_files_are_named() {
    let mut document = architecture();
    document["micro"][1]["dense_in_dims"] = json!(33);
    let file = Document::new("bad", &document);
    let output = palmette(&["cost", file.path(), "--dataset", "criteo"]);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.contains(file.path()) && text.contains("micro[1].dense_in_dims"), "{text}");
    let missing = palmette(&["cost", "/nowhere/arch.json", "--dataset", "criteo"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(stderr(&missing).contains("/nowhere/arch.json"), "{}", stderr(&missing));
}

#[test]
fn published_architectures_cost_what_the_paper_says() {
    let shared = std::env::var_os("PALMETTE_SHARED")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"));
    let folder = shared.join("data/arch");
    if !folder.is_dir() {
        println!("skipped: no development data at {}", folder.display());
        return;
    }
    for (name, dataset, millions) in [
        ("nasrec_criteo_small", "criteo", 2.20),
        ("nasrec_criteo_full", "criteo", 1.45),
        ("nasrec_avazu_small", "avazu", 3.08),
        ("nasrec_avazu_full", "avazu", 1.87),
    ] {
        let file = folder.join(format!("{name}.json"));
        let file = file.to_str().unwrap();
        let output = palmette(&["cost", file, "--dataset", dataset, "--format", "json"]);
        let sheet: Value = serde_json::from_slice(&output.stdout).unwrap();
        let ratio = sheet["macs"].as_f64().unwrap() / (millions * 1e6);
        assert!((ratio - 1.0).abs() < 0.01, "{name}: {ratio}");
    }
}

#[test]
fn limits_that_need_the_machine() {
    let file = Document::new("measured", &architecture());
    let cost = |limit: &str| {
        let fixed = ["cost", file.path(), "--dataset", "kdd12", "--table-cap", "100"];
        palmette(&[&fixed, &["--format", "json", "--limit", limit][..]].concat())
    };
    let read = |output: &Output| -> Value { serde_json::from_slice(&output.stdout).unwrap() };
    let output = cost("latency_us=1000000000@3");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let sheet = read(&output);
    assert_eq!(sheet["latency_us"][0]["batch"], 3);
    assert!(sheet["latency_us"][0]["median"].as_f64().unwrap() > 0.0);
    assert!(sheet["peak_memory"].as_u64() > sheet["memory"].as_u64());
    let output = cost("latency_us=0.001@3,macs=1G");
    assert_eq!(output.status.code(), Some(1));
    assert!(read(&output)["violations"][0].as_str().unwrap().contains("at 3 rows"));
    let output = cost("peak_memory=1MiB");
    assert_eq!(output.status.code(), Some(1));
    assert!(read(&output)["violations"][0].as_str().unwrap().starts_with("peak_memory"));
    for (limit, expect) in [("latency_us=5", "300@1"), ("peak_memory=much", "peak_memory")] {
        let output = cost(limit);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(expect), "{}", stderr(&output));
    }
}
