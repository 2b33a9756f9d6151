use thiserror::Error;

/// What can be wrong with a space or a genotype.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SpaceError {
    /// A choice that offers nothing, or more than a gene holds.
    #[error("choice `{choice}`: {problem}")]
    BadChoice {
        /// Name of the choice.
        choice: String,
        /// What is wrong and what would be accepted.
        problem: String,
    },
    /// Two choices of one name.
    #[error("choice `{0}` is defined twice; names must be unique")]
    DuplicateName(String),
    /// A condition that cannot be evaluated.
    #[error("condition of `{choice}`: {problem}")]
    BadCondition {
        /// Name of the conditional choice.
        choice: String,
        /// What is wrong and what would be accepted.
        problem: String,
    },
    /// A mutation tree that leaves choices out or names unknown ones.
    #[error("mutation tree of space `{space}`: {problem}")]
    BadMutationTree {
        /// Name of the space.
        space: String,
        /// What is wrong.
        problem: String,
    },
    /// A genotype with the wrong number of genes.
    #[error("space `{space}` has {expected} choices, the genotype has {got} genes")]
    WrongLength {
        /// Name of the space.
        space: String,
        /// Choices of the space.
        expected: usize,
        /// Genes found.
        got: usize,
    },
    /// A gene outside its choice.
    #[error("gene `{choice}` is {got}; accepted: {accepted}")]
    BadGene {
        /// Name of the choice.
        choice: String,
        /// The value found.
        got: String,
        /// What would be accepted.
        accepted: String,
    },
    /// A genotype document without a choice.
    #[error("gene `{0}` is missing")]
    MissingGene(String),
    /// A genotype document with a name the space does not have.
    #[error("unknown gene `{name}`; the nearest name is `{nearest}`")]
    UnknownGene {
        /// The unknown name.
        name: String,
        /// The nearest name of a choice.
        nearest: String,
    },
    /// Text that is not a JSON object.
    #[error("not a genotype document: {0}")]
    NotJson(String),
}
