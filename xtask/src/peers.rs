//! `cargo xtask peers`: the Python environment that the engine is compared with.

use crate::{python, root};

/// Makes the environment and says how to use it.
pub fn run() -> anyhow::Result<()> {
    let root = root()?;
    let requirements = root.join("bench/peers/requirements-engine.txt");
    let python = python::environment(&root.join("target/peers-venv"), &requirements)?;
    println!("palmette bench engine --peers {}", python.display());
    Ok(())
}
