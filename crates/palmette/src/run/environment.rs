//! What the bits of a run depend on.

use anyhow::{Result, bail};
use palmette_ctr::train::Numbers;
use palmette_data::Dataset;
use serde::{Deserialize, Serialize};

use super::files::{file_sha256, sha256_hex};
use super::store::RunStore;

/// Bits are promised per binary, instruction set and number type, for any number of threads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Version of Palmette.
    pub version: String,
    /// SHA-256 of the executable.
    pub binary: String,
    /// The instruction set that kernels use.
    pub instruction_set: String,
    /// Number types of training.
    pub number_type: String,
    /// Fingerprint of the dataset.
    pub dataset: String,
    /// Hash of the settings, but for the dataset's place.
    #[serde(default)]
    pub settings: String,
}

impl Environment {
    /// This process, this dataset, these numbers on this processor and these settings.
    pub fn here(dataset: &Dataset, numbers: Numbers, settings: &str) -> Result<Self> {
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").into(),
            binary: file_sha256(&std::env::current_exe()?)?,
            instruction_set: palmette_engine::instruction_set().into(),
            number_type: numbers.here().0.describe(),
            dataset: dataset.fingerprint(),
            settings: sha256_hex(settings.as_bytes()),
        })
    }

    /// Records the environment, or compares it with the recorded one.
    ///
    /// # Errors
    /// A difference, named.
    pub fn check_or_record(&self, store: &RunStore) -> Result<()> {
        let path = store.dir().join("env.json");
        let Ok(text) = std::fs::read_to_string(&path) else {
            store.files().write("env.json", |out| Ok(serde_json::to_writer_pretty(out, self)?))?;
            return Ok(());
        };
        let before: Self = serde_json::from_str(&text)?;
        let fields = [
            ("version of palmette", &before.version, &self.version),
            ("executable", &before.binary, &self.binary),
            ("instruction set", &before.instruction_set, &self.instruction_set),
            ("number type", &before.number_type, &self.number_type),
            ("dataset", &before.dataset, &self.dataset),
            ("configuration", &before.settings, &self.settings),
        ];
        for (what, before, now) in fields {
            if before != now {
                bail!(
                    "this run was started with another {what} ({before}, now {now}); resuming would not \
                     give the same bits. Continue with the old one, or start a new run"
                );
            }
        }
        Ok(())
    }
}
