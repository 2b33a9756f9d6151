//! The TOML form of a schema.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::encoder::{IntegerBase, MIN_TABLE_ROWS};
use crate::error::{DataError, nearest};
use crate::time::TimeFormat;

use super::lists::{LIST_KEYS, RawList, list_field};
use super::names::expand;
use super::{
    CategoricalField, DenseField, EncoderRule, FileFormat, LabelRule, Schema, SplitRule, TimeRule,
    TransformRule,
};

/// Keys of each table, for suggestions.
const TOP_KEYS: [&str; 19] = [
    "name",
    "format",
    "columns",
    "missing",
    "label",
    "dense",
    "categorical",
    "lists",
    "encoder",
    "transform",
    "weight",
    "baseline",
    "group",
    "keep",
    "time",
    "ignore",
    "split",
    "column",
    "header",
];
const LABEL_KEYS: [&str; 3] = ["column", "at_least", "missing"];
const ENCODER_KEYS: [&str; 3] = ["kind", "base", "min_count"];
const TIME_KEYS: [&str; 2] = ["column", "format"];
const COLUMN_KEYS: [&str; 7] =
    ["encoder", "transform", "rows", LIST_KEYS[0], LIST_KEYS[1], LIST_KEYS[2], LIST_KEYS[3]];
const SPLIT_KEYS: [&str; 10] = [
    "by",
    "fractions",
    "seed",
    "validation_from",
    "test_from",
    "column",
    "train",
    "validation",
    "test",
    "drop",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSchema {
    name: Option<String>,
    format: Option<FileFormat>,
    columns: Option<Vec<String>>,
    #[serde(default)]
    missing: Vec<String>,
    label: RawLabel,
    #[serde(default)]
    dense: Vec<String>,
    #[serde(default)]
    categorical: Vec<String>,
    #[serde(default)]
    lists: Vec<String>,
    encoder: Option<RawEncoder>,
    transform: Option<TransformRule>,
    weight: Option<String>,
    baseline: Option<String>,
    group: Option<String>,
    #[serde(default)]
    keep: Vec<String>,
    time: Option<RawTime>,
    #[serde(default)]
    ignore: Vec<String>,
    split: Option<RawSplit>,
    #[serde(default)]
    column: BTreeMap<String, RawColumn>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawLabel {
    Name(String),
    Table { column: String, at_least: Option<f64>, missing: Option<String> },
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum RawEncoder {
    Name(String),
    Table { kind: String, base: Option<IntegerBase>, min_count: Option<u64> },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawTime {
    Name(String),
    Parts(Vec<String>),
    Table { column: String, format: TimeFormat },
}

// Unknown keys are found by `check_keys`; serde cannot refuse them beside a flattened part.
#[derive(Deserialize)]
struct RawColumn {
    encoder: Option<RawEncoder>,
    transform: Option<TransformRule>,
    rows: Option<u32>,
    #[serde(flatten)]
    list: RawList,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSplit {
    by: Option<String>,
    fractions: Option<[f64; 3]>,
    seed: Option<u64>,
    validation_from: Option<toml::Value>,
    test_from: Option<toml::Value>,
    column: Option<String>,
    train: Option<Vec<String>>,
    validation: Option<Vec<String>>,
    test: Option<Vec<String>>,
    drop: Option<Vec<String>>,
}

impl Schema {
    /// Reads the TOML text of a schema; `path` stands in error messages.
    pub fn parse(text: &str, path: &Path) -> Result<Schema, DataError> {
        let refuse = |problem: String| DataError::Schema { file: path.into(), problem };
        let table: toml::Table =
            text.parse().map_err(|e: toml::de::Error| refuse(e.to_string().trim_end().into()))?;
        check_keys(&table).map_err(refuse)?;
        let raw: RawSchema =
            toml::from_str(text).map_err(|e| refuse(explain(&table, e.to_string().trim_end())))?;
        let name = match &raw.name {
            Some(name) => name.clone(),
            None => path.file_stem().map(|s| s.to_string_lossy().into()).unwrap_or_default(),
        };
        resolve(raw, name).map_err(refuse)
    }
}

/// Serde does not say which alternative of an untagged value failed: say what is accepted.
fn explain(table: &toml::Table, message: &str) -> String {
    let accepted = [
        ("label", "label = \"click\", or { column = \"click\", at_least = 1, missing = \"drop\" }"),
        (
            "encoder",
            "encoder = \"dictionary\", \"hash\" or \"modulo\", or { kind = \"dictionary\", min_count = 10 }, { kind = \"modulo\", base = \"hex\" }",
        ),
        (
            "time",
            "time = \"column\", [\"year\", \"month\", \"day\"], or { column = \"hour\", format = \"yymmddhh\" }",
        ),
    ];
    if message.contains("untagged") {
        let lines =
            accepted.iter().filter(|(key, _)| table.contains_key(*key) || *key == "encoder");
        let forms: Vec<&str> = lines.map(|(_, form)| *form).collect();
        return format!("{message}\naccepted forms:\n  {}", forms.join("\n  "));
    }
    message.to_string()
}

fn check_keys(table: &toml::Table) -> Result<(), String> {
    let check = |place: &str, table: &toml::Table, known: &[&str]| -> Result<(), String> {
        if let Some(key) = table.keys().find(|key| !known.contains(&key.as_str())) {
            let hint = match nearest(key, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known keys: {}", known.join(", ")),
            };
            return Err(format!("unknown key `{key}`{place}; {hint}"));
        }
        Ok(())
    };
    check("", table, &TOP_KEYS)?;
    if table.contains_key("header") {
        return Err(
            "`header` is not needed: files have a header row unless `columns` names the columns"
                .into(),
        );
    }
    for (key, known) in [
        ("label", &LABEL_KEYS[..]),
        ("encoder", &ENCODER_KEYS[..]),
        ("time", &TIME_KEYS[..]),
        ("split", &SPLIT_KEYS[..]),
    ] {
        if let Some(toml::Value::Table(inner)) = table.get(key) {
            check(&format!(" in `{key}`"), inner, known)?;
        }
    }
    let Some(toml::Value::Table(columns)) = table.get("column") else { return Ok(()) };
    for (name, value) in columns {
        let toml::Value::Table(inner) = value else { continue };
        check(&format!(" in `column.{name}`"), inner, &COLUMN_KEYS)?;
        if let Some(toml::Value::Table(encoder)) = inner.get("encoder") {
            check(&format!(" in `column.{name}.encoder`"), encoder, &ENCODER_KEYS)?;
        }
    }
    Ok(())
}

fn resolve(raw: RawSchema, name: String) -> Result<Schema, String> {
    let dense_names = expand(&raw.dense)?;
    let categorical_names = expand(&raw.categorical)?;
    let list_names = expand(&raw.lists)?;
    for (column, over) in &raw.column {
        let fields = || dense_names.iter().chain(&categorical_names).chain(&list_names);
        if !fields().any(|field| field == column) {
            let near = nearest(column, fields().map(String::as_str));
            let hint = near.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
            return Err(format!(
                "`column.{column}` is neither a dense nor a categorical field nor a list{hint}"
            ));
        }
        if let Some(key) = over.list.given().filter(|_| !list_names.contains(column)) {
            return Err(format!("`column.{column}`: `{key}` applies to a list only"));
        }
    }
    let default_encoder = match &raw.encoder {
        Some(encoder) => encoder_rule(encoder)?,
        None => EncoderRule::Dictionary { min_count: 1 },
    };
    let mut dense = Vec::new();
    for name in dense_names {
        let over = raw.column.get(&name);
        if over.is_some_and(|over| over.encoder.is_some() || over.rows.is_some()) {
            return Err(format!("`column.{name}` is dense; only `transform` applies to it"));
        }
        let transform = over.and_then(|o| o.transform).or(raw.transform).unwrap_or_default();
        dense.push(DenseField { name, constant: None, transform });
    }
    let mut categorical = Vec::new();
    for name in categorical_names {
        let over = raw.column.get(&name);
        if over.is_some_and(|over| over.transform.is_some()) {
            return Err(format!(
                "`column.{name}` is categorical; `transform` does not apply to it"
            ));
        }
        let rows = over.and_then(|o| o.rows);
        if rows.is_some_and(|rows| rows < MIN_TABLE_ROWS) {
            return Err(format!("`column.{name}`: a table needs at least {MIN_TABLE_ROWS} rows"));
        }
        let encoder = match over.and_then(|o| o.encoder.as_ref()) {
            Some(encoder) => encoder_rule(encoder)?,
            None => default_encoder,
        };
        categorical.push(CategoricalField { name, encoder, rows });
    }
    let mut lists = Vec::new();
    for name in list_names {
        let none =
            RawColumn { encoder: None, transform: None, rows: None, list: RawList::default() };
        let over = raw.column.get(&name).unwrap_or(&none);
        if over.transform.is_some() {
            return Err(format!("`column.{name}` is a list; `transform` does not apply to it"));
        }
        let encoder = over.encoder.as_ref().map(encoder_rule).transpose()?;
        lists.push(list_field(
            name,
            &over.list,
            encoder,
            over.rows,
            default_encoder,
            &categorical,
        )?);
    }
    if dense.is_empty() && categorical.is_empty() && lists.is_empty() {
        return Err("no fields: `dense`, `categorical` and `lists` are all empty".into());
    }
    let columns = raw.columns.as_deref().map(expand).transpose()?;
    let time = raw.time.map(time_rule).transpose()?;
    let split = split_rule(raw.split, time.as_ref(), raw.group.as_deref())?;
    let schema = Schema {
        name,
        format: raw.format,
        columns,
        missing: raw.missing,
        label: label_rule(raw.label)?,
        dense,
        categorical,
        lists,
        weight: raw.weight,
        baseline: raw.baseline,
        group: raw.group,
        keep: expand(&raw.keep)?,
        time,
        split,
        ignore: expand(&raw.ignore)?,
        profile: None,
    };
    check_leaks(&schema)?;
    Ok(schema)
}

/// A column that says the answer must not be an input.
fn check_leaks(schema: &Schema) -> Result<(), String> {
    let mut seen = std::collections::BTreeSet::new();
    let fields = schema.dense.iter().map(|f| &f.name);
    let fields = fields.chain(schema.categorical.iter().map(|f| &f.name));
    let fields = fields.chain(schema.lists.iter().map(|f| &f.name));
    for name in fields {
        if *name == schema.label.column {
            return Err(format!("`{name}` is the label and cannot be an input as well"));
        }
        if schema.ignore.contains(name) {
            return Err(format!("`{name}` is both an input and under `ignore`"));
        }
        if !seen.insert(name) {
            return Err(format!("`{name}` is named twice as an input"));
        }
    }
    Ok(())
}

fn label_rule(raw: RawLabel) -> Result<LabelRule, String> {
    let (column, at_least, missing) = match raw {
        RawLabel::Name(column) => (column, None, None),
        RawLabel::Table { column, at_least, missing } => (column, at_least, missing),
    };
    let drop_missing = match missing.as_deref() {
        None | Some("error") => false,
        Some("drop") => true,
        Some(other) => {
            return Err(format!("label: missing = \"{other}\" is neither \"error\" nor \"drop\""));
        }
    };
    Ok(LabelRule { column, at_least, drop_missing })
}

fn encoder_rule(raw: &RawEncoder) -> Result<EncoderRule, String> {
    let (kind, base, min_count) = match raw {
        RawEncoder::Name(kind) => (kind, None, None),
        RawEncoder::Table { kind, base, min_count } => (kind, *base, *min_count),
    };
    match (kind.as_str(), base, min_count) {
        ("modulo", base, None) => {
            Ok(EncoderRule::Modulo { base: base.unwrap_or(IntegerBase::Decimal) })
        }
        ("dictionary", None, count) => {
            Ok(EncoderRule::Dictionary { min_count: count.unwrap_or(1).max(1) })
        }
        ("hash", None, None) => Ok(EncoderRule::Hash),
        ("modulo" | "hash", _, Some(_)) => {
            Err(format!("`min_count` does not apply to the encoder `{kind}`"))
        }
        ("dictionary" | "hash", Some(_), _) => {
            Err(format!("`base` does not apply to the encoder `{kind}`"))
        }
        _ => {
            let known = ["modulo", "dictionary", "hash"];
            let hint =
                nearest(kind, known).map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
            Err(format!("unknown encoder `{kind}`{hint} (there are modulo, dictionary and hash)"))
        }
    }
}

fn time_rule(raw: RawTime) -> Result<TimeRule, String> {
    Ok(match raw {
        RawTime::Name(column) => TimeRule { columns: vec![column], format: TimeFormat::Iso },
        RawTime::Parts(columns) => match columns.len() {
            1 => TimeRule { columns, format: TimeFormat::Iso },
            2..=6 => TimeRule { columns, format: TimeFormat::Parts },
            found => {
                return Err(format!(
                    "time: {found} columns; name one, or two to six of year, month, day, hour, minute and second"
                ));
            }
        },
        RawTime::Table { column, format } => TimeRule { columns: vec![column], format },
    })
}

fn split_rule(
    raw: Option<RawSplit>,
    time: Option<&TimeRule>,
    group: Option<&str>,
) -> Result<SplitRule, String> {
    let raw = raw.unwrap_or_default();
    let by = match &raw.by {
        Some(by) => by.clone(),
        None if raw.column.is_some() => "column".into(),
        None if time.is_some() => "time".into(),
        None => "random".into(),
    };
    let allowed: &[&str] = match by.as_str() {
        "random" => &["fractions", "seed"],
        "time" => &["fractions", "validation_from", "test_from"],
        "column" => &["column", "train", "validation", "test", "drop", "seed"],
        "group" => &["column", "fractions", "seed"],
        other => {
            let known = ["random", "time", "column", "group"];
            let hint =
                nearest(other, known).map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
            return Err(format!(
                "split: unknown by = \"{other}\"{hint} (there are random, time, column and group)"
            ));
        }
    };
    let given = [
        ("fractions", raw.fractions.is_some()),
        ("seed", raw.seed.is_some()),
        ("validation_from", raw.validation_from.is_some()),
        ("test_from", raw.test_from.is_some()),
        ("column", raw.column.is_some()),
        ("train", raw.train.is_some()),
        ("validation", raw.validation.is_some()),
        ("test", raw.test.is_some()),
        ("drop", raw.drop.is_some()),
    ];
    if let Some((key, _)) = given.iter().find(|(key, given)| *given && !allowed.contains(key)) {
        return Err(format!(
            "split: `{key}` does not apply to by = \"{by}\" (it takes {})",
            allowed.join(", ")
        ));
    }
    let fractions = raw.fractions.unwrap_or([0.8, 0.1, 0.1]);
    check_fractions(fractions)?;
    let seed = raw.seed.unwrap_or(2018);
    match by.as_str() {
        "random" => {
            granularity(fractions).ok_or("split: fractions need at most three decimals")?;
            Ok(SplitRule::Random { fractions, seed })
        }
        "time" => {
            let time = time.ok_or("split: by = \"time\" needs `time` to name the time column")?;
            time_split(&raw, time, fractions)
        }
        "group" => {
            let column = raw.column.as_deref().or(group);
            let column = column.ok_or(
                "split: by = \"group\" needs `group` or `split.column` to name the column",
            )?;
            Ok(SplitRule::Group { column: column.into(), fractions, seed })
        }
        _ => {
            let column = raw.column.ok_or("split: by = \"column\" needs `column`")?;
            let train =
                raw.train.ok_or("split: by = \"column\" needs `train`, a list of values")?;
            let (validation, test) =
                (raw.validation.unwrap_or_default(), raw.test.unwrap_or_default());
            let drop = raw.drop.unwrap_or_default();
            if let Some(value) = drop
                .iter()
                .find(|v| train.contains(v) || validation.contains(v) || test.contains(v))
            {
                return Err(format!("split: `{value}` is both used and dropped"));
            }
            Ok(SplitRule::Column { column, train, validation, test, drop, seed })
        }
    }
}

fn time_split(raw: &RawSplit, time: &TimeRule, fractions: [f64; 3]) -> Result<SplitRule, String> {
    let boundary = |key: &str, value: &Option<toml::Value>| -> Result<Option<i64>, String> {
        let Some(value) = value else { return Ok(None) };
        let text = match value {
            toml::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let parsed = time.format.parse(text.as_bytes());
        let parsed = parsed.or_else(|| TimeFormat::Iso.parse(text.as_bytes()));
        match parsed {
            Some(time) => Ok(Some(time)),
            None => Err(format!(
                "split: {key} = `{text}` is not a time of the form {}",
                time.format.expected()
            )),
        }
    };
    let validation_from = boundary("validation_from", &raw.validation_from)?;
    let test_from = boundary("test_from", &raw.test_from)?;
    if validation_from.is_none() && test_from.is_none() {
        return Ok(SplitRule::TimeFractions { fractions });
    }
    if raw.fractions.is_some() {
        return Err("split: give either `fractions` or `validation_from` and `test_from`".into());
    }
    let test_from = test_from.unwrap_or(i64::MAX);
    let validation_from = validation_from.unwrap_or(test_from);
    if validation_from > test_from {
        return Err("split: `validation_from` lies after `test_from`".into());
    }
    Ok(SplitRule::TimeBoundaries { validation_from, test_from })
}

fn check_fractions(fractions: [f64; 3]) -> Result<(), String> {
    let sum: f64 = fractions.iter().sum();
    if fractions.iter().any(|f| !(0.0..=1.0).contains(f)) || (sum - 1.0).abs() > 1e-9 {
        return Err(format!("split: fractions {fractions:?} must lie in 0..=1 and sum to 1"));
    }
    if fractions[0] == 0.0 {
        return Err("split: the training fraction is 0; encoders are fitted on that part".into());
    }
    Ok(())
}

/// The least number of rows that the fractions divide exactly, and the rows of each part in it.
pub(crate) fn granularity(fractions: [f64; 3]) -> Option<(u32, [u32; 3])> {
    [1u32, 2, 3, 4, 5, 8, 10, 20, 25, 50, 100, 200, 500, 1000].into_iter().find_map(|group| {
        let counts = fractions.map(|f| (f * f64::from(group)).round());
        let exact =
            fractions.iter().zip(counts).all(|(f, c)| (f * f64::from(group) - c).abs() < 1e-6);
        exact.then(|| (group, counts.map(|c| c as u32)))
    })
}
