use thiserror::Error;

/// What can go wrong between a driver and a strategy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SearchError {
    /// An outcome for a trial that was never suggested.
    #[error("trial {trial} was never suggested; trials so far: {trials}")]
    UnknownTrial {
        /// The trial.
        trial: u64,
        /// Number of trials suggested.
        trials: u64,
    },
    /// A second outcome for a trial.
    #[error("trial {0} was observed already; a trial has one outcome")]
    ObservedTwice(u64),
    /// Old trials given to a strategy that has already suggested.
    #[error("a warm start must come before the first suggestion; {0} trials were suggested")]
    WarmStartTooLate(u64),
    /// An old trial of another space.
    #[error("warm start, trial {index}: {problem}")]
    BadWarmStart {
        /// Position in the list.
        index: usize,
        /// What the space says about its genotype.
        problem: String,
    },
    /// A saved state that does not fit.
    #[error("saved state of strategy `{strategy}`: {problem}")]
    BadState {
        /// Name of the strategy.
        strategy: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Settings that make no search.
    #[error("setting `{setting}` is {got}; needed: {needed}")]
    BadSetting {
        /// Name of the setting.
        setting: &'static str,
        /// What was given.
        got: String,
        /// What would be accepted.
        needed: String,
    },
}
