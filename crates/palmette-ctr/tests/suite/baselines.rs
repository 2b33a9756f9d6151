//! Hand-made models: sizes in closed form, gradients, formulas written out, and what each can learn.

use palmette_ctr::baselines::*;
use palmette_ctr::nasrec::{Block, DenseOp, Path, Set, SparseOp};
use palmette_ctr::{CompiledModel, List, ListTable, ModelInputs};
use palmette_engine::*;
use palmette_random::{Draw, stream};

const ND: usize = 3;
const TABLE_ROWS: [usize; 4] = [7, 9, 11, 5];
const NS: usize = TABLE_ROWS.len();
const E: usize = 8;

fn inputs() -> ModelInputs {
    ModelInputs::numbered(ND, &TABLE_ROWS)
}

/// Every baseline in a small size.
fn small() -> Vec<Baseline> {
    let embedding_dim = E;
    vec![
        Baseline::LogisticRegression(LogisticRegression {}),
        Baseline::FactorizationMachine(FactorizationMachine { embedding_dim }),
        Baseline::Mlp(Mlp { embedding_dim, hidden: vec![12, 7] }),
        Baseline::DeepFm(DeepFm { embedding_dim, hidden: vec![12, 7] }),
        Baseline::Dlrm(Dlrm { embedding_dim, bottom: vec![10], top: vec![12, 7] }),
        Baseline::DcnV2(DcnV2 { embedding_dim, cross_layers: 2, hidden: vec![12, 7] }),
        Baseline::AutoIntPlus(AutoIntPlus {
            embedding_dim,
            layers: 2,
            channels: 16,
            heads: 2,
            hidden: vec![12, 7],
        }),
        Baseline::XDeepFm(XDeepFm { embedding_dim, interaction: vec![6, 5], hidden: vec![12, 7] }),
    ]
}

struct Data<T> {
    dense: Vec<T>,
    ids: Vec<u32>,
    labels: Vec<f32>,
}

fn data<T: Real>(rows: usize, seed: u64) -> Data<T> {
    let mut rng = stream(seed, "test/data", rows as u64);
    let mut ids = Vec::new();
    for n in TABLE_ROWS {
        ids.extend((0..rows).map(|_| rng.below(n as u64) as u32));
    }
    Data {
        dense: (0..rows * ND).map(|_| T::from_f64(rng.normal())).collect(),
        ids,
        labels: (0..rows).map(|_| rng.below(2) as f32).collect(),
    }
}

impl<T> Data<T> {
    fn batch(&self) -> Batch<'_, T> {
        let rows = self.labels.len();
        Batch {
            rows,
            dense: &self.dense,
            ids: &self.ids,
            labels: &self.labels,
            weights: &[],
            lists: &[],
        }
    }
}

#[test]
fn multiply_accumulates_and_weights_equal_closed_forms() {
    let width = ND + NS * E;
    let fields = ND + NS;
    let tower = |first: usize| first * 12 + 12 * 7;
    let biases = 12 + 7;
    let v = NS + 1;
    let expect: [(usize, usize, usize); 8] = [
        // macs, weights outside the tables, channels of all tables together
        (ND, ND + 1, 1),
        (ND * ND * E + ND, ND * ND * E + ND + 1, E + 1),
        (tower(width) + 7, tower(width) + biases + 7 + 1, E),
        (
            ND * ND * E + ND + tower(fields * E) + 7,
            ND * ND * E + ND + tower(fields * E) + biases + 7 + 1,
            E + 1,
        ),
        (
            ND * 10 + 10 * E + E * v * v + tower(E + v * (v - 1) / 2) + 7,
            ND * 10 + 10 + 10 * E + E + tower(E + v * (v - 1) / 2) + biases + 7 + 1,
            E,
        ),
        (
            2 * width * width + tower(width) + width + 7,
            2 * (width * width + width) + tower(width) + biases + width + 7 + 1,
            E,
        ),
        (
            ND * fields * E
                + 4 * fields * 16 * (E + 16)
                + 2 * 2 * 16 * fields * fields
                + tower(fields * E)
                + fields * 16
                + 7,
            ND * fields * E + 4 * 16 * (E + 16) + tower(fields * E) + biases + fields * 16 + 7 + 1,
            E,
        ),
        (
            ND * fields * E
                + ND
                + (fields * fields * 6 + 6 * fields * 5) * E
                + 11
                + tower(fields * E)
                + 7,
            ND * fields * E
                + ND
                + fields * fields * 6
                + 6 * fields * 5
                + 11
                + tower(fields * E)
                + biases
                + 7
                + 1,
            E + 1,
        ),
    ];
    let values: usize = TABLE_ROWS.iter().sum();
    for (baseline, (macs, params, channels)) in small().iter().zip(expect) {
        let name = baseline.kind();
        let model = baseline.compile(&inputs()).unwrap();
        assert_eq!(model.macs(), macs as u64, "{name}: macs");
        assert_eq!(model.params(), params as u64, "{name}: weights");
        assert_eq!(model.table_params(), (values * channels) as u64, "{name}: tables");
        let listed: usize = model.tensors.iter().map(|t| t.shape.iter().product::<usize>()).sum();
        assert_eq!(listed, params, "{name}: tensors list every weight once");
    }
}

#[test]
fn gradients_equal_central_differences() {
    for (seed, baseline) in small().iter().enumerate() {
        let (name, seed) = (baseline.kind(), seed as u64);
        let mut compiled = baseline.compile(&inputs()).unwrap();
        let mut model = compiled.initialise::<f64>(seed, 1).unwrap();
        let data = data::<f64>(37, seed);
        let mut executor = Executor::new();
        let all = Trainable::Everything;
        executor.gradients(&model, &mut compiled.program, &data.batch(), all).unwrap();
        let slices: Vec<_> = compiled.program.slice_ids().collect();
        let analytic: Vec<Vec<Vec<f64>>> = slices
            .iter()
            .map(|&s| executor.slice_gradient(&compiled.program, s).map(<[f64]>::to_vec).collect())
            .collect();
        let tables: Vec<(usize, Vec<u32>, Vec<f64>)> =
            executor.table_gradients().map(|(t, i, g)| (t, i.to_vec(), g.to_vec())).collect();
        assert_eq!(tables.len(), compiled.tables.len(), "{name}: every table gets a gradient");
        let places: Vec<_> = slices.iter().map(|&s| compiled.program.slice(s)).collect();
        let mut loss = |model: &Model<f64>| {
            let head = Trainable::Head;
            executor.gradients(model, &mut compiled.program, &data.batch(), head).unwrap().0
        };
        let (step, mut rng) = (1e-5, stream(seed, "test/elements", 0));
        let check = |what: String, analytic: f64, high: f64, low: f64| {
            let numeric = (high - low) / (2.0 * step);
            let error = (analytic - numeric).abs() / (1e-3 + numeric.abs());
            assert!(error < 2e-5, "{name}, {what}: {analytic} against {numeric}");
        };
        for (&(param, rows, cols), grads) in places.iter().zip(&analytic) {
            for _ in 0..4 {
                let (i, j) = (rng.below(rows as u64) as usize, rng.below(cols as u64) as usize);
                let at = model.params.row(param, i)[j];
                model.params.row_mut(param, i)[j] = at + step;
                let high = loss(&model);
                model.params.row_mut(param, i)[j] = at - step;
                let low = loss(&model);
                model.params.row_mut(param, i)[j] = at;
                check(format!("{param:?}[{i}, {j}]"), grads[i][j], high, low);
            }
        }
        for (table, ids, grads) in &tables {
            let dim = grads.len() / ids.len();
            let (k, e) = (rng.below(ids.len() as u64) as usize, rng.below(dim as u64) as usize);
            let row = ids[k] as usize;
            let at = model.tables.table(*table).row(row)[e];
            model.tables.table_mut(*table).row_mut(row)[e] = at + step;
            let high = loss(&model);
            model.tables.table_mut(*table).row_mut(row)[e] = at - step;
            let low = loss(&model);
            model.tables.table_mut(*table).row_mut(row)[e] = at;
            check(format!("table {table} row {row}"), grads[k * dim + e], high, low);
        }
    }
}

#[test]
fn f32_agrees_with_f64() {
    for baseline in small() {
        let mut compiled = baseline.compile(&inputs()).unwrap();
        let (wide, narrow) =
            (compiled.initialise::<f64>(3, 0).unwrap(), compiled.initialise::<f32>(3, 0).unwrap());
        let (x, y) = (data::<f64>(200, 3), data::<f32>(200, 3));
        let program = &mut compiled.program;
        let exact = Executor::new().forward(&wide, program, &x.batch()).unwrap().to_vec();
        let close = Executor::new().forward(&narrow, program, &y.batch()).unwrap().to_vec();
        for (a, b) in exact.iter().zip(&close) {
            let name = baseline.kind();
            assert!((a - f64::from(*b)).abs() < 2e-5 * (1.0 + a.abs()), "{name}: {a} {b}");
        }
    }
}

/// The label is whether the parities of two values agree: no sum of single effects tells it.
#[test]
fn every_model_but_logistic_regression_learns_a_pair() {
    for baseline in small() {
        let mut compiled = baseline.compile(&inputs()).unwrap();
        let optimizer = Optimizer::Adagrad { epsilon: 1e-2 };
        let mut model = compiled.initialise::<f32>(5, optimizer.state_slots()).unwrap();
        let mut executor = Executor::new();
        let mut last = 0.0;
        for index in 0..400 {
            let rows = 256;
            let mut data = data::<f32>(rows, 100 + index);
            for r in 0..rows {
                data.labels[r] = f32::from(u8::from(data.ids[r] % 2 == data.ids[rows + r] % 2));
            }
            let step = Step {
                index,
                learning_rate: 0.1,
                optimizer,
                clip_norm: Some(5.0),
                trainable: Trainable::Everything,
            };
            let batch = data.batch();
            last = executor.train_step(&mut model, &mut compiled.program, &batch, &step).unwrap();
        }
        match baseline {
            Baseline::LogisticRegression(_) => assert!(last > 0.6, "lr: {last}"),
            _ => assert!(last < 0.2, "{}: {last}", baseline.kind()),
        }
    }
}

/// Logits of some rows beside everything needed to compute them by hand.
struct ByHand {
    compiled: CompiledModel,
    model: Model<f64>,
    data: Data<f64>,
    logits: Vec<f64>,
}

fn by_hand(baseline: &Baseline) -> ByHand {
    let mut compiled = baseline.compile(&inputs()).unwrap();
    let mut model = compiled.initialise::<f64>(11, 0).unwrap();
    // Biases start at zero: give them values, so that leaving one out shows.
    let biases: Vec<_> = compiled
        .layout
        .iter()
        .filter(|(_, s)| s.name.ends_with("bias"))
        .map(|(id, _)| id)
        .collect();
    let mut rng = stream(11, "test/biases", 0);
    for id in biases {
        model.params.row_mut(id, 0).iter_mut().for_each(|b| *b = rng.normal());
    }
    let data = data::<f64>(6, 11);
    let logits =
        Executor::new().forward(&model, &mut compiled.program, &data.batch()).unwrap().to_vec();
    ByHand { compiled, model, data, logits }
}

impl ByHand {
    fn rows(&self) -> usize {
        self.data.labels.len()
    }

    fn dense(&self, r: usize) -> &[f64] {
        &self.data.dense[r * ND..(r + 1) * ND]
    }

    fn embedding(&self, table: usize, r: usize) -> &[f64] {
        let id = self.data.ids[table % NS * self.rows() + r];
        self.model.tables.table(table).row(id as usize)
    }

    /// Rows of a tensor; blocks of columns are joined.
    fn matrix(&self, name: &str) -> Vec<Vec<f64>> {
        let tensor = self.compiled.tensors.iter().find(|t| t.name == name);
        let parts = &tensor.unwrap_or_else(|| panic!("no tensor {name}")).parts;
        let rows = self.compiled.layout.spec(parts[0]).rows;
        let row =
            |i: usize| parts.iter().flat_map(|&p| self.model.params.row(p, i)).copied().collect();
        (0..rows).map(row).collect()
    }

    fn vector(&self, name: &str) -> Vec<f64> {
        self.matrix(name).concat()
    }

    /// The logit's weights over the parts `name` is made of.
    fn head(&self, name: &str) -> Vec<f64> {
        let tensor = self.compiled.tensors.iter().find(|t| t.name == name).unwrap();
        let part = |&p: &ParamId| {
            (0..self.compiled.layout.spec(p).rows)
                .flat_map(move |i| self.model.params.row(p, i).to_vec())
        };
        tensor.parts.iter().flat_map(part).collect()
    }

    fn bias(&self) -> f64 {
        self.vector("bias")[0]
    }

    fn dense_fields(&self, r: usize) -> Vec<Vec<f64>> {
        let wide = product(&self.matrix("dense_embedding.weight"), self.dense(r));
        wide.chunks(E).map(<[f64]>::to_vec).collect()
    }

    /// `pad(E) + reshape(W x)`.
    fn one_field_buffer(&self, r: usize) -> Vec<Vec<f64>> {
        let mut fields = self.dense_fields(r);
        for f in 0..NS {
            fields[f].iter_mut().zip(self.embedding(f, r)).for_each(|(x, e)| *x += e);
        }
        fields
    }

    fn first_order(&self, r: usize) -> f64 {
        let tables = self.compiled.tables.len() - NS;
        dot(&self.vector("first_order.weight"), self.dense(r))
            + (0..NS).map(|f| self.embedding(tables + f, r)[0]).sum::<f64>()
    }

    fn check(&self, formula: impl Fn(usize) -> f64) {
        for (r, &logit) in self.logits.iter().enumerate() {
            let expect = formula(r);
            assert!((logit - expect).abs() < 1e-12 * (1.0 + expect.abs()), "{logit} {expect}");
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn product(weights: &[Vec<f64>], x: &[f64]) -> Vec<f64> {
    weights.iter().map(|w| dot(w, x)).collect()
}

fn relu(x: Vec<f64>) -> Vec<f64> {
    x.into_iter().map(|x| x.max(0.0)).collect()
}

#[test]
fn factorization_machine_is_the_sum_over_pairs() {
    let hand = by_hand(&small()[1]);
    hand.check(|r| {
        let mut fields: Vec<_> = (0..NS).map(|f| hand.embedding(f, r).to_vec()).collect();
        fields.extend(hand.dense_fields(r));
        let mut logit = hand.bias() + hand.first_order(r);
        for i in 0..fields.len() {
            for j in 0..i {
                logit += dot(&fields[i], &fields[j]);
            }
        }
        logit
    });
}

#[test]
fn cross_layers_are_the_papers_formula() {
    let (embedding_dim, hidden) = (E, vec![]);
    let hand = by_hand(&Baseline::DcnV2(DcnV2 { embedding_dim, cross_layers: 2, hidden }));
    hand.check(|r| {
        let mut x0 = hand.dense(r).to_vec();
        (0..NS).for_each(|f| x0.extend(hand.embedding(f, r)));
        let mut x = x0.clone();
        for layer in 0..2 {
            let tensor = |part: &str, what: &str| format!("cross.{layer}.{part}.{what}");
            let mut w = hand.matrix(&tensor("dense", "weight"));
            w.extend(hand.matrix(&tensor("fields", "weight")));
            let mut b = hand.vector(&tensor("dense", "bias"));
            b.extend(hand.vector(&tensor("fields", "bias")));
            let mixed = product(&w, &x);
            x = (0..x.len()).map(|i| x0[i] * (mixed[i] + b[i]) + x[i]).collect();
        }
        // Without a tower the logit reads x_0 itself; fields lie flattened there.
        hand.bias() + dot(&hand.head("out.weight"), &[x, x0].concat())
    });
}

#[test]
fn dlrm_reads_all_pairs_of_the_bottom_and_the_embeddings() {
    let hand = by_hand(&Baseline::Dlrm(Dlrm { embedding_dim: E, bottom: vec![], top: vec![] }));
    hand.check(|r| {
        let z = product(&hand.matrix("bottom.0.weight"), hand.dense(r));
        let b = hand.vector("bottom.0.bias");
        let z = relu(z.iter().zip(&b).map(|(x, y)| x + y).collect());
        let mut vectors = vec![z.clone()];
        vectors.extend((0..NS).map(|f| hand.embedding(f, r).to_vec()));
        let mut read = z;
        for i in 0..vectors.len() {
            read.extend((0..i).map(|j| dot(&vectors[i], &vectors[j])));
        }
        hand.bias() + dot(&hand.head("out.weight"), &read)
    });
}

#[test]
fn interacting_layer_is_attention_with_a_residual() {
    const CHANNELS: usize = 16;
    const HEADS: usize = 2;
    let hand = by_hand(&Baseline::AutoIntPlus(AutoIntPlus {
        embedding_dim: E,
        layers: 1,
        channels: CHANNELS,
        heads: HEADS,
        hidden: vec![],
    }));
    hand.check(|r| {
        let tokens = hand.one_field_buffer(r);
        let map = |name: &str| -> Vec<Vec<f64>> {
            let w = hand.matrix(&format!("interacting.0.{name}.weight"));
            tokens.iter().map(|x| product(&w, x)).collect()
        };
        let [q, k, v, mut out] = ["query", "key", "value", "residual"].map(map);
        let d = CHANNELS / HEADS;
        for head in 0..HEADS {
            let part = head * d..(head + 1) * d;
            for (i, out) in out.iter_mut().enumerate() {
                let score = |k: &Vec<f64>| {
                    (dot(&q[i][part.clone()], &k[part.clone()]) / (d as f64).sqrt()).exp()
                };
                let scores: Vec<f64> = k.iter().map(score).collect();
                let total: f64 = scores.iter().sum();
                for c in part.clone() {
                    out[c] += (0..v.len()).map(|j| scores[j] / total * v[j][c]).sum::<f64>();
                }
            }
        }
        let read: Vec<_> = out.into_iter().flat_map(relu).chain(tokens.concat()).collect();
        hand.bias() + dot(&hand.head("out.weight"), &read)
    });
}

#[test]
fn interaction_network_is_the_papers_formula() {
    let hand = by_hand(&Baseline::XDeepFm(XDeepFm {
        embedding_dim: E,
        interaction: vec![6, 5],
        hidden: vec![],
    }));
    hand.check(|r| {
        let x0 = hand.one_field_buffer(r);
        let mut x = x0.clone();
        let mut pooled = Vec::new();
        for layer in 0..2 {
            let w = hand.matrix(&format!("interaction.{layer}.weight"));
            let sum = |w: &Vec<f64>, c: usize| {
                let mut total = 0.0;
                for i in 0..x.len() {
                    for j in 0..x0.len() {
                        total += w[i * x0.len() + j] * x[i][c] * x0[j][c];
                    }
                }
                total
            };
            x = w.iter().map(|w| (0..E).map(|c| sum(w, c)).collect()).collect();
            pooled.extend(x.iter().map(|field: &Vec<f64>| field.iter().sum::<f64>()));
        }
        hand.bias()
            + hand.first_order(r)
            + dot(&hand.head("interaction.out.weight"), &pooled)
            + dot(&hand.head("out.weight"), &x0.concat())
    });
}

#[test]
fn models_do_without_dense_inputs_and_without_fields() {
    let mut rng = stream(1, "test/part", 0);
    let all = Baseline::KINDS.map(|name| Baseline::named(name).unwrap());
    // the last one needs lists
    for baseline in all[..8].iter().chain(&small()) {
        for inputs in [
            ModelInputs::numbered(0, &TABLE_ROWS),
            ModelInputs::numbered(0, &TABLE_ROWS[..1]),
            ModelInputs::numbered(ND, &[]),
            ModelInputs::numbered(1, &TABLE_ROWS[..1]),
        ] {
            let name = baseline.kind();
            let mut compiled = baseline.compile(&inputs).unwrap();
            let model = compiled.initialise::<f32>(1, 0).unwrap();
            let dense: Vec<f32> = (0..4 * inputs.dense).map(|_| rng.normal() as f32).collect();
            let ids = vec![1; 4 * inputs.fields.len()];
            let batch =
                Batch { rows: 4, dense: &dense, ids: &ids, labels: &[], weights: &[], lists: &[] };
            let mut executor = Executor::new();
            let logits = executor.forward(&model, &mut compiled.program, &batch).unwrap();
            assert!(logits.iter().all(|z| z.is_finite()), "{name} {inputs:?}");
        }
        let error = baseline.compile(&ModelInputs::numbered(0, &[])).err().unwrap();
        assert_eq!(error, BaselineError::NoInputs);
    }
}

#[test]
fn settings_are_read_and_checked() {
    let read = |text: &str| serde_json::from_str::<Baseline>(text).unwrap();
    for name in Baseline::KINDS {
        let baseline = Baseline::named(name).unwrap();
        assert_eq!(baseline.kind(), name);
        assert_eq!(read(&format!("{{\"kind\": \"{name}\"}}")), baseline, "defaults");
        assert_eq!(read(&serde_json::to_string(&baseline).unwrap()), baseline);
    }
    for name in Baseline::names() {
        let kind = Baseline::named(name).unwrap().kind();
        assert!(name.starts_with(kind), "{name} is a {kind}");
    }
    let wrong = serde_json::from_str::<Baseline>(r#"{"kind": "mlp", "hiden": [3]}"#).unwrap_err();
    assert!(wrong.to_string().contains("hiden"), "{wrong}");
    for (text, expect) in [
        (
            r#"{"kind": "mlp", "hidden": [4, 0]}"#,
            "mlp: `hidden` holds a zero; every size must be at least 1",
        ),
        (
            r#"{"kind": "autoint-plus", "channels": 40, "heads": 2}"#,
            "autoint-plus: 40 channels in 2 heads; the channels of one head must be 1, 2, 4, 8 or 16",
        ),
        (
            r#"{"kind": "xdeepfm", "interaction": [1, 1, 1, 1, 1, 1]}"#,
            "xdeepfm: `interaction` lists 6 layers; at most 5 are possible",
        ),
    ] {
        assert_eq!(read(text).compile(&inputs()).err().unwrap().to_string(), expect);
    }
}

#[test]
fn mlp_of_a_given_cost_comes_close() {
    let inputs = ModelInputs::numbered(13, &[1000; 26]);
    for macs in [50_000, 123_456, 1_000_000, 2_000_000] {
        let model = Mlp::with_macs(&inputs, macs).compile(&inputs).unwrap();
        let error = (model.macs() as f64 / macs as f64 - 1.0).abs();
        assert!(error < 0.02, "{macs}: {}", model.macs());
    }
}

#[test]
fn a_searched_network_compiles_to_the_same_type() {
    let block = Block {
        dense_ops: Set::only(DenseOp::Fc as usize),
        sparse_ops: Set::only(SparseOp::Efc as usize),
        dense_sources: Set::only(0),
        sparse_sources: Set::only(0),
        left: Set::only(0),
        right: Set::only(0),
        dense_width: 32,
        sparse_width: 16,
        dense_to_sparse: false,
        sparse_to_dense: true,
    };
    let path = Path { blocks: vec![block] };
    let inputs = inputs();
    let mut compiled = CompiledModel::nasrec(&path, &inputs, true);
    assert_eq!(compiled.macs(), palmette_ctr::nasrec::macs(&path, inputs.shape()));
    assert_eq!(compiled.tables[1].name, "embedding.C2");
    let model = compiled.initialise::<f32>(1, 0).unwrap();
    let data = data::<f32>(5, 1);
    let mut executor = Executor::new();
    let logits = executor.forward(&model, &mut compiled.program, &data.batch()).unwrap();
    assert!(logits.iter().all(|z| z.is_finite()));
}

/// Whether the item is in the history decides the label; the model has to look.
#[test]
fn histories_are_looked_at() {
    const ITEMS: usize = 30;
    let list = |name: &str, table| List { name: name.into(), table };
    let inputs = ModelInputs {
        lists: vec![list("seen", ListTable::Shared(0)), list("tags", ListTable::Own(6))],
        ..ModelInputs::numbered(0, &[ITEMS])
    };
    assert_eq!(inputs.table_rows(), [ITEMS as u32, 6]);
    let rows = 2000;
    let mut rng = stream(6, "test/history", 0);
    let (mut ids, mut labels) = (Vec::new(), Vec::new());
    let mut offsets = [vec![0], vec![0]];
    let mut values = [Vec::new(), Vec::new()];
    for _ in 0..rows {
        let item = rng.below(ITEMS as u64) as u32;
        for _ in 0..rng.below(6) {
            values[0].push(rng.below(ITEMS as u64) as u32);
        }
        let start = offsets[0][offsets[0].len() - 1];
        if rng.chance(0.5) {
            values[0].push(item);
        }
        values[1].extend((0..rng.below(3)).map(|_| rng.below(6) as u32));
        labels.push(f32::from(u8::from(values[0][start..].contains(&item))));
        ids.push(item);
        (0..2).for_each(|i| offsets[i].push(values[i].len()));
    }
    let lists = [0, 1].map(|i| JaggedIds { offsets: &offsets[i], ids: &values[i] });
    let batch = Batch { rows, dense: &[], ids: &ids, labels: &labels, weights: &[], lists: &lists };
    let mut losses = Vec::new();
    for pooling in [HistoryPooling::Mean, HistoryPooling::Target, HistoryPooling::SelfAttention] {
        let model = History { pooling, heads: 2, hidden: vec![32], ..History::default() };
        let mut compiled = Baseline::History(model).compile(&inputs).unwrap();
        assert_eq!(compiled.table_params(), 16 * (ITEMS as u64 + 6));
        let optimizer = Optimizer::Adagrad { epsilon: 1e-2 };
        let mut weights = compiled.initialise::<f32>(3, optimizer.state_slots()).unwrap();
        let mut executor = Executor::new();
        let mut loss = 0.0;
        for index in 0..400 {
            let step = Step {
                index,
                learning_rate: 0.1,
                optimizer,
                clip_norm: Some(5.0),
                trainable: Trainable::Everything,
            };
            let program = &mut compiled.program;
            loss = executor.train_step(&mut weights, program, &batch, &step).unwrap();
        }
        losses.push(loss);
    }
    let chance = {
        let mean = f64::from(labels.iter().sum::<f32>()) / rows as f64;
        -mean * mean.ln() - (1.0 - mean) * (1.0 - mean).ln()
    };
    // with attention it is all but certain; a mean of vectors says less
    assert!(losses.iter().all(|&loss| loss < 0.7 * chance), "{losses:?} of {chance}");
    assert!(losses[1] < 0.2 * chance, "{losses:?} of {chance}");

    let error = History::default().compile(&ModelInputs::numbered(1, &[5])).err().unwrap();
    assert_eq!(error, BaselineError::NoLists);
    let own = List { name: "tags".into(), table: ListTable::Own(7) };
    let own = ModelInputs { lists: vec![own], ..ModelInputs::numbered(1, &[5]) };
    let pooled = |pooling| History { pooling, ..History::default() }.compile(&own);
    assert!(pooled(HistoryPooling::Mean).is_ok());
    let error = pooled(HistoryPooling::SelfAttention).err().unwrap();
    assert_eq!(error, BaselineError::NoSharedLists);
    let error = History { heads: 3, ..History::default() }.compile(&inputs).err().unwrap();
    assert!(error.to_string().contains("16 channels in 3 heads"), "{error}");
}
