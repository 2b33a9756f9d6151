//! Jagged tensors: a checked pair of values and offsets.

use std::sync::Arc;

use crate::error::check_size;
use crate::{Element, JaggedError, Offsets};

/// A borrowed jagged tensor `[T, width]`: values that are known to fit their offsets.
#[derive(Debug, Clone, Copy)]
pub struct JaggedView<'a, T> {
    values: &'a [T],
    width: usize,
    offsets: &'a Offsets,
}

impl<'a, T: Element> JaggedView<'a, T> {
    /// Checks that `values` holds `T * width` elements.
    pub fn new(values: &'a [T], width: usize, offsets: &'a Offsets) -> Result<Self, JaggedError> {
        check_size("a jagged tensor", values.len(), &[("T", offsets.total()), ("width", width)])?;
        Ok(Self { values, width, offsets })
    }

    /// All values, row after row.
    pub fn values(&self) -> &'a [T] {
        self.values
    }

    /// Elements at each position.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The row offsets.
    pub fn offsets(&self) -> &'a Offsets {
        self.offsets
    }

    /// The active part `[n_b, width]` of row `b`.
    pub fn row(&self, b: usize) -> &'a [T] {
        let active = self.offsets.active(b);
        &self.values[active.start * self.width..active.end * self.width]
    }
}

/// An owned jagged tensor `[T, inner...]` with shared offsets.
///
/// ```
/// use std::sync::Arc;
/// use palmette_jagged::{JaggedTensor, Offsets};
///
/// let offsets = Arc::new(Offsets::from_lengths(&[2i64, 0, 1])?);
/// let clicks = JaggedTensor::new(vec![1f32, 2., 3., 4., 5., 6.], &[2], offsets)?;
/// assert_eq!(clicks.view().row(0), &[1., 2., 3., 4.]);
/// assert!(clicks.view().row(1).is_empty());
/// # Ok::<(), palmette_jagged::JaggedError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct JaggedTensor<T> {
    values: Vec<T>,
    inner: Vec<usize>,
    width: usize,
    offsets: Arc<Offsets>,
}

impl<T: Element> JaggedTensor<T> {
    /// Checks that `values` holds `T` times the product of `inner` elements.
    pub fn new(
        values: Vec<T>,
        inner: &[usize],
        offsets: Arc<Offsets>,
    ) -> Result<Self, JaggedError> {
        let width = inner
            .iter()
            .try_fold(1usize, |product, &size| product.checked_mul(size))
            .ok_or_else(|| JaggedError::Overflow { formula: format!("{inner:?}") })?;
        JaggedView::new(&values, width, &offsets)?;
        Ok(Self { values, inner: inner.to_vec(), width, offsets })
    }

    /// The tensor borrowed, inner dimensions as one width.
    pub fn view(&self) -> JaggedView<'_, T> {
        JaggedView { values: &self.values, width: self.width, offsets: &self.offsets }
    }

    /// The shape of one element.
    pub fn inner(&self) -> &[usize] {
        &self.inner
    }

    /// The shared offsets.
    pub fn offsets(&self) -> &Arc<Offsets> {
        &self.offsets
    }

    /// Values and offsets, without a copy.
    pub fn into_parts(self) -> (Vec<T>, Arc<Offsets>) {
        (self.values, self.offsets)
    }
}
