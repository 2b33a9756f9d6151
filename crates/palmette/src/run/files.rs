//! Files of a run: whole or not there, and checkpoints that know their own hash.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use palmette_ctr::train::TrainingProgress;
use palmette_engine::Model;
use sha2::{Digest, Sha256};

/// The files of a run folder but for the journal; workers may hold it while the journal grows.
#[derive(Clone, Debug)]
pub struct RunFiles {
    dir: PathBuf,
}

impl RunFiles {
    /// Makes the folder and its parts where they do not exist.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        for folder in ["", "checkpoints", "best", "predictions"] {
            let folder = dir.join(folder);
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(Self { dir: dir.into() })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
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
    pub fn save_checkpoint(
        &self,
        task: &str,
        progress: &TrainingProgress,
        model: &Model<f32>,
    ) -> Result<()> {
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
    /// `model` is as it was unless there is one.
    pub fn load_checkpoint(
        &self,
        task: &str,
        model: &mut Model<f32>,
    ) -> Result<Option<TrainingProgress>> {
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
    Ok(hexadecimal(&hash.hash.finalize()))
}

/// SHA-256 of bytes, in hexadecimal.
pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
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
    attempt().map_err(|error| {
        // Half a file is of no use; where there is none, there is nothing to remove.
        let _ = fs::remove_file(&temporary);
        // What `write` reports of its input is not a failure to write.
        let cause = error.root_cause();
        let json = cause.downcast_ref::<serde_json::Error>().is_some_and(serde_json::Error::is_io);
        if json || cause.is::<io::Error>() {
            error.context(format!("cannot write {}", path.display()))
        } else {
            error
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// JSON that could not be written was reported without the name of its file.
    #[test]
    fn a_failure_to_write_names_the_file() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env.json");
        let json = write_whole(&path, |_| Ok(serde_json::to_writer(Full, &1)?)).unwrap_err();
        let plain = write_whole(&path, |_| Ok(Full.write_all(b"1")?)).unwrap_err();
        for error in [json, plain] {
            assert!(format!("{error:#}").contains("env.json: "), "{error:#}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
