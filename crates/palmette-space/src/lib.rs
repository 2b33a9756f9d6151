/*!
Search spaces: a language of named choices, and what can be done with them.

A [`Space`] is a list of named choices. A choice is *one of* several options, a
*subset* of items within size limits, or an *integer* in a range; it may be
conditional on an earlier choice, and builders repeat groups of choices and
write directed acyclic graphs. One answer to every choice is a [`Genotype`]:
one small integer (an option's index, a bit mask, an offset) per choice, so
that a strategy can copy, hash and compare candidates at millions a second.

The crate knows no tensors, data or strategies. It samples uniformly (or from
the caller's distribution), mutates by a tree of groups, lists neighbours,
measures distance, encodes, counts, and reads and writes JSON by name.
A [`Domain`] is what a strategy searches: a space, plus what only its owner
knows (which genotypes are the same network, which are within limits).

```
use palmette_random::stream;
use palmette_space::{Domain, Space};

let mut builder = Space::builder("toy");
let operator = builder.one_of("operator", &["convolution", "attention"]);
let heads = builder.integer("heads", 1, 8);
builder.only_if(heads, operator, &["attention"]);
builder.subset("sources", &["input", "stem", "block"], 1, 2);
let space = builder.finish()?;

// A convolution or one of eight attentions, times 3 + 3 subsets.
assert_eq!(space.cardinality().exact(), Some(9 * 6));

let genotype = space.sample(&mut stream(7, "doc", 0));
space.check(&genotype)?;
let text = space.to_json(&genotype).to_string();
assert_eq!(space.from_json(&text)?, genotype);
for neighbour in space.neighbours(&genotype) {
    assert_eq!(space.hamming(&genotype, &neighbour), 1);
}
# Ok::<(), palmette_space::SpaceError>(())
```
*/

mod build;
mod cardinality;
mod cell;
mod choice;
mod dag;
mod dag_canonical;
mod domain;
mod encode;
mod enumerate;
mod error;
mod genotype;
mod json;
mod mutate;
mod neighbours;
mod sample;
mod space;
mod subspace;
#[cfg(test)]
mod tests;

pub use build::SpaceBuilder;
pub use cardinality::Cardinality;
pub use cell::{EdgeCell, edge_dag_paths, edge_dag_pruned};
pub use choice::{Choice, ChoiceId, Condition, Kind, TokenForm};
pub use dag::{EdgeDag, NodeDag};
pub use dag_canonical::{canonical_graph, edge_dag_isomorphs};
pub use domain::{Domain, key_of};
pub use error::SpaceError;
pub use genotype::Genotype;
pub use mutate::MutationTree;
pub use sample::sample_subset;
pub use space::Space;
pub use subspace::Subspace;
