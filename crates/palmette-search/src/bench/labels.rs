use palmette_random::{Draw, stream};
use palmette_space::{Genotype, edge_dag_isomorphs};
use rayon::prelude::*;
use serde::Serialize;

use super::Summary;
use crate::{
    SearchError, kendall_tau_b,
    predictors::{MlpConfig, MlpPredictor, PairwiseRidge, normal_scores},
    tables::{Role, Table},
};

/// Kendall's tau of predictors against their number of labels.
#[derive(Clone, Debug, Serialize)]
pub struct LabelStudy {
    /// The table.
    pub table: String,
    /// The quality predicted.
    pub quality: String,
    /// Repetitions, each with its own split.
    pub seeds: usize,
    /// Networks of each test set.
    pub tested: usize,
    /// Numbers of labels.
    pub labels: Vec<usize>,
    /// Per predictor, tau on unseen networks for each number of labels.
    pub predictors: Vec<(String, Vec<Summary>)>,
}

/// Trains predictors on random networks and ranks others.
///
/// Where cells have isomorphs (`absent` is the gene of a missing edge), every predictor is also
/// trained with the isomorphs of its labels added, and no isomorph of a label is tested: the split
/// comes before the augmentation.
pub fn label_study(
    table: &Table,
    quality: &str,
    labels: &[usize],
    absent: Option<u32>,
    seeds: usize,
) -> Result<LabelStudy, SearchError> {
    let column = table.column(quality).filter(|column| column.role == Role::Validation);
    let values = &column
        .ok_or_else(|| SearchError::BadSetting {
            setting: "quality",
            got: quality.into(),
            needed: "a validation column of the table".into(),
        })?
        .values;
    let variants: Vec<(&str, bool)> =
        [("ridge", false), ("mlp", false), ("ridge", true), ("mlp", true)]
            .into_iter()
            .filter(|(_, augmented)| absent.is_some() || !augmented)
            .collect();
    let tested = 1_000.min(table.genotypes().len() / 2);
    let run = |seed: u64, count: usize| -> Vec<f64> {
        let mut rng = stream(seed, "bench/labels", count as u64);
        let drawn = rng.distinct(table.genotypes().len(), count + 2 * tested);
        let (train, rest) = drawn.split_at(count.min(drawn.len()));
        let isomorphs = |row: usize| -> Vec<Genotype> {
            let genotype = &table.genotypes()[row];
            match absent {
                Some(absent) => {
                    let drawings = edge_dag_isomorphs(genotype.genes(), absent);
                    drawings.into_iter().map(Genotype::new).collect()
                }
                None => vec![genotype.clone()],
            }
        };
        let mut known: Vec<Genotype> = train.iter().flat_map(|&row| isomorphs(row)).collect();
        known.sort_unstable();
        let unknown = |row: &usize| known.binary_search(&table.genotypes()[*row]).is_err();
        let test: Vec<usize> = rest.iter().copied().filter(unknown).take(tested).collect();
        let truth: Vec<f64> = test.iter().map(|&row| values[row]).collect();
        variants
            .iter()
            .map(|&(name, augmented)| {
                let pairs: Vec<(Genotype, f64)> = train
                    .iter()
                    .flat_map(|&row| {
                        let mut drawings = isomorphs(row);
                        drawings.truncate(if augmented { usize::MAX } else { 1 });
                        drawings.into_iter().map(move |genotype| (genotype, values[row]))
                    })
                    .collect();
                let guesses = predict(table, name, seed, &pairs, &test);
                kendall_tau_b(&guesses, &truth)
            })
            .collect()
    };
    let mut predictors: Vec<(String, Vec<Summary>)> = variants
        .iter()
        .map(|(name, augmented)| {
            (
                if *augmented { format!("{name}, isomorphs added") } else { (*name).to_owned() },
                vec![],
            )
        })
        .collect();
    for &count in labels {
        let runs: Vec<Vec<f64>> =
            (0..seeds as u64).into_par_iter().map(|seed| run(seed, count)).collect();
        for (i, (_, summaries)) in predictors.iter_mut().enumerate() {
            summaries.push(Summary::of(&runs.iter().map(|run| run[i]).collect::<Vec<f64>>()));
        }
    }
    Ok(LabelStudy {
        table: table.name().to_owned(),
        quality: quality.to_owned(),
        seeds,
        tested,
        labels: labels.to_vec(),
        predictors,
    })
}

fn predict(
    table: &Table,
    name: &str,
    seed: u64,
    pairs: &[(Genotype, f64)],
    test: &[usize],
) -> Vec<f64> {
    let space = table.space();
    let labels = normal_scores(&pairs.iter().map(|pair| pair.1).collect::<Vec<f64>>());
    if name == "ridge" {
        let genotypes: Vec<&Genotype> = pairs.iter().map(|pair| &pair.0).collect();
        let mut ridge = PairwiseRidge::new(space, 0.02);
        ridge.fit(space, &genotypes, &labels);
        let slots = test.iter().map(|&row| space.slots(&table.genotypes()[row]));
        return slots.map(|slots| ridge.predict(&slots)).collect();
    }
    let rows: Vec<Vec<f32>> = pairs.iter().map(|pair| space.one_hot(&pair.0)).collect();
    let mut mlp = MlpPredictor::new(MlpConfig::default(), seed);
    mlp.fit(&rows, &labels);
    let codes = test.iter().map(|&row| space.one_hot(&table.genotypes()[row]));
    codes.map(|code| mlp.predict(&code)).collect()
}
