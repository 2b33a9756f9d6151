//! A run: its folder, its configuration, its plan and its phases.

mod config;
mod context;
mod driver;
mod environment;
mod export;
mod plan;
mod report;
mod results;
mod store;
mod trials;

pub use config::Config;
pub use context::{RunContext, Stop};
pub use driver::{Outcome, search};
pub use export::{ModelDescription, export_model, transforms, write_drawing, write_json};
pub use plan::{Plan, parse_duration};
pub use results::{ModelResult, Summary};
pub use store::{RunStore, file_sha256, write_whole};
pub use trials::{Contender, ScoredPart, Trial, fit};
