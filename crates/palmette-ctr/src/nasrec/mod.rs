//! The NASRec family: spaces, networks and the weight-sharing supernet (Zhang et al., 2207.07187).

mod path;

pub use path::{
    Block, DenseOp, EMBEDDING_DIM, MAX_BLOCKS, MERGE_FIELDS, Path, Set, Shape, SparseOp,
};
