//! Hyper-parameters that describe no network.

use super::Baseline;

/// What can be wrong with a baseline's settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BaselineError {
    /// No model has this name.
    #[error("there is no baseline `{name}`; there are {}", Baseline::names().collect::<Vec<_>>().join(", "))]
    UnknownName {
        /// The name asked for.
        name: String,
    },
    /// The data have no columns to read.
    #[error(
        "the data have neither dense inputs nor categorical fields: a model needs at least one"
    )]
    NoInputs,
    /// The model is about lists and the data have none.
    #[error(
        "history: the data have no lists; name a history or a set of tags under `lists` in the \
         schema, or choose another baseline"
    )]
    NoLists,
    /// No list's values are in the table of a field that could ask for them.
    #[error(
        "history-self-attention: no list shares the table of a categorical field, so nothing could \
         attend to its values; set `shares` of a list in the schema, or choose history-mean"
    )]
    NoSharedLists,
    /// A size is zero.
    #[error("{model}: `{key}` holds a zero; every size must be at least 1")]
    ZeroSize {
        /// Name of the model.
        model: &'static str,
        /// The setting.
        key: &'static str,
    },
    /// A size is beyond anything that could be trained.
    #[error("{model}: `{key}` is {found}; at most {most} is possible")]
    TooLarge {
        /// Name of the model.
        model: &'static str,
        /// The setting.
        key: &'static str,
        /// The size asked for.
        found: usize,
        /// The largest one possible.
        most: usize,
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
    /// Attention over a list cannot split its channels so.
    #[error(
        "history: {channels} channels in {heads} heads; at most 64 channels are possible, and the \
         heads must divide them"
    )]
    ListHeads {
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

/// Units of a layer at most.
const MOST_UNITS: usize = 1 << 16;

/// Fails when one of `sizes` is above `most`.
pub(super) fn at_most(
    model: &'static str,
    key: &'static str,
    sizes: &[usize],
    most: usize,
) -> Result<(), BaselineError> {
    match sizes.iter().find(|&&size| size > most) {
        Some(&found) => Err(BaselineError::TooLarge { model, key, found, most }),
        None => Ok(()),
    }
}

/// Fails when one of `sizes` is zero, or beyond anything that could be trained.
pub(super) fn positive(
    model: &'static str,
    key: &'static str,
    sizes: &[usize],
) -> Result<(), BaselineError> {
    if sizes.contains(&0) {
        return Err(BaselineError::ZeroSize { model, key });
    }
    at_most(model, key, sizes, MOST_UNITS)
}
