//! Batched products of jagged and dense matrices.

use rayon::prelude::*;

use crate::block::{Block, BlockMut, multiply};
use crate::error::{check_equal, check_size};
use crate::widen::{Widened, narrow_into};
use crate::{Element, JaggedError, JaggedView, Offsets, Real};

/// Scratch of one worker: two widened operands and the sums of the result.
struct Scratch<S> {
    left: Widened<S>,
    right: Widened<S>,
    sums: Vec<S>,
}

impl<S: Real> Scratch<S> {
    fn new() -> Self {
        Self { left: Widened::new(), right: Widened::new(), sums: Vec::new() }
    }

    /// `out [m, n] = left [m, k] * right [k, n]`, each operand optionally stored transposed.
    fn product<T: Element<Sum = S>>(
        &mut self,
        [m, k, n]: [usize; 3],
        (left, left_transposed): (&[T], bool),
        (right, right_transposed): (&[T], bool),
        out: &mut [T],
    ) {
        let left = self.left.all(left);
        let right = self.right.all(right);
        let left = if left_transposed {
            Block::new(left, k, m, m).transposed()
        } else {
            Block::new(left, m, k, k)
        };
        let right = if right_transposed {
            Block::new(right, n, k, k).transposed()
        } else {
            Block::new(right, k, n, n)
        };
        self.sums.resize(m * n, S::ZERO);
        multiply(BlockMut::new(&mut self.sums, m, n, n), false, left, right, S::ONE);
        narrow_into(out, &self.sums);
    }
}

/// `z_b = x_b y_b`; `x [T, K]`, `y [B, K, M]` (or `[B, M, K]` where `y_transposed`), `z [T, M]`.
///
/// Cut positions of `z` are zero. Gradients: `dx_b = dz_b y_b^T` is this operator
/// with `y_transposed` flipped, `dy_b = x_b^T dz_b` is [`jagged_jagged_bmm`].
pub fn jagged_dense_bmm<T: Element>(
    x: JaggedView<'_, T>,
    y: &[T],
    columns: usize,
    y_transposed: bool,
    z: &mut [T],
) -> Result<(), JaggedError> {
    let (offsets, k) = (x.offsets(), x.width());
    check_size("the dense operand", y.len(), &[("B", offsets.rows()), ("K", k), ("M", columns)])?;
    check_size("the output", z.len(), &[("T", offsets.total()), ("M", columns)])?;
    let rows: Vec<_> = offsets.split(z, columns).into_iter().enumerate().collect();
    rows.into_par_iter().for_each_init(Scratch::new, |scratch, (b, z)| {
        let length = offsets.length(b);
        let (z, cut) = z.split_at_mut(length * columns);
        cut.fill(T::default());
        let y = &y[b * k * columns..][..k * columns];
        scratch.product([length, k, columns], (x.row(b), false), (y, y_transposed), z);
    });
    Ok(())
}

/// `z_b = x_b^T y_b`; `x [T, K]`, `y [T, M]`, `z [B, K, M]`, 0 for empty rows.
///
/// Gradients: `dx_b = y_b dz_b^T` is [`jagged_dense_bmm`] of `y` with `dz`
/// transposed, `dy_b = x_b dz_b` is [`jagged_dense_bmm`] of `x` with `dz`.
pub fn jagged_jagged_bmm<T: Element>(
    x: JaggedView<'_, T>,
    y: JaggedView<'_, T>,
    z: &mut [T],
) -> Result<(), JaggedError> {
    let offsets = x.offsets();
    check_same_rows(&x, &y)?;
    let (k, m) = (x.width(), y.width());
    check_size("the output", z.len(), &[("B", offsets.rows()), ("K", k), ("M", m)])?;
    if z.is_empty() {
        return Ok(());
    }
    z.par_chunks_mut(k * m).enumerate().for_each_init(Scratch::new, |scratch, (b, z)| {
        scratch.product([k, offsets.length(b), m], (x.row(b), true), (y.row(b), false), z);
    });
    Ok(())
}

fn check_same_rows<T: Element>(
    x: &JaggedView<'_, T>,
    y: &JaggedView<'_, T>,
) -> Result<(), JaggedError> {
    check_equal(
        "the second operand's number of rows",
        y.offsets().rows(),
        x.offsets().rows(),
        "x",
    )?;
    for b in 0..x.offsets().rows() {
        let (found, expected) = (y.offsets().length(b), x.offsets().length(b));
        check_equal("a row length of the second operand", found, expected, "the first operand")?;
    }
    Ok(())
}

/// Offsets of the matrices `[M_b, N_b]` that one product a sample gives.
pub fn product_offsets(rows: &Offsets, columns: &Offsets) -> Result<Offsets, JaggedError> {
    check_equal("the number of column rows", columns.rows(), rows.rows(), "the row offsets")?;
    let size = |b| {
        let (m, n) = (rows.length(b), columns.length(b));
        let size = m.checked_mul(n).and_then(|size| i64::try_from(size).ok());
        size.ok_or_else(|| JaggedError::Overflow { formula: format!("{m} x {n} of row {b}") })
    };
    let sizes: Vec<i64> = (0..rows.rows()).map(size).collect::<Result<_, _>>()?;
    Offsets::from_lengths(&sizes)
}

/// `z_b = x_b y_b^T`; `x [T1, K]`, `y [T2, K]`, `z` the matrices `[M_b, N_b]`, row-major,
/// one after the other at [`product_offsets`].
///
/// FBGEMM's operator takes `y [K, T2]`; here both operands are token-major, as all
/// jagged tensors are.
pub fn jagged_jagged_bmm_jagged_out<T: Element>(
    x: JaggedView<'_, T>,
    y: JaggedView<'_, T>,
    z: &mut [T],
) -> Result<(), JaggedError> {
    check_equal("the second operand's width", y.width(), x.width(), "the first operand")?;
    let products = product_offsets(x.offsets(), y.offsets())?;
    check_size("the output", z.len(), &[("the sum of M_b N_b", products.total())])?;
    let k = x.width();
    let blocks: Vec<_> = products.split(z, 1).into_iter().enumerate().collect();
    blocks.into_par_iter().for_each_init(Scratch::new, |scratch, (b, z)| {
        let shape = [x.offsets().length(b), k, y.offsets().length(b)];
        scratch.product(shape, (x.row(b), false), (y.row(b), true), z);
    });
    Ok(())
}

/// `z_b = a_b x_b` (or `a_b^T x_b` where `a_transposed`); `a` the matrices `[M_b, N_b]`,
/// `x [T2, K]` (`[T1, K]` where transposed), `z [T1, K]` (`[T2, K]`).
///
/// With it the gradients of [`jagged_jagged_bmm_jagged_out`] are `dx_b = dz_b y_b`
/// and `dy_b = dz_b^T x_b`. Cut positions of `z` are zero.
pub fn array_jagged_bmm<T: Element>(
    a: &[T],
    a_transposed: bool,
    x: JaggedView<'_, T>,
    out_offsets: &Offsets,
    z: &mut [T],
) -> Result<(), JaggedError> {
    let (rows, columns) =
        if a_transposed { (x.offsets(), out_offsets) } else { (out_offsets, x.offsets()) };
    let products = product_offsets(rows, columns)?;
    check_size("the matrices", a.len(), &[("the sum of M_b N_b", products.total())])?;
    let k = x.width();
    check_size("the output", z.len(), &[("T", out_offsets.total()), ("K", k)])?;
    let blocks: Vec<_> = out_offsets.split(z, k).into_iter().enumerate().collect();
    blocks.into_par_iter().for_each_init(Scratch::new, |scratch, (b, z)| {
        let length = out_offsets.length(b);
        let (z, cut) = z.split_at_mut(length * k);
        cut.fill(T::default());
        let a = &a[products.range(b)];
        scratch.product(
            [length, x.offsets().length(b), k],
            (a, a_transposed),
            (x.row(b), false),
            z,
        );
    });
    Ok(())
}

/// `out[b, h] = sum_i v[b, h, i] a_b[i, h]`: dense vectors `v [B, H, N]` times jagged
/// matrices `a [T, H, D]`, `out [B, H, D]`; positions of `v` past the row are not read.
pub fn batched_dense_vec_jagged_2d_mul<T: Element>(
    v: &[T],
    a: JaggedView<'_, T>,
    heads: usize,
    out: &mut [T],
) -> Result<(), JaggedError> {
    let d = check_heads(&a, heads)?;
    let (offsets, max_len) = (a.offsets(), a.offsets().max_len());
    check_size("the vectors", v.len(), &[("B", offsets.rows()), ("H", heads), ("N", max_len)])?;
    check_size("the output", out.len(), &[("B", offsets.rows()), ("H", heads), ("D", d)])?;
    if out.is_empty() {
        return Ok(());
    }
    out.par_chunks_mut(heads * d).enumerate().for_each_init(Vec::new, |sums, (b, out)| {
        sums.clear();
        sums.resize(heads * d, T::Sum::ZERO);
        for (i, row) in a.row(b).chunks_exact(heads * d).enumerate() {
            for h in 0..heads {
                let weight = v[(b * heads + h) * max_len + i].widen();
                for c in h * d..(h + 1) * d {
                    sums[c] += weight * row[c].widen();
                }
            }
        }
        narrow_into(out, sums);
    });
    Ok(())
}

/// Gradients of [`batched_dense_vec_jagged_2d_mul`]: `dv[b, h, i] = dout[b, h] . a_b[i, h]`
/// (0 past the row) and `da_b[i, h] = v[b, h, i] dout[b, h]`.
pub fn batched_dense_vec_jagged_2d_mul_backward<T: Element>(
    v: &[T],
    a: JaggedView<'_, T>,
    heads: usize,
    dout: &[T],
    dv: &mut [T],
    da: &mut [T],
) -> Result<(), JaggedError> {
    let d = check_heads(&a, heads)?;
    let (offsets, max_len) = (a.offsets(), a.offsets().max_len());
    let vectors = [("B", offsets.rows()), ("H", heads), ("N", max_len)];
    check_size("the vectors", v.len(), &vectors)?;
    check_size("the vectors' gradient", dv.len(), &vectors)?;
    check_size(
        "the output gradient",
        dout.len(),
        &[("B", offsets.rows()), ("H", heads), ("D", d)],
    )?;
    check_size("the matrices' gradient", da.len(), &[("T", offsets.total()), ("H D", heads * d)])?;
    dv.fill(T::default());
    for (b, da) in offsets.split(da, heads * d).into_iter().enumerate() {
        let length = offsets.length(b);
        da[length * heads * d..].fill(T::default());
        for (i, row) in a.row(b).chunks_exact((heads * d).max(1)).enumerate() {
            for h in 0..heads {
                let position = (b * heads + h) * max_len + i;
                let dout = &dout[(b * heads + h) * d..][..d];
                let mut dot = T::Sum::ZERO;
                for c in 0..d {
                    dot += dout[c].widen() * row[h * d + c].widen();
                    da[(i * heads + h) * d + c] = T::narrow(v[position].widen() * dout[c].widen());
                }
                dv[position] = T::narrow(dot);
            }
        }
    }
    Ok(())
}

fn check_heads<T: Element>(a: &JaggedView<'_, T>, heads: usize) -> Result<usize, JaggedError> {
    if heads == 0 || !a.width().is_multiple_of(heads) {
        return Err(JaggedError::Unsupported {
            what: "the number of heads",
            found: heads.to_string(),
            accepted: "a divisor of the jagged width H * D",
        });
    }
    Ok(a.width() / heads)
}
