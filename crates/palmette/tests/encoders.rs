//! `encoders.json` and the dependency-free Python encoder: raw text to values, and to probabilities.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use palmette::onnx::{
    CategoricalField, DenseField, DenseTransform, EncodersFile, Export, ExternalData, FieldEncoder,
    export,
};
use palmette_engine::{
    Batch, Epilogue, Executor, HeadInput, Init, Model, ParamLayout, ParamStore, Program, TableSpec,
    Tables,
};
use palmette_random::{Draw, stream};
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64;

mod python;
use python::{Input, interpreter, run_onnx};

/// A row as the Python encoder prints it.
#[derive(Deserialize, Debug, PartialEq)]
struct Encoded {
    dense: Vec<Option<f64>>,
    categorical: Vec<i64>,
}

fn field(name: &str, encoder: FieldEncoder) -> CategoricalField {
    CategoricalField { name: name.into(), encoder }
}

fn modulo(base: &str) -> FieldEncoder {
    FieldEncoder::Modulo { base: base.into() }
}

fn encoders() -> EncodersFile {
    let dense = |name: &str, constant| DenseField { name: name.into(), constant };
    EncodersFile::new(
        vec!["NA".into()],
        vec![dense("price", None), dense("one", Some(1.0)), dense("age", None)],
        vec![
            field("id", modulo("decimal")),
            field("code", modulo("hex")),
            field("device", modulo("decimal-or-hex")),
            field(
                "site",
                FieldEncoder::Dictionary {
                    values: vec![Some("b".into()), None, Some("é".into())]
                },
            ),
            field("text", FieldEncoder::Hash),
        ],
    )
}

/// Runs the encoder on a CSV file; standard error where it refuses.
fn encode(python: &Path, folder: &Path, csv: &str) -> Result<Vec<Encoded>, String> {
    let (json, table) = (folder.join("encoders.json"), folder.join("rows.csv"));
    fs::write(&json, serde_json::to_vec(&encoders()).unwrap()).unwrap();
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
    let found = encode(&python, folder.path(), &format!("{HEADER}{rows}")).unwrap();
    let hash = |text: &str| i64::from(xxh3_64(text.as_bytes()) as u32);
    let row = |dense: [Option<f64>; 3], categorical: [i64; 5]| Encoded {
        dense: dense.to_vec(),
        categorical: categorical.to_vec(),
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
fn bad_text_is_named_by_row_and_field() {
    let Some(python) = interpreter("bad_text_is_named_by_row_and_field") else { return };
    let folder = tempfile::tempdir().unwrap();
    let check = |row: &str, expect: &str| {
        let csv = format!("{HEADER}1,1,1,1,1,b,x\n{row}\n");
        let error = encode(&python, folder.path(), &csv).unwrap_err();
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
    let error = encode(&python, folder.path(), "price\n1\n").unwrap_err();
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
    let found = encode(&python, folder.path(), &format!("{HEADER}{rows}")).unwrap();
    assert_eq!(found.len(), texts.len());
    for (row, text) in found.iter().zip(&texts) {
        let expect = i64::from(xxh3_64(text.as_bytes()) as u32);
        assert_eq!(row.categorical[4], expect, "length {}", text.len());
    }
}

const TABLE_ROWS: [usize; 5] = [40, 17, 29, 4, 101];

/// A factorisation machine with a dense part, enough to depend on every input.
fn machine(layout: &mut ParamLayout) -> Program {
    let mut program = Program::new();
    let xavier = |fan_in, fan_out| Init::XavierUniform { fan_in, fan_out };
    let x = program.dense_input(3);
    let s = program.embedding(0, TABLE_ROWS.len(), 4);
    let hidden = layout.matrix("hidden", 8, 3, xavier(3, 8));
    let h = program.linear(&[(x, hidden)], 8, Epilogue { relu: true, ..Epilogue::default() });
    let pairs = program.factorization_machine(&[s]);
    let (a, b) =
        (layout.vector("dense", 8, xavier(8, 1)), layout.matrix("sparse", 5, 4, xavier(20, 1)));
    let pieces =
        [(h, HeadInput::Weight(a)), (s, HeadInput::Weight(b)), (pairs, HeadInput::Constant(0.5))];
    program.head(&pieces, None);
    program
}

#[test]
fn raw_text_to_probability_agrees_with_the_engine() {
    let Some(python) = interpreter("raw_text_to_probability_agrees_with_the_engine") else {
        return;
    };
    const ROWS: usize = 1_000;
    let folder = tempfile::tempdir().unwrap();
    let mut random = stream(29, "test/rows", 0);
    let (mut csv, mut dense, mut ids) = (String::from(HEADER), Vec::new(), vec![0u32; 5 * ROWS]);
    for row in 0..ROWS {
        let price = (!random.chance(0.1)).then(|| random.below(100_000) as f32 / 64.0);
        let age = (!random.chance(0.1)).then(|| random.below(90) as f32);
        let id = random.below(1 << 32);
        let code = random.below(1 << 32);
        let device = random.below(1 << 40);
        let site = ["b", "é", "", "c"][random.below(4) as usize];
        let text = format!("text {}", random.below(1_000));
        let number = |x: Option<f32>| x.map_or("NA".to_string(), |x| x.to_string());
        csv += &format!(
            "{},{},{id},{code:08x},{device:012x},{site},{text}\n",
            number(price),
            number(age)
        );
        // The same by hand: ln(max(x, 0) + 1), a constant, standardised; values modulo tables.
        let log = |x: f32| (x.max(0.0) + 1.0).ln();
        dense.extend([price.map_or(0.0, log), 1.0, age.map_or(0.0, |a| (a - 45.0) / 26.0)]);
        let all_digits = format!("{device:012x}").bytes().all(|b| b.is_ascii_digit());
        let device = match all_digits {
            true => format!("{device:012x}").parse::<u64>().unwrap(),
            false => device,
        };
        let site = match site {
            "b" => 0,
            "" => 1,
            "é" => 2,
            _ => -1,
        };
        let hash = i64::from(xxh3_64(text.as_bytes()) as u32);
        let values = [id as i64, code as i64, (device % 2_147_483_647) as i64, site, hash];
        for (field, (value, rows)) in values.into_iter().zip(TABLE_ROWS).enumerate() {
            ids[field * ROWS + row] = (value % (rows as i64 - 1) + 1) as u32;
        }
    }
    let found = encode(&python, folder.path(), &csv).unwrap();

    let mut layout = ParamLayout::default();
    let mut program = machine(&mut layout);
    let specs = TABLE_ROWS.iter().enumerate();
    let specs = specs.map(|(f, &rows)| TableSpec { name: format!("embedding{f}"), rows, dim: 4 });
    let model = Model {
        params: ParamStore::<f32>::new(layout, 3, 0).unwrap(),
        tables: Tables::new(specs.collect(), 0, 3).unwrap(),
    };
    let batch = Batch { rows: ROWS, dense: &dense, ids: &ids, labels: &[], weights: &[] };
    let logits = Executor::new().forward(&model, &mut program, &batch).unwrap().to_vec();

    let standard = DenseTransform::Standard { mean: 45.0, deviation: 26.0 };
    let transforms = [DenseTransform::Log, DenseTransform::None, standard];
    let encoded = export(&Export {
        name: "machine",
        program: &program,
        model: &model,
        transforms: &transforms,
        logit_shift: 0.0,
        metadata: &[],
    })
    .unwrap()
    .encode(&ExternalData::default())
    .unwrap();
    let path = folder.path().join("model.onnx");
    fs::write(&path, encoded.model).unwrap();
    let numbers = found.iter().flat_map(|row| &row.dense);
    let numbers = numbers.map(|x| x.map_or(f32::NAN, |x| x as f32)).collect();
    let values = found.iter().flat_map(|row| row.categorical.iter().copied()).collect();
    let outputs = run_onnx(
        &python,
        &path,
        &BTreeMap::from([
            ("dense", Input::F32 { shape: vec![ROWS, 3], data: numbers }),
            ("categorical", Input::I64 { shape: vec![ROWS, 5], data: values }),
        ]),
    );
    let probabilities = &outputs["probability"].data;
    let gaps = probabilities
        .iter()
        .zip(&logits)
        .map(|(p, &z)| (p - 1.0 / (1.0 + (-f64::from(z)).exp())).abs());
    let worst = gaps.fold(0.0, f64::max);
    let low = probabilities.iter().copied().fold(1.0, f64::min);
    let high = probabilities.iter().copied().fold(0.0, f64::max);
    assert!(worst <= 1e-5, "{worst}");
    assert!(high - low > 0.2, "the probabilities must depend on the rows: {low}..{high}");
}
