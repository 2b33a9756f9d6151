//! Finished and unfinished runs, read from their journals.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::clock::Clock;
use super::config::Config;
use super::store::read_journal;

/// A model's test figures in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TestedModel {
    /// `searched`, `random-search`, or a baseline's name.
    pub model: String,
    /// Mean test log loss over seeds.
    pub log_loss: f64,
    /// Mean test AUC over seeds.
    pub auc: Option<f64>,
    /// Final fits.
    pub seeds: usize,
}

/// A run at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Name of the folder.
    pub name: String,
    /// The folder.
    pub dir: PathBuf,
    /// `finished`, or the phase it is in: `planning`, `supernet`, `ranking`, `training`, `final fits`;
    /// `damaged` where its files cannot be read.
    pub state: String,
    /// The dataset.
    pub dataset: PathBuf,
    /// Seed of everything.
    pub seed: u64,
    /// Candidates ranked.
    pub scores: usize,
    /// Networks trained from scratch.
    pub trials: usize,
    /// Lowest validation log loss of a searched network.
    pub validation_log_loss: Option<f64>,
    /// Models read on the test part, in the order of the journal.
    pub tested: Vec<TestedModel>,
    /// Seconds of all events by the clock.
    pub seconds: f64,
}

impl RunRecord {
    /// Reads a run folder; nothing is written.
    pub fn read(dir: &Path) -> Result<Self> {
        let events = read_journal(dir)?;
        let config = Config::load(Some(&dir.join("config.toml")), &[])?;
        let of = |kind: &str| events.iter().filter(|e| e["event"] == kind).collect::<Vec<_>>();
        let mut clock = Clock::default();
        events.iter().for_each(|event| clock.add(event));
        let (scores, trials, finals) = (of("score"), of("trial"), of("final"));
        let state = if is_finished(dir) {
            "finished"
        } else if !finals.is_empty() {
            "final fits"
        } else if !trials.is_empty() {
            "training"
        } else if !of("supernet").is_empty() {
            "ranking"
        } else if !of("plan").is_empty() {
            "supernet"
        } else {
            "planning"
        };
        let searched = trials
            .iter()
            .filter(|e| e["id"].as_str().is_some_and(|id| id.starts_with("searched/")));
        let losses = searched.filter_map(|e| e["result"]["validation_log_loss"].as_f64());
        Ok(Self {
            name: dir.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned()),
            dir: dir.into(),
            state: state.into(),
            dataset: config.data.dataset,
            seed: config.run.seed,
            scores: scores.len(),
            trials: trials.len(),
            validation_log_loss: losses.min_by(f64::total_cmp),
            tested: tested(&finals),
            seconds: clock.seconds(),
        })
    }

    /// A folder whose journal or configuration cannot be read; [`Self::read`] says why.
    fn damaged(dir: &Path) -> Self {
        Self {
            name: dir.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned()),
            dir: dir.into(),
            state: "damaged".into(),
            dataset: PathBuf::new(),
            seed: 0,
            scores: 0,
            trials: 0,
            validation_log_loss: None,
            tested: Vec::new(),
            seconds: 0.0,
        }
    }

    /// Test figures of a model.
    pub fn tested(&self, model: &str) -> Option<&TestedModel> {
        self.tested.iter().find(|t| t.model == model)
    }
}

/// Whether a search or a ranking study came to its end.
pub(super) fn is_finished(dir: &Path) -> bool {
    ["summary.json", "ranking.json"].iter().any(|file| dir.join(file).is_file())
}

/// Seeds of one model averaged.
fn tested(finals: &[&Value]) -> Vec<TestedModel> {
    let mut models: Vec<(String, Vec<f64>, Vec<f64>)> = Vec::new();
    for event in finals {
        let result = &event["result"];
        let (Some(name), Some(loss)) = (result["model"].as_str(), result["log_loss"].as_f64())
        else {
            continue;
        };
        let at = models.iter().position(|m| m.0 == name).unwrap_or_else(|| {
            models.push((name.into(), Vec::new(), Vec::new()));
            models.len() - 1
        });
        models[at].1.push(loss);
        models[at].2.extend(result["auc"].as_f64());
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let entry = |(model, losses, aucs): (String, Vec<f64>, Vec<f64>)| TestedModel {
        model,
        log_loss: mean(&losses),
        auc: (!aucs.is_empty()).then(|| mean(&aucs)),
        seeds: losses.len(),
    };
    models.into_iter().map(entry).collect()
}

/// The runs under a folder, by name.
///
/// Where the folder has a `trials.sqlite` (see [`write_index`](super::write_index)), runs whose
/// journal has not grown since come from there, and the others from their journals: the index makes
/// a listing fast and never changes what it says.
pub fn read_runs(folder: &Path) -> Result<Vec<RunRecord>> {
    let indexed = super::sqlite::read_index(folder);
    let dirs = run_dirs(folder)?;
    dirs.iter()
        .map(|dir| match indexed.get(&relative(folder, dir)) {
            Some(entry) if entry.stamp == Stamp::of(dir)? => {
                Ok(RunRecord { dir: dir.clone(), ..entry.record.clone() })
            }
            _ => Ok(RunRecord::read(dir).unwrap_or_else(|_| RunRecord::damaged(dir))),
        })
        .collect()
}

/// Folders of runs under a folder, by name.
pub(super) fn run_dirs(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("cannot list the runs in {}", folder.display()))?;
    let mut dirs = Vec::new();
    for entry in entries {
        let dir = entry?.path();
        // The quickstart keeps its run one level deeper, beside its log.
        for dir in [dir.join("run"), dir] {
            if dir.join("journal.jsonl").is_file() && dir.join("config.toml").is_file() {
                dirs.push(dir);
            }
        }
    }
    dirs.sort();
    Ok(dirs)
}

/// Where a run lies in its folder, so that the whole folder may move.
pub(super) fn relative(folder: &Path, dir: &Path) -> String {
    dir.strip_prefix(folder).unwrap_or(dir).to_string_lossy().into_owned()
}

/// What changes whenever a run does: journals only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub journal_bytes: u64,
    pub finished: bool,
}

impl Stamp {
    pub fn of(dir: &Path) -> Result<Self> {
        let journal = dir.join("journal.jsonl");
        let metadata = std::fs::metadata(&journal)
            .with_context(|| format!("cannot read {}", journal.display()))?;
        Ok(Self { journal_bytes: metadata.len(), finished: is_finished(dir) })
    }
}
