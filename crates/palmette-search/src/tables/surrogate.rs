use std::collections::HashSet;

use palmette_random::{Draw, stream};
use palmette_space::{Domain, Genotype, Space};

use super::{Experimenter, Role, Table};
use crate::{
    Outcome, kendall_tau_b,
    predictors::{BoostedTrees, TreesConfig, tree_features},
};

/// A table's quality, fitted: every genotype of the space has one, but none of them was trained.
///
/// Results on it are results about the surrogate. Gradient-boosted trees;
/// [`tau`](Self::tau) tells how well the same trees rank rows that they have not seen.
#[derive(Debug)]
pub struct Surrogate {
    space: Space,
    trees: BoostedTrees,
    mean: f64,
    deviation: f64,
    tau: f64,
    held_out: usize,
}

impl Surrogate {
    /// Fits a validation column; `None` for another or an unknown one, and for fewer than 20 rows.
    pub fn fit(table: &Table, quality: &str) -> Option<Self> {
        let column = table.column(quality).filter(|column| column.role == Role::Validation)?;
        let rows = table.genotypes().len();
        if rows < 20 {
            return None;
        }
        let mean = column.values.iter().sum::<f64>() / rows as f64;
        let variance = column.values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / rows as f64;
        let deviation = variance.sqrt().max(f64::MIN_POSITIVE);
        let codes: Vec<Vec<f32>> =
            table.genotypes().iter().map(|g| tree_features(table.space(), g)).collect();
        let labels: Vec<f64> = column.values.iter().map(|v| (v - mean) / deviation).collect();
        let order = stream(0, "tables/surrogate", 0).distinct(rows, rows);
        let (held_out, kept) = order.split_at(rows * 15 / 100);
        let pick = |indices: &[usize]| -> (Vec<Vec<f32>>, Vec<f64>) {
            indices.iter().map(|&i| (codes[i].clone(), labels[i])).unzip()
        };
        let config = TreesConfig { trees: 300, depth: 5, ..TreesConfig::default() };
        let mut trees = BoostedTrees::new(config);
        let (kept_codes, kept_labels) = pick(kept);
        trees.fit(&kept_codes, &kept_labels);
        let (unseen, truth) = pick(held_out);
        let tau = kendall_tau_b(&trees.predict(&unseen), &truth);
        trees.fit(&codes, &labels);
        let (space, held_out) = (table.space().clone(), held_out.len());
        Some(Self { space, trees, mean, deviation, tau, held_out })
    }

    /// The space of all genotypes.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Kendall's tau on held-out rows (15 % of the table), of trees fitted to the others.
    pub fn tau(&self) -> f64 {
        self.tau
    }

    /// Number of held-out rows.
    pub fn held_out(&self) -> usize {
        self.held_out
    }

    /// The fitted quality.
    pub fn quality(&self, genotype: &Genotype) -> f64 {
        let predicted = self.trees.predict(&[tree_features(&self.space, genotype)]);
        self.mean + self.deviation * predicted[0]
    }
}

/// Evaluates on a [`Surrogate`].
#[derive(Clone, Debug)]
pub struct SurrogateExperimenter<'a> {
    surrogate: &'a Surrogate,
    queried: HashSet<u128>,
}

impl<'a> SurrogateExperimenter<'a> {
    /// An experimenter that was not asked yet.
    pub fn new(surrogate: &'a Surrogate) -> Self {
        Self { surrogate, queried: HashSet::new() }
    }
}

impl Experimenter for SurrogateExperimenter<'_> {
    fn domain(&self) -> &dyn Domain {
        &self.surrogate.space
    }

    fn evaluate(&mut self, genotype: &Genotype) -> Outcome {
        self.queried.insert(self.surrogate.space.key(genotype));
        Outcome::score(-self.surrogate.quality(genotype))
    }

    fn distinct_queries(&self) -> usize {
        self.queried.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::Column;

    #[test]
    fn a_surrogate_answers_for_what_the_table_lacks() {
        let mut builder = Space::builder("wide");
        for i in 0..8 {
            builder.integer(&format!("x{i}"), 0, 3);
        }
        let space = builder.finish().unwrap();
        let quality = |g: &Genotype| -> f64 { g.genes().iter().map(|&x| f64::from(x)).sum() };
        let genotypes: Vec<Genotype> =
            (0..600).map(|i| space.sample(&mut stream(1, "test/surrogate", i))).collect();
        let values = genotypes.iter().map(quality).collect();
        let columns = vec![Column { name: "acc".into(), role: Role::Validation, values }];
        let table = Table::new("wide", space.clone(), genotypes, columns);
        assert!(Surrogate::fit(&table, "other").is_none());
        let surrogate = Surrogate::fit(&table, "acc").unwrap();
        assert!(surrogate.tau() > 0.8, "{}", surrogate.tau());
        let mut experimenter = SurrogateExperimenter::new(&surrogate);
        let best = Genotype::new([3; 8]);
        let worst = Genotype::new([0; 8]);
        let score = |e: &mut SurrogateExperimenter<'_>, g| e.evaluate(g).first().unwrap();
        let (high, low) = (score(&mut experimenter, &worst), score(&mut experimenter, &best));
        assert!(low < -18.0 && high > -6.0, "{low} {high}");
        experimenter.evaluate(&best);
        assert_eq!(experimenter.distinct_queries(), 2);
    }
}
