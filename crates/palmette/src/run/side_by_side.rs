//! What trainings from scratch hold together, whichever networks a search will choose.

use anyhow::Result;
use palmette_ctr::ModelInputs;
use palmette_ctr::nasrec::{Path, PeakBound, canonical};
use palmette_ctr::train::Keeping;
use palmette_data::Split;

use super::setup::Run;
use super::trials::Contender;
use super::workers::{table_bytes, trainings_of};
use crate::measured::{DatasetMemory, SEARCH_BYTES, TrainingMemory};

/// The most that `at_a_time` trainings hold together, of all that there are.
fn side_by_side(mut held: Vec<u64>, at_a_time: usize) -> u64 {
    held.sort_unstable_by_key(|&bytes| std::cmp::Reverse(bytes));
    held.iter().take(at_a_time).sum()
}

/// One of the two phases that train networks and hand-made models from scratch.
pub(super) struct Trainings {
    pub(super) at_a_time: usize,
    inputs: ModelInputs,
    batch_rows: u64,
    layer_norm: bool,
    keeping: Keeping,
    dataset: DatasetMemory,
    threads: usize,
    /// Trainings of networks, and of each hand-made model.
    times: [usize; 2],
    /// What each hand-made model holds.
    baselines: Vec<u64>,
}

impl Trainings {
    /// What the training of one model holds.
    pub(super) fn of(&self, contender: &Contender) -> Result<TrainingMemory> {
        let compiled = contender.compile(&self.inputs, self.layer_norm)?;
        let Self { batch_rows, ref keeping, dataset, threads, .. } = *self;
        Ok(TrainingMemory::new(&compiled, batch_rows, keeping, dataset, threads))
    }

    /// What the training of each holds.
    pub(super) fn of_all(&self, contenders: &[Contender]) -> Result<Vec<TrainingMemory>> {
        contenders.iter().map(|contender| self.of(contender)).collect()
    }

    /// The most that is held at a time where all networks take what this one does.
    pub(super) fn held(&self, network: &TrainingMemory) -> u64 {
        let [networks, each] = self.times;
        let baselines = self.baselines.iter().flat_map(|&held| std::iter::repeat_n(held, each));
        let held = std::iter::repeat_n(network.fitted(), networks).chain(baselines);
        side_by_side(held.collect(), self.at_a_time)
    }

    /// The most that is held at a time by these models, each trained so many times.
    pub(super) fn held_by(&self, models: &[TrainingMemory], times: usize) -> u64 {
        let held = models.iter().flat_map(|model| std::iter::repeat_n(model.fitted(), times));
        side_by_side(held.collect(), self.at_a_time)
    }
}

/// Both phases.
pub(super) struct TrainingPhases {
    /// On training rows, at several learning rates.
    pub(super) scratch: Trainings,
    /// On training and validation rows, with several seeds.
    pub(super) fits: Trainings,
}

impl TrainingPhases {
    /// The most that either phase holds with a network of this path.
    fn peak(&self, path: &Path) -> Result<u64> {
        let network = Contender::Network(canonical(path));
        let fitted = self.fits.of(&network)?;
        let fits = self.fits.held(&fitted) + fitted.export;
        Ok(SEARCH_BYTES + fits.max(self.scratch.held(&self.scratch.of(&network)?)))
    }

    /// Holds candidates to `limit` bytes at the peak of the trainings that the best of them get.
    pub(super) fn bound(self, limit: u64) -> PeakBound {
        // What cannot be compiled is over every limit.
        let foretell = move |path: &Path| self.peak(path).unwrap_or(u64::MAX);
        PeakBound { foretell: std::sync::Arc::new(foretell), limit }
    }
}

impl Run<'_, '_> {
    /// The trainings from scratch of a run with `top_k` networks of either side on so many threads.
    pub(super) fn training_phases(&self, top_k: usize, threads: usize) -> Result<TrainingPhases> {
        let train = &self.context.config.train;
        let sides = if self.context.config.search.random_search { 2 } else { 1 };
        let final_rows = train.final_batch_size.unwrap_or(train.network.batch_size);
        let final_tables = self.context.final_tables(self.space.table_cap());
        let (rates, seeds) = (train.learning_rates.len(), train.final_seeds.max(1));
        let networks = sides * (top_k + rates);
        let tables = self.search_tables();
        let rows = train.network.batch_size;
        let macs = self.network_macs()?.searched as u64;
        let baselines = train.baselines.iter();
        let baselines = baselines.map(|name| Ok(Contender::Baseline(self.baseline(name, macs)?)));
        let baselines = baselines.collect::<Result<Vec<_>>>()?;
        let trainings =
            |tables: &[u32], rows, times| self.trainings(&baselines, tables, rows, threads, times);
        let [train, validation] =
            [Split::Train, Split::Validation].map(|part| self.context.dataset.rows(part));
        Ok(TrainingPhases {
            scratch: trainings(&tables, [rows, train], [networks, rates])?,
            fits: trainings(
                &final_tables,
                [final_rows, train + validation],
                [sides * seeds, seeds],
            )?,
        })
    }

    fn trainings(
        &self,
        baselines: &[Contender],
        tables: &[u32],
        [batch_rows, trained_rows]: [usize; 2],
        threads: usize,
        times: [usize; 2],
    ) -> Result<Trainings> {
        let (config, dataset) = (self.context.config, self.context.dataset);
        let all = DatasetMemory::of(dataset, &[Split::Train, Split::Validation, Split::Test]);
        let at_a_time = trainings_of(threads, batch_rows, table_bytes(tables, config.numbers));
        let mut trainings = Trainings {
            at_a_time,
            inputs: self.context.inputs(tables),
            batch_rows: batch_rows as u64,
            layer_norm: config.train.network.layer_norm,
            keeping: config.keeping(),
            dataset: DatasetMemory { pages: 0, trained_rows, ..all },
            threads: if at_a_time > 1 { 1 } else { threads },
            times,
            baselines: Vec::new(),
        };
        let baselines = trainings.of_all(baselines)?;
        trainings.baselines = baselines.iter().map(TrainingMemory::fitted).collect();
        Ok(trainings)
    }
}
