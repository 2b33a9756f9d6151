//! What a search will hold in memory, before its first step.

use anyhow::{Result, anyhow, bail};
use palmette_cost::format_bytes;
use palmette_ctr::CompiledModel;
use palmette_ctr::nasrec::{EMBEDDING_DIM, Network, Path, supernet_path};
use palmette_ctr::train::{DECODED_BYTES, PREDICT_ROWS, RankingWeights, groups};
use palmette_data::Split;
use palmette_engine::{Arenas, Footprint, ParamLayout, Program};
use palmette_random::stream;
use palmette_space::{Domain, Genotype};

use super::plan::{MemoryBound, Plan};
use super::ranking::siblings;
use super::setup::Run;
use super::side_by_side::Trainings;
use super::trials::Contender;
use super::workers::trainings_at_a_time;
use crate::measured::{
    DatasetMemory, LatencyProbe, MemoryPart, RunMemory, SEARCH_BYTES, TrainingMemory,
    available_memory, model_bytes,
};

/// Candidates whose arenas stand for those of all.
const CANDIDATES: usize = 200;
/// Supernet paths that stand for those of a long training without a warm-up.
const PATHS: u64 = 2000;
/// Steps at most that are timed before the plan.
const TIMED: u64 = 101;
/// Random networks whose children stand for all generations, and mutations of a child at most.
const FAMILIES: usize = 24;
const MUTATIONS: usize = 6;
/// Random networks that stand for those that a search will choose.
const NETWORKS: usize = 32;
/// A limit on networks is lowered by this part of it until their rankers fit as well.
const TIGHTER: u64 = 16;
/// Numbers of a row that is scored beside its inputs: its label, and its weight in f64.
const SCORED_NUMBERS: usize = 3;

/// Threads that each of several models has: one where they run side by side, else all.
fn threads_of_each(at_a_time: usize) -> usize {
    if at_a_time > 1 { 1 } else { rayon::current_num_threads() }
}

/// Bytes of weights alone.
fn bytes_of(layout: &ParamLayout) -> u64 {
    let padded: usize = layout.iter().map(|(_, spec)| spec.rows * spec.stride).sum();
    (padded * size_of::<f32>()) as u64
}

fn part(what: &'static str, bytes: u64) -> MemoryPart {
    MemoryPart { what, bytes, at_least: None }
}

/// Parts that depend on the network, of the one that holds most and the one that holds least.
fn between(what: [&'static str; 2], mut held: Vec<[u64; 2]>) -> Vec<MemoryPart> {
    held.sort_by_key(|parts| parts.iter().sum::<u64>());
    let (Some(least), Some(most)) = (held.first(), held.last()) else { return Vec::new() };
    let parts = what.into_iter().zip(most).zip(least).filter(|((_, most), _)| **most > 0);
    let part = |((what, &bytes), &least): ((_, &u64), &u64)| MemoryPart {
        what,
        bytes,
        at_least: Some(least.min(bytes)),
    };
    parts.map(part).collect()
}

fn limit_name(limit: u64) -> String {
    format!("the limit peak_memory={}", format_bytes(limit))
}

impl Run<'_, '_> {
    /// Foretells the memory of all phases of `plan` with this many threads.
    pub(crate) fn memory(&self, plan: &Plan) -> Result<RunMemory> {
        let (config, dataset) = (self.context.config, self.context.dataset);
        let keeping = config.keeping();
        let (search, train) = (&config.search, &config.train);
        let network =
            Network::supernet(self.space.nasrec().config(), self.shape, search.supernet.layer_norm);
        let tables = self.search_tables();
        let sizes = |rows: &[u32]| -> Vec<(u64, u64)> {
            let fields = rows.iter().take(self.shape.fields);
            fields.map(|&rows| (rows.into(), EMBEDDING_DIM as u64)).collect()
        };
        let (model, mut files) = model_bytes(network.layout(), sizes(&tables), &keeping);
        // A ranker has no optimiser's state but that of its tables.
        let frozen = model - bytes_of(network.layout());
        let copies = trainings_at_a_time(search.ranking.batch_size, frozen + files);
        let (own, arenas) = self.scoring(plan, &network, copies)?;
        let copies = copies as u64;
        let columns = self.shape.dense + self.shape.fields;
        let decoded = |rows: usize, numbers: usize| rows * numbers * size_of::<f32>();
        let tuned = plan.finetune_steps as usize * search.ranking.batch_size;
        let decoded = decoded(tuned, columns + 1).min(DECODED_BYTES)
            + decoded(plan.validation_rows, columns).min(DECODED_BYTES)
            + decoded(plan.validation_rows, SCORED_NUMBERS);

        let pages =
            DatasetMemory::of(dataset, &[Split::Train, Split::Validation, Split::Test]).pages;
        let networks = self.random_networks()?;
        let final_tables = self.context.final_tables(self.space.table_cap());
        let phases = self.training_phases(plan.top_k, rayon::current_num_threads())?;
        let scratch = phases.scratch.of_all(&networks)?;
        let fits = phases.fits.of_all(&networks)?;
        let in_files = fits.iter().map(|network| network.pages).max().unwrap_or(0);
        files = (copies * files).max(phases.fits.at_a_time as u64 * in_files);
        let together = |trainings: &Trainings, networks: &[TrainingMemory], export: bool| {
            let exported = |network: &TrainingMemory| if export { network.export } else { 0 };
            let each = networks.iter().map(|n| [trainings.held(n), exported(n)]);
            between(["networks trained side by side", "the export of one"], each.collect())
        };
        let seeds = train.final_seeds.max(1);
        // The test logits of every fit, and the mean losses of every model.
        let compared = (train.baselines.len() + 2) * (seeds + 1) * size_of::<f64>();
        Ok(RunMemory {
            program: SEARCH_BYTES,
            latency: self.timing(&networks, &final_tables)?,
            supernet: vec![
                part("weights, tables and their state", model),
                part("activations and gradients of a step", self.supernet_step(plan, &network)),
            ],
            ranking: vec![
                part("weights and tables, for each thread", copies * frozen),
                part("candidates' own weights", copies * own),
                part("activations", arenas),
                part("decoded rows", decoded as u64),
            ],
            networks: together(&phases.scratch, &scratch, false),
            final_fits: together(&phases.fits, &fits, true),
            comparison: vec![part(
                "test logits and losses of all models",
                (dataset.rows(Split::Test) * compared) as u64,
            )],
            pages: pages + files,
        })
    }

    /// What the arenas of the supernet's training hold in the end.
    fn supernet_step(&self, plan: &Plan, network: &Network) -> u64 {
        let settings = &self.context.config.search.supernet;
        let (threads, mut program) = (rayon::current_num_threads(), Program::new());
        let mut of_step = |index, warmup| {
            let (space, seed) = (self.space.nasrec(), self.context.config.run.seed);
            let path = supernet_path(space, settings.paths, index, warmup, seed);
            network.build(&path, &mut program);
            program.footprint(settings.batch_size, threads)
        };
        // With a warm-up the first path is full, and no other has larger operators.
        let warmup = plan.warmup_steps;
        let steps = if warmup > 0 { 1 } else { plan.supernet_steps.clamp(TIMED, PATHS) };
        let mut arenas = Arenas::default();
        (0..steps).for_each(|index| arenas.run(of_step(index, warmup)));
        arenas.peak()
    }

    /// What timing predictions holds: for each limit tables of its own, in f32 without state.
    fn timing(&self, networks: &[Contender], tables: &[u32]) -> Result<Vec<MemoryPart>> {
        let limits = self.context.config.cost.limits()?.latency;
        if limits.is_empty() {
            return Ok(Vec::new());
        }
        let inputs = self.context.inputs(tables);
        let compiled = networks.iter().map(|network| network.compile(&inputs, false));
        let compiled = compiled.collect::<Result<Vec<_>>>()?;
        let threads = rayon::current_num_threads();
        let arenas = limits.iter().map(|limit| {
            let of = |model: &CompiledModel| model.program.footprint(limit.batch, threads);
            let mut arenas = Arenas::default();
            compiled.iter().for_each(|model| arenas.run(of(model).predicting()));
            arenas.peak() + LatencyProbe::input_bytes(limit.batch, self.shape)
        });
        let arenas = arenas.sum();
        let weights = compiled.iter().map(|model| bytes_of(&model.layout)).max().unwrap_or(0);
        let rows: u64 = tables.iter().map(|&rows| u64::from(rows)).sum();
        let row = (EMBEDDING_DIM * size_of::<f32>()) as u64;
        Ok(vec![
            part("tables, for each limit", limits.len() as u64 * rows * row),
            part("weights of a network", weights),
            part("activations and inputs", arenas),
        ])
    }

    /// Bytes of the weights that a candidate has of its own while it is scored, and of the arenas of
    /// all rankers after many candidates, or after many groups that are scored together.
    fn scoring(&self, plan: &Plan, network: &Network, at_a_time: usize) -> Result<(u64, u64)> {
        let search = &self.context.config.search;
        let (weights, rows) = (search.ranking.weights, search.ranking.batch_size);
        let scored_rows = plan.validation_rows.min(PREDICT_ROWS);
        let genotypes = self.candidates(plan)?;
        let threads = threads_of_each(at_a_time);
        let (mut program, mut steps, mut own) = (Program::new(), Vec::new(), 0);
        if weights == RankingWeights::Fresh {
            for genotype in &genotypes {
                let path = self.space.nasrec().path(genotype);
                let network = Network::standalone(&path, self.shape, false);
                network.build(&path, &mut program);
                // With Adagrad's state.
                own = own.max(2 * bytes_of(network.layout()));
                let predicted = program.footprint(scored_rows, threads).predicting();
                steps.push([program.footprint(rows, threads), predicted]);
            }
        } else {
            let siblings = siblings(&search.strategy, plan.evaluations);
            let mut families = self.families(&genotypes, siblings);
            families.extend(genotypes.iter().map(|g| vec![self.space.nasrec().path(g)]));
            for family in &families {
                let paths: Vec<&Path> = family.iter().collect();
                for group in groups(network, &paths, rows, siblings.div_ceil(at_a_time)) {
                    network.build_group(group.iter().map(|&i| paths[i]), &mut program);
                    let predicted = program.footprint(scored_rows, threads).predicting();
                    steps.push([program.footprint(rows, threads).tuning_heads(), predicted]);
                }
            }
        }
        // The largest meet at worst, each in another ranker.
        steps.sort_by_key(|steps| std::cmp::Reverse(steps.map(Footprint::of_step)));
        let mut arenas = vec![Arenas::default(); at_a_time];
        for (ranker, [tuned, predicted]) in (0..at_a_time).cycle().zip(steps) {
            arenas[ranker].run(tuned);
            arenas[ranker].run(predicted);
        }
        Ok((own, arenas.iter().map(Arenas::peak).sum()))
    }

    /// Candidates that stand for all: those that are known before any score, and random ones where
    /// they are few.
    fn candidates(&self, plan: &Plan) -> Result<Vec<Genotype>> {
        let mut known = self.first_candidates(plan, CANDIDATES)?;
        let random = self.context.config.search.random_search;
        let few = (plan.evaluations / 2).min(CANDIDATES).saturating_sub(known.len());
        known.extend(self.random_genotypes(few.max(if random { plan.top_k } else { 0 })));
        Ok(known)
    }

    /// Children of some of `parents`, `siblings` of each: of one mutation, of two and so on.
    fn families(&self, parents: &[Genotype], siblings: usize) -> Vec<Vec<Path>> {
        let family = |(index, parent): (usize, &Genotype)| {
            let mut rng = stream(self.context.config.run.seed, "run/memory", index as u64);
            let mut child = || {
                let child = (0..=index % MUTATIONS)
                    .fold(parent.clone(), |child, _| self.space.mutate(&child, &mut rng));
                self.space.nasrec().path(&child)
            };
            (0..siblings).map(|_| child()).collect()
        };
        parents.iter().take(FAMILIES).enumerate().map(family).collect()
    }

    /// Networks that stand for those that a search chooses: no one knows which it will.
    fn random_networks(&self) -> Result<Vec<Contender>> {
        let random = self.random_genotypes(NETWORKS);
        if random.is_empty() {
            bail!("the space has no network that meets the limits");
        }
        Ok(random.iter().map(|genotype| self.network(genotype)).collect())
    }

    /// Holds candidates to the limit on peak memory, where there is one, with this many threads: as
    /// many networks as these train side by side have to fit, and to score them, too.
    ///
    /// # Errors
    /// Not even the cheapest network of the space fits.
    pub(super) fn limit_memory(&mut self, plan: &Plan) -> Result<Option<MemoryBound>> {
        let Some(limit) = self.context.config.cost.limits()?.peak_memory else { return Ok(None) };
        let threads = rayon::current_num_threads();
        let mut bound = MemoryBound { bytes: limit, threads };
        if !self.bound_memory(plan, bound)? {
            return Err(self.too_much(&limit_name(limit), &self.memory(plan)?, None));
        }
        // Rankers hold less where networks are smaller, but what is not known.
        while self.memory(plan)?.of_candidates() > limit {
            let tighter = MemoryBound { bytes: bound.bytes - bound.bytes / TIGHTER, threads };
            if !self.bound_memory(plan, tighter)? {
                // The run is refused with the candidates of the last bound that leaves any.
                self.bound_memory(plan, bound)?;
                break;
            }
            bound = tighter;
        }
        Ok(Some(bound))
    }

    /// Holds candidates to `bound`; whether there are any.
    pub(super) fn bound_memory(&mut self, plan: &Plan, bound: MemoryBound) -> Result<bool> {
        // What an earlier bound left must not decide what this one is.
        self.space = self.space.clone().without_peak();
        let phases = self.training_phases(plan.top_k, bound.threads)?;
        match self.space.clone().with_peak(phases.bound(bound.bytes)) {
            Ok(space) => self.space = space,
            Err(_) => return Ok(false),
        }
        Ok(true)
    }

    /// Fails where the run cannot fit its limit on peak memory, or this machine.
    pub(super) fn check_memory(
        &self,
        memory: &RunMemory,
        begun: Option<MemoryBound>,
    ) -> Result<()> {
        let (least, most) = (memory.held_at_least(), memory.held());
        let limit = self.context.config.cost.limits()?.peak_memory;
        let available = available_memory();
        let over = match (limit, available) {
            (Some(limit), _) if most > limit => limit_name(limit),
            (_, Some(free)) if least > free => {
                format!("the {} that this machine has left", format_bytes(free))
            }
            (None, Some(free)) if most > free => {
                let free = format_bytes(free);
                self.context.console.note(&format!(
                    "this run may hold more than the {free} that this machine has left ({}); \
                     --limit peak_memory=.. searches networks that fit",
                    memory.describe()
                ));
                return Ok(());
            }
            _ => return Ok(()),
        };
        Err(self.too_much(&over, memory, begun))
    }

    fn too_much(
        &self,
        over: &str,
        memory: &RunMemory,
        begun: Option<MemoryBound>,
    ) -> anyhow::Error {
        let lowers = match begun.filter(|bound| bound.threads < rayon::current_num_threads()) {
            Some(bound) => format!("--threads {}, with which it was begun", bound.threads),
            None => self.what_lowers(),
        };
        anyhow!(
            "this run would hold more than {over} ({}). Less takes: {lowers}",
            memory.describe()
        )
    }

    /// Settings that would lower the peak, those that change least first.
    fn what_lowers(&self) -> String {
        let config = self.context.config;
        let cap = (self.search_tables().into_iter().max().unwrap_or(0) / 4).max(1);
        let mut ways = Vec::new();
        if config.run.table_files.is_none() {
            ways.push("--table-files DIR (tables in files)".to_owned());
        }
        if trainings_at_a_time(config.search.ranking.batch_size, 1) > 1 {
            ways.push("--threads 1 (one model at a time)".into());
        }
        if config.numbers.memory().table_value_bytes > 2 {
            ways.push("--table-storage bf16".into());
        }
        if !config.numbers.memory().row_wise_state {
            ways.push("--table-state row-wise".into());
        }
        ways.push(format!("smaller tables (--limit memory=..., --set search.table_cap={cap})"));
        ways.push(
            "smaller batches (batch_size of search.supernet, search.ranking and train.network, \
             train.final_batch_size)"
                .into(),
        );
        if !config.train.baselines.is_empty() {
            ways.push("fewer hand-made models (train.baselines)".into());
        }
        ways.push("a smaller space (space.blocks, space.dense_widths)".into());
        ways.join(", ")
    }
}
