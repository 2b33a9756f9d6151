//! `cargo xtask oracle`: committed vectors, computed anew by other people's code.

use std::fs;
use std::process::Command;

use anyhow::{Context, bail};

use crate::{python, root};

/// A script under `oracle/` and the file it writes.
struct Vectors {
    script: &'static str,
    output: &'static str,
}

const VECTORS: &[Vectors] = &[
    Vectors { script: "graphs.py", output: "crates/palmette-space/src/nauty.json" },
    Vectors { script: "metrics.py", output: "crates/palmette-ctr/src/metrics/vectors.json" },
    Vectors { script: "operators.py", output: "crates/palmette-engine/tests/suite/vectors.json" },
];

/// Runs every script; `git diff` then shows whether anything moved.
pub fn run() -> anyhow::Result<()> {
    let root = root()?;
    let folder = root.join("oracle");
    let requirements = folder.join("requirements.txt");
    let python = python::environment(&root.join("target/oracle-venv"), &requirements)?;
    for Vectors { script, output } in VECTORS {
        let output = root.join(output);
        crate::run(Command::new(&python).arg(folder.join(script)).arg(&output))?;
        let size = fs::metadata(&output)
            .with_context(|| format!("{script} did not write {}", output.display()))?
            .len();
        if size == 0 {
            bail!("{script} wrote an empty {}", output.display());
        }
        println!("{script} -> {} ({size} bytes)", output.display());
    }
    Ok(())
}
