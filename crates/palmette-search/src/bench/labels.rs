use std::collections::HashSet;

use palmette_random::{Draw, stream};
use palmette_space::Genotype;
use serde::Serialize;

use super::searches::{Tick, for_seeds, validation};
use super::{PredictorKind, Summary};
use crate::{
    SearchError, kendall_tau_b,
    tables::{Role, Table},
};

/// Kendall's tau of predictors against their number of labels.
#[derive(Clone, Debug, Serialize)]
pub struct LabelStudy {
    /// The table.
    pub table: String,
    /// The quality predicted.
    pub quality: String,
    /// The cost that pre-trains, where one does.
    pub cost: Option<String>,
    /// Repetitions, each with its own split, the same for every predictor.
    pub seeds: usize,
    /// Networks of each test set.
    pub tested: usize,
    /// Numbers of labels.
    pub labels: Vec<usize>,
    /// Per predictor, tau on unseen networks for each number of labels.
    pub predictors: Vec<(String, Vec<Summary>)>,
}

/// What a [`label_study`] compares.
#[derive(Clone, Debug)]
pub struct LabelPlan {
    /// The predictors.
    pub predictors: Vec<PredictorKind>,
    /// Numbers of labels.
    pub labels: Vec<usize>,
    /// Splits.
    pub seeds: usize,
    /// Cost column that pre-trains; without one, predictors that need it are left out.
    pub cost: Option<String>,
}

impl LabelPlan {
    /// Number of splits over all predictors, each of which ticks once.
    pub fn splits(&self) -> usize {
        self.compared().count() * self.seeds
    }

    fn compared(&self) -> impl Iterator<Item = PredictorKind> {
        let has_cost = self.cost.is_some();
        let all = self.predictors.iter().copied();
        all.filter(move |&kind| kind != PredictorKind::DenseSparseCost || has_cost)
    }
}

/// Rows to label and rows to test, in random order; no isomorph of the first is among the second.
fn split(table: &Table, seed: u64, labelled: usize, tested: usize) -> (Vec<usize>, Vec<usize>) {
    let mut rng = stream(seed, "bench/labels", 0);
    let genotypes = table.genotypes();
    let mut drawn = rng.distinct(genotypes.len(), labelled + 2 * tested);
    let rest = drawn.split_off(labelled.min(drawn.len()));
    let isomorphs = drawn.iter().flat_map(|&row| table.space().isomorphs(&genotypes[row]));
    let known: HashSet<Genotype> = isomorphs.collect();
    let unknown = rest.into_iter().filter(|&row| !known.contains(&genotypes[row]));
    (drawn, unknown.take(tested).collect())
}

/// Kendall's tau-b; 0 for a predictor that gives one number to every network, which ranks none.
fn agreement(guesses: &[f64], truth: &[f64]) -> f64 {
    if guesses.windows(2).all(|pair| pair[0] == pair[1]) {
        return 0.0;
    }
    kendall_tau_b(guesses, truth)
}

/// Trains predictors on random networks and ranks others.
///
/// Where cells have isomorphs, every predictor is also trained with the isomorphs of its labels
/// added, and no isomorph of a label is tested: the split comes before the augmentation. Smaller
/// numbers of labels are the first of the larger.
pub fn label_study(
    table: &Table,
    quality: &str,
    plan: &LabelPlan,
    tick: Tick<'_>,
) -> Result<LabelStudy, SearchError> {
    let values = validation(table, quality)?;
    let cost = plan.cost.as_deref().and_then(|name| table.column(name));
    let cost = cost.filter(|column| column.role == Role::Cost);
    let most = plan.labels.iter().copied().max().unwrap_or(0);
    let tested = 1_000.min(table.genotypes().len() / 2);
    let rows = table.genotypes().len();
    if tested < 2 || most + tested > rows {
        return Err(SearchError::BadSetting {
            setting: "labels",
            got: most.to_string(),
            needed: format!(
                "at most {} of the {rows} networks of {}, with {tested} kept for the test (at least 2)",
                rows - tested,
                table.name()
            ),
        });
    }
    // Without isomorphs, and with them where there are any.
    let variants = if table.space().cells().is_empty() { &[false][..] } else { &[false, true] };
    let run = |seed: u64, kind: PredictorKind| -> Vec<Vec<f64>> {
        let (train, test) = split(table, seed, most, tested);
        let truth: Vec<f64> = test.iter().map(|&row| values[row]).collect();
        let others: Vec<Genotype> =
            test.iter().map(|&row| table.genotypes()[row].clone()).collect();
        let pre_trained = kind.pre_train(table, cost.map(|column| &column.values[..]), seed);
        let tau = |count: usize, is_augmented: bool| {
            let labelled: Vec<(Genotype, f64)> = train[..count.min(train.len())]
                .iter()
                .flat_map(|&row| {
                    let mut drawings = table.space().isomorphs(&table.genotypes()[row]);
                    drawings.truncate(if is_augmented { usize::MAX } else { 1 });
                    drawings.into_iter().map(move |genotype| (genotype, values[row]))
                })
                .collect();
            let guesses = kind.predict(table, pre_trained.as_ref(), seed, &labelled, &others);
            agreement(&guesses, &truth)
        };
        let taus = |&is_augmented: &bool| {
            plan.labels.iter().map(|&count| tau(count, is_augmented)).collect()
        };
        variants.iter().map(taus).collect()
    };
    let mut predictors = Vec::new();
    for kind in plan.compared() {
        let runs = for_seeds(plan.seeds, tick, |seed| Ok(run(seed, kind)))?;
        for (v, &is_augmented) in variants.iter().enumerate() {
            let at = |i: usize| Summary::of(&runs.iter().map(|r| r[v][i]).collect::<Vec<f64>>());
            let suffix = if is_augmented { " + isomorphs" } else { "" };
            let taus = (0..plan.labels.len()).map(at).collect();
            predictors.push((format!("{}{suffix}", kind.name()), taus));
        }
    }
    Ok(LabelStudy {
        table: table.name().to_owned(),
        quality: quality.to_owned(),
        cost: cost.map(|column| column.name.clone()),
        seeds: plan.seeds,
        tested,
        labels: plan.labels.clone(),
        predictors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::Column;
    use palmette_space::Space;

    #[test]
    fn no_isomorph_of_a_label_is_tested() {
        let mut builder = Space::builder("cell");
        let cell = builder.edge_dag(4, &["none", "skip", "a", "b"]);
        builder.edge_cell(&cell, "none", Some("skip"));
        let space = builder.finish().unwrap();
        let genotypes = space.enumerate(5_000).unwrap();
        let values = vec![0.0; genotypes.len()];
        let column = Column { name: "accuracy".into(), role: Role::Validation, values };
        let table = Table::new("cell", space, genotypes, vec![column]);
        let isomorphs = |row: usize| table.space().isomorphs(&table.genotypes()[row]);
        let (train, test) = split(&table, 1, 400, 1_000);
        assert_eq!((train.len(), test.len()), (400, 1_000));
        let labels: HashSet<Genotype> =
            train.iter().map(|&row| table.genotypes()[row].clone()).collect();
        assert!(test.iter().all(|&row| isomorphs(row).iter().all(|g| !labels.contains(g))));
        // Without the rule some would be: the rows after the labels hold isomorphs of them.
        let drawn = stream(1, "bench/labels", 0).distinct(table.genotypes().len(), 1_400);
        let is_known = |&row: &usize| isomorphs(row).iter().any(|g| labels.contains(g));
        assert!(drawn[400..].iter().any(is_known));
    }

    #[test]
    fn one_guess_for_all_ranks_nothing() {
        assert_eq!(agreement(&[0.5; 4], &[1.0, 2.0, 3.0, 4.0]), 0.0);
        assert_eq!(agreement(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]), 1.0);
    }

    #[test]
    fn more_labels_than_rows_allow_are_refused() {
        let mut builder = Space::builder("one");
        builder.integer("x", 0, 4);
        builder.integer("y", 0, 1);
        let space = builder.finish().unwrap();
        let genotypes = space.enumerate(10).unwrap();
        let values = (0..10).map(f64::from).collect();
        let column = Column { name: "acc".into(), role: Role::Validation, values };
        let table = Table::new("own.csv", space, genotypes, vec![column]);
        let study = |most: usize| {
            let (predictors, labels) = (vec![PredictorKind::Ridge], vec![most - 1, most]);
            let plan = LabelPlan { predictors, labels, seeds: 2, cost: None };
            label_study(&table, "acc", &plan, &|| ())
        };
        let found = study(5).unwrap();
        assert!(found.predictors[0].1.iter().all(|tau| tau.mean.is_finite()));
        let error = study(6).unwrap_err().to_string();
        assert!(error.contains("6; needed: at most 5 of the 10 networks of own.csv"), "{error}");
    }
}
