//! What a search will hold in memory, before its first step.

use anyhow::{Result, bail};
use palmette_cost::format_bytes;
use palmette_ctr::nasrec::{EMBEDDING_DIM, Network, Path, PathStrategy, supernet_path};
use palmette_ctr::train::{PREDICT_ROWS, RankingWeights, group_bytes, groups};
use palmette_data::Split;
use palmette_engine::Program;
use palmette_random::stream;
use palmette_space::{Domain, Genotype};

use super::plan::Plan;
use super::ranking::siblings;
use super::setup::Run;
use super::trials::Contender;
use super::workers::{table_bytes, trainings_at_a_time};
use crate::measured::{
    DatasetMemory, MemoryPart, RunMemory, SEARCH_BYTES, TrainingMemory, available_memory,
    model_bytes,
};

/// Paths whose largest arenas stand for those of a whole training.
const PATHS: u64 = 200;
/// Random networks whose children stand for all generations, and mutations of a child at most.
const FAMILIES: usize = 24;
const MUTATIONS: usize = 6;
/// Most random networks that stand for those that a search will choose.
const NETWORKS: usize = 32;

/// Threads that each of several models has: one where they run side by side, else all.
fn threads_of_each(at_a_time: usize) -> usize {
    if at_a_time > 1 { 1 } else { rayon::current_num_threads() }
}

/// What a network holds while it is trained and measured.
fn fitted(memory: &TrainingMemory) -> u64 {
    memory.model + memory.training.max(memory.evaluation)
}

impl Run<'_, '_> {
    /// Foretells the memory of all phases of `plan` with this many threads.
    pub(crate) fn memory(&self, plan: &Plan) -> Result<RunMemory> {
        let (config, dataset) = (self.context.config, self.context.dataset);
        let keeping = config.keeping();
        let (search, train) = (&config.search, &config.train);
        let space = self.space.nasrec();
        let network = Network::supernet(space.config(), self.shape, search.supernet.layer_norm);
        let tables = self.search_tables();
        let sizes = |rows: &[u32]| -> Vec<(u64, u64)> {
            let fields = rows.iter().take(self.shape.fields);
            fields.map(|&rows| (rows.into(), EMBEDDING_DIM as u64)).collect()
        };
        let (model, mut files) = model_bytes(network.layout(), sizes(&tables), &keeping);

        let threads = rayon::current_num_threads();
        let (mut program, mut step) = (Program::new(), 0);
        let strategy = search.supernet.paths;
        for index in 0..PATHS {
            // From the last warm-up step on no path is full; the first step's always is.
            let first = index == 0 && plan.warmup_steps > 0;
            let paths = if first { PathStrategy::FullPath } else { strategy };
            let path = supernet_path(space, paths, index, 0, config.run.seed);
            network.build(&path, &mut program);
            step = step.max(program.footprint(search.supernet.batch_size, threads).of_step());
        }
        let copies = trainings_at_a_time(search.ranking.batch_size, model);
        let forward = self.scoring(plan, &network, copies);
        let copies = copies as u64;
        let columns = (1 + self.shape.dense + self.shape.fields) * size_of::<f32>();
        let decoded = (plan.validation_rows * columns) as u64
            + plan.finetune_steps * (search.ranking.batch_size * columns) as u64;

        let all = DatasetMemory::of(dataset, &[Split::Train, Split::Validation, Split::Test]);
        let (contenders, networks) = self.contenders(plan)?;
        let final_rows = train.final_batch_size.unwrap_or(train.network.batch_size);
        let final_tables = self.context.final_tables(self.space.table_cap());
        // One after the other from the smallest network to the largest, then hand-made models.
        let trained = |tables: &[u32], batch_rows: usize| -> Result<(u64, Vec<TrainingMemory>)> {
            let inputs = self.context.inputs(tables);
            let own = DatasetMemory { pages: 0, ..all };
            let at_a_time = trainings_at_a_time(batch_rows, table_bytes(tables, keeping.numbers));
            let threads = threads_of_each(at_a_time);
            let mut found = Vec::new();
            for contender in &contenders {
                let compiled = contender.compile(&inputs, train.network.layer_norm)?;
                let rows = batch_rows as u64;
                found.push(TrainingMemory::new(&compiled, rows, &keeping, own, threads));
            }
            found[..networks].sort_by_key(fitted);
            Ok((at_a_time as u64, found))
        };
        let (at_a_time, found) = trained(&tables, train.network.batch_size)?;
        let side_by_side = at_a_time * found.iter().map(fitted).max().unwrap_or(0);
        // Of the networks one is chosen, no one knows which: that in the middle stands for it.
        let (at_a_time, found) = trained(&final_tables, final_rows)?;
        let exported = found[networks / 2];
        let others = found[networks..].iter().chain([&exported]).map(fitted).max().unwrap_or(0);
        files = files.max(exported.pages);
        let part = |what, bytes| MemoryPart { what, bytes };
        Ok(RunMemory {
            program: SEARCH_BYTES,
            supernet: vec![
                part("weights, tables and their state", model),
                part("activations and gradients of a step", step),
            ],
            ranking: vec![
                part("weights, tables and their state, for each thread", copies * model),
                part("activations", copies * forward),
                part("decoded rows", decoded),
            ],
            networks: vec![part("networks trained side by side", side_by_side)],
            final_fits: vec![
                part("the network that is exported", exported.held() - exported.program),
                part("networks trained beside it", (at_a_time - 1) * others),
            ],
            pages: all.pages + files,
        })
    }

    /// Bytes of the arenas of the largest of the candidates that are scored, by random ones, or of
    /// the largest group that is scored together.
    fn scoring(&self, plan: &Plan, network: &Network, at_a_time: usize) -> u64 {
        let search = &self.context.config.search;
        let (weights, rows) = (search.ranking.weights, search.ranking.batch_size);
        let scored_rows = plan.validation_rows.min(PREDICT_ROWS);
        let genotypes = self.random_genotypes(plan.evaluations.min(PATHS as usize));
        let threads = threads_of_each(at_a_time);
        let mut program = Program::new();
        if weights == RankingWeights::Fresh {
            let bytes = |genotype: &Genotype| {
                let path = self.space.nasrec().path(genotype);
                Network::standalone(&path, self.shape, false).build(&path, &mut program);
                let trained = program.footprint(rows, threads).of_step();
                trained.max(program.footprint(scored_rows, threads).of_prediction())
            };
            return genotypes.iter().map(bytes).max().unwrap_or(0);
        }
        let siblings = siblings(&search.strategy, plan.evaluations);
        let mut families = self.families(&genotypes, siblings);
        families.extend(genotypes.iter().map(|g| vec![self.space.nasrec().path(g)]));
        let mut most = 0;
        for family in &families {
            let paths: Vec<&Path> = family.iter().collect();
            for group in groups(network, &paths, rows, siblings.div_ceil(at_a_time)) {
                network.build_group(group.iter().map(|&i| paths[i]), &mut program);
                most = most.max(group_bytes(&program, rows, scored_rows, threads));
            }
        }
        most
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

    /// Networks that stand for those that are trained from scratch, as many random ones, and every
    /// hand-made model; the number is that of the networks.
    fn contenders(&self, plan: &Plan) -> Result<(Vec<Contender>, usize)> {
        let random = self.random_genotypes((2 * plan.top_k).min(NETWORKS));
        let mut found: Vec<Contender> =
            random.iter().map(|genotype| self.network(genotype)).collect();
        if found.is_empty() {
            bail!("the space has no network that meets the limits");
        }
        let networks = found.len();
        let macs = self.network_macs()?.searched as u64;
        for name in &self.context.config.train.baselines {
            found.push(Contender::Baseline(self.baseline(name, macs)?));
        }
        Ok((found, networks))
    }

    /// Fails where the run cannot fit its limit on peak memory, or this machine.
    pub(super) fn check_memory(&self, memory: &RunMemory) -> Result<()> {
        let held = memory.held();
        let limit = self.context.config.cost.limits()?.peak_memory;
        let available = available_memory();
        let over = match (limit, available) {
            (Some(limit), _) if held > limit => {
                format!("the limit peak_memory={}", format_bytes(limit))
            }
            (_, Some(free)) if held > free => {
                format!("the {} that this machine has left", format_bytes(free))
            }
            _ => return Ok(()),
        };
        bail!(
            "this run would hold more than {over} ({}). Less takes: {}",
            memory.describe(),
            self.what_lowers()
        )
    }

    /// Settings that would lower the peak, those that change least first.
    fn what_lowers(&self) -> String {
        let config = self.context.config;
        let cap = self.search_tables().into_iter().max().unwrap_or(0) / 4;
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
        ways.push("smaller batches (search.supernet.batch_size)".into());
        ways.push("a smaller space (space.blocks, space.dense_widths)".into());
        ways.join(", ")
    }
}
