use palmette_space::{Genotype, Kind, Space};
use smartcore::linalg::basic::matrix::DenseMatrix;
use smartcore::xgboost::{XGRegressor, XGRegressorParameters};

/// Settings of [`BoostedTrees`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TreesConfig {
    /// Trees.
    pub trees: usize,
    /// Depth of a tree at most.
    pub depth: u16,
    /// Share of each tree's correction that counts.
    pub learning_rate: f64,
    /// L2 penalty on the values of leaves.
    pub lambda: f64,
}

impl Default for TreesConfig {
    fn default() -> Self {
        Self { trees: 150, depth: 4, learning_rate: 0.1, lambda: 1.0 }
    }
}

/// What trees split on: the gene of an ordered choice or integer, one 0/1 per option or item of
/// another.
pub fn tree_features(space: &Space, genotype: &Genotype) -> Vec<f32> {
    let mut features = Vec::new();
    for (choice, &gene) in space.choices().iter().zip(genotype.genes()) {
        let bits = 0..choice.kind.width() as u32;
        match choice.kind {
            Kind::OneOf { ordered: true, .. } | Kind::Integer { .. } => features.push(gene as f32),
            Kind::OneOf { .. } => features.extend(bits.map(|bit| f32::from(u8::from(gene == bit)))),
            Kind::Subset { .. } => features.extend(bits.map(|bit| (gene >> bit & 1) as f32)),
        }
    }
    features
}

/// Gradient-boosted regression trees on [`tree_features`], by the smartcore crate.
#[derive(Debug)]
pub struct BoostedTrees {
    config: TreesConfig,
    model: Option<XGRegressor<f64, f64, DenseMatrix<f64>, Vec<f64>>>,
}

impl BoostedTrees {
    /// A predictor that is not fitted yet.
    pub fn new(config: TreesConfig) -> Self {
        Self { config, model: None }
    }

    /// Fits labels of about zero mean to rows of features. Without rows or features nothing is
    /// fitted.
    pub fn fit(&mut self, rows: &[Vec<f32>], labels: &[f64]) {
        let parameters = XGRegressorParameters::default()
            .with_n_estimators(self.config.trees)
            .with_max_depth(self.config.depth)
            .with_learning_rate(self.config.learning_rate)
            .with_lambda(self.config.lambda)
            .with_base_score(0.0);
        self.model = matrix(rows)
            .and_then(|features| XGRegressor::fit(&features, &labels.to_vec(), parameters).ok());
    }

    /// The predicted labels; 0 before any fit.
    pub fn predict(&self, rows: &[Vec<f32>]) -> Vec<f64> {
        let predicted = self.model.as_ref().zip(matrix(rows));
        predicted
            .and_then(|(model, features)| model.predict(&features).ok())
            .unwrap_or_else(|| vec![0.0; rows.len()])
    }
}

fn matrix(rows: &[Vec<f32>]) -> Option<DenseMatrix<f64>> {
    let columns = rows.first()?.len();
    let values = rows.iter().flatten().map(|&x| f64::from(x)).collect();
    DenseMatrix::new(rows.len(), columns, values, false).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_learn_an_interaction_and_give_the_same_bits_again() {
        let rows: Vec<Vec<f32>> =
            (0..64u32).map(|n| (0..6).map(|bit| (n >> bit & 1) as f32).collect()).collect();
        let label = |r: &Vec<f32>| f64::from(r[0] * r[1] - r[2] + 0.3 * r[3]);
        let labels: Vec<f64> = rows.iter().map(label).collect();
        let fit = || {
            let mut trees = BoostedTrees::new(TreesConfig::default());
            assert_eq!(trees.predict(&rows[..2]), [0.0, 0.0]);
            trees.fit(&rows, &labels);
            trees.predict(&rows)
        };
        let guesses = fit();
        assert!(crate::pearson(&guesses, &labels) > 0.99);
        assert_eq!(fit(), guesses);
    }

    #[test]
    fn ordered_choices_are_numbers_and_others_are_bits() {
        let mut builder = Space::builder("mixed");
        builder.one_of("operator", &["a", "b", "c"]);
        builder.one_of_ordered("width", &["8", "16", "32"]);
        builder.subset("sources", &["x", "y"], 1, 2);
        let space = builder.finish().unwrap();
        let features = tree_features(&space, &Genotype::new([1, 2, 0b10]));
        assert_eq!(features, [0.0, 1.0, 0.0, 2.0, 0.0, 1.0]);
    }

    #[test]
    fn nothing_to_fit_is_no_panic() {
        let mut trees = BoostedTrees::new(TreesConfig::default());
        trees.fit(&[], &[]);
        assert_eq!(trees.predict(&[vec![1.0]]), [0.0]);
    }
}
