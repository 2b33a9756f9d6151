//! Several objectives at once; lower is better in all of them.

/// Whether `a` is nowhere worse than `b` and somewhere better.
pub fn dominates(a: &[f64], b: &[f64]) -> bool {
    a.iter().zip(b).all(|(x, y)| x <= y) && a.iter().zip(b).any(|(x, y)| x < y)
}

/// Fronts by non-dominated sorting (Deb et al., 2002): rank 0 is dominated by nobody.
pub fn pareto_ranks(points: &[&[f64]]) -> Vec<usize> {
    let n = points.len();
    let mut dominated: Vec<Vec<usize>> = vec![Vec::new(); n];
    let mut dominators = vec![0usize; n];
    for i in 0..n {
        for j in 0..n {
            if dominates(points[i], points[j]) {
                dominated[i].push(j);
                dominators[j] += 1;
            }
        }
    }
    let mut ranks = vec![0; n];
    let mut front: Vec<usize> = (0..n).filter(|&i| dominators[i] == 0).collect();
    let mut rank = 0;
    while !front.is_empty() {
        let mut next = Vec::new();
        for &i in &front {
            ranks[i] = rank;
            for &j in &dominated[i] {
                dominators[j] -= 1;
                if dominators[j] == 0 {
                    next.push(j);
                }
            }
        }
        rank += 1;
        front = next;
    }
    ranks
}

/// Crowding distance of each point among `points`: infinite at the ends of every objective.
pub fn crowding_distances(points: &[&[f64]]) -> Vec<f64> {
    let mut distances = vec![0.0; points.len()];
    for objective in 0..points.first().map_or(0, |point| point.len()) {
        let mut order: Vec<usize> = (0..points.len()).collect();
        order.sort_by(|&a, &b| points[a][objective].total_cmp(&points[b][objective]));
        let (first, last) = (order[0], order[order.len() - 1]);
        let range = points[last][objective] - points[first][objective];
        distances[first] = f64::INFINITY;
        distances[last] = f64::INFINITY;
        if range > 0.0 {
            for window in order.windows(3) {
                let gap = points[window[2]][objective] - points[window[0]][objective];
                distances[window[1]] += gap / range;
            }
        }
    }
    distances
}

/// Positions from best to worst: by rank, then by falling crowding distance within the rank, then
/// by position.
pub fn pareto_order(points: &[&[f64]]) -> Vec<usize> {
    let ranks = pareto_ranks(points);
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by_key(|&i| ranks[i]);
    let mut sorted = Vec::with_capacity(points.len());
    for front in order.chunk_by(|&a, &b| ranks[a] == ranks[b]) {
        let members: Vec<&[f64]> = front.iter().map(|&i| points[i]).collect();
        let crowding = crowding_distances(&members);
        let mut within: Vec<usize> = (0..front.len()).collect();
        within.sort_by(|&a, &b| crowding[b].total_cmp(&crowding[a]).then(front[a].cmp(&front[b])));
        sorted.extend(within.into_iter().map(|i| front[i]));
    }
    sorted
}

/// Hypervolume of two objectives: the area dominated by `points` below `reference`.
pub fn hypervolume(points: &[[f64; 2]], reference: [f64; 2]) -> f64 {
    let mut inside: Vec<[f64; 2]> =
        points.iter().copied().filter(|p| p[0] < reference[0] && p[1] < reference[1]).collect();
    inside.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    let mut area = 0.0;
    let mut lowest = reference[1];
    for [x, y] in inside {
        if y < lowest {
            area += (reference[0] - x) * (lowest - y);
            lowest = y;
        }
    }
    area
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranks_agree_with_peeling(points in proptest::collection::vec((0i8..6, 0i8..6), 1..30)) {
            let points: Vec<[f64; 2]> =
                points.iter().map(|p| [f64::from(p.0), f64::from(p.1)]).collect();
            let slices: Vec<&[f64]> = points.iter().map(|p| &p[..]).collect();
            let mut want = vec![usize::MAX; points.len()];
            for rank in 0.. {
                let left: Vec<usize> =
                    (0..points.len()).filter(|&i| want[i] == usize::MAX).collect();
                if left.is_empty() {
                    break;
                }
                for &i in &left {
                    if !left.iter().any(|&j| dominates(&points[j], &points[i])) {
                        want[i] = rank;
                    }
                }
            }
            prop_assert_eq!(pareto_ranks(&slices), want);
        }

        #[test]
        fn hypervolume_agrees_with_counting(
            points in proptest::collection::vec((0i8..9, 0i8..9), 0..12)
        ) {
            let floats: Vec<[f64; 2]> =
                points.iter().map(|p| [f64::from(p.0), f64::from(p.1)]).collect();
            // Unit squares whose lower left corner is dominated.
            let squares = (0..8i8)
                .flat_map(|x| (0..8i8).map(move |y| (x, y)))
                .filter(|&(x, y)| points.iter().any(|p| p.0 <= x && p.1 <= y))
                .count();
            prop_assert_eq!(hypervolume(&floats, [8.0, 8.0]), squares as f64);
        }
    }

    #[test]
    fn order_prefers_ends_of_a_front() {
        let points: [&[f64]; 5] = [&[0.0, 4.0], &[4.0, 0.0], &[1.0, 1.0], &[1.1, 0.9], &[5.0, 5.0]];
        // Sides: 0.275 + 0.775 for the third point, 0.75 + 0.25 for the fourth.
        assert_eq!(pareto_order(&points), [0, 1, 2, 3, 4]);
        assert_eq!(pareto_order(&[&[2.0], &[1.0], &[3.0]]), [1, 0, 2]);
    }
}
