/*!
The execution engine: programs of typed operators on elastic weights.

No framework has sparse embedding gradients and slices of shared weights
together, and a weight-sharing supernet needs both: a path through it computes
on the first rows and columns of shared matrices, so that it costs what the
sub-network costs. Three things meet here:

* A [`ParamStore`] and [`Tables`] own named parameters at their maximal size,
  with the optimiser's state and without gradients.
* A [`Program`] lists operators ([`ops`]) on virtual buffers; a fresh path is a
  fresh program, built in microseconds into the memory of the last.
* An [`Executor`] runs forward, backward and update over planned arenas, with
  the same bits for any number of threads.

```
use palmette_engine::*;

// logit = w2 . relu(W1 x + b1) + b2 on two inputs
let mut layout = ParamLayout::default();
let w1 = layout.matrix("w1", 8, 2, Init::XavierUniform { fan_in: 2, fan_out: 8 });
let b1 = layout.vector("b1", 8, Init::Constant(0.0));
let w2 = layout.vector("w2", 8, Init::XavierUniform { fan_in: 8, fan_out: 1 });
let b2 = layout.vector("b2", 1, Init::Constant(0.0));
let optimizer = Optimizer::Adagrad { epsilon: 1e-2 };
let mut model = Model {
    params: ParamStore::<f32>::new(layout, 7, optimizer.state_slots())?,
    tables: Tables::new(vec![], optimizer.state_slots(), 7)?,
};

let mut program = Program::new();
let x = program.dense_input(2);
let h = program.linear(&[(x, w1)], 8, Epilogue { bias: Some(b1), relu: true, ..Epilogue::default() });
program.head(&[(h, HeadInput::Weight(w2))], Some(b2));
assert_eq!(program.macs(), 2 * 8 + 8);

// exclusive or
let batch = Batch {
    rows: 4,
    dense: &[0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0],
    ids: &[],
    labels: &[0.0, 1.0, 1.0, 0.0],
    weights: &[],
    lists: &[],
};
let mut executor = Executor::new();
let mut losses = vec![];
for index in 0..300 {
    let step = Step { index, learning_rate: 0.1, optimizer, clip_norm: Some(5.0), trainable: Trainable::Everything };
    losses.push(executor.train_step(&mut model, &mut program, &batch, &step)?);
}
assert!(losses[299] < 0.3 * losses[0]);
# Ok::<(), EngineError>(())
```
*/

mod builder;
mod chunk;
mod clock;
mod error;
mod executor;
mod fit;
mod footprint;
mod kernels;
mod lanes;
mod matmul;
mod memory;
pub mod ops;
mod optimizer;
mod panels;
mod params;
mod program;
mod real;
mod sharing;
mod simd;
mod state;
mod tables;

pub use builder::{Epilogue, HeadInput};
pub use clock::TimeSplit;
pub use error::EngineError;
pub use executor::{
    Batch, CHUNK_ROWS, Executor, JaggedIds, Model, Step, TILE_ROWS, Trainable, instruction_set,
};
pub use footprint::{Arenas, Footprint};
pub use matmul::{Precision, ProductRate, counted_macs, product_rates};
pub use optimizer::{Optimizer, Schedule};
pub use params::{Init, ParamId, ParamLayout, ParamSpec, ParamStore};
pub use program::{BufferId, Extent, NORM_EPSILON, NormSlices, Program, SliceId, Span};
pub use real::Real;
pub use tables::{Table, TableOptions, TableSpec, TableStorage, Tables, xavier_normal};
