//! Kernel sources and their compilation by NVRTC.

use std::ffi::{CString, c_char};
use std::path::PathBuf;

use cudarc::nvrtc::sys;
use sha2::{Digest, Sha256};

use super::options::{GpuElement, GpuOptions};
use crate::JaggedError;

/// A kernel source with what it is put together from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    Support,
    Plain,
    Mma,
    HopperForward,
    HopperBackward,
    HopperBackwardFast,
    Hstu,
    Operators,
    Softmax,
    Products,
    HopperDense,
    HopperJagged,
}

impl Source {
    fn text(self) -> String {
        let common = include_str!("kernels/common.cuh");
        let tile = include_str!("kernels/tile.cuh");
        let hopper = include_str!("kernels/hopper.cuh");
        let mma = include_str!("kernels/mma.cuh");
        let mma_tile = include_str!("kernels/mma_tile.cuh");
        let stream = include_str!("kernels/hopper_stream.cuh");
        let operators = include_str!("kernels/operators.cuh");
        let products = include_str!("kernels/hopper_products.cuh");
        match self {
            Self::Support => [common, include_str!("kernels/support.cu")].concat(),
            Self::Plain => [common, include_str!("kernels/plain.cu")].concat(),
            Self::Mma => [common, tile, mma, mma_tile, include_str!("kernels/mma.cu")].concat(),
            Self::Hstu => [common, tile, mma, mma_tile, include_str!("kernels/hstu.cu")].concat(),
            Self::Operators => [common, operators, include_str!("kernels/operators.cu")].concat(),
            Self::Softmax => [common, operators, include_str!("kernels/softmax.cu")].concat(),
            Self::Products => [common, mma, include_str!("kernels/products.cu")].concat(),
            Self::HopperDense => {
                [common, hopper, products, include_str!("kernels/hopper_dense.cu")].concat()
            }
            Self::HopperJagged => {
                [common, hopper, products, include_str!("kernels/hopper_jagged.cu")].concat()
            }
            Self::HopperForward => {
                [common, tile, hopper, include_str!("kernels/hopper_forward.cu")].concat()
            }
            Self::HopperBackward => {
                let kernel = include_str!("kernels/hopper_backward.cu");
                [common, tile, hopper, stream, kernel].concat()
            }
            Self::HopperBackwardFast => {
                let kernel = include_str!("kernels/hopper_backward_fast.cu");
                [common, tile, hopper, stream, kernel].concat()
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Support => "support.cu",
            Self::Plain => "plain.cu",
            Self::Mma => "mma.cu",
            Self::HopperForward => "hopper_forward.cu",
            Self::HopperBackward => "hopper_backward.cu",
            Self::HopperBackwardFast => "hopper_backward_fast.cu",
            Self::Hstu => "hstu.cu",
            Self::Operators => "operators.cu",
            Self::Softmax => "softmax.cu",
            Self::Products => "products.cu",
            Self::HopperDense => "hopper_dense.cu",
            Self::HopperJagged => "hopper_jagged.cu",
        }
    }
}

/// A compiled kernel source.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// What was compiled and with which definitions.
    pub name: String,
    /// The binary for the device.
    pub binary: Vec<u8>,
    /// The assembler's report: registers, stack, spills of each kernel.
    pub report: String,
}

pub(super) fn gpu_error(reason: impl Into<String>) -> JaggedError {
    JaggedError::Gpu { reason: reason.into() }
}

fn check_nvrtc() -> Result<(), JaggedError> {
    // SAFETY: only opens and closes the library.
    if unsafe { sys::is_culib_present() } {
        return Ok(());
    }
    Err(gpu_error(
        "NVRTC (libnvrtc.so of CUDA 12.3 or later) was not found: install the CUDA runtime \
         compiler, or PyPI's nvidia-cuda-nvrtc with its folder on LD_LIBRARY_PATH",
    ))
}

fn checked(result: sys::nvrtcResult, what: &str) -> Result<(), JaggedError> {
    if result == sys::nvrtcResult::NVRTC_SUCCESS {
        Ok(())
    } else {
        Err(gpu_error(format!("{what}: NVRTC answered {result:?}")))
    }
}

/// What NVRTC is told besides, for profilers and checkers: `--generate-line-info`, or
/// `-DARRIVALS=32` (`kernels/hopper.cuh`).
fn more_options() -> String {
    std::env::var("PALMETTE_NVRTC_OPTIONS").unwrap_or_default()
}

/// Compiles a source for an architecture such as `sm_90a`; needs NVRTC, no GPU.
pub(super) fn compile(
    source: Source,
    arch: &str,
    definitions: &[String],
) -> Result<Compiled, JaggedError> {
    check_nvrtc()?;
    let name = format!("{} {}", source.name(), definitions.join(" "));
    let c_string = |text: String| CString::new(text).map_err(|error| gpu_error(error.to_string()));
    let text = c_string(source.text())?;
    let file = c_string(source.name().into())?;
    let mut options = vec![
        c_string(format!("--gpu-architecture={arch}"))?,
        c_string("--std=c++17".into())?,
        c_string("--ptxas-options=-v".into())?,
    ];
    for definition in definitions {
        options.push(c_string(format!("-D{definition}"))?);
    }
    for option in more_options().split_whitespace() {
        options.push(c_string(option.into())?);
    }
    let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    let mut program = std::ptr::null_mut();
    // SAFETY: every pointer outlives its call, sizes come from NVRTC, the program
    // is destroyed on every path that created it.
    unsafe {
        let none = std::ptr::null();
        let created =
            sys::nvrtcCreateProgram(&mut program, text.as_ptr(), file.as_ptr(), 0, none, none);
        checked(created, &name)?;
        let result = sys::nvrtcCompileProgram(program, options.len() as i32, options.as_ptr());
        let mut size = 0;
        let mut log = Vec::new();
        if sys::nvrtcGetProgramLogSize(program, &mut size) == sys::nvrtcResult::NVRTC_SUCCESS {
            log.resize(size, 0u8);
            let _ = sys::nvrtcGetProgramLog(program, log.as_mut_ptr().cast());
        }
        let report = String::from_utf8_lossy(&log).trim_end_matches('\0').to_string();
        let mut binary = Vec::new();
        let outcome = checked(result, &format!("{name}: {report}")).and_then(|()| {
            checked(sys::nvrtcGetCUBINSize(program, &mut size), &name)?;
            binary.resize(size, 0u8);
            checked(sys::nvrtcGetCUBIN(program, binary.as_mut_ptr().cast()), &name)
        });
        let _ = sys::nvrtcDestroyProgram(&mut program);
        outcome.map(|()| Compiled { name, binary, report })
    }
}

/// The binary from the cache folder, or compiled and kept there.
pub(super) fn compile_cached(
    source: Source,
    arch: &str,
    definitions: &[String],
) -> Result<Vec<u8>, JaggedError> {
    check_nvrtc()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both pointers are valid for the call.
    checked(unsafe { sys::nvrtcVersion(&mut major, &mut minor) }, "the version")?;
    let mut hash = Sha256::new();
    let (text, version, more) = (source.text(), format!("{major}.{minor}"), more_options());
    for part in [&text, arch, &definitions.join(" "), &version, &more] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let key: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let path = cache_folder().map(|folder| folder.join(format!("{key}.cubin")));
    if let Some(kept) = path.as_ref().and_then(|path| std::fs::read(path).ok()) {
        return Ok(kept);
    }
    let binary = compile(source, arch, definitions)?.binary;
    if let Some(path) = path {
        // A cache that cannot be written only costs the next start a compilation.
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let folder = path.parent().map(std::fs::create_dir_all);
        if matches!(folder, Some(Ok(()))) && std::fs::write(&temporary, &binary).is_ok() {
            let _ = std::fs::rename(&temporary, &path);
        }
    }
    Ok(binary)
}

fn cache_folder() -> Option<PathBuf> {
    let variable =
        |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("PALMETTE_CACHE_DIR")
        .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("palmette")))
        .or_else(|| variable("HOME").map(|folder| folder.join(".cache/palmette")))
        .map(|folder| folder.join("kernels"))
}

/// Compiles every kernel for every head width and type, without a GPU, or those whose source's
/// file has `word` in its name.
pub fn compile_report(arch: &str, word: &str) -> Result<Vec<Compiled>, JaggedError> {
    let wanted = |(source, _): &(Source, Vec<String>)| source.name().contains(word);
    let kernels = super::tiles::every_kernel(arch).into_iter().filter(wanted);
    kernels.map(|(source, definitions)| compile(source, arch, &definitions)).collect()
}

/// Compiles into the cache what a plan with these options would use on a GPU of
/// architecture `arch` (such as `sm_90a`), without a GPU.
pub fn precompile(
    arch: &str,
    element: GpuElement,
    head_dim: usize,
    options: &GpuOptions,
) -> Result<(), JaggedError> {
    for (source, definitions) in super::tiles::kernels_of(arch, element.code(), head_dim, options) {
        compile_cached(source, arch, &definitions)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;
    use crate::cuda::{BackwardMode, ForwardTile};

    /// The kernels that a H100 runs at the usual head dimensions keep everything in registers.
    #[test]
    fn hopper_kernels_do_not_spill() {
        if let Err(error) = check_nvrtc() {
            eprintln!("skipped: {error}");
            return;
        }
        let options = GpuOptions { mode: BackwardMode::Fast, ..GpuOptions::default() };
        let mut kernels: Vec<_> = [64, 128]
            .into_iter()
            .flat_map(|d| crate::cuda::tiles::kernels_of("sm_90a", 1, d, &options))
            .collect();
        kernels.push((Source::Hstu, vec!["ELEMENT=1".into(), "HEAD_DIM=64".into()]));
        let small = crate::cuda::tiles::operators("sm_90a", GpuElement::Bf16);
        let widest = |definitions: &Vec<String>| definitions.contains(&"VECTOR=8".into());
        kernels.extend(small.into_iter().filter(|(source, definitions)| match source {
            Source::Operators | Source::Softmax => widest(definitions),
            source => matches!(source, Source::HopperDense | Source::HopperJagged),
        }));
        kernels.par_iter().for_each(|(source, definitions)| {
            let compiled = compile(*source, "sm_90a", definitions).unwrap();
            for line in compiled.report.lines() {
                if line.contains("registers") {
                    println!("{}: {line}", compiled.name);
                }
                let spilled = line.split_once(" bytes spill stores").map(|(before, _)| {
                    before.rsplit(' ').next().and_then(|bytes| bytes.parse::<u32>().ok()).unwrap()
                });
                // Eight registers, and still 8 % faster than the shape that spills none.
                let long_rows = ForwardTile::best(64, usize::MAX, true).definitions(1, 64);
                let allowed = if *definitions == long_rows { 32 } else { 0 };
                assert!(spilled.is_none_or(|n| n <= allowed), "{}: {line}", compiled.name);
            }
            let serialised = compiled.report.contains("instructions are serialized");
            assert!(!serialised, "{} is serialised", compiled.name);
        });
    }

    /// Needs NVRTC but no GPU; says so and passes where it is absent.
    #[test]
    fn kernels_compile_for_ampere_and_hopper() {
        if let Err(error) = check_nvrtc() {
            eprintln!("skipped: {error}");
            return;
        }
        // One of each source; `compile_report` (run by the example) covers all.
        let both = |head_dim| vec!["ELEMENT=1".to_string(), format!("HEAD_DIM={head_dim}")];
        for arch in ["sm_80", "sm_90a"] {
            assert!(!compile(Source::Plain, arch, &both(40)).unwrap().binary.is_empty());
            assert!(!compile(Source::Mma, arch, &both(40)).unwrap().binary.is_empty());
            assert!(
                !compile(Source::Support, arch, &crate::cuda::tiles::support(1, 40))
                    .unwrap()
                    .binary
                    .is_empty()
            );
            assert!(!compile(Source::Hstu, arch, &both(40)).unwrap().binary.is_empty());
            let small = crate::cuda::tiles::operators(arch, GpuElement::Bf16);
            let softmax = small.iter().find(|(source, _)| *source == Source::Softmax).unwrap();
            assert!(!compile(softmax.0, arch, &softmax.1).unwrap().binary.is_empty());
        }
        let error = compile(Source::Plain, "sm_80", &[]).unwrap_err().to_string();
        assert!(error.contains("HEAD_DIM"), "{error}");
    }
}
