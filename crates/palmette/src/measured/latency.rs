//! How long predictions take.

use std::time::{Duration, Instant};

use anyhow::Result;
use palmette_ctr::CompiledModel;
use palmette_ctr::nasrec::Shape;
use palmette_engine::{Batch, Executor, JaggedIds, Model, ParamStore, Program, TableSpec, Tables};
use palmette_random::{Draw, stream};

/// Microseconds of a prediction: median and 95th percentile.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Latency {
    /// Rows predicted at once.
    pub batch: usize,
    /// Median.
    pub median: f64,
    /// 19 of 20 predictions are as fast.
    pub p95: f64,
}

/// Times predictions of networks over the same inputs and tables.
///
/// Rows of the tables are drawn anew for each of eight batches, so that tables larger than the
/// caches cost what they cost in service. Products are those of exported weights, f32.
pub struct LatencyProbe {
    batch: usize,
    tables: Tables<f32>,
    inputs: Vec<(Vec<f32>, Vec<u32>)>,
    lists: usize,
    offsets: Vec<usize>,
    executor: Executor<f32>,
}

/// Batches of inputs that predictions go through in turn.
const BATCHES: usize = 8;
/// Predictions that warm caches and branch predictors up.
const WARM_UP: usize = 5;
/// Fewest predictions that are timed.
const LEAST: usize = 30;
/// Most predictions that are timed.
const MOST: usize = 100_000;

impl LatencyProbe {
    /// Fresh tables and inputs for batches of `batch` rows with `dense` numbers each, and `lists`
    /// without a value.
    ///
    /// # Errors
    /// When the system has not enough memory for the tables.
    pub fn new(dense: usize, tables: Vec<TableSpec>, lists: usize, batch: usize) -> Result<Self> {
        let inputs = (0..BATCHES as u64).map(|index| {
            let mut rng = stream(1, "latency", index);
            let dense = (0..batch * dense).map(|_| rng.unit() as f32).collect();
            let rows = tables.iter().flat_map(|table| std::iter::repeat_n(table.rows, batch));
            (dense, rows.map(|rows| rng.below(rows as u64) as u32).collect())
        });
        let inputs = inputs.collect();
        let tables = Tables::new(tables, 0, 1)?;
        let offsets = vec![0; batch + 1];
        Ok(Self { batch, tables, inputs, lists, offsets, executor: Executor::new() })
    }

    /// Bytes of the inputs of batches of `batch` rows.
    pub fn input_bytes(batch: usize, shape: Shape) -> u64 {
        (BATCHES * batch * (shape.dense + shape.fields) * size_of::<f32>()) as u64
    }

    /// Times predictions for at least `least` and at least thirty times.
    ///
    /// # Errors
    /// A network over other inputs or tables, and memory.
    pub fn measure(&mut self, compiled: &mut CompiledModel, least: Duration) -> Result<Latency> {
        let mut times = self.times(compiled, least)?;
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        Ok(Latency { batch: self.batch, median: at(0.5), p95: at(0.95) })
    }

    /// Microseconds of each prediction after those that warm up, thirty or more.
    fn times(&mut self, compiled: &mut CompiledModel, least: Duration) -> Result<Vec<f64>> {
        let params = ParamStore::new(compiled.layout.clone(), 1, 0)?;
        let tables = std::mem::replace(&mut self.tables, Tables::new(Vec::new(), 0, 1)?);
        let model = Model { params, tables };
        let times = self.predict(&model, &mut compiled.program, least);
        self.tables = model.tables;
        times
    }

    fn predict(
        &mut self,
        model: &Model<f32>,
        program: &mut Program,
        least: Duration,
    ) -> Result<Vec<f64>> {
        let empty = JaggedIds { offsets: &self.offsets, ids: &[] };
        let lists = vec![empty; self.lists];
        let mut times = Vec::new();
        let start = Instant::now();
        for run in 0.. {
            let (dense, ids) = &self.inputs[run % self.inputs.len()];
            let batch =
                Batch { rows: self.batch, dense, ids, labels: &[], weights: &[], lists: &lists };
            let begun = Instant::now();
            self.executor.forward(model, program, &batch)?;
            if run >= WARM_UP {
                times.push(begun.elapsed().as_secs_f64() * 1e6);
            }
            if times.len() >= LEAST && start.elapsed() > least || times.len() >= MOST {
                break;
            }
        }
        Ok(times)
    }
}
