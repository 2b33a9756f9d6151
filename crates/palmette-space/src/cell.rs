//! What networks of edge-labelled cells have in common beyond their genes.

use serde::{Deserialize, Serialize};

use crate::{ChoiceId, Genotype, Space, key_of};

/// Choices that are the edges of a cell ([`SpaceBuilder::edge_cell`](crate::SpaceBuilder::edge_cell)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeCell {
    /// One choice per edge, in the order 0->1 | 0->2, 1->2 | 0->3, 1->3, 2->3 ...
    pub edges: Vec<ChoiceId>,
    /// The gene of an edge that is not there.
    pub absent: u32,
    /// The gene of an edge that changes nothing, if there is one.
    pub identity: Option<u32>,
}

impl EdgeCell {
    fn genes(&self, genotype: &Genotype) -> Vec<u32> {
        self.edges.iter().map(|edge| genotype.genes()[edge.0]).collect()
    }
}

impl Space {
    /// The genotype with every edge that lies on no path through its cell absent: the same network
    /// in a form that predictors compare better.
    pub fn pruned(&self, genotype: &Genotype) -> Genotype {
        let mut pruned = genotype.clone();
        for cell in self.cells() {
            let genes = edge_dag_pruned(&cell.genes(genotype), cell.absent);
            for (edge, gene) in cell.edges.iter().zip(genes) {
                pruned.genes_mut()[edge.0] = gene;
            }
        }
        pruned
    }

    /// Hashes of the operators along every path through every cell, sorted; none without cells.
    pub fn paths(&self, genotype: &Genotype) -> Vec<u64> {
        let mut hashes = Vec::new();
        for (number, cell) in self.cells().iter().enumerate() {
            for mut path in edge_dag_paths(&cell.genes(genotype), cell.absent, cell.identity) {
                path.push(number as u32);
                hashes.push(key_of(&path) as u64);
            }
        }
        hashes.sort_unstable();
        hashes
    }

    /// All drawings of the network: its genotype, then those with the inner nodes of a cell in
    /// another order. The genotype alone without cells.
    pub fn isomorphs(&self, genotype: &Genotype) -> Vec<Genotype> {
        let mut drawings = vec![genotype.clone()];
        for cell in self.cells() {
            let known = std::mem::take(&mut drawings);
            for drawing in known {
                for genes in crate::edge_dag_isomorphs(&cell.genes(&drawing), cell.absent) {
                    let mut other = drawing.clone();
                    for (edge, gene) in cell.edges.iter().zip(genes) {
                        other.genes_mut()[edge.0] = gene;
                    }
                    drawings.push(other);
                }
            }
        }
        drawings
    }
}

/// The same cell without what does nothing: every edge that lies on no path from the first node to
/// the last becomes `absent`.
pub fn edge_dag_pruned(genes: &[u32], absent: u32) -> Vec<u32> {
    let edges = edges_of(genes.len());
    let last = edges.last().map_or(0, |edge| edge.1);
    let present = || edges.iter().zip(genes).filter(|(_, gene)| **gene != absent);
    let mut from_first = vec![false; last + 1];
    from_first[0] = true;
    // Edges are sorted by where they lead, so one pass in order is enough, and one backwards.
    present().for_each(|((from, to), _)| from_first[*to] |= from_first[*from]);
    let mut to_last = vec![false; last + 1];
    to_last[last] = true;
    for from in (0..last).rev() {
        to_last[from] = present().any(|((a, b), _)| *a == from && to_last[*b]);
    }
    let on_path = |(from, to): &(usize, usize)| from_first[*from] && to_last[*to];
    edges.iter().zip(genes).map(|(edge, &gene)| if on_path(edge) { gene } else { absent }).collect()
}

/// The operators along every path from the first node to the last, sorted: the path encoding of
/// BANANAS (White et al., 1910.11858) with repeats. `identity` is an operator that changes nothing
/// and is left out of paths. Isomorphic cells have equal paths.
pub fn edge_dag_paths(genes: &[u32], absent: u32, identity: Option<u32>) -> Vec<Vec<u32>> {
    let edges = edges_of(genes.len());
    let last = edges.last().map_or(0, |edge| edge.1);
    let mut found = Vec::new();
    let mut open: Vec<(usize, Vec<u32>)> = vec![(0, Vec::new())];
    while let Some((node, path)) = open.pop() {
        if node == last {
            found.push(path);
            continue;
        }
        for ((_, to), &gene) in edges.iter().zip(genes).filter(|((from, _), _)| *from == node) {
            if gene != absent {
                let operator = (Some(gene) != identity).then_some(gene);
                open.push((*to, path.iter().copied().chain(operator).collect()));
            }
        }
    }
    found.sort_unstable();
    found
}

/// The edges (from, to) in the order of the genes.
fn edges_of(genes: usize) -> Vec<(usize, usize)> {
    (1..).flat_map(|to| (0..to).map(move |from| (from, to))).take(genes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge_dag_isomorphs;
    use palmette_random::{Draw, stream};

    #[test]
    fn dead_edges_go_and_paths_stay() {
        // 0->1 a, 0->2 b, no 1->2, 0->3 identity, no 1->3, 2->3 e: node 1 leads nowhere.
        let genes = [2, 3, 0, 1, 0, 4];
        assert_eq!(edge_dag_pruned(&genes, 0), [0, 3, 0, 1, 0, 4]);
        assert_eq!(edge_dag_paths(&genes, 0, Some(1)), [vec![], vec![3, 4]]);
        assert_eq!(edge_dag_paths(&genes, 0, None), [vec![1], vec![3, 4]]);
        assert_eq!(edge_dag_pruned(&[2, 0, 2, 0, 0, 0], 0), [0; 6]);
        assert!(edge_dag_paths(&[2, 0, 2, 0, 0, 0], 0, None).is_empty());
    }

    #[test]
    fn isomorphs_have_equal_paths_and_pruning_keeps_paths() {
        for i in 0..2_000 {
            let mut rng = stream(2, "test/paths", i);
            // Five nodes; absent (0) twice as likely as each operator.
            let genes: Vec<u32> =
                (0..10).map(|_| (rng.below(5) as u32).saturating_sub(1)).collect();
            let paths = edge_dag_paths(&genes, 0, Some(1));
            for isomorph in edge_dag_isomorphs(&genes, 0) {
                assert_eq!(edge_dag_paths(&isomorph, 0, Some(1)), paths);
            }
            let pruned = edge_dag_pruned(&genes, 0);
            assert_eq!(edge_dag_paths(&pruned, 0, Some(1)), paths);
            // Every edge that is left matters: without it there are fewer paths.
            for edge in (0..10).filter(|&edge| pruned[edge] != 0) {
                let mut cut = pruned.clone();
                cut[edge] = 0;
                assert!(edge_dag_paths(&cut, 0, Some(1)).len() < paths.len());
            }
        }
    }

    #[test]
    fn a_space_knows_its_cells() {
        let mut builder = Space::builder("two cells");
        builder.integer("width", 1, 4);
        let operators = ["none", "skip", "conv"];
        let cell = builder.repeat("cell", 2, |builder, _| builder.edge_dag(3, &operators));
        cell.iter().for_each(|cell| builder.edge_cell(cell, "none", Some("skip")));
        let space = builder.finish().unwrap();
        // The first cell is conv 0->1 that leads nowhere beside a skip; the second one conv 0->2.
        let genotype = Genotype::new([3, 2, 1, 0, 0, 2, 0]);
        assert_eq!(space.pruned(&genotype), Genotype::new([3, 0, 1, 0, 0, 2, 0]));
        assert_eq!(space.paths(&genotype), space.paths(&space.pruned(&genotype)));
        assert_eq!(space.paths(&genotype).len(), 2);
        assert_eq!(space.isomorphs(&genotype), std::slice::from_ref(&genotype));
        let again: Space = serde_json::from_str(&serde_json::to_string(&space).unwrap()).unwrap();
        assert_eq!(again, space);
        let mut builder = Space::builder("bad");
        let cell = builder.edge_dag(3, &operators);
        builder.edge_cell(&cell, "nothing", None);
        let error = builder.finish().unwrap_err().to_string();
        assert!(error.contains("`nothing`") && error.contains("none, skip, conv"), "{error}");
    }
}
