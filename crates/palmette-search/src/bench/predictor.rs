use palmette_random::{Draw, stream};
use palmette_space::{Choice, Genotype};

use crate::{
    predictors::{
        BoostedTrees, DenseSparseConfig, DenseSparsePredictor, Features, Field, GaussianProcess,
        HeterogeneousEncoding, MlpConfig, MlpPredictor, PairwiseRidge, Part, ProcessConfig,
        TreesConfig, normal_scores, tree_features,
    },
    tables::Table,
};

/// Networks whose costs pre-train a predictor.
const COSTS: usize = 1_000;

/// A predictor with the settings that it is compared under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PredictorKind {
    /// Ridge on single values and pairs of values.
    Ridge,
    /// Gaussian process on slots and paths.
    Process,
    /// CSCO's MLP, squared error.
    Mlp,
    /// CSCO's MLP, squared error and ranking.
    MlpRanking,
    /// PIDS's dense-sparse network on the heterogeneous encoding, squared error.
    DenseSparse,
    /// The same, squared error and ranking.
    DenseSparseRanking,
    /// The same as the last, pre-trained on the cost of other networks.
    DenseSparseCost,
    /// Gradient-boosted trees.
    Trees,
}

impl PredictorKind {
    /// All predictors.
    pub const ALL: [Self; 8] = [
        Self::Ridge,
        Self::Process,
        Self::Mlp,
        Self::MlpRanking,
        Self::DenseSparse,
        Self::DenseSparseRanking,
        Self::DenseSparseCost,
        Self::Trees,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ridge => "ridge",
            Self::Process => "process",
            Self::Mlp => "mlp",
            Self::MlpRanking => "mlp-ranking",
            Self::DenseSparse => "dense-sparse",
            Self::DenseSparseRanking => "dense-sparse-ranking",
            Self::DenseSparseCost => "dense-sparse-cost",
            Self::Trees => "trees",
        }
    }

    /// The predictor called `name`.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The network that is fitted to the `cost` of other networks before it sees any label, where
    /// this predictor is one.
    pub(super) fn pre_train(
        self,
        table: &Table,
        cost: Option<&[f64]>,
        seed: u64,
    ) -> Option<DenseSparsePredictor> {
        let cost = cost.filter(|_| self == Self::DenseSparseCost)?;
        let rows = stream(seed, "bench/costs", 0).distinct(cost.len(), COSTS);
        let genotypes: Vec<&Genotype> = rows.iter().map(|&row| &table.genotypes()[row]).collect();
        let costs: Vec<f64> = rows.iter().map(|&row| cost[row]).collect();
        let mut network = self.dense_sparse(table, seed);
        network.fit(&genotypes, &normal_scores(&costs));
        Some(network)
    }

    fn dense_sparse(self, table: &Table, seed: u64) -> DenseSparsePredictor {
        let default = DenseSparseConfig::default();
        let ranking = if self == Self::DenseSparse { 0.0 } else { default.ranking };
        let config = DenseSparseConfig { ranking, ..default };
        DenseSparsePredictor::new(encoding(table), config, seed)
    }

    /// Fits labelled genotypes of the table, from what was
    /// [fitted before](Self::pre_train) if anything was, and predicts others.
    pub(super) fn predict(
        self,
        table: &Table,
        pre_trained: Option<&DenseSparsePredictor>,
        seed: u64,
        labelled: &[(Genotype, f64)],
        others: &[Genotype],
    ) -> Vec<f64> {
        let space = table.space();
        let (genotypes, values): (Vec<&Genotype>, Vec<f64>) =
            labelled.iter().map(|(genotype, value)| (genotype, *value)).unzip();
        let labels = normal_scores(&values);
        let codes = |genotypes: &[&Genotype]| -> Vec<Vec<f32>> {
            genotypes.iter().map(|genotype| space.one_hot(genotype)).collect()
        };
        let others: Vec<&Genotype> = others.iter().collect();
        match self {
            Self::Ridge => {
                let mut ridge = PairwiseRidge::new(space, 0.02);
                ridge.fit(space, &genotypes, &labels);
                others.iter().map(|other| ridge.predict(&space.slots(other))).collect()
            }
            Self::Process => {
                let mut process = GaussianProcess::new(space, ProcessConfig::default());
                genotypes.iter().for_each(|g| process.push(Features::of(space, g)));
                let mut field = Field::new(others.iter().map(|g| Features::of(space, g)).collect());
                field.catch_up(&process, 0);
                field.means(&process.whiten(&labels)).into_iter().map(f64::from).collect()
            }
            Self::Mlp | Self::MlpRanking => {
                let ranking = if self == Self::Mlp { 0.0 } else { 0.5 };
                let mut mlp =
                    MlpPredictor::new(MlpConfig { ranking, ..MlpConfig::default() }, seed);
                mlp.fit(&codes(&genotypes), &labels);
                codes(&others).iter().map(|code| mlp.predict(code)).collect()
            }
            Self::Trees => {
                let mut trees = BoostedTrees::new(TreesConfig::default());
                let features = |genotypes: &[&Genotype]| -> Vec<Vec<f32>> {
                    genotypes.iter().map(|genotype| tree_features(space, genotype)).collect()
                };
                trees.fit(&features(&genotypes), &labels);
                trees.predict(&features(&others))
            }
            Self::DenseSparse | Self::DenseSparseRanking | Self::DenseSparseCost => {
                let fresh = || self.dense_sparse(table, seed);
                let mut network = pre_trained.cloned().unwrap_or_else(fresh);
                network.fit(&genotypes, &labels);
                others.iter().map(|other| network.predict(other)).collect()
            }
        }
    }
}

/// Sizes of Accel-NASBench's stages by their roles, other spaces by the kinds of their choices.
fn encoding(table: &Table) -> HeterogeneousEncoding {
    if table.name() != "accel-nasbench" {
        return HeterogeneousEncoding::by_kind(table.space());
    }
    HeterogeneousEncoding::new(table.space(), |choice: &Choice| {
        match choice.name.rsplit('_').next() {
            Some("l") => Part::Positional,
            Some("e") => Part::Architectural,
            _ => Part::Sparse,
        }
    })
}
