//! Every kind of bad input is refused with file, row and field, or set aside.

mod common;

use std::io::Write;

use common::{criteo_text, run, schema, write};
use palmette_data::{OnBadRow, PrepareOptions, QUARANTINE_FILE, Schema, Split, prepare};

const SMALL: &str = "label = \"click\"\ndense = [\"x\"]\ncategorical = [\"c\"]";

/// Prepares `content` as `log.csv` and compares the error's text without the directory.
fn check(schema_text: &str, content: impl AsRef<[u8]>, expect: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "log.csv", content);
    let error = run(dir.path(), schema(schema_text), &[path]).unwrap_err().to_string();
    let error = error.replace(&format!("{}/", dir.path().display()), "");
    assert!(error.starts_with(expect), "got:    {error}\nexpect: {expect}");
}

#[test]
fn wrong_column_count() {
    check(SMALL, "click,x,c\n1,2,a\n0,3\n", "log.csv: row 3: 2 columns, expected 3");
    check(SMALL, "click,x,c\n1,2,a,4\n", "log.csv: row 2: 4 columns, expected 3");
    check(SMALL, "click,x,c\n1,2,a\n \n0,3,b\n", "log.csv: row 3: 1 columns, expected 3");
}

#[test]
fn empty_lines_are_no_rows_but_count_in_numbers() {
    let rows: String = (0..30).map(|i| format!("{},{i},a\n\n", i % 2)).collect();
    let bad = format!("click,x,c\n{rows}0,two,b\n");
    check(SMALL, &bad, "log.csv: row 62, field `x`: `two` is not a finite number");
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "log.csv", format!("click,x,c\n{rows}\n\n"));
    let dataset = run(dir.path(), schema(SMALL), &[path]).unwrap();
    assert_eq!(Split::ALL.map(|split| dataset.rows(split)).iter().sum::<usize>(), 30);
    assert_eq!(dataset.manifest().dropped, 0);
}

#[test]
fn columns_of_one_name_are_told_apart_or_refused() {
    check(
        SMALL,
        "click,x,c,x\n1,2,a,3\n",
        "log.csv: columns 2 and 4 are both named `x`; rename one of them",
    );
    let dir = tempfile::tempdir().unwrap();
    let rows: String = (0..30).map(|i| format!("{},{i},a,5,6\n", i % 2 == 0)).collect();
    let path = write(dir.path(), "log.csv", format!("click,x,c,unused,unused\n{rows}"));
    let dataset = run(dir.path(), schema(SMALL), &[path]).unwrap();
    let manifest = dataset.manifest();
    let positives: u64 = Split::ALL.map(|split| manifest.positives.get(split)).iter().sum();
    assert_eq!(positives, 15, "true and false are labels");
}

#[test]
fn labels() {
    check(
        SMALL,
        "click,x,c\n1,2,a\nyes,3,b\n",
        "log.csv: row 3, field `click`: label `yes` is not a number",
    );
    check(SMALL, "click,x,c\n2,2,a\n", "log.csv: row 2, field `click`: label 2 is outside {0, 1}");
    check(
        SMALL,
        "click,x,c\n0.5,2,a\n",
        "log.csv: row 2, field `click`: label 0.5 is outside {0, 1}",
    );
    check(SMALL, "click,x,c\n,2,a\n", "log.csv: row 2, field `click`: the label is missing");
    check(
        SMALL,
        "click,x,c\nnan,2,a\n",
        "log.csv: row 2, field `click`: label `nan` is not a number",
    );
}

#[test]
fn fields_that_encoders_cannot_read() {
    check(
        SMALL,
        "click,x,c\n1,1e999,a\n",
        "log.csv: row 2, field `x`: `1e999` is not a finite number",
    );
    check(SMALL, "click,x,c\n1,two,a\n", "log.csv: row 2, field `x`: `two` is not a finite number");
    let hex = format!("{SMALL}\nencoder = {{ kind = \"modulo\", base = \"hex\" }}");
    check(
        &hex,
        "click,x,c\n1,2,xyz\n",
        "log.csv: row 2, field `c`: `xyz` is not a hexadecimal integer",
    );
    let time = format!("{SMALL}\ntime = \"t\"");
    check(
        &time,
        "click,x,c,t\n1,2,a,yesterday\n",
        "log.csv: row 2, field `t`: `yesterday` is not a time of the form `2013-10-01`",
    );
    let weight = format!("{SMALL}\nweight = \"w\"");
    check(
        &weight,
        "click,x,c,w\n1,2,a,-1\n",
        "log.csv: row 2, field `w`: `-1` is not a sample weight",
    );
    let split = format!("{SMALL}\n[split]\ncolumn = \"s\"\ntrain = [\"a\"]");
    check(
        &split,
        "click,x,c,s\n1,2,a,b\n",
        "log.csv: row 2, field `s`: `b` is not listed under train",
    );
}

#[test]
fn text_that_is_none() {
    check(SMALL, b"click,x,c\n1,2,a\n1,2,\xff\xfe\n".as_slice(), "log.csv: row 3: invalid UTF-8");
    check(SMALL, b"click,\xff,c\n1,2,a\n".as_slice(), "log.csv: row 1: invalid UTF-8");
    check(SMALL, "click,x,c\n1,2,\"a\n", "log.csv: row 2: a quoted field is not closed");
}

#[test]
fn empty_files() {
    check(SMALL, "", "log.csv: the file has no rows");
    check(SMALL, "click,x,c\n", "log.csv: the file has no rows");
    check(SMALL, "click,x,c", "log.csv: the file has no rows");
}

#[test]
fn missing_columns_are_suggested() {
    check(
        SMALL,
        "click,x,d\n1,2,a\n",
        "log.csv: no column `c` (did you mean `d`?); the file has: click, x, d",
    );
    check(SMALL, "clik,x,c\n1,2,a\n", "log.csv: no column `click` (did you mean `clik`?)");
    let ignore = format!("{SMALL}\nignore = [\"leak\"]");
    check(&ignore, "click,x,c\n1,2,a\n", "log.csv: no column `leak`; the file has");
}

#[test]
fn files_that_are_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let error = run(dir.path(), schema(SMALL), &[dir.path().join("log.csv")]).unwrap_err();
    assert!(error.to_string().contains("cannot open"), "{error}");
    let path = write(dir.path(), "log.dat", "click,x,c\n1,2,a\n");
    let error = run(dir.path(), schema(SMALL), &[path]).unwrap_err();
    assert!(error.to_string().contains("unknown kind of file"), "{error}");
}

#[test]
fn truncated_compressed_files() {
    let dir = tempfile::tempdir().unwrap();
    let text = criteo_text(2_000, 1);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(text.as_bytes(), 1).unwrap();
    for (name, bytes) in [("log.tsv.gz", gzip), ("log.tsv.zst", zstd)] {
        for cut in [bytes.len() / 2, bytes.len() - 3] {
            let path = write(dir.path(), name, &bytes[..cut]);
            let error = run(dir.path(), Schema::preset("criteo").unwrap(), &[path])
                .unwrap_err()
                .to_string();
            assert!(error.contains(&format!("{name}: damaged or truncated")), "{error}");
        }
    }
}

#[test]
fn truncated_parquet_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "log.parquet", b"PAR1 and then nothing");
    let error = run(dir.path(), schema(SMALL), &[path]).unwrap_err().to_string();
    assert!(error.contains("damaged or truncated Parquet"), "{error}");
}

#[test]
fn parts_without_rows() {
    let time = format!(
        "{SMALL}\ntime = \"t\"\n[split]\nvalidation_from = \"2020-01-01\"\ntest_from = \"2021-01-01\""
    );
    check(&time, "click,x,c,t\n1,2,a,2019-05-05\n", "the validation part would be empty");
    let same = format!("{SMALL}\ntime = \"t\"");
    let rows = "1,2,a,2019-05-05\n".repeat(20);
    check(
        &same,
        format!("click,x,c,t\n{rows}"),
        "the train part would be empty: so many rows have the earliest time (2019-05-05)",
    );
}

#[test]
fn quarantine_sets_bad_rows_aside() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::from("click,x,c\n");
    for i in 0..100 {
        text.push_str(match i % 20 {
            3 => "2,1,a\n",
            7 => "1,1\n",
            _ => "1,1,a\n",
        });
    }
    let path = write(dir.path(), "log.csv", &text);
    let mut options = PrepareOptions::new(schema(SMALL), vec![path], dir.path().join("out"));
    options.on_bad_row = OnBadRow::Quarantine { max_bad: 10 };
    let dataset = prepare(&options, &()).unwrap();
    assert_eq!(dataset.manifest().quarantined, 10);
    assert_eq!(Split::ALL.iter().map(|&split| dataset.rows(split)).sum::<usize>(), 90);
    let lines = std::fs::read_to_string(dir.path().join("out").join(QUARANTINE_FILE)).unwrap();
    let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(lines.lines().count(), 10);
    assert_eq!(first["row"], 5);
    assert_eq!(first["field"], "click");
    assert_eq!(first["text"], "2,1,a");

    options.output = dir.path().join("fewer");
    options.on_bad_row = OnBadRow::Quarantine { max_bad: 9 };
    let error = prepare(&options, &()).unwrap_err().to_string();
    assert!(error.starts_with("10 bad rows, more than the 9 allowed"), "{error}");
    assert!(error.contains("row 89: 2 columns, expected 3"), "{error}");
}

/// The reading thread used to wait for ever when a bad row ended the parsing before it.
#[test]
fn a_bad_row_at_the_start_of_a_long_file_ends_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("2\n{}", criteo_text(20_000, 3));
    let path = write(dir.path(), "log.tsv", text);
    let error =
        run(dir.path(), Schema::preset("criteo").unwrap(), &[path]).unwrap_err().to_string();
    assert!(error.contains("log.tsv: row 1: 1 columns, expected 40"), "{error}");
}

#[test]
fn damaged_shards_are_found_by_their_hash() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "log.tsv", criteo_text(500, 2));
    let dataset = run(dir.path(), Schema::preset("criteo").unwrap(), &[path]).unwrap();
    dataset.verify().unwrap();
    let shard = dataset.dir().join(&dataset.manifest().shards[1].file);
    let mut bytes = std::fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&shard, &bytes).unwrap();
    let error = dataset.verify().unwrap_err().to_string();
    assert!(error.contains("validation-00000.shard: damaged"), "{error}");
    std::fs::write(&shard, &bytes[..middle]).unwrap();
    let error = palmette_data::Dataset::open(dataset.dir()).unwrap_err().to_string();
    assert!(error.contains("validation-00000.shard: damaged"), "{error}");
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(200))]

    /// Whatever the bytes, the answer is a dataset or an error.
    #[test]
    fn no_file_panics(bytes: Vec<u8>, rows in "([01x]?,[0-9.,\"a\n]{0,6},[a-c\"]?\r?\n){0,8}", name in 0usize..4) {
        let dir = tempfile::tempdir().unwrap();
        let name = ["log.csv", "log.tsv", "log.csv.gz", "log.parquet"][name];
        let content = [b"click,x,c\n".as_slice(), rows.as_bytes(), &bytes].concat();
        for content in [&content, &bytes] {
            let path = write(dir.path(), name, content);
            let mut options = PrepareOptions::new(schema(SMALL), vec![path], dir.path().join("out"));
            options.overwrite = true;
            options.on_bad_row = OnBadRow::Quarantine { max_bad: 1_000 };
            let _ = prepare(&options, &());
            let _ = palmette_data::infer(&options.inputs[0]);
        }
    }
}
