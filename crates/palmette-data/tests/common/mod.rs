//! Small logs for the tests.
#![allow(dead_code)] // each test program uses some of it

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use palmette_data::{Dataset, Observer, PrepareOptions, Schema, Stage, prepare};
use palmette_random::{Draw, stream};

/// A log in Criteo's form: label, 13 integers, 26 hexadecimal ids, some of them missing.
pub fn criteo_text(rows: usize, seed: u64) -> String {
    let mut text = String::new();
    let mut random = stream(seed, "test/criteo", 0);
    for _ in 0..rows {
        text.push(if random.chance(0.25) { '1' } else { '0' });
        for _ in 0..13 {
            text.push('\t');
            if random.chance(0.8) {
                text.push_str(&(random.below(2000) as i64 - 3).to_string());
            }
        }
        for field in 0..26 {
            text.push('\t');
            if random.chance(0.9) {
                let value = random.below(10u64.pow(1 + field % 5)) as u32;
                text.push_str(&format!("{:08x}", value.wrapping_mul(0x9e37_79b9)));
            }
        }
        text.push('\n');
    }
    text
}

/// Writes a file and returns its path.
pub fn write(dir: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// A schema from its text.
pub fn schema(text: &str) -> Schema {
    Schema::parse(text, Path::new("test.toml")).unwrap()
}

/// Prepares `inputs` under `dir/out`.
pub fn run(
    dir: &Path,
    schema: Schema,
    inputs: &[PathBuf],
) -> Result<Dataset, palmette_data::DataError> {
    prepare(&PrepareOptions::new(schema, inputs.to_vec(), dir.join("out")), &() as &dyn Observer)
}

/// The files under a directory with their contents, by relative path; locks left out.
pub fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut waiting = vec![dir.to_path_buf()];
    while let Some(next) = waiting.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                files.push((
                    path.strip_prefix(dir).unwrap().to_path_buf(),
                    std::fs::read(&path).unwrap(),
                ));
            }
        }
    }
    files.sort();
    files
}

/// Asks to stop after a number of progress reports.
pub struct StopAfter(pub AtomicU64);

impl Observer for StopAfter {
    fn progress(&self, _: Stage, _: u64, _: u64, _: u64) {
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_sub(1)));
    }

    fn stop(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}
