//! The `palmette` binary: one verb a file under `commands/`.

mod commands;

use std::process::ExitCode;

use clap::Parser;
use palmette::console::Format;

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
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
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

/// Prints help, or what is wrong with the command line: as JSON where that was asked for.
fn usage(error: &clap::Error) -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let json = words.iter().any(|word| word == "--format=json")
        || words.windows(2).any(|pair| pair[0] == "--format" && pair[1] == "json");
    if json && error.use_stderr() {
        let message = error.to_string();
        Format::Json.print_error(message.trim_start_matches("error: ").trim_end(), &[]);
    } else {
        // Nothing is left to do where even the message cannot be printed.
        let _ = error.print();
    }
    ExitCode::from(error.exit_code() as u8)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
