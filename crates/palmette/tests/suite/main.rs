//! End-to-end tests through the real binary and of what leaves it; one program, since every program
//! of tests compiles the engine again.

mod bench_engine;
mod bench_generation;
mod bench_ranking;
mod bench_search;
mod check_golden;
mod cost;
mod damaged_model;
mod encoders;
mod kill;
mod lists;
mod memory_and_latency;
mod messages;
mod next_item;
mod numbers;
mod odd_logs;
mod onnx;
mod onnx_export;
mod onnx_networks;
mod prepare;
mod python;
mod repro;
mod runs;
mod search;
mod siblings;
mod support;
