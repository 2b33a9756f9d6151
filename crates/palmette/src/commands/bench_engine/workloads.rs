//! The steps that are compared.

use anyhow::{Context, Result};
use clap::ValueEnum;
use palmette_ctr::baselines::Dlrm;
use palmette_ctr::nasrec::{
    DatasetPreset, NasRecSpace, Network, Operators, PathStrategy, supernet_path,
};
use palmette_ctr::{CompiledModel, ModelInputs};
use palmette_engine::{
    BufferId, Epilogue, HeadInput, Init, Model, Optimizer, ParamId, ParamLayout, ParamStore,
    Program, TableSpec, Tables,
};

use super::case::{Case, Plan, Work, batches};

/// A step that Palmette and a peer compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Workload {
    /// Dense network 845-1024-512-256-1, Adam
    Mlp,
    /// DLRM with 26 tables of a million rows in all, sparse Adagrad
    #[value(name = "dlrm-1m")]
    Dlrm1M,
    /// DLRM with 26 tables of ten million rows in all, sparse Adagrad
    #[value(name = "dlrm-10m")]
    Dlrm10M,
    /// NASRec block: FC 512, EFC 26 to 64 fields, dot products, 8-head attention, norms
    Block,
    /// The same operators at 64 channels: 27 x 64 dot products, 8 heads of 8
    BlockWide,
    /// Supernet step over fresh random paths of NASRec-Full
    Supernet,
    /// Supernet step on the full path, which costs what a masked supernet costs
    FullPath,
    /// Forward pass of random sub-networks of NASRec-Full
    Evaluate,
    /// One row through a found network, beside onnxruntime on its exported model
    #[value(name = "inference-1")]
    Inference1,
    /// 4096 rows through a found network, beside onnxruntime on its exported model
    #[value(name = "inference-4096")]
    Inference4096,
}

const ADAGRAD: Work = Work::Train {
    optimizer: Optimizer::Adagrad { epsilon: 1e-2 },
    learning_rate: 0.01,
    clip: None,
};
const ADAM: Work = Work::Train {
    optimizer: Optimizer::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 },
    learning_rate: 1e-3,
    clip: None,
};
/// The published training of the supernet.
pub const SUPERNET: Work = Work::Train {
    optimizer: Optimizer::Adagrad { epsilon: 1e-2 },
    learning_rate: 0.01,
    clip: Some(5.0),
};

/// Sizes that the command line may change.
#[derive(Clone, Copy, Debug)]
pub struct Sizes<'a> {
    /// Rows of a batch instead of the workload's own.
    pub batch: Option<usize>,
    /// Fresh paths in the list of supernet workloads.
    pub paths: u64,
    /// The network that inference runs, instead of a random one.
    pub architecture: Option<&'a palmette_ctr::nasrec::Path>,
}

impl Workload {
    /// Name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What is computed, in a line.
    pub fn title(self, rows: usize) -> String {
        let text = match self {
            Self::Mlp => "MLP 845-1024-512-256-1, Adam step",
            Self::Dlrm1M => "DLRM, 26 tables, 1 M rows x 16, sparse Adagrad step",
            Self::Dlrm10M => "DLRM, 26 tables, 10 M rows x 16, sparse Adagrad step",
            Self::Block => "NASRec block, 16 channels, forward and backward",
            Self::BlockWide => "NASRec block, 64 channels, forward and backward",
            Self::Supernet => "NASRec-Full supernet step, fresh random paths",
            Self::FullPath => "NASRec-Full supernet step, full path",
            Self::Evaluate => "NASRec-Full sub-networks, forward",
            Self::Inference1 | Self::Inference4096 => "NASRec-Full network, exported, inference",
        };
        format!("{text}, batch {rows}")
    }

    fn rows(self) -> usize {
        match self {
            Self::Supernet | Self::FullPath => 512,
            Self::Inference1 => 1,
            Self::Inference4096 => 4096,
            _ => 1024,
        }
    }

    /// The peer's script.
    pub fn script(self) -> &'static str {
        if self.is_inference() { "inference.py" } else { "engine.py" }
    }

    /// Whether the peer runs an exported model.
    pub fn is_inference(self) -> bool {
        matches!(self, Self::Inference1 | Self::Inference4096)
    }

    /// Samples a second of the released NASRec code on two such cores, where it has the work.
    pub fn released(self) -> Option<f64> {
        match self {
            Self::Supernet | Self::FullPath => Some(373.0),
            Self::Evaluate => Some(880.0),
            _ => None,
        }
    }

    /// Builds the step with fresh weights.
    pub fn case(self, sizes: Sizes<'_>) -> Result<Case> {
        let rows = sizes.batch.unwrap_or(self.rows());
        match self {
            Self::Mlp => {
                let inputs = ModelInputs::numbered(845, &[]);
                let mlp = palmette_ctr::baselines::Mlp {
                    hidden: vec![1024, 512, 256],
                    ..Default::default()
                };
                compiled(mlp.compile(&inputs)?, &inputs, rows, ADAM)
            }
            Self::Dlrm1M => dlrm(1_000_000, rows),
            Self::Dlrm10M => dlrm(10_000_000, rows),
            Self::Block => block(rows),
            Self::BlockWide => block_wide(rows),
            Self::Supernet => {
                let strategy = PathStrategy::SingleOperatorAnyConnection;
                supernet(strategy, sizes.paths, rows, SUPERNET)
            }
            Self::FullPath => supernet(PathStrategy::FullPath, 1, rows, SUPERNET),
            Self::Evaluate => {
                let strategy = PathStrategy::SingleOperatorAnyConnection;
                supernet(strategy, sizes.paths, rows, Work::Forward)
            }
            Self::Inference1 | Self::Inference4096 => inference(sizes.architecture, rows),
        }
    }
}

/// A network of its own on Criteo's shape, tables capped at 100,000 rows.
fn inference(architecture: Option<&palmette_ctr::nasrec::Path>, rows: usize) -> Result<Case> {
    let preset = DatasetPreset::find("criteo").context("a preset is missing")?;
    let sizes: Vec<usize> =
        preset.table_rows.iter().map(|&n| usize::try_from(n.min(100_000)).unwrap_or(0)).collect();
    let inputs = ModelInputs::numbered(preset.shape.dense, &sizes);
    let space = NasRecSpace::published(Operators::Full);
    let random = supernet_path(&space, PathStrategy::SingleOperatorAnyConnection, 0, 0, 1);
    let path = architecture.unwrap_or(&random);
    let mut case =
        compiled(CompiledModel::nasrec(path, &inputs, false), &inputs, rows, Work::Forward)?;
    // A fresh network without norms gives logits of 50, whose probabilities are all one: nothing
    // could be compared.
    let params = &mut case.model.params;
    let head = params.layout().iter().filter(|(_, spec)| spec.name.starts_with("head.weight"));
    let head: Vec<(ParamId, usize)> = head.map(|(id, spec)| (id, spec.rows)).collect();
    for (id, rows) in head {
        for row in 0..rows {
            params.row_mut(id, row).iter_mut().for_each(|weight| *weight *= 0.02);
        }
    }
    Ok(case)
}

fn compiled(model: CompiledModel, inputs: &ModelInputs, rows: usize, work: Work) -> Result<Case> {
    let weights = model.initialise(1, work.state_slots())?;
    let sizes: Vec<usize> = inputs.fields.iter().map(|field| field.rows).collect();
    let batches = batches(16, rows, inputs.dense, &sizes);
    Ok(Case::new(rows, weights, model.program, Plan::Fixed, batches, work))
}

/// The released DLRM's shape for Criteo Kaggle with one bottom layer less: 13-512-256-16, all
/// pairs, 367-512-256-1.
pub fn dlrm(table_rows: usize, rows: usize) -> Result<Case> {
    dlrm_of(&[table_rows / 26; 26], rows)
}

/// The same with a table of each of these sizes.
pub fn dlrm_of(table_rows: &[usize], rows: usize) -> Result<Case> {
    let inputs = ModelInputs::numbered(13, table_rows);
    let dlrm = Dlrm { embedding_dim: 16, bottom: vec![512, 256], top: vec![512, 256] };
    compiled(dlrm.compile(&inputs)?, &inputs, rows, ADAGRAD)
}

/// The published supernet over Criteo's shape, tables capped at 500,000 rows.
fn supernet(strategy: PathStrategy, count: u64, rows: usize, work: Work) -> Result<Case> {
    supernet_of(NasRecSpace::published(Operators::Full), strategy, count, rows, work, 500_000)
}

/// A supernet over Criteo's shape and `count` paths through it.
pub fn supernet_of(
    space: NasRecSpace,
    strategy: PathStrategy,
    count: u64,
    rows: usize,
    work: Work,
    table_cap: u64,
) -> Result<Case> {
    let preset = DatasetPreset::find("criteo").context("a preset is missing")?;
    let network = Box::new(Network::supernet(space.config(), preset.shape, true));
    let capped = |&n: &u64| usize::try_from(n.min(table_cap)).unwrap_or(0);
    let sizes: Vec<usize> = preset.table_rows.iter().map(capped).collect();
    let slots = work.state_slots();
    let model = Model {
        params: ParamStore::new(network.layout().clone(), 1, slots)?,
        tables: Tables::new(tables(&sizes), slots, 1)?,
    };
    let batches = batches(8, rows, preset.shape.dense, &sizes);
    let plan = Plan::Paths { space: Box::new(space), network, strategy, count };
    Ok(Case::new(rows, model, Program::new(), plan, batches, work))
}

fn tables(sizes: &[usize]) -> Vec<TableSpec> {
    let spec =
        |(f, &rows): (usize, &usize)| TableSpec { name: format!("embedding.{f}"), rows, dim: 16 };
    sizes.iter().enumerate().map(spec).collect()
}

/// Declares parameters and operators of a hand-made block.
#[derive(Default)]
struct Builder {
    layout: ParamLayout,
    program: Program,
}

impl Builder {
    fn matrix(&mut self, out: usize, input: usize) -> ParamId {
        let name = format!("weight.{}", self.layout.iter().len());
        self.layout.matrix(name, out, input, Init::XavierUniform { fan_in: input, fan_out: out })
    }

    fn vector(&mut self, len: usize, value: f64) -> ParamId {
        let name = format!("vector.{}", self.layout.iter().len());
        self.layout.vector(name, len, Init::Constant(value))
    }

    fn norm(&mut self, len: usize) -> (ParamId, ParamId) {
        (self.vector(len, 1.0), self.vector(len, 0.0))
    }

    /// relu?(norm(W x)).
    fn linear(&mut self, x: BufferId, width: usize, relu: bool) -> BufferId {
        let weight = self.matrix(width, self.program.width(x));
        let epilogue = Epilogue { norm: Some(self.norm(width)), relu, bias: None };
        self.program.linear(&[(x, weight)], width, epilogue)
    }

    fn field_mix(&mut self, x: BufferId, fields: usize, relu: bool) -> BufferId {
        let weight = self.matrix(fields, self.program.width(x));
        let epilogue = Epilogue { norm: Some(self.norm(fields)), relu, bias: None };
        self.program.field_mix(&[(x, weight)], fields, epilogue)
    }

    fn row_map(&mut self, x: BufferId, dim: usize, relu: bool) -> BufferId {
        let weight = self.matrix(dim, self.program.dim(x));
        let bias = self.vector(dim, 0.0);
        self.program.row_map(x, weight, dim, Some(bias), relu)
    }

    fn add_norm(&mut self, a: BufferId, b: BufferId) -> BufferId {
        let (scale, shift) = self.norm(self.program.dim(a));
        self.program.add_norm(a, b, scale, shift)
    }

    /// Attention with its projections and the residual norm; `feed` adds the feed-forward half.
    fn attention(&mut self, z: BufferId, feed: bool) -> BufferId {
        let dim = self.program.dim(z);
        let [q, k, v] = [0; 3].map(|_| self.row_map(z, dim, false));
        let mixed = self.program.attention(q, k, v, 8);
        let out = self.row_map(mixed, dim, false);
        let h = self.add_norm(z, out);
        if !feed {
            return h;
        }
        let f = self.row_map(h, dim, true);
        let f = self.row_map(f, dim, false);
        self.add_norm(h, f)
    }

    fn finish(mut self, dense: BufferId, fields: BufferId, rows: usize) -> Result<Case> {
        let (width, count, dim) =
            (self.program.width(dense), self.program.width(fields), self.program.dim(fields));
        let (dense_weight, field_weight) = (self.matrix(1, width), self.matrix(count, dim));
        let bias = self.vector(1, 0.0);
        let pieces =
            [(dense, HeadInput::Weight(dense_weight)), (fields, HeadInput::Weight(field_weight))];
        self.program.head(&pieces, Some(bias));
        let sizes = [1000; 26];
        let model = Model {
            params: ParamStore::new(self.layout, 1, 0)?,
            tables: Tables::new(tables(&sizes), 0, 1)?,
        };
        let batches = batches(16, rows, 13, &sizes);
        Ok(Case::new(rows, model, self.program, Plan::Fixed, batches, Work::Gradients))
    }
}

/// All operators of a NASRec block at its 16 channels behind a layer of 512 units.
fn block(rows: usize) -> Result<Case> {
    let mut b = Builder::default();
    let x = b.program.dense_input(13);
    let s = b.program.embedding(0, 26, 16);
    let d = b.linear(x, 512, true);
    let fc = b.linear(d, 512, true);
    let vector = b.linear(d, 16, false);
    let pairs = b.program.gram(Some(vector), &[s]);
    let dot = b.linear(pairs, 512, false);
    let dense = b.program.add(&[fc, dot], false);
    let efc = b.field_mix(s, 64, true);
    let z = b.field_mix(s, 64, false);
    let attention = b.attention(z, true);
    let fields = b.program.add(&[efc, attention], false);
    b.finish(dense, fields, rows)
}

/// The same with fields of 64 channels.
fn block_wide(rows: usize) -> Result<Case> {
    let mut b = Builder::default();
    let x = b.program.dense_input(13);
    let s = b.program.embedding(0, 26, 16);
    let d = b.linear(x, 512, true);
    let fc = b.linear(d, 512, true);
    let wide = b.row_map(s, 64, false);
    let e = b.field_mix(wide, 26, true);
    let vector = b.linear(fc, 64, false);
    let pairs = b.program.gram(Some(vector), &[e]);
    let dot = b.linear(pairs, 512, false);
    let dense = b.program.add(&[fc, dot], false);
    let fields = b.attention(e, false);
    b.finish(dense, fields, rows)
}
