/*!
Hand-made models that a searched one has to beat.

Each is a small struct of hyper-parameters with its paper's defaults and a
`compile` that gives a [`CompiledModel`]: the same type that a searched network
compiles to, so both are trained by the same command on the same rows.

```
use palmette_ctr::ModelInputs;
use palmette_ctr::baselines::Baseline;

let inputs = ModelInputs::numbered(13, &[1000, 50, 200]);
let model = Baseline::named("deepfm")?.compile(&inputs)?;
// 16 channels and one first-order number a value
assert_eq!(model.table_params(), 17 * 1250);
assert!(model.macs() > 400 * 400);

let unknown = Baseline::named("deepmf").unwrap_err();
assert!(unknown.to_string().contains("deepfm"));
# Ok::<(), palmette_ctr::baselines::BaselineError>(())
```

All but [`History`] read dense inputs and categorical fields alone; lists they leave out.
Where a paper gives every dense input a vector of its own, `x_j v_j`, these models have a
linear map of all dense inputs; see the structs.
*/

mod autoint;
mod builder;
mod dcn_v2;
mod deepfm;
mod dlrm;
mod error;
mod factorization_machine;
mod history;
mod logistic_regression;
mod mlp;
mod xdeepfm;

use serde::{Deserialize, Serialize};

pub use autoint::AutoIntPlus;
pub use dcn_v2::DcnV2;
pub use deepfm::DeepFm;
pub use dlrm::Dlrm;
pub use error::BaselineError;
pub use factorization_machine::FactorizationMachine;
pub use history::{History, HistoryPooling};
pub use logistic_regression::LogisticRegression;
pub use mlp::Mlp;
pub use xdeepfm::XDeepFm;

use crate::{CompiledModel, ModelInputs};

/// One of the hand-made models with its hyper-parameters; `kind` names it in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum Baseline {
    /// `lr`
    #[serde(rename = "lr")]
    LogisticRegression(LogisticRegression),
    /// `fm`
    #[serde(rename = "fm")]
    FactorizationMachine(FactorizationMachine),
    /// `mlp`
    #[serde(rename = "mlp")]
    Mlp(Mlp),
    /// `deepfm`
    #[serde(rename = "deepfm")]
    DeepFm(DeepFm),
    /// `dlrm`
    #[serde(rename = "dlrm")]
    Dlrm(Dlrm),
    /// `dcn-v2`
    #[serde(rename = "dcn-v2")]
    DcnV2(DcnV2),
    /// `autoint-plus`
    #[serde(rename = "autoint-plus")]
    AutoIntPlus(AutoIntPlus),
    /// `xdeepfm`
    #[serde(rename = "xdeepfm")]
    XDeepFm(XDeepFm),
    /// `history`, for data with lists.
    #[serde(rename = "history")]
    History(History),
}

/// A baseline with its paper's hyper-parameters.
type Make = fn() -> Baseline;

/// All baselines by name.
const NAMED: [(&str, Make); 15] = [
    ("lr", || Baseline::LogisticRegression(LogisticRegression::default())),
    ("fm", || Baseline::FactorizationMachine(FactorizationMachine::default())),
    ("mlp", || Baseline::Mlp(Mlp::default())),
    ("mlp-small", || {
        let [small, _, _] = Mlp::three_sizes();
        Baseline::Mlp(small)
    }),
    ("mlp-medium", || {
        let [_, medium, _] = Mlp::three_sizes();
        Baseline::Mlp(medium)
    }),
    ("mlp-large", || {
        let [_, _, large] = Mlp::three_sizes();
        Baseline::Mlp(large)
    }),
    ("deepfm", || Baseline::DeepFm(DeepFm::default())),
    ("dlrm", || Baseline::Dlrm(Dlrm::default())),
    ("dcn-v2", || Baseline::DcnV2(DcnV2::default())),
    ("autoint-plus", || Baseline::AutoIntPlus(AutoIntPlus::default())),
    ("xdeepfm", || Baseline::XDeepFm(XDeepFm::default())),
    // The published interaction layers cost 55 M multiply-accumulates a sample.
    ("xdeepfm-small", || {
        Baseline::XDeepFm(XDeepFm { interaction: vec![24, 24], ..XDeepFm::default() })
    }),
    ("history", || Baseline::History(History::default())),
    ("history-mean", || {
        Baseline::History(History { pooling: HistoryPooling::Mean, ..History::default() })
    }),
    ("history-self-attention", || {
        Baseline::History(History { pooling: HistoryPooling::SelfAttention, ..History::default() })
    }),
];

impl Baseline {
    /// What kinds there are, simplest first; each is a name, too.
    pub const KINDS: [&'static str; 9] =
        ["lr", "fm", "mlp", "deepfm", "dlrm", "dcn-v2", "autoint-plus", "xdeepfm", "history"];

    /// Names of all baselines, sizes and poolings among them.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMED.iter().map(|&(name, _)| name)
    }

    /// The baseline of this name with its paper's hyper-parameters.
    ///
    /// # Errors
    /// [`BaselineError::UnknownName`].
    pub fn named(name: &str) -> Result<Self, BaselineError> {
        let unknown = || BaselineError::UnknownName { name: name.to_owned() };
        NAMED.iter().find(|named| named.0 == name).map(|named| named.1()).ok_or_else(unknown)
    }

    /// The name of its kind.
    pub fn kind(&self) -> &'static str {
        let index = match self {
            Self::LogisticRegression(_) => 0,
            Self::FactorizationMachine(_) => 1,
            Self::Mlp(_) => 2,
            Self::DeepFm(_) => 3,
            Self::Dlrm(_) => 4,
            Self::DcnV2(_) => 5,
            Self::AutoIntPlus(_) => 6,
            Self::XDeepFm(_) => 7,
            Self::History(_) => 8,
        };
        Self::KINDS[index]
    }

    /// Declares and builds the model.
    ///
    /// # Errors
    /// Settings that describe no network, and data without columns.
    pub fn compile(&self, inputs: &ModelInputs) -> Result<CompiledModel, BaselineError> {
        match self {
            Self::LogisticRegression(model) => model.compile(inputs),
            Self::FactorizationMachine(model) => model.compile(inputs),
            Self::Mlp(model) => model.compile(inputs),
            Self::DeepFm(model) => model.compile(inputs),
            Self::Dlrm(model) => model.compile(inputs),
            Self::DcnV2(model) => model.compile(inputs),
            Self::AutoIntPlus(model) => model.compile(inputs),
            Self::XDeepFm(model) => model.compile(inputs),
            Self::History(model) => model.compile(inputs),
        }
    }
}
