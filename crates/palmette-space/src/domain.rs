use palmette_random::ChaCha8Rng;

use crate::{Genotype, Space};

/// What a strategy searches: a space, and what only its owner knows about it.
///
/// The defaults make a plain [`Space`] a domain in which every genotype is
/// feasible and differs from every other. A domain with hard limits overrides
/// [`is_feasible`](Self::is_feasible) and [`repair`](Self::repair); one in which
/// several genotypes are the same network overrides [`key`](Self::key).
pub trait Domain: Sync {
    /// The space of the genotypes.
    fn space(&self) -> &Space;

    /// Draws a genotype, feasible or not.
    fn sample(&self, rng: &mut ChaCha8Rng) -> Genotype {
        self.space().sample(rng)
    }

    /// Changes one thing.
    fn mutate(&self, parent: &Genotype, rng: &mut ChaCha8Rng) -> Genotype {
        self.space().mutate(parent, rng)
    }

    /// Genotypes one step away.
    fn neighbours(&self, genotype: &Genotype) -> Vec<Genotype> {
        self.space().neighbours(genotype)
    }

    /// Equal for genotypes that are the same network, different otherwise (to 128 bits).
    fn key(&self, genotype: &Genotype) -> u128 {
        key_of(genotype.genes())
    }

    /// A genotype of the same network in which genes without effect have set values: what predictors
    /// compare. It need not be one for all equal networks.
    fn pruned(&self, genotype: &Genotype) -> Genotype {
        self.space().pruned(genotype)
    }

    /// Where networks are graphs: hashes of the operators along every path from input to output,
    /// sorted. Predictors compare them beside the genes; empty elsewhere.
    fn paths(&self, genotype: &Genotype) -> Vec<u64> {
        self.space().paths(genotype)
    }

    /// Whether the genotype is within the hard limits.
    fn is_feasible(&self, _genotype: &Genotype) -> bool {
        true
    }

    /// A feasible genotype near an infeasible one, or `None` where the domain knows none.
    fn repair(&self, _genotype: &Genotype, _rng: &mut ChaCha8Rng) -> Option<Genotype> {
        None
    }

    /// Where only listed genotypes exist (a table without neighbours): the nearest one to
    /// `candidate` whose key is new. `None` elsewhere, and where none is left.
    fn snap(&self, _candidate: &Genotype, _is_new: &dyn Fn(u128) -> bool) -> Option<Genotype> {
        None
    }

    /// Every genotype, where there are at most `most` of them.
    fn enumerate(&self, most: usize) -> Option<Vec<Genotype>> {
        self.space().enumerate(most)
    }

    /// Number of distinct feasible keys where it is known; a strategy stops there.
    fn distinct(&self) -> Option<u128> {
        None
    }
}

impl Domain for Space {
    fn space(&self) -> &Space {
        self
    }

    fn distinct(&self) -> Option<u128> {
        self.cardinality().exact()
    }
}

/// A stable 128-bit hash of a list of genes (xxh3).
pub fn key_of(genes: &[u32]) -> u128 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    // Many at a time: an update of four bytes costs more than hashing them.
    for genes in genes.chunks(64) {
        let mut bytes = [[0u8; 4]; 64];
        genes.iter().zip(&mut bytes).for_each(|(gene, bytes)| *bytes = gene.to_le_bytes());
        hasher.update(bytes[..genes.len()].as_flattened());
    }
    hasher.digest128()
}
