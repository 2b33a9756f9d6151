use crate::{ChoiceId, SpaceBuilder};

/// The choices of a directed acyclic graph with operators on its edges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeDag {
    /// One choice per edge, in the order 0->1 | 0->2, 1->2 | 0->3, 1->3, 2->3 ...
    pub edges: Vec<ChoiceId>,
}

/// The choices of a directed acyclic graph with operators on its nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeDag {
    /// Operator of each inner node.
    pub operators: Vec<ChoiceId>,
    /// Sources of each inner node, a subset of the input and the inner nodes before it.
    pub sources: Vec<ChoiceId>,
}

impl SpaceBuilder {
    /// A cell of `nodes` nodes in which every pair i < j is joined by one of `operators`
    /// (NAS-Bench-201's has 4 nodes; "none" is an operator like any other).
    pub fn edge_dag<S: AsRef<str>>(&mut self, nodes: usize, operators: &[S]) -> EdgeDag {
        let edges = (1..nodes)
            .flat_map(|to| (0..to).map(move |from| (from, to)))
            .map(|(from, to)| self.one_of(&format!("edge.{from}.{to}"), operators))
            .collect();
        EdgeDag { edges }
    }

    /// A cell of `nodes` inner nodes, each with one of `operators` and 1 to `max_sources` sources
    /// among the input (item `0`) and the inner nodes before it (items `1`, `2`, ...).
    pub fn node_dag<S: AsRef<str>>(
        &mut self,
        nodes: usize,
        operators: &[S],
        max_sources: usize,
    ) -> NodeDag {
        let mut dag = NodeDag { operators: Vec::new(), sources: Vec::new() };
        self.repeat("node", nodes, |builder, i| {
            dag.operators.push(builder.one_of("operator", operators));
            let items: Vec<String> = (0..i).map(|j| j.to_string()).collect();
            dag.sources.push(builder.subset("sources", &items, 1, max_sources.min(i)));
        });
        dag
    }
}
