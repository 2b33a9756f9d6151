use serde::{Deserialize, Serialize};

/// One answer to every choice of a space, in the order of the choices.
///
/// A gene is the index of an option, the bit mask of a subset, or the offset of
/// an integer from its lower bound. Only the space knows which; genes of
/// inactive choices are kept at the choice's default.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Genotype {
    genes: Box<[u32]>,
}

impl Genotype {
    /// A genotype with these genes; [`Space::check`](crate::Space::check) tells whether a space accepts it.
    pub fn new(genes: impl Into<Box<[u32]>>) -> Self {
        Self { genes: genes.into() }
    }

    /// The genes.
    pub fn genes(&self) -> &[u32] {
        &self.genes
    }

    /// The genes, to be changed.
    pub fn genes_mut(&mut self) -> &mut [u32] {
        &mut self.genes
    }
}
