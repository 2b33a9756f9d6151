//! The execution engine: elastic weights, typed operators, sparse optimisers
