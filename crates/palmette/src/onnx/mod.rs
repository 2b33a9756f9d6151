/*!
Writes models in the Open Neural Network Exchange format.

[`GraphBuilder`] grows a graph node by node; [`GraphBuilder::finish`] gives a
[`Model`], and [`Model::encode`] its files. Large weights are borrowed and read only
while these are written, so that an export holds hardly more than the model itself.
Where they exceed a limit, the large ones go to a second file beside the
model, because a protobuf message ends at 2 GiB. Nothing here touches a disk:
the caller writes both files as it writes all others.

Files are of IR version 8 and operator set 18, which onnxruntime reads since 1.14.

```
use palmette::onnx::{Dim, ElementType, ExternalData, GraphBuilder};

let mut graph = GraphBuilder::new("logistic regression");
let x = graph.input("x", ElementType::F32, &[Dim::Named("batch"), Dim::Fixed(2)]);
let weight = graph.weights("weight", &[1, 2], &[0.5, -0.25])?;
let bias = graph.weights("bias", &[1], &[0.1])?;
let logit = graph.linear(&x, &weight, Some(&bias));
let probability = graph.unary("Sigmoid", &logit);
graph.output("probability", &probability, &[Dim::Named("batch"), Dim::Fixed(1)]);
let encoded = graph.finish().encode(&ExternalData::default())?;
assert!(encoded.external.is_none());
# Ok::<(), palmette::onnx::OnnxError>(())
```
*/

mod encode;
mod encoders;
mod export;
mod graph;
mod inputs;
mod lists;
mod operators;
mod proto;

use thiserror::Error;

pub use encode::{Encoded, ExternalData, ExternalFile, Model, ModelFile};
pub use encoders::{CategoricalField, DenseField, EncodersFile, FieldEncoder, ListField};
pub use export::{Export, export};
pub use graph::{Attribute, Dim, ElementType, GraphBuilder, Value};
pub use lists::PADDING;

/// Why a model cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OnnxError {
    /// The numbers given do not fill the shape.
    #[error("tensor `{name}`: {found} numbers do not fill the shape {shape:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Numbers given.
        found: usize,
    },
    /// Two tensors, inputs or outputs share a name.
    #[error("the name `{0}` is used twice in the graph: every tensor needs its own")]
    Duplicate(String),
    /// The transforms do not fit the program's dense inputs.
    #[error("{found} dense transforms for {expected} dense inputs: one each is needed")]
    Transforms {
        /// Transforms given.
        found: usize,
        /// Dense inputs.
        expected: usize,
    },
    /// A table is too small for the rule that finds its rows.
    #[error("table `{name}` has {rows} rows: at least 2 are needed, one for missing values")]
    Table {
        /// The table.
        name: String,
        /// Its rows.
        rows: usize,
    },
    /// The program reads a list that has no name.
    #[error("the program reads list {list}, {found} have names: one each is needed")]
    Lists {
        /// The list.
        list: usize,
        /// Names given.
        found: usize,
    },
    /// The program lacks a part without which there is no prediction.
    #[error("the program has no {0}: a trained model with one is needed")]
    Incomplete(&'static str),
    /// A vocabulary of the dataset cannot be read.
    #[error("vocabulary {file}: {problem}")]
    Vocabulary {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The message would be larger than protobuf allows.
    #[error(
        "the model would take {bytes} bytes in one file where the format ends at {limit}: \
         lower the limit for external data"
    )]
    TooLarge {
        /// Bytes of the message.
        bytes: usize,
        /// The most that is possible.
        limit: usize,
    },
}
