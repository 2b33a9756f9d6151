//! What a person sees: output format, progress, errors.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use clap::{Args, ValueEnum};
use serde::Serialize;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people.
    #[default]
    Text,
    /// One JSON document for scripts.
    Json,
}

impl Format {
    /// Prints an error on standard error: one line, or `{"error": ..., "causes": [...]}`.
    pub fn print_error(self, message: &str, causes: &[String]) {
        match self {
            Self::Text => {
                let causes: String = causes.iter().map(|cause| format!(": {cause}")).collect();
                eprintln!("error: {message}{causes}");
            }
            Self::Json => {
                eprintln!("{:#}", serde_json::json!({ "error": message, "causes": causes }));
            }
        }
    }
}

/// Options of every verb.
#[derive(Args, Clone, Debug)]
pub struct ConsoleArgs {
    /// Print results and errors as text for people or as one JSON document
    #[arg(long, global = true, value_enum, default_value_t)]
    pub format: Format,
    /// Do not draw progress bars
    #[arg(long, global = true)]
    pub quiet: bool,
    /// Worker threads (default: all cores); results do not depend on it
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
}

/// Prints results, progress and errors as the user asked.
#[derive(Clone, Debug)]
pub struct Console {
    /// The chosen output format.
    pub format: Format,
    /// Draw no progress.
    pub quiet: bool,
}

impl Console {
    /// Reads the options and sets up the thread pool.
    pub fn new(args: &ConsoleArgs) -> Self {
        if let Some(threads) = args.threads {
            // this only fails if the pool exists, and nothing has run before
            let _ = rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global();
        }
        // Scripts that ask for JSON find nothing else on either stream.
        Self { format: args.format, quiet: args.quiet || args.format == Format::Json }
    }

    /// Whether progress bars may be drawn: standard error is a terminal and nobody asked for quiet.
    pub fn draws(&self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }

    /// Prints a result: `text` for people, or `value` as JSON.
    pub fn result<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        match self.format {
            Format::Text => writeln!(out, "{}", text().trim_end())?,
            Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(value)?)?,
        }
        Ok(())
    }

    /// One line of progress for people, on standard error.
    pub fn note(&self, line: &str) {
        if !self.quiet {
            eprintln!("{line}");
        }
    }

    /// Prints an error with its causes on standard error.
    pub fn error(&self, error: &anyhow::Error) {
        let mut said = error.to_string();
        let mut causes: Vec<String> = Vec::new();
        // Some errors end with the words of their cause.
        for cause in error.chain().skip(1).map(ToString::to_string) {
            if !said.ends_with(&cause) {
                causes.push(cause.clone());
                said = cause;
            }
        }
        self.format.print_error(&error.to_string(), &causes);
    }

    /// Says that the user stopped the work and how it goes on; the exit code is that of Ctrl-C.
    pub fn stopped(&self, how: &str) -> std::process::ExitCode {
        match self.format {
            Format::Text => self.note(&format!("stopped; {how}")),
            Format::Json => self.format.print_error(&format!("stopped; {how}"), &[]),
        }
        std::process::ExitCode::from(130)
    }
}

impl Console {
    /// A bar for `total` units on a terminal, plain lines elsewhere.
    pub fn progress(&self, total: u64, what: &str) -> Progress {
        let bar = if self.draws() {
            let bar = indicatif::ProgressBar::new(total);
            if let Ok(style) = indicatif::ProgressStyle::with_template(
                "{prefix:24!} {wide_bar} {human_pos}/{human_len} {per_sec:>12} {eta:>4} left",
            ) {
                bar.set_style(style);
            }
            bar.set_prefix(what.to_owned());
            Some(bar)
        } else {
            None
        };
        let lines = !self.quiet && bar.is_none();
        let now = std::time::Instant::now();
        Progress {
            bar,
            what: what.into(),
            total,
            lines,
            start: now,
            done: AtomicU64::new(0),
            last_line: AtomicU64::new(0),
        }
    }
}

/// Progress of one piece of work, which several threads may do.
pub struct Progress {
    bar: Option<indicatif::ProgressBar>,
    what: String,
    total: u64,
    lines: bool,
    start: std::time::Instant,
    done: AtomicU64,
    last_line: AtomicU64,
}

/// Seconds between plain lines of progress.
const LINE_SECONDS: u64 = 20;

impl Progress {
    /// Units done so far.
    pub fn set(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
        self.show(done);
    }

    /// More units are done.
    pub fn add(&self, units: u64) {
        self.show(self.done.fetch_add(units, Ordering::Relaxed) + units);
    }

    fn show(&self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
        let line = self.start.elapsed().as_secs() / LINE_SECONDS;
        if self.lines && self.last_line.fetch_max(line, Ordering::Relaxed) < line {
            let seconds = self.start.elapsed().as_secs_f64();
            let rate = done as f64 / seconds;
            let left = self.total.saturating_sub(done) as f64 / rate.max(1e-9);
            eprintln!("{}: {done} of {}, {rate:.0}/s, {left:.0} s left", self.what, self.total);
        }
    }

    /// The work is done; the bar leaves.
    pub fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let seconds = self.start.elapsed().as_secs_f64();
        if self.lines && seconds > 2.0 {
            eprintln!("{}: {} in {seconds:.1} s", self.what, self.total);
        }
    }
}
