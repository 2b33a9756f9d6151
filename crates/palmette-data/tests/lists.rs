//! Fields of any number of values: from text and Parquet to jagged batches.

mod common;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow_array::builder::{Int64Builder, LargeListBuilder, ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use common::{StopAfter, contents, run, schema, write};
use palmette_data::{
    Batch, DataError, Dataset, Jagged, LogReader, PrepareOptions, RawBatch, RowEncoder, Schema,
    Split, hash_value, prepare, table_index,
};
use palmette_random::{Draw, stream};
use proptest::prelude::*;

const ALL_TRAIN: &str = "split = { fractions = [1.0, 0.0, 0.0] }\n";

fn raw(dataset: &Dataset, split: Split) -> RawBatch {
    let mut batch = RawBatch::default();
    dataset.fill_raw(split, 0..dataset.rows(split), &mut batch).unwrap();
    batch
}

fn jagged<T: Clone>(rows: &[Vec<T>]) -> Jagged<T> {
    let mut jagged = Jagged::default();
    rows.iter().for_each(|row| jagged.push(row.iter().cloned()));
    jagged
}

/// What a list's text means, by the plainest code.
fn texts(field: &str, separator: char, max: usize, last: bool) -> Vec<String> {
    let all: Vec<String> = field
        .split(separator)
        .map(|text| text.trim().to_string())
        .filter(|text| !text.is_empty() && text != "NA")
        .collect();
    let cut = all.len().saturating_sub(max);
    if last { all[cut..].to_vec() } else { all[..all.len() - cut].to_vec() }
}

#[test]
fn vocabularies_are_shared_and_fitted_on_the_training_part() {
    let dir = tempfile::tempdir().unwrap();
    let schema = schema(
        "label = \"y\"\ncategorical = [\"item\"]\nlists = [\"history\", \"tags\"]\n\
         encoder = { kind = \"dictionary\", min_count = 2 }\n\
         split = { column = \"s\", train = [\"tr\"], validation = [\"va\"], test = [\"te\"] }\n\
         [column.history]\nshares = \"item\"\nmax_length = 3\n\
         [column.tags]\nseparator = \" \"\nkeep = \"first\"\nmax_length = 2\n",
    );
    let text = "y,item,history,tags,s\n1,a,b|b|c|a,x y z,tr\n0,c,,x,tr\n1,rare,b||b, ,tr\n\
                0,new,a|new|rare|c,y x,va\n1,b,rare,z z z,te\n";
    let path = write(dir.path(), "log.csv", text);
    let dataset = run(dir.path(), schema, &[path]).unwrap();
    let encoder = RowEncoder::open(&dataset).unwrap();
    // history keeps b c a, nothing, b b: with the items b 3, a 2, c 2, rare 1
    let vocabulary: Vec<Option<&str>> = encoder.vocabulary(0).unwrap().collect();
    assert_eq!(vocabulary, [Some("b"), Some("a"), Some("c")]);
    let vocabulary: Vec<Option<&str>> = encoder.vocabulary(1).unwrap().collect();
    assert_eq!(vocabulary, [Some("x")]);
    assert_eq!(dataset.list_tables(), [0, 1]);
    assert_eq!(dataset.table_rows(None), [4, 3]);
    let train = raw(&dataset, Split::Train);
    assert_eq!(train.values, [1, 2, -1]);
    assert_eq!(train.lists[0], jagged(&[vec![0, 2, 1], vec![], vec![0, 0]]));
    assert_eq!(train.lists[1], jagged(&[vec![0, -1], vec![0], vec![]]));
    assert_eq!(raw(&dataset, Split::Validation).lists[0], jagged(&[vec![-1, -1, 2]]));
    assert_eq!(raw(&dataset, Split::Test).lists[1], jagged(&[vec![-1, -1]]));
    let counts = &dataset.manifest().lists;
    let found =
        |i: usize| (counts[i].elements, counts[i].empty, counts[i].truncated, counts[i].cut);
    assert_eq!(found(0), (9, 1, 2, 2));
    assert_eq!(found(1), (7, 1, 2, 2));
    let mut batch = Batch::default();
    dataset.fill(Split::Train, &[2, 0], &dataset.table_rows(None), &mut batch).unwrap();
    assert_eq!(batch.lists[0], jagged(&[vec![1, 1], vec![1, 3, 2]]));
    assert_eq!(batch.lists[1], jagged(&[vec![], vec![1, 0]]));
    assert_eq!(encoder.list(0, "c| |rare|b").unwrap(), [2, -1, 0]);
    dataset.verify().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn rows_arrive_as_the_plainest_code_reads_them(
        rows in prop::collection::vec(
            (prop::collection::vec("[0-9]{1,3}|NA| 7|", 0..9), prop::collection::vec("[a-c]|NA|4294967295", 0..5)),
            1..40),
        max in 1usize..6,
        last in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let keep = if last { "last" } else { "first" };
        let schema = schema(&format!(
            "label = \"y\"\nlists = [\"n\", \"t\"]\nmissing = [\"NA\"]\n{ALL_TRAIN}\
             [column.n]\nencoder = \"modulo\"\nmax_length = {max}\nkeep = \"{keep}\"\n\
             [column.t]\nencoder = \"hash\"\nseparator = \";\"\nmax_length = {max}\nkeep = \"{keep}\"\n"
        ));
        let mut text = String::from("y,n,t\n");
        for (n, t) in &rows {
            text += &format!("1,{},{}\n", n.join("|"), t.join(";"));
        }
        let path = write(dir.path(), "log.csv", &text);
        let dataset = run(dir.path(), schema, std::slice::from_ref(&path)).unwrap();
        let lines: Vec<(&str, &str)> =
            text.lines().skip(1).map(|line| line[2..].split_once(',').unwrap()).collect();
        let numbers: Vec<Vec<i64>> = lines.iter()
            .map(|(n, _)| texts(n, '|', max, last).iter().map(|x| x.parse().unwrap()).collect())
            .collect();
        let hashes: Vec<Vec<i64>> = lines.iter()
            .map(|(_, t)| texts(t, ';', max, last).iter().map(|x| i64::from(hash_value(x.as_bytes()))).collect())
            .collect();
        let found = raw(&dataset, Split::Train);
        prop_assert_eq!(&found.lists[0], &jagged(&numbers));
        prop_assert_eq!(&found.lists[1], &jagged(&hashes));
        // the same rows for predictions, whole and by themselves
        let encoder = RowEncoder::open(&dataset).unwrap();
        let mut reader = LogReader::open(&encoder, &[path], None).unwrap();
        let mut again = RawBatch::default();
        prop_assert!(reader.next_batch(&mut again).unwrap());
        prop_assert_eq!(&again.lists, &found.lists);
        for (row, (n, t)) in lines.iter().enumerate() {
            prop_assert_eq!(encoder.list(0, n).unwrap(), numbers[row].clone());
            prop_assert_eq!(encoder.list(1, t).unwrap(), hashes[row].clone());
        }
        // and as table rows
        let tables = dataset.table_rows(Some(50));
        let (mut batch, mut finished) = (Batch::default(), Batch::default());
        dataset.fill_range(Split::Train, 0..rows.len(), &tables, &mut batch).unwrap();
        for (list, values) in found.lists.iter().enumerate() {
            let expect: Vec<u32> =
                values.values.iter().map(|&v| table_index(v, tables[list])).collect();
            prop_assert_eq!(&batch.lists[list].values, &expect);
        }
        encoder.finish(&found, &tables, &mut finished);
        prop_assert_eq!(finished.lists, batch.lists);
    }
}

/// Rows of an item, a history of it, and a list of large numbers with one that wraps.
fn log(rows: u64) -> Vec<(String, Vec<String>, Vec<i64>)> {
    let row = |row| {
        let mut random = stream(9, "test/lists", row);
        let item = format!("item{}", random.below(300));
        let length = random.below(12) as usize;
        let history = (0..length).map(|_| format!("item{}", random.below(300))).collect();
        let numbers = (0..random.below(4)).map(|_| random.below(1 << 32) as i64);
        let mut numbers: Vec<i64> = numbers.collect();
        if row % 97 == 0 {
            numbers.push(4_294_967_295);
        }
        (item, history, numbers)
    };
    (0..rows).map(row).collect()
}

fn csv(rows: &[(String, Vec<String>, Vec<i64>)]) -> String {
    let mut text = String::from("y,item,history,numbers\n");
    for (i, (item, history, numbers)) in rows.iter().enumerate() {
        let numbers: Vec<String> = numbers.iter().map(i64::to_string).collect();
        text += &format!("{},{item},{},{}\n", i % 2, history.join("|"), numbers.join("|"));
    }
    text
}

const LOG_SCHEMA: &str = "label = \"y\"\ncategorical = [\"item\"]\nlists = [\"history\", \"numbers\"]\n\
    encoder = { kind = \"dictionary\", min_count = 20 }\n\
    [column.history]\nshares = \"item\"\nmax_length = 8\n\
    [column.numbers]\nencoder = \"modulo\"\n";

/// The same rows in Parquet, with lists of its own.
fn parquet(path: &std::path::Path, rows: &[(String, Vec<String>, Vec<i64>)]) {
    let mut history = ListBuilder::new(StringBuilder::new());
    let mut numbers = LargeListBuilder::new(Int64Builder::new());
    for (row, (_, texts, values)) in rows.iter().enumerate() {
        texts.iter().for_each(|text| history.values().append_value(text));
        values.iter().for_each(|&value| numbers.values().append_value(value));
        // a list without values may be null, and a null among values is none
        match row % 3 {
            0 => history.append(!texts.is_empty()),
            1 => {
                history.values().append_null();
                history.append(true);
            }
            _ => history.append(true),
        }
        numbers.append(true);
    }
    let labels = Int64Array::from_iter_values((0..rows.len() as i64).map(|i| i % 2));
    let items = StringArray::from_iter_values(rows.iter().map(|(item, ..)| item));
    let columns: [(&str, ArrayRef); 4] = [
        ("y", Arc::new(labels)),
        ("item", Arc::new(items)),
        ("history", Arc::new(history.finish())),
        ("numbers", Arc::new(numbers.finish())),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn bytes_do_not_depend_on_memory_threads_compression_or_form() {
    let dir = tempfile::tempdir().unwrap();
    let rows = log(20_000);
    let text = csv(&rows);
    let plain = write(dir.path(), "log.csv", &text);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    let gzip = write(dir.path(), "log.csv.gz", gzip.finish().unwrap());
    let native = dir.path().join("log.parquet");
    parquet(&native, &rows);
    let mut datasets = Vec::new();
    for (number, (input, memory, threads)) in [
        (plain.clone(), 1u64 << 30, 2),
        (plain, 64 << 20, 1),
        (gzip, 64 << 20, 3),
        (native, 64 << 20, 5),
    ]
    .into_iter()
    .enumerate()
    {
        let output = dir.path().join(format!("out{number}"));
        let mut options = PrepareOptions::new(schema(LOG_SCHEMA), vec![input], output);
        options.memory = memory;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        datasets.push(pool.install(|| prepare(&options, &())).unwrap());
    }
    for dataset in &datasets[1..] {
        assert_eq!(dataset.fingerprint(), datasets[0].fingerprint());
    }
    let total: usize = rows.iter().map(|(_, _, numbers)| numbers.len()).sum();
    let parts = Split::ALL.map(|split| raw(&datasets[0], split).lists[1].values.len());
    assert_eq!(parts.iter().sum::<usize>(), total);
    // and in one part they are the log's, the wrapping value among them
    let options = PrepareOptions::new(
        schema(&format!("{ALL_TRAIN}{LOG_SCHEMA}")),
        vec![dir.path().join("log.csv")],
        dir.path().join("whole"),
    );
    let found = raw(&prepare(&options, &()).unwrap(), Split::Train);
    let numbers: Vec<Vec<i64>> = rows.iter().map(|(_, _, numbers)| numbers.clone()).collect();
    assert!(found.lists[1].values.iter().filter(|&&v| v == 4_294_967_295).count() >= 207);
    assert_eq!(found.lists[1], jagged(&numbers));
}

#[test]
fn an_interrupted_run_continues_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let rows = log(12_000);
    let inputs: Vec<_> = rows
        .chunks(4_000)
        .enumerate()
        .map(|(i, rows)| write(dir.path(), &format!("day{i}.csv"), csv(rows)))
        .collect();
    let options = |name: &str| {
        let output = dir.path().join(name);
        let mut options = PrepareOptions::new(schema(LOG_SCHEMA), inputs.clone(), output);
        options.memory = 64 << 20;
        options
    };
    let whole = prepare(&options("whole"), &()).unwrap();
    for patience in 1..200 {
        match prepare(&options("pieces"), &StopAfter(AtomicU64::new(patience))) {
            Err(DataError::Interrupted) => {}
            Err(error) => panic!("{error}"),
            Ok(dataset) => {
                assert!(patience > 3, "{patience}");
                assert_eq!(contents(dataset.dir()), contents(whole.dir()));
                return;
            }
        }
    }
    panic!("never finished");
}

#[test]
fn newer_days_take_the_lists_encoders() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "label = \"y\"\ncategorical = [\"item\"]\nlists = [\"history\", \"tags\"]\n{ALL_TRAIN}\
         [column.history]\nshares = \"item\"\n"
    );
    let old = write(dir.path(), "old.csv", "y,item,history,tags\n1,a,b,t\n");
    let new = write(dir.path(), "new.csv", "y,item,history,tags\n0,z,b|a|z,u|t\n");
    let base = run(&dir.path().join("old"), schema(&text), &[old]).unwrap();
    let mut options = PrepareOptions::new(schema(&text), vec![new], dir.path().join("new"));
    options.encoders_from = Some(base.dir().to_path_buf());
    let newer = prepare(&options, &()).unwrap();
    newer.verify().unwrap();
    assert_eq!(raw(&newer, Split::Train).lists[0], jagged(&[vec![1, 0, -1]]));
    assert_eq!(raw(&newer, Split::Train).lists[1], jagged(&[vec![-1, 0]]));
    options.schema = schema(&text.replace("shares", "max_length = 5\nshares"));
    options.output = dir.path().join("other");
    let error = prepare(&options, &()).unwrap_err().to_string();
    assert!(error.contains("and lists"), "{error}");
}

#[test]
fn lists_of_parquet_are_inferred() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.parquet");
    parquet(&path, &log(500));
    let inferred = Schema::parse(&palmette_data::infer(&path).unwrap(), &path).unwrap();
    let names: Vec<&str> = inferred.lists.iter().map(|list| list.name.as_str()).collect();
    assert_eq!(names, ["history", "numbers"]);
    run(dir.path(), inferred, &[path]).unwrap();
}

#[test]
fn bad_values_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "label = \"y\"\nlists = [\"n\"]\n{ALL_TRAIN}[column.n]\nencoder = \"modulo\"\nmax_length = 2\n"
    );
    let path = write(dir.path(), "log.csv", "y,n\n1,1|2\n0,x|1|seven|2\n");
    let error = run(dir.path(), schema(&text), &[path]).unwrap_err().to_string();
    assert!(
        error.contains("log.csv: row 3, field `n`: value 3 of the list: `seven` is not a decimal"),
        "{error}"
    );
    let native = dir.path().join("log.parquet");
    parquet(&native, &log(5));
    let text = format!("label = \"y\"\ncategorical = [\"history\"]\n{ALL_TRAIN}");
    let error = run(dir.path(), schema(&text), &[native]).unwrap_err().to_string();
    assert!(error.contains("column `history`") && error.contains("under `lists`"), "{error}");
}

#[test]
fn schemas_of_lists_say_what_is_wrong() {
    let check = |column: &str, expect: &str| {
        let text = format!("label = \"y\"\ncategorical = [\"item\"]\nlists = [\"h\"]\n{column}");
        let error = Schema::parse(&text, "s.toml".as_ref()).unwrap_err().to_string();
        assert!(error.contains(expect), "{error:?} lacks {expect:?}");
    };
    check("[column.h]\nseparator = \"||\"", "is not one punctuation character");
    check("[column.h]\nseparator = \"a\"", "is not one punctuation character");
    check("[column.h]\nmax_length = 0", "max_length = 0 is not in 1..=4096");
    check("[column.h]\nmax_length = 5000", "max_length = 5000 is not in 1..=4096");
    check("[column.h]\nshares = \"itme\"", "did you mean `item`?");
    check("[column.h]\nshares = \"item\"\nrows = 5", "leave out `encoder` and `rows`");
    check("[column.h]\nrows = 2", "a table needs at least 3 rows");
    check("[column.h]\nkeep = \"newest\"", "expected `first` or `last`");
    check("[column.h]\nkep = \"last\"", "did you mean `keep`?");
    check("[column.h]\ntransform = \"log\"", "`column.h` is a list");
    check("[column.item]\nmax_length = 3", "`max_length` applies to a list only");
    check("[column.hh]\nmax_length = 3", "did you mean `h`?");
}

#[test]
fn damaged_ends_of_lists_are_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "log.csv", csv(&log(500)));
    let dataset = run(dir.path(), schema(LOG_SCHEMA), &[path]).unwrap();
    let shard = dataset.dir().join(&dataset.manifest().shards[0].file);
    let good = std::fs::read(&shard).unwrap();
    for trial in 0..200 {
        let mut random = stream(4, "test/damaged-ends", trial);
        let mut bytes = good.clone();
        for _ in 0..20 {
            let at = 64 + random.below(bytes.len() as u64 - 64) as usize;
            bytes[at] = random.below(256) as u8;
        }
        std::fs::write(&shard, bytes).unwrap();
        let damaged = Dataset::open(dataset.dir()).unwrap();
        let tables = damaged.table_rows(Some(50));
        let mut batch = Batch::default();
        damaged.fill_range(Split::Train, 0..400, &tables, &mut batch).unwrap();
        for (list, &table) in damaged.list_tables().iter().enumerate() {
            assert!(batch.lists[list].values.iter().all(|&id| id < tables[table]));
        }
        let _ = raw(&damaged, Split::Train);
    }
}
