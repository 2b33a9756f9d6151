//! Operators on the CPU.

use half::{bf16, f16};
use palmette_jagged::{
    AttentionGradients, AttentionInput, Bias, Element, HstuInput, JaggedError, JaggedView, Real,
};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::rows::{Attention, Hstu, Rows};
use crate::{Buffer, exception, pool, unknown_type};

/// The elements at an address.
///
/// # Safety
/// The buffer is that many initialised elements which nothing writes during `'a`.
pub(crate) unsafe fn read<'a, T>((address, count): Buffer) -> &'a [T] {
    if count == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(address as *const T, count) }
}

/// The elements at an address, to be written.
///
/// # Safety
/// The buffer is that many elements which nothing else uses during `'a`.
unsafe fn write<'a, T>((address, count): Buffer) -> &'a mut [T] {
    if count == 0 {
        return &mut [];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(address as *mut T, count) }
}

/// Runs the generic body for the element type of that name, without the interpreter's lock.
///
/// In every body the buffers are tensors that the Python caller holds and has checked to be
/// contiguous, on the CPU and of that type; outputs are fresh tensors.
macro_rules! by_type {
    ($py:expr, $name:expr, $T:ident => $body:expr) => {{
        let result: Result<Result<(), JaggedError>, _> = match $name {
            "float32" => $py.detach(|| {
                type $T = f32;
                pool::run(|| $body)
            }),
            "float64" => $py.detach(|| {
                type $T = f64;
                pool::run(|| $body)
            }),
            "bfloat16" => $py.detach(|| {
                type $T = bf16;
                pool::run(|| $body)
            }),
            "float16" => $py.detach(|| {
                type $T = f16;
                pool::run(|| $body)
            }),
            other => return Err(unknown_type(other)),
        };
        let no_threads = |error| PyRuntimeError::new_err(format!("no threads: {error}"));
        result.map_err(no_threads)?.map_err(exception)
    }};
}

/// Sets the number of threads of CPU operators, once, before the first of them runs.
#[pyfunction]
pub fn set_threads(threads: usize) -> PyResult<()> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .map_err(|error| PyRuntimeError::new_err(format!("the number of threads is set: {error}")))
}

/// The bias of a call, in the type of sums.
type BiasBuffer = Option<(Buffer, [usize; 4])>;

unsafe fn bias_of<'a, S: Real>(bias: BiasBuffer) -> Option<Bias<'a, S>> {
    bias.map(|(buffer, [batch, heads, max_q, max_k])| {
        // SAFETY: the caller's promise.
        Bias { values: unsafe { read(buffer) }, batch, heads, max_q, max_k }
    })
}

unsafe fn attention_input<'a, T: Element>(
    [q, k, v]: [Buffer; 3],
    rows: (&'a Rows, &'a Rows),
    bias: BiasBuffer,
) -> AttentionInput<'a, T> {
    // SAFETY: the caller's promise.
    unsafe {
        AttentionInput {
            q: read(q),
            k: read(k),
            v: read(v),
            offsets_q: &rows.0.offsets,
            offsets_k: &rows.1.offsets,
            bias: bias_of(bias),
        }
    }
}

/// `operands` are q, k, v; writes the output and the log-sum-exp.
#[pyfunction]
pub fn attention_forward(
    py: Python<'_>,
    element: &str,
    attention: &Attention,
    rows: (PyRef<'_, Rows>, PyRef<'_, Rows>),
    operands: [Buffer; 3],
    bias: BiasBuffer,
    out: Buffer,
    lse: Buffer,
) -> PyResult<()> {
    let rows = (&*rows.0, &*rows.1);
    by_type!(py, element, T => {
        // SAFETY: see `by_type`.
        let input = unsafe { attention_input::<T>(operands, rows, bias) };
        let (out, lse) = unsafe { (write(out), write(lse)) };
        attention.attention.forward(&input, out, lse)
    })
}

/// `saved` are output, log-sum-exp and the output's gradient; writes dq, dk, dv and dbias.
#[pyfunction]
pub fn attention_backward(
    py: Python<'_>,
    element: &str,
    attention: &Attention,
    rows: (PyRef<'_, Rows>, PyRef<'_, Rows>),
    operands: [Buffer; 3],
    bias: BiasBuffer,
    saved: [Buffer; 3],
    gradients: [Buffer; 3],
    dbias: Option<Buffer>,
) -> PyResult<()> {
    let rows = (&*rows.0, &*rows.1);
    by_type!(py, element, T => {
        // SAFETY: see `by_type`.
        unsafe {
            let input = attention_input::<T>(operands, rows, bias);
            let [dq, dk, dv] = gradients;
            let gradients = AttentionGradients {
                dq: write(dq),
                dk: write(dk),
                dv: write(dv),
                dbias: dbias.map(|dbias| write(dbias)),
            };
            let [out, lse, d_out] = saved;
            let attention = &attention.attention;
            attention.backward(&input, read(out), read(lse), read(d_out), gradients)
        }
    })
}

unsafe fn hstu_input<'a, T: Element>([q, k, v]: [Buffer; 3], rows: &'a Rows) -> HstuInput<'a, T> {
    // SAFETY: the caller's promise.
    unsafe { HstuInput { q: read(q), k: read(k), v: read(v), offsets: &rows.offsets } }
}

/// HSTU attention: writes the output.
#[pyfunction]
pub fn hstu_forward(
    py: Python<'_>,
    element: &str,
    hstu: &Hstu,
    rows: &Rows,
    operands: [Buffer; 3],
    out: Buffer,
) -> PyResult<()> {
    by_type!(py, element, T => {
        // SAFETY: see `by_type`.
        let (input, out) = unsafe { (hstu_input::<T>(operands, rows), write(out)) };
        hstu.attention()?.forward(&input, out)
    })
}

/// Gradients of HSTU attention: writes dq, dk and dv.
#[pyfunction]
pub fn hstu_backward(
    py: Python<'_>,
    element: &str,
    hstu: &Hstu,
    rows: &Rows,
    operands: [Buffer; 3],
    d_out: Buffer,
    gradients: [Buffer; 3],
) -> PyResult<()> {
    by_type!(py, element, T => {
        // SAFETY: see `by_type`.
        let input = unsafe { hstu_input::<T>(operands, rows) };
        let [dq, dk, dv] = gradients;
        let (d_out, dq, dk, dv) = unsafe { (read(d_out), write(dq), write(dk), write(dv)) };
        hstu.attention()?.backward(&input, d_out, [dq, dk, dv])
    })
}

/// Softmax over each row, of `[T, width]`.
#[pyfunction]
pub fn softmax(
    py: Python<'_>,
    element: &str,
    rows: &Rows,
    width: usize,
    x: Buffer,
    out: Buffer,
) -> PyResult<()> {
    by_type!(py, element, T => {
        // SAFETY: see `by_type`.
        let (x, out) = unsafe { (read::<T>(x), write(out)) };
        palmette_jagged::jagged_softmax(JaggedView::new(x, width, &rows.offsets)?, out)
    })
}

/// Its gradient, from the output and the output's gradient.
#[pyfunction]
pub fn softmax_backward(
    py: Python<'_>,
    element: &str,
    rows: &Rows,
    width: usize,
    y: Buffer,
    dy: Buffer,
    dx: Buffer,
) -> PyResult<()> {
    by_type!(py, element, T => {
        // SAFETY: see `by_type`.
        let (y, dy, dx) = unsafe { (read::<T>(y), read(dy), write(dx)) };
        let y = JaggedView::new(y, width, &rows.offsets)?;
        palmette_jagged::jagged_softmax_backward(y, dy, dx)
    })
}

/// `[T, K]` times `[B, K, M]` (or `[B, M, K]`), sizes `(K, M)`.
#[pyfunction]
pub fn dense_bmm(
    py: Python<'_>,
    element: &str,
    rows: &Rows,
    sizes: (usize, usize),
    transposed: bool,
    x: Buffer,
    y: Buffer,
    z: Buffer,
) -> PyResult<()> {
    by_type!(py, element, T => {
        // SAFETY: see `by_type`.
        let (x, y, z) = unsafe { (read::<T>(x), read(y), write(z)) };
        let x = JaggedView::new(x, sizes.0, &rows.offsets)?;
        palmette_jagged::jagged_dense_bmm(x, y, sizes.1, transposed, z)
    })
}

/// `[T, K]` transposed times `[T, M]`: `[B, K, M]`, sizes `(K, M)`.
#[pyfunction]
pub fn jagged_bmm(
    py: Python<'_>,
    element: &str,
    rows: &Rows,
    sizes: (usize, usize),
    x: Buffer,
    y: Buffer,
    z: Buffer,
) -> PyResult<()> {
    by_type!(py, element, T => {
        // SAFETY: see `by_type`.
        let (x, y, z) = unsafe { (read::<T>(x), read(y), write(z)) };
        let x = JaggedView::new(x, sizes.0, &rows.offsets)?;
        let y = JaggedView::new(y, sizes.1, &rows.offsets)?;
        palmette_jagged::jagged_jagged_bmm(x, y, z)
    })
}

/// `[T, width]` to `[B, N, width]`.
#[pyfunction]
pub fn to_padded(
    py: Python<'_>,
    element: &str,
    rows: &Rows,
    width: usize,
    x: Buffer,
    padding: f64,
    dense: Buffer,
) -> PyResult<()> {
    by_type!(py, element, T => {
        // SAFETY: see `by_type`.
        let (x, dense) = unsafe { (read::<T>(x), write(dense)) };
        let padding = T::narrow(<T as Element>::Sum::of(padding));
        palmette_jagged::jagged_to_padded_dense(JaggedView::new(x, width, &rows.offsets)?, padding, dense)
    })
}

/// `[B, N, width]` to `[T, width]`.
#[pyfunction]
pub fn from_padded(
    py: Python<'_>,
    element: &str,
    rows: &Rows,
    width: usize,
    dense: Buffer,
    x: Buffer,
) -> PyResult<()> {
    by_type!(py, element, T => {
        // SAFETY: see `by_type`.
        let (dense, x) = unsafe { (read::<T>(dense), write(x)) };
        palmette_jagged::dense_to_jagged(dense, &rows.offsets, width, x)
    })
}
