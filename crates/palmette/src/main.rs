//! The `palmette` binary: one verb a file under `commands/`.

mod bench_page;
mod commands;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(
    name = "palmette",
    version,
    about = "Grow a supernet, search the architecture, hand over a trained model",
    after_help = "Start with `palmette quickstart`: it makes a click log, searches, trains and writes a report."
)]
struct Cli {
    #[command(flatten)]
    console: palmette::console::ConsoleArgs,
    #[command(subcommand)]
    verb: commands::Verb,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let console = palmette::console::Console::new(&cli.console);
    match commands::run(cli.verb, &console) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            console.error(&error);
            ExitCode::from(2)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
