//! `cargo xtask python`: the Python package, installed and tested beside PyTorch.

use std::path::Path;
use std::process::Command;

use crate::{python, root};

/// Makes the environment with PyTorch, installs the package the way users do and runs its tests.
pub fn run() -> anyhow::Result<()> {
    let root = root()?;
    let requirements = root.join("python/requirements-torch.txt");
    let python = python::environment(&root.join("target/torch-venv"), &requirements)?;
    let install = ["-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "."];
    // Without build isolation pip looks for the program `maturin` on the path.
    let programs = python.parent().map(Path::to_path_buf);
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(programs.into_iter().chain(std::env::split_paths(&inherited)))?;
    crate::run(Command::new(&python).current_dir(&root).env("PATH", path).args(install))?;
    let tests = ["-m", "unittest", "discover", "-s", "python/tests", "-v"];
    crate::run(Command::new(&python).current_dir(&root).args(tests))
}
