//! What the operating system says about memory.

pub use palmette::measured::{available_memory, peak_memory};
