//! Softmax over the jagged dimension.

use rayon::prelude::*;

use crate::error::{check_equal, check_size};
use crate::matmul::product_offsets;
use crate::{Element, JaggedError, JaggedView, Offsets, Real};

/// `y_b[i, h] = exp(x_b[i, h]) / sum_i exp(x_b[i, h])`: over the elements of each
/// row, separately for each of the `H` columns; `[T, H] -> [T, H]`.
///
/// The maximum is subtracted first, so large inputs do not overflow. Cut positions are zero.
pub fn jagged_softmax<T: Element>(x: JaggedView<'_, T>, y: &mut [T]) -> Result<(), JaggedError> {
    let (offsets, h) = (x.offsets(), x.width());
    check_size("the output", y.len(), &[("T", offsets.total()), ("H", h)])?;
    offsets.split(y, h).into_par_iter().enumerate().for_each(|(b, y)| {
        let length = offsets.length(b);
        y[length * h..].fill(T::default());
        softmax_columns(x.row(b), length, h, h, 1, y);
    });
    Ok(())
}

/// Gradient of [`jagged_softmax`] from its output: `dx = (dy - sum_i dy_i y_i) y`.
pub fn jagged_softmax_backward<T: Element>(
    y: JaggedView<'_, T>,
    dy: &[T],
    dx: &mut [T],
) -> Result<(), JaggedError> {
    let (offsets, h) = (y.offsets(), y.width());
    let dy = JaggedView::new(dy, h, offsets)?;
    check_size("the input gradient", dx.len(), &[("T", offsets.total()), ("H", h)])?;
    offsets.split(dx, h).into_par_iter().enumerate().for_each(|(b, dx)| {
        let length = offsets.length(b);
        dx[length * h..].fill(T::default());
        softmax_columns_backward(y.row(b), dy.row(b), length, h, h, 1, dx);
    });
    Ok(())
}

/// Along which dimension of each sample's matrix `[M_b, N_b]` to normalise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatrixAxis {
    /// Over the `N_b` columns: every row sums to one.
    Columns,
    /// Over the `M_b` rows: every column sums to one.
    Rows,
}

/// Softmax of ragged matrices: `x` holds the matrices `[M_b, N_b]`, row-major, one
/// after the other ([`crate::product_offsets`]).
pub fn jagged2_softmax<T: Element>(
    x: &[T],
    rows: &Offsets,
    columns: &Offsets,
    axis: MatrixAxis,
    y: &mut [T],
) -> Result<(), JaggedError> {
    let products = product_offsets(rows, columns)?;
    check_size("the matrices", x.len(), &[("the sum of M_b N_b", products.total())])?;
    check_equal("the size of the output", y.len(), x.len(), "the matrices")?;
    products.split(y, 1).into_par_iter().enumerate().for_each(|(b, y)| {
        let [n, count, step, stride] = axis.walk(rows.length(b), columns.length(b));
        softmax_columns(&x[products.range(b)], n, count, step, stride, y);
    });
    Ok(())
}

/// Gradient of [`jagged2_softmax`] from its output.
pub fn jagged2_softmax_backward<T: Element>(
    y: &[T],
    dy: &[T],
    rows: &Offsets,
    columns: &Offsets,
    axis: MatrixAxis,
    dx: &mut [T],
) -> Result<(), JaggedError> {
    let products = product_offsets(rows, columns)?;
    check_size("the matrices", y.len(), &[("the sum of M_b N_b", products.total())])?;
    check_equal("the size of the output gradient", dy.len(), y.len(), "the matrices")?;
    check_equal("the size of the input gradient", dx.len(), y.len(), "the matrices")?;
    products.split(dx, 1).into_par_iter().enumerate().for_each(|(b, dx)| {
        let [n, count, step, stride] = axis.walk(rows.length(b), columns.length(b));
        let range = products.range(b);
        softmax_columns_backward(&y[range.clone()], &dy[range], n, count, step, stride, dx);
    });
    Ok(())
}

impl MatrixAxis {
    /// `[elements to normalise over, number of distributions, step between elements,
    /// stride between distributions]` in a row-major `[m, n]`.
    fn walk(self, m: usize, n: usize) -> [usize; 4] {
        match self {
            Self::Columns => [n, m, 1, n],
            Self::Rows => [m, n, n, 1],
        }
    }
}

/// `count` softmaxes over `n` elements `step` apart, starting `stride` apart.
fn softmax_columns<T: Element>(
    x: &[T],
    n: usize,
    count: usize,
    step: usize,
    stride: usize,
    y: &mut [T],
) {
    for c in 0..count {
        let at = |i: usize| c * stride + i * step;
        let mut largest = T::Sum::NEG_INFINITY;
        for i in 0..n {
            largest = largest.larger(x[at(i)].widen());
        }
        // A column of minus infinities has no distribution: zeros, as a masked row of attention.
        let shift = if largest == T::Sum::NEG_INFINITY { T::Sum::ZERO } else { largest };
        let mut sum = T::Sum::ZERO;
        for i in 0..n {
            sum += (x[at(i)].widen() - shift).exp();
        }
        let inverse = if sum == T::Sum::ZERO { T::Sum::ZERO } else { T::Sum::ONE / sum };
        for i in 0..n {
            y[at(i)] = T::narrow((x[at(i)].widen() - shift).exp() * inverse);
        }
    }
}

fn softmax_columns_backward<T: Element>(
    y: &[T],
    dy: &[T],
    n: usize,
    count: usize,
    step: usize,
    stride: usize,
    dx: &mut [T],
) {
    for c in 0..count {
        let at = |i: usize| c * stride + i * step;
        let mut dot = T::Sum::ZERO;
        for i in 0..n {
            dot += dy[at(i)].widen() * y[at(i)].widen();
        }
        for i in 0..n {
            dx[at(i)] = T::narrow((dy[at(i)].widen() - dot) * y[at(i)].widen());
        }
    }
}
