//! Options of a training's numbers, the same for every verb that trains.

use std::path::PathBuf;

use anyhow::Result;
use palmette::console::Console;
use palmette::run::Config;

/// Each stands for a key of the configuration.
#[derive(clap::Args)]
pub struct NumberArgs {
    /// Factors of matrix products: f32, or bf16 where the processor multiplies them
    /// (numbers.precision)
    #[arg(long, value_name = "TYPE", value_parser = ["f32", "bf16"])]
    precision: Option<String>,
    /// Weights of embedding tables, 16 bits rounded stochastically (numbers.table_storage)
    #[arg(long, value_name = "TYPE", value_parser = ["f32", "f16", "bf16"])]
    table_storage: Option<String>,
    /// Adagrad's accumulators of tables: one a weight or one a row (numbers.table_state)
    #[arg(long, value_name = "STATE", value_parser = ["full", "row-wise"])]
    table_state: Option<String>,
    /// Keep tables in files in this folder while they are trained, for tables larger than memory
    /// (run.table_files)
    #[arg(long, value_name = "DIR")]
    table_files: Option<PathBuf>,
}

impl NumberArgs {
    /// Folder for tables in files.
    pub fn table_files(&self) -> Option<PathBuf> {
        self.table_files.clone()
    }

    /// `--set` as it was given, with what these options stand for behind it.
    pub fn over(&self, set: &[String]) -> Vec<String> {
        let keys = [
            ("precision", &self.precision),
            ("table_storage", &self.table_storage),
            ("table_state", &self.table_state),
        ];
        let own = keys.into_iter().filter_map(|(key, value)| {
            value.as_ref().map(|value| format!("numbers.{key}=\"{value}\""))
        });
        set.iter().cloned().chain(own).collect()
    }

    /// Puts the folder of tables into the configuration, whole, and says what this processor
    /// cannot do.
    pub fn apply(&self, config: &mut Config, console: &Console) -> Result<()> {
        if self.table_files.is_some() {
            config.run.table_files.clone_from(&self.table_files);
        }
        // A run may be resumed from another folder.
        if let Some(folder) = &mut config.run.table_files {
            *folder = std::path::absolute(&folder)?;
        }
        note_fallback(config, console);
        Ok(())
    }
}

/// Says so where bf16 products were asked for and this processor has none.
pub fn note_fallback(config: &Config, console: &Console) {
    if config.numbers.here().1 {
        console.note(
            "this processor has no bf16 products (AVX512-BF16): numbers.precision is f32 here",
        );
    }
}
