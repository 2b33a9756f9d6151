//! The three public logs, with the encodings of the released NASRec code.

use crate::encoder::IntegerBase;
use crate::time::TimeFormat;

use super::{
    CategoricalField, DenseField, EncoderRule, FileFormat, LabelRule, ProfileRule, Schema,
    SplitRule, TimeRule, TransformRule,
};

/// Names of the presets.
pub const PRESETS: [&str; 3] = ["criteo", "avazu", "kdd12"];

/// Distinct values of the full Criteo Kaggle log, which are its table sizes.
const CRITEO_ROWS: [u32; 26] = [
    1461, 584, 10_131_227, 2_202_609, 306, 25, 12_518, 634, 4, 93_146, 5_684, 8_351_593, 3_195, 28,
    14_993, 5_461_307, 11, 5_653, 2_174, 5, 7_046_548, 19, 16, 286_182, 106, 142_573,
];

const AVAZU_COLUMNS: [&str; 23] = [
    "id",
    "hour",
    "C1",
    "banner_pos",
    "site_id",
    "site_domain",
    "site_category",
    "app_id",
    "app_domain",
    "app_category",
    "device_id",
    "device_ip",
    "device_model",
    "device_type",
    "device_conn_type",
    "C14",
    "C15",
    "C16",
    "C17",
    "C18",
    "C19",
    "C20",
    "C21",
];

/// Table sizes of the full Avazu log; the first (`id`) is deliberately small.
const AVAZU_ROWS: [u32; 23] = [
    10_000, 241, 8, 8, 4_738, 7_746, 27, 8_553, 560, 37, 2_686_409, 6_729_487, 8_252, 6, 5, 2_627,
    9, 10, 436, 5, 69, 173, 61,
];

/// Columns of `training.txt`.
const KDD12_COLUMNS: [&str; 12] = [
    "click",
    "impression",
    "url",
    "ad",
    "advertiser",
    "depth",
    "position",
    "query",
    "keyword",
    "title",
    "description",
    "user",
];

/// Categorical fields of KDD Cup 2012 with their table sizes.
const KDD12_CATEGORICAL: [(&str, u32); 10] = [
    ("url", 26_274),
    ("ad", 641_708),
    ("advertiser", 14_848),
    ("query", 22_122_011),
    ("keyword", 1_188_090),
    ("title", 3_735_797),
    ("description", 2_934_102),
    ("user", 20_004_011),
    ("gender", 4),
    ("age", 8),
];

/// The stratified 8:1:1 split of the published comparisons, with their seed.
const STRATIFIED: SplitRule = SplitRule::Random { fractions: [0.8, 0.1, 0.1], seed: 2018 };

impl Schema {
    /// The preset of that name: `criteo`, `avazu` or `kdd12`.
    pub fn preset(name: &str) -> Option<Schema> {
        match name {
            "criteo" => Some(criteo()),
            "avazu" => Some(avazu()),
            "kdd12" => Some(kdd12()),
            _ => None,
        }
    }
}

impl Schema {
    /// A schema for looking at files of which nothing is known.
    pub(crate) fn anything() -> Schema {
        base("", None, "")
    }
}

fn base(name: &str, format: impl Into<Option<FileFormat>>, label: &str) -> Schema {
    Schema {
        name: name.into(),
        format: format.into(),
        columns: None,
        missing: Vec::new(),
        label: LabelRule { column: label.into(), at_least: None, drop_missing: false },
        dense: Vec::new(),
        categorical: Vec::new(),
        lists: Vec::new(),
        weight: None,
        baseline: None,
        group: None,
        keep: Vec::new(),
        time: None,
        split: STRATIFIED,
        ignore: Vec::new(),
        profile: None,
    }
}

fn dense(name: impl Into<String>) -> DenseField {
    DenseField { name: name.into(), constant: None, transform: TransformRule::Log }
}

fn modulo(name: impl Into<String>, base: IntegerBase, rows: u32) -> CategoricalField {
    CategoricalField { name: name.into(), encoder: EncoderRule::Modulo { base }, rows: Some(rows) }
}

fn criteo() -> Schema {
    let integers = (1..=13).map(|i| format!("I{i}"));
    let categories = (1..=26).map(|i| format!("C{i}"));
    let columns =
        std::iter::once("label".to_string()).chain(integers.clone()).chain(categories.clone());
    Schema {
        columns: Some(columns.collect()),
        dense: integers.map(dense).collect(),
        categorical: categories
            .zip(CRITEO_ROWS)
            .map(|(name, rows)| modulo(name, IntegerBase::Hex, rows))
            .collect(),
        ..base("criteo", FileFormat::Tsv, "label")
    }
}

fn avazu() -> Schema {
    // the dense branch of a model needs an input, so the released code feeds it the constant -1
    let dummy = DenseField { constant: Some(-1.0), ..dense("dummy") };
    Schema {
        dense: vec![dummy],
        categorical: AVAZU_COLUMNS
            .into_iter()
            .zip(AVAZU_ROWS)
            .map(|(name, rows)| modulo(name, IntegerBase::DecimalOrHex, rows))
            .collect(),
        time: Some(TimeRule { columns: vec!["hour".into()], format: TimeFormat::Yymmddhh }),
        ..base("avazu", FileFormat::Csv, "click")
    }
}

fn kdd12() -> Schema {
    let label = LabelRule { column: "click".into(), at_least: Some(1.0), drop_missing: false };
    Schema {
        columns: Some(KDD12_COLUMNS.map(String::from).to_vec()),
        label,
        dense: ["impression", "depth", "position"].map(dense).to_vec(),
        categorical: KDD12_CATEGORICAL
            .map(|(name, rows)| modulo(name, IntegerBase::DecimalOrHex, rows))
            .to_vec(),
        profile: Some(ProfileRule {
            key: "user".into(),
            columns: vec!["gender".into(), "age".into()],
            absent: "0".into(),
        }),
        ..base("kdd12", FileFormat::Tsv, "click")
    }
}
