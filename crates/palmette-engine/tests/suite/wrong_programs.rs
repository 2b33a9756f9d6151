//! Programs, models and batches that do not fit are refused before any kernel reads.

use std::panic::{AssertUnwindSafe, catch_unwind};

use palmette_engine::*;

const OPTIMIZER: Optimizer = Optimizer::Adagrad { epsilon: 1e-2 };

/// Two dense inputs, two tables of five rows and four channels, and parameters of 8 x 8.
fn model() -> (Model<f32>, Vec<ParamId>) {
    let mut layout = ParamLayout::default();
    let ids = (0..6)
        .map(|i| {
            layout.matrix(format!("p{i}"), 8, 8, Init::XavierUniform { fan_in: 8, fan_out: 8 })
        })
        .collect();
    let tables = ["a", "b"].map(|name| TableSpec { name: name.into(), rows: 5, dim: 4 });
    let slots = OPTIMIZER.state_slots();
    let model = Model {
        params: ParamStore::new(layout, 1, slots).unwrap(),
        tables: Tables::new(tables.into(), slots, 1).unwrap(),
    };
    (model, ids)
}

fn batch() -> Batch<'static, f32> {
    Batch {
        rows: 3,
        dense: &[0.5; 6],
        ids: &[0, 1, 4, 4, 2, 0],
        labels: &[0.0, 1.0, 0.0],
        weights: &[],
        lists: &[],
    }
}

fn step(optimizer: Optimizer) -> Step {
    Step {
        index: 0,
        learning_rate: 0.1,
        optimizer,
        clip_norm: None,
        trainable: Trainable::Everything,
    }
}

/// `[rows, 2]` and `[2, rows, 4]`.
fn inputs(program: &mut Program) -> (BufferId, BufferId) {
    (program.dense_input(2), program.embedding(0, 2, 4))
}

#[test]
fn operators_refuse_buffers_of_another_shape() {
    type Build = fn(&mut Program, &[ParamId], BufferId, BufferId);
    let cases: &[(&str, Build)] = &[
        ("sum of rows and fields", |p, _, x, e| {
            let _ = p.add(&[x, e], false);
        }),
        ("sum of unequal fields", |p, _, _, e| {
            let other = p.zero_fields(3, 4);
            p.add(&[e, other], false);
        }),
        ("sum of unequal channels", |p, _, _, e| {
            let other = p.zero_fields(2, 8);
            p.add(&[e, other], true);
        }),
        ("product of unequal widths", |p, _, x, _| {
            let other = p.zero_rows(3);
            p.multiply(x, other);
        }),
        ("linear over fields", |p, w, _, e| {
            let _ = p.linear(&[(e, w[0])], 3, Epilogue::default());
        }),
        ("field mix over rows", |p, w, x, _| {
            let _ = p.field_mix(&[(x, w[0])], 3, Epilogue::default());
        }),
        ("field mix of unequal channels", |p, w, _, e| {
            let other = p.zero_fields(2, 8);
            p.field_mix(&[(e, w[0]), (other, w[1])], 3, Epilogue::default());
        }),
        ("row map of rows", |p, w, x, _| {
            let _ = p.row_map(x, w[0], 4, None, false);
        }),
        ("row map to too many channels", |p, w, _, e| {
            let _ = p.row_map(e, w[0], 65, None, false);
        }),
        ("gram of a vector of another width", |p, _, x, e| {
            let _ = p.gram(Some(x), &[e]);
        }),
        ("gram of unequal channels", |p, _, _, e| {
            let other = p.zero_fields(2, 8);
            p.gram(None, &[e, other]);
        }),
        ("gate of fields", |p, _, x, e| {
            let _ = p.gate(x, e, 2);
        }),
        ("attention of unequal fields", |p, _, _, e| {
            let other = p.zero_fields(3, 4);
            p.attention(e, e, other, 1);
        }),
        ("attention without heads", |p, _, _, e| {
            let _ = p.attention(e, e, e, 0);
        }),
        ("residual norm of unequal fields", |p, w, _, e| {
            let other = p.zero_fields(3, 4);
            p.add_norm(e, other, w[0], w[1]);
        }),
        ("fields from fields", |p, _, _, e| {
            let _ = p.fields_from_rows(e, 4);
        }),
        ("fields from a vector that is no multiple", |p, _, x, _| {
            let _ = p.fields_from_rows(x, 4);
        }),
        ("rows from rows", |p, _, x, _| {
            let _ = p.rows_from_fields(x);
        }),
        ("factorisation machine of unequal channels", |p, _, _, e| {
            let other = p.zero_fields(2, 8);
            p.factorization_machine(&[e, other]);
        }),
        ("sums of rows", |p, _, x, _| {
            let _ = p.field_sums(x);
        }),
        ("outer products of unequal channels", |p, _, _, e| {
            let other = p.zero_fields(2, 8);
            p.outer(e, other);
        }),
        ("embedding without channels", |p, _, _, _| {
            let _ = p.embedding(0, 2, 0);
        }),
        ("list without channels", |p, _, _, _| {
            let _ = p.jagged_embedding(0, 0, 0);
        }),
        ("layer without sources", |p, _, _, _| {
            let _ = p.linear(&[], 8, Epilogue::default());
        }),
        ("nine inputs of the head", |p, _, x, _| {
            let _ = p.head(&[(x, HeadInput::Constant(1.0)); 9], None);
        }),
    ];
    let (_, weights) = model();
    std::panic::set_hook(Box::new(|_| {}));
    let accepted: Vec<_> = cases
        .iter()
        .filter(|(_, build)| {
            let mut program = Program::new();
            let (x, e) = inputs(&mut program);
            catch_unwind(AssertUnwindSafe(|| build(&mut program, &weights, x, e))).is_ok()
        })
        .map(|(name, _)| name)
        .collect();
    let _ = std::panic::take_hook();
    assert!(accepted.is_empty(), "accepted: {accepted:?}");
}

/// What training says of a program over `model()`'s parameters.
fn refusal(build: impl Fn(&mut Program, &[ParamId]), batch: &Batch<'_, f32>) -> String {
    let (mut model, weights) = model();
    let mut program = Program::new();
    build(&mut program, &weights);
    let before: Vec<_> = weights.iter().map(|&w| model.params.row(w, 0).to_vec()).collect();
    let mut executor = Executor::new();
    let result = executor.train_step(&mut model, &mut program, batch, &step(OPTIMIZER));
    let after: Vec<_> = weights.iter().map(|&w| model.params.row(w, 0).to_vec()).collect();
    assert!(result.is_ok() || before == after, "a refused step moves nothing");
    result.map_or_else(|error| error.to_string(), |_| "trained".into())
}

fn network(program: &mut Program, weights: &[ParamId]) {
    let (x, e) = inputs(program);
    let y = program.linear(&[(x, weights[0])], 8, Epilogue::default());
    program.head(&[(y, HeadInput::Weight(weights[1])), (e, HeadInput::Weight(weights[2]))], None);
}

#[test]
fn models_refuse_programs_of_another_layout() {
    let check = |build: fn(&mut Program, &[ParamId]), expect: &str| {
        let message = refusal(build, &batch());
        assert!(message.contains(expect), "{message:?} lacks {expect:?}");
    };
    check(network, "trained");
    check(
        |p, w| {
            let (x, _) = inputs(p);
            let y = p.linear(&[(x, w[0])], 9, Epilogue::default());
            p.head(&[(y, HeadInput::Weight(w[1]))], None);
        },
        "reads 9 x 2 of parameter p0, which is 8 x 8",
    );
    check(
        |p, w| {
            let mut other = ParamLayout::default();
            let last = (0..9).map(|i| other.matrix(format!("o{i}"), 1, 1, Init::Constant(0.0)));
            let last = last.last().unwrap();
            let (x, _) = inputs(p);
            let y = p.linear(&[(x, w[0])], 8, Epilogue::default());
            p.head(&[(y, HeadInput::Weight(w[1]))], Some(last));
        },
        "reads parameter 8, the model has 6",
    );
    check(
        |p, w| {
            let x = p.dense_input(2);
            let y = p.linear(&[(x, w[0])], 2, Epilogue::default());
            let z = p.linear(&[(y, w[0])], 2, Epilogue::default());
            p.head(&[(z, HeadInput::Weight(w[1]))], None);
        },
        "parameter 0 occurs twice",
    );
    check(
        |p, w| {
            let (a, b) = (p.embedding(0, 2, 4), p.embedding(1, 1, 4));
            p.head(&[(a, HeadInput::Weight(w[0])), (b, HeadInput::Weight(w[1]))], None);
        },
        "table 1 occurs twice",
    );
    check(
        |p, w| {
            let e = p.embedding(1, 2, 4);
            p.head(&[(e, HeadInput::Weight(w[0]))], None);
        },
        "reads table 2, the model has 2",
    );
    check(
        |p, w| {
            let e = p.embedding(0, 2, 8);
            p.head(&[(e, HeadInput::Weight(w[0]))], None);
        },
        "reads 8 channels of table a, which has 4",
    );
    check(
        |p, w| {
            let (x, _) = inputs(p);
            let y = p.linear(&[(x, w[0])], 8, Epilogue::default());
            let _unread = p.linear(&[(y, w[1])], 8, Epilogue::default());
            p.head(&[(y, HeadInput::Weight(w[2]))], None);
        },
        "nothing reads what operator 3 computes",
    );
    check(
        |p, w| {
            let (x, _) = inputs(p);
            let wide = p.zero_rows(1 << 25);
            p.add(&[x, wide], false);

            p.head(&[(x, HeadInput::Weight(w[0]))], None);
        },
        "have no address",
    );
}

#[test]
fn batches_of_another_shape_are_refused() {
    let check = |batch: Batch<'_, f32>, expect: &str| {
        let message = refusal(network, &batch);
        assert!(message.contains(expect), "{message:?} lacks {expect:?}");
    };
    check(Batch { dense: &[0.5; 5], ..batch() }, "3 rows has 5 dense values, the program reads 6");
    check(Batch { ids: &[0; 5], ..batch() }, "3 rows has 5 ids, the program reads 6");
    check(Batch { labels: &[0.0; 2], ..batch() }, "3 rows has 2 labels, the program reads 3");
    check(Batch { weights: &[1.0; 4], ..batch() }, "3 rows has 4 weights, the program reads 3");
    check(Batch { ids: &[0, 1, 5, 4, 2, 0], ..batch() }, "table a has 5 rows");
    check(
        Batch { rows: 0, dense: &[], ids: &[], labels: &[], weights: &[], lists: &[] },
        "loss is not finite",
    );
}

#[test]
fn an_optimiser_without_its_state_is_refused() {
    let (mut model, weights) = model();
    let mut program = Program::new();
    network(&mut program, &weights);
    let adam = Optimizer::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
    let result = Executor::new().train_step(&mut model, &mut program, &batch(), &step(adam));
    assert!(result.unwrap_err().to_string().contains("2 numbers beside each weight"));
}

#[test]
fn a_program_that_grew_after_it_was_placed_is_placed_again() {
    let (model, weights) = model();
    let mut executor = Executor::new();
    let mut program = Program::new();
    let x = program.dense_input(2);
    program.place(3).unwrap();
    let y = program.linear(&[(x, weights[0])], 8, Epilogue::default());
    program.head(&[(y, HeadInput::Weight(weights[1]))], None);
    let grown = executor.forward(&model, &mut program, &batch()).unwrap().to_vec();
    let mut fresh = Program::new();
    let x = fresh.dense_input(2);
    let y = fresh.linear(&[(x, weights[0])], 8, Epilogue::default());
    fresh.head(&[(y, HeadInput::Weight(weights[1]))], None);
    assert_eq!(grown, executor.forward(&model, &mut fresh, &batch()).unwrap());
    assert!(grown.iter().any(|&z| z != 0.0));
}

/// An input that is not a number makes a logit that is none, through every ReLU.
#[test]
fn no_relu_hides_what_is_not_a_number() {
    type Build = fn(&mut Program, &[ParamId], BufferId) -> BufferId;
    let cases: &[(&str, Build)] = &[
        ("sum", |p, _, x| p.add(&[x, x], true)),
        ("linear", |p, w, x| {
            p.linear(&[(x, w[0])], 8, Epilogue { relu: true, ..Epilogue::default() })
        }),
        ("row map", |p, w, x| {
            let fields = p.fields_from_rows(x, 2);
            p.row_map(fields, w[0], 3, None, true)
        }),
        ("field mix", |p, w, x| {
            let fields = p.fields_from_rows(x, 2);
            p.field_mix(&[(fields, w[0])], 3, Epilogue { relu: true, ..Epilogue::default() })
        }),
    ];
    let (model, weights) = model();
    for (name, build) in cases {
        let mut program = Program::new();
        let x = program.dense_input(2);
        let y = build(&mut program, &weights, x);
        program.head(&[(y, HeadInput::Constant(1.0))], None);
        let batch = Batch { dense: &[0.5, 0.5, f32::NAN, f32::NAN, 0.5, 0.5], ..batch() };
        let logits = Executor::new().forward(&model, &mut program, &batch).unwrap().to_vec();
        assert_eq!([0, 1, 2].map(|r| logits[r].is_nan()), [false, true, false], "{name}");
    }
}
