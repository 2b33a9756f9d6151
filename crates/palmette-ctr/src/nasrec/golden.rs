//! Comparison with what the released PyTorch code computes.
//!
//! A golden file names logits, loss and gradient statistics of one standalone
//! network whose inputs and weights follow from formulas:
//! dense `x[b, j] = 0.5 + 0.5 sin(0.9 (b nd + j + 1))` (zero for the single dummy
//! input of Avazu), categorical `id[b, f] = (7 b + 3 f + b f) mod rows`, label
//! `b mod 2`; parameter number k at flat index i from 1 has
//! `s = sin(0.37 i + 1.3 (k + 1))`: embeddings `0.5 s`, weights `s / sqrt(last
//! dimension)`, biases and norm shifts `0.1 s`, norm scales `0.17 + 0.05 s`.

use std::collections::HashMap;

use palmette_engine::{
    Batch, EngineError, Executor, Model, ParamId, ParamStore, Program, Real, SliceId, TableSpec,
    Tables, Trainable,
};
use serde::{Deserialize, Serialize};

use super::{
    ArchitectureFile, Arrangement, EMBEDDING_DIM, LogicalTensor, Network, Operators, Shape,
};

/// What the released code computed.
#[derive(Clone, Debug, Deserialize)]
pub struct GoldenFile {
    /// Name of the architecture.
    pub architecture: String,
    /// Samples.
    pub batch: usize,
    /// Rows of every table.
    pub table_rows: usize,
    /// nd.
    pub dense_inputs: usize,
    /// ns.
    pub categorical_inputs: usize,
    /// One a sample.
    pub logits: Vec<f64>,
    /// Mean binary cross-entropy with logits.
    pub loss: f64,
    /// All parameters in the order of the released code.
    pub parameters: Vec<GoldenParameter>,
}

/// One parameter of a golden file.
#[derive(Clone, Debug, Deserialize)]
pub struct GoldenParameter {
    /// Ordinal in the formulas.
    pub k: usize,
    /// Name in the released code.
    pub name: String,
    /// PyTorch's shape, `[out, in]`.
    pub shape: Vec<usize>,
    /// `embedding`, `weight`, `bias`, `norm scale` or `norm shift`.
    pub kind: String,
    /// `None`: its block never reaches the head.
    pub grad: Option<GradientStatistics>,
}

/// Summary of a gradient over its flat elements.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GradientStatistics {
    /// `sum g_i`.
    pub sum: f64,
    /// `sqrt(sum g_i^2)`.
    pub l2: f64,
    /// `sum g_i cos(0.11 i)`, i from 1.
    pub dot_cos: f64,
}

/// Why a golden file could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// The file and the architecture do not fit each other.
    #[error("golden file and architecture do not fit: {0}")]
    Mismatch(String),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// One compared number.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// E.g. `logits[3]` or `head.weight grad sum`.
    pub what: String,
    /// The released code's.
    pub expected: f64,
    /// Ours.
    pub found: f64,
    /// `|found - expected|` over the scale of the quantity: its magnitude, or the gradient's
    /// norm for its statistics.
    pub error: f64,
}

/// All comparisons of a file in one number type.
#[derive(Clone, Debug, Serialize)]
pub struct GoldenReport {
    /// `f32` or `f64`.
    pub precision: &'static str,
    /// Allowed error.
    pub tolerance: f64,
    /// Every number.
    pub comparisons: Vec<Comparison>,
}

impl GoldenReport {
    /// The largest error.
    pub fn worst(&self) -> Option<&Comparison> {
        self.comparisons.iter().max_by(|a, b| a.error.total_cmp(&b.error))
    }

    /// Whether all errors are within the tolerance (a NaN is not).
    pub fn passes(&self) -> bool {
        self.comparisons.iter().all(|c| c.error <= self.tolerance)
    }
}

impl GoldenFile {
    /// Sizes far outside any released network would ask for memory that nobody has.
    fn check_range(&self) -> Result<(), GoldenError> {
        for (field, value, most) in [
            ("batch", self.batch, 1 << 16),
            ("table_rows", self.table_rows, 1 << 20),
            ("dense_inputs", self.dense_inputs, 1 << 16),
            ("categorical_inputs", self.categorical_inputs, 1 << 12),
        ] {
            if !(1..=most).contains(&value) {
                let problem = format!("{field} is {value}; needed: 1 to {most}");
                return Err(GoldenError::Mismatch(problem));
            }
        }
        Ok(())
    }
}

/// Name of a tensor in the released code.
fn released_name(tensor: &LogicalTensor, operators: Operators) -> String {
    let Some(rest) = tensor.name.strip_prefix("blocks.") else {
        return tensor.name.replace("head.", "_final.");
    };
    let (block, rest) = rest.split_once('.').unwrap_or((rest, ""));
    let node = |full: usize, small: usize, zeros: usize| match operators {
        Operators::Full => full,
        Operators::Small => small,
        Operators::FullWithZeros => zeros,
    };
    let prefixes = [
        ("fc.", Some(node(0, 0, 0)), "_linear."),
        ("dot_product.vector.", Some(node(1, 1, 1)), "_dense_proj."),
        ("dot_product.fields.", Some(node(1, 1, 1)), "_sparse_inp_proj."),
        ("dot_product.out.", Some(node(1, 1, 1)), "_linear_proj."),
        ("gating.gate.", Some(2), "_left_self_linear._linear."),
        ("gating.out.", Some(2), "_linear_proj."),
        ("sum.out.", Some(3), "_linear_proj."),
        ("efc.", Some(node(5, 2, 7)), "_linear."),
        ("attention.mix.", Some(node(4, 4, 5)), "_linear_proj."),
        ("attention.in.", Some(node(4, 4, 5)), "_mha.in_proj_"),
        ("attention.out.", Some(node(4, 4, 5)), "_mha.out_proj."),
        ("attention.norm.", Some(node(4, 4, 5)), "_attn_ln."),
        ("attention.feed1.", Some(node(4, 4, 5)), "attn_fc1."),
        ("attention.feed2.", Some(node(4, 4, 5)), "attn_fc2."),
        ("attention.feed.norm.", Some(node(4, 4, 5)), "_attn_fc_ln."),
        ("dense_to_sparse.", None, "project_emb_dim."),
        ("sparse_to_dense.", None, "deep_fm._linear_proj."),
    ];
    for (ours, node, theirs) in prefixes {
        if let Some(kind) = rest.strip_prefix(ours) {
            let kind = kind.replace("scale", "weight").replace("shift", "bias");
            return match node {
                Some(node) => format!("_blocks.{block}._nodes.{node}.{theirs}{kind}"),
                None => format!("_blocks.{block}.{theirs}{kind}"),
            };
        }
    }
    tensor.name.clone()
}

fn value(parameter: &GoldenParameter, index: usize) -> f64 {
    let s = (0.37 * (index + 1) as f64 + 1.3 * (parameter.k + 1) as f64).sin();
    match parameter.kind.as_str() {
        "embedding" => 0.5 * s,
        "bias" | "norm shift" => 0.1 * s,
        "norm scale" => 0.17 + 0.05 * s,
        _ => s / (*parameter.shape.last().unwrap_or(&1) as f64).sqrt(),
    }
}

/// Visits the elements of a logical tensor: `(flat index, parameter, row, column)`.
pub(crate) fn for_each_element<T: Real>(
    tensor: &LogicalTensor,
    params: &ParamStore<T>,
    mut visit: impl FnMut(usize, ParamId, usize, usize),
) {
    let width = *tensor.shape.last().unwrap_or(&1);
    let mut start = 0;
    for &part in &tensor.parts {
        let spec = params.layout().spec(part);
        for row in 0..spec.rows {
            for col in 0..spec.cols {
                let flat = match tensor.arrangement {
                    Arrangement::Columns => row * width + start + col,
                    Arrangement::Stacked => start + row * spec.cols + col,
                };
                visit(flat, part, row, col);
            }
        }
        start += match tensor.arrangement {
            Arrangement::Columns => spec.cols,
            Arrangement::Stacked => spec.rows * spec.cols,
        };
    }
}

fn statistics(gradient: &[f64]) -> GradientStatistics {
    let mut s = GradientStatistics { sum: 0.0, l2: 0.0, dot_cos: 0.0 };
    for (i, g) in gradient.iter().enumerate() {
        s.sum += g;
        s.l2 += g * g;
        s.dot_cos += g * (0.11 * (i + 1) as f64).cos();
    }
    s.l2 = s.l2.sqrt();
    s
}

/// Computes everything that `golden` lists, in number type `T`.
pub fn check_golden<T: Real>(
    golden: &GoldenFile,
    architecture: &ArchitectureFile,
    tolerance: f64,
) -> Result<GoldenReport, GoldenError> {
    golden.check_range()?;
    let shape = Shape { dense: golden.dense_inputs, fields: golden.categorical_inputs };
    let network = Network::standalone(&architecture.path, shape, false);
    let by_name: HashMap<&str, &GoldenParameter> =
        golden.parameters.iter().map(|p| (p.name.as_str(), p)).collect();
    let find = |name: &str, tensor_shape: &[usize]| {
        let parameter = by_name.get(name).ok_or_else(|| {
            GoldenError::Mismatch(format!(
                "the architecture has a parameter {name}, the file has not"
            ))
        })?;
        if parameter.shape != tensor_shape {
            return Err(GoldenError::Mismatch(format!(
                "{name} has shape {:?} in the file and {tensor_shape:?} in the architecture",
                parameter.shape
            )));
        }
        Ok(*parameter)
    };
    let mut model = build_model::<T>(golden, &network)?;
    let mut used: Vec<&str> = Vec::new();
    let mut named = Vec::new();
    for tensor in network.tensors() {
        let name = released_name(tensor, architecture.operators);
        let parameter = find(&name, &tensor.shape)?;
        used.push(&parameter.name);
        let mut values = Vec::new();
        for_each_element(tensor, &model.params, |flat, part, row, col| {
            values.push((flat, part, row, col))
        });
        for (flat, part, row, col) in values {
            model.params.row_mut(part, row)[col] = T::from_f64(value(parameter, flat));
        }
        named.push((tensor, parameter));
    }
    for f in 0..golden.categorical_inputs {
        let name = format!("_embedding.{f}.weight");
        let parameter = find(&name, &[golden.table_rows, EMBEDDING_DIM])?;
        used.push(&parameter.name);
        for row in 0..golden.table_rows {
            for (e, x) in model.tables.table_mut(f).row_mut(row).iter_mut().enumerate() {
                *x = T::from_f64(value(parameter, row * EMBEDDING_DIM + e));
            }
        }
    }
    if by_name.len() != golden.parameters.len() {
        return Err(GoldenError::Mismatch("a parameter is listed twice".into()));
    }
    for parameter in &golden.parameters {
        if parameter.grad.is_none() && used.contains(&parameter.name.as_str()) {
            let problem =
                format!("{} has no gradient in the file and is live here", parameter.name);
            return Err(GoldenError::Mismatch(problem));
        }
        if parameter.grad.is_some() && !used.contains(&parameter.name.as_str()) {
            let problem = format!("{} has a gradient in the file and is dead here", parameter.name);
            return Err(GoldenError::Mismatch(problem));
        }
    }

    let inputs = Inputs::<T>::new(golden);
    let mut program = Program::new();
    network.build(&architecture.path, &mut program);
    let mut executor = Executor::new();
    let logits = executor.forward(&model, &mut program, &inputs.batch(golden.batch))?.to_vec();
    let (loss, _) = executor.gradients(
        &model,
        &mut program,
        &inputs.batch(golden.batch),
        Trainable::Everything,
    )?;

    let mut comparisons = Vec::new();
    let mut compare = |what: String, expected: f64, found: f64, scale: f64| {
        let error = (found - expected).abs() / scale.max(f64::MIN_POSITIVE);
        comparisons.push(Comparison { what, expected, found, error });
    };
    if golden.logits.len() != golden.batch {
        return Err(GoldenError::Mismatch(format!(
            "{} logits for a batch of {}",
            golden.logits.len(),
            golden.batch
        )));
    }
    for (b, (&expected, found)) in golden.logits.iter().zip(&logits).enumerate() {
        compare(format!("logits[{b}]"), expected, found.to_f64(), expected.abs().max(1.0));
    }
    compare("loss".into(), golden.loss, loss, golden.loss.abs());
    let slices: HashMap<ParamId, SliceId> =
        program.slice_ids().map(|s| (program.slice(s).0, s)).collect();
    let mut gradients: Vec<(&str, Vec<f64>)> = Vec::new();
    for (tensor, parameter) in &named {
        let mut flat = vec![0.0; tensor.shape.iter().product()];
        let rows: HashMap<ParamId, Vec<Vec<f64>>> = tensor
            .parts
            .iter()
            .filter_map(|part| slices.get(part).map(|&slice| (*part, slice)))
            .map(|(part, slice)| {
                let rows = executor.slice_gradient(&program, slice);
                (part, rows.map(|r| r.iter().map(|g| g.to_f64()).collect()).collect())
            })
            .collect();
        // Outside the slice (a gate's unused columns) the gradient is zero.
        for_each_element(tensor, &model.params, |index, part, row, col| {
            let gradient =
                rows.get(&part).and_then(|rows| rows.get(row)).and_then(|row| row.get(col));
            flat[index] = gradient.copied().unwrap_or(0.0);
        });
        gradients.push((&parameter.name, flat));
    }
    for (f, rows, sums) in executor.table_gradients() {
        let mut flat = vec![0.0; golden.table_rows * EMBEDDING_DIM];
        for (&row, sums) in rows.iter().zip(sums.chunks_exact(EMBEDDING_DIM)) {
            for (e, g) in sums.iter().enumerate() {
                flat[row as usize * EMBEDDING_DIM + e] = g.to_f64();
            }
        }
        if let Some(parameter) = by_name.get(format!("_embedding.{f}.weight").as_str()) {
            gradients.push((&parameter.name, flat));
        }
    }
    for (name, gradient) in gradients {
        let Some(expected) = by_name.get(name).and_then(|p| p.grad) else { continue };
        let found = statistics(&gradient);
        let scale = expected.l2.max(expected.sum.abs()).max(expected.dot_cos.abs());
        compare(format!("{name} grad sum"), expected.sum, found.sum, scale);
        compare(format!("{name} grad l2"), expected.l2, found.l2, scale);
        compare(format!("{name} grad dot_cos"), expected.dot_cos, found.dot_cos, scale);
    }
    Ok(GoldenReport { precision: T::NAME, tolerance, comparisons })
}

fn build_model<T: Real>(golden: &GoldenFile, network: &Network) -> Result<Model<T>, EngineError> {
    let tables = (0..golden.categorical_inputs)
        .map(|f| TableSpec {
            name: format!("embedding.{f}"),
            rows: golden.table_rows,
            dim: EMBEDDING_DIM,
        })
        .collect();
    Ok(Model {
        params: ParamStore::new(network.layout().clone(), 0, 0)?,
        tables: Tables::new(tables, 0, 0)?,
    })
}

struct Inputs<T> {
    dense: Vec<T>,
    ids: Vec<u32>,
    labels: Vec<f32>,
}

impl<T: Real> Inputs<T> {
    fn new(golden: &GoldenFile) -> Self {
        let (rows, nd, ns) = (golden.batch, golden.dense_inputs, golden.categorical_inputs);
        let dense = (0..rows * nd).map(|i| {
            // A single dense input is Avazu's constant dummy.
            if nd == 1 { T::ZERO } else { T::from_f64(0.5 + 0.5 * (0.9 * (i + 1) as f64).sin()) }
        });
        let ids = (0..ns).flat_map(|f| {
            (0..rows).map(move |b| ((7 * b + 3 * f + b * f) % golden.table_rows) as u32)
        });
        Self {
            dense: dense.collect(),
            ids: ids.collect(),
            labels: (0..rows).map(|b| (b % 2) as f32).collect(),
        }
    }

    fn batch(&self, rows: usize) -> Batch<'_, T> {
        Batch {
            rows,
            dense: &self.dense,
            ids: &self.ids,
            labels: &self.labels,
            weights: &[],
            lists: &[],
        }
    }
}
