//! Hyper-parameters that describe no network.

use super::Baseline;

/// What can be wrong with a baseline's settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BaselineError {
    /// No model has this name.
    #[error("there is no baseline `{name}`; there are {}", Baseline::NAMES.join(", "))]
    UnknownName {
        /// The name asked for.
        name: String,
    },
    /// The data have no columns to read.
    #[error(
        "the data have neither dense inputs nor categorical fields: a model needs at least one"
    )]
    NoInputs,
    /// A size is zero.
    #[error("{model}: `{key}` holds a zero; every size must be at least 1")]
    ZeroSize {
        /// Name of the model.
        model: &'static str,
        /// The setting.
        key: &'static str,
    },
    /// Attention cannot split its channels so.
    #[error(
        "{model}: {channels} channels in {heads} heads; the channels of one head must be \
         1, 2, 4, 8 or 16"
    )]
    Heads {
        /// Name of the model.
        model: &'static str,
        /// Channels of all heads.
        channels: usize,
        /// Heads.
        heads: usize,
    },
    /// There are more layers than the logit can sum.
    #[error("{model}: `{key}` lists {found} layers; at most {most} are possible")]
    TooManyLayers {
        /// Name of the model.
        model: &'static str,
        /// The setting.
        key: &'static str,
        /// Layers listed.
        found: usize,
        /// Layers possible.
        most: usize,
    },
}

/// Fails when one of `sizes` is zero.
pub(super) fn positive(
    model: &'static str,
    key: &'static str,
    sizes: &[usize],
) -> Result<(), BaselineError> {
    if sizes.contains(&0) { Err(BaselineError::ZeroSize { model, key }) } else { Ok(()) }
}
