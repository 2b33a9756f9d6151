//! Chores of the workspace: `cargo xtask test`, `oracle`, `python` and `peers`.

mod oracle;
mod package;
mod peers;
mod python;
mod test;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};

const USAGE: &str = "\
usage: cargo xtask <chore>

  test [ARGUMENTS]  run all tests; arguments go to `cargo test`
                    (makes .venv with onnx, onnxruntime and numpy if it is missing)
  python            install the Python package beside PyTorch and run its tests
                    (makes target/torch-venv, several gigabytes)
  peers             make target/peers-venv, what `palmette bench engine --peers` compares with
                    (PyTorch, onnxruntime, polars: several gigabytes)
  oracle            compute the committed vectors anew with the reference libraries in oracle/
                    (makes target/oracle-venv; the tests themselves need none of these)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.split_first() {
        Some((chore, rest)) if chore == "test" => test::run(rest),
        Some((chore, [])) if chore == "oracle" => oracle::run(),
        Some((chore, [])) if chore == "python" => package::run(),
        Some((chore, [])) if chore == "peers" => peers::run(),
        Some((chore, [])) if chore == "help" || chore == "--help" || chore == "-h" => {
            print!("{USAGE}");
            Ok(())
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's root.
fn root() -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    Ok(root.context("xtask must lie in the workspace")?.to_path_buf())
}

/// Runs a command; any exit code but 0 is an error that shows the command.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}
