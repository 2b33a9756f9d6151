//! Every operator against central differences in f64, with poisoned arenas and
//! fresh random inputs, and bit-equality over numbers of threads.

use palmette_engine::*;
use palmette_random::{Draw, stream};

use crate::differences::{Elements, check_gradients};

const FIELDS: usize = 5;
const DIM: usize = 16;
const DENSE: usize = 7;
const TABLE_ROWS: usize = 9;

/// A network under test: declares parameters and later builds the program.
pub(super) type Build =
    fn(&mut Declared, &mut Program, BufferId, BufferId) -> Vec<(BufferId, HeadInput)>;

/// Hands out parameters in order of use: declares them on the first run, finds them on the next.
#[derive(Default)]
pub(super) struct Declared {
    pub(super) layout: ParamLayout,
    ids: Vec<ParamId>,
    pub(super) next: usize,
}

impl Declared {
    fn matrix(&mut self, rows: usize, cols: usize) -> ParamId {
        if self.next == self.ids.len() {
            // Parameters are larger than the slices that programs use.
            let init = Init::XavierUniform { fan_in: cols, fan_out: rows };
            let id = self.layout.matrix(format!("p{}", self.next), rows + 3, cols + 2, init);
            self.ids.push(id);
        }
        self.next += 1;
        self.ids[self.next - 1]
    }

    fn vector(&mut self, len: usize) -> ParamId {
        if self.next == self.ids.len() {
            let init = Init::XavierUniform { fan_in: 5, fan_out: 5 };
            let id = self.layout.vector(format!("p{}", self.next), len + 2, init);
            self.ids.push(id);
        }
        self.next += 1;
        self.ids[self.next - 1]
    }

    fn norm(&mut self, len: usize) -> Option<(ParamId, ParamId)> {
        Some((self.vector(len), self.vector(len)))
    }
}

pub(super) fn build(declared: &mut Declared, build: Build) -> Program {
    declared.next = 0;
    let mut program = Program::new();
    let dense = program.dense_input(DENSE);
    let sparse = program.embedding(0, FIELDS, DIM);
    let pieces = build(declared, &mut program, dense, sparse);
    let bias = declared.vector(1);
    program.head(&pieces, Some(bias));
    program
}

fn weight(declared: &mut Declared, program: &Program, buffer: BufferId) -> (BufferId, HeadInput) {
    let param = match program.extent(buffer) {
        Extent::Rows { width } => declared.matrix(1, width),
        Extent::Fields { fields, dim } => declared.matrix(fields, dim),
        Extent::Jagged { .. } => unreachable!("no lists here"),
    };
    (buffer, HeadInput::Weight(param))
}

pub(super) struct Data<T> {
    rows: usize,
    dense: Vec<T>,
    ids: Vec<u32>,
    labels: Vec<f32>,
    weights: Vec<f32>,
}

pub(super) fn data<T: Real>(rows: usize, seed: u64) -> Data<T> {
    let mut rng = stream(seed, "test/data", rows as u64);
    Data {
        rows,
        dense: (0..rows * DENSE).map(|_| T::from_f64(rng.normal())).collect(),
        ids: (0..rows * FIELDS).map(|_| rng.below(TABLE_ROWS as u64) as u32).collect(),
        labels: (0..rows).map(|_| rng.below(2) as f32).collect(),
        weights: (0..rows).map(|_| (0.5 + rng.unit()) as f32).collect(),
    }
}

impl<T> Data<T> {
    pub(super) fn batch(&self) -> Batch<'_, T> {
        Batch {
            rows: self.rows,
            dense: &self.dense,
            ids: &self.ids,
            labels: &self.labels,
            weights: &self.weights,
            lists: &[],
        }
    }
}

pub(super) fn model<T: Real>(layout: ParamLayout, seed: u64) -> Model<T> {
    let tables = (0..FIELDS)
        .map(|f| TableSpec { name: format!("t{f}"), rows: TABLE_ROWS, dim: DIM })
        .collect();
    Model {
        params: ParamStore::new(layout, seed, 1).unwrap(),
        tables: Tables::new(tables, 1, seed).unwrap(),
    }
}

pub(super) const CASES: &[(&str, Build)] = &[
    ("linear with bias and relu over two sources", |d, p, x, _| {
        let (w1, b1, w2, w3, b2) = (
            d.matrix(20, DENSE),
            d.vector(20),
            d.matrix(33, DENSE),
            d.matrix(33, 20),
            d.vector(33),
        );
        let h = p.linear(&[(x, w1)], 20, Epilogue { bias: Some(b1), ..Epilogue::default() });
        let y =
            p.linear(&[(x, w2), (h, w3)], 33, Epilogue { bias: Some(b2), relu: true, norm: None });
        vec![weight(d, p, y)]
    }),
    (
        "layers wider than a panel, read by one layer, by several, twice and by others too",
        |d, p, x, _| {
            let (first, bias) = (d.matrix(97, DENSE), Some(d.vector(97)));
            let h = p.linear(&[(x, first)], 97, Epilogue { bias, norm: None, relu: true });
            let (w, bias) = (d.matrix(53, 97), Some(d.vector(53)));
            let a = p.linear(&[(h, w)], 53, Epilogue { bias, norm: None, relu: false });
            let (w1, w2) = (d.matrix(65, 97), d.matrix(65, 97));
            let epilogue = Epilogue { bias: None, norm: None, relu: true };
            let b = p.linear(&[(h, w1), (h, w2)], 65, epilogue);
            let (w1, w2, w3, bias) =
                (d.matrix(60, 53), d.matrix(60, 65), d.matrix(60, 97), Some(d.vector(60)));
            let epilogue = Epilogue { bias, norm: None, relu: true };
            let c = p.linear(&[(a, w1), (b, w2), (h, w3)], 60, epilogue);
            let (w1, w2) = (d.matrix(50, 65), d.matrix(50, 60));
            let e = p.linear(&[(b, w1), (c, w2)], 50, Epilogue::default());
            let w = d.matrix(10, 50);
            let f = p.linear(&[(e, w)], 10, Epilogue::default());
            // The head reads c as well, so that it is kept in rows.
            vec![weight(d, p, c), weight(d, p, f)]
        },
    ),
    ("linear with norm and relu", |d, p, x, _| {
        let (w1, w2) = (d.matrix(37, DENSE), d.matrix(19, 37));
        let norm = d.norm(37);
        let h = p.linear(&[(x, w1)], 37, Epilogue { bias: None, norm, relu: true });
        let norm = d.norm(19);
        let y = p.linear(&[(h, w2)], 19, Epilogue { bias: None, norm, relu: false });
        vec![weight(d, p, y)]
    }),
    ("field mix with bias and relu, twice from one source", |d, p, _, s| {
        let (w1, b1, w2, w3) =
            (d.matrix(6, FIELDS), d.vector(6), d.matrix(4, 6), d.matrix(4, FIELDS));
        let y = p.field_mix(&[(s, w1)], 6, Epilogue { bias: Some(b1), norm: None, relu: true });
        let z = p.field_mix(&[(y, w2), (s, w3)], 4, Epilogue::default());
        vec![weight(d, p, z)]
    }),
    ("field mix with norm", |d, p, _, s| {
        let w = d.matrix(11, FIELDS);
        let norm = d.norm(11);
        let y = p.field_mix(&[(s, w)], 11, Epilogue { bias: None, norm, relu: true });
        vec![weight(d, p, y)]
    }),
    ("dot products with and without a vector", |d, p, x, s| {
        let a = d.matrix(DIM, DENSE);
        let v = p.linear(&[(x, a)], DIM, Epilogue::default());
        let g = p.gram(Some(v), &[s]);
        let w = d.matrix(17, 21);
        let y = p.field_mix(&[(s, w)], 17, Epilogue::default());
        let g2 = p.gram(None, &[y, s]);
        vec![weight(d, p, g), weight(d, p, g2)]
    }),
    ("gate of unequal widths, projected", |d, p, x, _| {
        let (wl, wr, u, b) =
            (d.matrix(12, DENSE), d.matrix(18, DENSE), d.matrix(18, 12), d.vector(18));
        let l = p.linear(&[(x, wl)], 12, Epilogue::default());
        let r = p.linear(&[(x, wr)], 18, Epilogue::default());
        let gate = p.linear(&[(l, u)], 18, Epilogue { bias: Some(b), ..Epilogue::default() });
        let h = p.gate(gate, r, 24);
        let short = p.gate(l, r, 18);
        vec![weight(d, p, h), weight(d, p, short), weight(d, p, r)]
    }),
    ("sum of unequal widths, one term twice", |d, p, x, _| {
        let (wl, wr) = (d.matrix(12, DENSE), d.matrix(18, DENSE));
        let l = p.linear(&[(x, wl)], 12, Epilogue::default());
        let r = p.linear(&[(x, wr)], 18, Epilogue::default());
        let y = p.add(&[l, r, l], true);
        vec![weight(d, p, y)]
    }),
    ("cross layer", |d, p, x, _| {
        let (w0, w, b) = (d.matrix(16, DENSE), d.matrix(16, 16), d.vector(16));
        let x0 = p.linear(&[(x, w0)], 16, Epilogue::default());
        let y = p.linear(&[(x0, w)], 16, Epilogue { bias: Some(b), ..Epilogue::default() });
        let m = p.multiply(x0, y);
        let z = p.add(&[m, x0], false);
        vec![weight(d, p, z)]
    }),
    ("transformer encoder", |d, p, _, s| {
        let w = d.matrix(21, FIELDS);
        let norm = d.norm(21);
        let z = p.field_mix(&[(s, w)], 21, Epilogue { bias: None, norm, relu: false });
        let project = |d: &mut Declared, p: &mut Program, x, relu| {
            let (w, b) = (d.matrix(DIM, DIM), d.vector(DIM));
            p.row_map(x, w, DIM, Some(b), relu)
        };
        let q = project(d, p, z, false);
        let k = project(d, p, z, false);
        let v = project(d, p, z, false);
        let a = p.attention(q, k, v, 8);
        let o = project(d, p, a, false);
        let (scale, shift) = d.norm(DIM).unwrap();
        let h = p.add_norm(z, o, scale, shift);
        let f = project(d, p, h, true);
        let f = project(d, p, f, false);
        let (scale, shift) = d.norm(DIM).unwrap();
        let y = p.add_norm(h, f, scale, shift);
        vec![weight(d, p, y)]
    }),
    ("attention with two heads of unequal channels", |d, p, _, s| {
        let (wq, wk, wv) = (d.matrix(8, DIM), d.matrix(8, DIM), d.matrix(8, DIM));
        let q = p.row_map(s, wq, 8, None, false);
        let k = p.row_map(s, wk, 8, None, true);
        let v = p.row_map(s, wv, 8, None, false);
        let a = p.attention(q, k, v, 2);
        let same = p.attention(s, s, s, 1);
        vec![weight(d, p, a), weight(d, p, same)]
    }),
    ("merges and factorisation machine", |d, p, x, s| {
        let (w, wm) = (d.matrix(48, DENSE), d.matrix(6, 3));
        let y = p.linear(&[(x, w)], 48, Epilogue::default());
        let merged = p.fields_from_rows(y, DIM);
        let mixed = p.field_mix(&[(merged, wm)], 6, Epilogue::default());
        let f = p.factorization_machine(&[s, merged]);
        let flat = p.rows_from_fields(mixed);
        vec![
            weight(d, p, f),
            weight(d, p, flat),
            (mixed, HeadInput::Constant(0.5)),
            (f, HeadInput::Constant(-0.25)),
        ]
    }),
    ("compressed interactions", |d, p, _, s| {
        let w = d.matrix(4, 25);
        let z = p.outer(s, s);
        let y = p.field_mix(&[(z, w)], 4, Epilogue::default());
        let z2 = p.outer(y, s);
        let sums = p.field_sums(y);
        let pooled = p.field_sums(z2);
        vec![weight(d, p, sums), weight(d, p, pooled)]
    }),
];

pub(super) fn declared(case: Build) -> Declared {
    let mut declared = Declared::default();
    build(&mut declared, case);
    declared
}

#[test]
fn analytic_gradients_equal_central_differences() {
    for (seed, &(name, case)) in CASES.iter().enumerate() {
        let seed = seed as u64;
        let mut d = declared(case);
        let mut model = model::<f64>(d.layout.clone(), seed);
        // Rows of 9 and 131 (a full chunk and a short one).
        for rows in [9, 131] {
            let data = data::<f64>(rows, seed);
            let mut program = build(&mut d, case);
            check_gradients(
                &format!("{name}, {rows} rows"),
                &mut model,
                &mut program,
                &data.batch(),
                Elements { of_slices: 6, of_tables: 1 },
                &mut stream(seed, "test/elements", rows as u64),
            );
        }
    }
}

#[test]
fn f32_agrees_with_f64() {
    for (seed, &(name, case)) in CASES.iter().enumerate() {
        let mut d = declared(case);
        let wide = model::<f64>(d.layout.clone(), seed as u64);
        let narrow = model::<f32>(d.layout.clone(), seed as u64);
        let (x, y) = (data::<f64>(200, 3), data::<f32>(200, 3));
        let mut program = build(&mut d, case);
        let exact = Executor::new().forward(&wide, &mut program, &x.batch()).unwrap().to_vec();
        let close = Executor::new().forward(&narrow, &mut program, &y.batch()).unwrap().to_vec();
        for (a, b) in exact.iter().zip(&close) {
            assert!((a - f64::from(*b)).abs() < 2e-5 * (1.0 + a.abs()), "{name}: {a} {b}");
        }
    }
}

/// Few rows go through kernels of their own, with fields in the lanes instead of rows.
#[test]
fn a_row_alone_has_the_logit_that_it_has_in_a_batch() {
    for (seed, &(name, case)) in CASES.iter().enumerate() {
        let mut d = declared(case);
        let model = model::<f32>(d.layout.clone(), seed as u64);
        let all = data::<f32>(32, 3);
        let mut program = build(&mut d, case);
        let mut executor = Executor::new();
        let logits = executor.forward(&model, &mut program, &all.batch()).unwrap().to_vec();
        for (r, &expected) in logits.iter().enumerate() {
            let ids: Vec<u32> = all.ids[r..].iter().step_by(all.rows).copied().collect();
            let dense = &all.dense[r * DENSE..(r + 1) * DENSE];
            let batch = Batch { rows: 1, dense, ids: &ids, labels: &[], weights: &[], lists: &[] };
            executor.poison();
            let alone = executor.forward(&model, &mut program, &batch).unwrap()[0];
            let error = (alone - expected).abs();
            assert!(error < 2e-5 * (1.0 + expected.abs()), "{name}, row {r}: {alone} {expected}");
            let again = executor.forward(&model, &mut program, &batch).unwrap()[0];
            assert_eq!(alone.to_bits(), again.to_bits(), "{name}, row {r}");
        }
    }
}

/// Gradients of all slices and tables, one behind the other.
pub(super) fn all_gradients<T: Real>(
    model: &Model<T>,
    program: &mut Program,
    data: &Data<T>,
    precision: Precision,
) -> Vec<f64> {
    let mut executor = Executor::new();
    executor.set_precision(precision);
    executor.gradients(model, program, &data.batch(), Trainable::Everything).unwrap();
    let program: &Program = program;
    let slices = program.slice_ids().flat_map(|s| executor.slice_gradient(program, s)).flatten();
    let tables = executor.table_gradients().flat_map(|(_, _, sums)| sums);
    slices.chain(tables).map(|g| g.to_f64()).collect()
}

/// The shuffles of f32 have no counterpart in f64, so central differences do not see them.
#[test]
fn f32_gradients_agree_with_f64() {
    for (seed, &(name, case)) in CASES.iter().enumerate() {
        let mut d = declared(case);
        let wide = model::<f64>(d.layout.clone(), seed as u64);
        let narrow = model::<f32>(d.layout.clone(), seed as u64);
        let mut program = build(&mut d, case);
        // Two full blocks of sixteen rows and a short one; more than one chunk.
        for rows in [37, 200] {
            let exact = all_gradients(&wide, &mut program, &data::<f64>(rows, 3), Precision::F32);
            let close = all_gradients(&narrow, &mut program, &data::<f32>(rows, 3), Precision::F32);
            let largest = exact.iter().fold(0.0, |m: f64, g| m.max(g.abs()));
            assert_eq!(exact.len(), close.len(), "{name}");
            for (i, (a, b)) in exact.iter().zip(&close).enumerate() {
                let error = (a - b).abs();
                let allowed = 1e-4 * a.abs() + 1e-5 * largest;
                assert!(error < allowed, "{name}, {rows} rows, gradient {i}: {a} {b}");
            }
        }
    }
}

#[test]
fn products_count_what_programs_say() {
    for &(name, case) in CASES {
        let mut d = declared(case);
        let model = model::<f32>(d.layout.clone(), 1);
        let data = data::<f32>(64, 1);
        let mut program = build(&mut d, case);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let counted = pool.install(|| {
            let before = counted_macs();
            Executor::new().forward(&model, &mut program, &data.batch()).unwrap();
            counted_macs() - before
        });
        assert_eq!(counted, 64 * program.macs(), "{name}");
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    for &(name, case) in CASES {
        for precision in [Precision::F32, Precision::Bf16] {
            let run = |threads: usize| {
                let mut d = declared(case);
                let mut model = model::<f32>(d.layout.clone(), 5);
                let data = data::<f32>(1000, 5);
                let mut program = build(&mut d, case);
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let mut executor = Executor::new();
                    executor.set_precision(precision);
                    let losses: Vec<u64> = (0..4)
                        .map(|index| {
                            let step = Step {
                                index,
                                learning_rate: 0.1,
                                optimizer: Optimizer::Adagrad { epsilon: 1e-2 },
                                clip_norm: Some(0.5),
                                trainable: Trainable::Everything,
                            };
                            executor.poison();
                            let batch = data.batch();
                            executor
                                .train_step(&mut model, &mut program, &batch, &step)
                                .unwrap()
                                .to_bits()
                        })
                        .collect();
                    let logits = executor.forward(&model, &mut program, &data.batch()).unwrap();
                    (losses, logits.iter().map(|z| z.to_bits()).collect::<Vec<_>>())
                })
            };
            let one = run(1);
            assert!(one.0.windows(2).all(|w| w[0] != w[1]), "{name}: the loss does not move");
            for threads in [2, 3, 7] {
                assert!(run(threads) == one, "{name}: {threads} threads differ from one");
            }
        }
    }
}

/// Without a clip, tiles move as soon as their gradient is there.
#[test]
fn a_clip_that_is_not_reached_changes_no_bit() {
    for &(name, case) in CASES {
        for precision in [Precision::F32, Precision::Bf16] {
            let run = |clip_norm| {
                let mut d = declared(case);
                let mut model = model::<f32>(d.layout.clone(), 5);
                let data = data::<f32>(300, 5);
                let mut program = build(&mut d, case);
                let mut executor = Executor::new();
                executor.set_precision(precision);
                for index in 0..3 {
                    let step = Step {
                        index,
                        learning_rate: 0.1,
                        optimizer: Optimizer::Adagrad { epsilon: 1e-2 },
                        clip_norm,
                        trainable: Trainable::Everything,
                    };
                    executor.poison();
                    executor.train_step(&mut model, &mut program, &data.batch(), &step).unwrap();
                }
                let mut state = Vec::new();
                model.write_state(&mut state).unwrap();
                state
            };
            assert!(run(None) == run(Some(1e30)), "{name}, {precision:?}");
        }
    }
}

#[test]
fn ids_outside_the_table_are_an_error() {
    let mut d = declared(CASES[3].1);
    let model = model::<f32>(d.layout.clone(), 1);
    let mut data = data::<f32>(4, 1);
    data.ids[FIELDS] = TABLE_ROWS as u32;
    let mut program = build(&mut d, CASES[3].1);
    let error = Executor::new().forward(&model, &mut program, &data.batch()).unwrap_err();
    assert_eq!(error.to_string(), "table t1 has 9 rows, the batch asks for row 9");
}

#[test]
fn unused_weights_keep_their_bits() {
    let case = CASES[0].1;
    let mut d = declared(case);
    let mut model = model::<f32>(d.layout.clone(), 5);
    let data = data::<f32>(64, 5);
    let mut program = build(&mut d, case);
    // Everything outside the slices becomes NaN: a step that reads it diverges.
    let used: Vec<_> = program.slice_ids().map(|s| program.slice(s)).collect();
    let specs: Vec<_> = d.layout.iter().map(|(id, s)| (id, s.rows, s.cols)).collect();
    for (id, rows, cols) in &specs {
        let slice = used.iter().find(|u| u.0 == *id);
        for r in 0..*rows {
            for c in 0..*cols {
                if slice.is_none_or(|&(_, rows, cols)| r >= rows || c >= cols) {
                    model.params.row_mut(*id, r)[c] = f32::NAN;
                }
            }
        }
    }
    let mut executor = Executor::new();
    for index in 0..3 {
        let step = Step {
            index,
            learning_rate: 0.1,
            optimizer: Optimizer::Adagrad { epsilon: 1e-2 },
            clip_norm: Some(5.0),
            trainable: Trainable::Everything,
        };
        executor.train_step(&mut model, &mut program, &data.batch(), &step).unwrap();
    }
    for (id, rows, cols) in specs {
        let slice = used.iter().find(|u| u.0 == id);
        for r in 0..rows {
            for c in 0..cols {
                let inside = slice.is_some_and(|&(_, rows, cols)| r < rows && c < cols);
                assert_eq!(model.params.row(id, r)[c].is_nan(), !inside);
            }
        }
    }
}
