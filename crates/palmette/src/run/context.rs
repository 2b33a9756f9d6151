//! What every phase of a run needs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use palmette_ctr::{Field, List, ListTable, ModelInputs};
use palmette_data::{Dataset, FittedList, ListVocabulary};

use super::config::Config;
use crate::console::Console;

/// Set by Ctrl-C; trainings look at it between steps.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

/// The user asked for a stop; the run can be resumed.
#[derive(Debug, thiserror::Error)]
#[error("stopped; continue with --resume")]
pub struct Stopped;

impl Stopped {
    /// Whether an error is a stop by the user and nothing worse, such as a checkpoint that could
    /// not be written.
    pub fn is(error: &anyhow::Error) -> bool {
        error.chain().any(|cause| cause.is::<Self>())
    }
}

impl Stop {
    /// Listens for Ctrl-C; a second one ends the process at once.
    pub fn on_interrupt() -> Self {
        let stop = Self::default();
        let flag = stop.clone();
        // A second handler in one process is refused; the first then goes on working.
        let _ = ctrlc::set_handler(move || {
            if flag.0.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            eprintln!("\nstopping after this step (again: at once)");
        });
        stop
    }

    /// Fails once a stop was asked for.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!(Stopped);
        }
        Ok(())
    }

    /// Whether a stop was asked for.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Configuration, data and console of a run.
pub struct RunContext<'a> {
    /// The resolved configuration.
    pub config: &'a Config,
    /// The data.
    pub dataset: &'a Dataset,
    /// Where progress goes.
    pub console: &'a Console,
    /// Whether to stop.
    pub stop: Stop,
}

impl RunContext<'_> {
    /// Rows of the tables while searching.
    pub fn capped_tables(&self, solved_cap: Option<u64>) -> Vec<u32> {
        let cap = solved_cap.unwrap_or(u64::MAX).min(self.config.search.table_cap.into());
        self.dataset.table_rows(Some(cap.min(u32::MAX.into()) as u32))
    }

    /// Rows of the tables of a final fit: uncapped but for what the limits demand.
    pub fn final_tables(&self, solved_cap: Option<u64>) -> Vec<u32> {
        self.dataset.table_rows(solved_cap.map(|cap| cap.min(u32::MAX.into()) as u32))
    }

    /// Names of the categorical fields.
    pub fn field_names(&self) -> Vec<String> {
        self.dataset.manifest().encoders.categorical.iter().map(|f| f.name.clone()).collect()
    }

    /// What the data give a model with tables of these sizes.
    pub fn inputs(&self, table_rows: &[u32]) -> ModelInputs {
        dataset_inputs(self.dataset, table_rows)
    }
}

/// What a dataset gives a model with tables of these sizes.
pub fn dataset_inputs(dataset: &Dataset, table_rows: &[u32]) -> ModelInputs {
    let encoders = &dataset.manifest().encoders;
    let fields = encoders.categorical.iter().map(|field| field.name.clone()).zip(table_rows);
    let lists = encoders.lists.iter().zip(dataset.list_tables());
    let list = |(list, &table): (&FittedList, &usize)| List {
        name: list.name.clone(),
        table: match &list.values {
            ListVocabulary::Shared(field) => ListTable::Shared(*field),
            ListVocabulary::Own(_) => {
                ListTable::Own(table_rows.get(table).map_or(0, |&rows| rows as usize))
            }
        },
    };
    ModelInputs {
        dense: dataset.dense_fields(),
        fields: fields.map(|(name, &rows)| Field { name, rows: rows as usize }).collect(),
        lists: lists.map(list).collect(),
    }
}
