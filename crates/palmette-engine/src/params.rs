//! Named parameters at their maximal size, with their optimiser state.

use palmette_random::{Draw, stream};
use rayon::prelude::*;

use crate::memory::Zeroed;
use crate::{EngineError, Real};

/// Index of a parameter in its [`ParamStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub(crate) u32);

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All elements equal.
    Constant(f64),
    /// Uniform in `[-a, a]` with `a = sqrt(6 / (fan_in + fan_out))` (Glorot and Bengio 2010).
    ///
    /// The fans are those of the whole logical tensor, which may be cut into
    /// several blocks by source.
    XavierUniform {
        /// Inputs of the whole layer.
        fan_in: usize,
        /// Outputs of the whole layer.
        fan_out: usize,
    },
}

/// Name, shape and place of a parameter: `rows x cols`, row-major with a padded stride.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamSpec {
    /// Unique name, e.g. `blocks.3.fc.weight.source2`.
    pub name: String,
    /// Output units (1 for vectors).
    pub rows: usize,
    /// Input units (length for vectors).
    pub cols: usize,
    /// Elements from one row to the next.
    pub stride: usize,
    /// How it starts.
    pub init: Init,
    pub(crate) offset: usize,
}

/// Elements from one row to the next of a matrix with `cols` columns.
///
/// Rows start on cache lines, and a stride that is a multiple of 128 elements
/// gets one line more: at 1024 columns every row would otherwise fall into the
/// same set of the first-level cache.
pub(crate) fn padded(cols: usize) -> usize {
    let stride = cols.next_multiple_of(16);
    if stride.is_multiple_of(128) && stride > 0 { stride + 16 } else { stride }
}

/// Declares parameters; [`ParamStore::new`] allocates and initialises them.
#[derive(Clone, Debug, Default)]
pub struct ParamLayout {
    specs: Vec<ParamSpec>,
    len: usize,
}

impl ParamLayout {
    /// Declares a `rows x cols` matrix.
    ///
    /// # Panics
    /// With more than 2^31 rows or columns.
    pub fn matrix(
        &mut self,
        name: impl Into<String>,
        rows: usize,
        cols: usize,
        init: Init,
    ) -> ParamId {
        assert!(rows.max(cols) <= 1 << 31, "a {rows} x {cols} matrix is too large");
        let stride = if rows == 1 { cols.next_multiple_of(16) } else { padded(cols) };
        let id = ParamId(self.specs.len() as u32);
        self.specs.push(ParamSpec {
            name: name.into(),
            rows,
            cols,
            stride,
            init,
            offset: self.len,
        });
        self.len = self.len.saturating_add(rows * stride);
        id
    }

    /// Declares a vector.
    pub fn vector(&mut self, name: impl Into<String>, len: usize, init: Init) -> ParamId {
        self.matrix(name, 1, len, init)
    }

    /// Specification of `id`.
    pub fn spec(&self, id: ParamId) -> &ParamSpec {
        &self.specs[id.0 as usize]
    }

    /// All parameters in the order of their declaration.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ParamId, &ParamSpec)> {
        self.specs.iter().enumerate().map(|(i, spec)| (ParamId(i as u32), spec))
    }

    /// Number of weights, padding not counted.
    pub fn count(&self) -> u64 {
        self.specs.iter().map(|s| (s.rows * s.cols) as u64).sum()
    }
}

/// Parameters of a model and their optimiser state.
///
/// There are no gradients here: a step has gradients only for the slices it
/// used, in the executor's arena.
pub struct ParamStore<T> {
    pub(crate) layout: ParamLayout,
    pub(crate) values: Zeroed<T>,
    pub(crate) state: Vec<Zeroed<T>>,
}

impl<T: Real> ParamStore<T> {
    /// Allocates and initialises every parameter from streams keyed by `(seed, name)`.
    pub fn new(layout: ParamLayout, seed: u64, state_slots: usize) -> Result<Self, EngineError> {
        let mut values = Zeroed::new(layout.len)?;
        let mut rest: &mut [T] = values.as_mut_slice();
        let mut parts = Vec::with_capacity(layout.specs.len());
        for spec in &layout.specs {
            let (part, tail) = rest.split_at_mut(spec.rows * spec.stride);
            parts.push((spec, part));
            rest = tail;
        }
        parts.into_par_iter().for_each(|(spec, part)| initialise(spec, part, seed));
        let state = (0..state_slots).map(|_| Zeroed::new(layout.len)).collect::<Result<_, _>>()?;
        Ok(Self { layout, values, state })
    }

    /// Names and shapes.
    pub fn layout(&self) -> &ParamLayout {
        &self.layout
    }

    /// Row `row` of a parameter.
    pub fn row(&self, id: ParamId, row: usize) -> &[T] {
        let spec = self.layout.spec(id);
        let start = spec.offset + row * spec.stride;
        &self.values.as_slice()[start..start + spec.cols]
    }

    /// Row `row` of a parameter.
    pub fn row_mut(&mut self, id: ParamId, row: usize) -> &mut [T] {
        let spec = self.layout.spec(id);
        let start = spec.offset + row * spec.stride;
        let cols = spec.cols;
        &mut self.values.as_mut_slice()[start..start + cols]
    }

    /// Forgets the optimiser's state (a fresh optimiser on old weights).
    pub fn reset_state(&mut self) -> Result<(), EngineError> {
        for state in &mut self.state {
            *state = Zeroed::new(self.layout.len)?;
        }
        Ok(())
    }

    /// Gives the memory of the optimiser's state back, for weights that no step moves any more.
    pub fn drop_state(&mut self) {
        self.state.clear();
    }

    /// Forgets the optimiser's state of one parameter.
    pub fn reset_state_of(&mut self, id: ParamId) {
        let spec = self.layout.spec(id);
        let place = spec.offset..spec.offset + spec.rows * spec.stride;
        for state in &mut self.state {
            state.as_mut_slice()[place.clone()].fill(T::ZERO);
        }
    }

    /// Bytes of values and state.
    pub fn bytes(&self) -> u64 {
        ((1 + self.state.len()) * self.layout.len * size_of::<T>()) as u64
    }
}

fn initialise<T: Real>(spec: &ParamSpec, part: &mut [T], seed: u64) {
    // A matrix without columns has no rows to draw.
    let stride = spec.stride.max(1);
    match spec.init {
        Init::Constant(0.0) => {}
        Init::Constant(value) => {
            for row in part.chunks_mut(stride) {
                row[..spec.cols].fill(T::from_f64(value));
            }
        }
        Init::XavierUniform { fan_in, fan_out } => {
            let bound = (6.0 / (fan_in + fan_out) as f64).sqrt();
            let mut rng = stream(seed, &spec.name, 0);
            for row in part.chunks_mut(stride) {
                for value in &mut row[..spec.cols] {
                    *value = T::from_f64((2.0 * rng.unit() - 1.0) * bound);
                }
            }
        }
    }
}
