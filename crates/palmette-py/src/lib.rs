/*!
The native half of the Python package `palmette`: jagged operators on memory that
belongs to PyTorch.

Everything here takes addresses and sizes; `python/palmette/jagged.py` takes them from
tensors, and is what users see. Nothing is copied: CPU operators write into the memory of
their outputs, GPU operators launch on the stream they are given. The interpreter's lock is
released while the CPU computes.
*/

mod cpu;
mod gpu;
mod pool;
mod rows;

use palmette_jagged::JaggedError;
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

/// Address and number of elements of a tensor.
type Buffer = (usize, usize);

/// The Python exception of an error: what the caller can mend is a `ValueError`.
fn exception(error: JaggedError) -> PyErr {
    match error {
        JaggedError::Gpu { .. } => PyRuntimeError::new_err(error.to_string()),
        JaggedError::Overflow { .. } => PyMemoryError::new_err(error.to_string()),
        _ => PyValueError::new_err(error.to_string()),
    }
}

fn unknown_type(name: &str) -> PyErr {
    PyValueError::new_err(format!(
        "the element type is {name}: float32, bfloat16, float16 (and float64 on the CPU) are taken"
    ))
}

/// The module `palmette._native`.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::cpu::{
        attention_backward, attention_forward, dense_bmm, from_padded, hstu_backward, hstu_forward,
        jagged_bmm, set_threads, softmax, softmax_backward, to_padded,
    };
    #[pymodule_export]
    use super::gpu::{GpuAttentionPlan, GpuHstuPlan, GpuOperatorsPlan, GpuProductPlan};
    #[pymodule_export]
    use super::rows::{Attention, Hstu, Rows};
}
