//! Helpers of the tests.

use palmette_random::{ChaCha8Rng, Draw, stream};

use crate::{Element, Offsets, Real};

/// The random stream of a test.
pub(crate) fn random(test: &str, index: u64) -> ChaCha8Rng {
    stream(20_260, &format!("jagged/test/{test}"), index)
}

/// Standard normal values, rounded to the element type.
pub(crate) fn normal<T: Element>(rng: &mut ChaCha8Rng, count: usize) -> Vec<T> {
    (0..count).map(|_| T::narrow(T::Sum::of(rng.normal()))).collect()
}

/// Lengths that hit the borders of tiles, in random order, with empty rows.
pub(crate) fn border_lengths(rng: &mut ChaCha8Rng, longest: i64) -> Vec<i64> {
    let mut lengths = vec![0, 1, 63, 64, 65, longest, 0, 17];
    lengths.iter_mut().for_each(|length| *length = (*length).min(longest));
    rng.shuffle(&mut lengths);
    lengths
}

/// Offsets of the given lengths.
pub(crate) fn rows(lengths: &[i64]) -> Offsets {
    Offsets::from_lengths(lengths).unwrap()
}

/// `|found - expected| / |expected|` over all elements; NaN where one is NaN.
pub(crate) fn relative_error<T: Element>(found: &[T], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let (mut difference, mut norm) = (0.0, 0.0);
    for (f, e) in found.iter().zip(expected) {
        difference += (f.widen().to_f64() - e).powi(2);
        norm += e * e;
    }
    if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() }
}

/// `f64` values of any elements.
pub(crate) fn wide<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|x| x.widen().to_f64()).collect()
}

/// Central differences of `loss` at `x`, one element at a time, against `gradient`.
pub(crate) fn check_gradient(
    what: &str,
    x: &mut [f64],
    gradient: &[f64],
    mut loss: impl FnMut(&[f64]) -> f64,
) {
    let step = 1e-5;
    for i in 0..x.len() {
        let kept = x[i];
        x[i] = kept + step;
        let above = loss(x);
        x[i] = kept - step;
        let below = loss(x);
        x[i] = kept;
        let numeric = (above - below) / (2.0 * step);
        let error = (numeric - gradient[i]).abs();
        assert!(
            error < 1e-7 * (1.0 + numeric.abs()),
            "{what}[{i}]: {} by formula, {numeric}",
            gradient[i]
        );
    }
}
