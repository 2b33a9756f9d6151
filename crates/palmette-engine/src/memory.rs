//! Large zeroed allocations, page-aligned and touched only where used.

use std::io::Write;
use std::marker::PhantomData;
use std::path::Path;

use memmap2::MmapMut;

use crate::{EngineError, Real};

/// Bytes of a cache line, and of a row that are worth asking for.
const LINE: usize = 64;
const MOST_PREFETCHED: usize = 4 * LINE;

/// Asks for the first `len` elements of the rows `ids`, which are `stride` apart from `first`,
/// without waiting for them; the places may be anywhere.
///
/// One right after the other: an instruction that asks cannot retire before its page's translation
/// is found, and only what lies within a processor's window (320 instructions on Zen 4) is looked
/// up meanwhile. Asked for in turn with their use, forty instructions a row, the rows of a DLRM
/// took 60 ns each; asked for in a loop of its own, 36.
#[inline(always)]
pub(crate) fn prefetch_rows<T>(first: *const T, stride: usize, len: usize, ids: &[u32]) {
    #[cfg(target_arch = "x86_64")]
    for byte in (0..(len * size_of::<T>()).min(MOST_PREFETCHED)).step_by(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let first = first.cast::<i8>().wrapping_add(byte);
        for &id in ids {
            let row = first.wrapping_add(id as usize * stride * size_of::<T>());
            // SAFETY: a hint, which reads nothing; SSE is part of the architecture.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(row) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (first, stride, len, ids);
}

/// Asks for the line at `pointer` in the second-level cache, as one that will be written.
#[inline(always)]
pub(crate) fn prefetch_to_write<T>(pointer: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: as above. A line that no other core holds comes as one that may be written.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(pointer.cast::<i8>()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = pointer;
}

/// Bytes of a mapping from which on huge pages are asked for.
pub(crate) const HUGE_PAGES_FROM: usize = 4 << 20;

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
        if bytes >= HUGE_PAGES_FROM {
            // Advice only: a kernel without transparent huge pages says no and nothing is lost.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Self { map: Some(map), len, element: PhantomData })
    }

    /// `len` elements in a file without a name in `directory`, written a block at a time by
    /// `fill(block, elements)`, which starts from zeros.
    ///
    /// Every byte is written before the file is mapped: a full disk is then an error here and not
    /// a signal in the middle of a step.
    ///
    /// # Errors
    /// [`EngineError::TableFile`] when the system refuses the file, its size or its mapping.
    pub fn in_file(
        directory: &Path,
        len: usize,
        block: usize,
        mut fill: impl FnMut(usize, &mut [T]),
    ) -> Result<Self, EngineError> {
        let failed = |source| EngineError::TableFile { directory: directory.into(), source };
        if len == 0 {
            return Self::new(0);
        }
        let mut file = tempfile::tempfile_in(directory).map_err(failed)?;
        let mut elements = vec![T::ZERO; block.min(len)];
        for (index, start) in (0..len).step_by(block).enumerate() {
            let elements = &mut elements[..block.min(len - start)];
            elements.fill(T::ZERO);
            fill(index, elements);
            // SAFETY: the bytes of plain numbers.
            let bytes = unsafe {
                std::slice::from_raw_parts(elements.as_ptr().cast::<u8>(), size_of_val(elements))
            };
            file.write_all(bytes).map_err(failed)?;
        }
        // SAFETY: the file has no name, so no other process changes or cuts it.
        let map = unsafe { MmapMut::map_mut(&file) }.map_err(failed)?;
        #[cfg(unix)]
        // Advice only: neighbours of a row are not worth reading.
        let _ = map.advise(memmap2::Advice::Random);
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
