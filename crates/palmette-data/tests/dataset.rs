//! From text to batches: encodings, splits, determinism, resuming.

mod common;

use std::io::Write;
use std::sync::atomic::AtomicU64;

use common::{StopAfter, contents, criteo_text, run, schema, write};
use palmette_data::{
    Batch, DataError, Dataset, LogReader, PrepareOptions, RawBatch, RowEncoder, Schema, Split,
    prepare, table_index,
};

/// All rows of a part, raw.
fn raw(dataset: &Dataset, split: Split) -> RawBatch {
    let mut batch = RawBatch::default();
    dataset.fill_raw(split, 0..dataset.rows(split), &mut batch).unwrap();
    batch
}

/// A row of text without its label, to find it again.
type Row = (Vec<u32>, Vec<i64>, u32);

fn rows(batch: &RawBatch) -> Vec<Row> {
    let (dense, fields) = (batch.dense.len() / batch.rows, batch.values.len() / batch.rows);
    (0..batch.rows)
        .map(|row| {
            let bits = batch.dense[row * dense..(row + 1) * dense].iter().map(|x| x.to_bits());
            let values = batch.values[row * fields..(row + 1) * fields].to_vec();
            (bits.collect(), values, batch.labels[row].to_bits())
        })
        .collect()
}

/// What the rows of a Criteo text must become, by the plainest code.
fn criteo_rows(text: &str) -> Vec<Row> {
    let number =
        |field: &str| if field.is_empty() { f32::NAN } else { field.parse::<f32>().unwrap() };
    let id =
        |field: &str| if field.is_empty() { -1 } else { i64::from_str_radix(field, 16).unwrap() };
    text.lines()
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let dense = fields[1..14].iter().map(|f| number(f).to_bits()).collect();
            (dense, fields[14..].iter().map(|f| id(f)).collect(), number(fields[0]).to_bits())
        })
        .collect()
}

#[test]
fn criteo_rows_arrive_unchanged_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = criteo_text(20_000, 3);
    // the one value that does not fit a stored cell
    text = text.replacen("00000000", "ffffffff", 7);
    let path = write(dir.path(), "log.tsv", &text);
    let dataset = run(dir.path(), Schema::preset("criteo").unwrap(), &[path]).unwrap();
    let expect = criteo_rows(&text);
    assert!(expect.iter().any(|(_, values, _)| values.contains(&0xffff_ffff)));
    // each part is a subsequence of the log, and together they are all of it
    let mut parts: Vec<std::collections::VecDeque<Row>> =
        Split::ALL.iter().map(|&split| rows(&raw(&dataset, split)).into()).collect();
    for row in expect {
        let part = parts.iter_mut().find(|part| part.front() == Some(&row)).expect("row in order");
        part.pop_front();
    }
    assert!(parts.iter().all(|part| part.is_empty()));
    // stratified 8:1:1 to within a row of each label
    let positives = text.lines().filter(|line| line.starts_with('1')).count() as f64;
    for (split, share) in Split::ALL.into_iter().zip([0.8, 0.1, 0.1]) {
        let found = dataset.labels(split).iter().sum::<f32>();
        assert!((f64::from(found) - positives * share).abs() <= 10.0, "{split:?}");
        assert!((dataset.rows(split) as f64 - 20_000.0 * share).abs() <= 20.0);
    }
}

#[test]
fn batches_apply_transforms_and_tables() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "log.tsv", criteo_text(5_000, 4));
    let dataset = run(dir.path(), Schema::preset("criteo").unwrap(), &[path]).unwrap();
    let raw = raw(&dataset, Split::Train);
    let tables = dataset.table_rows(Some(100));
    assert!(tables.iter().all(|&rows| (4..=100).contains(&rows)));
    let picked: Vec<u32> = (0..1000).map(|i| (i * 7919 % raw.rows) as u32).collect();
    let mut batch = Batch::default();
    dataset.fill(Split::Train, &picked, &tables, &mut batch).unwrap();
    for (i, &row) in picked.iter().enumerate() {
        assert_eq!(batch.labels[i], raw.labels[row as usize]);
        assert_eq!(batch.weights[i], 1.0);
        for j in 0..13 {
            let x = raw.dense[row as usize * 13 + j];
            let expect = if x.is_nan() { 0.0 } else { (x.max(0.0) + 1.0).ln() };
            assert_eq!(batch.dense[i * 13 + j], expect);
        }
        for j in 0..26 {
            let expect = table_index(raw.values[row as usize * 26 + j], tables[j]);
            assert_eq!(batch.ids[j * picked.len() + i], expect);
        }
    }
    let (mut by_rows, mut by_range) = (Batch::default(), Batch::default());
    let consecutive: Vec<u32> = (100..1100).collect();
    dataset.fill(Split::Train, &consecutive, &tables, &mut by_rows).unwrap();
    dataset.fill_range(Split::Train, 100..1100, &tables, &mut by_range).unwrap();
    assert_eq!(by_rows, by_range);
    assert!(dataset.fill(Split::Train, &[raw.rows as u32], &tables, &mut batch).is_err());
    assert!(dataset.fill(Split::Train, &[0], &tables[1..], &mut batch).is_err());
}

#[test]
fn output_does_not_depend_on_memory_threads_blocks_or_compression() {
    let dir = tempfile::tempdir().unwrap();
    let text = criteo_text(30_000, 5);
    let mut schema = Schema::preset("criteo").unwrap();
    // dictionaries on half of the columns; tables counted instead of published
    for (i, field) in schema.categorical.iter_mut().enumerate() {
        field.rows = None;
        if i % 2 == 0 {
            field.encoder = palmette_data::EncoderRule::Dictionary { min_count: 3 };
        }
    }
    let plain = write(dir.path(), "log.tsv", &text);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    let gzip = write(dir.path(), "log.tsv.gz", gzip.finish().unwrap());
    let zstd = write(dir.path(), "log.tsv.zst", zstd::encode_all(text.as_bytes(), 1).unwrap());
    let half = text.len() / 2 + text[text.len() / 2..].find('\n').unwrap() + 1;
    let first = write(dir.path(), "a.tsv", &text[..half]);
    let second = write(dir.path(), "b.tsv", text[half..].replace('\n', "\r\n"));
    let mut fingerprints = Vec::new();
    for (number, (inputs, memory, threads)) in [
        (vec![plain.clone()], 1u64 << 30, 2),
        (vec![plain], 64 << 20, 1),
        (vec![gzip], 64 << 20, 3),
        (vec![zstd], 1 << 30, 7),
        (vec![first, second], 64 << 20, 2),
    ]
    .into_iter()
    .enumerate()
    {
        let mut options =
            PrepareOptions::new(schema.clone(), inputs, dir.path().join(format!("out{number}")));
        options.memory = memory;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let dataset = pool.install(|| prepare(&options, &())).unwrap();
        fingerprints.push(dataset.fingerprint());
    }
    assert!(
        fingerprints.iter().all(|fingerprint| *fingerprint == fingerprints[0]),
        "{fingerprints:?}"
    );
}

#[test]
fn dictionaries_are_fitted_on_the_training_part() {
    let dir = tempfile::tempdir().unwrap();
    let schema = schema(
        "label = \"y\"\ncategorical = [\"c\"]\ndense = [\"x\"]\ntransform = \"standard\"\n\
         encoder = { kind = \"dictionary\", min_count = 2 }\n\
         [split]\ncolumn = \"s\"\ntrain = [\"tr\"]\nvalidation = [\"va\"]\ntest = [\"te\"]",
    );
    let text = "y,c,x,s\n1,b,1,tr\n0,a,3,tr\n0,b,,tr\n1,a,,tr\n0,b,,tr\n1,rare,,tr\n0,,,tr\n1,,,tr\n\
                1,new,100,va\n0,new,2,va\n0,rare,2,te\n1,\"a\",2,te\n";
    let path = write(dir.path(), "log.csv", text);
    let dataset = run(dir.path(), schema, &[path]).unwrap();
    let field = &dataset.manifest().encoders.categorical[0];
    assert_eq!((field.distinct, field.missing, field.table_rows), (3, 2, 4));
    // b three times, then by text: missing twice, a twice
    let encoder = RowEncoder::open(&dataset).unwrap();
    let vocabulary: Vec<Option<&str>> = encoder.vocabulary(0).unwrap().collect();
    assert_eq!(vocabulary, [Some("b"), None, Some("a")]);
    assert_eq!(raw(&dataset, Split::Train).values, [0, 2, 0, 2, 0, -1, 1, 1]);
    assert_eq!(raw(&dataset, Split::Validation).values, [-1, -1]);
    assert_eq!(raw(&dataset, Split::Test).values, [-1, 2]);
    let mut batch = Batch::default();
    dataset.fill_range(Split::Train, 0..3, &dataset.table_rows(None), &mut batch).unwrap();
    assert_eq!(batch.ids, [1, 3, 1]);
    // mean 2, deviation 1; missing becomes 0
    assert_eq!(batch.dense, [-1.0, 1.0, 0.0]);
}

#[test]
fn hashes_are_stable() {
    let dir = tempfile::tempdir().unwrap();
    let schema = schema(
        "label = \"y\"\ncategorical = [\"c\"]\nencoder = \"hash\"\n[split]\nfractions = [1.0, 0.0, 0.0]",
    );
    let path = write(dir.path(), "log.csv", "y,c\n1,abc\n0,\n1, abc \n");
    let dataset = run(dir.path(), schema, &[path]).unwrap();
    // python: xxhash.xxh3_64_intdigest(b"abc") & 0xffffffff
    assert_eq!(raw(&dataset, Split::Train).values, [2301573456, -1, 2301573456]);
    assert_eq!(dataset.manifest().encoders.categorical[0].distinct, 1);
}

#[test]
fn time_splits_by_fraction_and_boundary() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::from("y,c,year,month,day\n");
    for i in 0..100 {
        // days out of order, ten rows each
        text.push_str(&format!("{},a,2013,10,{}\n", i % 2, i * 7 % 10 + 1));
    }
    let path = write(dir.path(), "log.csv", text);
    let base = "label = \"y\"\ncategorical = [\"c\"]\ntime = [\"year\", \"month\", \"day\"]\n";
    let by_fraction =
        run(&dir.path().join("a"), schema(base), std::slice::from_ref(&path)).unwrap();
    let boundaries =
        format!("{base}[split]\nvalidation_from = \"2013-10-09\"\ntest_from = \"2013-10-10\"");
    let by_boundary = run(&dir.path().join("b"), schema(&boundaries), &[path]).unwrap();
    for dataset in [by_fraction, by_boundary] {
        let counts = Split::ALL.map(|split| dataset.rows(split));
        assert_eq!(counts, [80, 10, 10]);
        let times = dataset.extra_f64(Split::Validation, "time").unwrap();
        assert!(times.iter().all(|&time| time == 1_381_276_800.0), "{times:?}");
    }
}

#[test]
fn groups_never_straddle() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::from("y,c,user\n");
    for i in 0..5_000 {
        text.push_str(&format!("{},a,u{}\n", i % 2, i * 31 % 400));
    }
    let path = write(dir.path(), "log.csv", text);
    let schema =
        schema("label = \"y\"\ncategorical = [\"c\"]\ngroup = \"user\"\n[split]\nby = \"group\"");
    let dataset = run(dir.path(), schema, &[path]).unwrap();
    let keys = Split::ALL.map(|split| -> std::collections::BTreeSet<u64> {
        dataset.extra_keys(split, "user").unwrap().into_iter().collect()
    });
    assert!(keys.iter().all(|keys| keys.len() > 20));
    assert_eq!(keys.iter().map(|keys| keys.len()).sum::<usize>(), 400);
    assert!(
        keys[0].is_disjoint(&keys[1])
            && keys[0].is_disjoint(&keys[2])
            && keys[1].is_disjoint(&keys[2])
    );
}

#[test]
fn kept_columns_weights_and_label_rules() {
    let dir = tempfile::tempdir().unwrap();
    let schema = schema(
        "label = { column = \"stars\", at_least = 4, missing = \"drop\" }\ncategorical = [\"c\"]\nmissing = [\"NA\"]\n\
         weight = \"w\"\nbaseline = \"p\"\nkeep = [\"k\"]\ngroup = \"c\"\n[split]\nfractions = [1.0, 0.0, 0.0]",
    );
    let path = write(
        dir.path(),
        "log.csv",
        "stars,c,w,p,k\n5,a,2,0.5,1\n3,b,0.5,0.25,NA\nNA,c,broken,,\n4,NA,1,1,7\n",
    );
    let dataset = run(dir.path(), schema, &[path]).unwrap();
    assert_eq!(dataset.labels(Split::Train), [1.0, 0.0, 1.0]);
    assert_eq!(dataset.manifest().dropped, 1);
    let mut batch = Batch::default();
    dataset.fill(Split::Train, &[2, 0, 1], &dataset.table_rows(None), &mut batch).unwrap();
    assert_eq!(batch.weights, [1.0, 2.0, 0.5]);
    assert_eq!(dataset.extra_f64(Split::Train, "p").unwrap(), [0.5, 0.25, 1.0]);
    let kept = dataset.extra_f64(Split::Train, "k").unwrap();
    assert!(kept[0] == 1.0 && kept[1].is_nan() && kept[2] == 7.0);
    assert_eq!(dataset.extra_keys(Split::Train, "c").unwrap().len(), 3);
    let error = dataset.extra_f64(Split::Train, "q").unwrap_err().to_string();
    assert!(error.contains("keeps no column `q`") && error.contains("p, k"), "{error}");
}

#[test]
fn kdd12_joins_its_profiles() {
    let dir = tempfile::tempdir().unwrap();
    let log = write(
        dir.path(),
        "training.txt",
        "2\t3\t4298118681424644510\t7686695\t385\t3\t3\t1601\t5521\t7709\t576\t490234\n\
         0\t1\t12057878999086460853\t9\t1\t1\t1\t2\t3\t4\t5\t77\n",
    );
    let profile = write(dir.path(), "userid_profile.txt", "490234\t1\t5\n1\t2\t3\n");
    let mut schema = Schema::preset("kdd12").unwrap();
    schema.split = palmette_data::SplitRule::Random { fractions: [1.0, 0.0, 0.0], seed: 1 };
    let mut options = PrepareOptions::new(schema, vec![log.clone()], dir.path().join("out"));
    let error = prepare(&options, &()).unwrap_err().to_string();
    assert!(error.contains("--profile"), "{error}");
    options.profile = Some(profile.clone());
    let dataset = prepare(&options, &()).unwrap();
    let batch = raw(&dataset, Split::Train);
    assert_eq!(batch.labels, [1.0, 0.0]);
    assert_eq!(batch.dense, [3.0, 3.0, 3.0, 1.0, 1.0, 1.0]);
    let m = 2_147_483_647u64;
    let url = [4_298_118_681_424_644_510 % m, 12_057_878_999_086_460_853 % m].map(|v| v as i64);
    assert_eq!(batch.values[..10], [url[0], 7686695, 385, 1601, 5521, 7709, 576, 490234, 1, 5]);
    assert_eq!(batch.values[10..], [url[1], 9, 1, 2, 3, 4, 5, 77, 0, 0]);

    let encoder = RowEncoder::open(&dataset).unwrap();
    let mut reader = LogReader::open(&encoder, &[log], Some(&profile)).unwrap();
    let mut again = RawBatch::default();
    assert!(reader.next_batch(&mut again).unwrap());
    assert_eq!(again, batch);
}

#[test]
fn newer_days_take_the_encoders_of_an_earlier_dataset() {
    let dir = tempfile::tempdir().unwrap();
    let text = |schema_split: &str| {
        schema(&format!(
            "label = \"y\"\ncategorical = [\"c\", \"d\"]\ndense = [\"x\"]\ntransform = \"standard\"\n\
                 [column.d]\nencoder = \"hash\"\n[split]\nfractions = {schema_split}"
        ))
    };
    let old = write(dir.path(), "old.csv", "y,c,d,x\n1,b,q,1\n0,a,r,3\n0,b,s,5\n");
    let new = write(dir.path(), "new.csv", "y,c,d,x\n1,a,q,7\n0,z,,\n");
    let base = run(&dir.path().join("old"), text("[1.0, 0.0, 0.0]"), &[old]).unwrap();
    let mut options =
        PrepareOptions::new(text("[1.0, 0.0, 0.0]"), vec![new.clone()], dir.path().join("new"));
    options.encoders_from = Some(base.dir().to_path_buf());
    let newer = prepare(&options, &()).unwrap();
    assert_eq!(newer.manifest().encoders, base.manifest().encoders);
    newer.verify().unwrap();
    let batch = raw(&newer, Split::Train);
    let q = i64::from(palmette_data::hash_value(b"q"));
    assert_eq!(batch.values, [1, q, -1, -1]);

    // and the same rows through the reader for predictions, with and without a label
    let encoder = RowEncoder::open(&base).unwrap();
    let unlabelled = write(dir.path(), "rows.csv", "x,d,c\n7,q,a\n,,z\n");
    for (path, label) in [(new, 1.0), (unlabelled, f32::NAN)] {
        let mut reader = LogReader::open(&encoder, &[path], None).unwrap();
        let mut rows = RawBatch::default();
        assert!(reader.next_batch(&mut rows).unwrap());
        assert_eq!(rows.values, batch.values);
        assert_eq!(rows.labels[0].to_bits(), f32::to_bits(label));
        assert_eq!(rows.dense[0], 7.0);
        assert!(rows.dense[1].is_nan());
        let (mut finished, mut filled) = (Batch::default(), Batch::default());
        encoder.finish(&rows, &newer.table_rows(None), &mut finished);
        newer.fill_range(Split::Train, 0..2, &newer.table_rows(None), &mut filled).unwrap();
        assert_eq!((finished.ids, finished.dense), (filled.ids, filled.dense));
        assert!(!reader.next_batch(&mut rows).unwrap());
    }
    for (field, texts) in ["a", "z"].iter().enumerate() {
        assert_eq!(encoder.value(0, texts).unwrap(), batch.values[2 * field]);
    }
}

#[test]
fn datasets_are_shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Dataset>();
    shared::<RowEncoder>();
}

#[test]
fn all_rows_may_go_to_one_part_with_given_encoders_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "log.tsv", criteo_text(100, 8));
    let mut schema = Schema::preset("criteo").unwrap();
    let base = run(&dir.path().join("base"), schema.clone(), std::slice::from_ref(&path)).unwrap();
    schema.override_split("test".parse().unwrap()).unwrap();
    let mut options = PrepareOptions::new(schema, vec![path], dir.path().join("out"));
    let error = prepare(&options, &()).unwrap_err().to_string();
    assert!(error.contains("the train part would be empty"), "{error}");
    options.encoders_from = Some(base.dir().to_path_buf());
    let dataset = prepare(&options, &()).unwrap();
    assert_eq!(Split::ALL.map(|split| dataset.rows(split)), [0, 0, 100]);
}

#[test]
fn an_interrupted_run_continues_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut inputs = Vec::new();
    for i in 0..3 {
        let mut text = criteo_text(6_000 + 10 * i, 10 + i as u64);
        text.push_str("oops\n");
        inputs.push(write(dir.path(), &format!("day{i}.tsv"), text));
    }
    let mut schema = Schema::preset("criteo").unwrap();
    schema.categorical[3].encoder = palmette_data::EncoderRule::Dictionary { min_count: 2 };
    let options = |name: &str| {
        let mut options =
            PrepareOptions::new(schema.clone(), inputs.clone(), dir.path().join(name));
        options.memory = 64 << 20;
        options.on_bad_row = palmette_data::OnBadRow::Quarantine { max_bad: 10 };
        options
    };
    let whole = prepare(&options("whole"), &()).unwrap();
    let pieces = options("pieces");
    let mut interruptions = 0;
    for patience in 1..200 {
        match prepare(&pieces, &StopAfter(AtomicU64::new(patience))) {
            Err(DataError::Interrupted) => interruptions += 1,
            Err(error) => panic!("{error}"),
            Ok(dataset) => {
                assert!(interruptions > 3, "{interruptions}");
                assert_eq!(contents(dataset.dir()), contents(whole.dir()));
                return;
            }
        }
        assert!(Dataset::open(&pieces.output).unwrap_err().to_string().contains("interrupted"));
    }
    panic!("never finished");
}

#[test]
fn the_same_call_again_opens_and_another_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "log.tsv", criteo_text(300, 6));
    let schema = Schema::preset("criteo").unwrap();
    let first = run(dir.path(), schema.clone(), std::slice::from_ref(&path)).unwrap();
    let again = run(dir.path(), schema.clone(), std::slice::from_ref(&path)).unwrap();
    assert_eq!(first.fingerprint(), again.fingerprint());
    let other = write(dir.path(), "other.tsv", criteo_text(300, 7));
    let error =
        run(dir.path(), schema.clone(), std::slice::from_ref(&other)).unwrap_err().to_string();
    assert!(error.contains("--overwrite"), "{error}");
    let mut options = PrepareOptions::new(schema, vec![other], dir.path().join("out"));
    options.overwrite = true;
    assert_ne!(prepare(&options, &()).unwrap().fingerprint(), first.fingerprint());
}
