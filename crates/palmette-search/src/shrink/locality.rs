use palmette_random::{Draw, stream};
use palmette_space::{Domain, Genotype, Space};

use crate::pearson;

/// Autocorrelation of a quality by Hamming distance 1, 2, .. over all pairs of a listed space:
/// the correlation of the values of two genotypes at that distance.
///
/// Exact, so quadratic: 15,625 genotypes are 122 million pairs.
pub fn autocorrelation(space: &Space, genotypes: &[Genotype], values: &[f64]) -> Vec<f64> {
    let slots = space.choices().len();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    let mut products = vec![0.0; slots + 1];
    let mut pairs = vec![0u64; slots + 1];
    for (i, a) in genotypes.iter().enumerate() {
        for (j, b) in genotypes[..i].iter().enumerate() {
            let distance = a.genes().iter().zip(b.genes()).filter(|(x, y)| x != y).count();
            products[distance] += (values[i] - mean) * (values[j] - mean);
            pairs[distance] += 1;
        }
    }
    (1..=slots).map(|d| products[d] / pairs[d] as f64 / variance).collect()
}

/// The correlation between genotypes and one random neighbour each, from evaluations alone: the
/// locality gate's estimate. Returns the neighbours with their qualities too.
pub fn neighbour_correlation(
    domain: &dyn Domain,
    known: &[(Genotype, f64)],
    seed: u64,
    evaluate: &mut dyn FnMut(&Genotype) -> Option<f64>,
) -> (f64, Vec<(Genotype, f64)>) {
    let (mut left, mut right, mut found) = (Vec::new(), Vec::new(), Vec::new());
    for (i, (genotype, quality)) in known.iter().enumerate() {
        let mut rng = stream(seed, "shrink/gate", i as u64);
        let near = domain.neighbours(genotype);
        if near.is_empty() {
            continue;
        }
        let neighbour = &near[rng.below(near.len() as u64) as usize];
        if let Some(other) = evaluate(neighbour) {
            left.push(*quality);
            right.push(other);
            found.push((neighbour.clone(), other));
        }
    }
    // Both orders, so that the estimate is symmetric as the relation is.
    let (mut x, mut y) = (left.clone(), right.clone());
    x.extend_from_slice(&right);
    y.extend_from_slice(&left);
    (pearson(&x, &y), found)
}
