use palmette_space::{Domain, Genotype, Subspace};
use rayon::prelude::*;
use serde::Serialize;

use super::searches::{Tick, for_seeds, validation};
use super::{Method, Summary, summary::median};
use crate::{
    Ask, SearchError,
    shrink::{
        ShrinkConfig, ShrinkReport, lissnas, one_region, operator_pruning, random_subset,
        shrink_report,
    },
    strategy::Outcome,
    tables::TableDomain,
};

/// Shrinking over many seeds, beside its baselines of the same size.
#[derive(Clone, Debug, Serialize)]
pub struct ShrinkStudy {
    /// The table.
    pub table: String,
    /// The column that shrinking saw.
    pub quality: String,
    /// Seeds 0..seeds.
    pub seeds: usize,
    /// Settings of LISSNAS.
    pub config: ShrinkConfig,
    /// Seeds refused by the locality gate.
    pub refused: usize,
    /// Distinct evaluations of LISSNAS, mean and largest.
    pub evaluations: (f64, usize),
    /// Share of all seeds with density >= 25 %, recall >= 40 %, at most 250 members and 700 evaluations.
    pub share_within_promise: f64,
    /// Means over seeds for LISSNAS, then the baselines.
    pub methods: Vec<(String, ShrinkMeans)>,
    /// Searches of the shrunk space under other columns, nothing carried over.
    pub transfer: Vec<Transfer>,
}

/// Means over seeds of [`ShrinkReport`].
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ShrinkMeans {
    /// Members.
    pub size: f64,
    /// Members over the full size.
    pub size_ratio: f64,
    /// Mean quality.
    pub mean: f64,
    /// Share of members in the top 1 %.
    pub density: Summary,
    /// Share of the top 1 % kept.
    pub recall: Summary,
    /// Regret of the best member.
    pub regret: Summary,
    /// Diversity against the full space.
    pub diversity: f64,
    /// Connected components.
    pub pockets: f64,
    /// Shrink index, over seeds where any of the top 1 % is left.
    pub shrink_index: f64,
}

/// Evaluations that evolution needs in the shrunk and in the full space.
#[derive(Clone, Debug, Serialize)]
pub struct Transfer {
    /// The column searched.
    pub quality: String,
    /// The regret to reach.
    pub regret: f64,
    /// Median evaluations in the full space.
    pub full: Option<f64>,
    /// Median evaluations in the shrunk space.
    pub shrunk: Option<f64>,
    /// The same with shrinking's own evaluations.
    pub shrunk_in_total: Option<f64>,
}

struct Run {
    lissnas: Subspace,
    evaluations: usize,
    reports: [ShrinkReport; 4],
}

/// Shrinks under `quality` for every seed, and searches what is left under `transfer_to`.
/// Everything is measured against the networks that the domain's limit admits.
pub fn shrink_study(
    domain: &TableDomain<'_>,
    quality: &str,
    transfer_to: &[String],
    config: &ShrinkConfig,
    seeds: usize,
    tick: Tick<'_>,
) -> Result<ShrinkStudy, SearchError> {
    let table = domain.table();
    let values = validation(table, quality)?;
    // Before hours of shrinking, not after.
    for other in transfer_to {
        validation(table, other)?;
    }
    let rows = domain.feasible_rows();
    let all: Vec<Genotype> = rows.iter().map(|&row| table.genotypes()[row].clone()).collect();
    let admitted: Vec<f64> = rows.iter().map(|&row| values[row]).collect();
    let run = |seed: u64| -> Option<Run> {
        let mut seen: Vec<(Genotype, f64)> = Vec::new();
        let found = lissnas(domain, config, seed, &mut |genotype| {
            let value = values[table.row(genotype)?];
            seen.push((genotype.clone(), value));
            Some(value)
        })
        .ok()?;
        let size = found.space.members().len();
        let report = |part: &Subspace| shrink_report(part, &all, &admitted);
        let reports = [
            report(&found.space),
            report(&random_subset(domain, &all, size, seed).ok()?),
            report(&operator_pruning(domain, &all, &seen, size).ok()?),
            report(&one_region(domain, &all, &seen, size).ok()?),
        ];
        Some(Run { lissnas: found.space, evaluations: found.evaluations, reports })
    };
    let runs: Vec<Option<Run>> = for_seeds(seeds, tick, |seed| Ok(run(seed)))?;
    let kept: Vec<&Run> = runs.iter().flatten().collect();
    let promised = kept.iter().filter(|run| {
        let report = run.reports[0];
        report.density >= 0.25
            && report.recall >= 0.4
            && report.size <= 250
            && run.evaluations <= 700
    });
    let names = ["lissnas", "random subset", "operator pruning", "one region"];
    let methods = names.iter().enumerate().map(|(i, name)| {
        let reports: Vec<ShrinkReport> = kept.iter().map(|run| run.reports[i]).collect();
        ((*name).to_owned(), means(&reports))
    });
    let mut study = ShrinkStudy {
        table: table.name().to_owned(),
        quality: quality.to_owned(),
        seeds,
        config: *config,
        refused: seeds - kept.len(),
        evaluations: (
            kept.iter().map(|run| run.evaluations as f64).sum::<f64>() / kept.len().max(1) as f64,
            kept.iter().map(|run| run.evaluations).max().unwrap_or(0),
        ),
        share_within_promise: promised.count() as f64 / seeds.max(1) as f64,
        methods: methods.collect(),
        transfer: Vec::new(),
    };
    for other in transfer_to {
        let values = validation(table, other)?;
        let best = rows.iter().map(|&row| values[row]).fold(f64::NEG_INFINITY, f64::max);
        let targets = [0.5, 0.2];
        let reach = |part: Option<&Subspace>, seed: u64| -> [f64; 2] {
            let searched: &dyn Domain = match part {
                Some(part) => part,
                None => domain,
            };
            let quality_of = |genotype: &Genotype| table.row(genotype).map(|row| values[row]);
            evaluations_to(searched, seed, &targets.map(|t| best - t), &quality_of)
        };
        let pairs: Vec<[[f64; 2]; 2]> = runs
            .par_iter()
            .enumerate()
            .map(|(seed, run)| {
                let part = run.as_ref().map(|run| &run.lissnas);
                [reach(None, seed as u64), reach(part, seed as u64)]
            })
            .collect();
        for (i, &regret) in targets.iter().enumerate() {
            let pick = |which: usize| pairs.iter().map(|p| p[which][i]).collect::<Vec<f64>>();
            let totals: Vec<f64> = pick(1)
                .iter()
                .zip(&runs)
                .map(|(count, run)| count + run.as_ref().map_or(0.0, |run| run.evaluations as f64))
                .collect();
            let finite = |median: f64| Some(median).filter(|median| median.is_finite());
            study.transfer.push(Transfer {
                quality: other.clone(),
                regret,
                full: finite(median(&pick(0))),
                shrunk: finite(median(&pick(1))),
                shrunk_in_total: finite(median(&totals)),
            });
        }
    }
    Ok(study)
}

/// Evaluations until evolution first reaches each quality; infinite if it never does.
fn evaluations_to(
    domain: &dyn Domain,
    seed: u64,
    wanted: &[f64; 2],
    quality_of: &dyn Fn(&Genotype) -> Option<f64>,
) -> [f64; 2] {
    let mut reached = [f64::INFINITY; 2];
    let Ok(mut strategy) = Method::Evolution.make(1_000, seed) else { return reached };
    for evaluation in 1..=1_000 {
        let Ask::Try(suggestion) = strategy.suggest(domain) else { break };
        let quality = quality_of(&suggestion.genotype);
        for (reached, wanted) in reached.iter_mut().zip(wanted) {
            if quality.is_some_and(|quality| quality >= *wanted) {
                *reached = reached.min(f64::from(evaluation));
            }
        }
        if reached.iter().all(|count| count.is_finite()) {
            break;
        }
        let outcome = quality.map_or(Outcome::Failed, |quality| Outcome::score(-quality));
        if strategy.observe(domain, suggestion.trial, outcome).is_err() {
            break;
        }
    }
    reached
}

fn means(reports: &[ShrinkReport]) -> ShrinkMeans {
    let all = |f: fn(&ShrinkReport) -> f64| reports.iter().map(f).collect::<Vec<f64>>();
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let mut indices = all(|r| r.shrink_index);
    indices.retain(|index| index.is_finite());
    ShrinkMeans {
        size: mean(all(|r| r.size as f64)),
        size_ratio: mean(all(|r| r.size_ratio)),
        mean: mean(all(|r| r.mean)),
        density: Summary::of(&all(|r| r.density)),
        recall: Summary::of(&all(|r| r.recall)),
        regret: Summary::of(&all(|r| r.regret)),
        diversity: mean(all(|r| r.diversity)),
        pockets: mean(all(|r| r.pockets as f64)),
        shrink_index: mean(indices),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{Column, Role, Table};
    use palmette_space::Space;

    #[test]
    fn under_a_limit_the_best_is_the_best_admitted() {
        let mut builder = Space::builder("grid");
        for name in ["a", "b", "c", "d"] {
            builder.integer(name, 0, 4);
        }
        let space = builder.finish().unwrap();
        let genotypes = space.enumerate(1_000).unwrap();
        // Smooth, so that the locality gate opens; the cost is the quality itself.
        let values: Vec<f64> =
            genotypes.iter().map(|g| g.genes().iter().map(|&x| x as f64).sum()).collect();
        let column = |name: &str, role| Column { name: name.into(), role, values: values.clone() };
        let columns = vec![column("acc", Role::Validation), column("ms", Role::Cost)];
        let table = Table::new("grid", space, genotypes, columns);
        let domain = TableDomain::limited(&table, "ms", 8.0).unwrap();
        let study = shrink_study(&domain, "acc", &[], &ShrinkConfig::default(), 3, &|| ()).unwrap();
        assert_eq!(study.refused, 0);
        let (name, lissnas) = &study.methods[0];
        assert_eq!(name, "lissnas");
        // Against the whole table the regret of the best member could not be below 16 - 8.
        assert!(lissnas.regret.mean < 2.0, "{}", lissnas.regret.mean);
        let share = lissnas.size / domain.feasible_rows().len() as f64;
        assert!((lissnas.size_ratio - share).abs() < 1e-9);
    }

    #[test]
    fn only_a_score_can_be_transferred_to() {
        let mut builder = Space::builder("one");
        builder.integer("x", 0, 3);
        let space = builder.finish().unwrap();
        let genotypes = space.enumerate(4).unwrap();
        let column = |name: &str, role| Column { name: name.into(), role, values: vec![0.0; 4] };
        let columns = vec![
            column("acc", Role::Validation),
            column("final", Role::Test),
            column("ms", Role::Cost),
        ];
        let table = Table::new("one", space, genotypes, columns);
        let domain = TableDomain::new(&table);
        let config = ShrinkConfig::default();
        let study = |to: &str| shrink_study(&domain, "acc", &[to.into()], &config, 1, &|| ());
        assert!(study("acc").is_ok());
        for (name, want) in [
            ("final", "`final`, a test column of the table; needed: a score"),
            ("ms", "`ms`, a cost column of the table; needed: a score"),
            ("acd", "`acd`, no column of the table; needed: a score"),
        ] {
            let error = study(name).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
