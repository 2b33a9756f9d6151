//! Large zeroed allocations, page-aligned and touched only where used.

use std::marker::PhantomData;

use memmap2::MmapMut;

use crate::{EngineError, Real};

/// A zero-filled array that costs physical memory only where it was written.
///
/// A supernet holds 171 M weights (NASRec-Full on Criteo) and as many
/// accumulators, of which a short search touches a part; anonymous mappings
/// are zeroed by the kernel page by page, and huge pages keep address
/// translation out of the strided reads of weight slices.
pub struct Zeroed<T> {
    map: Option<MmapMut>,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Real> Zeroed<T> {
    /// `len` zeros.
    ///
    /// # Errors
    /// [`EngineError::Memory`] when the operating system refuses.
    pub fn new(len: usize) -> Result<Self, EngineError> {
        let Some(bytes) = len.checked_mul(size_of::<T>()) else {
            let source = std::io::ErrorKind::OutOfMemory.into();
            return Err(EngineError::Memory { bytes: u64::MAX, source });
        };
        if bytes == 0 {
            return Ok(Self { map: None, len: 0, element: PhantomData });
        }
        let map = MmapMut::map_anon(bytes)
            .map_err(|source| EngineError::Memory { bytes: bytes as u64, source })?;
        #[cfg(target_os = "linux")]
        if bytes >= 1 << 22 {
            // Advice only: a kernel without transparent huge pages says no and nothing is lost.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Self { map: Some(map), len, element: PhantomData })
    }

    /// A copy of all elements.
    ///
    /// # Errors
    /// [`EngineError::Memory`] when the operating system refuses.
    pub fn try_clone(&self) -> Result<Self, EngineError> {
        let mut copy = Self::new(self.len)?;
        copy.as_mut_slice().copy_from_slice(self.as_slice());
        Ok(copy)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The elements.
    pub fn as_slice(&self) -> &[T] {
        match &self.map {
            // SAFETY: the mapping is page-aligned, `len` elements long, and every bit pattern
            // (zero included) is a valid f32 or f64.
            Some(map) => unsafe { std::slice::from_raw_parts(map.as_ptr().cast(), self.len) },
            None => &[],
        }
    }

    /// The elements.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        match &mut self.map {
            // SAFETY: as above, and the borrow is exclusive.
            Some(map) => unsafe {
                std::slice::from_raw_parts_mut(map.as_mut_ptr().cast(), self.len)
            },
            None => &mut [],
        }
    }

    /// Grows to at least `len` elements, contents lost.
    pub fn reserve(&mut self, len: usize) -> Result<(), EngineError> {
        if len > self.len {
            *self = Self::new(len + len / 4)?;
        }
        Ok(())
    }
}
