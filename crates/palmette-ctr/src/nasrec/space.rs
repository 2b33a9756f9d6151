//! The NASRec spaces in the choice language.

use palmette_random::ChaCha8Rng;
use palmette_space::{Domain, Genotype, MutationTree, Space, SpaceError, TokenForm};

use super::{Block, DenseOp, MAX_BLOCKS, Path, Set, SparseOp, canonical_key};

/// Which operators a space offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operators {
    /// NASRec-Full, `xlarge`: FC, DP, SG, Sum; attention, EFC.
    Full,
    /// NASRec-Small, `autoctr`: FC, DP; EFC.
    Small,
    /// `xlarge-zeros`: Full and a zero operator on either side.
    FullWithZeros,
}

impl Operators {
    /// Dense operators, in the order of the released node list.
    pub fn dense(self) -> &'static [DenseOp] {
        match self {
            Self::Full => &DenseOp::ALL[..4],
            Self::Small => &DenseOp::ALL[..2],
            Self::FullWithZeros => &DenseOp::ALL,
        }
    }

    /// Sparse operators, in the order of the released node list.
    pub fn sparse(self) -> &'static [SparseOp] {
        match self {
            Self::Full => &[SparseOp::Attention, SparseOp::Efc],
            Self::Small => &[SparseOp::Efc],
            Self::FullWithZeros => &[SparseOp::Attention, SparseOp::Zero, SparseOp::Efc],
        }
    }
}

/// A space of the NASRec family; the defaults are the published spaces.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NasRecConfig {
    /// Which operators.
    pub operators: Operators,
    /// Number of choice blocks, N (published: 7).
    pub blocks: usize,
    /// Dense widths d, ascending.
    pub dense_widths: Vec<u16>,
    /// Sparse output fields s, ascending.
    pub sparse_widths: Vec<u16>,
    /// Most sources of a side of a block (published: 4).
    pub max_sources: usize,
}

impl NasRecConfig {
    /// The published space with these operators.
    pub fn published(operators: Operators) -> Self {
        Self {
            operators,
            blocks: 7,
            dense_widths: vec![16, 32, 64, 128, 256, 512, 768, 1024],
            sparse_widths: vec![16, 32, 48, 64],
            max_sources: 4,
        }
    }
}

/// Genes of a block, in their order.
pub(super) const GENES: usize = 10;

/// A NASRec space: genotypes, paths and what both share.
///
/// As a [`Domain`] it knows which genotypes are the same network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NasRecSpace {
    config: NasRecConfig,
    space: Space,
}

impl NasRecSpace {
    /// The space of `config`; the error names the field that cannot be.
    pub fn new(config: NasRecConfig) -> Result<Self, SpaceError> {
        let bad = |choice: &str, problem: &str| {
            Err(SpaceError::BadChoice { choice: choice.into(), problem: problem.into() })
        };
        if !(1..=MAX_BLOCKS).contains(&config.blocks) {
            return bad("blocks", "needed: 1 to 31");
        }
        if config.max_sources == 0 {
            return bad("max_sources", "needed: at least 1");
        }
        for (name, widths) in
            [("dense_widths", &config.dense_widths), ("sparse_widths", &config.sparse_widths)]
        {
            if widths.is_empty() || widths[0] == 0 || !widths.is_sorted_by(|a, b| a < b) {
                return bad(name, "needed: a non-empty ascending list of positive widths");
            }
        }
        let space = write_space(&config)?;
        Ok(Self { config, space })
    }

    /// The published space with these operators.
    ///
    /// # Panics
    /// Never: the published settings are valid.
    pub fn published(operators: Operators) -> Self {
        Self::new(NasRecConfig::published(operators)).expect("the published settings are valid")
    }

    /// What the space was made from.
    pub fn config(&self) -> &NasRecConfig {
        &self.config
    }

    /// Base-10 logarithm of the number of genotypes, with or without the choices of left and right
    /// operands. Raise `max_sources` to the number of blocks to count subsets of any size.
    pub fn log10_cardinality(&self, count_operands: bool) -> f64 {
        let operands: f64 = (1..=self.config.blocks).map(|i| 2.0 * (i as f64).log10()).sum();
        self.space.cardinality().log10() - if count_operands { 0.0 } else { operands }
    }

    /// The path of a genotype.
    pub fn path(&self, genotype: &Genotype) -> Path {
        let blocks = genotype.genes().chunks_exact(GENES).map(|genes| self.block(genes));
        Path { blocks: blocks.collect() }
    }

    /// The block of its genes.
    pub(super) fn block(&self, g: &[u32]) -> Block {
        let config = &self.config;
        Block {
            dense_ops: Set::only(config.operators.dense()[g[0] as usize] as usize),
            sparse_ops: Set::only(config.operators.sparse()[g[1] as usize] as usize),
            dense_sources: Set(g[2]),
            sparse_sources: Set(g[3]),
            left: Set::only(g[4] as usize),
            right: Set::only(g[5] as usize),
            dense_width: config.dense_widths[g[6] as usize],
            sparse_width: config.sparse_widths[g[7] as usize],
            dense_to_sparse: g[8] == 1,
            sparse_to_dense: g[9] == 1,
        }
    }

    /// A random candidate: source counts uniform in 1..=min(m, max), everything else uniform.
    pub fn random_path(&self, rng: &mut ChaCha8Rng) -> Path {
        self.path(&self.space.sample(rng))
    }

    /// The genotype of a path of this space; the error names the block's field that does not fit.
    pub fn genotype(&self, path: &Path) -> Result<Genotype, SpaceError> {
        if path.blocks.len() != self.config.blocks {
            return Err(SpaceError::WrongLength {
                space: self.space.name().into(),
                expected: self.config.blocks * GENES,
                got: path.blocks.len() * GENES,
            });
        }
        let mut genes = Vec::with_capacity(self.space.choices().len());
        for block in &path.blocks {
            let first = genes.len();
            let found: [Option<usize>; GENES] = [
                sole(block.dense_ops).and_then(|op| {
                    self.config.operators.dense().iter().position(|&o| o as usize == op)
                }),
                sole(block.sparse_ops).and_then(|op| {
                    self.config.operators.sparse().iter().position(|&o| o as usize == op)
                }),
                Some(block.dense_sources.0 as usize),
                Some(block.sparse_sources.0 as usize),
                sole(block.left),
                sole(block.right),
                self.config.dense_widths.iter().position(|&w| w == block.dense_width),
                self.config.sparse_widths.iter().position(|&w| w == block.sparse_width),
                Some(usize::from(block.dense_to_sparse)),
                Some(usize::from(block.sparse_to_dense)),
            ];
            for (offset, gene) in found.into_iter().enumerate() {
                let choice = &self.space.choices()[first + offset];
                let gene = gene.map(|gene| gene as u32).filter(|&gene| choice.kind.accepts(gene));
                genes.push(gene.ok_or_else(|| SpaceError::BadGene {
                    choice: choice.name.clone(),
                    got: describe(block, offset),
                    accepted: choice.kind.describe(),
                })?);
            }
        }
        Ok(Genotype::new(genes))
    }
}

impl Domain for NasRecSpace {
    fn space(&self) -> &Space {
        &self.space
    }

    fn key(&self, genotype: &Genotype) -> u128 {
        canonical_key(&self.path(genotype))
    }
}

impl DenseOp {
    /// Its name in genotype documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fc => "fc",
            Self::DotProduct => "dot-product",
            Self::SigmoidGating => "sigmoid-gating",
            Self::Sum => "sum",
            Self::Zero => "zero",
        }
    }
}

impl SparseOp {
    /// Its name in genotype documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Efc => "efc",
            Self::Zero => "zero",
        }
    }
}

fn write_space(config: &NasRecConfig) -> Result<Space, SpaceError> {
    let name = match config.operators {
        Operators::Full => "nasrec-full",
        Operators::Small => "nasrec-small",
        Operators::FullWithZeros => "nasrec-full-with-zeros",
    };
    let dense_ops: Vec<&str> = config.operators.dense().iter().map(|op| op.name()).collect();
    let sparse_ops: Vec<&str> = config.operators.sparse().iter().map(|op| op.name()).collect();
    let dense_widths: Vec<String> = config.dense_widths.iter().map(u16::to_string).collect();
    let sparse_widths: Vec<String> = config.sparse_widths.iter().map(u16::to_string).collect();
    let mut builder = Space::builder(name);
    let branches = builder.repeat("block", config.blocks, |b, i| {
        let sources: Vec<String> = (0..i).map(|j| j.to_string()).collect();
        let most = config.max_sources.min(i);
        let dense_operator = b.one_of("dense_operator", &dense_ops);
        let sparse_operator = b.one_of("sparse_operator", &sparse_ops);
        let dense_sources = b.subset("dense_sources", &sources, 1, most);
        let sparse_sources = b.subset("sparse_sources", &sources, 1, most);
        let left = b.one_of("left", &sources);
        let right = b.one_of("right", &sources);
        let dense_width = b.one_of_ordered("dense_width", &dense_widths);
        let sparse_width = b.one_of_ordered("sparse_width", &sparse_widths);
        let dense_to_sparse = b.flag("dense_to_sparse");
        let sparse_to_dense = b.flag("sparse_to_dense");
        for source in [dense_sources, sparse_sources, left, right] {
            b.token(source, TokenForm::Bits(config.blocks));
        }
        b.token(dense_width, TokenForm::Index);
        b.token(sparse_width, TokenForm::Index);
        let keys = |ids: &[_]| ids.iter().copied().map(MutationTree::key).collect::<Vec<_>>();
        let mut micro = vec![MutationTree::Key(vec![dense_operator, sparse_operator])];
        micro.extend(keys(&[dense_width, sparse_width, dense_to_sparse, sparse_to_dense]));
        let macros = keys(&[dense_sources, sparse_sources, left, right]);
        MutationTree::Any(vec![MutationTree::Any(macros), MutationTree::Any(micro)])
    });
    builder.mutation(MutationTree::Any(branches));
    builder.finish()
}

/// The only member of a set.
fn sole(set: Set) -> Option<usize> {
    (set.len() == 1).then(|| set.0.trailing_zeros() as usize)
}

fn describe(block: &Block, gene: usize) -> String {
    let list = |set: Set| format!("{:?}", set.iter().collect::<Vec<_>>());
    match gene {
        0 => block
            .dense_ops
            .iter()
            .filter_map(|i| DenseOp::ALL.get(i))
            .map(|op| op.name())
            .collect::<Vec<_>>()
            .join(" + "),
        1 => block
            .sparse_ops
            .iter()
            .filter_map(|i| SparseOp::ALL.get(i))
            .map(|op| op.name())
            .collect::<Vec<_>>()
            .join(" + "),
        2 => list(block.dense_sources),
        3 => list(block.sparse_sources),
        4 => list(block.left),
        5 => list(block.right),
        6 => block.dense_width.to_string(),
        7 => block.sparse_width.to_string(),
        8 => block.dense_to_sparse.to_string(),
        _ => block.sparse_to_dense.to_string(),
    }
}
