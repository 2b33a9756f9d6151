//! With which settings an earlier run or model was trained, and on which rows.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use palmette_data::{Dataset, Split};
use serde_json::Value;

use super::config::Config;
use super::training::TrainedModel;

/// What a folder says of how its model came to be.
#[derive(Clone, Debug)]
pub enum Earlier {
    /// A run of `palmette search`.
    Run(PathBuf),
    /// A folder of `palmette train`.
    Trained(Box<TrainedModel>),
}

impl Earlier {
    /// Finds the run or the training to which a path belongs: the folder itself, a run's `best/`,
    /// or a file in one of them. Nothing for files that stand alone.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn of(path: &Path) -> Result<Option<Self>> {
        let path = path.canonicalize().unwrap_or_else(|_| path.into());
        for folder in path.ancestors().take(3) {
            let record = folder.join("training.json");
            if record.is_file() {
                return Ok(Some(Self::Trained(Box::new(read(&record)?))));
            }
            if folder.join("journal.jsonl").is_file() && folder.join("config.toml").is_file() {
                return Ok(Some(Self::Run(folder.into())));
            }
        }
        Ok(None)
    }

    /// The settings of its training, a run's with the learning rate that validation rows chose.
    ///
    /// # Errors
    /// A configuration or summary that cannot be read.
    pub fn config(&self) -> Result<Config> {
        match self {
            Self::Trained(trained) => {
                let mut config = Config::default();
                config.train.network = trained.request.settings.clone();
                config.numbers = trained.request.numbers;
                Ok(config)
            }
            Self::Run(dir) => {
                let mut config = Config::load(Some(&dir.join("config.toml")), &[])?;
                let network = &mut config.train.network;
                if let Some(batch_size) = config.train.final_batch_size {
                    network.batch_size = batch_size;
                }
                let summary = dir.join("summary.json");
                if summary.is_file() {
                    let summary: Value = read(&summary)?;
                    let chosen = summary["models"][0]["learning_rate"].as_f64();
                    network.learning_rate = chosen.unwrap_or(network.learning_rate);
                }
                Ok(config)
            }
        }
    }

    /// Whether the model was trained on this part of this dataset.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn has_seen(&self, dataset: &Dataset, split: Split) -> Result<bool> {
        let (own, all) = match self {
            Self::Trained(trained) => (trained.request.dataset.clone(), trained.request.all),
            Self::Run(dir) => {
                let environment: Value = read(&dir.join("env.json"))?;
                (environment["dataset"].as_str().unwrap_or_default().to_owned(), true)
            }
        };
        let trained_on = split == Split::Train || split == Split::Validation && all;
        Ok(trained_on && own == dataset.fingerprint())
    }
}

fn read<T: serde::de::DeserializeOwned>(file: &Path) -> Result<T> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| file.display().to_string())
}
