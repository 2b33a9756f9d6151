//! Axes: numbers to coordinates, and round numbers to label them with.

/// Maps numbers to coordinates.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    logarithmic: bool,
}

impl Scale {
    /// A linear scale over `values` with a little room at both ends.
    pub fn linear(values: impl IntoIterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = span(values);
        let room = if high > low { 0.06 * (high - low) } else { low.abs().max(1e-6) * 0.1 };
        Self { low: low - room, high: high + room, from, to, logarithmic: false }
    }

    /// A linear scale between two numbers.
    pub fn between(low: f64, high: f64, from: f64, to: f64) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self { low, high, from, to, logarithmic: false }
    }

    /// A logarithmic scale over positive values.
    pub fn logarithmic(values: impl IntoIterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = span(values.into_iter().filter(|&v| v > 0.0).map(f64::ln));
        let room = 0.06 * (high - low) + 0.05;
        Self { low: low - room, high: high + room, from, to, logarithmic: true }
    }

    /// Coordinate of a number.
    pub fn at(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.ln() } else { value };
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// About `count` round numbers inside the scale.
    pub fn ticks(&self, count: usize) -> Vec<f64> {
        if self.logarithmic {
            return self.decades(count);
        }
        evenly(self.low, self.high, count)
    }

    /// 1, 2 and 5 times powers of ten, thinned to powers of ten where these are enough; evenly
    /// spaced numbers where a scale spans too little to hold three of them.
    fn decades(&self, count: usize) -> Vec<f64> {
        let (low, high) = (self.low.exp(), self.high.exp());
        let exponents = low.log10().floor() as i32..=high.log10().ceil() as i32;
        let of = |steps: &[f64]| -> Vec<f64> {
            let all = exponents.clone().flat_map(|e| steps.iter().map(move |s| s * 10f64.powi(e)));
            all.filter(|v| (low..=high).contains(v)).collect()
        };
        let powers = of(&[1.0]);
        if powers.len() >= count.min(4) {
            return powers;
        }
        let fine = of(&[1.0, 2.0, 5.0]);
        if fine.len() >= 3 { fine } else { evenly(low, high, count) }
    }

    /// Decimals that tell the ticks of a linear scale apart.
    pub fn decimals(&self, count: usize) -> usize {
        let step = round_step((self.high - self.low) / count.max(1) as f64);
        (-step.log10().floor()).clamp(0.0, 8.0) as usize
    }
}

/// Least and greatest finite value; 0 and 1 where there is none.
fn span(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let finite = values.into_iter().filter(|v| v.is_finite());
    let (low, high) =
        finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high { (0.0, 1.0) } else { (low, high) }
}

/// About `count` multiples of a round step between two numbers.
fn evenly(low: f64, high: f64, count: usize) -> Vec<f64> {
    let step = round_step((high - low) / count.max(1) as f64);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last).map(|i| i as f64 * step).collect()
}

/// 1, 2 or 5 times a power of ten, at least `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let rest = step / power;
    let factor = if rest <= 1.0 + 1e-9 {
        1.0
    } else if rest <= 2.0 {
        2.0
    } else if rest <= 5.0 {
        5.0
    } else {
        10.0
    };
    factor * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let check = |low: f64, high: f64, expect: &[f64]| {
            let ticks = Scale::between(low, high, 0.0, 100.0).ticks(4);
            assert_eq!(ticks.len(), expect.len(), "{ticks:?}");
            assert!(ticks.iter().zip(expect).all(|(a, b)| (a - b).abs() < 1e-9), "{ticks:?}");
        };
        check(0.0, 1.0, &[0.0, 0.5, 1.0]);
        check(0.4471, 0.4509, &[0.448, 0.449, 0.45]);
        check(-3.0, 17.0, &[0.0, 5.0, 10.0, 15.0]);
    }

    #[test]
    fn degenerate_spans_still_have_a_place() {
        for scale in [
            Scale::linear([2.0], 0.0, 10.0),
            Scale::linear([], 0.0, 10.0),
            Scale::linear([f64::NAN, 0.0], 0.0, 10.0),
            Scale::logarithmic([5.0], 0.0, 10.0),
            Scale::between(1.0, 1.0, 0.0, 10.0),
        ] {
            assert!(scale.at(2.0).is_finite() && scale.ticks(4).len() < 40, "{scale:?}");
        }
        assert!((Scale::linear([2.0], 0.0, 10.0).at(2.0) - 5.0).abs() < 1e-9);
    }

    #[test]
    fn logarithmic_ticks() {
        let scale = Scale::logarithmic([1e3, 1e7], 0.0, 100.0);
        assert_eq!(scale.ticks(4), [1e3, 1e4, 1e5, 1e6, 1e7]);
        assert!((scale.at(1e5) - 50.0).abs() < 1e-9);
        let narrow = Scale::logarithmic([17.2, 33.4], 0.0, 100.0);
        assert_eq!(narrow.ticks(4), [20.0, 30.0]);
        let narrower = Scale::logarithmic([17.2, 20.4], 0.0, 100.0);
        assert_eq!(narrower.ticks(4), [18.0, 20.0]);
    }
}
