//! Strided matrix products on borrowed blocks, on one thread.

use gemm::Parallelism;

use crate::Real;

/// A borrowed matrix whose last element is known to lie inside its buffer.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a, S> {
    data: &'a [S],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

/// A [`Block`] to write, row-major.
pub(crate) struct BlockMut<'a, S> {
    data: &'a mut [S],
    rows: usize,
    columns: usize,
    row_stride: usize,
}

fn reach(rows: usize, columns: usize, row_stride: usize) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (rows - 1) * row_stride + columns }
}

impl<'a, S: Real> Block<'a, S> {
    /// Rows of `columns` contiguous elements, `row_stride` apart.
    pub(crate) fn new(data: &'a [S], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(reach(rows, columns, row_stride) <= data.len(), "a block outside its buffer");
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// The transposed matrix, without a copy.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

impl<'a, S> Block<'a, S> {
    /// Rows and columns.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// Elements from row to row and from column to column.
    pub(crate) fn strides(&self) -> [usize; 2] {
        [self.row_stride, self.column_stride]
    }

    /// The buffer from the first element on.
    pub(crate) fn data(&self) -> &'a [S] {
        self.data
    }

    /// The first element.
    pub(crate) fn start(&self) -> *const S {
        self.data.as_ptr()
    }
}

impl<'a, S: Real> BlockMut<'a, S> {
    /// Rows of `columns` contiguous elements, `row_stride` apart.
    pub(crate) fn new(data: &'a mut [S], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(reach(rows, columns, row_stride) <= data.len(), "a block outside its buffer");
        Self { data, rows, columns, row_stride }
    }

    /// Rows and columns.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// The first element, and elements from row to row.
    pub(crate) fn into_parts(self) -> (*mut S, usize) {
        (self.data.as_mut_ptr(), self.row_stride)
    }
}

/// `out = factor * left * right`, added to `out` where `accumulate`.
///
/// One thread and a fixed order of sums, so the bits depend only on the operands.
pub(crate) fn multiply<S: Real>(
    out: BlockMut<'_, S>,
    accumulate: bool,
    left: Block<'_, S>,
    right: Block<'_, S>,
    factor: S,
) {
    assert!(
        left.columns == right.rows && out.rows == left.rows && out.columns == right.columns,
        "blocks do not fit: {}x{} = {}x{} * {}x{}",
        out.rows,
        out.columns,
        left.rows,
        left.columns,
        right.rows,
        right.columns
    );
    if out.rows == 0 || out.columns == 0 {
        return;
    }
    if left.columns == 0 {
        if !accumulate {
            for row in 0..out.rows {
                out.data[row * out.row_stride..][..out.columns].fill(S::ZERO);
            }
        }
        return;
    }
    // SAFETY: the constructors checked that the last element of every operand
    // lies inside its buffer, and `out` is borrowed mutably, so it overlaps no operand.
    unsafe {
        gemm::gemm(
            out.rows,
            out.columns,
            left.columns,
            out.data.as_mut_ptr(),
            1,
            out.row_stride as isize,
            accumulate,
            left.data.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.data.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            S::ONE,
            factor,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_over_strides_and_transposes() {
        let left = [1f64, 2., 9., 3., 4., 9.];
        let right = [5f64, 6., 7., 8.];
        let mut out = [f64::NAN; 4];
        let a = Block::new(&left, 2, 2, 3);
        let b = Block::new(&right, 2, 2, 2);
        multiply(BlockMut::new(&mut out, 2, 2, 2), false, a, b, 1.0);
        assert_eq!(out, [19., 22., 43., 50.]);
        multiply(BlockMut::new(&mut out, 2, 2, 2), true, a.transposed(), b, 2.0);
        assert_eq!(out, [19. + 52., 22. + 60., 43. + 76., 50. + 88.]);
    }

    #[test]
    fn an_empty_sum_is_zero() {
        let mut out = [f32::NAN; 2];
        let (left, right) = (Block::new(&[], 1, 0, 1), Block::new(&[], 0, 2, 2));
        multiply(BlockMut::new(&mut out, 1, 2, 2), false, left, right, 1.0);
        assert_eq!(out, [0.0; 2]);
    }
}
