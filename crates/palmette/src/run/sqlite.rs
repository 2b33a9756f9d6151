//! `trials.sqlite`: the journals of all runs of a folder as tables, for listings and for SQL.
//!
//! The journals stay what counts. The file is written anew from them as a whole, may be removed at
//! any time, and a damaged or older one is passed over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rusqlite::{Connection, OpenFlags, Transaction, params};
use serde_json::Value;

use super::index::{RunRecord, Stamp, relative, run_dirs};
use super::store::read_journal;

/// Name of the index in the folder that holds the runs.
const FILE: &str = "trials.sqlite";
/// Raised when the tables change; an index with another number is not read.
const FORMAT: i64 = 2;

/// One row a run; one an event, in the order of its journal; and the three kinds that are asked for.
const TABLES: &str = "\
CREATE TABLE runs (run TEXT PRIMARY KEY, journal_bytes INTEGER NOT NULL, finished INTEGER NOT NULL,
  state TEXT NOT NULL, dataset TEXT NOT NULL, seed INTEGER NOT NULL, scores INTEGER NOT NULL,
  trials INTEGER NOT NULL, validation_log_loss REAL, seconds REAL NOT NULL, record TEXT NOT NULL);
CREATE TABLE events (run TEXT NOT NULL, position INTEGER NOT NULL, event TEXT NOT NULL,
  id TEXT NOT NULL, result TEXT NOT NULL, at REAL, seconds REAL, PRIMARY KEY (run, position));
CREATE VIEW scores AS SELECT run, id, result ->> 'score' AS score, result ->> 'macs' AS macs,
  result ->> 'params' AS params FROM events WHERE event = 'score';
CREATE VIEW trials AS SELECT run, id, result ->> 'learning_rate' AS learning_rate,
  result ->> 'seed' AS seed, result ->> 'macs' AS macs, result ->> 'params' AS params,
  result ->> 'validation_log_loss' AS validation_log_loss,
  result ->> 'validation_auc' AS validation_auc, result ->> 'contender' AS contender
  FROM events WHERE event = 'trial';
CREATE VIEW finals AS SELECT run, id, result ->> 'model' AS model, result ->> 'seed' AS seed,
  result ->> 'learning_rate' AS learning_rate, result ->> 'log_loss' AS log_loss,
  result ->> 'auc' AS auc, result ->> 'normalised_entropy' AS normalised_entropy
  FROM events WHERE event = 'final';";

/// A run as the index knows it.
pub(super) struct IndexedRun {
    pub stamp: Stamp,
    pub record: RunRecord,
}

/// Writes the index of the runs under `folder` anew, under a temporary name first.
///
/// # Errors
/// A journal that cannot be read, and a folder that cannot be written.
pub fn write_index(folder: &Path) -> Result<(PathBuf, usize)> {
    let dirs = run_dirs(folder)?;
    let (temporary, path) = (folder.join(format!(".{FILE}.tmp")), folder.join(FILE));
    let failed = || format!("cannot write {}", path.display());
    if temporary.exists() {
        std::fs::remove_file(&temporary).with_context(failed)?;
    }
    let mut connection = Connection::open(&temporary).with_context(failed)?;
    let transaction = connection.transaction().with_context(failed)?;
    transaction.execute_batch(TABLES).with_context(failed)?;
    transaction.pragma_update(None, "user_version", FORMAT).with_context(failed)?;
    for dir in &dirs {
        // The stamp is taken first: a journal that grows meanwhile makes the entry stale, not wrong.
        let stamp = Stamp::of(dir)?;
        let (record, events) = (RunRecord::read(dir)?, read_journal(dir)?);
        add_run(&transaction, &relative(folder, dir), stamp, &record, &events)
            .with_context(failed)?;
    }
    transaction.commit().with_context(failed)?;
    connection.close().map_err(|(_, error)| error).with_context(failed)?;
    std::fs::rename(&temporary, &path).with_context(failed)?;
    Ok((path, dirs.len()))
}

fn add_run(
    transaction: &Transaction<'_>,
    run: &str,
    stamp: Stamp,
    record: &RunRecord,
    events: &[Value],
) -> Result<()> {
    transaction.execute(
        "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            run,
            stamp.journal_bytes as i64,
            stamp.finished,
            record.state,
            record.dataset.to_string_lossy(),
            record.seed as i64,
            record.scores as i64,
            record.trials as i64,
            record.validation_log_loss,
            record.seconds,
            serde_json::to_string(record)?
        ],
    )?;
    let mut insert = transaction.prepare("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)")?;
    for (position, event) in events.iter().enumerate() {
        let text = |key: &str| event[key].as_str().unwrap_or_default();
        insert.execute(params![
            run,
            position as i64,
            text("event"),
            text("id"),
            event["result"].to_string(),
            event["time"]["at"].as_f64(),
            event["time"]["seconds"].as_f64()
        ])?;
    }
    Ok(())
}

/// Runs of the index by their place in `folder`; none where there is no index that can be read.
pub(super) fn read_index(folder: &Path) -> BTreeMap<String, IndexedRun> {
    let path = folder.join(FILE);
    if !path.is_file() {
        return BTreeMap::new();
    }
    // Whatever is wrong with the index, the journals say the same.
    read_entries(&path).unwrap_or_default()
}

fn read_entries(path: &Path) -> Result<BTreeMap<String, IndexedRun>> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let format: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if format != FORMAT {
        return Ok(BTreeMap::new());
    }
    let mut query = connection.prepare("SELECT run, journal_bytes, finished, record FROM runs")?;
    let rows = query.query_map([], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get(2)?, row.get::<_, String>(3)?))
    })?;
    let mut runs = BTreeMap::new();
    for row in rows {
        let (run, journal_bytes, finished, record) = row?;
        let stamp = Stamp { journal_bytes: journal_bytes as u64, finished };
        runs.insert(run, IndexedRun { stamp, record: serde_json::from_str(&record)? });
    }
    Ok(runs)
}
