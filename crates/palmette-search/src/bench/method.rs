use crate::{
    EvolutionConfig, FarthestConfig, FarthestGreedy, GuidedConfig, HalvingConfig, LocalSearch,
    MetropolisConfig, MetropolisEvolution, Nsga2, PredictorGuided, RandomSearch,
    RegularisedEvolution, SearchError, Strategy, SuccessiveHalving,
};

/// A strategy with the settings that it is compared under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Random search.
    Random,
    /// Restart local search, one neighbour at a time.
    LocalSearch,
    /// Regularised evolution: population 20, tournament 5, one child, one mutation.
    Evolution,
    /// Regularised evolution in NASRec's proportions for the budget.
    NasRecEvolution,
    /// MH-ES: burn-in 20, 4 children, s = 1.
    Metropolis,
    /// NSGA-II with a population of 20.
    Nsga2,
    /// Predictor-guided search with its default settings.
    PredictorGuided,
    /// Farthest greedy sampling with its default settings.
    FarthestGreedy,
    /// Successive halving of brackets of 9 (needs an objective with fidelities).
    SuccessiveHalving,
}

impl Method {
    /// The methods for one objective and whole evaluations, as regret studies compare them.
    pub const COMPARED: [Self; 8] = [
        Self::Random,
        Self::Evolution,
        Self::NasRecEvolution,
        Self::Metropolis,
        Self::Nsga2,
        Self::FarthestGreedy,
        Self::LocalSearch,
        Self::PredictorGuided,
    ];

    /// All methods.
    pub const ALL: [Self; 9] = [
        Self::Random,
        Self::LocalSearch,
        Self::Evolution,
        Self::NasRecEvolution,
        Self::Metropolis,
        Self::Nsga2,
        Self::PredictorGuided,
        Self::FarthestGreedy,
        Self::SuccessiveHalving,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::LocalSearch => "local-search",
            Self::Evolution => "evolution",
            Self::NasRecEvolution => "nasrec-evolution",
            Self::Metropolis => "mh-es",
            Self::Nsga2 => "nsga2",
            Self::PredictorGuided => "predictor-guided",
            Self::FarthestGreedy => "farthest-greedy",
            Self::SuccessiveHalving => "successive-halving",
        }
    }

    /// The method called `name`.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    /// Whether its settings depend on the number of evaluations it is planned for.
    pub fn has_plan(self) -> bool {
        matches!(self, Self::NasRecEvolution | Self::Metropolis)
    }

    /// The strategy, planned for `evaluations`.
    pub fn make(self, evaluations: usize, seed: u64) -> Result<Box<dyn Strategy>, SearchError> {
        Ok(match self {
            Self::Random => Box::new(RandomSearch::new(seed)),
            Self::LocalSearch => Box::new(LocalSearch::new(1, seed)),
            Self::Evolution => {
                let population = 20.min(evaluations.div_ceil(4)).max(1);
                let config = EvolutionConfig {
                    population,
                    tournament: 5.min(population),
                    children: 1,
                    generations: evaluations.saturating_sub(population),
                    logged: 1,
                    most_mutations: 1,
                };
                Box::new(RegularisedEvolution::new(config, seed)?)
            }
            Self::NasRecEvolution => {
                Box::new(RegularisedEvolution::new(EvolutionConfig::for_budget(evaluations), seed)?)
            }
            Self::Metropolis => {
                let config = MetropolisConfig::for_budget(evaluations);
                Box::new(MetropolisEvolution::new(config, seed)?)
            }
            Self::Nsga2 => Box::new(Nsga2::new(20, seed)?),
            Self::PredictorGuided => Box::new(PredictorGuided::new(GuidedConfig::default(), seed)?),
            Self::FarthestGreedy => Box::new(FarthestGreedy::new(FarthestConfig::default(), seed)?),
            Self::SuccessiveHalving => {
                let config = HalvingConfig { candidates: 9, reduction: 3, rungs: 3 };
                Box::new(SuccessiveHalving::new(config, seed)?)
            }
        })
    }
}
