use crate::{LimitError, Limits, Metric, quantity};

/// Most microseconds that predicting a batch may take, in the median.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatencyLimit {
    /// Microseconds, above zero.
    pub microseconds: f64,
    /// Rows of the batch, from one.
    pub batch: usize,
}

/// All limits that a person may set: those on counts, which a cost sheet decides, and those that
/// only a machine decides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HardLimits {
    /// On counts.
    pub counted: Limits,
    /// Bytes that the process may hold at once.
    pub peak_memory: Option<u64>,
    /// On the time of predictions, one for each size of batch.
    pub latency: Vec<LatencyLimit>,
}

/// What people write as an amount of memory.
pub(crate) const BYTES_NEEDED: &str = "an amount of memory such as 512MiB or 2GB";

impl HardLimits {
    /// Reads limits separated by spaces or commas: `macs=1.5M peak_memory=4GiB latency_us=300@1`.
    ///
    /// # Errors
    /// The first word that cannot be read, and what would be right.
    pub fn parse(text: &str) -> Result<Self, LimitError> {
        let (mut limits, mut counted) = (Self::default(), String::new());
        for word in text.split([' ', ',', '\t', '\n']).filter(|word| !word.is_empty()) {
            match word.split_once('=') {
                Some(("peak_memory", value)) => {
                    let bad = || bad_value("peak_memory", value, BYTES_NEEDED);
                    let bytes = quantity::parse(value, true).ok_or_else(bad)?;
                    if limits.peak_memory.replace(bytes).is_some() {
                        return Err(LimitError::Twice("peak_memory"));
                    }
                }
                Some(("latency_us", value)) => {
                    let limit = latency(value)?;
                    if limits.latency.iter().any(|other| other.batch == limit.batch) {
                        return Err(LimitError::Twice("latency_us"));
                    }
                    limits.latency.push(limit);
                }
                _ => {
                    counted.push(' ');
                    counted.push_str(word);
                }
            }
        }
        limits.counted = Limits::parse(&counted)?;
        Ok(limits)
    }

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.counted.is_empty() && self.peak_memory.is_none() && self.latency.is_empty()
    }

    /// Bytes of the limit on memory, of weights and their state or of the process.
    pub fn memory(&self) -> Option<u64> {
        self.counted.get(Metric::Memory)
    }
}

fn bad_value(name: &'static str, got: &str, needed: &'static str) -> LimitError {
    LimitError::BadValue { name, got: got.into(), needed }
}

/// `300@1`: microseconds at rows of a batch.
fn latency(value: &str) -> Result<LatencyLimit, LimitError> {
    let parsed = value.split_once('@').and_then(|(most, batch)| {
        let (microseconds, batch): (f64, usize) = (most.parse().ok()?, batch.parse().ok()?);
        let possible = microseconds.is_finite() && microseconds > 0.0 && batch > 0;
        possible.then_some(LatencyLimit { microseconds, batch })
    });
    parsed.ok_or_else(|| {
        bad_value("latency_us", value, "microseconds at rows of a batch such as 300@1")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_counts_and_of_machines_are_kept_apart() {
        let limits =
            HardLimits::parse("macs=1M, peak_memory=1GiB latency_us=300@1 latency_us=2e3@512")
                .unwrap();
        assert_eq!(limits.counted, Limits::parse("macs=1M").unwrap());
        assert_eq!(limits.peak_memory, Some(1 << 30));
        let at = |microseconds, batch| LatencyLimit { microseconds, batch };
        assert_eq!(limits.latency, [at(300.0, 1), at(2000.0, 512)]);
        assert!(HardLimits::parse(" ").unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (text, want) in [
            (
                "latency_us=5",
                "limit `latency_us` is `5`; needed: microseconds at rows of a batch such as 300@1",
            ),
            ("latency_us=0@1", "limit `latency_us` is `0@1`; needed"),
            ("latency_us=nan@1", "limit `latency_us` is `nan@1`; needed"),
            ("latency_us=5@0", "limit `latency_us` is `5@0`; needed"),
            ("latency_us=5@8 latency_us=6@8", "limit `latency_us` is given twice"),
            ("peak_memory=much", "limit `peak_memory` is `much`; needed: an amount of memory"),
            ("peak_memory=1G peak_memory=2G", "limit `peak_memory` is given twice"),
            ("peak_memroy=1G", "did you mean `peak_memory`?"),
            ("latency=1@1", "did you mean `latency_us`?"),
        ] {
            let error = HardLimits::parse(text).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
