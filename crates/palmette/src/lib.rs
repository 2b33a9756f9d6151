/*!
How results leave Palmette: a drawing, an ONNX file, a report.

The `palmette` binary is the tool; this library holds the parts of it that
turn finished work into files, so that they can be used and tested alone. Each
is a plain function from values to bytes and none of them touches a disk,
a model in training or a search:

- [`drawing`] draws an architecture as SVG, dead parts faded;
- [`onnx`] writes ONNX models and their external data;
- [`report`] renders one self-contained HTML page.

```
use palmette::drawing::{Drawing, architecture_svg};
use palmette_ctr::nasrec::{Block, DenseOp, Path, Set, Shape, SparseOp};

let block = Block {
    dense_ops: Set::only(DenseOp::Fc as usize),
    sparse_ops: Set::only(SparseOp::Efc as usize),
    dense_sources: Set::only(0),
    sparse_sources: Set::only(0),
    left: Set::only(0),
    right: Set::only(0),
    dense_width: 64,
    sparse_width: 16,
    dense_to_sparse: true,
    sparse_to_dense: false,
};
let path = Path { blocks: vec![block] };
let shape = Shape { dense: 13, fields: 26 };
let svg = architecture_svg(&Drawing { title: "One block", ..Drawing::new(&path, shape) })?;
assert!(svg.starts_with("<svg") && svg.contains("16 + 8 fields"));
# Ok::<(), palmette::drawing::DrawingError>(())
```
*/

pub mod console;
pub mod drawing;
pub mod measured;
pub mod onnx;
pub mod report;
pub mod run;
pub mod studies;
