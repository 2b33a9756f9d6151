//! What the phases of a run stand on: its space under the limits, its folder, random networks.

use std::path::Path as FilePath;

use anyhow::{Result, anyhow};
use palmette_ctr::nasrec::{LimitedSpace, Shape};
use palmette_random::stream;
use palmette_space::{Domain, Genotype};

use super::context::RunContext;
use super::environment::Environment;
use super::store::RunStore;
use super::trials::{Contender, check_sides};

/// A run's context and its space.
pub(super) struct Run<'a, 'c> {
    pub(super) context: &'a RunContext<'c>,
    pub(super) space: LimitedSpace,
    pub(super) shape: Shape,
}

impl<'a, 'c> Run<'a, 'c> {
    /// The space under the limits.
    pub(super) fn new(context: &'a RunContext<'c>) -> Result<Self> {
        let (config, dataset) = (context.config, context.dataset);
        let shape = Shape { dense: dataset.dense_fields(), fields: dataset.categorical_fields() };
        check_sides(shape.dense, shape.fields)?;
        // tables of lists come last, and a searched network reads no list
        let all_rows = dataset.table_rows(None).into_iter().take(shape.fields);
        let all_rows: Vec<u64> = all_rows.map(u64::from).collect();
        let (limits, memory) = (config.cost.limits()?.counted, config.numbers.memory());
        let space = LimitedSpace::new(config.space.space()?, shape, &all_rows, limits, memory)
            .map_err(|e| anyhow!("{e}"))?;
        Ok(Self { context, space, shape })
    }

    /// The run's folder, for this machine and this configuration.
    pub(super) fn open(&self, dir: &FilePath) -> Result<RunStore> {
        let store = RunStore::open(dir)?;
        let mut settings = self.context.config.clone();
        settings.data.dataset.clear();
        settings.run.table_files = None;
        let (dataset, numbers) = (self.context.dataset, settings.numbers);
        Environment::here(dataset, numbers, &settings.to_toml()?)?.check_or_record(&store)?;
        let config = self.context.config.to_toml()?;
        store.files().write("config.toml", |out| Ok(out.write_all(config.as_bytes())?))?;
        Ok(store)
    }

    /// Random feasible networks, no two alike.
    pub(super) fn random_genotypes(&self, count: usize) -> Vec<Genotype> {
        let mut found: Vec<Genotype> = Vec::new();
        let mut keys = std::collections::BTreeSet::new();
        for index in 0..1000 * count as u64 {
            if found.len() == count {
                break;
            }
            let mut rng = stream(self.context.config.run.seed, "run/random-search", index);
            let genotype = self.space.sample(&mut rng);
            let feasible = if self.space.is_feasible(&genotype) {
                Some(genotype)
            } else {
                self.space.repair(&genotype, &mut rng)
            };
            if let Some(genotype) = feasible.filter(|g| keys.insert(self.space.key(g))) {
                found.push(genotype);
            }
        }
        found
    }

    pub(super) fn search_tables(&self) -> Vec<u32> {
        self.context.capped_tables(self.space.table_cap())
    }

    pub(super) fn network(&self, genotype: &Genotype) -> Contender {
        Contender::Network(palmette_ctr::nasrec::canonical(&self.space.nasrec().path(genotype)))
    }
}
