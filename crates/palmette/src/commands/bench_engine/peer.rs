//! The other side: a Python process that is kept alive and answers over its pipes.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A running peer.
pub struct Peer {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    log: PathBuf,
}

/// How peers are started.
#[derive(Clone, Debug)]
pub struct PeerOptions {
    /// Python with PyTorch.
    pub python: PathBuf,
    /// Folder of the scripts.
    pub scripts: PathBuf,
    /// Threads that the peer may use.
    pub threads: usize,
}

impl Peer {
    /// Starts `script` with what it prints going to a file in `folder`; `preload` is a library
    /// that the dynamic linker loads first, such as an allocator.
    pub fn start(
        options: &PeerOptions,
        script: &str,
        folder: &Path,
        preload: Option<&Path>,
    ) -> Result<Self> {
        let path = options.scripts.join(script);
        if !path.is_file() {
            bail!(
                "no {}: run from the root of the repository, or name the folder of the peers' \
                 scripts with --scripts",
                path.display()
            );
        }
        let log = folder.join("peer.log");
        let output = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(&options.python);
        command.arg(&path).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(output);
        for name in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"] {
            command.env(name, options.threads.to_string());
        }
        if let Some(library) = preload {
            command.env("LD_PRELOAD", library);
        }
        let mut child = command.spawn().with_context(|| {
            format!("cannot start the peers' Python `{}`", options.python.display())
        })?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the peer has no pipes");
        };
        Ok(Self { child, requests: Some(requests), answers: BufReader::new(answers), log })
    }

    /// Sends a request and waits for its answer.
    pub fn ask(&mut self, request: &Value) -> Result<Value> {
        let answer = self.exchange(request);
        let answer = answer.with_context(|| {
            format!("the peer ended while it was asked {request}\n{}", self.last_lines())
        })?;
        if let Some(error) = answer.get("error").and_then(Value::as_str) {
            bail!("the peer could not do {request}: {error}\n{}", self.last_lines());
        }
        Ok(answer)
    }

    fn exchange(&mut self, request: &Value) -> Result<Value> {
        let requests = self.requests.as_mut().context("closed")?;
        writeln!(requests, "{request}")?;
        requests.flush()?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Steps of a variant and their seconds.
    pub fn time(&mut self, variant: &str, steps: u64) -> Result<f64> {
        let answer = self.ask(&json!({ "time": variant, "steps": steps }))?;
        answer["seconds"].as_f64().context("the peer's answer has no seconds")
    }

    fn last_lines(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // End of input ends the peer; a peer that hangs is killed.
        drop(self.requests.take());
        for _ in 0..50 {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
