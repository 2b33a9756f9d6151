//! Files of the best model.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path as FilePath;

use anyhow::{Context, Result, bail};
use palmette_ctr::nasrec::{
    ArchitectureFile, Arrangement, LimitedSpace, LogicalTensor, NasRecConfig, Path, Shape,
    macs_by_block,
};
use palmette_ctr::train::NetworkTraining;
use palmette_ctr::{CompiledModel, ListTable, ModelInputs};
use palmette_data::{Dataset, DenseTransform, MIN_TABLE_ROWS};
use palmette_engine::{Model, Program};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use serde::{Deserialize, Serialize};

use super::context::RunContext;
use super::files::{RunFiles, write_whole};
use super::results::Summary;
use super::store::RunStore;
use super::trials::{Contender, Trial};
use crate::drawing::{Drawing, Part, architecture_svg};
use crate::onnx::{EncodersFile, Export, ExternalData, export};

/// What is needed to build the model again, beside its weights: `best/model.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelDescription {
    /// The network or hand-made model.
    pub contender: Contender,
    /// Dense inputs and fields with the rows of their tables.
    pub inputs: ModelInputs,
    /// Whether the network has layer norms.
    pub layer_norm: bool,
    /// Fitted transforms of the dense inputs.
    pub transforms: Vec<DenseTransform>,
    /// The dataset whose encoders the values went through.
    pub dataset: std::path::PathBuf,
    /// Added to every logit: ln w undoes training on a share w of the negatives.
    #[serde(default)]
    pub logit_shift: f64,
}

impl ModelDescription {
    /// Reads `model.json` of a folder.
    pub fn read(folder: &FilePath) -> Result<Self> {
        let path = folder.join("model.json");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{} holds no model (no model.json)", folder.display()))?;
        let description: Self =
            serde_json::from_str(&text).with_context(|| format!("{}", path.display()))?;
        description.check().with_context(|| format!("{}", path.display()))?;
        Ok(description)
    }

    /// Whether the parts belong together; the file may have been edited.
    fn check(&self) -> Result<()> {
        if let Contender::Network(path) = &self.contender {
            path.check().map_err(anyhow::Error::msg)?;
        }
        if self.transforms.len() != self.inputs.dense {
            let (found, dense) = (self.transforms.len(), self.inputs.dense);
            bail!("{found} transforms for {dense} dense inputs");
        }
        let mut tables: Vec<(&str, usize)> =
            self.inputs.fields.iter().map(|field| (field.name.as_str(), field.rows)).collect();
        for list in &self.inputs.lists {
            match list.table {
                ListTable::Own(rows) => tables.push((&list.name, rows)),
                ListTable::Shared(field) if field < self.inputs.fields.len() => {}
                ListTable::Shared(field) => bail!(
                    "{} shares the table of field {field}; there are {}",
                    list.name,
                    self.inputs.fields.len()
                ),
            }
        }
        let most = u32::MAX as usize;
        for (name, rows) in tables {
            if !(MIN_TABLE_ROWS as usize..=most).contains(&rows) {
                bail!("the table of {name} has {rows} rows; needed: {MIN_TABLE_ROWS} to {most}");
            }
        }
        if !self.logit_shift.is_finite() {
            bail!("logit_shift is {}; needed: a number", self.logit_shift);
        }
        Ok(())
    }

    /// Builds the model and loads its weights from `model.safetensors`.
    pub fn load(&self, folder: &FilePath) -> Result<(CompiledModel, Model<f32>)> {
        let compiled = self.contender.compile(&self.inputs, self.layer_norm)?;
        let mut model = compiled.initialise::<f32>(0, 0)?;
        load_weights(folder, &compiled.tensors, &mut model)?;
        Ok((compiled, model))
    }
}

/// Loads `model.safetensors` of a folder into a model that has these parameters.
pub fn load_weights(
    folder: &FilePath,
    tensors: &[LogicalTensor],
    model: &mut Model<f32>,
) -> Result<()> {
    let path = folder.join("model.safetensors");
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = SafeTensors::deserialize(&bytes)
        .with_context(|| format!("{} is not a safetensors file", path.display()))?;
    load_tensors(tensors, model, &file).with_context(|| format!("{}", path.display()))
}

/// Calls `visit(flat index, parameter row, first element)` for every row of the parts.
fn for_each_row(
    tensor: &LogicalTensor,
    model: &Model<f32>,
    mut visit: impl FnMut(usize, palmette_engine::ParamId, usize, usize),
) {
    let width = *tensor.shape.last().unwrap_or(&1);
    let mut start = 0;
    for &part in &tensor.parts {
        let spec = model.params.layout().spec(part);
        for row in 0..spec.rows {
            let flat = match tensor.arrangement {
                Arrangement::Columns => row * width + start,
                Arrangement::Stacked => start + row * spec.cols,
            };
            visit(flat, part, row, spec.cols);
        }
        start += match tensor.arrangement {
            Arrangement::Columns => spec.cols,
            Arrangement::Stacked => spec.rows * spec.cols,
        };
    }
}

fn gather(tensor: &LogicalTensor, model: &Model<f32>) -> Vec<f32> {
    let mut flat = vec![0.0; tensor.shape.iter().product()];
    for_each_row(tensor, model, |at, part, row, cols| {
        flat[at..at + cols].copy_from_slice(model.params.row(part, row));
    });
    flat
}

fn little_endian(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(f32::to_le_bytes).collect()
}

/// Writes all tensors and tables as safetensors, a block at a time: the tables of a trained model
/// are most of what the process holds, and no copy of them is made.
fn write_safetensors(
    tensors: &[LogicalTensor],
    model: &Model<f32>,
    metadata: HashMap<String, String>,
    out: &mut dyn Write,
) -> Result<()> {
    const BLOCK_ROWS: usize = 4096;
    const BLOCK: usize = 1 << 16;
    enum Source<'a> {
        Tensor(&'a LogicalTensor),
        Table(usize),
    }
    let mut sources: Vec<(&str, Source<'_>)> =
        tensors.iter().map(|tensor| (tensor.name.as_str(), Source::Tensor(tensor))).collect();
    for index in 0..model.tables.len() {
        sources.push((&model.tables.table(index).spec().name, Source::Table(index)));
    }
    // The format's order among tensors of one number type.
    sources.sort_by_key(|source| source.0);
    let mut infos = Vec::with_capacity(sources.len());
    let mut start = 0;
    for (name, source) in &sources {
        let shape = match source {
            Source::Tensor(tensor) => tensor.shape.clone(),
            Source::Table(index) => {
                let spec = model.tables.table(*index).spec();
                vec![spec.rows, spec.dim]
            }
        };
        let end = start + shape.iter().product::<usize>() * size_of::<f32>();
        let info = TensorInfo { dtype: Dtype::F32, shape, data_offsets: (start, end) };
        infos.push(((*name).to_owned(), info));
        start = end;
    }
    let mut header = serde_json::to_vec(&Metadata::new(Some(metadata), infos)?)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (_, source) in sources {
        match source {
            Source::Tensor(tensor) => {
                for block in gather(tensor, model).chunks(BLOCK) {
                    out.write_all(&little_endian(block.iter().copied()))?;
                }
            }
            Source::Table(index) => {
                let table = model.tables.table(index);
                let (rows, dim) = (table.spec().rows, table.spec().dim);
                let mut weights = Vec::new();
                for first in (0..rows).step_by(BLOCK_ROWS) {
                    let block = first..rows.min(first + BLOCK_ROWS);
                    weights.resize(block.len() * dim, 0.0);
                    for (row, weights) in block.zip(weights.chunks_exact_mut(dim.max(1))) {
                        table.read_row(row, weights);
                    }
                    out.write_all(&little_endian(weights.iter().copied()))?;
                }
            }
        }
    }
    Ok(())
}

fn load_tensors(
    tensors: &[LogicalTensor],
    model: &mut Model<f32>,
    file: &SafeTensors,
) -> Result<()> {
    let read = |name: &str, shape: &[usize]| -> Result<Vec<f32>> {
        let view = file.tensor(name).with_context(|| format!("tensor {name} is missing"))?;
        if view.shape() != shape || view.dtype() != Dtype::F32 {
            bail!("tensor {name} is {:?} {:?}, expected F32 {shape:?}", view.dtype(), view.shape());
        }
        Ok(view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    };
    for tensor in tensors {
        let flat = read(&tensor.name, &tensor.shape)?;
        let mut rows = Vec::new();
        for_each_row(tensor, model, |at, part, row, cols| rows.push((at, part, row, cols)));
        for (at, part, row, cols) in rows {
            model.params.row_mut(part, row).copy_from_slice(&flat[at..at + cols]);
        }
    }
    for index in 0..model.tables.len() {
        let spec = model.tables.table(index).spec().clone();
        let flat = read(&spec.name, &[spec.rows, spec.dim])?;
        for row in 0..spec.rows {
            let weights = &flat[row * spec.dim..(row + 1) * spec.dim];
            model.tables.table_mut(index).write_row(row, weights);
        }
    }
    Ok(())
}

/// Writes weights, graph and encoders of a trained model into `folder`.
pub fn export_model(
    folder: &FilePath,
    name: &str,
    description: &ModelDescription,
    tensors: &[LogicalTensor],
    program: &Program,
    model: &Model<f32>,
    encoders: &EncodersFile,
) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut metadata = HashMap::new();
    metadata.insert("producer".to_owned(), format!("palmette {}", env!("CARGO_PKG_VERSION")));
    write_whole(&folder.join("model.safetensors"), |out| {
        write_safetensors(tensors, model, metadata, out)
    })?;
    let lists: Vec<&str> = description.inputs.lists.iter().map(|l| l.name.as_str()).collect();
    let encoded = export(&Export {
        name,
        lists: &lists,
        program,
        model,
        transforms: &description.transforms,
        logit_shift: description.logit_shift,
        metadata: &[("producer", concat!("palmette ", env!("CARGO_PKG_VERSION")))],
    })?
    .encode(&ExternalData::default())?;
    if let Some(external) = &encoded.external {
        write_whole(&folder.join(&ExternalData::default().file_name), |mut out| {
            Ok(external.write_to(&mut out)?)
        })?;
    }
    write_whole(&folder.join("model.onnx"), |mut out| Ok(encoded.model.write_to(&mut out)?))?;
    write_json(&folder.join("encoders.json"), encoders)?;
    write_json(&folder.join("model.json"), description)
}

/// Writes pretty JSON as a whole.
pub fn write_json<T: Serialize>(path: &FilePath, value: &T) -> Result<()> {
    write_whole(path, |out| {
        serde_json::to_writer_pretty(&mut *out, value)?;
        Ok(out.write_all(b"\n")?)
    })
}

/// Writes a drawing of an architecture.
pub fn write_drawing(
    path: &FilePath,
    architecture: &Path,
    shape: Shape,
    title: &str,
    subtitle: &str,
) -> Result<()> {
    let (blocks, head) = macs_by_block(architecture, shape);
    let macs = |part: Part| {
        let block = |number: usize| blocks.get(number.wrapping_sub(1));
        match part {
            Part::Dense(number) => block(number).map(|b| b.dense),
            Part::Sparse(number) => block(number).map(|b| b.sparse),
            Part::DenseToSparse(number) => block(number).map(|b| b.dense_to_sparse),
            Part::SparseToDense(number) => block(number).map(|b| b.sparse_to_dense),
            Part::Head => Some(head),
        }
    };
    let drawing = Drawing { path: architecture, shape, title, subtitle, macs: &macs };
    let svg = architecture_svg(&drawing)?;
    write_whole(path, |out| Ok(out.write_all(svg.as_bytes())?))
}

/// Fitted transforms of a dataset's dense fields.
pub fn transforms(dataset: &Dataset) -> Vec<DenseTransform> {
    dataset.manifest().encoders.dense.iter().map(|f| f.transform).collect()
}

/// Everything under `best/`.
pub(super) fn export_run(
    context: &RunContext<'_>,
    files: &RunFiles,
    space: &LimitedSpace,
    trial: &Trial,
    tensors: &[LogicalTensor],
    training: &NetworkTraining<'_>,
    table_rows: &[u32],
) -> Result<()> {
    let Contender::Network(path) = &trial.contender else {
        bail!("only networks have an architecture")
    };
    let folder = files.dir().join("best");
    let dataset = std::path::absolute(context.dataset.dir())?;
    let description = ModelDescription {
        contender: trial.contender.clone(),
        inputs: context.inputs(table_rows),
        layer_norm: context.config.train.network.layer_norm,
        transforms: transforms(context.dataset),
        dataset,
        logit_shift: 0.0,
    };
    let config: &NasRecConfig = space.nasrec().config();
    let file = ArchitectureFile {
        test_loss: trial.validation_log_loss,
        ..ArchitectureFile::new(path.clone(), config)
    };
    write_json(&folder.join("arch.json"), &file.to_json()?)?;
    let sheet = space.sheet_of(path);
    write_json(&folder.join("cost.json"), &sheet)?;
    let shape = description.inputs.shape();
    let subtitle = format!(
        "{} multiply-accumulates, {} weights",
        palmette_cost::format_count(sheet.macs),
        palmette_cost::format_count(sheet.params)
    );
    write_drawing(&folder.join("arch.svg"), path, shape, "The architecture found", &subtitle)?;
    export_model(
        &folder,
        "palmette",
        &description,
        tensors,
        training.program(),
        &training.model,
        &EncodersFile::from_dataset(context.dataset)?,
    )
}

/// Writes `summary.json`.
pub(super) fn write_summary(store: &RunStore, summary: &Summary) -> Result<()> {
    write_json(&store.dir().join("summary.json"), summary)
}
