//! The TOML form of a schema: what it means and how it refuses.

use std::path::Path;

use palmette_data::{
    EncoderRule, IntegerBase, PRESETS, Schema, SplitRule, TimeFormat, TransformRule,
};

fn parse(text: &str) -> Result<Schema, String> {
    Schema::parse(text, Path::new("log.toml")).map_err(|error| error.to_string())
}

/// The error of a schema that must be refused.
fn refused(text: &str, expect: &str) {
    let error = parse(text).unwrap_err();
    assert!(error.starts_with("log.toml: "), "{error}");
    assert!(error.contains(expect), "got:    {error}\nexpect: {expect}");
}

const BASE: &str = "label = \"y\"\ncategorical = [\"c\"]\n";

#[test]
fn unknown_keys_name_the_nearest() {
    refused(
        "label = \"y\"\ncategorcal = [\"c\"]",
        "unknown key `categorcal`; did you mean `categorical`?",
    );
    refused(
        &format!("{BASE}[split]\nfraction = [1, 0, 0]"),
        "unknown key `fraction` in `split`; did you mean `fractions`?",
    );
    refused(
        &format!("{BASE}[column.c]\nencodr = \"hash\""),
        "unknown key `encodr` in `column.c`; did you mean `encoder`?",
    );
    refused(
        "label = { colum = \"y\" }\ncategorical = []",
        "unknown key `colum` in `label`; did you mean `column`?",
    );
    refused(&format!("{BASE}zebra = 1"), "unknown key `zebra`; known keys: name, format");
    refused(
        &format!("{BASE}[column.d]\nrows = 10"),
        "`column.d` is neither a dense nor a categorical field nor a list; did you mean `c`?",
    );
    refused(&format!("{BASE}header = true"), "`header` is not needed");
}

#[test]
fn values_that_mean_nothing() {
    refused("categorical = [\"c\"]", "missing field `label`");
    refused("label = \"y\"\ncategorical = []", "are all empty");
    refused(
        "label = \"y\"\ncategorical = [\"y\"]",
        "`y` is the label and cannot be an input as well",
    );
    refused("label = \"y\"\ncategorical = [\"c\", \"c\"]", "`c` is named twice");
    refused("label = \"y\"\ncategorical = [\"C5..C1\"]", "is not a range of columns");
    refused(&format!("{BASE}ignore = [\"c\"]"), "`c` is both an input and under `ignore`");
    refused(
        &format!("{BASE}encoder = \"dictionry\""),
        "unknown encoder `dictionry`; did you mean `dictionary`?",
    );
    refused(
        &format!("{BASE}encoder = {{ kind = \"hash\", min_count = 3 }}"),
        "`min_count` does not apply",
    );
    refused(&format!("{BASE}encoder = 3"), "accepted forms:");
    refused(&format!("{BASE}[column.c]\nrows = 2"), "at least 3 rows");
    refused(&format!("{BASE}[column.c]\ntransform = \"log\""), "`column.c` is categorical");
    refused(
        "label = { column = \"y\", missing = \"skip\" }\ncategorical = [\"c\"]",
        "neither \"error\" nor \"drop\"",
    );
    refused("label = ", "TOML parse error");
}

#[test]
fn splits_that_cannot_be() {
    refused(&format!("{BASE}[split]\nby = \"tme\""), "unknown by = \"tme\"; did you mean `time`?");
    refused(&format!("{BASE}[split]\nby = \"time\""), "needs `time`");
    refused(&format!("{BASE}[split]\nby = \"group\""), "needs `group`");
    refused(
        &format!("{BASE}[split]\nfractions = [0.5, 0.1, 0.1]"),
        "must lie in 0..=1 and sum to 1",
    );
    refused(&format!("{BASE}[split]\nfractions = [0.0, 0.5, 0.5]"), "the training fraction is 0");
    refused(
        &format!("{BASE}[split]\nfractions = [0.33333, 0.33333, 0.33334]"),
        "at most three decimals",
    );
    refused(
        &format!("{BASE}[split]\nseed = 1\ntrain = [\"a\"]"),
        "`train` does not apply to by = \"random\"",
    );
    refused(
        &format!("{BASE}time = \"t\"\n[split]\nvalidation_from = \"soon\""),
        "validation_from = `soon` is not a time",
    );
    refused(
        &format!(
            "{BASE}time = \"t\"\n[split]\nvalidation_from = \"2020-02-01\"\ntest_from = \"2020-01-01\""
        ),
        "`validation_from` lies after `test_from`",
    );
    refused(
        &format!("{BASE}[split]\ncolumn = \"s\"\ntrain = [\"a\"]\ndrop = [\"a\"]"),
        "`a` is both used and dropped",
    );
}

#[test]
fn defaults() {
    let schema = parse(BASE).unwrap();
    assert_eq!(schema.name, "log");
    assert_eq!(schema.categorical[0].encoder, EncoderRule::Dictionary { min_count: 1 });
    assert_eq!(schema.split, SplitRule::Random { fractions: [0.8, 0.1, 0.1], seed: 2018 });
    // naming a time column makes the split one by time
    let schema =
        parse(&format!("{BASE}time = {{ column = \"t\", format = \"yymmddhh\" }}")).unwrap();
    assert_eq!(schema.time.as_ref().unwrap().format, TimeFormat::Yymmddhh);
    assert_eq!(schema.split, SplitRule::TimeFractions { fractions: [0.8, 0.1, 0.1] });
    let schema = parse(&format!(
        "{BASE}time = [\"year\", \"month\", \"day\"]\n[split]\nvalidation_from = 2013-10-01\ntest_from = \"2013-11-01\""
    ));
    assert_eq!(
        schema.unwrap().split,
        SplitRule::TimeBoundaries { validation_from: 1_380_585_600, test_from: 1_383_264_000 }
    );
}

#[test]
fn columns_override_the_defaults() {
    let schema = parse(
        "label = \"y\"\ndense = [\"I1..I3\"]\ncategorical = [\"C1..C3\"]\nencoder = \"hash\"\ntransform = \"none\"\n\
         [column.I2]\ntransform = \"standard\"\n[column.C2]\nrows = 50\n\
         encoder = { kind = \"modulo\", base = \"decimal-or-hex\" }\n",
    )
    .unwrap();
    let transforms: Vec<TransformRule> = schema.dense.iter().map(|field| field.transform).collect();
    assert_eq!(transforms, [TransformRule::None, TransformRule::Standard, TransformRule::None]);
    assert_eq!(
        schema.categorical[1].encoder,
        EncoderRule::Modulo { base: IntegerBase::DecimalOrHex }
    );
    assert_eq!(schema.categorical[1].rows, Some(50));
    assert_eq!(schema.categorical[2].encoder, EncoderRule::Hash);
}

#[test]
fn presets_have_the_published_shapes() {
    let shapes = [("criteo", 13, 26, 40), ("avazu", 1, 23, 0), ("kdd12", 3, 10, 12)];
    for ((name, dense, categorical, columns), preset) in shapes.into_iter().zip(PRESETS) {
        assert_eq!(name, preset);
        let schema = Schema::preset(name).unwrap();
        assert_eq!((schema.dense.len(), schema.categorical.len()), (dense, categorical), "{name}");
        assert_eq!(schema.columns.map_or(0, |columns| columns.len()), columns, "{name}");
        // rows of all tables with none above 500,000, as published
        let capped: u32 =
            schema.categorical.iter().filter_map(|f| f.rows).map(|rows| rows.min(500_000)).sum();
        let expect = match name {
            "criteo" => 3_069_317,
            "avazu" => 1_043_571,
            _ => 3_041_134,
        };
        assert_eq!(capped, expect, "{name}");
    }
}

#[test]
fn a_time_of_no_columns_or_of_too_many_is_refused() {
    let check = |time: &str, expect: Option<&str>| {
        let text = format!("label = \"y\"\ncategorical = [\"c\"]\ntime = {time}");
        let parsed = Schema::parse(&text, "s.toml".as_ref());
        match (parsed, expect) {
            (Err(error), Some(expect)) => assert!(error.to_string().contains(expect), "{error}"),
            (parsed, expect) => assert!(parsed.is_ok() && expect.is_none(), "{time}"),
        }
    };
    check("[]", Some("time: 0 columns"));
    check("[\"a\", \"b\", \"c\", \"d\", \"e\", \"f\", \"g\"]", Some("time: 7 columns"));
    check("[\"day\"]", None);
    check("[\"year\", \"month\"]", None);
}
