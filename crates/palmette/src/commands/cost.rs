use std::process::ExitCode;

use crate::console::Console;

#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: &Args, _console: &Console) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
