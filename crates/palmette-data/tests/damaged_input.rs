//! Schemas, logs and compressed files with random damage are read or refused, never a panic.

mod common;

use std::io::Write;
use std::path::Path;

use common::{criteo_text, write};
use palmette_data::{OnBadRow, PrepareOptions, Schema, Split, infer, prepare};
use palmette_random::{Draw, stream};
use proptest::prelude::*;

const SCHEMA: &str = r#"
label = { column = "click", at_least = 1 }
dense = ["price", "age"]
categorical = ["user", "site"]
encoder = { kind = "dictionary", min_count = 2 }
transform = "standard"
time = "day"
keep = ["age"]
group = "user"
lists = ["seen", "tags"]
[split]
by = "random"
fractions = [0.8, 0.1, 0.1]
seed = 1
[column.site]
encoder = "hash"
rows = 100
[column.age]
transform = "none"
[column.seen]
shares = "user"
max_length = 3
[column.tags]
encoder = { kind = "modulo", base = "hex" }
separator = ";"
keep = "first"
"#;

fn log(rows: u64) -> String {
    let mut text = String::from("click,price,age,user,site,day,seen,tags\n");
    for row in 0..rows {
        let mut random = stream(3, "test/damage", row);
        let (click, user, site) = (random.below(2), random.below(9), random.below(4));
        let (price, day) = (random.unit() * 9.0, 1 + random.below(28));
        let seen: Vec<String> = (0..random.below(6)).map(|i| format!("u{i}")).collect();
        let seen = seen.join("|");
        text += &format!(
            "{click},{price:.2},{user}4,u{user},\"s,{site}\",2013-10-{day:02},{seen},{site};ff\n"
        );
    }
    text
}

const BOTH: [OnBadRow; 2] = [OnBadRow::Stop, OnBadRow::Quarantine { max_bad: 1000 }];

/// Prepares a damaged log; what is read must then be readable.
fn read(schema: &Schema, name: &str, content: &[u8], modes: &[OnBadRow]) {
    for &on_bad_row in modes {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), name, content);
        let _ = infer(&path);
        let options = PrepareOptions {
            on_bad_row,
            ..PrepareOptions::new(schema.clone(), vec![path], dir.path().join("out"))
        };
        if let Ok(dataset) = prepare(&options, &()) {
            let tables = dataset.table_rows(Some(7));
            let mut batch = palmette_data::Batch::default();
            for split in [Split::Train, Split::Validation, Split::Test] {
                let rows = dataset.rows(split);
                dataset.fill_range(split, 0..rows, &tables, &mut batch).unwrap();
                let fits = |(i, &id): (usize, &u32)| id < tables[i / rows.max(1)];
                assert!(batch.ids.iter().enumerate().all(fits));
                for (list, &table) in batch.lists.iter().zip(dataset.list_tables()) {
                    assert_eq!(list.rows(), rows);
                    assert!(list.values.iter().all(|&id| id < tables[table]));
                }
            }
        }
    }
}

/// Some bytes replaced, inserted or cut off.
fn damaged(mut bytes: Vec<u8>, edits: &[(u16, u8, u8)]) -> Vec<u8> {
    // What tends to matter to readers of text.
    const ODD: &[u8] = b"\0\n\r\t\",.-+eE0129xZ\xff\xc3\x28 #[]={}";
    for &(at, how, byte) in edits {
        if bytes.is_empty() {
            break;
        }
        let at = at as usize % bytes.len();
        let byte = if byte < 64 { ODD[byte as usize % ODD.len()] } else { byte };
        match how % 4 {
            0 | 1 => bytes[at] = byte,
            2 => bytes.insert(at, byte),
            _ => bytes.truncate(at),
        }
    }
    bytes
}

fn edits() -> impl Strategy<Value = Vec<(u16, u8, u8)>> {
    proptest::collection::vec(any::<(u16, u8, u8)>(), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn damaged_csv(edits in edits()) {
        let schema = Schema::parse(SCHEMA, Path::new("schema.toml")).unwrap();
        read(&schema, "log.csv", &damaged(log(30).into_bytes(), &edits), &BOTH);
    }

    #[test]
    fn damaged_tsv(edits in edits()) {
        let schema = Schema::preset("criteo").unwrap();
        read(&schema, "log.tsv", &damaged(criteo_text(20, 5).into_bytes(), &edits), &BOTH);
    }

    #[test]
    fn damaged_compression(edits in edits(), gzip in any::<bool>()) {
        let schema = Schema::parse(SCHEMA, Path::new("schema.toml")).unwrap();
        let text = log(60);
        if gzip {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(text.as_bytes()).unwrap();
            read(&schema, "log.csv.gz", &damaged(out.finish().unwrap(), &edits), &BOTH);
        } else {
            let bytes = zstd::encode_all(text.as_bytes(), 1).unwrap();
            read(&schema, "log.csv.zst", &damaged(bytes, &edits), &BOTH);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_schemas(edits in edits()) {
        let text = damaged(SCHEMA.as_bytes().to_vec(), &edits);
        if let Ok(schema) = Schema::parse(&String::from_utf8_lossy(&text), Path::new("s.toml")) {
            let _ = schema.extras();
        }
    }
}

#[test]
fn schemas_of_odd_values() {
    assert!(Schema::parse(SCHEMA, Path::new("s.toml")).is_ok());
    const VALUES: [&str; 18] = [
        "0",
        "-1",
        "1e999",
        "nan",
        "[]",
        "[[]]",
        "{}",
        "\"\"",
        "\"click\"",
        "[\"price\", \"price\"]",
        "[0.5, 0.6, 0.7]",
        "[-1.0, 1.0, 1.0]",
        "9223372036854775807",
        "{ kind = \"hash\", rows = 0 }",
        "{ kind = \"modulo\" }",
        "{ kind = \"dictionary\", min_count = 0 }",
        "2013-10-01",
        "true",
    ];
    let lines: Vec<&str> = SCHEMA.trim().lines().collect();
    let mut accepted = 0;
    for (at, line) in lines.iter().enumerate() {
        let Some((key, _)) = line.split_once(" = ") else { continue };
        for value in VALUES {
            let changed = format!("{key} = {value}");
            let mut text = lines.clone();
            text[at] = &changed;
            if let Ok(schema) = Schema::parse(&text.join("\n"), Path::new("s.toml")) {
                // What is accepted can be used.
                read(&schema, "log.csv", log(12).as_bytes(), &[OnBadRow::Stop]);
                accepted += 1;
            }
        }
    }
    assert!(accepted > 5, "{accepted} schemas were accepted");
}
