use std::collections::HashMap;

use palmette_space::{Domain, Genotype, Space, Subspace};
use serde::Serialize;

/// How good a smaller space is, judged with the whole table.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ShrinkReport {
    /// Members.
    pub size: usize,
    /// Members over the full size.
    pub size_ratio: f64,
    /// Mean quality of the members.
    pub mean: f64,
    /// Share of members in the top 1 % of the full space.
    pub density: f64,
    /// Share of the top 1 % that are members.
    pub recall: f64,
    /// Best quality of the full space minus the best member's.
    pub regret: f64,
    /// Mean pairwise Hamming distance of members over that of the full space.
    pub diversity: f64,
    /// Connected components under single edits.
    pub pockets: usize,
    /// log(density / 0.01) / log(1 / size ratio): 1 if every genotype that left was bad.
    pub shrink_index: f64,
}

/// Judges a part of a listed space; `genotypes` and `values` are the full space.
pub fn shrink_report(part: &Subspace, genotypes: &[Genotype], values: &[f64]) -> ShrinkReport {
    let position: HashMap<&Genotype, usize> =
        genotypes.iter().enumerate().map(|(i, genotype)| (genotype, i)).collect();
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    let top = (values.len() as f64 * 0.01).round().max(1.0) as usize;
    let mut is_top = vec![false; values.len()];
    order.iter().take(top).for_each(|&i| is_top[i] = true);
    let rows: Vec<usize> = part.members().iter().filter_map(|m| position.get(m).copied()).collect();
    let size = rows.len();
    let hits = rows.iter().filter(|&&row| is_top[row]).count() as f64;
    let best = rows.iter().map(|&row| values[row]).fold(f64::NEG_INFINITY, f64::max);
    let size_ratio = size as f64 / values.len() as f64;
    let density = hits / size as f64;
    let full_density = top as f64 / values.len() as f64;
    ShrinkReport {
        size,
        size_ratio,
        mean: rows.iter().map(|&row| values[row]).sum::<f64>() / size as f64,
        density,
        recall: hits / top as f64,
        regret: values[order[0]] - best,
        diversity: mean_hamming(part.space(), part.members())
            / mean_hamming(part.space(), genotypes),
        pockets: part.pockets(),
        shrink_index: (density / full_density).ln() / (1.0 / size_ratio).ln(),
    }
}

/// Mean Hamming distance of pairs, choice by choice from the counts of values.
fn mean_hamming(space: &Space, members: &[Genotype]) -> f64 {
    let n = members.len() as f64;
    let pairs = n * (n - 1.0) / 2.0;
    (0..space.choices().len())
        .map(|choice| {
            let mut counts: HashMap<u32, f64> = HashMap::new();
            for member in members {
                *counts.entry(member.genes()[choice]).or_default() += 1.0;
            }
            // Counts are whole numbers, so the order of the sum changes nothing.
            let same: f64 = counts.values().map(|count| count * (count - 1.0) / 2.0).sum();
            1.0 - same / pairs
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_by_hand() {
        let mut builder = Space::builder("square");
        builder.integer("x", 0, 9);
        builder.integer("y", 0, 9);
        let space = builder.finish().unwrap();
        let all = space.enumerate(100).unwrap();
        let values: Vec<f64> =
            all.iter().map(|g| f64::from(10 * g.genes()[1] + g.genes()[0])).collect();
        // Top 1 % is (9, 9) alone.
        let members = [[9, 9], [8, 9], [0, 0], [0, 1]].map(Genotype::new).to_vec();
        let part = Subspace::new(space, members).unwrap();
        let report = shrink_report(&part, &all, &values);
        assert_eq!((report.size, report.pockets, report.regret), (4, 2, 0.0));
        assert_eq!((report.density, report.recall, report.mean), (0.25, 1.0, 51.75));
        // Members differ in x in 5 of 6 pairs and in y in 5 of 6; all, in 90 of 99 pairs each.
        assert!((report.diversity - (10.0 / 6.0) / (2.0 * 90.0 / 99.0)).abs() < 1e-12);
        assert!((report.shrink_index - 25f64.ln() / 25f64.ln()).abs() < 1e-12);
    }
}
