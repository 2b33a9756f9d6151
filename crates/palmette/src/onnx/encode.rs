//! From a finished graph to bytes.

use std::borrow::Cow;
use std::io::{self, Write};

use prost::Message;

use super::{
    OnnxError,
    graph::{Data, ElementType, Initialiser},
    proto::{
        EXTERNAL, GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    },
};

const IR_VERSION: i64 = 8;
const OPERATOR_SET: i64 = 18;
/// A protobuf message cannot be longer.
const MESSAGE_LIMIT: usize = i32::MAX as usize;
/// Tensors start at multiples of a page, so that they can be memory-mapped.
const ALIGNMENT: usize = 4096;
/// Smaller tensors stay in the model: readers need shapes and axes before they open other files.
const SMALL: usize = 4096;

/// When weights go to a second file, and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalData {
    /// Total bytes of weights above which large ones move out.
    pub above: usize,
    /// Name of the second file, relative to the model's folder.
    pub file_name: String,
}

impl Default for ExternalData {
    /// Above 1 GiB, to `model.onnx.data`.
    fn default() -> Self {
        Self { above: 1 << 30, file_name: "model.onnx.data".into() }
    }
}

/// A finished graph with its weights.
pub struct Model<'a> {
    pub(super) graph: GraphProto,
    pub(super) initialisers: Vec<Initialiser<'a>>,
    pub(super) metadata: Vec<StringStringEntryProto>,
    pub(super) duplicate: Option<String>,
}

/// The bytes of a model.
pub struct Encoded<'a> {
    /// The model file.
    pub model: Vec<u8>,
    /// The second file, where one is needed.
    pub external: Option<ExternalFile<'a>>,
}

/// Weights outside the model file.
pub struct ExternalFile<'a> {
    /// Name that the model refers to.
    pub file_name: String,
    tensors: Vec<(usize, Data<'a>)>,
}

impl<'a> Model<'a> {
    /// Encodes the model; equal graphs give equal bytes.
    pub fn encode(mut self, options: &ExternalData) -> Result<Encoded<'a>, OnnxError> {
        if let Some(name) = self.duplicate {
            return Err(OnnxError::Duplicate(name));
        }
        let total: usize = self.initialisers.iter().map(|i| i.data.bytes()).sum();
        let mut tensors = Vec::new();
        let mut offset = 0;
        for initialiser in self.initialisers {
            let Initialiser { name, shape, data } = initialiser;
            let mut tensor = TensorProto {
                dims: shape.iter().map(|&size| size as i64).collect(),
                data_type: data.kind() as i32,
                name,
                ..TensorProto::default()
            };
            if total > options.above && data.bytes() >= SMALL {
                let length = data.bytes();
                tensor.data_location = EXTERNAL;
                tensor.external_data = [
                    ("location", options.file_name.clone()),
                    ("offset", offset.to_string()),
                    ("length", length.to_string()),
                ]
                .map(|(key, value)| StringStringEntryProto { key: key.into(), value })
                .to_vec();
                tensors.push((offset, data));
                offset = (offset + length).next_multiple_of(ALIGNMENT);
            } else {
                tensor.raw_data.reserve_exact(data.bytes());
                data.write(&mut |bytes| tensor.raw_data.extend_from_slice(bytes));
            }
            self.graph.initializer.push(tensor);
        }
        let message = ModelProto {
            ir_version: IR_VERSION,
            producer_name: "palmette".into(),
            producer_version: env!("CARGO_PKG_VERSION").into(),
            graph: Some(self.graph),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPERATOR_SET }],
            metadata_props: self.metadata,
        };
        let bytes = message.encoded_len();
        if bytes > MESSAGE_LIMIT {
            return Err(OnnxError::TooLarge { bytes, limit: MESSAGE_LIMIT });
        }
        let file_name = options.file_name.clone();
        let external = (!tensors.is_empty()).then_some(ExternalFile { file_name, tensors });
        Ok(Encoded { model: message.encode_to_vec(), external })
    }
}

impl ExternalFile<'_> {
    /// Writes the second file from its start; buffer the writer.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut position = 0;
        for (offset, data) in &self.tensors {
            let mut result = out.write_all(&vec![0; offset - position]);
            data.write(&mut |bytes| {
                if result.is_ok() {
                    result = out.write_all(bytes);
                }
            });
            result?;
            position = offset + data.bytes();
        }
        Ok(())
    }
}

impl Data<'_> {
    fn kind(&self) -> ElementType {
        match self {
            Data::F32(_) | Data::Rows { .. } => ElementType::F32,
            Data::F64(_) => ElementType::F64,
            Data::I64(_) => ElementType::I64,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Data::F32(data) => size_of_val::<[f32]>(data),
            Data::F64(data) => size_of_val::<[f64]>(data),
            Data::I64(data) => size_of_val::<[i64]>(data),
            Data::Rows { rows, cols, .. } => rows * cols * size_of::<f32>(),
        }
    }

    /// Hands over the little-endian bytes in order, a block at a time.
    fn write(&self, out: &mut impl FnMut(&[u8])) {
        const BLOCK: usize = 16_384;
        let mut bytes = Vec::with_capacity(BLOCK * size_of::<f32>());
        match self {
            Data::F32(data) => {
                let data: &Cow<[f32]> = data;
                for block in data.chunks(BLOCK) {
                    bytes.clear();
                    bytes.extend(block.iter().flat_map(|x| x.to_le_bytes()));
                    out(&bytes);
                }
            }
            Data::Rows { rows, cols, read } => {
                let mut row = vec![0.0; *cols];
                let rows_a_block = (BLOCK / cols.max(&1)).max(1);
                for first in (0..*rows).step_by(rows_a_block) {
                    bytes.clear();
                    for index in first..(first + rows_a_block).min(*rows) {
                        read(index, &mut row);
                        bytes.extend(row.iter().flat_map(|x| x.to_le_bytes()));
                    }
                    out(&bytes);
                }
            }
            Data::F64(data) => data.iter().for_each(|x| out(&x.to_le_bytes())),
            Data::I64(data) => data.iter().for_each(|x| out(&x.to_le_bytes())),
        }
    }
}
