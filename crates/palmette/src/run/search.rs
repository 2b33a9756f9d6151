//! A search from the plan to the report: phases of units that the journal remembers.

use std::path::Path as FilePath;
use std::time::Instant;

use anyhow::{Result, bail};
use palmette_cost::format_bytes;
use palmette_ctr::train::Numbers;
use palmette_data::Split;
use serde::Deserialize;

use super::context::RunContext;
use super::plan::{MemoryBound, Plan, Prediction, Rates};
use super::results::Summary;
use super::setup::Run;
use super::store::{RunStore, read_journal};
use super::trials::record;
use super::workers::{table_bytes, trainings_at_a_time};
use crate::measured::{RunMemory, peak_memory};

/// A finished run.
pub struct Outcome {
    /// What was found.
    pub summary: Summary,
    /// Where.
    pub dir: std::path::PathBuf,
}

/// What a run in this folder would hold in memory; nothing is written.
///
/// # Errors
/// What refuses the run before its folder holds anything, its memory after `show` has had it.
pub fn dry_run(
    context: &RunContext<'_>,
    dir: &FilePath,
    show: impl FnOnce(&RunMemory) -> Result<()>,
) -> Result<()> {
    let begun = bound_of(dir)?;
    let (run, memory, _) = checked(context, begun)?;
    show(&memory)?;
    run.check_memory(&memory, begun)
}

/// A run on data and folders that it can use, its memory, and what bounds that; `begun` is what
/// bounded it when it began.
fn checked<'c, 'd>(
    context: &'c RunContext<'d>,
    begun: Option<MemoryBound>,
) -> Result<(Run<'c, 'd>, RunMemory, Option<MemoryBound>)> {
    let mut run = Run::new(context)?;
    run.check_test_part()?;
    if let Some(folder) = context.config.run.table_files.as_ref().filter(|path| !path.is_dir()) {
        bail!("{}: there is no such folder for tables (--table-files)", folder.display());
    }
    let plan = Plan::configured(context.config, context.dataset.rows(Split::Validation));
    let bound = match begun {
        Some(bound) => run.bound_memory(&plan, bound)?.then_some(bound),
        None => run.limit_memory(&plan)?,
    };
    let memory = run.memory(&plan)?;
    Ok((run, memory, bound))
}

/// What bounds the memory of the run that has begun in this folder.
fn bound_of(dir: &FilePath) -> Result<Option<MemoryBound>> {
    if !dir.join("journal.jsonl").exists() {
        return Ok(None);
    }
    let events = read_journal(dir)?;
    let plan = events.iter().find(|event| event["event"] == "plan");
    let plan = plan.map(|event| Plan::deserialize(&event["result"])).transpose()?;
    Ok(plan.and_then(|plan| plan.memory))
}

/// Searches, retrains, compares, exports and reports; continues where the journal ends.
pub fn search(
    context: &RunContext<'_>,
    dir: &FilePath,
    budget_seconds: Option<f64>,
) -> Result<Outcome> {
    // Limits that nobody can meet are said before the folder holds a run.
    let begun = bound_of(dir)?;
    let (mut run, memory, bound) = checked(context, begun)?;
    run.check_memory(&memory, begun)?;
    let mut store = run.open(dir)?;
    if store.find("study", "").is_some() {
        bail!(
            "{} holds a study of rankings, which `palmette bench ranking` continues; a search needs \
             a folder of its own",
            dir.display()
        );
    }
    let plan = run.calibrate_latency(&mut store);
    let plan = match plan.and_then(|()| run.plan(&mut store, budget_seconds, bound)) {
        Ok(plan) => plan,
        Err(error) => {
            store.discard_if_empty();
            return Err(error);
        }
    };
    let ranked = run.rank(&mut store, &plan)?;
    let (searched, random) = run.retrain(&mut store, &plan, &ranked)?;
    let tuned = run.tune(&mut store, &plan, searched, random)?;
    let summary = run.finish(&mut store, &plan, &tuned)?;
    super::export::write_summary(&store, &summary)?;
    super::report::write_report(context, &store, &run.space, &summary)?;
    store.files().drop_checkpoint("supernet");
    if let Some(peak) = peak_memory() {
        context.console.note(&format!("peak memory of the process: {}", format_bytes(peak)));
    }
    Ok(Outcome { summary, dir: dir.into() })
}

impl Run<'_, '_> {
    fn plan(
        &self,
        store: &mut RunStore,
        budget_seconds: Option<f64>,
        memory: Option<MemoryBound>,
    ) -> Result<Plan> {
        if let Some(event) = store.find("plan", "") {
            return Ok(Plan::deserialize(&event["result"])?);
        }
        let begin = Instant::now();
        let RunContext { config, dataset, .. } = *self.context;
        let (train, validation) = (dataset.rows(Split::Train), dataset.rows(Split::Validation));
        if validation == 0 {
            bail!("the dataset has no validation rows; the search chooses on them");
        }
        let mut probe = self.supernet(None)?;
        probe.set_steps(1000, 0);
        let rates = Rates::measure(&mut probe, config.search.supernet.batch_size.min(train))?;
        let supernet_bytes = probe.model.state_bytes();
        drop(probe);
        self.check_disk(store.dir(), supernet_bytes)?;
        let macs = self.network_macs()?;
        let plan = match budget_seconds {
            Some(seconds) => Plan::for_budget(config, rates, &macs, [train, validation], seconds)?,
            None => Plan::configured(config, validation),
        };
        let plan = Plan { memory, ..plan };
        let prediction = plan.predict(config, rates, &macs, [train, validation]);
        self.announce(&plan, &prediction, supernet_bytes);
        self.context.console.note(&self.memory(&plan)?.describe());
        record(store, "plan", "", &plan, begin)?;
        Ok(plan)
    }

    /// Fails where the disk cannot hold the supernet's checkpoint beside the one it replaces, or
    /// the same of the final fits and the exported model.
    fn check_disk(&self, dir: &FilePath, supernet: u64) -> Result<()> {
        // A file system that does not tell is no reason to stop.
        let Ok(free) = fs4::available_space(dir) else { return Ok(()) };
        let train = &self.context.config.train;
        let network = table_bytes(
            &self.context.final_tables(self.space.table_cap()),
            self.context.config.numbers,
        );
        let batch_rows = train.final_batch_size.unwrap_or(train.network.batch_size);
        let at_a_time = trainings_at_a_time(batch_rows, network) as u64;
        // The exported tables, in f32 and without their optimiser's state, stand in two files.
        let in_files =
            table_bytes(&self.context.final_tables(self.space.table_cap()), Numbers::default());
        let needed = supernet + (2 * at_a_time * network + in_files).max(supernet);
        if free < needed {
            bail!(
                "{}: {} are free; checkpoints of the supernet ({}) and of final fits, and the \
                 exported model ({} of tables) need up to {}. Choose a folder on another disk with \
                 -o, or smaller tables (--limit memory=...)",
                dir.display(),
                format_bytes(free),
                format_bytes(supernet),
                format_bytes(in_files / 2),
                format_bytes(needed)
            );
        }
        Ok(())
    }

    fn announce(&self, plan: &Plan, prediction: &Prediction, supernet_bytes: u64) {
        let console = self.context.console;
        console.note(&format!(
            "plan: {} supernet steps ({} of warm-up), {} candidates, top {} retrained; \
             about {} (supernet {}, ranking {}, networks {})",
            plan.supernet_steps,
            plan.warmup_steps,
            plan.evaluations,
            plan.top_k,
            minutes(prediction.total()),
            minutes(prediction.supernet),
            minutes(prediction.ranking),
            minutes(prediction.networks),
        ));
        console.note(&format!(
            "supernet: {} of weights and their optimiser's state, in memory and in its checkpoint",
            format_bytes(supernet_bytes)
        ));
        if prediction.warmup > 0.5 * prediction.supernet {
            console.note(&format!(
                "warm-up: full paths take {:.0} % of the supernet's time; \
                 search.supernet.warmup_steps = {} may be too many for {} steps",
                100.0 * prediction.warmup / prediction.supernet,
                plan.warmup_steps,
                plan.supernet_steps
            ));
        }
        if let Some(cap) = self.space.table_cap() {
            console.note(&format!("limits: every table is cut to {cap} rows"));
        }
    }
}

/// `95 s`, `12 min`.
fn minutes(seconds: f64) -> String {
    if seconds < 100.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}
