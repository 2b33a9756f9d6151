//! Virtual environments that hold exactly what a requirements file pins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::run;

/// Makes the environment, or brings it to what `requirements` says, and returns its interpreter.
///
/// A copy of the requirements inside the environment tells that it is complete: it is written
/// last, so an interrupted installation is taken up again.
pub fn environment(folder: &Path, requirements: &Path) -> anyhow::Result<PathBuf> {
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let wanted = fs::read_to_string(requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    let stamp = folder.join("requirements-installed.txt");
    if python.exists() && fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(python);
    }
    eprintln!("making {} (once)", folder.display());
    let base = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    run(Command::new(&base).args(["-m", "venv"]).arg(folder)).with_context(|| {
        format!("Python 3 with its venv module is needed: `{}`", base.display())
    })?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    run(Command::new(&python).args(pip).arg(requirements))
        .context("pip could not install the pinned packages; is a package index reachable?")?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(python)
}

/// A folder inside the environment's packages, where there is one.
pub fn library_folder(environment: &Path, inside: &str) -> Option<PathBuf> {
    let versions = fs::read_dir(environment.join("lib")).ok()?;
    let mut found = versions
        .filter_map(|version| Some(version.ok()?.path().join("site-packages").join(inside)));
    found.find(|folder| folder.is_dir())
}
