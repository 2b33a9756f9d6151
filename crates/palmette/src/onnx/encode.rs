//! From a finished graph to bytes.

use std::borrow::Cow;
use std::io::{self, Write};

use prost::{Message, encode_length_delimiter, length_delimiter_len};

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

/// The files of a model.
pub struct Encoded<'a> {
    /// The model file.
    pub model: ModelFile<'a>,
    /// The second file, where one is needed.
    pub external: Option<ExternalFile<'a>>,
}

/// A protobuf message whose large weights are read only while it is written.
pub struct ModelFile<'a> {
    /// Encoded bytes, and the weights that follow them.
    pieces: Vec<(Vec<u8>, Data<'a>)>,
    /// Encoded bytes after the last weights.
    end: Vec<u8>,
}

/// Weights outside the model file.
pub struct ExternalFile<'a> {
    /// Name that the model refers to.
    pub file_name: String,
    tensors: Vec<(usize, Data<'a>)>,
}

impl<'a> Model<'a> {
    /// Encodes the model but for its large weights; equal graphs give equal bytes.
    pub fn encode(self, options: &ExternalData) -> Result<Encoded<'a>, OnnxError> {
        if let Some(name) = self.duplicate {
            return Err(OnnxError::Duplicate(name));
        }
        let total: usize = self.initialisers.iter().map(|i| i.data.bytes()).sum();
        let mut tensors = Vec::new();
        let mut offset = 0;
        let mut inside = Vec::with_capacity(self.initialisers.len());
        for initialiser in self.initialisers {
            let Initialiser { name, shape, data } = initialiser;
            let length = data.bytes();
            let mut tensor = TensorProto {
                dims: shape.iter().map(|&size| size as i64).collect(),
                data_type: data.kind() as i32,
                name,
                ..TensorProto::default()
            };
            if total > options.above && length >= SMALL {
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
                inside.push((tensor, None));
            } else {
                inside.push((tensor, Some(data)));
            }
        }
        let model = ModelFile::new(self.graph, inside, self.metadata)?;
        let file_name = options.file_name.clone();
        let external = (!tensors.is_empty()).then_some(ExternalFile { file_name, tensors });
        Ok(Encoded { model, external })
    }
}

/// First byte of a field of known length; all numbers of fields used here are below 16.
const fn length_delimited(field: u8) -> u8 {
    const LENGTH_DELIMITED: u8 = 2;
    field << 3 | LENGTH_DELIMITED
}

/// `ModelProto.graph`, `GraphProto.initializer`, `TensorProto.raw_data`.
const GRAPH: u8 = length_delimited(7);
const INITIALISER: u8 = length_delimited(5);
const RAW_DATA: u8 = length_delimited(9);

/// Bytes of a field of `length` bytes with what stands before them.
fn field_len(length: usize) -> usize {
    1 + length_delimiter_len(length) + length
}

fn start_field(key: u8, length: usize, out: &mut Vec<u8>) -> Result<(), OnnxError> {
    out.push(key);
    encode_length_delimiter(length, out).map_err(|_| too_large(length))
}

fn too_large(bytes: usize) -> OnnxError {
    OnnxError::TooLarge { bytes, limit: MESSAGE_LIMIT }
}

impl<'a> ModelFile<'a> {
    /// Lays the message out in the order of field numbers, which is prost's and every writer's:
    /// a graph's nodes and name come before its initialisers, inputs and outputs after them.
    fn new(
        graph: GraphProto,
        initialisers: Vec<(TensorProto, Option<Data<'a>>)>,
        metadata_props: Vec<StringStringEntryProto>,
    ) -> Result<Self, OnnxError> {
        let GraphProto { node, name, initializer: _, input, output } = graph;
        let graph = GraphProto { node, name, ..GraphProto::default() };
        let ends = GraphProto { input, output, ..GraphProto::default() };
        let tensor_len = |(tensor, data): &(TensorProto, Option<Data>)| {
            let length = data.as_ref().map_or(0, Data::bytes);
            tensor.encoded_len() + if length > 0 { field_len(length) } else { 0 }
        };
        let tensors: usize = initialisers.iter().map(|i| field_len(tensor_len(i))).sum();
        let length = graph.encoded_len() + tensors + ends.encoded_len();

        let model = ModelProto {
            ir_version: IR_VERSION,
            producer_name: "palmette".into(),
            producer_version: env!("CARGO_PKG_VERSION").into(),
            ..ModelProto::default()
        };
        let (mut pieces, mut bytes) = (Vec::new(), model.encode_to_vec());
        start_field(GRAPH, length, &mut bytes)?;
        bytes.extend(graph.encode_to_vec());
        for initialiser in initialisers {
            start_field(INITIALISER, tensor_len(&initialiser), &mut bytes)?;
            let (tensor, data) = initialiser;
            bytes.extend(tensor.encode_to_vec());
            let Some(data) = data.filter(|data| data.bytes() > 0) else { continue };
            start_field(RAW_DATA, data.bytes(), &mut bytes)?;
            if data.bytes() < SMALL {
                data.write(&mut |block| bytes.extend_from_slice(block));
            } else {
                pieces.push((std::mem::take(&mut bytes), data));
            }
        }
        bytes.extend(ends.encode_to_vec());
        let rest = ModelProto {
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPERATOR_SET }],
            metadata_props,
            ..ModelProto::default()
        };
        bytes.extend(rest.encode_to_vec());
        let file = Self { pieces, end: bytes };
        if file.len() > MESSAGE_LIMIT { Err(too_large(file.len())) } else { Ok(file) }
    }

    /// Bytes of the file.
    pub fn len(&self) -> usize {
        let pieces = self.pieces.iter().map(|(bytes, data)| bytes.len() + data.bytes());
        pieces.sum::<usize>() + self.end.len()
    }

    /// Whether there is nothing to write; a model has a version at least.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the file from its start, in blocks of some 64 KiB.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        for (bytes, data) in &self.pieces {
            out.write_all(bytes)?;
            data.write_to(out)?;
        }
        out.write_all(&self.end)
    }

    /// The file in memory.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len());
        for (bytes, data) in &self.pieces {
            all.extend_from_slice(bytes);
            data.write(&mut |block| all.extend_from_slice(block));
        }
        all.extend_from_slice(&self.end);
        all
    }
}

impl ExternalFile<'_> {
    /// Writes the second file from its start; buffer the writer.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut position = 0;
        for (offset, data) in &self.tensors {
            out.write_all(&vec![0; offset - position])?;
            data.write_to(out)?;
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

    /// Writes the little-endian bytes.
    fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut result = Ok(());
        self.write(&mut |block| {
            if result.is_ok() {
                result = out.write_all(block);
            }
        });
        result
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

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::graph::{Dim, GraphBuilder};
    use super::super::proto::ModelProto;
    use super::*;

    /// What is written piece by piece is what the whole message encodes to.
    #[test]
    fn pieces_make_up_the_message() {
        for (rows, above) in [(3, 1 << 30), (2_000, 1 << 30), (2_000, 0)] {
            let mut graph = GraphBuilder::new("pieces");
            let x = graph.input("x", ElementType::F32, &[Dim::Named("batch"), Dim::Fixed(7)]);
            let table = graph.table("table", rows, 7, |row, out| out.fill(row as f32 + 0.25));
            let small = graph.weights("small", &[1, 1], vec![0.5]).unwrap();
            let none = graph.weights("none", &[0, 7], Vec::new()).unwrap();
            let joined = graph.concat(&[&table, &none], 0);
            let y = graph.linear(&x, &joined, None);
            let z = graph.binary("Mul", &y, &small);
            graph.output("z", &z, &[Dim::Named("batch"), Dim::Fixed(rows)]);
            graph.metadata("producer", "test");
            let options = ExternalData { above, ..ExternalData::default() };
            let encoded = graph.finish().encode(&options).unwrap();
            let bytes = encoded.model.to_vec();
            let mut written = Vec::new();
            encoded.model.write_to(&mut written).unwrap();
            assert!(bytes == written && bytes.len() == encoded.model.len(), "{rows} {above}");
            let message = ModelProto::decode(&bytes[..]).unwrap();
            assert!(message.encode_to_vec() == bytes, "{rows} {above}");
            let initialisers = message.graph.unwrap().initializer;
            let raw = &initialisers.iter().find(|i| i.name == "table").unwrap().raw_data;
            let expect = if above == 0 { 0 } else { 4 * 7 * rows };
            assert_eq!(raw.len(), expect);
            let held: usize = encoded.model.pieces.iter().map(|piece| piece.0.len()).sum();
            assert!(held + encoded.model.end.len() < 3_000, "the table is not in memory");
        }
    }
}
