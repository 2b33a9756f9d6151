//! `cargo xtask test`: every test, Python-side checks included.

use std::process::Command;

use crate::{python, root};

/// Makes the virtual environment and runs the whole suite in the release profile, so that heavy
/// dependencies compile once; `arguments` go to `cargo test`.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    let root = root()?;
    let requirements = root.join("python/requirements-test.txt");
    let python = python::environment(&root.join(".venv"), &requirements)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(&root).env("PALMETTE_PYTHON", &python).args(["test", "--release"]);
    if !arguments.iter().any(|a| a == "-p" || a.starts_with("--package")) {
        command.arg("--workspace");
    }
    crate::run(command.args(arguments))
}
