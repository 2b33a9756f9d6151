//! One GPU with its loaded kernels.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use cudarc::driver::result::ctx;
use cudarc::driver::sys::{
    CUcontext, CUdevice_attribute, CUfunction_attribute_enum, CUstreamCaptureMode,
    cuThreadExchangeStreamCaptureMode, is_culib_present,
};
use cudarc::driver::{CudaContext, CudaFunction, CudaSlice, CudaStream, DeviceRepr, DriverError};
use cudarc::nvrtc::Ptx;

use super::compile::{Source, compile_cached, gpu_error};
use crate::JaggedError;

/// A compiled source with its options and the name of a kernel in it.
type KernelKey = (Source, Vec<String>, &'static str);

/// A GPU: its context, what it can do, and the kernels compiled for it so far.
#[derive(Debug)]
pub struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    capability: (i32, i32),
    processors: u32,
    loaded: Mutex<HashMap<KernelKey, CudaFunction>>,
}

pub(super) fn driver(error: DriverError) -> JaggedError {
    gpu_error(format!("the CUDA driver answered: {error}"))
}

/// The calling thread's capture mode, put back when this goes.
struct CaptureMode(CUstreamCaptureMode);

impl CaptureMode {
    fn relaxed() -> Self {
        let mut mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: changes a flag of this thread; a driver that refuses leaves it as it was.
        let _ = unsafe { cuThreadExchangeStreamCaptureMode(&mut mode) };
        Self(mode)
    }
}

impl Drop for CaptureMode {
    fn drop(&mut self) {
        // SAFETY: as above.
        let _ = unsafe { cuThreadExchangeStreamCaptureMode(&mut self.0) };
    }
}

/// The calling thread's context, put back when this goes: what another library takes for the
/// current device stays that one.
#[derive(Debug)]
pub struct KeptContext(Option<CUcontext>);

impl KeptContext {
    /// Remembers the context of the calling thread.
    #[expect(clippy::new_without_default, reason = "it has an effect")]
    pub fn new() -> Self {
        // SAFETY: only opens the library, and reads a variable of this thread.
        Self(unsafe { is_culib_present() }.then(|| ctx::get_current().ok().flatten()).flatten())
    }
}

impl Drop for KeptContext {
    fn drop(&mut self) {
        if let Some(context) = self.0 {
            // SAFETY: it was this thread's; a driver that refuses leaves what is there.
            let _ = unsafe { ctx::set_current(context) };
        }
    }
}

impl Gpu {
    /// Opens GPU `ordinal`, from 0.
    pub fn new(ordinal: usize) -> Result<Arc<Self>, JaggedError> {
        // SAFETY: only opens and closes the library.
        if !unsafe { is_culib_present() } {
            return Err(gpu_error(
                "the CUDA driver (libcuda.so) was not found: install NVIDIA's driver, or use the CPU",
            ));
        }
        let context = CudaContext::new(ordinal).map_err(driver)?;
        // Work is ordered by the stream it is given; nothing here crosses streams.
        // SAFETY: no buffer of cudarc's is shared between streams.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(driver)?;
        let capability = context.compute_capability().map_err(driver)?;
        if capability < (8, 0) {
            return Err(gpu_error(format!(
                "compute capability {}.{} is too old: 8.0 (Ampere) or later is needed",
                capability.0, capability.1
            )));
        }
        let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let processors = context.attribute(attribute).map_err(driver)? as u32;
        let loaded = Mutex::new(HashMap::new());
        Ok(Arc::new(Self { context, stream, capability, processors, loaded }))
    }

    /// Makes a plan while this thread captures a graph: allocations, uploads and the loading of
    /// kernels, which a capture refuses, go to a stream of their own and are no part of the graph.
    /// The plan must live as long as the graph, whose kernels read its lists.
    pub fn beside_capture<T>(&self, make: impl FnOnce() -> T) -> T {
        let _mode = CaptureMode::relaxed();
        make()
    }

    /// The context, for buffers.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// A stream of its own.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// A list of a plan on the device. It is there when this returns, for calls on any stream.
    pub(super) fn upload<T: DeviceRepr>(&self, list: &[T]) -> Result<CudaSlice<T>, JaggedError> {
        let uploaded = self.stream.clone_htod(list).map_err(driver)?;
        self.stream.synchronize().map_err(driver)?;
        Ok(uploaded)
    }

    /// A stream that another library owns, for calls from the current thread.
    ///
    /// # Safety
    /// `handle` is a `CUstream` of this GPU's primary context (0 is its default stream), and
    /// its owner keeps it alive while what this returns is used.
    pub unsafe fn borrow_stream(&self, handle: u64) -> Result<Arc<CudaStream>, JaggedError> {
        self.context.bind_to_thread().map_err(driver)?;
        // SAFETY: the caller's promise.
        Ok(unsafe { self.context.wrap_borrowed_stream(handle as *mut _) })
    }

    /// The compute capability, such as `(9, 0)`.
    pub fn capability(&self) -> (i32, i32) {
        self.capability
    }

    /// Whether the Hopper path (wgmma) exists here.
    pub fn is_hopper(&self) -> bool {
        self.capability.0 == 9
    }

    /// Number of multiprocessors.
    pub fn processors(&self) -> u32 {
        self.processors
    }

    /// The architecture that kernels are compiled for.
    fn arch(&self) -> String {
        let suffix = if self.is_hopper() { "a" } else { "" };
        format!("sm_{}{}{suffix}", self.capability.0, self.capability.1)
    }

    /// A kernel, compiled on first use, with room for its dynamic shared memory.
    pub(super) fn kernel(
        &self,
        source: Source,
        definitions: Vec<String>,
        name: &'static str,
        shared_bytes: u32,
    ) -> Result<CudaFunction, JaggedError> {
        let key = (source, definitions, name);
        // A panic while compiling leaves the table as it was, so a poisoned lock is usable.
        let mut loaded = self.loaded.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(function) = loaded.get(&key) {
            return Ok(function.clone());
        }
        let _mode = CaptureMode::relaxed();
        let binary = compile_cached(source, &self.arch(), &key.1)?;
        let module = self.context.load_module(Ptx::from_binary(binary)).map_err(driver)?;
        let function = module.load_function(name).map_err(driver)?;
        let limit = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        if shared_bytes > 0 {
            function.set_attribute(limit, shared_bytes as i32).map_err(driver)?;
        }
        loaded.insert(key, function.clone());
        Ok(function)
    }
}
