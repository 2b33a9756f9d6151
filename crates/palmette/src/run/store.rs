//! The journal of a run: what is finished, a line each.
//!
//! Files appear under their names only when they are complete (temporary file,
//! fsync, rename), and the journal grows by whole lines. A process may be
//! killed at any moment: the next one finds finished files and finished events.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use super::files::RunFiles;
use crate::measured::peak_memory;

/// A run's folder and its journal.
pub struct RunStore {
    files: RunFiles,
    journal: File,
    events: Vec<Value>,
    /// Held while this process works on the run.
    _lock: File,
}

impl RunStore {
    /// Opens a run folder, makes it where it does not exist, and reads its journal.
    ///
    /// # Errors
    /// A folder in which another process works; a journal that something else wrote into, whose
    /// line is named.
    pub fn open(dir: &Path) -> Result<Self> {
        let files = RunFiles::open(dir)?;
        let lock = lock(dir)?;
        let path = dir.join("journal.jsonl");
        let mut journal = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let mut text = Vec::new();
        journal.read_to_end(&mut text)?;
        // A line without its newline was being written when the process died.
        let whole = text.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        if whole < text.len() {
            journal.set_len(whole as u64)?;
        }
        let events = parse_events(&path, &text[..whole])?;
        Ok(Self { files, journal, events, _lock: lock })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        self.files.dir()
    }

    /// The other files of the run.
    pub fn files(&self) -> &RunFiles {
        &self.files
    }

    /// Takes the folder back if nothing has happened in it: a run that was refused leaves no trace.
    pub fn discard_if_empty(self) {
        if !self.events.is_empty() {
            return;
        }
        let dir = self.dir();
        for file in ["config.toml", "env.json", "journal.jsonl", LOCK] {
            let _ = fs::remove_file(dir.join(file));
        }
        // Folders that hold anything else stay.
        for folder in ["checkpoints", "best", "predictions", ""] {
            let _ = fs::remove_dir(dir.join(folder));
        }
    }

    /// All events so far.
    pub fn events(&self) -> &[Value] {
        &self.events
    }

    /// The event `kind` of unit `id`, if it happened.
    pub fn find(&self, kind: &str, id: &str) -> Option<&Value> {
        self.events.iter().find(|e| e["event"] == kind && e["id"] == id)
    }

    /// Events of one kind, in order.
    pub fn all(&self, kind: &str) -> impl Iterator<Item = &Value> {
        let kind = kind.to_owned();
        self.events.iter().filter(move |e| e["event"] == kind.as_str())
    }

    /// Appends an event; `time` holds what differs from one machine to another.
    pub fn append(&mut self, kind: &str, id: &str, result: Value, seconds: f64) -> Result<Value> {
        let mut event = Map::new();
        event.insert("event".into(), kind.into());
        event.insert("id".into(), id.into());
        event.insert("result".into(), result);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let at = now.as_millis() as f64 / 1e3;
        // What the process has held so far differs between machines as well.
        let peak = peak_memory();
        let time = serde_json::json!({ "at": at, "seconds": seconds, "peak_memory": peak });
        event.insert("time".into(), time);
        let event = Value::Object(event);
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        let written = self.journal.write_all(&line).and_then(|()| self.journal.sync_data());
        written.with_context(|| {
            format!("cannot write {}", self.dir().join("journal.jsonl").display())
        })?;
        self.events.push(event);
        Ok(self.events[self.events.len() - 1]["result"].clone())
    }
}

/// Its lock goes when the process does, however that ends; the file stays.
const LOCK: &str = "lock";

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK);
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            bail!("{}: another process is working on this run", dir.display())
        }
        // A file system without locks is no reason to stop.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// Events of a run that may still be going on; nothing is written.
pub fn read_journal(dir: &Path) -> Result<Vec<Value>> {
    let path = dir.join("journal.jsonl");
    let text = fs::read(&path)
        .with_context(|| format!("{} is no run folder (no journal.jsonl)", dir.display()))?;
    let whole = text.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    parse_events(&path, &text[..whole])
}

fn parse_events(path: &Path, text: &[u8]) -> Result<Vec<Value>> {
    let lines = text.split(|&b| b == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    lines
        .map(|(number, line)| {
            serde_json::from_slice(line).with_context(|| {
                format!("{}: line {} is not a journal event", path.display(), number + 1)
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_is_cut_and_a_foreign_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = RunStore::open(dir.path()).unwrap();
        store.append("plan", "", serde_json::json!({ "steps": 3 }), 0.1).unwrap();
        drop(store);
        let path = dir.path().join("journal.jsonl");
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{whole}{{\"event\":\"tri")).unwrap();
        let store = RunStore::open(dir.path()).unwrap();
        assert_eq!(store.find("plan", "").unwrap()["result"]["steps"], 3);
        drop(store);
        assert_eq!(fs::read_to_string(&path).unwrap(), whole);
        fs::write(&path, format!("{whole}hello\n")).unwrap();
        let error = RunStore::open(dir.path()).err().unwrap();
        assert!(format!("{error:#}").contains("line 2"), "{error:#}");
    }
}
