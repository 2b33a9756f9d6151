//! The run folder: the only code that writes files of a run.
//!
//! Every file appears under its name only when it is complete (temporary file,
//! fsync, rename), and the journal grows by whole lines. A process may be
//! killed at any moment: the next one finds finished files and finished events.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use palmette_engine::Model;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// A run's folder and its journal.
pub struct RunStore {
    dir: PathBuf,
    journal: File,
    events: Vec<Value>,
}

impl RunStore {
    /// Opens a run folder, makes it where it does not exist, and reads its journal.
    ///
    /// # Errors
    /// A journal that something else wrote into; the error names the line.
    pub fn open(dir: &Path) -> Result<Self> {
        for folder in ["", "checkpoints", "best", "predictions"] {
            let folder = dir.join(folder);
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
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
        Ok(Self { dir: dir.into(), journal, events })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
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
        let at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        event.insert("time".into(), serde_json::json!({ "at": at, "seconds": seconds }));
        let event = Value::Object(event);
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        self.journal.write_all(&line).context("cannot write the journal")?;
        self.journal.sync_data().context("cannot write the journal")?;
        self.events.push(event);
        Ok(self.events[self.events.len() - 1]["result"].clone())
    }

    /// Writes a file of the run as a whole.
    pub fn write(
        &self,
        name: &str,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<PathBuf> {
        let path = self.dir.join(name);
        write_whole(&path, write)?;
        Ok(path)
    }

    /// SHA-256 of a file of the run.
    pub fn sha256(&self, name: &str) -> Result<String> {
        file_sha256(&self.dir.join(name))
    }

    fn checkpoint_path(&self, task: &str) -> PathBuf {
        self.dir.join("checkpoints").join(format!("{}.bin", task.replace('/', "-")))
    }

    /// Saves a model with `progress`: a length, JSON, raw numbers, and the SHA-256 of it all.
    pub fn save_checkpoint(&self, task: &str, progress: &Value, model: &Model<f32>) -> Result<()> {
        write_whole(&self.checkpoint_path(task), |out| {
            let mut out =
                Hashing { inner: BufWriter::with_capacity(1 << 20, out), hash: Sha256::new() };
            let header = serde_json::to_vec(progress)?;
            out.write_all(&(header.len() as u64).to_le_bytes())?;
            out.write_all(&header)?;
            model.write_state(&mut out)?;
            let Hashing { mut inner, hash } = out;
            inner.write_all(&hash.finalize())?;
            inner.flush()?;
            Ok(())
        })
    }

    /// Loads what [`Self::save_checkpoint`] saved, or nothing where there is no intact checkpoint.
    ///
    /// The weights of `model` are then unspecified; the caller starts again with fresh ones.
    pub fn load_checkpoint(&self, task: &str, model: &mut Model<f32>) -> Result<Option<Value>> {
        let path = self.checkpoint_path(task);
        let Ok(mut file) = File::open(&path) else { return Ok(None) };
        let len = file.metadata()?.len();
        let expected = model.state_bytes();
        let mut header_len = [0u8; 8];
        if len < 40 || file.read_exact(&mut header_len).is_err() {
            return Ok(None);
        }
        let header_len = u64::from_le_bytes(header_len);
        if header_len.checked_add(40 + expected) != Some(len) || file_hash_is_wrong(&path, len)? {
            return Ok(None);
        }
        let mut header = vec![0u8; header_len as usize];
        file.read_exact(&mut header)?;
        let progress = serde_json::from_slice(&header)?;
        model.read_state(&mut BufReader::with_capacity(1 << 20, file.take(expected)))?;
        Ok(Some(progress))
    }

    /// Removes a checkpoint that is no longer needed.
    pub fn drop_checkpoint(&self, task: &str) {
        // A leftover costs disk and nothing else.
        let _ = fs::remove_file(self.checkpoint_path(task));
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

/// The last 32 bytes must be the hash of what stands before them.
fn file_hash_is_wrong(path: &Path, len: u64) -> Result<bool> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut hash = Hashing { inner: io::sink(), hash: Sha256::new() };
    io::copy(&mut (&mut file).take(len - 32), &mut hash)?;
    let mut stored = [0u8; 32];
    file.read_exact(&mut stored)?;
    Ok(hash.hash.finalize().as_slice() != stored)
}

struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// SHA-256 of a file, in hexadecimal.
pub fn file_sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut hash = Hashing { inner: io::sink(), hash: Sha256::new() };
    io::copy(&mut file, &mut hash)?;
    Ok(hash.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes a file under a temporary name, syncs it and renames it.
pub fn write_whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let Some(name) = path.file_name() else { bail!("{} is not a file name", path.display()) };
    let temporary = path.with_file_name(format!(".{}.tmp", name.to_string_lossy()));
    let attempt = || -> Result<()> {
        let mut file = File::create(&temporary)?;
        write(&mut file)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        Ok(())
    };
    attempt().with_context(|| format!("cannot write {}", path.display()))
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
        assert_eq!(fs::read_to_string(&path).unwrap(), whole);
        fs::write(&path, format!("{whole}hello\n")).unwrap();
        let error = RunStore::open(dir.path()).err().unwrap();
        assert!(format!("{error:#}").contains("line 2"), "{error:#}");
    }
}
