//! One form for all drawings of a labelled directed graph.

/// The canonical code of a small labelled graph (at most about 20 nodes): equal for two graphs if
/// and only if renaming nodes turns one into the other.
///
/// `labels` are the nodes' labels (give the input and the output labels of their own), and
/// `edges[i][j]` is the label of the edge from i to j, 0 where there is none. Colours of nodes are
/// refined by their neighbours' colours until nothing changes; where nodes stay alike, each is
/// singled out in turn, and the smallest code wins. Nodes that can be exchanged without any
/// change (twins) are singled out once.
pub fn canonical_graph(labels: &[u32], edges: &[Vec<u32>]) -> Vec<u32> {
    let mut best: Option<Vec<u32>> = None;
    search(labels, edges, refine(edges, labels.to_vec()), &mut best);
    best.unwrap_or_default()
}

/// Renumbers colours by the sorted order of (colour, edges out with colours, edges in with colours).
fn refine(edges: &[Vec<u32>], mut colours: Vec<u32>) -> Vec<u32> {
    let n = colours.len();
    let mut classes = 0;
    loop {
        let signature = |i: usize| {
            let mut out: Vec<(u32, u32)> =
                (0..n).filter(|&j| edges[i][j] != 0).map(|j| (edges[i][j], colours[j])).collect();
            let mut into: Vec<(u32, u32)> =
                (0..n).filter(|&j| edges[j][i] != 0).map(|j| (edges[j][i], colours[j])).collect();
            out.sort_unstable();
            into.sort_unstable();
            (colours[i], out, into)
        };
        let signatures: Vec<_> = (0..n).map(signature).collect();
        let mut distinct = signatures.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let place = |s| distinct.binary_search(s).unwrap_or(0) as u32;
        colours = signatures.iter().map(place).collect();
        if distinct.len() == classes {
            return colours;
        }
        classes = distinct.len();
    }
}

fn search(labels: &[u32], edges: &[Vec<u32>], colours: Vec<u32>, best: &mut Option<Vec<u32>>) {
    let n = colours.len();
    let members = |colour: u32| (0..n).filter(|&i| colours[i] == colour).collect::<Vec<_>>();
    let Some(alike) = (0..n as u32).map(members).find(|class| class.len() > 1) else {
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by_key(|&i| colours[i]);
        let rows = order.iter().flat_map(|&i| order.iter().map(move |&j| edges[i][j]));
        let code: Vec<u32> = order.iter().map(|&i| labels[i]).chain(rows).collect();
        if best.as_ref().is_none_or(|best| code < *best) {
            *best = Some(code);
        }
        return;
    };
    let mut tried: Vec<usize> = Vec::new();
    for &node in &alike {
        if tried.iter().any(|&other| are_twins(edges, node, other)) {
            continue;
        }
        tried.push(node);
        // Colours are doubled so that the node gets one just below its class.
        let single = colours.iter().enumerate().map(|(i, &c)| 2 * c + u32::from(i != node));
        search(labels, edges, refine(edges, single.collect()), best);
    }
}

/// Whether exchanging two nodes of one colour changes no edge.
fn are_twins(edges: &[Vec<u32>], a: usize, b: usize) -> bool {
    edges[a][b] == edges[b][a]
        && edges[a][a] == edges[b][b]
        && (0..edges.len())
            .filter(|&k| k != a && k != b)
            .all(|k| edges[a][k] == edges[b][k] && edges[k][a] == edges[k][b])
}

/// Other drawings of an edge-labelled cell ([`SpaceBuilder::edge_dag`](crate::SpaceBuilder::edge_dag)):
/// genes under every renaming of inner nodes after which all edges still point forward. `absent` is
/// the gene of an edge that is not there. The drawing itself comes first; none comes twice.
pub fn edge_dag_isomorphs(genes: &[u32], absent: u32) -> Vec<Vec<u32>> {
    let nodes = (1..).find(|n| n * (n - 1) / 2 >= genes.len()).unwrap_or(1);
    let position = |from: usize, to: usize| to * (to - 1) / 2 + from;
    let mut found = vec![genes.to_vec()];
    let mut names: Vec<usize> = (0..nodes).collect();
    let last = nodes.saturating_sub(1);
    permute(&mut names, 1, last, &mut |names| {
        let mut renamed = vec![absent; genes.len()];
        for to in 1..nodes {
            for from in 0..to {
                let gene = genes[position(from, to)];
                if gene == absent {
                    continue;
                }
                if names[from] > names[to] {
                    return;
                }
                renamed[position(names[from], names[to])] = gene;
            }
        }
        if !found.contains(&renamed) {
            found.push(renamed);
        }
    });
    found
}

/// Calls `see` with every order of `items[start..end]`.
fn permute(items: &mut [usize], start: usize, end: usize, see: &mut impl FnMut(&[usize])) {
    if start + 1 >= end {
        return see(items);
    }
    for i in start..end {
        items.swap(start, i);
        permute(items, start + 1, end, see);
        items.swap(start, i);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palmette_random::{Draw, stream};

    type Graph = (Vec<u32>, Vec<Vec<u32>>);

    fn renamed((labels, edges): &Graph, names: &[usize]) -> Graph {
        let n = labels.len();
        let mut new = (vec![0; n], vec![vec![0; n]; n]);
        for i in 0..n {
            new.0[names[i]] = labels[i];
            for j in 0..n {
                new.1[names[i]][names[j]] = edges[i][j];
            }
        }
        new
    }

    fn brute_force(graph: &Graph) -> Graph {
        let mut names: Vec<usize> = (0..graph.0.len()).collect();
        let mut best = graph.clone();
        let end = names.len();
        permute(&mut names, 0, end, &mut |names| {
            best = best.clone().min(renamed(graph, names));
        });
        best
    }

    #[test]
    fn codes_agree_with_brute_force_over_all_renamings() {
        let graphs: Vec<Graph> = (0..400)
            .map(|i| {
                let mut rng = stream(1, "test/graphs", i);
                let n = 2 + rng.below(4) as usize;
                let labels = (0..n).map(|_| rng.below(2) as u32).collect();
                let mut edges = vec![vec![0; n]; n];
                for to in 1..n {
                    for from in 0..to {
                        edges[from][to] = rng.below(3).saturating_sub(1) as u32;
                    }
                }
                let mut names: Vec<usize> = (0..n).collect();
                rng.shuffle(&mut names);
                renamed(&(labels, edges), &names)
            })
            .collect();
        let codes: Vec<Vec<u32>> = graphs.iter().map(|g| canonical_graph(&g.0, &g.1)).collect();
        let truths: Vec<Graph> = graphs.iter().map(brute_force).collect();
        let mut equal = 0;
        for i in 0..graphs.len() {
            for j in 0..i {
                let same = truths[i] == truths[j];
                assert_eq!(codes[i] == codes[j], same, "{:?} {:?}", graphs[i], graphs[j]);
                equal += usize::from(same);
            }
        }
        assert!(equal > 100, "{equal}");
    }

    #[test]
    fn symmetric_graphs_take_no_time() {
        // 18 twins between an input and an output: 18! orders, one of which is looked at.
        let n = 20;
        let mut edges = vec![vec![0; n]; n];
        for i in 1..n - 1 {
            edges[0][i] = 1;
            edges[i][n - 1] = 1;
        }
        let mut labels = vec![1; n];
        labels[0] = 0;
        labels[n - 1] = 2;
        assert_eq!(canonical_graph(&labels, &edges).len(), n + n * n);
    }

    #[derive(serde::Deserialize)]
    struct Nauty {
        nas_bench_201: Cells,
        graphs: Vec<Listed>,
    }

    #[derive(serde::Deserialize)]
    struct Cells {
        classes: usize,
        checksum: u64,
    }

    #[derive(serde::Deserialize)]
    struct Listed {
        labels: Vec<u32>,
        edges: String,
        class: usize,
    }

    /// What nauty finds (`oracle/graphs.py`).
    fn nauty() -> Nauty {
        serde_json::from_str(include_str!("nauty.json")).unwrap()
    }

    #[test]
    fn random_and_regular_graphs_have_nautys_classes() {
        let mut codes: Vec<(usize, Vec<u32>)> = Vec::new();
        for Listed { labels, edges, class } in nauty().graphs {
            let edges: Vec<u32> = edges.chars().filter_map(|c| c.to_digit(10)).collect();
            let edges: Vec<Vec<u32>> = edges.chunks(labels.len()).map(<[u32]>::to_vec).collect();
            codes.push((class, canonical_graph(&labels, &edges)));
        }
        assert_eq!(codes.len(), 244);
        for (i, (class, code)) in codes.iter().enumerate() {
            for (other_class, other) in &codes[..i] {
                assert_eq!(code == other, class == other_class, "classes {class}, {other_class}");
            }
        }
    }

    #[test]
    fn nas_bench_201_has_nautys_14125_labelled_classes() {
        let mut first = std::collections::HashMap::new();
        let mut checksum = 0;
        for cell in 0..15_625u32 {
            let genes: Vec<u32> = (0..6).map(|i| cell / 5u32.pow(i) % 5).collect();
            let mut edges = vec![vec![0; 4]; 4];
            for (position, &gene) in genes.iter().enumerate() {
                let (from, to) = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)][position];
                edges[from][to] = gene;
            }
            let code = canonical_graph(&[0, 1, 1, 2], &edges);
            for isomorph in edge_dag_isomorphs(&genes, 0) {
                let swapped = isomorph != genes;
                assert!(!swapped || genes[2] == 0);
            }
            let representative = *first.entry(code).or_insert(cell);
            checksum =
                (checksum + u64::from(cell + 1) * u64::from(representative)) % ((1 << 61) - 1);
        }
        let nauty = nauty().nas_bench_201;
        assert_eq!((first.len(), checksum), (nauty.classes, nauty.checksum));
        assert_eq!(first.len(), 14_125);
    }

    #[test]
    fn isomorphs_swap_inner_nodes() {
        // 0->1 a, 0->2 b, no 1->2, 0->3 c, 1->3 d, 2->3 e.
        assert_eq!(
            edge_dag_isomorphs(&[1, 2, 0, 3, 4, 5], 0),
            [vec![1, 2, 0, 3, 4, 5], vec![2, 1, 0, 3, 5, 4]]
        );
        assert_eq!(edge_dag_isomorphs(&[1, 2, 3, 3, 4, 5], 0).len(), 1);
    }
}
