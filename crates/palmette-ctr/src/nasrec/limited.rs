//! A NASRec space under hard limits.

use palmette_cost::{
    CostSheet, Limits, MemoryModel, Metric, Violation, largest_table_cap, smallest_tables,
};
use palmette_random::{ChaCha8Rng, Draw, stream};
use palmette_space::{Domain, Genotype, Space, sample_subset};
use thiserror::Error;

use super::{
    Block, BlockLiveness, DenseOp, EMBEDDING_DIM, LatencyBound, NasRecSpace, Path, PeakBound, Set,
    Shape, SparseOp, canonical, canonical_key, cost::live_size, latency_counts, liveness,
    liveness::live_blocks, space::GENES,
};

/// Limits that no network of the space can meet.
#[derive(Clone, Debug, PartialEq, Error)]
#[error(
    "no network of the space can meet {limits}: {over}; the cheapest possible network \
     ({cheapest}) has {macs} multiply-accumulates, {params} parameters and takes {memory} with \
     tables of one row",
    over = .violations.iter().map(Violation::to_string).collect::<Vec<_>>().join(", "),
    macs = sheet.macs,
    params = sheet.params,
    memory = Metric::Memory.format(sheet.memory)
)]
pub struct ImpossibleLimits {
    /// What was asked for.
    pub limits: Limits,
    /// The cheapest network in words.
    pub cheapest: String,
    /// The cheapest network.
    pub path: Path,
    /// Its cost, with tables of one row.
    pub sheet: CostSheet,
    /// Which limits it breaks.
    pub violations: Vec<Violation>,
}

/// A NASRec space, the data it is for, and hard limits that its candidates must meet.
///
/// Table caps are solved for first: where memory (or the total of parameters) is
/// limited, tables are cut to the largest common cap that leaves the network its
/// share. The share is what a typical random network of the space takes (median
/// of 257), at most half of the limit, at least the cheapest network.
#[derive(Clone, Debug)]
pub struct LimitedSpace {
    space: NasRecSpace,
    shape: Shape,
    limits: Limits,
    memory: MemoryModel,
    table_rows: Vec<u64>,
    /// What the tables cost by themselves: candidates are counted by the hundred thousand.
    tables: CostSheet,
    table_cap: Option<u64>,
    latency: Vec<LatencyBound>,
    peak: Option<PeakBound>,
    cheapest: Genotype,
}

impl LimitedSpace {
    /// Solves for the table cap and makes sure that the limits can be met.
    ///
    /// `table_rows` has one entry per categorical field.
    pub fn new(
        space: NasRecSpace,
        shape: Shape,
        table_rows: &[u64],
        limits: Limits,
        memory: MemoryModel,
    ) -> Result<Self, Box<ImpossibleLimits>> {
        let mut limited = Self {
            cheapest: space.space().sample(&mut stream(0, "limits/any", 0)),
            space,
            shape,
            limits,
            memory,
            table_rows: Vec::new(),
            tables: CostSheet::new(0, 0, [], &memory),
            table_cap: None,
            latency: Vec::new(),
            peak: None,
        };
        limited.cut_tables(table_rows, 1);
        limited.cheapest = limited.find_cheapest();
        let sheet = limited.sheet(&limited.cheapest);
        if !limited.limits.is_met(&sheet) {
            let path = limited.space.path(&limited.cheapest);
            return Err(Box::new(ImpossibleLimits {
                cheapest: describe(&path),
                violations: limited.limits.violations(&sheet),
                limits: limited.limits,
                path,
                sheet,
            }));
        }
        let cap = limited.solve_table_cap(table_rows, sheet.params);
        limited.cut_tables(table_rows, cap);
        limited.table_cap = (limited.table_rows != table_rows).then_some(cap);
        // The cheapest under another table size may differ where total and network trade off.
        limited.cheapest = limited.find_cheapest();
        Ok(limited)
    }

    /// The space with limits on the time of predictions as well; the model of each is that of one
    /// machine.
    ///
    /// # Errors
    /// No network of the space is expected to meet them: the microseconds of the cheapest one.
    pub fn with_latency(mut self, latency: Vec<LatencyBound>) -> Result<Self, Vec<f64>> {
        self.latency = latency;
        self.cheapest = self.find_cheapest();
        if self.excess_without_peak(&self.space.path(&self.cheapest)) > 0.0 {
            let counts = latency_counts(&self.space.path(&self.cheapest), self.shape);
            return Err(self.latency.iter().map(|bound| bound.model.cautious(&counts)).collect());
        }
        Ok(self)
    }

    /// The space with a limit on what a run with a network holds at its peak as well.
    ///
    /// # Errors
    /// Not even the cheapest network meets it: its bytes.
    pub fn with_peak(mut self, peak: PeakBound) -> Result<Self, u64> {
        let cheapest = peak.bytes(&self.space.path(&self.cheapest));
        if cheapest > peak.limit {
            return Err(cheapest);
        }
        self.peak = Some(peak);
        Ok(self)
    }

    /// The space without that limit.
    pub fn without_peak(self) -> Self {
        Self { peak: None, ..self }
    }

    /// Sum over violated limits of value / limit - 1.
    fn excess_of(&self, path: &Path) -> f64 {
        let peak = self.peak.as_ref().map_or(0.0, |bound| bound.excess(path));
        self.excess_without_peak(path) + peak
    }

    /// The same of counts and times alone, which take no program of the network's training.
    fn excess_without_peak(&self, path: &Path) -> f64 {
        let counted = self.limits.excess(&self.sheet_of(path));
        if self.latency.is_empty() {
            return counted;
        }
        let counts = latency_counts(path, self.shape);
        counted + self.latency.iter().map(|bound| bound.excess(&counts)).sum::<f64>()
    }

    /// The space without its limits.
    pub fn nasrec(&self) -> &NasRecSpace {
        &self.space
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Rows that each table may keep, where the limits cut any.
    pub fn table_cap(&self) -> Option<u64> {
        self.table_cap
    }

    /// Rows of each table under the cap.
    pub fn table_rows(&self) -> &[u64] {
        &self.table_rows
    }

    /// The cheapest network of the space under these limits.
    pub fn cheapest(&self) -> &Genotype {
        &self.cheapest
    }

    /// What a genotype costs as a standalone network.
    pub fn sheet(&self, genotype: &Genotype) -> CostSheet {
        self.sheet_of(&self.space.path(genotype))
    }

    /// What a path costs as a standalone network.
    pub fn sheet_of(&self, path: &Path) -> CostSheet {
        let (macs, params) = live_size(path, self.shape);
        self.tables.with_network(macs, params, &self.memory)
    }

    fn cut_tables(&mut self, rows: &[u64], cap: u64) {
        self.table_rows = rows.iter().map(|&rows| rows.min(cap)).collect();
        let tables = self.table_rows.iter().map(|&rows| (rows, EMBEDDING_DIM as u64));
        self.tables = CostSheet::new(0, 0, tables, &self.memory);
    }

    fn solve_table_cap(&self, rows: &[u64], cheapest_params: u64) -> u64 {
        let mut sizes: Vec<u64> = (0..257)
            .map(|i| self.space.random_path(&mut stream(0, "limits/typical", i)))
            .map(|path| live_size(&path, self.shape).1)
            .collect();
        sizes.sort_unstable();
        let typical = sizes[128].min(self.limits.get(Metric::Params).unwrap_or(u64::MAX));
        let mut cap = rows.iter().copied().max().unwrap_or(1).max(1);
        let mut fit = |limit: u64, unit: u64, row: u64| {
            let smallest = smallest_tables(rows, row);
            let share = (typical * unit)
                .min(limit / 2)
                .max(cheapest_params * unit)
                .min(limit.saturating_sub(smallest));
            let found = largest_table_cap(rows, limit - share, row);
            cap = cap.min(found.unwrap_or(1));
        };
        if let Some(limit) = self.limits.get(Metric::Memory) {
            fit(limit, self.memory.bytes(1), self.memory.row_bytes(EMBEDDING_DIM as u64));
        }
        if let Some(limit) = self.limits.get(Metric::TotalParams) {
            fit(limit, 1, EMBEDDING_DIM as u64);
        }
        cap
    }

    /// The network with the least excess over the limits, then the fewest multiply-accumulates and
    /// parameters, among those in which the last block reads the raw inputs, or takes its fields
    /// from the block before it, which then reads the raw fields.
    ///
    /// The second kind wins where DP has the cheapest dense side and there are many fields: fewer
    /// fields, made once, serve both sides. Any other block in between costs at least what reading
    /// the raw inputs costs (checked by brute force on small spaces).
    fn find_cheapest(&self) -> Genotype {
        let choices = self.space.space().choices();
        let mut genes: Vec<u32> = choices.iter().map(|c| c.kind.default_gene()).collect();
        let last = genes.len() - GENES;
        // Genes to run through, and the source of the fields with each: the raw inputs, or the block before.
        let direct = (vec![last, last + 1, last + 6, last + 7], 0);
        let mut plans = vec![direct.clone()];
        if let Some(before) = last.checked_sub(GENES) {
            let genes = [before + 1, before + 7].into_iter().chain(direct.0).collect();
            plans.push((genes, self.space.config().blocks - 1));
        }
        let mut best: Option<((f64, u64, u64), Genotype)> = None;
        for (positions, source) in plans {
            genes[last + 3] = Set::only(source).0;
            positions.iter().for_each(|&position| genes[position] = 0);
            loop {
                let genotype = Genotype::new(genes.clone());
                let sheet = self.sheet(&genotype);
                let excess = self.excess_without_peak(&self.space.path(&genotype));
                let rank = (excess, sheet.macs, sheet.params);
                if best.as_ref().is_none_or(|(least, _)| rank < *least) {
                    best = Some((rank, genotype));
                }
                // Count on in the mixed radix of the choices.
                let next = positions.iter().position(|&position| {
                    genes[position] = (genes[position] + 1) % choices[position].kind.width() as u32;
                    genes[position] != 0
                });
                if next.is_none() {
                    break;
                }
            }
        }
        best.map_or_else(|| self.cheapest.clone(), |(_, genotype)| genotype)
    }

    /// A smaller value of gene `position`, or `None` where there is none.
    fn shrink(&self, genes: &[u32], position: usize, rng: &mut ChaCha8Rng) -> Option<u32> {
        let gene = genes[position];
        match position % GENES {
            // Operators have no order of cost: another one is tried.
            0 | 1 => {
                let options = self.space.space().choices()[position].kind.width() as u64;
                (options > 1)
                    .then(|| (u64::from(gene) + 1 + rng.below(options - 1)) % options)
                    .map(|gene| gene as u32)
            }
            2 | 3 => {
                let set = Set(gene);
                (set.len() > 1)
                    .then(|| {
                        let dropped = rng.below(set.len() as u64) as usize;
                        set.iter()
                            .enumerate()
                            .filter(|&(i, _)| i != dropped)
                            .map(|(_, s)| s)
                            .collect::<Set>()
                            .0
                    })
                    .or_else(|| {
                        (gene > 1).then(|| sample_subset(rng, gene.trailing_zeros() as usize, 1))
                    })
            }
            _ => gene.checked_sub(1),
        }
    }
}

impl Domain for LimitedSpace {
    fn space(&self) -> &Space {
        self.space.space()
    }

    fn key(&self, genotype: &Genotype) -> u128 {
        canonical_key(&self.space.path(genotype))
    }

    fn is_feasible(&self, genotype: &Genotype) -> bool {
        (self.limits.is_empty() || self.limits.is_met(&self.sheet(genotype)))
            && (self.latency.is_empty() && self.peak.is_none()
                || self.excess_of(&self.space.path(genotype)) == 0.0)
    }

    /// Shrinks widths, fields, sources and operators one at a time, in random order, keeping every
    /// step that brings the candidate nearer to its limits, until it meets them. Where no step
    /// helps any more the answer is the cheapest network.
    fn repair(&self, genotype: &Genotype, rng: &mut ChaCha8Rng) -> Option<Genotype> {
        let mut genotype = genotype.clone();
        let mut path = self.space.path(&genotype);
        let mut excess = self.excess_of(&path);
        let mut live = live_blocks(&path);
        let mut order: Vec<usize> = (0..genotype.genes().len()).collect();
        while excess > 0.0 {
            rng.shuffle(&mut order);
            let mut improved = false;
            for &position in &order {
                let Some(gene) = self.shrink(genotype.genes(), position, rng) else { continue };
                let index = position / GENES;
                if !is_read(live[index], &path.blocks[index], position % GENES) {
                    // What nobody reads makes no network cheaper.
                    continue;
                }
                let old = std::mem::replace(&mut genotype.genes_mut()[position], gene);
                let block = self.space.block(&genotype.genes()[index * GENES..][..GENES]);
                let old_block = std::mem::replace(&mut path.blocks[index], block);
                let now = self.excess_of(&path);
                if now < excess {
                    excess = now;
                    improved = true;
                    live = live_blocks(&path);
                    if excess == 0.0 {
                        break;
                    }
                } else {
                    genotype.genes_mut()[position] = old;
                    path.blocks[index] = old_block;
                }
            }
            if !improved {
                return self.is_feasible(&self.cheapest).then(|| self.cheapest.clone());
            }
        }
        Some(genotype)
    }
}

/// Whether gene number `gene` of a block reaches the head.
fn is_read(live: BlockLiveness, block: &Block, gene: usize) -> bool {
    match gene {
        0 | 6 => live.dense_operator,
        1 | 7 => live.sparse_operator,
        2 => live.dense_operator && block.reads_dense_sources(),
        3 => {
            live.dense_operator && block.has_dense(DenseOp::DotProduct)
                || live.sparse_operator
                    && (block.has_sparse(SparseOp::Efc) || block.has_sparse(SparseOp::Attention))
        }
        4 | 5 => live.dense_operator && block.is_binary(),
        8 => live.sparse_output,
        // Pairs may be added to what the other merge reads as well.
        _ => live.dense_operator,
    }
}

/// The live blocks of a network, in the words of their genes.
fn describe(path: &Path) -> String {
    let sources = |set: Set| match set.iter().next() {
        Some(0) | None => "the raw inputs".to_owned(),
        Some(block) => format!("block {block}"),
    };
    let live = liveness(path);
    let blocks = canonical(path).blocks.into_iter().zip(live.into_iter().filter(|l| !l.is_dead()));
    let blocks = blocks.map(|(block, live)| {
        let mut parts = Vec::new();
        if let Some(op) = block.dense_ops.iter().next().filter(|_| live.dense_operator) {
            parts.push(format!("{} of width {}", DenseOp::ALL[op].name(), block.dense_width));
        }
        if let Some(op) = block.sparse_ops.iter().next().filter(|_| live.sparse_operator) {
            let (op, fields) = (SparseOp::ALL[op].name(), block.sparse_width);
            parts.push(format!("{op} of {fields} fields on {}", sources(block.sparse_sources)));
        }
        parts.join(" and ")
    });
    blocks.collect::<Vec<_>>().join("; then ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nasrec::{NasRecConfig, Operators};

    const CRITEO: Shape = Shape { dense: 13, fields: 26 };

    fn limited(operators: Operators, limits: &str) -> Result<LimitedSpace, Box<ImpossibleLimits>> {
        LimitedSpace::new(
            NasRecSpace::published(operators),
            CRITEO,
            &[500_000; 26],
            Limits::parse(limits).unwrap(),
            MemoryModel::default(),
        )
    }

    #[test]
    fn repair_makes_every_sample_feasible_and_keeps_them_different() {
        for (operators, limits) in [
            (Operators::Full, "macs=300k"),
            (Operators::Small, "macs=100k params=40k"),
            (Operators::FullWithZeros, "macs=50k memory=256MiB"),
            (Operators::Full, "total_params=20M"),
        ] {
            let space = limited(operators, limits).unwrap();
            let mut keys = std::collections::HashSet::new();
            for i in 0..300 {
                let mut rng = stream(5, "test/repair", i);
                let genotype = space.sample(&mut rng);
                let repaired = space.repair(&genotype, &mut rng).unwrap();
                assert!(space.space().check(&repaired).is_ok());
                assert!(space.is_feasible(&repaired), "{limits}");
                if space.is_feasible(&genotype) {
                    assert_eq!(genotype, repaired);
                }
                keys.insert(space.key(&repaired));
                let mut again = stream(5, "test/repair", i);
                let genotype = space.sample(&mut again);
                assert_eq!(space.repair(&genotype, &mut again).unwrap(), repaired);
            }
            assert!(keys.len() > 250, "{limits}: {} of 300", keys.len());
        }
    }

    /// Repair counts nothing again for a gene that nobody reads.
    #[test]
    fn no_unread_gene_changes_the_cost() {
        for operators in [Operators::Full, Operators::FullWithZeros] {
            let space = limited(operators, "macs=8k").unwrap();
            let mut unread = [0; GENES];
            for i in 0..200 {
                let mut rng = stream(7, "test/dead", i);
                let genotype = space.sample(&mut rng);
                let path = space.space.path(&genotype);
                let live = live_blocks(&path);
                for position in 0..genotype.genes().len() {
                    let gene = space.shrink(genotype.genes(), position, &mut rng);
                    let (index, number) = (position / GENES, position % GENES);
                    let is_read = is_read(live[index], &path.blocks[index], number);
                    let (Some(gene), false) = (gene, is_read) else { continue };
                    let mut other = genotype.clone();
                    other.genes_mut()[position] = gene;
                    assert_eq!(space.sheet(&other), space.sheet(&genotype), "{position}");
                    unread[number] += 1;
                }
            }
            assert!(unread.iter().all(|&count| count > 50), "{unread:?}");
        }
    }

    #[test]
    fn tables_are_cut_before_networks() {
        let space = limited(Operators::Full, "memory=64MiB").unwrap();
        let cap = space.table_cap().unwrap();
        assert!(cap < 500_000);
        let tables = 26 * cap * 16 * 8;
        assert!(tables > 32 << 20 && tables < 64 << 20, "{tables}");
        // Most random networks fit what is left.
        let fits = (0..200)
            .filter(|&i| space.is_feasible(&space.sample(&mut stream(6, "test/fits", i))))
            .count();
        assert!(fits > 80, "{fits}");
        assert_eq!(limited(Operators::Full, "memory=64GiB").unwrap().table_cap(), None);
    }

    #[test]
    fn impossible_limits_name_the_cheapest_network() {
        let error = limited(Operators::Full, "macs=6k").unwrap_err();
        assert_eq!(
            error.to_string(),
            "no network of the space can meet macs=6.000 k: macs 7.136 k over the limit of 6.000 k; \
             the cheapest possible network (fc of width 16 and efc of 16 fields on the raw inputs) has 7136 multiply-accumulates, 929 parameters and takes 10.51 KiB with tables of one row"
        );
        assert!(limited(Operators::Full, "macs=7136 params=929").is_ok());
        assert!(limited(Operators::Full, "params=928").is_err());
        assert!(limited(Operators::Full, "memory=10KiB").is_err());
    }

    /// With a machine on which a dense layer costs more than anything, its networks have few.
    #[test]
    fn latency_limits_are_kept_and_refused() {
        let space = limited(Operators::Full, "macs=2M").unwrap();
        let sample = |space: &LimitedSpace, i: u64| {
            let mut rng = stream(7, "test/latency", i);
            let genotype = space.sample(&mut rng);
            space.repair(&genotype, &mut rng).unwrap()
        };
        let counts = |genotype: &Genotype| latency_counts(&space.nasrec().path(genotype), CRITEO);
        let networks: Vec<Vec<f64>> = (0..200).map(|i| counts(&sample(&space, i))).collect();
        let time = |x: &[f64]| 10.0 + 20.0 * x[1] + 1e-4 * x[4] + 1e-3 * x[9];
        let times: Vec<f64> = networks.iter().map(|x| time(x)).collect();
        let model = palmette_cost::LinearLatency::fit(&networks, &times).unwrap();
        let bound = |microseconds| vec![LatencyBound { model: model.clone(), microseconds }];
        // Half of the networks are as fast as the one in the middle.
        let mut sorted = times.clone();
        sorted.sort_by(f64::total_cmp);
        let limit = sorted[sorted.len() / 2];
        let fast = space.clone().with_latency(bound(limit)).unwrap();
        let slow = (0..200).filter(|&i| !fast.is_feasible(&sample(&space, i))).count();
        assert!((20..180).contains(&slow), "{slow} of 200 are over the limit");
        for i in 0..200 {
            let genotype = sample(&fast, i);
            assert!(fast.is_feasible(&genotype) && fast.sheet(&genotype).macs <= 2_000_000);
            let time = time(&counts(&genotype));
            assert!(time <= 1.01 * limit, "{time} for {limit}");
        }
        let refused = space.with_latency(bound(5.0)).unwrap_err();
        assert!(refused[0] > 5.0 && refused[0] < 60.0, "{refused:?}");
    }

    /// Where bytes are multiply-accumulates, those of all repaired candidates are within the limit.
    #[test]
    fn limits_on_peak_memory_are_kept_and_refused() {
        let space = limited(Operators::Full, "params=5M").unwrap();
        let bound = |limit| {
            let foretell = |path: &Path| live_size(path, CRITEO).0;
            PeakBound { foretell: std::sync::Arc::new(foretell), limit }
        };
        let held = space.clone().with_peak(bound(500_000)).unwrap();
        let mut over = 0;
        for i in 0..100 {
            let mut rng = stream(9, "test/peak", i);
            let genotype = held.sample(&mut rng);
            over += usize::from(!held.is_feasible(&genotype));
            let repaired = held.repair(&genotype, &mut rng).unwrap();
            assert!(held.is_feasible(&repaired) && held.sheet(&repaired).macs <= 500_000);
        }
        assert!(over > 30, "{over} of 100 are over the limit");
        let cheapest = space.sheet(space.cheapest()).macs;
        assert_eq!(space.with_peak(bound(cheapest - 1)).unwrap_err(), cheapest);
    }

    /// Every network of small random spaces: what one of them meets, [`LimitedSpace`] must find possible.
    #[test]
    fn nothing_is_cheaper_than_the_cheapest() {
        for case in 0..24 {
            let mut rng = stream(8, "test/cheapest", case);
            let operators = [Operators::Full, Operators::FullWithZeros, Operators::Small]
                [rng.below(3) as usize];
            let blocks = 1 + rng.below(3) as usize;
            let size = |rng: &mut ChaCha8Rng, most: f64| most.powf(rng.unit()).ceil();
            let widths = |rng: &mut ChaCha8Rng, most: f64| {
                let count = if blocks == 2 { 2 } else { 1 };
                let mut widths: Vec<u16> = (0..count).map(|_| size(rng, most) as u16).collect();
                widths.sort_unstable();
                widths.dedup();
                widths
            };
            let config = NasRecConfig {
                dense_widths: widths(&mut rng, 200.0),
                sparse_widths: widths(&mut rng, 70.0),
                operators: if blocks == 3 { Operators::Small } else { operators },
                blocks,
                max_sources: if blocks == 3 { 1 } else { 2 },
            };
            let shape = Shape {
                dense: size(&mut rng, 3000.0) as usize,
                fields: size(&mut rng, 300.0) as usize,
            };
            let space = NasRecSpace::new(config.clone()).unwrap();
            let sizes: std::collections::BTreeSet<(u64, u64)> =
                crate::nasrec::tests::all_genotypes(&space)
                    .map(|genotype| live_size(&space.path(&genotype), shape))
                    .collect();
            let possible = |macs, params| {
                let mut limits = Limits::default();
                limits.add(Metric::Macs, macs).unwrap();
                limits.add(Metric::Params, params).unwrap();
                let memory = MemoryModel::default();
                LimitedSpace::new(space.clone(), shape, &[], limits, memory).is_ok()
            };
            let least_params = sizes.iter().map(|size| size.1).min().unwrap();
            let least_macs = sizes.iter().map(|size| size.0).min().unwrap();
            assert!(!possible(least_macs - 1, u64::MAX), "{config:?} {shape:?}");
            assert!(!possible(u64::MAX, least_params - 1), "{config:?} {shape:?}");
            // The front of both metrics.
            let mut fewest = u64::MAX;
            for &(macs, params) in &sizes {
                if params < fewest {
                    fewest = params;
                    assert!(possible(macs, params), "{macs} {params} {config:?} {shape:?}");
                }
            }
        }
    }
}
