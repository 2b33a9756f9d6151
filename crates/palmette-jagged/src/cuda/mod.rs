//! The CUDA executor: kernels compiled at run time, found at run time.
//!
//! Nothing here needs CUDA to build. The driver and NVRTC are loaded when a [`Gpu`] is
//! opened; a machine without them gets an error that names what is missing. Kernels are
//! CUDA C++ without a single include, compiled for the device at hand on first use and
//! kept as binaries in a cache folder (`PALMETTE_CACHE_DIR`, else the user's).

mod arguments;
mod attention;
mod compile;
mod device;
mod fast;
mod hopper_products;
mod hstu;
mod launch;
mod operators;
mod options;
mod pooled;
mod products;
mod rows;
mod softmax;
mod tiles;

pub use attention::GpuAttention;
pub use compile::{Compiled, compile_report, precompile};
pub use cudarc::driver::CudaStream;
pub use device::{Gpu, KeptContext};
pub use hstu::{GpuHstu, HstuBuffers};
pub use operators::GpuOperators;
pub use options::{BackwardBuffers, BackwardMode, ForwardBuffers, GpuElement, GpuOptions, GpuPath};
pub use products::{GpuProduct, VectorProduct};
pub use rows::{GpuIndexAdd, GpuMatrixSoftmax, GpuRows};
pub use tiles::{BackwardTile, FastTile, ForwardTile};
