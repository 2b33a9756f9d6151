//! Operators on a GPU, planned once for a batch's rows.

use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex};

use palmette_jagged::JaggedError;
use palmette_jagged::cuda::{
    BackwardBuffers, BackwardMode, CudaStream, ForwardBuffers, Gpu, GpuAttention, GpuElement,
    GpuHstu, GpuOperators, GpuOptions, GpuPath, GpuProduct, HstuBuffers, KeptContext,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::rows::{Attention, Hstu, Rows};
use crate::{exception, unknown_type};

/// The GPUs opened so far, by ordinal.
static GPUS: Mutex<Vec<(usize, Arc<Gpu>)>> = Mutex::new(Vec::new());

fn gpu(ordinal: usize) -> PyResult<Arc<Gpu>> {
    // A panic while opening leaves the list as it was.
    let mut gpus = GPUS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some((_, gpu)) = gpus.iter().find(|(known, _)| *known == ordinal) {
        return Ok(gpu.clone());
    }
    let gpu = Gpu::new(ordinal).map_err(exception)?;
    gpus.push((ordinal, gpu.clone()));
    Ok(gpu)
}

fn element_of(name: &str) -> PyResult<GpuElement> {
    match name {
        "float32" => Ok(GpuElement::F32),
        "bfloat16" => Ok(GpuElement::Bf16),
        "float16" => Ok(GpuElement::F16),
        other => Err(unknown_type(other)),
    }
}

fn path_of(name: &str) -> PyResult<Option<GpuPath>> {
    match name {
        "auto" => Ok(None),
        "wgmma" => Ok(Some(GpuPath::Wgmma)),
        "mma" => Ok(Some(GpuPath::Mma)),
        "plain" => Ok(Some(GpuPath::Plain)),
        other => Err(PyValueError::new_err(format!(
            "the path is {other:?}: auto, wgmma, mma or plain are taken"
        ))),
    }
}

/// A plan for a GPU and a stream of PyTorch's. Plans count tasks on the device, so that calls that
/// may overlap have plans of their own. PyTorch's current device stays what it is.
struct Planned<P> {
    gpu: Arc<Gpu>,
    stream: u64,
    plan: ManuallyDrop<P>,
}

impl<P> Planned<P> {
    /// Plans, also while a graph is captured.
    fn new(
        (ordinal, stream): (usize, u64),
        make: impl FnOnce(&Arc<Gpu>) -> Result<P, JaggedError>,
    ) -> PyResult<Self> {
        let _kept = KeptContext::new();
        let gpu = gpu(ordinal)?;
        let plan = gpu.beside_capture(|| make(&gpu)).map_err(exception)?;
        Ok(Self { gpu, stream, plan: ManuallyDrop::new(plan) })
    }

    /// Calls the plan on its stream.
    fn call(
        &self,
        call: impl FnOnce(&P, &Arc<CudaStream>) -> Result<(), JaggedError>,
    ) -> PyResult<()> {
        let _kept = KeptContext::new();
        // SAFETY: PyTorch keeps its streams for the life of the process.
        let stream = unsafe { self.gpu.borrow_stream(self.stream) }.map_err(exception)?;
        call(&self.plan, &stream).map_err(exception)
    }
}

impl<P> Drop for Planned<P> {
    fn drop(&mut self) {
        let _kept = KeptContext::new();
        // What the plan frees on the GPU's own stream waits for the calls that are still queued.
        // SAFETY: as above. Without an answer of the driver there is nothing to wait for.
        let _ = unsafe { self.gpu.borrow_stream(self.stream) }
            .map(|stream| self.gpu.stream().join(&stream));
        // SAFETY: once, and nothing uses it afterwards.
        unsafe { ManuallyDrop::drop(&mut self.plan) };
    }
}

// In every call below addresses are those of tensors that the Python caller holds, has
// checked to be contiguous, on the plan's device and of its type and sizes, and orders on
// the plan's stream.

/// Attention planned for rows of queries and keys.
#[pyclass(frozen, module = "palmette._native")]
pub struct GpuAttentionPlan(Planned<GpuAttention>);

#[pymethods]
impl GpuAttentionPlan {
    #[new]
    fn new(
        place: (usize, u64),
        element: &str,
        attention: &Attention,
        rows: (PyRef<'_, Rows>, PyRef<'_, Rows>),
        bias: Option<[usize; 4]>,
        fast: bool,
        path: &str,
    ) -> PyResult<Self> {
        let mode = if fast { BackwardMode::Fast } else { BackwardMode::Deterministic };
        let options = GpuOptions { path: path_of(path)?, mode, bias, ..GpuOptions::default() };
        let element = element_of(element)?;
        let (q, k) = (&rows.0.offsets, &rows.1.offsets);
        let make = |gpu: &_| GpuAttention::new(gpu, attention.attention, element, q, k, options);
        Planned::new(place, make).map(Self)
    }

    /// The family of kernels that forward takes.
    #[getter]
    fn path(&self) -> String {
        self.0.plan.path().to_string()
    }

    /// The family of kernels that backward takes.
    #[getter]
    fn backward_path(&self) -> String {
        self.0.plan.backward_path().to_string()
    }

    /// Bytes of scratch for backward.
    #[getter]
    fn workspace_bytes(&self) -> usize {
        self.0.plan.workspace_bytes()
    }

    /// Addresses of q, k, v, bias (or 0), output, log-sum-exp.
    fn forward(&self, buffers: [u64; 6]) -> PyResult<()> {
        // SAFETY: see above.
        self.0.call(|plan, stream| unsafe { plan.forward(stream, &forward_buffers(buffers)) })
    }

    /// Those of forward, then the output's gradient, delta, dq, dk, dv, dbias and workspace (or 0).
    fn backward(&self, forward: [u64; 6], buffers: [u64; 7]) -> PyResult<()> {
        let [d_output, delta, dq, dk, dv, dbias, workspace] = buffers;
        let forward = forward_buffers(forward);
        let buffers = BackwardBuffers { forward, d_output, delta, dq, dk, dv, dbias, workspace };
        // SAFETY: see above.
        self.0.call(|plan, stream| unsafe { plan.backward(stream, &buffers) })
    }
}

fn forward_buffers([q, k, v, bias, output, lse]: [u64; 6]) -> ForwardBuffers {
    ForwardBuffers { q, k, v, bias, output, lse }
}

/// HSTU attention planned for rows.
#[pyclass(frozen, module = "palmette._native")]
pub struct GpuHstuPlan(Planned<GpuHstu>);

#[pymethods]
impl GpuHstuPlan {
    #[new]
    fn new(place: (usize, u64), element: &str, hstu: &Hstu, rows: &Rows) -> PyResult<Self> {
        let (hstu, element) = (hstu.attention().map_err(exception)?, element_of(element)?);
        Planned::new(place, |gpu| GpuHstu::new(gpu, &hstu, element, &rows.offsets)).map(Self)
    }

    /// Addresses of q, k, v and the output.
    fn forward(&self, buffers: [u64; 4]) -> PyResult<()> {
        let [q, k, v, output] = buffers;
        let buffers = HstuBuffers { q, k, v, output, ..HstuBuffers::default() };
        // SAFETY: see above.
        self.0.call(|plan, stream| unsafe { plan.forward(stream, &buffers) })
    }

    /// Addresses of q, k, v, the output's gradient, dq, dk and dv.
    fn backward(&self, buffers: [u64; 7]) -> PyResult<()> {
        let [q, k, v, d_output, dq, dk, dv] = buffers;
        let buffers = HstuBuffers { q, k, v, output: 0, d_output, dq, dk, dv };
        // SAFETY: see above.
        self.0.call(|plan, stream| unsafe { plan.backward(stream, &buffers) })
    }
}

/// Softmax and padding over one set of rows.
#[pyclass(frozen, module = "palmette._native")]
pub struct GpuOperatorsPlan(Planned<GpuOperators>);

#[pymethods]
impl GpuOperatorsPlan {
    #[new]
    fn new(place: (usize, u64), element: &str, rows: &Rows) -> PyResult<Self> {
        let element = element_of(element)?;
        Planned::new(place, |gpu| GpuOperators::new(gpu, element, &rows.offsets)).map(Self)
    }

    /// `x` and `out` are `[T, width]`.
    fn softmax(&self, width: usize, x: u64, out: u64) -> PyResult<()> {
        // SAFETY: see above.
        self.0.call(|plan, stream| unsafe { plan.softmax(stream, width, x, out) })
    }

    /// The output, its gradient and the input's gradient, `[T, width]` each.
    fn softmax_backward(&self, width: usize, y: u64, dy: u64, dx: u64) -> PyResult<()> {
        // SAFETY: see above.
        self.0.call(|plan, stream| unsafe { plan.softmax_backward(stream, width, y, dy, dx) })
    }

    /// `[T, width]` to `[B, N, width]`.
    fn to_padded(&self, width: usize, x: u64, padding: f32, dense: u64) -> PyResult<()> {
        // SAFETY: see above.
        self.0.call(|plan, stream| unsafe { plan.to_padded(stream, width, x, padding, dense) })
    }

    /// `[B, N, width]` to `[T, width]`.
    fn to_jagged(&self, width: usize, dense: u64, x: u64) -> PyResult<()> {
        // SAFETY: see above.
        self.0.call(|plan, stream| unsafe { plan.to_jagged(stream, width, dense, x) })
    }
}

/// A batched product planned for rows.
#[pyclass(frozen, module = "palmette._native")]
pub struct GpuProductPlan(Planned<GpuProduct>);

#[pymethods]
impl GpuProductPlan {
    /// `kind` is `dense`, `dense transposed` or `jagged`; `sizes` are `K` and `M`.
    #[new]
    fn new(
        place: (usize, u64),
        element: &str,
        rows: &Rows,
        kind: &str,
        sizes: [usize; 2],
    ) -> PyResult<Self> {
        let (element, offsets) = (element_of(element)?, &rows.offsets);
        let is_transposed = kind == "dense transposed";
        match kind {
            "dense" | "dense transposed" => Planned::new(place, |gpu| {
                GpuProduct::dense(gpu, element, offsets, sizes, is_transposed)
            }),
            "jagged" => Planned::new(place, |gpu| GpuProduct::jagged(gpu, element, offsets, sizes)),
            other => return Err(PyValueError::new_err(format!("no product is called {other:?}"))),
        }
        .map(Self)
    }

    /// Addresses of the left and right operand and of the output.
    fn run(&self, a: u64, b: u64, c: u64) -> PyResult<()> {
        // SAFETY: see above.
        self.0.call(|plan, stream| unsafe { plan.run(stream, a, b, c) })
    }
}
