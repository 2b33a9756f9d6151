//! All tests of the engine from outside, one program: see the modules.

mod differences;
mod gradients;
mod lists;
mod oracle;
mod precision;
mod sharing;
mod tables;
mod wrong_programs;
