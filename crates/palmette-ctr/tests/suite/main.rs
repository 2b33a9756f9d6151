//! Tests of the public interface; one program, since every program of tests compiles the engine again.

mod baselines;
mod damaged_documents;
mod golden;
mod paths;
mod planning;
mod published;
mod ranking;
