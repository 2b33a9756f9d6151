//! Time by the clock: stretches in which units ran, each counted once.

use serde_json::Value;

/// Stretches of time in which any unit ran, in seconds since 1970. Units that ran side by side
/// cover the same stretch, and pauses between two processes of one run are none.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock {
    /// Apart from each other, in order.
    stretches: Vec<(f64, f64)>,
}

impl Clock {
    /// Adds the stretch of an event: it ended when it was written and took its seconds.
    pub fn add(&mut self, event: &Value) {
        let time = &event["time"];
        let (Some(end), Some(seconds)) = (time["at"].as_f64(), time["seconds"].as_f64()) else {
            return;
        };
        let mut new = (end - seconds.max(0.0), end);
        self.stretches.retain(|&(from, to)| {
            let apart = to < new.0 || new.1 < from;
            if !apart {
                new = (new.0.min(from), new.1.max(to));
            }
            apart
        });
        let place = self.stretches.partition_point(|stretch| stretch.0 < new.0);
        self.stretches.insert(place, new);
    }

    /// Seconds covered.
    pub fn seconds(&self) -> f64 {
        self.stretches.iter().map(|(from, to)| to - from).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_side_by_side_count_once_and_pauses_not_at_all() {
        let mut clock = Clock::default();
        let event =
            |at: f64, seconds: f64| serde_json::json!({ "time": { "at": at, "seconds": seconds } });
        // Two units from 100 to 110 and from 102 to 112, then one after a pause.
        for (at, seconds) in [(110.0, 10.0), (112.0, 10.0), (200.0, 5.0)] {
            clock.add(&event(at, seconds));
        }
        assert!((clock.seconds() - 17.0).abs() < 1e-9);
        // One that covers all of them, and one without a time.
        clock.add(&event(201.0, 103.0));
        clock.add(&Value::Null);
        assert!((clock.seconds() - 103.0).abs() < 1e-9);
    }
}
