//! Fields of any number of values, from a log to predictions and to onnxruntime.

use std::collections::BTreeMap;
use std::fs;

use palmette::onnx::{Export, ExternalData, PADDING, export};
use palmette_ctr::baselines::{Baseline, History, HistoryPooling};
use palmette_ctr::{List, ListTable, ModelInputs};
use palmette_data::{DenseTransform, table_index};
use palmette_engine::{Batch, Executor, JaggedIds, Optimizer, Step, Trainable};
use palmette_random::{Draw, stream};

use crate::python::{Input, interpreter, run_onnx};
use crate::support::{Place, stderr, succeed};

const ROWS: usize = 1_000;

/// Values before the tables, and padded for the graph.
struct Values {
    rows: Vec<Vec<i64>>,
}

impl Values {
    fn new(seed: u64, longest: u64) -> Self {
        let row = |row: u64| -> Vec<i64> {
            let mut random = stream(seed, "test/lists", row);
            let length = if random.chance(0.2) { 0 } else { random.below(longest + 1) };
            (0..length).map(|_| random.below(60) as i64 - 1).collect()
        };
        Self { rows: (0..ROWS as u64).map(row).collect() }
    }

    fn padded(&self) -> Input {
        let longest = self.rows.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let fill = |row: &Vec<i64>| {
            let mut row = row.clone();
            row.resize(longest, PADDING);
            row
        };
        Input::I64 { shape: vec![ROWS, longest], data: self.rows.iter().flat_map(fill).collect() }
    }

    fn jagged(&self, table_rows: u32) -> (Vec<usize>, Vec<u32>) {
        let mut offsets = vec![0];
        let mut ids = Vec::new();
        for row in &self.rows {
            ids.extend(row.iter().map(|&value| table_index(value, table_rows)));
            offsets.push(ids.len());
        }
        (offsets, ids)
    }
}

#[test]
fn histories_agree_with_onnxruntime_over_a_thousand_rows() {
    let test = "histories_agree_with_onnxruntime_over_a_thousand_rows";
    let Some(python) = interpreter(test) else { return };
    let folder = tempfile::tempdir().unwrap();
    let list = |name: &str, table| List { name: name.into(), table };
    let inputs = ModelInputs {
        lists: vec![list("seen", ListTable::Shared(1)), list("tags", ListTable::Own(9))],
        ..ModelInputs::numbered(1, &[7, 40])
    };
    for (number, pooling) in
        [HistoryPooling::Mean, HistoryPooling::Target, HistoryPooling::SelfAttention]
            .into_iter()
            .enumerate()
    {
        let seed = number as u64;
        let mut random = stream(seed, "test/rows", 0);
        let dense: Vec<f32> = (0..ROWS).map(|_| random.unit() as f32).collect();
        let values: Vec<i64> = (0..2 * ROWS).map(|_| random.below(60) as i64 - 1).collect();
        let ids: Vec<u32> = [7, 40]
            .iter()
            .enumerate()
            .flat_map(|(f, &rows)| {
                let values = &values;
                (0..ROWS).map(move |row| table_index(values[2 * row + f], rows))
            })
            .collect();
        let labels: Vec<f32> =
            (0..ROWS).map(|row| f32::from(u8::from(values[row] % 3 == 0))).collect();
        let (seen, tags) = (Values::new(seed + 10, 20), Values::new(seed + 20, 4));
        let jagged = [seen.jagged(40), tags.jagged(9)];
        let lists = [0, 1].map(|i| JaggedIds { offsets: &jagged[i].0, ids: &jagged[i].1 });
        let batch = Batch {
            rows: ROWS,
            dense: &dense,
            ids: &ids,
            labels: &labels,
            weights: &[],
            lists: &lists,
        };
        let history = History { pooling, heads: 2, ..History::default() };
        let mut compiled = Baseline::History(history).compile(&inputs).unwrap();
        let optimizer = Optimizer::Adagrad { epsilon: 1e-2 };
        let mut model = compiled.initialise::<f32>(seed, optimizer.state_slots()).unwrap();
        let mut executor = Executor::new();
        for index in 0..20 {
            let step = Step {
                index,
                learning_rate: 0.05,
                optimizer,
                clip_norm: Some(5.0),
                trainable: Trainable::Everything,
            };
            executor.train_step(&mut model, &mut compiled.program, &batch, &step).unwrap();
        }
        let logits = executor.forward(&model, &mut compiled.program, &batch).unwrap().to_vec();
        let encoded = export(&Export {
            name: "history",
            program: &compiled.program,
            model: &model,
            transforms: &[DenseTransform::None],
            lists: &["seen", "tags"],
            logit_shift: 0.0,
            metadata: &[],
        })
        .unwrap()
        .encode(&ExternalData::default())
        .unwrap();
        let file = folder.path().join(format!("history{number}.onnx"));
        fs::write(&file, encoded.model.to_vec()).unwrap();
        let found = run_onnx(
            &python,
            &file,
            &BTreeMap::from([
                ("dense", Input::F32 { shape: vec![ROWS, 1], data: dense.clone() }),
                ("categorical", Input::I64 { shape: vec![ROWS, 2], data: values.clone() }),
                ("list.seen", seen.padded()),
                ("list.tags", tags.padded()),
            ]),
        );
        let expect = logits.iter().map(|&z| 1.0 / (1.0 + (-f64::from(z)).exp()));
        let gaps = found["probability"].data.iter().zip(expect).map(|(p, e)| (p - e).abs());
        let worst = gaps.fold(0.0, f64::max);
        println!("{pooling:?}: largest difference {worst:.2e}");
        assert_eq!(found["probability"].data.len(), ROWS);
        assert!(worst <= 1e-5, "{pooling:?}: {worst}");
    }
}

#[test]
fn a_list_without_a_name_is_not_exported() {
    let list = List { name: "seen".into(), table: ListTable::Shared(0) };
    let inputs = ModelInputs { lists: vec![list], ..ModelInputs::numbered(0, &[7]) };
    let compiled = Baseline::History(History::default()).compile(&inputs).unwrap();
    let model = compiled.initialise::<f32>(1, 0).unwrap();
    let nameless = Export {
        name: "history",
        program: &compiled.program,
        model: &model,
        transforms: &[],
        lists: &[],
        logit_shift: 0.0,
        metadata: &[],
    };
    let error = export(&nameless).err().unwrap().to_string();
    assert!(error.contains("list 0, 0 have names"), "{error}");
}

const SCHEMA: &str = r#"
label = "bought"
categorical = ["item"]
lists = ["history", "tags"]
[column.history]
shares = "item"
max_length = 6
[column.tags]
separator = ";"
"#;

/// An item is bought where the history has it.
fn log(rows: u64) -> String {
    let mut text = String::from("bought,item,history,tags\n");
    for row in 0..rows {
        let mut random = stream(2, "test/purchases", row);
        let item = random.below(12);
        let mut history: Vec<u64> = (0..random.below(8)).map(|_| random.below(12)).collect();
        if random.chance(0.4) {
            history.push(item);
        }
        let kept = &history[history.len().saturating_sub(6)..];
        let bought = u8::from(kept.contains(&item));
        let history: Vec<String> = history.iter().map(|item| format!("i{item}")).collect();
        let tags = ["", "new", "new;red"][random.below(3) as usize];
        text += &format!("{bought},i{item},{},{tags}\n", history.join("|"));
    }
    text
}

#[test]
fn a_log_with_histories_is_prepared_trained_on_and_predicted() {
    let place = Place::new();
    fs::write(place.path("purchases.csv"), log(3000)).unwrap();
    fs::write(place.path("lists.toml"), SCHEMA).unwrap();
    let prepare = ["prepare", "--schema", "lists.toml", "purchases.csv", "-o", "lists"];
    let prepared = place.json(&prepare);
    assert_eq!(prepared["lists"][0]["name"], "history");
    assert!(prepared["lists"][0]["truncated"].as_u64().unwrap() > 100, "{prepared}");
    let set = [
        "--set=train.network.epochs=15",
        "--set=train.network.batch_size=100",
        "--set=train.network.learning_rate=0.1",
    ];
    let mut losses = Vec::new();
    for (model, baseline) in [("attends", "history"), ("alone", "mlp")] {
        let mut train = vec!["train", "lists", "--baseline", baseline, "-o", model];
        train.extend(set);
        let found = place.json(&train);
        losses.push(found["validation_log_loss"].as_f64().unwrap());
    }
    assert!(losses[0] < 0.6 * losses[1], "{losses:?}");
    for model in ["attends", "alone"] {
        let predict = ["predict", model, "purchases.csv", "-o", "predicted.csv"];
        succeed(&place.palmette(&predict));
        let lines = fs::read_to_string(place.path("predicted.csv")).unwrap();
        assert_eq!(lines.lines().count(), 3001, "{model}");
    }
    succeed(&place.palmette(&["train", "lists", "--from", "attends", "-o", "again"]));
    let other = fs::read_to_string(place.path("lists.toml")).unwrap().replace("= 6", "= 5");
    fs::write(place.path("lists.toml"), other).unwrap();
    succeed(&place.palmette(&["prepare", "--schema", "lists.toml", "purchases.csv", "-o", "five"]));
    let output = place.palmette(&["train", "five", "--from", "attends", "-o", "five-model"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("is encoded otherwise than for the model"),
        "{}",
        stderr(&output)
    );
}
