//! `cargo xtask test`: every test, Python-side checks included.

use std::path::PathBuf;
use std::process::Command;

use crate::{python, root};

/// The Python module has no Rust tests, and PyO3 would make shared dependencies compile again.
const WORKSPACE: [&str; 3] = ["--workspace", "--exclude", "palmette-py"];

/// Makes the virtual environment and runs the whole suite in the release profile, so that heavy
/// dependencies compile once; `arguments` go to `cargo test`. The environment also brings
/// NVRTC, so that the tests compile every GPU kernel on a machine without a GPU.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    let root = root()?;
    let requirements = root.join("python/requirements-test.txt");
    let python = python::environment(&root.join(".venv"), &requirements)?;
    let mut paths: Vec<PathBuf> =
        python::library_folder(&root.join(".venv"), "nvidia/cu13/lib").into_iter().collect();
    paths.extend(std::env::var_os("LD_LIBRARY_PATH").iter().flat_map(std::env::split_paths));
    let test = |arguments: &[&str]| {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&root).env("PALMETTE_PYTHON", &python);
        if !paths.is_empty() {
            command.env("LD_LIBRARY_PATH", std::env::join_paths(&paths)?);
        }
        crate::run(command.args(["test", "--release"]).args(arguments))
    };
    if !arguments.is_empty() {
        let mut all: Vec<&str> = arguments.iter().map(String::as_str).collect();
        if !arguments.iter().any(|a| a == "-p" || a.starts_with("--package")) {
            all.splice(0..0, WORKSPACE);
        }
        return test(&all);
    }
    // Plain `cargo test` would also build every example to its end, each with the engine's kernels;
    // clippy checks that they compile.
    test(&[&WORKSPACE[..], &["--lib", "--bins", "--tests"]].concat())?;
    test(&[&WORKSPACE[..], &["--doc"]].concat())
}
