//! A tiny click log, and the real binary on it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use palmette_random::{Draw, stream};
use serde_json::Value;

/// The schema that belongs to [`log`].
pub const SCHEMA: &str = r#"
label = "click"
dense = ["price", "age"]
categorical = ["user", "item", "site"]
encoder = { kind = "dictionary", min_count = 2 }
transform = "standard"
keep = ["day"]
group = "user"
[split]
by = "random"
fractions = [0.8, 0.1, 0.1]
seed = 1
"#;

/// Counts that take a second or two.
pub const CONFIG: &str = r#"
[space]
name = "nasrec-full"
blocks = 2
dense_widths = [16, 32]
sparse_widths = [16]
[search]
evaluations = 16
top_k = 2
[search.supernet]
steps = 40
warmup_steps = 4
batch_size = 64
[search.ranking]
finetune_steps = 2
batch_size = 64
validation_rows = 200
[train]
learning_rates = [0.05, 0.1]
baselines = ["lr", "fm"]
[train.network]
batch_size = 128
[run]
checkpoint_every = 5
"#;

/// A log whose clicks depend on pairs of values, with missing ones.
pub fn log(seed: u64, rows: u64) -> String {
    let mut text = String::from("click,price,age,user,item,site,day\n");
    for row in 0..rows {
        let mut random = stream(seed, "test/log", row);
        let (user, item, site) = (random.below(60), random.below(40), random.below(5));
        let age = 18 + random.below(50);
        let score = ((user * 7 + item * 3) % 11) as f64 / 11.0 - 0.6 + 0.1 * site as f64;
        let click = u8::from(random.unit() < 1.0 / (1.0 + (-3.0 * score).exp()));
        let price =
            if random.chance(0.1) { String::new() } else { format!("{:.2}", random.unit() * 20.0) };
        let site = if random.chance(0.05) { String::new() } else { format!("site{site}") };
        let day = row * 7 / rows.max(1);
        let _ = writeln!(text, "{click},{price},{age},u{user},i{item},{site},{day}");
    }
    text
}

/// A folder with a log, its schema, a configuration and, once prepared, a dataset.
pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(place.path("log.csv"), log(1, 4000)).unwrap();
        std::fs::write(place.path("schema.toml"), SCHEMA).unwrap();
        std::fs::write(place.path("search.toml"), CONFIG).unwrap();
        place
    }

    pub fn prepared() -> Self {
        let place = Self::new();
        succeed(&place.palmette(&place.prepare_arguments("dataset")));
        place
    }

    pub fn prepare_arguments(&self, dataset: &str) -> Vec<String> {
        ["prepare", "--schema", "schema.toml", "log.csv", "-o", dataset].map(String::from).into()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command, to be run in the folder.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_palmette"));
        command.current_dir(self.folder.path()).args(arguments).arg("--quiet");
        command
    }

    pub fn palmette<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a verb that prints JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.command(arguments).args(["--format", "json"]).output().unwrap();
        succeed(&output);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn read(&self, name: &str) -> String {
        let path = self.path(name);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    pub fn sha256(&self, name: &str) -> String {
        palmette::run::file_sha256(&self.path(name)).unwrap()
    }

    /// The journal without what a clock wrote.
    pub fn journal(&self, run: &str) -> Vec<Value> {
        let without_time = |line: &str| {
            let mut event: Value = serde_json::from_str(line).unwrap();
            event.as_object_mut().unwrap().remove("time");
            event
        };
        self.read(&format!("{run}/journal.jsonl")).lines().map(without_time).collect()
    }

    /// Makes of `run` the run `cut`, killed when its journal had these first lines.
    pub fn cut_after(&self, run: &str, lines: usize, cut: &str) {
        let journal = self.read(&format!("{run}/journal.jsonl"));
        self.cut_at(run, journal.split_inclusive('\n').take(lines).map(str::len).sum(), cut);
    }

    /// Makes of `run` the run `cut`, killed when its journal had these first bytes.
    pub fn cut_at(&self, run: &str, bytes: usize, cut: &str) {
        let journal = self.read(&format!("{run}/journal.jsonl"));
        std::fs::create_dir_all(self.path(cut)).unwrap();
        std::fs::write(self.path(cut).join("journal.jsonl"), &journal[..bytes]).unwrap();
        for file in ["config.toml", "env.json"] {
            std::fs::copy(self.path(run).join(file), self.path(cut).join(file)).unwrap();
        }
    }
}

/// `palmette search` on the dataset as run `name`.
pub fn search(place: &Place, name: &str, more: &[&str]) -> Output {
    let mut arguments = vec!["search", "dataset", "--config", "search.toml", "--name", name];
    arguments.extend(more);
    place.palmette(&arguments)
}

pub fn succeed(output: &Output) {
    assert!(
        output.status.success(),
        "{}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn exists(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.len() > 0)
}
