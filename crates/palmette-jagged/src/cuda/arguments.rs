//! What kernels are given.

use std::ffi::c_void;

use cudarc::driver::DeviceRepr;
use cudarc::driver::sys::{
    CUresult, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle, cuTensorMapEncodeTiled,
};

use super::compile::gpu_error;
use crate::JaggedError;

/// The twin of `Arguments` in `kernels/common.cuh`; pointers are device addresses.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Arguments {
    pub(super) q: u64,
    pub(super) k: u64,
    pub(super) v: u64,
    pub(super) o: u64,
    pub(super) d_o: u64,
    pub(super) out: u64,
    pub(super) dq: u64,
    pub(super) dk: u64,
    pub(super) dv: u64,
    pub(super) lse: u64,
    pub(super) delta: u64,
    pub(super) bias: u64,
    pub(super) dbias: u64,
    pub(super) offsets_q: u64,
    pub(super) offsets_k: u64,
    pub(super) tasks: u64,
    pub(super) dq_sums: u64,
    pub(super) first_block: u64,
    pub(super) blocks: u64,
    pub(super) zeroed: u64,
    pub(super) counter: u64,
    pub(super) tokens_q: i64,
    pub(super) max_q: i32,
    pub(super) max_k: i32,
    pub(super) heads: i32,
    pub(super) group: i32,
    pub(super) head_dim: i32,
    pub(super) left: i32,
    pub(super) right: i32,
    pub(super) bias_batch: i32,
    pub(super) bias_heads: i32,
    pub(super) bias_q: i32,
    pub(super) bias_k: i32,
    pub(super) rows: i32,
    pub(super) task_count: i32,
    pub(super) block_count: i32,
    pub(super) bias_transposed: i32,
    pub(super) scale: f32,
}

// SAFETY: `repr(C)`, plain numbers, the layout of the struct in the kernels.
unsafe impl DeviceRepr for Arguments {}

/// A description of `[tokens, heads, head_dim]` 16-bit elements for the tensor copy engine.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct TensorMap(CUtensorMap);

// SAFETY: 128 opaque bytes that kernels take by value.
unsafe impl DeviceRepr for TensorMap {}

impl TensorMap {
    /// A box of 64 columns and `rows` tokens of one head, with the 128-byte swizzle.
    /// Columns past the head and tokens past the end read as zero.
    pub(super) fn new(
        address: u64,
        bfloat: bool,
        shape: [usize; 3],
        rows: u32,
    ) -> Result<Self, JaggedError> {
        Self::of_box(address, bfloat, shape, [rows, 1])
    }

    /// A box of 64 columns and `rows` of one matrix of `[matrices, rows, columns]`, likewise.
    pub(super) fn of_matrices(
        address: u64,
        bfloat: bool,
        shape: [usize; 3],
        rows: u32,
    ) -> Result<Self, JaggedError> {
        Self::of_box(address, bfloat, shape, [1, rows])
    }

    fn of_box(
        address: u64,
        bfloat: bool,
        shape @ [outer, middle, inner]: [usize; 3],
        [outer_rows, middle_rows]: [u32; 2],
    ) -> Result<Self, JaggedError> {
        let mut map = CUtensorMap { opaque: [0; 16] };
        let data_type = if bfloat {
            CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
        } else {
            CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16
        };
        let sizes = [inner as u64, middle as u64, outer as u64];
        let strides = [inner as u64 * 2, middle as u64 * inner as u64 * 2];
        let (window, steps) = ([64u32, middle_rows, outer_rows], [1u32; 3]);
        // SAFETY: all arrays have the three (two for strides) entries of the rank.
        let result = unsafe {
            cuTensorMapEncodeTiled(
                &mut map,
                data_type,
                3,
                address as *mut c_void,
                sizes.as_ptr(),
                strides.as_ptr(),
                window.as_ptr(),
                steps.as_ptr(),
                CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        if result == CUresult::CUDA_SUCCESS {
            Ok(Self(map))
        } else {
            Err(gpu_error(format!(
                "a tensor at {address:#x} of {shape:?} was refused ({result:?}): addresses must \
                 be multiples of 16 bytes"
            )))
        }
    }
}
