//! Where everything stands, in SVG units.

/// Distance between two source lines.
const LINE_PITCH: f64 = 19.0;
/// Distance between two blocks.
const PITCH: f64 = 162.0;
/// Room left of the first block for the inputs.
const INPUTS: f64 = 142.0;
/// Room right of the last block for the head.
const HEAD: f64 = 128.0;
const MARGIN: f64 = 24.0;
const HEADING: f64 = 62.0;
const LEGEND: f64 = 46.0;

/// Width of an operator's box.
pub const BOX_WIDTH: f64 = 116.0;
/// Height of an operator's box.
pub const BOX_HEIGHT: f64 = 50.0;
/// Room left of a box for the lines into it.
pub const TRUNKS: f64 = 28.0;
/// Room between the dense and the sparse box for the merges.
const GAP: f64 = 62.0;
/// Room between the nearest line and a box.
const CLEARANCE: f64 = 30.0;

/// Coordinates of a drawing with some number of blocks.
#[derive(Clone, Copy)]
pub struct Layout {
    blocks: usize,
}

/// Space of a legend's key before its words.
pub const LEGEND_KEY: f64 = 31.0;

/// Kind, words and their length of every entry of the legend.
pub const LEGEND_ENTRIES: [(&str, &str, f64); 5] = [
    ("dense", "dense vector", 112.0),
    ("sparse", "set of embedded fields", 164.0),
    ("dot", "is read: all dots of a line are concatenated", 278.0),
    ("operand", "left operand (the gate), R: right", 204.0),
    ("dead", "never reaches the head", 146.0),
];

impl Layout {
    pub fn new(blocks: usize) -> Self {
        Self { blocks }
    }

    pub fn width(self) -> f64 {
        MARGIN * 2.0 + INPUTS + PITCH * self.blocks as f64 + HEAD
    }

    pub fn height(self) -> f64 {
        self.height_without_legend_wraps() + 22.0 * (self.legend_lines() - 1.0)
    }

    fn legend_lines(self) -> f64 {
        self.legend_breaks().iter().filter(|breaks| **breaks).count() as f64 + 1.0
    }

    /// Which entries of the legend begin a new line.
    pub fn legend_breaks(self) -> [bool; LEGEND_ENTRIES.len()] {
        let mut x = self.input_left();
        LEGEND_ENTRIES.map(|(_, _, advance)| {
            let breaks = x + LEGEND_KEY + advance > self.width();
            x = if breaks { self.input_left() } else { x } + LEGEND_KEY + advance;
            breaks
        })
    }

    fn height_without_legend_wraps(self) -> f64 {
        self.sparse_line(0) + LINE_PITCH + LEGEND
    }

    /// Base line of the legend's first line.
    pub fn legend_top(self) -> f64 {
        self.height_without_legend_wraps() - 20.0
    }

    /// Line of dense source `source`: the raw input on top, the newest next to the boxes,
    /// so that the line up from a box crosses nothing.
    pub fn dense_line(self, source: usize) -> f64 {
        HEADING + LINE_PITCH * (source as f64 + 1.0)
    }

    /// Line of a sparse source: the raw input at the bottom.
    pub fn sparse_line(self, source: usize) -> f64 {
        let nearest = self.sparse_top() + BOX_HEIGHT + CLEARANCE;
        nearest + LINE_PITCH * (self.blocks - 1 - source.min(self.blocks - 1)) as f64
    }

    /// Top of the dense boxes.
    pub fn dense_top(self) -> f64 {
        self.dense_line(self.blocks - 1) + CLEARANCE
    }

    /// Top of the sparse boxes.
    pub fn sparse_top(self) -> f64 {
        self.dense_top() + BOX_HEIGHT + GAP
    }

    /// Left edge of the boxes of block `block`, counted from 1.
    pub fn box_left(self, block: usize) -> f64 {
        MARGIN + INPUTS + PITCH * (block as f64 - 1.0) + TRUNKS
    }

    /// Left edge of the input boxes.
    pub fn input_left(self) -> f64 {
        MARGIN
    }

    /// Left edge of the head's box.
    pub fn head_left(self) -> f64 {
        self.width() - MARGIN - self.head_width()
    }

    pub fn head_width(self) -> f64 {
        HEAD - 28.0
    }

    /// Where the output of source `source` (0 = the inputs) turns up or down to its line.
    pub fn riser(self, source: usize) -> f64 {
        match source {
            0 => self.input_left() + BOX_WIDTH + 10.0,
            block => self.box_left(block) + BOX_WIDTH + 8.0,
        }
    }

    /// The vertical line that gathers the inputs of a block; `slot` 0 is the nearest to the box.
    pub fn trunk(self, block: usize, slot: usize) -> f64 {
        self.box_left(block) - 12.0 - 14.0 * slot as f64
    }
}
