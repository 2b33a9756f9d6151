//! Cost sheets and hard limits: multiply-accumulates, parameters, memory
