use palmette_random::{Draw, stream};
use palmette_space::{Domain, Genotype, SpaceError, Subspace};

/// A uniform part of `members` of this size.
pub fn random_subset(
    domain: &dyn Domain,
    members: &[Genotype],
    size: usize,
    seed: u64,
) -> Result<Subspace, SpaceError> {
    let mut rng = stream(seed, "shrink/random", 0);
    let drawn = rng.distinct(members.len(), size).into_iter();
    Subspace::new(domain.space().clone(), drawn.map(|i| members[i].clone()).collect())
}

/// Operator pruning: the (choice, value) with the worst marginal mean over the evaluations is
/// dropped, again and again, until at most `size` of `members` are left. A choice keeps one value.
pub fn operator_pruning(
    domain: &dyn Domain,
    members: &[Genotype],
    evaluations: &[(Genotype, f64)],
    size: usize,
) -> Result<Subspace, SpaceError> {
    let mut left: Vec<&Genotype> = members.iter().collect();
    let choices = domain.space().choices().len();
    while left.len() > size {
        let mut worst: Option<(f64, usize, u32)> = None;
        for choice in 0..choices {
            let mut values: Vec<u32> = left.iter().map(|member| member.genes()[choice]).collect();
            values.sort_unstable();
            values.dedup();
            if values.len() < 2 {
                continue;
            }
            for value in values {
                let having = evaluations.iter().filter(|e| e.0.genes()[choice] == value);
                let (sum, count) = having.fold((0.0, 0.0), |(s, c), e| (s + e.1, c + 1.0));
                let mean = if count > 0.0 { sum / count } else { f64::NEG_INFINITY };
                if worst.is_none_or(|(least, _, _)| mean < least) {
                    worst = Some((mean, choice, value));
                }
            }
        }
        let Some((_, choice, value)) = worst else { break };
        left.retain(|member| member.genes()[choice] != value);
    }
    Subspace::new(domain.space().clone(), left.into_iter().cloned().collect())
}

/// One region: the `size` members nearest to the best evaluated genotype (by Hamming distance,
/// then by genes).
pub fn one_region(
    domain: &dyn Domain,
    members: &[Genotype],
    evaluations: &[(Genotype, f64)],
    size: usize,
) -> Result<Subspace, SpaceError> {
    let space = domain.space();
    let best = evaluations
        .iter()
        .max_by(|a, b| a.1.total_cmp(&b.1).then_with(|| b.0.cmp(&a.0)))
        .map(|(genotype, _)| genotype);
    let mut nearest: Vec<(usize, &Genotype)> = members
        .iter()
        .map(|member| (best.map_or(0, |best| space.hamming(best, member)), member))
        .collect();
    nearest.sort();
    Subspace::new(
        space.clone(),
        nearest.into_iter().take(size).map(|(_, member)| member.clone()).collect(),
    )
}
