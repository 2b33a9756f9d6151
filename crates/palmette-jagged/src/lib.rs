//! Jagged tensors and jagged flash attention on CPU and GPU
