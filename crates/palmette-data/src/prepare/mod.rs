//! From a log to a dataset: stage, split, fit, write.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::dataset::Dataset;
use crate::error::DataError;
use crate::fit::{FitInput, fit};
use crate::manifest::{Encoders, FORMAT_VERSION, InputEntry, MANIFEST_FILE, Manifest, Split};
use crate::schema::{Schema, SplitRule};
use crate::shard::Columns;
use crate::split::Assignment;
use crate::staging::{STAGING_DIR, write_atomically};
use crate::write::{Remaps, vocabulary_paths, write_shards};

mod stage;

pub(crate) use stage::chunk_bytes;

/// The file of bad rows inside a dataset, one JSON object a line.
pub const QUARANTINE_FILE: &str = "quarantine.jsonl";

/// The least memory that `prepare` can work with.
pub const MIN_MEMORY: u64 = 64 << 20;

/// What happens to a row that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBadRow {
    /// Stop and name it.
    Stop,
    /// Copy it aside and go on, up to `max_bad` rows.
    Quarantine {
        /// The most rows to set aside.
        max_bad: u64,
    },
}

/// What to prepare and how.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// What the columns mean.
    pub schema: Schema,
    /// The files, in the order of their rows.
    pub inputs: Vec<PathBuf>,
    /// The profile file, for a schema that has one.
    pub profile: Option<PathBuf>,
    /// The directory of the dataset.
    pub output: PathBuf,
    /// Bytes of memory that must not be exceeded.
    pub memory: u64,
    /// What happens to bad rows.
    pub on_bad_row: OnBadRow,
    /// A dataset whose fitted encoders are used instead of fitting new ones.
    pub encoders_from: Option<PathBuf>,
    /// Whether a different dataset in `output` is replaced.
    pub overwrite: bool,
}

impl PrepareOptions {
    /// Options with the defaults of the command line: 1 GiB, stop at a bad row, no overwriting.
    pub fn new(schema: Schema, inputs: Vec<PathBuf>, output: PathBuf) -> PrepareOptions {
        PrepareOptions {
            schema,
            inputs,
            profile: None,
            output,
            memory: 1 << 30,
            on_bad_row: OnBadRow::Stop,
            encoders_from: None,
            overwrite: false,
        }
    }
}

/// A step of the work, for progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reading the log; counts input bytes.
    Read,
    /// Deciding parts and fitting encoders; counts columns.
    Fit,
    /// Looking dictionary texts up; counts columns.
    Encode,
    /// Writing shards; counts rows.
    Write,
}

/// Is told about progress, and may ask to stop.
pub trait Observer: Sync {
    /// `done` of `total` units of a stage are finished; `rows` rows have been read so far.
    fn progress(&self, stage: Stage, done: u64, total: u64, rows: u64);

    /// Whether to stop at the next safe place.
    fn stop(&self) -> bool {
        false
    }
}

/// Watches nothing.
impl Observer for () {
    fn progress(&self, _: Stage, _: u64, _: u64, _: u64) {}
}

/// What makes two runs the same work: an interrupted run is continued only if this is equal.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Plan {
    format_version: u32,
    schema: Schema,
    inputs: Vec<PlannedInput>,
    profile: Option<PlannedInput>,
    quarantine: bool,
    encoders_from: Option<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct PlannedInput {
    path: PathBuf,
    bytes: u64,
    /// Time of the last change, nanoseconds since 1970.
    modified: i128,
}

const PLAN_FILE: &str = "plan.json";

/// Turns a log into a dataset and opens it.
///
/// Every file is written under a temporary name and renamed; the manifest comes last. A killed
/// call is continued by the same call and gives the same bytes. If the dataset is already there,
/// made by the same call from the same files, it is opened.
pub fn prepare(options: &PrepareOptions, observer: &dyn Observer) -> Result<Dataset, DataError> {
    check_options(options)?;
    let base = match &options.encoders_from {
        Some(dir) => Some(Dataset::open(dir)?),
        None => None,
    };
    let schema = match &base {
        Some(base) => compatible_schema(&options.schema, base)?,
        None => options.schema.clone(),
    };
    let plan = plan(options, &schema, base.as_ref())?;
    let plan_text = serde_json::to_vec_pretty(&plan).unwrap_or_default();
    let output = &options.output;
    std::fs::create_dir_all(output).map_err(DataError::io("create", output))?;
    let _lock = lock(output)?;
    let kept_plan = output.join(PLAN_FILE);
    let staging = output.join(STAGING_DIR);
    if output.join(MANIFEST_FILE).exists() {
        if std::fs::read(&kept_plan).is_ok_and(|kept| kept == plan_text) {
            remove_dir(&staging)?;
            return Dataset::open(output);
        }
        if !options.overwrite {
            return Err(DataError::Options(format!(
                "{}: holds a dataset made from other files or with another schema; choose another directory or use --overwrite",
                output.display()
            )));
        }
        let manifest = output.join(MANIFEST_FILE);
        std::fs::remove_file(&manifest).map_err(DataError::io("remove", &manifest))?;
    }
    if !std::fs::read(staging.join(PLAN_FILE)).is_ok_and(|kept| kept == plan_text) {
        remove_dir(&staging)?;
        for dir in ["shards", "vocabularies"] {
            remove_dir(&output.join(dir))?;
        }
        let quarantine = output.join(QUARANTINE_FILE);
        if quarantine.exists() {
            std::fs::remove_file(&quarantine).map_err(DataError::io("remove", &quarantine))?;
        }
        std::fs::create_dir_all(&staging).map_err(DataError::io("create", &staging))?;
        write_atomically(&staging.join(PLAN_FILE), &plan_text)?;
    }
    let staged = stage::stage(options, &schema, &staging, observer)?;
    let total_rows: u64 = staged.chunks.iter().map(|chunk| chunk.info.rows).sum();
    if total_rows == 0 {
        return Err(DataError::Options("no usable row is left in the input".into()));
    }
    let assignment = Assignment::make(&staging, &schema, &staged.chunks)?;
    check_parts(&schema, &assignment, base.is_some())?;
    let threads = rayon::current_num_threads() as u64;
    let memory = options.memory / (threads + 1);
    let encoders = match &base {
        Some(base) => copy_encoders(base, output)?,
        None => {
            let own = schema.lists.iter().filter(|list| list.shares.is_none()).count();
            let columns = (schema.dense.len() + schema.categorical.len() + own) as u64;
            let done = std::sync::atomic::AtomicU64::new(0);
            let advance = || {
                let done = done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
                observer.progress(Stage::Fit, done, columns, total_rows);
            };
            let input = FitInput {
                schema: &schema,
                chunks: &staged.chunks,
                assignment: &assignment,
                staging: &staging,
                output,
                memory,
            };
            fit(&input, &advance)?
        }
    };
    check_stop(observer)?;
    let vocabularies = vocabulary_paths(output, &encoders);
    let dictionaries = vocabularies.iter().flatten().count() as u64;
    let done = std::sync::atomic::AtomicU64::new(0);
    let advance = || {
        let done = done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        observer.progress(Stage::Encode, done, dictionaries, total_rows);
    };
    let remaps = Remaps::make(&staging, &vocabularies, &staged.chunks, memory, &advance)?;
    let extras = schema.extras();
    let columns = Columns::new(&schema, &extras);
    let written = std::sync::atomic::AtomicU64::new(0);
    let advance = |rows: u64| {
        let done = written.fetch_add(rows, std::sync::atomic::Ordering::Relaxed) + rows;
        observer.progress(Stage::Write, done, total_rows, total_rows);
        check_stop(observer)
    };
    let shards = write_shards(output, columns, &staged.chunks, &assignment, &remaps, &advance)?;
    let quarantined = staged.collect_bad_rows(&staging, &output.join(QUARANTINE_FILE))?;
    let inputs = options.inputs.iter().zip(&plan.inputs).zip(&staged.file_rows);
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        weighted: schema.weight.is_some(),
        encoders,
        extras,
        rows: assignment.rows,
        positives: assignment.positives,
        dropped: staged.chunks.iter().map(|chunk| chunk.info.dropped).sum(),
        quarantined,
        lists: staged.list_counts(&schema),
        unused_columns: staged.unused_columns,
        inputs: inputs
            .map(|((path, planned), &rows)| InputEntry {
                name: path.file_name().unwrap_or_default().to_string_lossy().into(),
                bytes: planned.bytes,
                rows,
            })
            .collect(),
        shard_rows: crate::shard::SHARD_ROWS,
        shards,
        schema,
    };
    let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
    write_atomically(&kept_plan, &plan_text)?;
    write_atomically(&output.join(MANIFEST_FILE), &text)?;
    remove_dir(&staging)?;
    Dataset::open(output)
}

pub(crate) fn check_stop(observer: &dyn Observer) -> Result<(), DataError> {
    if observer.stop() { Err(DataError::Interrupted) } else { Ok(()) }
}

pub(crate) fn check_options(options: &PrepareOptions) -> Result<(), DataError> {
    if options.inputs.is_empty() {
        return Err(DataError::Options("no input file".into()));
    }
    if options.memory < MIN_MEMORY {
        return Err(DataError::Options(format!(
            "--memory of {} MiB is too little; give at least {} MiB",
            options.memory >> 20,
            MIN_MEMORY >> 20
        )));
    }
    match (&options.schema.profile, &options.profile) {
        (Some(rule), None) => Err(DataError::Options(format!(
            "the schema `{}` takes {} from a second file; name it with --profile (userid_profile.txt for kdd12)",
            options.schema.name,
            rule.columns.join(" and ")
        ))),
        (None, Some(_)) => Err(DataError::Options(format!(
            "the schema `{}` has no use for --profile",
            options.schema.name
        ))),
        _ => Ok(()),
    }
}

/// The schema of the new log, with the fields of the dataset whose encoders are used.
fn compatible_schema(schema: &Schema, base: &Dataset) -> Result<Schema, DataError> {
    let other = &base.manifest().schema;
    if schema.dense != other.dense
        || schema.categorical != other.categorical
        || schema.lists != other.lists
        || schema.missing != other.missing
    {
        return Err(DataError::Options(format!(
            "{}: its dense and categorical fields and lists, their encoders or its missing texts differ from the schema `{}`; \
             --encoders-from needs equal ones",
            base.dir().display(),
            schema.name
        )));
    }
    Ok(schema.clone())
}

fn plan(
    options: &PrepareOptions,
    schema: &Schema,
    base: Option<&Dataset>,
) -> Result<Plan, DataError> {
    let planned = |path: &PathBuf| -> Result<PlannedInput, DataError> {
        let metadata = std::fs::metadata(path).map_err(DataError::io("open", path))?;
        let modified =
            metadata.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        Ok(PlannedInput {
            path: std::path::absolute(path).unwrap_or_else(|_| path.clone()),
            bytes: metadata.len(),
            modified: modified.map_or(0, |duration| duration.as_nanos() as i128),
        })
    };
    Ok(Plan {
        format_version: FORMAT_VERSION,
        schema: schema.clone(),
        inputs: options.inputs.iter().map(planned).collect::<Result<_, _>>()?,
        profile: options.profile.as_ref().map(planned).transpose()?,
        quarantine: options.on_bad_row != OnBadRow::Stop,
        encoders_from: base.map(Dataset::fingerprint),
    })
}

/// Keeps a second `prepare` away from the directory. The lock is the system's: it ends with the
/// process, however that ends.
fn lock(output: &Path) -> Result<File, DataError> {
    let path = output.join(".lock");
    let file = File::create(&path).map_err(DataError::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(DataError::Options(format!(
            "{}: another prepare is writing this dataset",
            output.display()
        ))),
        Err(std::fs::TryLockError::Error(source)) => Err(DataError::io("lock", &path)(source)),
    }
}

fn remove_dir(path: &Path) -> Result<(), DataError> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(DataError::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// A part that the schema asks for must have rows.
fn check_parts(schema: &Schema, assignment: &Assignment, encoded: bool) -> Result<(), DataError> {
    let wanted = match &schema.split {
        SplitRule::Random { fractions, .. }
        | SplitRule::TimeFractions { fractions }
        | SplitRule::Group { fractions, .. } => fractions.map(|fraction| fraction > 0.0),
        SplitRule::TimeBoundaries { validation_from, test_from } => {
            [true, validation_from < test_from, *test_from < i64::MAX]
        }
        SplitRule::Column { validation, test, .. } => {
            [true, !validation.is_empty(), !test.is_empty()]
        }
    };
    for (split, wanted) in Split::ALL.into_iter().zip(wanted) {
        // with encoders of an earlier dataset nothing is fitted, so any part may be empty
        // encoders are fitted on the training part, whatever the schema asks for
        let wanted = wanted || split == Split::Train;
        if wanted && !encoded && assignment.rows.get(split) == 0 {
            let total: u64 = Split::ALL.iter().map(|&s| assignment.rows.get(s)).sum();
            return Err(DataError::EmptySplit {
                split: split.name(),
                problem: format!(
                    "none of the {total} rows belongs to it; change the schema's split"
                ),
            });
        }
    }
    Ok(())
}

/// Takes over the encoders of another dataset, with its vocabulary files.
fn copy_encoders(base: &Dataset, output: &Path) -> Result<Encoders, DataError> {
    let encoders = base.manifest().encoders.clone();
    for entry in encoders.tables().filter_map(|field| field.vocabulary.as_ref()) {
        let (from, to) = (base.dir().join(&entry.file), output.join(&entry.file));
        if let Some(dir) = to.parent() {
            std::fs::create_dir_all(dir).map_err(DataError::io("create", dir))?;
        }
        let temporary = crate::staging::temporary_name(&to);
        std::fs::copy(&from, &temporary).map_err(DataError::io("copy", &from))?;
        std::fs::rename(&temporary, &to).map_err(DataError::io("rename", &temporary))?;
    }
    Ok(encoders)
}
