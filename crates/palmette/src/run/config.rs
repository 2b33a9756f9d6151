//! `[data] [space] [search] [cost] [train] [numbers] [run]`: one TOML file, every key overridable.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use palmette_cost::HardLimits;
use palmette_ctr::nasrec::{NasRecConfig, NasRecSpace, Operators};
use palmette_ctr::train::{Keeping, Numbers, RankingSettings, SupernetSettings, TrainSettings};
use serde::{Deserialize, Serialize};

use super::config_error::explain;

/// A run's configuration; the resolved one is written into the run folder.
///
/// Precedence: `--set` over the file over the preset's defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What is learnt from.
    pub data: DataConfig,
    /// Where is searched.
    pub space: SpaceConfig,
    /// How is searched.
    pub search: SearchConfig,
    /// Hard limits.
    pub cost: CostConfig,
    /// How networks are trained from scratch.
    pub train: TrainConfig,
    /// Number types of every training.
    pub numbers: Numbers,
    /// The run itself.
    pub run: RunConfig,
}

/// `[data]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// A dataset made by `palmette prepare`.
    pub dataset: PathBuf,
    /// A kept key column (or the time column) whose values are resampled together in intervals.
    pub interval_groups: Option<String>,
    /// A kept column with the probability of a model the user already has.
    pub baseline_column: Option<String>,
    /// A kept column with the true probability (synthetic logs).
    pub bayes_column: Option<String>,
}

/// `[space]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpaceConfig {
    /// `nasrec-full`, `nasrec-small` or `nasrec-full-zeros`.
    pub name: String,
    /// Choice blocks.
    pub blocks: Option<usize>,
    /// Dense widths, ascending.
    pub dense_widths: Option<Vec<u16>>,
    /// Sparse output fields, ascending.
    pub sparse_widths: Option<Vec<u16>>,
    /// Most sources of a side of a block.
    pub max_sources: Option<usize>,
}

impl Default for SpaceConfig {
    fn default() -> Self {
        Self {
            name: "nasrec-full".into(),
            blocks: None,
            dense_widths: None,
            sparse_widths: None,
            max_sources: None,
        }
    }
}

impl SpaceConfig {
    /// The space.
    pub fn space(&self) -> Result<NasRecSpace> {
        let operators = match self.name.as_str() {
            "nasrec-full" => Operators::Full,
            "nasrec-small" => Operators::Small,
            "nasrec-full-zeros" => Operators::FullWithZeros,
            other => bail!(
                "space.name is `{other}`; there are nasrec-full, nasrec-small and nasrec-full-zeros"
            ),
        };
        let mut config = NasRecConfig::published(operators);
        if let Some(blocks) = self.blocks {
            config.blocks = blocks;
        }
        if let Some(widths) = &self.dense_widths {
            config.dense_widths.clone_from(widths);
        }
        if let Some(widths) = &self.sparse_widths {
            config.sparse_widths.clone_from(widths);
        }
        if let Some(sources) = self.max_sources {
            config.max_sources = sources;
        }
        NasRecSpace::new(config).context("[space]")
    }
}

/// `[search]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchConfig {
    /// `evolution`, `predictor-guided`, `local-search` or `random`.
    pub strategy: String,
    /// Candidates that the supernet ranks.
    pub evaluations: usize,
    /// Best candidates trained from scratch.
    pub top_k: usize,
    /// Rows that every table is cut to while searching; the final fit has none of it.
    pub table_cap: u32,
    /// Train as many random networks as the search's best, chosen the same way.
    pub random_search: bool,
    /// Training of the supernet.
    pub supernet: SupernetSettings,
    /// Scoring of candidates.
    pub ranking: RankingSettings,
}

impl Default for SearchConfig {
    /// NASRec's.
    fn default() -> Self {
        Self {
            strategy: "evolution".into(),
            evaluations: 2048,
            top_k: 15,
            table_cap: 500_000,
            random_search: true,
            supernet: SupernetSettings::default(),
            ranking: RankingSettings::default(),
        }
    }
}

/// `[cost]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CostConfig {
    /// E.g. `["macs=1.5M", "memory=2GiB", "peak_memory=4GiB", "latency_us=300@1"]`.
    pub limits: Vec<String>,
}

impl CostConfig {
    /// The parsed limits.
    pub fn limits(&self) -> Result<HardLimits> {
        HardLimits::parse(&self.limits.join(" ")).context("[cost] limits")
    }
}

/// Hand-made models of a run, simplest first; `mlp-equal` costs what the searched network costs.
const BASELINES: [&str; 9] =
    ["lr", "fm", "mlp", "mlp-equal", "deepfm", "dlrm", "dcn-v2", "autoint-plus", "xdeepfm-small"];

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Networks trained from scratch, searched and hand-made.
    pub network: TrainSettings,
    /// Learning rates tried for the winner of every contender, on validation rows.
    pub learning_rates: Vec<f64>,
    /// Hand-made models to compare with.
    pub baselines: Vec<String>,
    /// Final fits of every contender with different seeds.
    pub final_seeds: usize,
    /// Rows of a batch of the final fits, where they differ from those of the other trainings.
    pub final_batch_size: Option<usize>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            network: TrainSettings::default(),
            learning_rates: vec![0.01, 0.04, 0.12],
            baselines: BASELINES.map(String::from).to_vec(),
            final_seeds: 1,
            final_batch_size: None,
        }
    }
}

/// `[run]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Seed of everything.
    pub seed: u64,
    /// Steps between checkpoints of a training.
    pub checkpoint_every: u64,
    /// Seconds to spend; becomes counts once, before the first step.
    pub budget_seconds: Option<f64>,
    /// Folder in which embedding tables lie in files while they are trained, instead of in memory;
    /// no bit depends on it.
    pub table_files: Option<PathBuf>,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self { seed: 1, checkpoint_every: 2000, budget_seconds: None, table_files: None }
    }
}

impl Config {
    /// Reads a file (or starts from the defaults), applies `--set`, checks every key.
    ///
    /// # Errors
    /// Unknown keys, with the nearest known one; values of a wrong type; broken TOML.
    pub fn load(file: Option<&Path>, set: &[String]) -> Result<Self> {
        Self::layered(Self::default(), file, set)
    }

    /// Like [`Config::load`], over the defaults of a preset.
    pub fn layered(defaults: Self, file: Option<&Path>, set: &[String]) -> Result<Self> {
        let mut table = toml::Table::try_from(defaults)?;
        if let Some(file) = file {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read the configuration {}", file.display()))?;
            let mut own: toml::Table =
                toml::from_str(&text).with_context(|| format!("{} is not TOML", file.display()))?;
            // What a recipe is expected to find is no setting: `palmette repro` reads it.
            own.remove("expected");
            merge(&mut table, own);
        }
        for assignment in set {
            let (key, value) = assignment.split_once('=').ok_or_else(|| {
                anyhow!("--set {assignment}: expected section.key=value, e.g. --set search.evaluations=512")
            })?;
            let value = parse_value(value.trim());
            let mut own = toml::Table::new();
            let mut parts: Vec<&str> = key.trim().split('.').collect();
            let last = parts.pop().unwrap_or_default();
            own.insert(last.into(), value);
            for part in parts.into_iter().rev() {
                let inner = std::mem::take(&mut own);
                own.insert(part.into(), inner.into());
            }
            merge(&mut table, own);
        }
        let config = Self::deserialize(table).map_err(|error| anyhow!(explain(&error)))?;
        super::check::check(&config)?;
        Ok(config)
    }

    /// How trainings keep their numbers; what this processor cannot multiply is f32.
    pub fn keeping(&self) -> Keeping {
        Keeping { numbers: self.numbers.here().0, table_files: self.run.table_files.clone() }
    }

    /// As TOML, for the run folder.
    pub fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string_pretty(self)?)
    }
}

/// A TOML value, or else the text itself.
fn parse_value(text: &str) -> toml::Value {
    toml::from_str::<toml::Table>(&format!("v = {text}"))
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| toml::Value::String(text.into()))
}

/// Tables are merged key by key, everything else is replaced.
fn merge(into: &mut toml::Table, own: toml::Table) {
    for (key, value) in own {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(own)) => merge(inner, own),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Files with random damage are read or refused, never a panic.
        #[test]
        fn damaged_files_are_refused(
            edits in proptest::collection::vec((any::<u16>(), 0u8..3, any::<u8>()), 1..4)
        ) {
            let mut text = Config::default().to_toml().unwrap().into_bytes();
            for (at, how, byte) in edits {
                let at = at as usize % text.len().max(1);
                match how {
                    0 if at < text.len() => text[at] = b"\n=[]{}.\"'-e0#,"[byte as usize % 14],
                    1 => text.insert(at.min(text.len()), byte),
                    _ => text.truncate(at),
                }
            }
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &text).unwrap();
            if let Ok(config) = Config::load(Some(file.path()), &[]) {
                let _ = config.space.space();
                let _ = config.cost.limits();
            }
        }

        #[test]
        fn odd_assignments_are_refused(set in "[a-z_.]{0,30}=?[\\[\\]{}\"0-9a-z.,-]{0,12}") {
            let _ = Config::load(None, &[set]);
        }
    }

    #[test]
    fn set_overrides_and_keeps_the_rest() {
        let set =
            ["search.evaluations=64", "train.network.batch_size=128", "space.name=nasrec-small"];
        let config = Config::load(None, &set.map(String::from)).unwrap();
        assert_eq!(config.search.evaluations, 64);
        assert_eq!(config.train.network.batch_size, 128);
        assert_eq!(config.train.network.clip_norm, 5.0);
        assert_eq!(config.space.name, "nasrec-small");
    }

    #[test]
    fn a_configuration_survives_its_file() {
        let mut config = Config::default();
        config.cost.limits = vec!["macs=1.5M".into()];
        let back: Config = toml::from_str(&config.to_toml().unwrap()).unwrap();
        assert_eq!(back, config);
    }
}
