//! `encoders.json` and the dependency-free Python encoder: raw text to values, and to probabilities.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use palmette::onnx::{
    CategoricalField, DenseField, EncodersFile, Export, ExternalData, FieldEncoder, ListField,
    export,
};
use palmette_data::{IntegerBase, Keep, PrepareOptions, RawBatch, Schema, Split, prepare};
use palmette_engine::{
    Batch, Epilogue, Executor, HeadInput, Init, Model, ParamLayout, ParamStore, Program, TableSpec,
    Tables,
};
use palmette_random::{Draw, stream};
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64;

use crate::python::{Input, interpreter, run_onnx};

/// A row as the Python encoder prints it.
#[derive(Deserialize, Debug, PartialEq)]
struct Encoded {
    dense: Vec<Option<f64>>,
    categorical: Vec<i64>,
    #[serde(default)]
    lists: Vec<Vec<i64>>,
}

fn encoders() -> EncodersFile {
    let field = |name: &str, encoder| CategoricalField { name: name.into(), encoder };
    let modulo = |base| FieldEncoder::Modulo { base };
    let dense = |name: &str, constant| DenseField { name: name.into(), constant };
    EncodersFile {
        format: "palmette-encoders".into(),
        version: 1,
        missing: vec!["NA".into()],
        dense: vec![dense("price", None), dense("one", Some(1.0)), dense("age", None)],
        categorical: vec![
            field("id", modulo(IntegerBase::Decimal)),
            field("code", modulo(IntegerBase::Hex)),
            field("device", modulo(IntegerBase::DecimalOrHex)),
            field(
                "site",
                FieldEncoder::Dictionary {
                    values: vec![Some("b".into()), None, Some("é".into())]
                },
            ),
            field("text", FieldEncoder::Hash),
        ],
        lists: Vec::new(),
    }
}

/// Runs the encoder on a CSV file; standard error where it refuses.
fn encode(
    python: &Path,
    folder: &Path,
    encoders: &EncodersFile,
    csv: &str,
) -> Result<Vec<Encoded>, String> {
    let (json, table) = (folder.join("encoders.json"), folder.join("rows.csv"));
    fs::write(&json, serde_json::to_vec(encoders).unwrap()).unwrap();
    fs::write(&table, csv).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../python/palmette_encode.py");
    let output = Command::new(python).arg(script).arg(json).arg(table).output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8(output.stdout).unwrap();
    Ok(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

const HEADER: &str = "price,age,id,code,device,site,text\n";

#[test]
fn text_becomes_the_values_of_training() {
    let Some(python) = interpreter("text_becomes_the_values_of_training") else { return };
    let folder = tempfile::tempdir().unwrap();
    let rows = "1.5,-3,7,ff,12,b,hello\n\
                NA,,NA,,NA,NA,\n\
                \" 0.1 \",1e3,4294967295,FFFFFFFF,a99f214a,é, hello\t\n\
                -0,.5,0,0,10000169349117863715,unseen,\"a,b\"\n";
    let found = encode(&python, folder.path(), &encoders(), &format!("{HEADER}{rows}")).unwrap();
    let hash = |text: &str| i64::from(xxh3_64(text.as_bytes()) as u32);
    let row = |dense: [Option<f64>; 3], categorical: [i64; 5]| Encoded {
        dense: dense.to_vec(),
        categorical: categorical.to_vec(),
        lists: Vec::new(),
    };
    let tenth = f64::from(0.1f32);
    let big = (10_000_169_349_117_863_715u64 % 2_147_483_647) as i64;
    assert_eq!(
        found,
        [
            row([Some(1.5), Some(1.0), Some(-3.0)], [7, 255, 12, 0, hash("hello")]),
            row([None, Some(1.0), None], [-1, -1, -1, 1, -1]),
            row(
                [Some(tenth), Some(1.0), Some(1000.0)],
                [4_294_967_295, 4_294_967_295, 0xa99f_214a % 2_147_483_647, 2, hash("hello")],
            ),
            row([Some(-0.0), Some(1.0), Some(0.5)], [0, 0, big, -1, hash("a,b")]),
        ]
    );
}

#[test]
fn lists_become_the_values_of_training() {
    let Some(python) = interpreter("lists_become_the_values_of_training") else { return };
    let folder = tempfile::tempdir().unwrap();
    let list = |name: &str, shares: Option<&str>, encoder| ListField {
        name: name.into(),
        separator: '|',
        max_length: 3,
        keep: if shares.is_some() { Keep::Last } else { Keep::First },
        shares: shares.map(String::from),
        encoder,
    };
    let modulo = FieldEncoder::Modulo { base: IntegerBase::Hex };
    let encoders = EncodersFile {
        lists: vec![list("seen", Some("site"), None), list("tags", None, Some(modulo))],
        ..encoders()
    };
    let header = HEADER.replace('\n', ",seen,tags\n");
    let rows = "1,1,1,1,1,b,x,b|é|zz| b |NA,ff|1||2|3\n1,1,1,1,1,b,x,NA,\n";
    let found = encode(&python, folder.path(), &encoders, &format!("{header}{rows}")).unwrap();
    assert_eq!(found[0].lists, [vec![2, -1, 0], vec![255, 1, 2]]);
    assert_eq!(found[1].lists, [Vec::<i64>::new(), Vec::new()]);
    let error =
        encode(&python, folder.path(), &encoders, &format!("{header}1,1,1,1,1,b,x,b,1|q\n"));
    let error = error.unwrap_err();
    assert!(error.contains("row 2: value 2 of the list `tags` is 'q'"), "{error}");
}

#[test]
fn bad_text_is_named_by_row_and_field() {
    let Some(python) = interpreter("bad_text_is_named_by_row_and_field") else { return };
    let folder = tempfile::tempdir().unwrap();
    let check = |row: &str, expect: &str| {
        let csv = format!("{HEADER}1,1,1,1,1,b,x\n{row}\n");
        let error = encode(&python, folder.path(), &encoders(), &csv).unwrap_err();
        assert!(error.contains("rows.csv, row 3: ") && error.contains(expect), "{error}");
    };
    check("1_000,1,1,1,1,b,x", "the field `price` is '1_000'; a number is needed");
    check("inf,1,1,1,1,b,x", "the field `price` is 'inf'; a number is needed");
    check("1e39,1,1,1,1,b,x", "the field `price` is 1e39, too large for f32");
    check(
        "1,1,-1,1,1,b,x",
        "the field `id` is '-1'; a decimal integer in 0..=4294967295 is needed",
    );
    check("1,1,1,123456789,1,b,x", "the field `code` is '123456789'; a hexadecimal integer");
    check("1,1,1,1,xyz,b,x", "the field `device` is 'xyz'; a decimal or hexadecimal integer");
    let error = encode(&python, folder.path(), &encoders(), "price\n1\n").unwrap_err();
    assert!(error.contains("the field `age` is missing from the row"), "{error}");
}

#[test]
fn hashes_of_every_length_agree() {
    let Some(python) = interpreter("hashes_of_every_length_agree") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut random = stream(23, "test/texts", 0);
    let lengths = (1..=300).chain([1023, 1024, 1025, 1088, 1089, 2048, 2049, 4000]);
    let texts: Vec<String> = lengths
        .map(|length| (0..length).map(|_| char::from(b'a' + random.below(26) as u8)).collect())
        .collect();
    let rows: String = texts.iter().map(|text| format!("1,1,1,1,1,b,{text}\n")).collect();
    let found = encode(&python, folder.path(), &encoders(), &format!("{HEADER}{rows}")).unwrap();
    assert_eq!(found.len(), texts.len());
    for (row, text) in found.iter().zip(&texts) {
        let expect = i64::from(xxh3_64(text.as_bytes()) as u32);
        assert_eq!(row.categorical[4], expect, "length {}", text.len());
    }
}

/// A factorisation machine with a dense part, enough to depend on every input.
fn machine(layout: &mut ParamLayout, dense: usize, fields: usize) -> Program {
    let mut program = Program::new();
    let xavier = |fan_in, fan_out| Init::XavierUniform { fan_in, fan_out };
    let x = program.dense_input(dense);
    let s = program.embedding(0, fields, 4);
    let hidden = layout.matrix("hidden", 8, dense, xavier(dense, 8));
    let h = program.linear(&[(x, hidden)], 8, Epilogue { relu: true, ..Epilogue::default() });
    let pairs = program.factorization_machine(&[s]);
    let a = layout.vector("dense", 8, xavier(8, 1));
    let b = layout.matrix("sparse", fields, 4, xavier(4 * fields, 1));
    let pieces =
        [(h, HeadInput::Weight(a)), (s, HeadInput::Weight(b)), (pairs, HeadInput::Constant(0.5))];
    program.head(&pieces, None);
    program
}

const SCHEMA: &str = r#"
label = "click"
dense = ["price", "age"]
categorical = ["id", "code", "device", "site", "text"]
missing = ["NA"]
transform = "log"
encoder = "hash"
[column.age]
transform = "standard"
[column.id]
encoder = { kind = "modulo", base = "decimal" }
[column.code]
encoder = { kind = "modulo", base = "hex" }
[column.device]
encoder = { kind = "modulo", base = "decimal-or-hex" }
[column.site]
encoder = { kind = "dictionary", min_count = 40 }
[split]
column = "part"
train = ["a"]
validation = ["b"]
test = ["c"]
"#;

/// A log with missing values, rare sites, and sites that only the test part has.
fn log(rows: usize) -> String {
    let mut random = stream(29, "test/rows", 0);
    let mut csv = String::from("part,click,price,age,id,code,device,site,text\n");
    for row in 0..rows {
        let part = ["a", "a", "b", "c"][row % 4];
        let click = u8::from(random.chance(0.3));
        let number = |x: Option<f64>| x.map_or("NA".to_string(), |x| x.to_string());
        let price = (!random.chance(0.1)).then(|| random.below(100_000) as f64 / 64.0);
        let age = (!random.chance(0.1)).then(|| random.below(90) as f64);
        let site = match random.below(20) {
            0..3 => String::new(),
            3..6 => format!("{part} only"),
            _ => format!("é{}", random.below(60)),
        };
        let (id, code, device) =
            (random.below(1 << 32), random.below(1 << 32), random.below(1 << 40));
        let text = random.below(1_000);
        csv += &format!(
            "{part},{click},{},{},{id},{code:08x},{device:012x},{site}, text {text}\n",
            number(price),
            number(age)
        );
    }
    csv
}

#[test]
fn raw_text_to_probability_agrees_with_dataset_and_engine() {
    let test = "raw_text_to_probability_agrees_with_dataset_and_engine";
    let Some(python) = interpreter(test) else { return };
    let folder = tempfile::tempdir().unwrap();
    let csv = log(4_000);
    let (input, output) = (folder.path().join("log.csv"), folder.path().join("dataset"));
    fs::write(&input, &csv).unwrap();
    let schema = Schema::parse(SCHEMA, Path::new("schema.toml")).unwrap();
    let dataset = prepare(&PrepareOptions::new(schema, vec![input], output), &()).unwrap();
    let rows = dataset.rows(Split::Test);
    assert_eq!(rows, 1_000);

    // Text to values: the Python encoder against the shards.
    let encoders = EncodersFile::from_dataset(&dataset).unwrap();
    let test_part: String = csv
        .lines()
        .filter(|line| !line.starts_with(['a', 'b']))
        .map(|l| format!("{l}\n"))
        .collect();
    let found = encode(&python, folder.path(), &encoders, &test_part).unwrap();
    let numbers: Vec<f32> =
        found.iter().flat_map(|r| &r.dense).map(|x| x.map_or(f32::NAN, |x| x as f32)).collect();
    let values: Vec<i64> = found.iter().flat_map(|r| r.categorical.iter().copied()).collect();
    let mut raw = RawBatch::default();
    dataset.fill_raw(Split::Test, 0..rows, &mut raw).unwrap();
    assert_eq!(values, raw.values);
    assert!(numbers.iter().zip(&raw.dense).all(|(a, b)| a == b || a.is_nan() && b.is_nan()));
    assert!(numbers.iter().any(|x| x.is_nan()));
    let unknown = found.iter().filter(|r| r.categorical[3] == -1).count();
    assert!(unknown > 100, "the test part must have unseen sites: {unknown}");

    // Values to probabilities: onnxruntime against the engine on the dataset's own batch.
    let table_rows = dataset.table_rows(Some(300));
    let mut batch = palmette_data::Batch::default();
    dataset.fill_range(Split::Test, 0..rows, &table_rows, &mut batch).unwrap();
    let mut layout = ParamLayout::default();
    let mut program = machine(&mut layout, 2, 5);
    let specs = table_rows.iter().enumerate().map(|(field, &rows)| TableSpec {
        name: format!("embedding{field}"),
        rows: rows as usize,
        dim: 4,
    });
    let model = Model {
        params: ParamStore::<f32>::new(layout, 3, 0).unwrap(),
        tables: Tables::new(specs.collect(), 0, 3).unwrap(),
    };
    let engine_batch =
        Batch { rows, dense: &batch.dense, ids: &batch.ids, labels: &[], weights: &[], lists: &[] };
    let logits = Executor::new().forward(&model, &mut program, &engine_batch).unwrap().to_vec();

    let fitted = &dataset.manifest().encoders.dense;
    let transforms: Vec<_> = fitted.iter().map(|field| field.transform).collect();
    let encoded = export(&Export {
        name: "machine",
        program: &program,
        model: &model,
        transforms: &transforms,
        lists: &[],
        logit_shift: 0.0,
        metadata: &[],
    });
    let encoded = encoded.unwrap().encode(&ExternalData::default()).unwrap();
    let path = folder.path().join("model.onnx");
    fs::write(&path, encoded.model.to_vec()).unwrap();
    let outputs = run_onnx(
        &python,
        &path,
        &BTreeMap::from([
            ("dense", Input::F32 { shape: vec![rows, 2], data: numbers }),
            ("categorical", Input::I64 { shape: vec![rows, 5], data: values }),
        ]),
    );
    let probabilities = &outputs["probability"].data;
    let expect = logits.iter().map(|&z| 1.0 / (1.0 + (-f64::from(z)).exp()));
    let worst = probabilities.iter().zip(expect).map(|(p, e)| (p - e).abs()).fold(0.0, f64::max);
    let low = probabilities.iter().copied().fold(1.0, f64::min);
    let high = probabilities.iter().copied().fold(0.0, f64::max);
    assert!(worst <= 1e-5, "{worst}");
    assert!(high - low > 0.2, "the probabilities must depend on the rows: {low}..{high}");
}
