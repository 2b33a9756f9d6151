//! `cargo xtask test`: every test, Python-side checks included.

use std::process::Command;

use crate::{python, root};

/// Makes the virtual environment and runs the whole suite in the release profile, so that heavy
/// dependencies compile once; `arguments` go to `cargo test`. The environment also brings
/// NVRTC, so that the tests compile every GPU kernel on a machine without a GPU.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    let root = root()?;
    let requirements = root.join("python/requirements-test.txt");
    let python = python::environment(&root.join(".venv"), &requirements)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    if let Some(folder) = python::library_folder(&root.join(".venv"), "nvidia/cu13/lib") {
        let mut paths = vec![folder];
        paths.extend(std::env::var_os("LD_LIBRARY_PATH").iter().flat_map(std::env::split_paths));
        command.env("LD_LIBRARY_PATH", std::env::join_paths(paths)?);
    }
    command.current_dir(&root).env("PALMETTE_PYTHON", &python).args(["test", "--release"]);
    if !arguments.iter().any(|a| a == "-p" || a.starts_with("--package")) {
        // The Python module has no Rust tests, and PyO3 would make shared dependencies compile again.
        command.args(["--workspace", "--exclude", "palmette-py"]);
    }
    crate::run(command.args(arguments))
}
