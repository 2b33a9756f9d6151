/*!
A drawing of a NASRec architecture that a person can follow.

Blocks stand left to right. Every output is a horizontal line that starts at
its block, dense vectors above and sets of fields below, so that a block's
inputs are the dots where its own vertical line meets them: no arrow ever has
to be traced through others. Operators that never reach the head, and what
only they read, are faded and dashed. Every part has a tooltip.
*/

pub(crate) mod labels;
mod layout;
mod lines;
mod parts;
pub(crate) mod svg;

use palmette_ctr::nasrec::{Path, Set, Shape};
use thiserror::Error;

pub use labels::Part;

/// What is drawn.
#[derive(Clone, Copy)]
pub struct Drawing<'a> {
    /// The network.
    pub path: &'a Path,
    /// The data it reads.
    pub shape: Shape,
    /// Heading; may be empty.
    pub title: &'a str,
    /// A line below the heading, such as the cost; may be empty.
    pub subtitle: &'a str,
    /// Multiply-accumulates per sample of a part, where they are known.
    pub macs: &'a dyn Fn(Part) -> Option<u64>,
}

impl<'a> Drawing<'a> {
    /// A drawing without heading and costs.
    pub fn new(path: &'a Path, shape: Shape) -> Self {
        Self { path, shape, title: "", subtitle: "", macs: &|_| None }
    }
}

/// Why an architecture cannot be drawn.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DrawingError {
    /// The path is empty.
    #[error("the architecture has no blocks: at least one is needed")]
    NoBlocks,
    /// A block reads something that does not exist yet.
    #[error("block {block} reads source {source_index}: only 0 to {last} exist before it")]
    Source {
        /// Block, counted from 1.
        block: usize,
        /// The source it names.
        source_index: usize,
        /// The last source it may name.
        last: usize,
    },
}

/// Draws an architecture as a self-contained SVG document with a light background of its own.
pub fn architecture_svg(drawing: &Drawing) -> Result<String, DrawingError> {
    check_sources(drawing.path)?;
    Ok(parts::draw(drawing))
}

fn check_sources(path: &Path) -> Result<(), DrawingError> {
    if path.blocks.is_empty() {
        return Err(DrawingError::NoBlocks);
    }
    for (index, block) in path.blocks.iter().enumerate() {
        let read = [block.dense_sources, block.sparse_sources, block.left, block.right];
        let all = read.iter().fold(0, |bits, set| bits | set.0);
        if let Some(source_index) = Set(all).iter().find(|&source| source > index) {
            return Err(DrawingError::Source { block: index + 1, source_index, last: index });
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
