//! A run: its folder, its configuration, its plan and its phases.

mod agreement;
mod check;
mod config;
mod context;
mod driver;
mod environment;
mod export;
mod files;
mod folder;
mod index;
mod plan;
mod preset;
mod ranking_study;
mod report;
mod results;
mod setup;
mod sqlite;
mod store;
mod training;
mod trials;
mod workers;

pub use config::Config;
pub use context::{RunContext, Stop};
pub use driver::{Outcome, search};
pub use export::{ModelDescription, export_model, transforms, write_drawing, write_json};
pub use files::{RunFiles, file_sha256, write_whole};
pub use folder::{ModelFolder, architecture_of, check_encoders};
pub use index::{RunRecord, TestedModel, read_runs};
pub use plan::{Plan, parse_duration};
pub use preset::Preset;
pub use ranking_study::{Agreement, RankingReport, RankingStudy, StudiedNetwork, study_ranking};
pub use results::{ModelResult, Summary};
pub use sqlite::write_index;
pub use store::{RunStore, read_journal};
pub use training::{TrainRequest, TrainedModel, train_one};
pub use trials::{Contender, ScoredPart, Trial, fit};
