//! Programs with several heads: the networks of a group, which share what they compute alike.

use super::{Batch, Executor, Model, Mover, Rule, Step, Trainable, clipped};
use crate::fit::check_param_state;
use crate::params::ParamStore;
use crate::program::Program;
use crate::{EngineError, Real};

impl<T: Real> Executor<T> {
    /// Logits of every head of `program`, whose parameters are those of `heads`, `[heads, rows]`.
    ///
    /// Bit for bit those that each head has in a program of its own.
    ///
    /// # Errors
    /// Those of [`Executor::forward`], of which several heads are none.
    pub fn forward_heads(
        &mut self,
        model: &Model<T>,
        heads: &ParamStore<T>,
        program: &mut Program,
        batch: &Batch<'_, T>,
    ) -> Result<&[T], EngineError> {
        self.run_forward(model, heads, program, batch)?;
        Ok(&self.logits)
    }

    /// One optimiser step on every head of `program`, each with a loss and a clip of its own;
    /// everything before the heads runs forward only.
    ///
    /// The parameters of heads and their state are those of `heads`; `step.trainable` is not asked.
    /// `losses` holds one entry a head: where it is `Ok`, the mean loss before the step takes its
    /// place, or [`EngineError::Diverged`] if loss or gradient is not finite; a head that diverged
    /// stays as it is. Bit for bit what [`Executor::train_step`] of [`Trainable::Head`] does to each.
    ///
    /// # Errors
    /// A number of losses that is not that of the heads; otherwise those of
    /// [`Executor::train_step`], but for divergence.
    pub fn tune_heads(
        &mut self,
        model: &Model<T>,
        heads: &mut ParamStore<T>,
        program: &mut Program,
        batch: &Batch<'_, T>,
        step: &Step,
        losses: &mut [Result<f64, EngineError>],
    ) -> Result<(), EngineError> {
        let count = program.heads().count();
        if count != losses.len() {
            let reason = format!("a program of {count} heads, and {} losses", losses.len());
            return Err(EngineError::Unfit(reason));
        }
        check_param_state(heads, step.optimizer)?;
        let trainable = Trainable::Head;
        let weight_sum = self.chunk_gradients(model, heads, program, batch, trainable)?;
        self.sums_over_chunks(model, program, batch, trainable, None);
        let rule = Rule::new(step.optimizer, step.learning_rate, step.index);
        let mover = Mover::new(heads, rule);
        for (head, outcome) in losses.iter_mut().enumerate() {
            if outcome.is_err() {
                continue;
            }
            let tiles = self.head_tiles[head].clone();
            let of_head = self.losses.iter().skip(head).step_by(count);
            let loss = of_head.sum::<f64>() / weight_sum;
            let norm = self.tile_squares[tiles.clone()].iter().sum::<f64>().sqrt();
            let what = if !loss.is_finite() { "loss" } else { "gradient norm" };
            if !loss.is_finite() || !norm.is_finite() {
                *outcome = Err(EngineError::Diverged { step: step.index, what });
                continue;
            }
            let scale = step.clip_norm.map_or(T::ONE, |clip| clipped(clip, norm));
            self.update_tiles(heads.layout(), program, tiles, mover, scale);
            *outcome = Ok(loss);
        }
        Ok(())
    }
}
