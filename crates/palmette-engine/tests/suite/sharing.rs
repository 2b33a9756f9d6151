//! Several networks in one program: computed once what they have in common, and bit for bit alike.

use palmette_engine::ops::Pooling;
use palmette_engine::*;

use crate::gradients::{Build, CASES, Declared, data, model};

const DENSE: usize = 7;
const FIELDS: usize = 5;
const DIM: usize = 16;

/// A network of a group: its operators, where its parameters begin, and those of a head of its own.
struct Member {
    case: Build,
    first: usize,
    head: Vec<ParamId>,
    bias: ParamId,
}

/// All cases of the operators, twice, so that every operator occurs in two networks.
struct Group {
    declared: Declared,
    heads: ParamLayout,
    members: Vec<Member>,
}

fn inputs(program: &mut Program) -> (BufferId, BufferId) {
    (program.dense_input(DENSE), program.embedding(0, FIELDS, DIM))
}

fn group() -> Group {
    let (mut declared, mut heads) = (Declared::default(), ParamLayout::default());
    let mut members = Vec::new();
    for (index, &(_, case)) in CASES.iter().chain(CASES).enumerate() {
        let copied = index.checked_sub(CASES.len()).map(|original| &members[original]);
        let first = copied.map_or(declared.next, |original: &Member| original.first);
        declared.next = first;
        let mut program = Program::new();
        let (x, s) = inputs(&mut program);
        let pieces = case(&mut declared, &mut program, x, s);
        let own = |(j, &(buffer, piece)): (usize, &(BufferId, HeadInput))| {
            let (rows, cols) = match program.extent(buffer) {
                Extent::Fields { fields, dim } => (fields, dim),
                _ => (1, program.width(buffer)),
            };
            let init = Init::XavierUniform { fan_in: rows * cols, fan_out: 1 };
            matches!(piece, HeadInput::Weight(_))
                .then(|| heads.matrix(format!("{index}.{j}"), rows, cols, init))
        };
        let head = pieces.iter().enumerate().filter_map(own).collect();
        let bias = heads.vector(format!("{index}.bias"), 1, Init::Constant(0.1));
        members.push(Member { case, first, head, bias });
    }
    Group { declared, heads, members }
}

impl Group {
    /// Adds the operators and the head of one network.
    fn add(&mut self, index: usize, program: &mut Program) {
        let member = &self.members[index];
        self.declared.next = member.first;
        let (x, s) = inputs(program);
        let mut pieces = (member.case)(&mut self.declared, program, x, s);
        let mut own = member.head.iter();
        for (_, piece) in &mut pieces {
            if let HeadInput::Weight(param) = piece {
                *param = *own.next().unwrap();
            }
        }
        program.head(&pieces, Some(member.bias));
    }

    fn program(&mut self, members: &[usize], shared: bool) -> Program {
        let mut program = Program::new();
        if shared {
            program.share();
        }
        members.iter().for_each(|&index| self.add(index, &mut program));
        program
    }
}

fn step(index: u64) -> Step {
    Step {
        index,
        learning_rate: 0.1,
        optimizer: Optimizer::Adagrad { epsilon: 1e-2 },
        clip_norm: Some(0.05),
        trainable: Trainable::Head,
    }
}

type Outcome = (Vec<Result<u64, String>>, Vec<u32>);

fn bits(losses: &Result<f64, EngineError>) -> Result<u64, String> {
    losses.as_ref().map(|loss| loss.to_bits()).map_err(ToString::to_string)
}

/// Losses of steps on the heads of these members, and their logits afterwards.
fn together(
    group: &mut Group,
    members: &[usize],
    rows: usize,
    precision: Precision,
) -> Vec<Outcome> {
    let model = model::<f32>(group.declared.layout.clone(), 5);
    let mut heads = ParamStore::new(group.heads.clone(), 6, 1).unwrap();
    spoil(group, &mut heads);
    let data = data::<f32>(rows, 5);
    let mut program = group.program(members, true);
    let mut executor = Executor::new();
    executor.set_precision(precision);
    let mut found: Vec<Outcome> = members.iter().map(|_| Default::default()).collect();
    let mut losses: Vec<_> = members.iter().map(|_| Ok(0.0)).collect();
    for index in 0..3 {
        executor.poison();
        executor
            .tune_heads(&model, &mut heads, &mut program, &data.batch(), &step(index), &mut losses)
            .unwrap();
        found.iter_mut().zip(&losses).for_each(|(found, loss)| found.0.push(bits(loss)));
    }
    executor.poison();
    let logits = executor.forward_heads(&model, &heads, &mut program, &data.batch()).unwrap();
    for (found, logits) in found.iter_mut().zip(logits.chunks(rows)) {
        found.1 = logits.iter().map(|z| z.to_bits()).collect();
    }
    found
}

/// The second network's head overflows: it diverges, and no other does.
const SPOILT: usize = 1;

fn spoil(group: &Group, heads: &mut ParamStore<f32>) {
    heads.row_mut(group.members[SPOILT].bias, 0)[0] = f32::INFINITY;
}

/// The same by [`Executor::train_step`] and [`Executor::forward`], the head's parameters in the
/// model: nothing here knows of several heads.
fn alone(group: &mut Group, member: usize, rows: usize, precision: Precision) -> Outcome {
    let mut own = ParamStore::new(group.heads.clone(), 6, 1).unwrap();
    spoil(group, &mut own);
    // The model's parameters keep their numbers, the head's come after them.
    let mut layout = group.declared.layout.clone();
    let Member { case, first, head, bias } = &group.members[member];
    let copies: Vec<(ParamId, ParamId)> = head
        .iter()
        .chain([bias])
        .map(|&id| {
            let spec = own.layout().spec(id);
            (id, layout.matrix(format!("head {id:?}"), spec.rows, spec.cols, spec.init))
        })
        .collect();
    let mut model = model::<f32>(layout, 5);
    for &(from, to) in &copies {
        for r in 0..own.layout().spec(from).rows {
            model.params.row_mut(to, r).copy_from_slice(own.row(from, r));
        }
    }
    group.declared.next = *first;
    let mut program = Program::new();
    let (x, s) = inputs(&mut program);
    let mut pieces = case(&mut group.declared, &mut program, x, s);
    let mut ids = copies.iter().map(|copy| copy.1);
    for (_, piece) in &mut pieces {
        if let HeadInput::Weight(param) = piece {
            *param = ids.next().unwrap();
        }
    }
    program.head(&pieces, ids.next());
    let data = data::<f32>(rows, 5);
    let mut executor = Executor::new();
    executor.set_precision(precision);
    let mut losses = Vec::new();
    for index in 0..3 {
        let loss = executor.train_step(&mut model, &mut program, &data.batch(), &step(index));
        losses.push(bits(&loss));
        if loss.is_err() {
            // A group leaves a head alone once it diverged.
            losses.resize(3, bits(&loss));
            break;
        }
    }
    let logits = executor.forward(&model, &mut program, &data.batch()).unwrap();
    (losses, logits.iter().map(|z| z.to_bits()).collect())
}

#[test]
fn a_group_gives_each_member_the_bits_that_it_has_alone() {
    let mut group = group();
    let all: Vec<usize> = (0..group.members.len()).collect();
    // One chunk, three, and more rows than the panels of a chunk.
    for (rows, precision) in [(37, Precision::F32), (300, Precision::F32), (300, Precision::Bf16)] {
        let expect: Vec<Outcome> =
            all.iter().map(|&member| alone(&mut group, member, rows, precision)).collect();
        assert!(expect[0].0.windows(2).all(|w| w[0] != w[1]), "the loss does not move");
        assert!(expect.iter().enumerate().all(|(i, e)| e.0[2].is_err() == (i == SPOILT)));
        let backwards: Vec<usize> = all.iter().rev().copied().collect();
        for members in [&all, &backwards, &vec![3], &vec![4, SPOILT, 0, 9]] {
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let found = pool.install(|| together(&mut group, members, rows, precision));
                for (&member, found) in members.iter().zip(&found) {
                    let name = CASES[member % CASES.len()].0;
                    assert!(
                        *found == expect[member],
                        "{name}, {rows} rows, {precision:?}, {threads} threads, in {members:?}"
                    );
                }
            }
        }
    }
}

/// The second copy of a network adds its head and nothing else.
#[test]
fn what_is_equal_is_computed_once() {
    let mut group = group();
    for (index, (name, _)) in CASES.iter().enumerate() {
        let one = group.program(&[index], true);
        let plain = group.program(&[index], false);
        let two = group.program(&[index, index + CASES.len()], true);
        assert_eq!(two.ops().len(), one.ops().len() + 1, "{name}");
        let head = one.ops().last().unwrap().macs(&one);
        assert_eq!(two.macs(), one.macs() + head, "{name}");
        let held = |program: &Program| program.footprint(300, 2).values;
        assert!(held(&two) < held(&one) + 300 * 80, "{name}: only logits are added");
        assert!(one.macs() <= plain.macs() && held(&one) <= held(&plain), "{name}");
    }
}

/// Operators that differ in one option, weight, shape or input are two operators.
#[test]
fn what_differs_is_not_shared() {
    let mut layout = ParamLayout::default();
    let init = Init::Constant(1.0);
    let w: Vec<ParamId> = (0..6).map(|i| layout.matrix(format!("w{i}"), 64, 64, init)).collect();
    let mut program = Program::new();
    program.share();
    let p = &mut program;
    let (x, s) = inputs(p);
    let (t, l) = (p.embedding(1, FIELDS, DIM), p.jagged_embedding(0, 0, DIM));
    let rows16 = p.linear(&[(x, w[0])], 16, Epilogue::default());
    let bias = |bias| Epilogue { bias, ..Epilogue::default() };
    let norm = |scale, shift| Epilogue { norm: Some((scale, shift)), ..Epilogue::default() };
    let relu = Epilogue { relu: true, ..Epilogue::default() };
    let twice: Vec<Vec<BufferId>> = (0..2)
        .map(|_| {
            vec![
                x,
                s,
                t,
                l,
                rows16,
                p.dense_input(DENSE - 1),
                p.embedding(0, FIELDS, 8),
                p.jagged_embedding(0, 1, DIM),
                p.jagged_embedding(1, 0, DIM),
                p.pool(l, Pooling::Sum),
                p.pool(l, Pooling::Mean),
                p.pool(l, Pooling::Max),
                p.jagged_attention([l, l, l], 2, false),
                p.jagged_attention([l, l, l], 2, true),
                p.jagged_attention([l, l, l], 4, true),
                p.target_attention(s, l, l, 2),
                p.target_attention(s, l, l, 4),
                p.linear(&[(x, w[0])], 12, Epilogue::default()),
                p.linear(&[(x, w[1])], 12, Epilogue::default()),
                p.linear(&[(x, w[0]), (x, w[1])], 12, Epilogue::default()),
                p.linear(&[(x, w[1]), (x, w[0])], 12, Epilogue::default()),
                p.linear(&[(x, w[0])], 12, relu),
                p.linear(&[(x, w[0])], 12, bias(Some(w[2]))),
                p.linear(&[(x, w[0])], 12, bias(Some(w[3]))),
                p.linear(&[(x, w[0])], 12, norm(w[2], w[3])),
                p.linear(&[(x, w[0])], 12, norm(w[3], w[2])),
                p.field_mix(&[(s, w[0])], 4, Epilogue::default()),
                p.field_mix(&[(t, w[0])], 4, Epilogue::default()),
                p.field_mix(&[(s, w[0])], 4, relu),
                p.field_mix(&[(s, w[0])], 3, Epilogue::default()),
                p.row_map(s, w[0], DIM, None, false),
                p.row_map(s, w[0], DIM, None, true),
                p.row_map(s, w[0], DIM, Some(w[1]), false),
                p.gram(None, &[s]),
                p.gram(Some(rows16), &[s]),
                p.gram(None, &[s, s]),
                p.gate(x, rows16, 16),
                p.gate(x, rows16, 20),
                p.gate(rows16, x, 16),
                p.add(&[s, t], false),
                p.add(&[t, s], false),
                p.add(&[s, t], true),
                p.multiply(s, t),
                p.attention(s, s, t, 2),
                p.attention(s, s, t, 4),
                p.attention(s, t, s, 4),
                p.add_norm(s, t, w[2], w[3]),
                p.add_norm(s, t, w[3], w[2]),
                p.fields_from_rows(rows16, 8),
                p.fields_from_rows(rows16, 4),
                p.rows_from_fields(s),
                p.factorization_machine(&[s]),
                p.factorization_machine(&[s, t]),
                p.field_sums(s),
                p.outer(s, t),
                p.outer(t, s),
                p.zero_rows(4),
                p.zero_fields(4, 4),
                p.zero_fields(4, 8),
            ]
        })
        .collect();
    assert_eq!(twice[0], twice[1], "equal operators are found again");
    for (i, a) in twice[0].iter().enumerate() {
        assert!(twice[0][..i].iter().all(|b| b != a), "operator {i} was taken for another");
    }
    assert_eq!(program.ops().len(), twice[0].len());
    program.clear();
    assert_ne!(program.dense_input(DENSE), program.dense_input(DENSE), "until it is cleared");
}

#[test]
fn several_heads_have_no_single_loss() {
    let mut group = group();
    let mut model = model::<f32>(group.declared.layout.clone(), 5);
    let mut heads = ParamStore::new(group.heads.clone(), 6, 0).unwrap();
    let data = data::<f32>(8, 5);
    let batch = data.batch();
    let mut program = group.program(&[0, 1], true);
    let mut executor = Executor::new();
    let unfit = |outcome: Result<(), EngineError>, expect: &str| {
        let message = outcome.unwrap_err().to_string();
        assert!(message.contains(expect), "{message}");
    };
    unfit(executor.forward(&model, &mut program, &batch).map(drop), "2 heads, not one");
    unfit(executor.train_step(&mut model, &mut program, &batch, &step(0)).map(drop), "2 heads");
    let everything = Trainable::Everything;
    let outcome = executor.gradients(&model, &mut program, &batch, everything).map(drop);
    unfit(outcome, "2 heads");
    let tune = |executor: &mut Executor<f32>, heads: &mut ParamStore<f32>, program: &mut _, n| {
        let mut losses: Vec<_> = (0..n).map(|_| Ok(0.0)).collect();
        executor.tune_heads(&model, heads, program, &batch, &step(0), &mut losses)
    };
    unfit(tune(&mut executor, &mut heads, &mut program, 2), "keeps 1 numbers");
    let mut heads = ParamStore::new(group.heads.clone(), 6, 1).unwrap();
    unfit(tune(&mut executor, &mut heads, &mut program, 3), "2 heads, and 3 losses");
    let mut twice = group.program(&[0, 0], true);
    unfit(tune(&mut executor, &mut heads, &mut twice, 2), "occurs twice");
    let mut none = ParamStore::new(ParamLayout::default(), 6, 1).unwrap();
    unfit(tune(&mut executor, &mut none, &mut program, 2), "the model has 0");
    assert!(tune(&mut executor, &mut heads, &mut program, 2).is_ok());
}
