/*!
What only a machine can tell of a network: the memory that trainings peak at, and how long a
prediction takes.

Memory is foretold from what is allocated ([`TrainingMemory`], [`RunMemory`]); time is measured
([`LatencyProbe`]), through this crate's engine, which is what exported weights were trained with
and gives the same numbers as the exported ONNX model.
*/

mod latency;
mod memory;
mod system;

pub use latency::{Latency, LatencyProbe};
pub use memory::{DatasetMemory, MemoryPart, RunMemory, SEARCH_BYTES, TrainingMemory, model_bytes};
pub use system::{available_memory, peak_memory};
