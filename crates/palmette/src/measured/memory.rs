//! The memory that trainings and searches peak at, foretold from what they allocate.

use palmette_cost::format_bytes;
use palmette_ctr::CompiledModel;
use palmette_ctr::train::{Keeping, PREDICT_ROWS};
use palmette_data::{Dataset, Split};
use palmette_engine::{Arenas, ParamLayout};
use serde::Serialize;

/// Code that was read, buffers of readers and writers, thread stacks: what the process of a
/// logistic regression holds (`docs/performance.md`, "Memory of a training").
const PROGRAM_BYTES: u64 = 13 << 20;
/// The same of a search, with its worker threads, its journal and what was sampled to plan it: with
/// this the searches of `docs/performance.md` are foretold at 0.97 to 1.06 of what they held: a limit
/// is kept, and two threads of a small search take what is beyond 15 MiB.
pub const SEARCH_BYTES: u64 = 16 << 20;
const F32: u64 = size_of::<f32>() as u64;
/// A scored row: its logit and the copy that is written, or its label and place in their order.
const SCORED_ROW: u64 = 24;
/// A text of `encoders.json` in memory: its place in a list, and the smallest block of the heap.
const VOCABULARY_ENTRY: u64 = 24 + 32;

/// Something that takes memory, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryPart {
    /// What it is.
    pub what: &'static str,
    /// Bytes.
    pub bytes: u64,
    /// The least of them where they depend on which networks a search chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<u64>,
}

impl MemoryPart {
    fn least(&self) -> u64 {
        self.at_least.unwrap_or(self.bytes)
    }
}

/// What a dataset adds to a process that trains on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatasetMemory {
    /// Shards that are mapped and read from end to end; the system takes their pages back when it
    /// needs them.
    pub pages: u64,
    /// Vocabularies, while `encoders.json` is written.
    pub encoders: u64,
    /// Rows that a training reads: no batch has more.
    pub trained_rows: usize,
    /// Rows that are predicted at a time.
    pub predicted_rows: usize,
    /// Rows whose predictions are held together, to be measured.
    pub scored_rows: usize,
}

impl Default for DatasetMemory {
    /// Of a log that is not at hand: only that it has many rows.
    fn default() -> Self {
        let (trained_rows, predicted_rows) = (usize::MAX, PREDICT_ROWS);
        Self { pages: 0, encoders: 0, trained_rows, predicted_rows, scored_rows: 0 }
    }
}

impl DatasetMemory {
    /// Of a dataset of which these parts are read, the first to train on.
    pub fn of(dataset: &Dataset, parts: &[Split]) -> Self {
        let encoders = &dataset.manifest().encoders;
        let entries = encoders.categorical.iter().filter_map(|field| field.vocabulary.as_ref());
        let entries: u64 = entries.map(|vocabulary| vocabulary.entries).sum();
        // Labels, dense values and ids, four bytes each; lists are left out.
        let columns = 1 + dataset.dense_fields() + dataset.categorical_fields();
        let rows: usize = parts.iter().map(|&part| dataset.rows(part)).sum();
        let predicted = parts.iter().filter(|&&part| part != Split::Train);
        let scored_rows = predicted.map(|&part| dataset.rows(part)).max().unwrap_or(0);
        Self {
            pages: rows as u64 * columns as u64 * F32,
            encoders: entries * VOCABULARY_ENTRY,
            trained_rows: parts.first().map_or(0, |&part| dataset.rows(part)),
            predicted_rows: scored_rows.min(PREDICT_ROWS),
            scored_rows,
        }
    }
}

/// Bytes of weights, tables and their optimiser's state; the second number is that of tables in
/// files, whose pages the system takes back when it needs them.
pub fn model_bytes(
    layout: &ParamLayout,
    tables: impl IntoIterator<Item = (u64, u64)>,
    keeping: &Keeping,
) -> (u64, u64) {
    let memory = keeping.numbers.memory();
    // Rows are padded to whole cache lines.
    let padded: u64 = layout.iter().map(|(_, spec)| (spec.rows * spec.stride) as u64).sum();
    let tables = tables.into_iter().map(|(rows, dim)| rows * memory.row_bytes(dim)).sum();
    let network = memory.bytes(padded);
    if keeping.table_files.is_some() { (network, tables) } else { (network + tables, 0) }
}

/// Bytes that the arenas of trainings and predictions hold: of a step with `batch_rows` rows, and
/// afterwards, while rows are predicted, on `threads` threads each.
fn arenas(
    compiled: &CompiledModel,
    batch_rows: u64,
    predicted_rows: usize,
    threads: usize,
) -> [u64; 2] {
    let program = &compiled.program;
    let mut step = program.footprint(usize::try_from(batch_rows).unwrap_or(usize::MAX), threads);
    // The footprint has a sum of gradients, and its number, for every row of every field.
    let beyond =
        |(rows, dim): (u64, u64)| batch_rows.saturating_sub(rows).saturating_mul((dim + 1) * F32);
    let sums = compiled.table_sizes().map(beyond).fold(0, u64::saturating_add);
    step.weight_gradients = step.weight_gradients.saturating_sub(sums);
    let mut arenas = Arenas::default();
    arenas.run(step);
    let of_step = arenas.held();
    arenas.run(program.footprint(predicted_rows, threads).predicting());
    [of_step, arenas.held()]
}

/// Bytes held at the peak of one training with its export, by what holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TrainingMemory {
    /// Code, buffers, thread stacks.
    pub program: u64,
    /// Weights and tables with the optimiser's state.
    pub model: u64,
    /// Activations and gradients of a step.
    pub training: u64,
    /// Activations of predicted rows.
    pub evaluation: u64,
    /// Predictions while they are measured.
    pub scores: u64,
    /// The largest tensor and the encoders while they are written.
    pub export: u64,
    /// Pages of the dataset and of tables in files: the system takes them back as it needs them.
    pub pages: u64,
}

impl TrainingMemory {
    /// Foretells the peak of training `compiled` with Adagrad on batches of `batch_rows`, on
    /// `threads` threads.
    pub fn new(
        compiled: &CompiledModel,
        batch_rows: u64,
        keeping: &Keeping,
        dataset: DatasetMemory,
        threads: usize,
    ) -> Self {
        let (model, files) = model_bytes(&compiled.layout, compiled.table_sizes(), keeping);
        let batch_rows = batch_rows.min(dataset.trained_rows as u64);
        let [training, evaluation] = arenas(compiled, batch_rows, dataset.predicted_rows, threads);
        // Weights are read while they are written, those of one tensor at a time.
        let tensors = compiled.tensors.iter();
        let largest = tensors.map(|t| t.shape.iter().product::<usize>()).max().unwrap_or(0);
        Self {
            program: PROGRAM_BYTES,
            model,
            training,
            evaluation,
            scores: SCORED_ROW * dataset.scored_rows as u64,
            export: F32 * largest as u64 + dataset.encoders,
            pages: dataset.pages + files,
        }
    }

    /// What the model and its arenas hold while it is trained and measured.
    pub fn fitted(&self) -> u64 {
        self.model + self.training.max(self.evaluation + self.scores)
    }

    /// What the process cannot do without.
    pub fn held(&self) -> u64 {
        self.program + self.fitted().max(self.model + self.evaluation + self.export)
    }

    /// What it holds at most where there is room for the pages.
    pub fn peak(&self) -> u64 {
        self.held() + self.pages
    }
}

/// Bytes that a search holds in each of its phases, foretold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunMemory {
    /// Code, buffers, thread stacks.
    pub program: u64,
    /// Timing predictions, where they have a limit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub latency: Vec<MemoryPart>,
    /// Training the supernet.
    pub supernet: Vec<MemoryPart>,
    /// Ranking candidates.
    pub ranking: Vec<MemoryPart>,
    /// Training networks from scratch.
    pub networks: Vec<MemoryPart>,
    /// Final fits and the export of the best of them.
    pub final_fits: Vec<MemoryPart>,
    /// Comparing all models on the test part.
    pub comparison: Vec<MemoryPart>,
    /// Pages of the dataset and of tables in files: the system takes them back as it needs them.
    pub pages: u64,
}

impl RunMemory {
    /// All phases with their names.
    fn phases(&self) -> [(&'static str, &[MemoryPart]); 6] {
        [
            ("timing predictions", &self.latency),
            ("training the supernet", &self.supernet),
            ("ranking candidates", &self.ranking),
            ("training networks from scratch", &self.networks),
            ("final fits and export", &self.final_fits),
            ("comparing models", &self.comparison),
        ]
    }

    /// The phase that holds most, and its parts.
    pub fn largest(&self) -> (&'static str, &[MemoryPart]) {
        let phases = self.phases();
        phases.into_iter().max_by_key(|phase| sum(phase.1)).unwrap_or(phases[0])
    }

    /// What the process cannot do without, where it trains the largest networks of the space.
    pub fn held(&self) -> u64 {
        self.program + sum(self.largest().1)
    }

    /// The same where it trains the smallest.
    pub fn held_at_least(&self) -> u64 {
        let least = |parts: &[MemoryPart]| parts.iter().map(MemoryPart::least).sum::<u64>();
        let phases = self.phases();
        self.program + phases.iter().map(|phase| least(phase.1)).max().unwrap_or(0)
    }

    /// The most of the phases that hold less where candidates are smaller networks.
    pub fn of_candidates(&self) -> u64 {
        let phases = [&self.latency, &self.ranking, &self.networks, &self.final_fits];
        self.program + phases.map(|parts| sum(parts)).into_iter().max().unwrap_or(0)
    }

    /// The peak, the phase it is in, and what holds most there.
    pub fn describe(&self) -> String {
        let (phase, parts) = self.largest();
        let parts = parts.iter().map(|p| format!("{} {}", p.what, format_bytes(p.bytes)));
        let (least, most) = (self.held_at_least(), self.held());
        // A tenth is how well memory is foretold.
        let from = if least < most - most / 10 {
            format!("{} to ", format_bytes(least))
        } else {
            String::new()
        };
        let mut text = format!(
            "memory: {from}{} at the peak, while {phase} ({}",
            format_bytes(most),
            parts.collect::<Vec<_>>().join(", ")
        );
        text += &format!(", the program {})", format_bytes(self.program));
        if !from.is_empty() {
            text += "; how much it is depends on which networks the search chooses";
        }
        if self.pages > 0 {
            text += &format!("; up to {} of file pages more", format_bytes(self.pages));
        }
        text
    }

    /// A line for the peak and one for each phase.
    pub fn phase_by_phase(&self) -> String {
        let phases = self.phases().into_iter().filter(|(_, parts)| !parts.is_empty());
        let lines = phases.map(|(phase, parts)| {
            let held = format_bytes(self.program + sum(parts));
            let parts = parts.iter().map(|p| format!("{} {}", p.what, format_bytes(p.bytes)));
            let parts = parts.collect::<Vec<_>>().join(", ");
            format!("\n  {phase:<30} {held:>12}   {parts}")
        });
        self.describe() + &lines.collect::<String>()
    }

    /// What it holds at most where there is room for the pages.
    pub fn peak(&self) -> u64 {
        self.held() + self.pages
    }
}

fn sum(parts: &[MemoryPart]) -> u64 {
    parts.iter().map(|part| part.bytes).sum()
}
