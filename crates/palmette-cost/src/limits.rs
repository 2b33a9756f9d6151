use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{CostSheet, format_bytes, format_count, quantity};

/// What a limit can bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Multiply-accumulates per sample.
    Macs,
    /// Parameters of the network without embedding tables.
    Params,
    /// Parameters with embedding tables.
    TotalParams,
    /// Bytes of parameters and optimiser state, tables included.
    Memory,
}

impl Metric {
    /// All metrics, in the order of their names' documentation.
    pub const ALL: [Self; 4] = [Self::Macs, Self::Params, Self::TotalParams, Self::Memory];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Macs => "macs",
            Self::Params => "params",
            Self::TotalParams => "total_params",
            Self::Memory => "memory",
        }
    }

    /// Its value on a sheet.
    pub fn of(self, sheet: &CostSheet) -> u64 {
        match self {
            Self::Macs => sheet.macs,
            Self::Params => sheet.params,
            Self::TotalParams => sheet.total_params,
            Self::Memory => sheet.memory,
        }
    }

    /// A value of it, as people write it.
    pub fn format(self, value: u64) -> String {
        if self == Self::Memory { format_bytes(value) } else { format_count(value) }
    }
}

/// Why a limit cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LimitError {
    /// Text without an equals sign.
    #[error("limit `{0}` has no value; write it like macs=1.5M")]
    NoValue(String),
    /// A name that is no metric.
    #[error(
        "unknown limit `{name}`; did you mean `{nearest}`? Known: macs, params, total_params, memory, \
         peak_memory, latency_us"
    )]
    Unknown {
        /// The unknown name.
        name: String,
        /// The nearest known one.
        nearest: &'static str,
    },
    /// A value that is no amount.
    #[error("limit `{name}` is `{got}`; needed: {needed}")]
    BadValue {
        /// The metric's name.
        name: &'static str,
        /// What was found.
        got: String,
        /// What would be accepted.
        needed: &'static str,
    },
    /// A metric that is bounded twice.
    #[error("limit `{0}` is given twice")]
    Twice(&'static str),
}

/// A metric over its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which metric.
    pub metric: Metric,
    /// Its value.
    pub value: u64,
    /// The limit.
    pub limit: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { metric, value, limit } = *self;
        let (name, value, limit) = (metric.name(), metric.format(value), metric.format(limit));
        write!(f, "{name} {value} over the limit of {limit}")
    }
}

/// Hard upper limits, each inclusive; no limits are always met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Limits {
    limits: Vec<(Metric, u64)>,
}

impl Limits {
    /// Reads limits separated by spaces or commas: `macs=1.5M params=2M memory=4GiB`.
    pub fn parse(text: &str) -> Result<Self, LimitError> {
        let mut limits = Self::default();
        for word in text.split([' ', ',', '\t', '\n']).filter(|word| !word.is_empty()) {
            let (name, value) =
                word.split_once('=').ok_or_else(|| LimitError::NoValue(word.to_owned()))?;
            let metric = Metric::ALL.into_iter().find(|metric| metric.name() == name);
            let metric = metric.ok_or_else(|| LimitError::Unknown {
                name: name.to_owned(),
                nearest: nearest(name),
            })?;
            let bytes = metric == Metric::Memory;
            let value = quantity::parse(value, bytes).ok_or_else(|| LimitError::BadValue {
                name: metric.name(),
                got: value.to_owned(),
                needed: if bytes {
                    crate::hard::BYTES_NEEDED
                } else {
                    "a number such as 1.5M or 200k"
                },
            })?;
            limits.add(metric, value)?;
        }
        Ok(limits)
    }

    /// Adds a limit.
    pub fn add(&mut self, metric: Metric, limit: u64) -> Result<(), LimitError> {
        if self.get(metric).is_some() {
            return Err(LimitError::Twice(metric.name()));
        }
        self.limits.push((metric, limit));
        self.limits.sort_unstable();
        Ok(())
    }

    /// The limit of a metric, where there is one.
    pub fn get(&self, metric: Metric) -> Option<u64> {
        self.limits.iter().find(|(m, _)| *m == metric).map(|&(_, limit)| limit)
    }

    /// The limits.
    pub fn iter(&self) -> impl Iterator<Item = (Metric, u64)> + '_ {
        self.limits.iter().copied()
    }

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    /// Whether every limit is met.
    pub fn is_met(&self, sheet: &CostSheet) -> bool {
        self.limits.iter().all(|&(metric, limit)| metric.of(sheet) <= limit)
    }

    /// The limits that are not met.
    pub fn violations(&self, sheet: &CostSheet) -> Vec<Violation> {
        self.limits
            .iter()
            .map(|&(metric, limit)| Violation { metric, value: metric.of(sheet), limit })
            .filter(|violation| violation.value > violation.limit)
            .collect()
    }

    /// Sum over violated limits of value / limit - 1: zero where all are met.
    pub fn excess(&self, sheet: &CostSheet) -> f64 {
        self.limits
            .iter()
            .map(|&(metric, limit)| (metric.of(sheet) as f64 / limit.max(1) as f64 - 1.0).max(0.0))
            .sum()
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits: Vec<String> = self
            .limits
            .iter()
            .map(|&(metric, limit)| format!("{}={}", metric.name(), metric.format(limit)))
            .collect();
        write!(f, "{}", limits.join(", "))
    }
}

/// The known name nearest to `name` by edit distance.
fn nearest(name: &str) -> &'static str {
    let names = Metric::ALL.map(Metric::name).into_iter().chain(["peak_memory", "latency_us"]);
    names.min_by_key(|known| strsim::levenshtein(name, known)).unwrap_or("macs")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryModel;

    #[test]
    fn limits_are_inclusive_and_kept_apart() {
        let limits = Limits::parse("macs=1.5M, params=2M memory=4GiB").unwrap();
        let memory = MemoryModel::default();
        assert!(limits.is_met(&CostSheet::new(1_500_000, 2_000_000, [], &memory)));
        let over = CostSheet::new(1_500_001, 1, [(37_500_000, 16)], &memory);
        assert!(!limits.is_met(&over));
        let words: Vec<String> = limits.violations(&over).iter().map(|v| v.to_string()).collect();
        assert_eq!(
            words,
            [
                "macs 1.500 M over the limit of 1.500 M",
                "memory 4.470 GiB over the limit of 4.000 GiB"
            ]
        );
        assert!(limits.excess(&over) > 0.1 && limits.excess(&over) < 0.12);
    }

    #[test]
    fn bad_limits_are_named() {
        for (text, want) in [
            (
                "mac=1",
                "unknown limit `mac`; did you mean `macs`? Known: macs, params, total_params, memory, peak_memory, latency_us",
            ),
            (
                "memroy=1G",
                "unknown limit `memroy`; did you mean `memory`? Known: macs, params, total_params, memory, peak_memory, latency_us",
            ),
            ("macs", "limit `macs` has no value; write it like macs=1.5M"),
            ("macs=fast", "limit `macs` is `fast`; needed: a number such as 1.5M or 200k"),
            (
                "memory=1XB",
                "limit `memory` is `1XB`; needed: an amount of memory such as 512MiB or 2GB",
            ),
            ("macs=1 macs=2", "limit `macs` is given twice"),
        ] {
            assert_eq!(Limits::parse(text).unwrap_err().to_string(), want);
        }
    }
}
