//! Tile shapes of the Hopper kernels, and which kernels exist.

use super::compile::Source;
use super::options::{BackwardMode, GpuElement, GpuOptions, GpuPath};
use crate::{Attention, Mask, Offsets};

/// The shape of the Hopper forward kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ForwardTile {
    /// Keys in a tile: 64 or 128.
    pub keys: u32,
    /// Warpgroups of 64 queries in a block.
    pub groups: u32,
    /// Tiles of keys and values in flight.
    pub stages: u32,
    /// Blocks on a multiprocessor.
    pub blocks: u32,
    /// Whether the next tile's scores start before this one's exponentials.
    pub lookahead: bool,
    /// Registers a thread of consumers and producers, where they are moved.
    pub registers: Option<(u32, u32)>,
}

/// The shape of a Hopper backward kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BackwardTile {
    /// Rows of a streamed tile: 64 or 128.
    pub tile: u32,
    /// Warpgroups of 64 rows that stay in place.
    pub groups: u32,
    /// Tiles in flight.
    pub stages: u32,
    /// Blocks on a multiprocessor.
    pub blocks: u32,
    /// Whether the sums of a tile run beside the next tile's scores.
    pub overlap: bool,
    /// Registers a thread of consumers and producers, where they are moved.
    pub registers: Option<(u32, u32)>,
}

/// The shape of the Hopper kernel of the fast backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FastTile {
    /// Queries of a streamed tile: 64, 80 or 128. Warpgroups share the gradient of these queries:
    /// 64 columns of all or some of them each.
    pub tile: u32,
    /// Warpgroups of 64 keys that stay in place: one or two.
    pub groups: u32,
    /// Tiles in flight.
    pub stages: u32,
    /// Blocks on a multiprocessor.
    pub blocks: u32,
    /// Registers a thread of consumers and producers.
    pub registers: (u32, u32),
}

/// Columns that a head takes in shared memory.
fn padded(head_dim: usize) -> u32 {
    match head_dim {
        ..=64 => 64,
        65..=128 => 128,
        _ => 256,
    }
}

/// Definitions that every source takes.
pub(super) fn base(element: u32, head_dim: usize) -> Vec<String> {
    vec![format!("ELEMENT={element}"), format!("HEAD_DIM={head_dim}")]
}

/// Threads that share the delta of a query and head, eight elements each at a time.
pub(super) fn delta_lanes(head_dim: usize) -> usize {
    head_dim.div_ceil(8).next_power_of_two().min(32)
}

/// Definitions of the small kernels that every path needs.
pub(super) fn support(element: u32, head_dim: usize) -> Vec<String> {
    let mut definitions = base(element, head_dim);
    definitions.push(format!("DELTA_LANES={}", delta_lanes(head_dim)));
    definitions
}

/// Registers a thread starts with: what the assembler gives when `blocks` blocks share
/// the 64 Ki registers of a multiprocessor. Moving more than that would wait for ever.
pub(super) fn registers_fit(groups: u32, blocks: u32, registers: Option<(u32, u32)>) -> bool {
    let Some((consumer, producer)) = registers else { return true };
    let start = 65_536 / (128 * (groups + 1) * blocks) / 8 * 8;
    consumer * groups + producer <= start * (groups + 1)
}

fn shape(definitions: &mut Vec<String>, values: &[(&str, u32)], registers: Option<(u32, u32)>) {
    let (consumer, producer) = registers.unwrap_or((0, 0));
    definitions.extend(values.iter().map(|(name, value)| format!("{name}={value}")));
    definitions.push(format!("CONSUMER_REGISTERS={consumer}"));
    definitions.push(format!("PRODUCER_REGISTERS={producer}"));
}

impl ForwardTile {
    /// The shape that measured best for a head dimension, the length of the row that a usual token
    /// is in, and whether all keys of a row are seen.
    pub fn best(head_dim: usize, usual: usize, all_keys: bool) -> Self {
        let tile = |keys, groups, stages, blocks, registers| Self {
            keys,
            groups,
            stages,
            blocks,
            lookahead: true,
            registers,
        };
        match padded(head_dim) {
            64 if usual > 1200 && all_keys => tile(128, 3, 3, 1, Some((160, 32))),
            64 => tile(64, 1, 2, 3, None),
            128 if usual <= 300 => tile(64, 1, 2, 2, None),
            128 => tile(64, 3, 4, 1, Some((160, 32))),
            _ => tile(64, 2, 2, 1, Some((240, 24))),
        }
    }

    /// The best shape for these rows: a block is worth its groups only where both sides are long.
    pub(super) fn for_rows(
        attention: &Attention,
        offsets_q: &Offsets,
        offsets_k: &Offsets,
    ) -> Self {
        let usual = offsets_q.usual_length().min(offsets_k.usual_length());
        Self::best(attention.head_dim(), usual, attention.mask() == Mask::Full)
    }

    /// Queries of a block.
    pub(super) fn queries(&self) -> u32 {
        64 * self.groups
    }

    pub(super) fn threads(&self) -> u32 {
        128 * self.groups + if self.registers.is_some() { 128 } else { 32 }
    }

    pub(super) fn shared_bytes(&self, head_dim: usize) -> u32 {
        1024 + 2 * padded(head_dim) * (self.queries() + 2 * self.stages * self.keys)
    }

    pub(super) fn definitions(&self, element: u32, head_dim: usize) -> Vec<String> {
        let mut definitions = base(element, head_dim);
        let values = [
            ("KEYS", self.keys),
            ("GROUPS", self.groups),
            ("STAGES", self.stages),
            ("BLOCKS", self.blocks),
            ("LOOKAHEAD", u32::from(self.lookahead)),
        ];
        shape(&mut definitions, &values, self.registers);
        definitions
    }
}

impl BackwardTile {
    /// The shape that measured best for the gradients of keys and values.
    pub fn best_for_keys(head_dim: usize) -> Self {
        if padded(head_dim) == 64 {
            Self {
                tile: 64,
                groups: 1,
                stages: 3,
                blocks: 2,
                overlap: true,
                registers: Some((216, 40)),
            }
        } else {
            Self {
                tile: 64,
                groups: 2,
                stages: 3,
                blocks: 1,
                overlap: false,
                registers: Some((240, 24)),
            }
        }
    }

    /// The shape that measured best for the gradient of queries.
    pub fn best_for_queries(head_dim: usize) -> Self {
        if padded(head_dim) == 64 {
            Self { tile: 64, groups: 1, stages: 2, blocks: 3, overlap: false, registers: None }
        } else {
            Self {
                tile: 128,
                groups: 2,
                stages: 2,
                blocks: 1,
                overlap: false,
                registers: Some((240, 24)),
            }
        }
    }

    /// Rows of a block.
    pub(super) fn rows(&self) -> u32 {
        64 * self.groups
    }

    pub(super) fn threads(&self) -> u32 {
        128 * self.groups + if self.registers.is_some() { 128 } else { 32 }
    }

    pub(super) fn shared_bytes(&self, head_dim: usize) -> u32 {
        1024 + 4 * padded(head_dim) * (self.rows() + self.stages * self.tile)
    }

    pub(super) fn definitions(&self, element: u32, head_dim: usize, for_keys: bool) -> Vec<String> {
        let mut definitions = base(element, head_dim);
        let values = [
            ("TILE", self.tile),
            ("GROUPS", self.groups),
            ("STAGES", self.stages),
            ("BLOCKS", self.blocks),
            ("FOR_KEYS", u32::from(for_keys)),
            ("OVERLAP", u32::from(self.overlap)),
        ];
        shape(&mut definitions, &values, self.registers);
        definitions
    }
}

impl FastTile {
    /// The shape that measured best for a head dimension and the rows' mean length.
    pub fn best(head_dim: usize, mean: usize) -> Self {
        let tile =
            |tile, groups, blocks, registers| Self { tile, groups, stages: 2, blocks, registers };
        match padded(head_dim) {
            64 if mean <= 200 => tile(64, 1, 2, (216, 40)),
            64 => tile(128, 2, 1, (240, 24)),
            _ => tile(80, 2, 1, (240, 24)),
        }
    }

    /// Whether warpgroups can share the gradient of a tile's queries evenly, and 64 columns of a
    /// warpgroup's dK find room where its score gradients are.
    pub(super) fn fits(&self, head_dim: usize) -> bool {
        let width = padded(head_dim);
        let share = width / 64 * self.tile / self.groups.max(1);
        let even = share * self.groups == width / 64 * self.tile && share.is_multiple_of(8);
        even && share <= self.tile && self.tile >= 64 && self.groups <= 2
    }

    /// Keys of a block.
    pub(super) fn rows(&self) -> u32 {
        64 * self.groups
    }

    pub(super) fn threads(&self) -> u32 {
        128 * self.groups + 128
    }

    pub(super) fn shared_bytes(&self, head_dim: usize) -> u32 {
        let width = padded(head_dim);
        let operands = 4 * width * (self.rows() + self.stages * self.tile);
        let gradients = 2 * 2 * self.rows() * self.tile;
        let shares = 4 * width * self.tile;
        1024 + operands + gradients + shares
    }

    pub(super) fn definitions(&self, element: u32, head_dim: usize) -> Vec<String> {
        let mut definitions = base(element, head_dim);
        let values = [
            ("TILE", self.tile),
            ("GROUPS", self.groups),
            ("STAGES", self.stages),
            ("BLOCKS", self.blocks),
            ("FOR_KEYS", 1),
            ("FAST", 1),
        ];
        shape(&mut definitions, &values, Some(self.registers));
        definitions
    }
}

/// The sources, with definitions, that a plan with these options uses.
pub(super) fn kernels_of(
    arch: &str,
    element: u32,
    head_dim: usize,
    options: &GpuOptions,
) -> Vec<(Source, Vec<String>)> {
    let mut kernels = vec![(Source::Support, support(element, head_dim))];
    let fastest = if element == 0 {
        GpuPath::Plain
    } else if arch.starts_with("sm_90") && options.bias.is_none() {
        GpuPath::Wgmma
    } else {
        GpuPath::Mma
    };
    let path = options.path.unwrap_or(fastest);
    if path == GpuPath::Plain || head_dim > 128 || options.bias.is_some() {
        kernels.push((Source::Plain, base(element, head_dim)));
    }
    match path {
        GpuPath::Plain => return kernels,
        GpuPath::Mma => {
            kernels.push((Source::Mma, base(element, head_dim)));
            return kernels;
        }
        GpuPath::Wgmma => {}
    }
    let forward = match options.forward {
        Some(tile) => vec![tile],
        None => [0, usize::MAX].map(|usual| ForwardTile::best(head_dim, usual, true)).to_vec(),
    };
    for tile in forward {
        kernels.push((Source::HopperForward, tile.definitions(element, head_dim)));
    }
    if head_dim <= 128 && options.mode == BackwardMode::Fast {
        let tiles = match options.fast {
            Some(tile) => vec![tile],
            None => vec![FastTile::best(head_dim, 0), FastTile::best(head_dim, usize::MAX)],
        };
        for tile in tiles {
            kernels.push((Source::HopperBackwardFast, tile.definitions(element, head_dim)));
        }
    }
    if head_dim <= 128 {
        let keys = options.backward_keys.unwrap_or(BackwardTile::best_for_keys(head_dim));
        let queries = options.backward_queries.unwrap_or(BackwardTile::best_for_queries(head_dim));
        kernels.push((Source::HopperBackward, keys.definitions(element, head_dim, true)));
        kernels.push((Source::HopperBackward, queries.definitions(element, head_dim, false)));
    }
    kernels
}

/// The small operators' sources with the definitions they are used with.
pub(super) fn operators(arch: &str, element: GpuElement) -> Vec<(Source, Vec<String>)> {
    let mut kernels = Vec::new();
    if arch.starts_with("sm_90") && element != GpuElement::F32 {
        kernels = super::hopper_products::usual(element);
    }
    let element = element.code();
    let mut add = |source, values: &[(&str, u32)]| {
        let mut definitions = vec![format!("ELEMENT={element}")];
        definitions.extend(values.iter().map(|(name, value)| format!("{name}={value}")));
        kernels.push((source, definitions));
    };
    let widest = if element == 0 { 4 } else { 8 };
    for vector in [8, 4, 2, 1].into_iter().filter(|&vector| vector <= widest) {
        add(Source::Operators, &[("VECTOR", vector)]);
        for shape in super::softmax::Shape::all(arch) {
            let shape = shape.definitions().map(|(name, value)| (name, value as u32));
            add(Source::Softmax, &[&[("VECTOR", vector)], &shape[..]].concat());
        }
    }
    add(Source::Products, &[("PLAIN", 1)]);
    for which in 0..if element == 0 { 0 } else { 8 } {
        let columns = if which < 4 { 64 } else { 128 };
        let (a, b) = (which % 2, which / 2 % 2);
        let shape = [("PLAIN", 0), ("COLUMNS", columns), ("A_TRANSPOSED", a), ("B_TRANSPOSED", b)];
        add(Source::Products, &shape);
    }
    kernels
}

/// Every source with the definitions it is used with at the usual head dimensions.
pub(super) fn every_kernel(arch: &str) -> Vec<(Source, Vec<String>)> {
    let elements = [GpuElement::F32, GpuElement::Bf16, GpuElement::F16];
    let mut kernels: Vec<_> = elements.into_iter().flat_map(|e| operators(arch, e)).collect();
    for element in 0..3 {
        for head_dim in [16, 32, 64, 96, 128, 192, 256] {
            if element > 0 {
                kernels.push((Source::Hstu, base(element, head_dim)));
            }
            for path in [None, Some(GpuPath::Mma), Some(GpuPath::Plain)] {
                if element == 0 && path == Some(GpuPath::Mma) {
                    continue;
                }
                let mode = BackwardMode::Fast;
                let options = GpuOptions { path, mode, ..GpuOptions::default() };
                for kernel in kernels_of(arch, element, head_dim, &options) {
                    if !kernels.contains(&kernel) {
                        kernels.push(kernel);
                    }
                }
            }
        }
    }
    kernels
}

/// Bytes of shared memory of the portable kernels: forward, backward.
pub(super) fn mma_shared_bytes(head_dim: usize) -> (u32, u32) {
    let pitch = (head_dim as u32).next_multiple_of(16) + 8;
    let keys = if head_dim > 128 { 32 } else { 64 };
    let tile = if head_dim > 64 { 32 } else { 64 };
    (2 * pitch * (64 + 2 * keys), 2 * pitch * (2 * 64 + 2 * tile))
}
