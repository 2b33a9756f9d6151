/*!
Jagged tensors and jagged flash attention.

Ranking models read features of varying length: histories, multi-hot sets. A
*jagged* tensor stores such rows one after the other without padding: `values`
`[T, ...]`, where `T` is the sum of all lengths, and `offsets` `[B + 1]`, so that
row `b` is `values[offsets[b]..offsets[b + 1]]`. The operators here work on that
layout directly. Padding to the longest row instead costs, at a mean length of a
fifth of the longest, five times the memory and twelve times the arithmetic of
attention.

[`Offsets`] are checked once, at construction, and know the maximal length on the
host; [`JaggedTensor`] owns values, [`JaggedView`] borrows them. Operators take
views and write into buffers of the caller. What a row has beyond the maximal length
is an error, or cut the way FBGEMM cuts it ([`Overflow`]).

[`Attention`] is softmax attention inside each row: grouped heads, self or cross,
full, causal or windowed, with an optional bias and all gradients.
[`PooledAttention`] lets dense targets attend to a jagged history, and
[`HstuAttention`] is the pointwise form of HSTU. Results on the CPU are the same bits
for any number of threads.

```
use palmette_jagged::{JaggedView, Offsets, jagged_softmax};

let offsets = Offsets::from_lengths(&[2i64, 0, 1])?;
let scores = [0f32, 0.0, 7.0];
let mut weights = [f32::NAN; 3];
jagged_softmax(JaggedView::new(&scores, 1, &offsets)?, &mut weights)?;
assert_eq!(weights, [0.5, 0.5, 1.0]);
# Ok::<(), palmette_jagged::JaggedError>(())
```
*/

mod attention;
mod block;
mod columns;
#[cfg(feature = "cuda")]
pub mod cuda;
mod element;
mod elementwise;
mod error;
mod hstu;
mod interchange;
mod lanes;
mod matmul;
mod movement;
mod offsets;
#[cfg(test)]
mod operator_tests;
mod padding;
mod panel;
mod pooled;
mod product;
mod registers;
mod softmax;
mod tasks;
mod tensor;
#[cfg(test)]
mod testing;
mod widen;

pub use attention::{
    Attention, AttentionGradients, AttentionInput, Bias, Mask, ReferenceAttention,
    ReferenceGradients, reference_attention,
};
pub use element::{Element, Real};
pub use elementwise::{
    Elementwise, jagged_dense_elementwise, jagged_dense_elementwise_backward,
    jagged_dense_elementwise_dense_output,
};
pub use error::JaggedError;
pub use hstu::{HstuAttention, HstuInput, HstuMask};
pub use interchange::{KeyedFeature, KeyedJagged, NestedTensorParts};
pub use matmul::{
    array_jagged_bmm, batched_dense_vec_jagged_2d_mul, batched_dense_vec_jagged_2d_mul_backward,
    jagged_dense_bmm, jagged_jagged_bmm, jagged_jagged_bmm_jagged_out, product_offsets,
};
pub use movement::{
    cat_offsets, jagged_cat, jagged_index_add, jagged_index_select, jagged_slice,
    jagged_slice_backward, repeat_arange, select_offsets, slice_offsets, source_mask,
};
pub use offsets::{NestedOffsets, OffsetInteger, Offsets, Overflow};
pub use padding::{
    dense_to_jagged, dense_to_nested, jagged_to_padded_dense, nested_to_padded_dense,
};
pub use pooled::{PooledAttention, PooledGradients, PooledInput};
pub use softmax::{
    MatrixAxis, jagged_softmax, jagged_softmax_backward, jagged2_softmax, jagged2_softmax_backward,
};
pub use tensor::{JaggedTensor, JaggedView};
