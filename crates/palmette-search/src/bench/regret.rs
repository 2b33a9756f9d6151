use std::sync::Arc;

use palmette_space::Genotype;
use serde::Serialize;

use super::searches::{Tick, for_seeds, search, validation};
use super::{Method, Summary, summary::median};
use crate::{
    SearchError,
    rank::ranks,
    tables::{Role, Surrogate, SurrogateExperimenter, Table, TableDomain, TableExperimenter},
};

/// Regret of methods against evaluations, over paired seeds.
#[derive(Clone, Debug, Serialize)]
pub struct RegretStudy {
    /// What was searched: the table, a pool of a larger space, or a surrogate fitted to the table.
    pub searched: String,
    /// The column that the searches saw.
    pub quality: String,
    /// Seeds 0..seeds, the same for every method.
    pub seeds: usize,
    /// Best quality within the limits; of a surrogate, the best that any search found.
    pub best_quality: f64,
    /// Numbers of distinct evaluations at which regret is told.
    pub checkpoints: Vec<usize>,
    /// The method that the others are compared with.
    pub reference: String,
    /// One entry per method.
    pub methods: Vec<MethodRegret>,
}

/// One method of a study.
#[derive(Clone, Debug, Serialize)]
pub struct MethodRegret {
    /// The method's name.
    pub method: String,
    /// Regret at each checkpoint.
    pub regret: Vec<Summary>,
    /// Rank among the methods on the same seed (1 is best, ties share), at each checkpoint.
    pub rank: Vec<Summary>,
    /// Mean regret after every number of evaluations, for the chart.
    pub curve: Vec<f64>,
    /// Its standard error.
    pub curve_error: Vec<f64>,
    /// Median number of evaluations until the best was found; none if most seeds do not find it.
    pub median_to_best: Option<f64>,
    /// Share of seeds that found the best, by checkpoint.
    pub found_best: Vec<f64>,
    /// This method's regret minus the reference's on the same seed, by checkpoint.
    pub against_reference: Vec<PairedDifference>,
    /// Share of seeds on which it found the best before the reference, ties counting half.
    pub sooner_than_reference: f64,
    /// For each test column: regret in it of the network chosen by the quality, by checkpoint.
    pub test_regret: Vec<(String, Vec<Summary>)>,
    /// Ranks by checkpoint and seed.
    #[serde(skip)]
    pub seed_ranks: Vec<Vec<f64>>,
}

/// A mean difference over paired seeds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PairedDifference {
    /// Mean and interval of the difference.
    pub difference: Summary,
    /// Share of seeds on which it is below zero, ties counting half.
    pub wins: f64,
}

impl PairedDifference {
    /// Of one value per seed.
    pub(super) fn of(ours: &[f64], theirs: &[f64]) -> Self {
        let differences: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a - b).collect();
        Self { difference: Summary::of(&differences), wins: wins(ours, theirs) }
    }
}

/// What is compared, and how.
#[derive(Clone, Debug)]
pub struct RegretPlan {
    /// The methods.
    pub methods: Vec<Method>,
    /// The one that the others are compared with.
    pub reference: Method,
    /// Numbers of distinct evaluations to tell.
    pub checkpoints: Vec<usize>,
    /// Seeds 0..seeds.
    pub seeds: usize,
}

impl RegretPlan {
    /// Number of searches, each of which ticks once.
    pub fn searches(&self) -> usize {
        let of = |method: &Method| if method.has_plan() { self.checkpoints.len() } else { 1 };
        self.seeds * self.methods.iter().map(of).sum::<usize>()
    }
}

/// One method's searches: per seed, candidates with qualities.
type Found = Vec<(Genotype, f64)>;

/// Per method, per checkpoint, per seed. Methods without a plan share one search for all
/// checkpoints; the others make one for each.
type Runs = Vec<Vec<Arc<Vec<Found>>>>;

/// Compares methods on a table.
///
/// Seeds run in parallel and fold in their order. A method whose settings depend on the number of
/// evaluations searches once for every checkpoint, so that each figure is that of a search which
/// was planned for it.
pub fn regret_study(
    domain: &TableDomain<'_>,
    quality: &str,
    plan: &RegretPlan,
    tick: Tick<'_>,
) -> Result<RegretStudy, SearchError> {
    let table = domain.table();
    let values = validation(table, quality)?;
    let most = domain.feasible_rows().len();
    let best = best_of(domain, values);
    let runs = run_all(plan, most, tick, |method, evaluations, seed| {
        let mut experimenter =
            TableExperimenter::new(domain, quality, None).ok_or(SearchError::BadSetting {
                setting: "quality",
                got: quality.into(),
                needed: "a validation column of the table".into(),
            })?;
        // Once the best is found nothing can change any more.
        search(&mut experimenter, method, evaluations, seed, best)
    })?;
    let kind = if table.is_complete() { "table" } else { "pool" };
    let mut study = summarise(plan, &runs, best, format!("{} ({kind})", table.name()), quality);
    let tests: Vec<_> = table.columns().iter().filter(|column| column.role == Role::Test).collect();
    for (method, found) in study.methods.iter_mut().zip(&runs) {
        for column in &tests {
            let best = best_of(domain, &column.values);
            let at = plan.checkpoints.iter().enumerate().map(|(i, &n)| {
                let chosen = found[i].iter().map(|found| {
                    let row = chosen(&found[..n.min(found.len())]).and_then(|g| table.row(g));
                    best - row.map_or(f64::NAN, |row| column.values[row])
                });
                Summary::of(&chosen.collect::<Vec<f64>>())
            });
            method.test_regret.push((column.name.clone(), at.collect()));
        }
    }
    Ok(study)
}

/// Compares methods on a surrogate fitted to a table; the best quality is the best that any of the
/// searches found.
pub fn surrogate_study(
    surrogate: &Surrogate,
    table: &Table,
    quality: &str,
    plan: &RegretPlan,
    tick: Tick<'_>,
) -> Result<RegretStudy, SearchError> {
    let runs = run_all(plan, usize::MAX, tick, |method, evaluations, seed| {
        let mut experimenter = SurrogateExperimenter::new(surrogate);
        search(&mut experimenter, method, evaluations, seed, f64::INFINITY)
    })?;
    let all = runs.iter().flatten().flat_map(|found| found.iter().flatten());
    let best = all.map(|(_, quality)| *quality).fold(f64::NEG_INFINITY, f64::max);
    let searched = format!("{} (fitted surrogate)", table.name());
    Ok(summarise(plan, &runs, best, searched, quality))
}

/// Mean rank of every method over several studies of the same methods, checkpoints and seeds: per
/// seed the mean over studies, then mean and interval over seeds.
pub fn mean_ranks(studies: &[RegretStudy]) -> Vec<(String, Vec<Summary>)> {
    let Some(first) = studies.first() else { return Vec::new() };
    let of_method = |m: usize, name: &str| {
        let at = (0..first.checkpoints.len()).map(|i| {
            let means: Vec<f64> = (0..first.seeds)
                .map(|seed| {
                    let ranks = studies.iter().map(|study| study.methods[m].seed_ranks[i][seed]);
                    ranks.sum::<f64>() / studies.len() as f64
                })
                .collect();
            Summary::of(&means)
        });
        (name.to_owned(), at.collect())
    };
    first.methods.iter().enumerate().map(|(m, method)| of_method(m, &method.method)).collect()
}

fn run_all(
    plan: &RegretPlan,
    most: usize,
    tick: Tick<'_>,
    run: impl Fn(Method, usize, u64) -> Result<Found, SearchError> + Sync,
) -> Result<Runs, SearchError> {
    let longest = plan.checkpoints.iter().copied().max().unwrap_or(0).min(most);
    let mut runs = Runs::new();
    for &method in &plan.methods {
        let of = |evaluations: usize| {
            for_seeds(plan.seeds, tick, |seed| run(method, evaluations.min(most), seed))
                .map(Arc::new)
        };
        runs.push(if method.has_plan() {
            plan.checkpoints.iter().map(|&n| of(n)).collect::<Result<_, _>>()?
        } else {
            vec![of(longest)?; plan.checkpoints.len()]
        });
    }
    Ok(runs)
}

fn summarise(
    plan: &RegretPlan,
    runs: &Runs,
    best: f64,
    searched: String,
    quality: &str,
) -> RegretStudy {
    let RegretPlan { methods, checkpoints, seeds, .. } = plan;
    let longest = checkpoints.iter().copied().max().unwrap_or(0);
    let last = checkpoints.iter().position(|&n| n == longest).unwrap_or(0);
    // Regret after n evaluations, and evaluations until the best, of every method.
    let at = |found: &Found, n: usize| {
        let seen = found.iter().take(n.max(1)).map(|(_, quality)| *quality);
        best - seen.fold(f64::NEG_INFINITY, f64::max)
    };
    let regrets: Vec<Vec<Vec<f64>>> = runs
        .iter()
        .map(|runs| {
            let at_checkpoint =
                |(i, &n): (usize, &usize)| runs[i].iter().map(|f| at(f, n)).collect();
            checkpoints.iter().enumerate().map(at_checkpoint).collect()
        })
        .collect();
    let to_best: Vec<Vec<f64>> = runs
        .iter()
        .map(|runs| {
            let count = |found: &Found| found.iter().position(|(_, quality)| *quality >= best);
            let counts = runs[last].iter().map(count);
            counts.map(|at| at.map_or(f64::INFINITY, |at| (at + 1) as f64)).collect()
        })
        .collect();
    let seed_ranks = ranks_by_seed(&regrets, checkpoints.len(), *seeds);
    let reference = methods.iter().position(|m| *m == plan.reference).unwrap_or(0);
    let found = methods.iter().enumerate().map(|(m, method)| {
        let curves: Vec<Vec<f64>> =
            runs[m][last].iter().map(|found| regret_curve(found, best, longest)).collect();
        let (curve, curve_error) = (0..longest)
            .map(|n| mean_and_error(&curves.iter().map(|curve| curve[n]).collect::<Vec<f64>>()))
            .unzip();
        MethodRegret {
            method: method.name().to_owned(),
            regret: regrets[m].iter().map(|values| Summary::of(values)).collect(),
            rank: seed_ranks[m].iter().map(|ranks| Summary::of(ranks)).collect(),
            curve,
            curve_error,
            median_to_best: Some(median(&to_best[m])).filter(|median| median.is_finite()),
            found_best: regrets[m].iter().map(|values| share(values, |r| r <= 0.0)).collect(),
            against_reference: regrets[m]
                .iter()
                .zip(&regrets[reference])
                .map(|(ours, theirs)| PairedDifference::of(ours, theirs))
                .collect(),
            sooner_than_reference: wins(&to_best[m], &to_best[reference]),
            test_regret: Vec::new(),
            seed_ranks: seed_ranks[m].clone(),
        }
    });
    RegretStudy {
        searched,
        quality: quality.to_owned(),
        seeds: *seeds,
        best_quality: best,
        checkpoints: checkpoints.clone(),
        reference: methods.get(reference).map_or("", |method| method.name()).to_owned(),
        methods: found.collect(),
    }
}

/// Ranks of regrets given by method, checkpoint and seed, in the same form.
fn ranks_by_seed(
    regrets: &[Vec<Vec<f64>>],
    checkpoints: usize,
    seeds: usize,
) -> Vec<Vec<Vec<f64>>> {
    let mut all = vec![vec![vec![0.0; seeds]; checkpoints]; regrets.len()];
    for i in 0..checkpoints {
        for seed in 0..seeds {
            let values: Vec<f64> = regrets.iter().map(|method| method[i][seed]).collect();
            for (m, rank) in ranks(&values).into_iter().enumerate() {
                all[m][i][seed] = rank;
            }
        }
    }
    all
}

fn best_of(domain: &TableDomain<'_>, values: &[f64]) -> f64 {
    domain.feasible_rows().iter().map(|&row| values[row]).fold(f64::NEG_INFINITY, f64::max)
}

/// Best quality minus the best so far, after each evaluation; constant after the last.
fn regret_curve(found: &Found, best: f64, evaluations: usize) -> Vec<f64> {
    let mut so_far = f64::NEG_INFINITY;
    let mut curve: Vec<f64> = found
        .iter()
        .take(evaluations)
        .map(|(_, quality)| {
            so_far = so_far.max(*quality);
            best - so_far
        })
        .collect();
    curve.resize(evaluations, best - so_far);
    curve
}

/// The candidate that the search would hand over: the first of the best.
fn chosen(found: &[(Genotype, f64)]) -> Option<&Genotype> {
    let best = found.iter().enumerate().max_by(|a, b| a.1.1.total_cmp(&b.1.1).then(b.0.cmp(&a.0)));
    best.map(|(_, (genotype, _))| genotype)
}

fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    (mean, (squares / (n - 1.0).max(1.0) / n).sqrt())
}

/// Share of seeds on which ours is the smaller, ties counting half.
fn wins(ours: &[f64], theirs: &[f64]) -> f64 {
    let pairs = ours.iter().zip(theirs);
    let won: f64 = pairs
        .map(|(a, b)| match a.total_cmp(b) {
            std::cmp::Ordering::Less => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Greater => 0.0,
        })
        .sum();
    won / ours.len().max(1) as f64
}

fn share(values: &[f64], test: impl Fn(f64) -> bool) -> f64 {
    values.iter().filter(|&&value| test(value)).count() as f64 / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_wins_and_ranks_by_hand() {
        let genotype = Genotype::new([0]);
        let found: Found = [3.0, 1.0, 5.0].map(|quality| (genotype.clone(), quality)).to_vec();
        assert_eq!(regret_curve(&found, 6.0, 5), [3.0, 3.0, 1.0, 1.0, 1.0]);
        let endless = f64::INFINITY;
        assert_eq!(wins(&[1.0, 2.0, endless, 3.0], &[2.0, 2.0, endless, 1.0]), 0.5);
        let regrets = vec![vec![vec![0.0, 2.0]], vec![vec![0.0, 1.0]], vec![vec![4.0, 0.5]]];
        let ranks = ranks_by_seed(&regrets, 1, 2);
        assert_eq!(ranks, [[[1.5, 3.0]], [[1.5, 2.0]], [[3.0, 1.0]]]);
    }
}
