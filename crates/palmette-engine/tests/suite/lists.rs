//! Operators over lists: gradients against central differences in f64, forward against the
//! plainest code, the same bits for any number of threads, and what is refused.

use palmette_engine::ops::Pooling;
use palmette_engine::*;
use palmette_random::{Draw, stream};

use crate::differences::{Elements, check_gradients};

const DIM: usize = 16;
const TABLE_ROWS: usize = 11;
/// Two fields; list 0 shares the table of field 0, list 1 has table 2.
const TABLES: [usize; 2] = [0, 2];

struct Data {
    rows: usize,
    ids: Vec<u32>,
    labels: Vec<f32>,
    offsets: [Vec<usize>; 2],
    values: [Vec<u32>; 2],
}

/// Lengths around those where tiles end, and empty rows.
fn data(rows: usize, seed: u64) -> Data {
    let mut rng = stream(seed, "test/lists", rows as u64);
    let lengths = [0, 1, 2, 3, 5, 31, 32, 33, 65];
    let mut lists = [(); 2].map(|()| (vec![0], Vec::new()));
    for (offsets, values) in &mut lists {
        for row in 0..rows {
            // long rows are few: each costs its square
            let longest = if row % 16 == 0 { lengths.len() } else { 5 };
            let length = lengths[rng.below(longest as u64) as usize];
            values.extend((0..length).map(|_| rng.below(TABLE_ROWS as u64) as u32));
            offsets.push(values.len());
        }
    }
    let [(first, a), (second, b)] = lists;
    Data {
        rows,
        ids: (0..2 * rows).map(|_| rng.below(TABLE_ROWS as u64) as u32).collect(),
        labels: (0..rows).map(|_| rng.below(2) as f32).collect(),
        offsets: [first, second],
        values: [a, b],
    }
}

impl Data {
    fn lists(&self) -> [JaggedIds<'_>; 2] {
        [0, 1].map(|i| JaggedIds { offsets: &self.offsets[i], ids: &self.values[i] })
    }

    fn batch<'a, T>(&'a self, lists: &'a [JaggedIds<'a>]) -> Batch<'a, T> {
        let (ids, labels) = (&self.ids, &self.labels);
        Batch { rows: self.rows, dense: &[], ids, labels, weights: &[], lists }
    }
}

/// The parameters of a network under test, in the order of their use.
struct Parts {
    layout: ParamLayout,
    ids: Vec<ParamId>,
    next: usize,
}

impl Parts {
    fn matrix(&mut self, rows: usize, cols: usize) -> ParamId {
        if self.next == self.ids.len() {
            let init = Init::XavierUniform { fan_in: cols, fan_out: rows };
            self.ids.push(self.layout.matrix(format!("p{}", self.next), rows, cols, init));
        }
        self.next += 1;
        self.ids[self.next - 1]
    }

    fn mapped(&mut self, program: &mut Program, x: BufferId, relu: bool) -> BufferId {
        let (weight, bias) = (self.matrix(DIM, DIM), self.matrix(1, DIM));
        program.row_map(x, weight, DIM, Some(bias), relu)
    }
}

/// Buffers: the fields, and the two lists.
type Build = fn(&mut Parts, &mut Program, BufferId, [BufferId; 2]) -> Vec<BufferId>;

const CASES: &[(&str, Build)] = &[
    ("bags", |_, p, fields, [a, b]| {
        let sum = p.pool(a, Pooling::Sum);
        let mean = p.pool(b, Pooling::Mean);
        let max = p.pool(b, Pooling::Max);
        let own = p.pool(a, Pooling::Max);
        vec![fields, sum, mean, max, own]
    }),
    ("targets that look at a list", |_, p, fields, [a, b]| {
        let one = p.target_attention(fields, a, a, 1);
        let two = p.target_attention(fields, b, b, 2);
        vec![one, two]
    }),
    ("targets, keys and values of their own", |d, p, fields, [a, _]| {
        let (q, k, v) = (d.mapped(p, fields, false), d.mapped(p, a, false), d.mapped(p, a, true));
        let found = p.target_attention(q, k, v, 4);
        let twice = p.target_attention(found, k, v, 1);
        vec![found, twice]
    }),
    ("a transformer over a history", |d, p, fields, [a, _]| {
        let [q, k, v] = [(); 3].map(|()| d.mapped(p, a, false));
        let mixed = p.jagged_attention([q, k, v], 2, false);
        let out = d.mapped(p, mixed, false);
        let (scale, shift) = (d.matrix(1, DIM), d.matrix(1, DIM));
        let h = p.add_norm(a, out, scale, shift);
        let f = d.mapped(p, h, true);
        let sum = p.add(&[h, f], false);
        let pooled = p.pool(sum, Pooling::Mean);
        let seen = p.target_attention(fields, h, f, 2);
        vec![pooled, seen]
    }),
    ("causal attention of a list to itself", |_, p, _, [a, b]| {
        let own = p.jagged_attention([a, a, a], 1, true);
        let other = p.jagged_attention([b, b, b], 8, true);
        let product = p.multiply(a, own);
        let pooled = [own, other, product, b].map(|x| p.pool(x, Pooling::Sum));
        pooled.to_vec()
    }),
];

fn parts() -> Parts {
    Parts { layout: ParamLayout::default(), ids: Vec::new(), next: 0 }
}

fn build(parts: &mut Parts, case: Build) -> Program {
    parts.next = 0;
    let mut program = Program::new();
    let fields = program.embedding(0, 2, DIM);
    let lists = [0, 1].map(|list| program.jagged_embedding(list, TABLES[list], DIM));
    let outputs = case(parts, &mut program, fields, lists);
    let heads: Vec<_> = outputs
        .into_iter()
        .map(|buffer| {
            let weight = parts.matrix(program.width(buffer), DIM);
            (buffer, HeadInput::Weight(weight))
        })
        .collect();
    program.head(&heads, None);
    program
}

fn model<T: Real>(layout: &ParamLayout, seed: u64) -> Model<T> {
    let table = |i| TableSpec { name: format!("t{i}"), rows: TABLE_ROWS, dim: DIM };
    Model {
        params: ParamStore::new(layout.clone(), seed, 1).unwrap(),
        tables: Tables::new((0..3).map(table).collect(), 1, seed).unwrap(),
    }
}

#[test]
fn gradients_over_lists_equal_central_differences() {
    for (seed, &(name, case)) in CASES.iter().enumerate() {
        let seed = seed as u64;
        let mut parts = parts();
        build(&mut parts, case);
        let mut model = model::<f64>(&parts.layout, seed);
        for rows in [7, 133] {
            let data = data(rows, seed);
            let lists = data.lists();
            let batch = data.batch::<f64>(&lists);
            let mut program = build(&mut parts, case);
            let tables = check_gradients(
                &format!("{name}, {rows} rows"),
                &mut model,
                &mut program,
                &batch,
                Elements { of_slices: 4, of_tables: 6 },
                &mut stream(seed, "test/list-elements", rows as u64),
            );
            assert!(tables.iter().any(|table| TABLES.contains(table)));
        }
    }
}

/// Attention of queries over keys and values, all `[n][DIM]`, by the plainest code.
fn attend(q: &[f64], keys: &[&[f64]], values: &[&[f64]], heads: usize) -> Vec<f64> {
    let width = DIM / heads;
    let mut out = vec![0.0; DIM];
    for head in 0..heads {
        let part = head * width..(head + 1) * width;
        let score = |k: &&[f64]| -> f64 {
            let products = q[part.clone()].iter().zip(&k[part.clone()]).map(|(q, k)| q * k);
            products.sum::<f64>() / (width as f64).sqrt()
        };
        let weights: Vec<f64> = keys.iter().map(|k| score(k).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (weight, v) in weights.iter().zip(values) {
            for c in part.clone() {
                out[c] += weight / total * v[c];
            }
        }
    }
    out
}

#[test]
fn forward_over_lists_is_what_the_formulas_say() {
    let data = data(133, 17);
    let lists = data.lists();
    let model = model::<f64>(&ParamLayout::default(), 3);
    let table = |t: usize, id: u32| model.tables.table(t).row(id as usize);
    type Reference<'a> = Box<dyn Fn(usize, &[&[f64]]) -> Vec<f64> + 'a>;
    type Step = fn(&mut Program, BufferId, BufferId) -> BufferId;
    let sums = |rows: &[Vec<f64>]| -> Vec<f64> {
        (0..DIM).map(|c| rows.iter().map(|row| row[c]).sum()).collect()
    };
    let target = |row: usize| table(0, data.ids[row]);
    let cases: [(&str, Step, Reference); 5] = [
        (
            "mean",
            |p, _, list| p.pool(list, Pooling::Mean),
            Box::new(|_, x| {
                let n = x.len().max(1) as f64;
                (0..DIM).map(|c| x.iter().map(|x| x[c]).sum::<f64>() / n).collect()
            }),
        ),
        (
            "max",
            |p, _, list| p.pool(list, Pooling::Max),
            Box::new(|_, x| {
                let largest = |c: usize| x.iter().map(|x| x[c]).reduce(f64::max).unwrap_or(0.0);
                (0..DIM).map(largest).collect()
            }),
        ),
        (
            "target",
            |p, field, list| p.target_attention(field, list, list, 2),
            Box::new(|row, x| attend(target(row), x, x, 2)),
        ),
        (
            "full",
            |p, _, list| {
                let y = p.jagged_attention([list, list, list], 4, false);
                p.pool(y, Pooling::Sum)
            },
            Box::new(|_, x| sums(&x.iter().map(|q| attend(q, x, x, 4)).collect::<Vec<_>>())),
        ),
        (
            "causal",
            |p, _, list| {
                let y = p.jagged_attention([list, list, list], 1, true);
                p.pool(y, Pooling::Sum)
            },
            Box::new(|_, x| {
                let seen = |i: usize| attend(x[i], &x[..=i], &x[..=i], 1);
                sums(&(0..x.len()).map(seen).collect::<Vec<_>>())
            }),
        ),
    ];
    for (name, step, reference) in cases {
        let mut program = Program::new();
        let field = program.embedding(0, 1, DIM);
        let list = program.jagged_embedding(1, 2, DIM);
        let out = step(&mut program, field, list);
        program.head(&[(out, HeadInput::Constant(1.0))], None);
        let mut executor = Executor::new();
        let batch = data.batch(&lists);
        executor.forward(&model, &mut program, &batch).unwrap();
        executor.poison();
        let logits = executor.forward(&model, &mut program, &batch).unwrap();
        for (row, &logit) in logits.iter().enumerate() {
            let values = &data.values[1][data.offsets[1][row]..data.offsets[1][row + 1]];
            let x: Vec<&[f64]> = values.iter().map(|&id| table(2, id)).collect();
            let expect: f64 = reference(row, &x).iter().sum();
            assert!((logit - expect).abs() < 1e-10, "{name}, row {row}: {logit} against {expect}");
        }
    }
}

#[test]
fn lists_give_the_same_bits_with_any_threads_and_f32_follows_f64() {
    for (seed, &(name, case)) in CASES.iter().enumerate() {
        let data = data(700, seed as u64);
        let lists = data.lists();
        let mut parts = parts();
        build(&mut parts, case);
        let run = |threads: usize| {
            let mut parts = self::parts();
            let mut program = build(&mut parts, case);
            let mut model = model::<f32>(&parts.layout, 5);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut executor = Executor::new();
                let batch = data.batch::<f32>(&lists);
                for index in 0..3 {
                    let step = Step {
                        index,
                        learning_rate: 0.1,
                        optimizer: Optimizer::Adagrad { epsilon: 1e-2 },
                        clip_norm: Some(0.5),
                        trainable: Trainable::Everything,
                    };
                    executor.poison();
                    executor.train_step(&mut model, &mut program, &batch, &step).unwrap();
                }
                let logits = executor.forward(&model, &mut program, &batch).unwrap();
                logits.iter().map(|z| z.to_bits()).collect::<Vec<_>>()
            })
        };
        let one = run(1);
        for threads in [2, 5] {
            assert!(run(threads) == one, "{name}: {threads} threads differ from one");
        }
        let mut program = build(&mut parts, case);
        let wide = model::<f64>(&parts.layout, 5);
        let narrow = model::<f32>(&parts.layout, 5);
        let exact =
            Executor::new().forward(&wide, &mut program, &data.batch(&lists)).unwrap().to_vec();
        let close =
            Executor::new().forward(&narrow, &mut program, &data.batch(&lists)).unwrap().to_vec();
        for (a, b) in exact.iter().zip(&close) {
            assert!((a - f64::from(*b)).abs() < 2e-5 * (1.0 + a.abs()), "{name}: {a} {b}");
        }
    }
}

#[test]
fn lists_that_do_not_fit_are_refused() {
    let data = data(9, 2);
    let good = data.lists();
    let refusal = |lists: &[JaggedIds<'_>]| {
        let mut parts = parts();
        let mut program = build(&mut parts, CASES[0].1);
        let model = model::<f32>(&parts.layout, 1);
        let (mut executor, batch) = (Executor::new(), data.batch(lists));
        let result = executor.forward(&model, &mut program, &batch);
        result.map_or_else(|error| error.to_string(), |_| "ran".into())
    };
    let check = |lists: &[JaggedIds<'_>], expect: &str| {
        let message = refusal(lists);
        assert!(message.contains(expect), "{message:?} lacks {expect:?}");
    };
    check(&good, "ran");
    check(&good[..1], "reads list 1, the batch has 1");
    let offsets =
        |offsets: &'static [usize], ids: &'static [u32]| [good[0], JaggedIds { offsets, ids }];
    check(&offsets(&[0; 9], &[]), "9 rows has 9 offsets of a list, the program reads 10");
    check(&offsets(&[0, 2, 1, 2, 2, 2, 2, 2, 2, 2], &[1, 2]), "list 1 do not rise from 0");
    check(&offsets(&[1; 10], &[1]), "list 1 do not rise from 0");
    check(&offsets(&[0; 10], &[1]), "do not rise from 0 to its 1 values");
    check(&offsets(&[0, 1, 1, 1, 1, 1, 1, 1, 1, 1], &[11]), "table t2 has 11 rows");
    check(&offsets(&[0; 10], &[]), "ran");
}

#[test]
fn operators_refuse_lists_where_they_need_rows() {
    type Build = fn(&mut Program, BufferId, [BufferId; 2]);
    let cases: &[(&str, Build)] = &[
        ("head", |p, _, [a, _]| {
            let _ = p.head(&[(a, HeadInput::Constant(1.0))], None);
        }),
        ("sum of two lists", |p, _, [a, b]| {
            let _ = p.add(&[a, b], false);
        }),
        ("flattening", |p, _, [a, _]| {
            let _ = p.rows_from_fields(a);
        }),
        ("attention over fields", |p, _, [a, _]| {
            let _ = p.attention(a, a, a, 1);
        }),
        ("pool of fields", |p, e, _| {
            let _ = p.pool(e, Pooling::Sum);
        }),
        ("target of two lists", |p, e, [a, b]| {
            let _ = p.target_attention(e, a, b, 1);
        }),
        ("heads that do not divide", |p, e, [a, _]| {
            let _ = p.target_attention(e, a, a, 3);
        }),
        ("attention between lists", |p, _, [a, b]| {
            let _ = p.jagged_attention([a, b, b], 1, false);
        }),
        ("gram", |p, _, [a, _]| {
            let _ = p.gram(None, &[a]);
        }),
    ];
    std::panic::set_hook(Box::new(|_| {}));
    let accepted: Vec<_> = cases
        .iter()
        .filter(|(_, build)| {
            let mut program = Program::new();
            let fields = program.embedding(0, 2, DIM);
            let lists = [0, 1].map(|list| program.jagged_embedding(list, list, DIM));
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                build(&mut program, fields, lists);
            }))
            .is_ok()
        })
        .map(|(name, _)| name)
        .collect();
    let _ = std::panic::take_hook();
    assert!(accepted.is_empty(), "accepted: {accepted:?}");
}
