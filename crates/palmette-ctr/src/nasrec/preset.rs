//! Shapes and table sizes of the public click logs.

use super::Shape;

/// A public click log in NASRec's encoding: its shape and full table sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatasetPreset {
    /// Its name on the command line.
    pub name: &'static str,
    /// Dense inputs and categorical fields.
    pub shape: Shape,
    /// Rows of each table without a cap, one per categorical field.
    pub table_rows: &'static [u64],
}

/// Criteo Kaggle, Avazu and KDD Cup 2012 track 2.
pub const PRESETS: [DatasetPreset; 3] = [
    DatasetPreset {
        name: "criteo",
        shape: Shape { dense: 13, fields: 26 },
        table_rows: &[
            1461, 584, 10131227, 2202609, 306, 25, 12518, 634, 4, 93146, 5684, 8351593, 3195, 28,
            14993, 5461307, 11, 5653, 2174, 5, 7046548, 19, 16, 286182, 106, 142573,
        ],
    },
    DatasetPreset {
        name: "avazu",
        shape: Shape { dense: 1, fields: 23 },
        table_rows: &[
            10000, 241, 8, 8, 4738, 7746, 27, 8553, 560, 37, 2686409, 6729487, 8252, 6, 5, 2627, 9,
            10, 436, 5, 69, 173, 61,
        ],
    },
    DatasetPreset {
        name: "kdd12",
        shape: Shape { dense: 3, fields: 10 },
        table_rows: &[26274, 641708, 14848, 22122011, 1188090, 3735797, 2934102, 20004011, 4, 8],
    },
];

impl DatasetPreset {
    /// The preset called `name`.
    pub fn find(name: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name == name)
    }
}
