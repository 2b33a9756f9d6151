//! Chores of the workspace: `cargo xtask test`, `cargo xtask oracle`.

fn main() {
    println!("usage: cargo xtask <test|oracle>");
}
