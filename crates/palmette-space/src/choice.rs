use serde::{Deserialize, Serialize};

use crate::SpaceError;

/// Position of a choice in its space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChoiceId(pub usize);

/// What a choice offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Kind {
    /// Exactly one of the named options; the gene is its index.
    OneOf {
        /// Names of the options.
        options: Vec<String>,
        /// Whether the options are ordered (widths): distance then counts steps.
        ordered: bool,
    },
    /// At least `min` and at most `max` of the named items; the gene is a bit mask.
    Subset {
        /// Names of the items, at most 32.
        items: Vec<String>,
        /// Fewest members.
        min: usize,
        /// Most members.
        max: usize,
    },
    /// An integer in `low..=high`; the gene is its offset from `low`.
    Integer {
        /// Lower bound.
        low: i64,
        /// Upper bound, itself possible.
        high: i64,
    },
}

/// How a choice appears in the token of a genotype ([`Space::token`](crate::Space::token)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenForm {
    /// One number: the gene itself.
    Index,
    /// One 0/1 per option or item, padded with zeros to this length.
    Bits(usize),
}

/// Makes a choice matter only where an earlier choice took certain values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// The earlier choice.
    pub on: ChoiceId,
    /// One-of and integer: genes that activate. Subset: items any of which activates.
    pub any_of: Vec<u32>,
}

/// A named choice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// Its name, unique in the space; dots group (`block.3.width`).
    pub name: String,
    /// What it offers.
    pub kind: Kind,
    /// When it matters; always, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<Condition>,
    /// How it appears in tokens.
    pub token: TokenForm,
}

impl Kind {
    /// Whether the choice accepts `gene`.
    pub fn accepts(&self, gene: u32) -> bool {
        match self {
            Self::OneOf { options, .. } => (gene as usize) < options.len(),
            Self::Subset { items, min, max } => {
                let members = gene.count_ones() as usize;
                (*min..=*max).contains(&members)
                    && (items.len() >= 32 || u64::from(gene) < 1 << items.len())
            }
            Self::Integer { low, high } => i64::from(gene) <= high - low,
        }
    }

    /// The gene of an inactive choice: the first option, the first `min` items, or the lower bound.
    pub fn default_gene(&self) -> u32 {
        match self {
            Self::OneOf { .. } | Self::Integer { .. } => 0,
            Self::Subset { min, .. } => ((1u64 << min) - 1) as u32,
        }
    }

    /// Number of genes the choice accepts.
    pub fn count(&self) -> u128 {
        match self {
            Self::OneOf { options, .. } => options.len() as u128,
            Self::Subset { items, min, max } => {
                (*min..=*max).map(|size| binomial(items.len(), size)).sum()
            }
            Self::Integer { low, high } => (high - low) as u128 + 1,
        }
    }

    /// Bits that show the gene one-hot (one-of, integer) or as membership (subset).
    pub fn width(&self) -> usize {
        match self {
            Self::OneOf { options, .. } => options.len(),
            Self::Subset { items, .. } => items.len(),
            Self::Integer { low, high } => (high - low) as usize + 1,
        }
    }

    /// Says in words what is accepted.
    pub fn describe(&self) -> String {
        match self {
            Self::OneOf { options, .. } => format!("one of {}", options.join(", ")),
            Self::Subset { items, min, max } => {
                format!("a list of {min} to {max} of {}", items.join(", "))
            }
            Self::Integer { low, high } => format!("an integer from {low} to {high}"),
        }
    }

    pub(crate) fn validate(&self, choice: &str) -> Result<(), SpaceError> {
        let bad =
            |problem: String| Err(SpaceError::BadChoice { choice: choice.to_owned(), problem });
        let names = match self {
            Self::OneOf { options, .. } if options.is_empty() => {
                return bad("it offers no options; give at least one".into());
            }
            Self::Subset { items, min, max } => {
                if items.len() > 32 {
                    return bad(format!("it has {} items; at most 32 fit a gene", items.len()));
                }
                if min > max || *max > items.len() {
                    return bad(format!(
                        "sizes {min}..={max} of {} items; needed: min <= max <= items",
                        items.len()
                    ));
                }
                items
            }
            Self::Integer { low, high } => {
                let values = high.checked_sub(*low);
                return match values {
                    Some(0..=0xffff_fffe) => Ok(()),
                    _ => {
                        bad(format!("range {low}..={high}; needed: low <= high, below 2^32 values"))
                    }
                };
            }
            Self::OneOf { options, .. } => options,
        };
        match names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
            Some((_, name)) => bad(format!("`{name}` is offered twice")),
            None => Ok(()),
        }
    }
}

/// n choose k.
pub(crate) fn binomial(n: usize, k: usize) -> u128 {
    (0..k).fold(1, |product, i| product * (n - i) as u128 / (i + 1) as u128)
}
