//! Device buffers with poison around and inside them.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DriverError};
use palmette_jagged::cuda::GpuElement;
use palmette_jagged::{Element, Real};

/// An element type with its name on the GPU and its bits.
pub trait Bits: Element {
    const GPU: GpuElement;
    fn to_bytes(values: &[Self]) -> Vec<u8>;
    fn from_bytes(bytes: &[u8]) -> Vec<Self>;
}

macro_rules! bits {
    ($type:ty, $gpu:ident) => {
        impl Bits for $type {
            const GPU: GpuElement = GpuElement::$gpu;
            fn to_bytes(values: &[Self]) -> Vec<u8> {
                values.iter().flat_map(|x| x.to_bits().to_le_bytes()).collect()
            }
            fn from_bytes(bytes: &[u8]) -> Vec<Self> {
                let (chunks, _) = bytes.as_chunks();
                chunks.iter().map(|&chunk| <$type>::from_le_bytes(chunk)).collect()
            }
        }
    };
}
bits!(f32, F32);
bits!(half::bf16, Bf16);
bits!(half::f16, F16);

/// Elements of NaN after every buffer: what is past T must not matter.
const PAST: usize = 1 << 15;

pub struct Buffer {
    bytes: CudaSlice<u8>,
    pub address: u64,
}

impl Buffer {
    /// The values, followed by NaN.
    pub fn of<T: Bits>(stream: &Arc<CudaStream>, values: &[T]) -> Result<Self, DriverError> {
        let mut bytes = T::to_bytes(values);
        bytes.extend(T::to_bytes(&[T::narrow(T::Sum::of(f64::NAN)); PAST]));
        let bytes = stream.clone_htod(&bytes)?;
        let address = bytes.device_ptr(stream).0;
        Ok(Self { bytes, address })
    }

    /// `count` elements of NaN to be written.
    pub fn poisoned<T: Bits>(stream: &Arc<CudaStream>, count: usize) -> Result<Self, DriverError> {
        Self::of::<T>(stream, &vec![T::narrow(T::Sum::of(f64::NAN)); count])
    }

    /// `bytes` of repeated copies of `pool`, shifted by `shift` bytes.
    pub fn repeated(
        stream: &Arc<CudaStream>,
        pool: &CudaSlice<u8>,
        shift: usize,
        bytes: usize,
    ) -> Result<Self, DriverError> {
        let mut buffer = stream.alloc_zeros::<u8>(bytes)?;
        let mut at = 0;
        let mut from = shift % pool.len();
        while at < bytes {
            let count = (pool.len() - from).min(bytes - at);
            stream.memcpy_dtod(
                &pool.slice(from..from + count),
                &mut buffer.slice_mut(at..at + count),
            )?;
            (at, from) = (at + count, 0);
        }
        let address = buffer.device_ptr(stream).0;
        Ok(Self { bytes: buffer, address })
    }

    pub fn read<T: Bits>(
        &self,
        stream: &Arc<CudaStream>,
        range: std::ops::Range<usize>,
    ) -> Result<Vec<T>, DriverError> {
        let size = T::GPU.bytes();
        let slice = self.bytes.slice(range.start * size..range.end * size);
        let bytes = stream.clone_dtoh(&slice)?;
        stream.synchronize()?;
        Ok(T::from_bytes(&bytes))
    }
}

/// `|found - expected| / |expected|`, infinite where a NaN is left.
pub fn relative_error<T: Element>(found: &[T], expected: &[f64]) -> f64 {
    let (mut difference, mut norm) = (0.0, 0.0);
    for (f, e) in found.iter().zip(expected) {
        difference += (f.widen().to_f64() - e).powi(2);
        norm += e * e;
    }
    match difference {
        0.0 => 0.0,
        x if x.is_nan() => f64::INFINITY,
        x => (x / norm).sqrt(),
    }
}
