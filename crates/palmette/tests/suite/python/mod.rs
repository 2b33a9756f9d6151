//! Running Python from tests: `PALMETTE_PYTHON` names an interpreter with onnx and onnxruntime.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

/// The interpreter, or `None` after a line that says why the test is skipped.
pub fn interpreter(test: &str) -> Option<PathBuf> {
    let python = std::env::var_os("PALMETTE_PYTHON").map(PathBuf::from);
    if python.is_none() {
        eprintln!("skipped: {test} needs PALMETTE_PYTHON, which `cargo xtask test` sets");
    }
    python
}

/// An input of a model.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Input {
    F32 { shape: Vec<usize>, data: Vec<f32> },
    I64 { shape: Vec<usize>, data: Vec<i64> },
}

/// An output of a model.
#[derive(Deserialize, Debug, PartialEq)]
pub struct Output {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

/// Checks a model with `onnx` and runs it with `onnxruntime`.
pub fn run_onnx(
    python: &Path,
    model: &Path,
    inputs: &BTreeMap<&str, Input>,
) -> BTreeMap<String, Output> {
    let feed = model.with_extension("inputs.json");
    std::fs::write(&feed, serde_json::to_vec(inputs).unwrap()).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/python/run_onnx.py");
    let output = Command::new(python).arg(script).arg(model).arg(&feed).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    serde_json::from_slice(&output.stdout).unwrap()
}
