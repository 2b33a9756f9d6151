//! Whether a program, a model and a batch belong together.
//!
//! Kernels read weights, tables and the batch through pointers; whatever a
//! caller could get wrong with safe code is refused here, before the first of
//! them runs. The checks allocate nothing and cost a few microseconds a step.

use crate::executor::{Batch, Model, Trainable};
use crate::ops::{Embedding, JaggedEmbedding, Op};
use crate::optimizer::Optimizer;
use crate::params::ParamStore;
use crate::program::Program;
use crate::{EngineError, Real};

/// Fails unless every weight slice, those of heads in `heads`, table and array that `program` reads
/// exists.
pub(crate) fn check_forward<T: Real>(
    model: &Model<T>,
    heads: &ParamStore<T>,
    program: &Program,
    batch: &Batch<'_, T>,
) -> Result<(), EngineError> {
    if program.is_shared() && !batch.lists.is_empty() {
        return Err(EngineError::Unfit("a shared program reads no lists".into()));
    }
    let mut of_heads = program.heads().map(|head| head.slices.range()).peekable();
    for (place, slice) in program.slices.iter().enumerate() {
        while of_heads.next_if(|range| range.end <= place).is_some() {}
        let is_head = of_heads.peek().is_some_and(|range| range.start <= place);
        let layout = if is_head { heads.layout() } else { model.params.layout() };
        let (index, count) = (slice.param.0 as usize, layout.iter().len());
        if index >= count {
            let reason = format!("the program reads parameter {index}, the model has {count}");
            return Err(EngineError::Unfit(reason));
        }
        let spec = layout.spec(slice.param);
        if slice.rows > spec.rows || slice.cols > spec.cols {
            return Err(EngineError::Unfit(format!(
                "the program reads {} x {} of parameter {}, which is {} x {}",
                slice.rows, slice.cols, spec.name, spec.rows, spec.cols
            )));
        }
    }
    if batch.rows > u32::MAX as usize {
        return Err(EngineError::Unfit(format!("a batch of {} rows is too large", batch.rows)));
    }
    for op in &program.ops {
        match op {
            Op::DenseInput(op) => {
                let expected = batch.rows * program.width(op.out);
                check_length(batch, "dense values", expected, batch.dense.len())?;
            }
            Op::Embedding(op) => check_ids(model, program, batch, op)?,
            Op::JaggedEmbedding(op) => check_list(model, batch, op)?,
            _ => {}
        }
    }
    Ok(())
}

fn check_length<T>(
    batch: &Batch<'_, T>,
    what: &'static str,
    expected: usize,
    found: usize,
) -> Result<(), EngineError> {
    if found == expected {
        return Ok(());
    }
    Err(EngineError::Batch { what, rows: batch.rows, expected, found })
}

fn check_ids<T: Real>(
    model: &Model<T>,
    program: &Program,
    batch: &Batch<'_, T>,
    op: &Embedding,
) -> Result<(), EngineError> {
    let fields = program.width(op.out);
    let expected = batch.rows * fields;
    if batch.ids.len() < expected {
        check_length(batch, "ids", expected, batch.ids.len())?;
    }
    for f in 0..fields {
        let (index, count) = (op.first_table + f, model.tables.len());
        if index >= count {
            let reason = format!("the program reads table {index}, the model has {count}");
            return Err(EngineError::Unfit(reason));
        }
        let spec = model.tables.table(index).spec();
        if spec.dim != op.dim {
            return Err(EngineError::Unfit(format!(
                "the program reads {} channels of table {}, which has {}",
                op.dim, spec.name, spec.dim
            )));
        }
        let ids = &batch.ids[f * batch.rows..(f + 1) * batch.rows];
        if let Some(row) = ids.iter().position(|&id| id as usize >= spec.rows) {
            return Err(EngineError::RowOutOfRange {
                table: spec.name.clone(),
                id: ids[row],
                rows: spec.rows,
            });
        }
    }
    Ok(())
}

fn check_list<T: Real>(
    model: &Model<T>,
    batch: &Batch<'_, T>,
    op: &JaggedEmbedding,
) -> Result<(), EngineError> {
    let unfit = |reason: String| Err(EngineError::Unfit(reason));
    let Some(list) = batch.lists.get(op.list) else {
        let (list, count) = (op.list, batch.lists.len());
        return unfit(format!("the program reads list {list}, the batch has {count}"));
    };
    check_length(batch, "offsets of a list", batch.rows + 1, list.offsets.len())?;
    let rising = list.offsets.is_sorted() && list.offsets.first() == Some(&0);
    if !rising || list.offsets.last() != Some(&list.ids.len()) || list.ids.len() > u32::MAX as usize
    {
        return unfit(format!(
            "the offsets of list {} do not rise from 0 to its {} values",
            op.list,
            list.ids.len()
        ));
    }
    if op.table >= model.tables.len() {
        let (table, count) = (op.table, model.tables.len());
        return unfit(format!("the program reads table {table}, the model has {count}"));
    }
    let spec = model.tables.table(op.table).spec();
    if spec.dim != op.dim {
        return unfit(format!(
            "the program reads {} channels of table {}, which has {}",
            op.dim, spec.name, spec.dim
        ));
    }
    match list.ids.iter().find(|&&id| id as usize >= spec.rows) {
        None => Ok(()),
        Some(&id) => {
            Err(EngineError::RowOutOfRange { table: spec.name.clone(), id, rows: spec.rows })
        }
    }
}

/// Fails unless the model keeps the state that `optimizer` needs.
pub(crate) fn check_state<T: Real>(
    model: &Model<T>,
    optimizer: Optimizer,
) -> Result<(), EngineError> {
    check_param_state(&model.params, optimizer)?;
    model.tables.tables.iter().try_for_each(|table| table.check_state(optimizer))
}

/// Fails unless `params` keep the state that `optimizer` needs.
pub(crate) fn check_param_state<T: Real>(
    params: &ParamStore<T>,
    optimizer: Optimizer,
) -> Result<(), EngineError> {
    let found = params.state.len();
    if found < optimizer.state_slots() { Err(state_is_missing(optimizer, found)) } else { Ok(()) }
}

/// Fails for a program with several heads, whose losses are not one.
pub(crate) fn check_single_head(program: &Program) -> Result<(), EngineError> {
    match program.heads().count() {
        0 | 1 => Ok(()),
        count => Err(EngineError::Unfit(format!("the program has {count} heads, not one"))),
    }
}

/// Fails where nothing reads what an operator computes: its gradient would be whatever the arena
/// holds there, and would go on to what the operator reads.
fn check_all_read(program: &Program) -> Result<(), EngineError> {
    let unread = program.ops.iter().position(|op| {
        let passes_on = !matches!(op, Op::Head(_)) && !op.inputs().range().is_empty();
        passes_on && !program.buffer(op.out()).read
    });
    match unread {
        None => Ok(()),
        Some(index) => {
            Err(EngineError::Unfit(format!("nothing reads what operator {index} computes")))
        }
    }
}

/// The model was made for an optimiser with less state.
pub(crate) fn state_is_missing(optimizer: Optimizer, found: usize) -> EngineError {
    let needed = optimizer.state_slots();
    EngineError::Unfit(format!(
        "{optimizer:?} keeps {needed} numbers beside each weight, the model has room for {found}"
    ))
}

/// Which parameters and tables a program has named, kept between steps for their memory.
#[derive(Default)]
pub(crate) struct Uses {
    named: Vec<bool>,
}

impl Uses {
    /// Fails where gradients would need what the batch or a reader lacks, or where two threads would
    /// move one parameter or one table: each may occur once in a program that trains.
    ///
    /// [`check_forward`] comes first.
    pub(crate) fn check_gradients<T: Real>(
        &mut self,
        program: &Program,
        batch: &Batch<'_, T>,
        trainable: Trainable,
    ) -> Result<(), EngineError> {
        check_length(batch, "labels", batch.rows, batch.labels.len())?;
        if !batch.weights.is_empty() {
            check_length(batch, "weights", batch.rows, batch.weights.len())?;
        }
        let heads_only = trainable == Trainable::Head;
        if program.is_shared() && !heads_only {
            return Err(EngineError::Unfit("of a shared program heads alone are trained".into()));
        }
        let all = (!heads_only).then_some(0..program.slices.len());
        let heads = program.heads().filter(|_| heads_only).map(|head| head.slices.range());
        if !heads_only {
            check_all_read(program)?;
        }
        self.named.clear();
        for slice in all.into_iter().chain(heads).flat_map(|range| &program.slices[range]) {
            if self.name(slice.param.0 as usize) {
                let reason = format!("parameter {} occurs twice in the program", slice.param.0);
                return Err(EngineError::Unfit(reason));
            }
        }
        self.named.clear();
        if trainable != Trainable::Everything {
            return Ok(());
        }
        for op in &program.ops {
            let Op::Embedding(op) = op else { continue };
            for table in (op.first_table..).take(program.width(op.out)) {
                if self.name(table) {
                    let reason = format!("table {table} occurs twice in the program");
                    return Err(EngineError::Unfit(reason));
                }
            }
        }
        Ok(())
    }

    /// Notes `index`; whether it was there already.
    fn name(&mut self, index: usize) -> bool {
        if index >= self.named.len() {
            self.named.resize(index + 1, false);
        }
        std::mem::replace(&mut self.named[index], true)
    }
}
