//! Jagged-dense addition and multiplication.

use rayon::prelude::*;

use crate::error::check_size;
use crate::{Element, JaggedError, JaggedView};

/// Whether to add or to multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elementwise {
    /// `x + y`
    Add,
    /// `x * y`
    Multiply,
}

impl Elementwise {
    fn apply<T: Element>(self, x: T, y: T) -> T {
        match self {
            Self::Add => T::narrow(x.widen() + y.widen()),
            Self::Multiply => T::narrow(x.widen() * y.widen()),
        }
    }
}

fn check_dense<T: Element>(
    what: &'static str,
    x: &JaggedView<'_, T>,
    found: usize,
) -> Result<(), JaggedError> {
    let offsets = x.offsets();
    check_size(what, found, &[("B", offsets.rows()), ("N", offsets.max_len()), ("D", x.width())])
}

/// `z_b[i] = x_b[i] op y[b, i]`, jagged output `[T, D]`; `y` is `[B, N, D]`.
///
/// Only positions that rows cover are read; cut positions of `z` become zero.
pub fn jagged_dense_elementwise<T: Element>(
    operation: Elementwise,
    x: JaggedView<'_, T>,
    y: &[T],
    z: &mut [T],
) -> Result<(), JaggedError> {
    check_dense("the dense operand", &x, y.len())?;
    check_size("the output", z.len(), &[("T", x.offsets().total()), ("D", x.width())])?;
    let stride = x.offsets().max_len() * x.width();
    x.offsets().split(z, x.width()).into_par_iter().enumerate().for_each(|(b, out)| {
        let row = x.row(b);
        let (kept, cut) = out.split_at_mut(row.len());
        for ((z, &x), &y) in kept.iter_mut().zip(row).zip(&y[b * stride..]) {
            *z = operation.apply(x, y);
        }
        cut.fill(T::default());
    });
    Ok(())
}

/// `z[b, i] = pad(x)_b[i] op y[b, i]` with `x` padded by 0, dense output `[B, N, D]`.
pub fn jagged_dense_elementwise_dense_output<T: Element>(
    operation: Elementwise,
    x: JaggedView<'_, T>,
    y: &[T],
    z: &mut [T],
) -> Result<(), JaggedError> {
    check_dense("the dense operand", &x, y.len())?;
    check_dense("the output", &x, z.len())?;
    let stride = x.offsets().max_len() * x.width();
    if stride == 0 {
        return Ok(());
    }
    z.par_chunks_mut(stride).zip(y.par_chunks(stride)).enumerate().for_each(|(b, (z, y))| {
        let row = x.row(b);
        for i in 0..stride {
            let x = row.get(i).copied().unwrap_or_default();
            z[i] = operation.apply(x, y[i]);
        }
    });
    Ok(())
}

/// Gradients of [`jagged_dense_elementwise`] (jagged output, `dz` `[T, D]`).
///
/// Addition: `dx = dz`, `dy = pad(dz)`. Multiplication: `dx = dz * y`,
/// `dy = pad(dz * x)`. `dy` is zero where no row reaches, `dx` at cut positions.
pub fn jagged_dense_elementwise_backward<T: Element>(
    operation: Elementwise,
    x: JaggedView<'_, T>,
    y: &[T],
    dz: &[T],
    dx: &mut [T],
    dy: &mut [T],
) -> Result<(), JaggedError> {
    check_dense("the dense operand", &x, y.len())?;
    check_dense("the dense gradient", &x, dy.len())?;
    let factors = [("T", x.offsets().total()), ("D", x.width())];
    check_size("the output gradient", dz.len(), &factors)?;
    check_size("the jagged gradient", dx.len(), &factors)?;
    let dz = JaggedView::new(dz, x.width(), x.offsets())?;
    let stride = x.offsets().max_len() * x.width();
    let rows = x.offsets().split(dx, x.width());
    dy.fill(T::default());
    if stride == 0 {
        rows.into_iter().for_each(|row| row.fill(T::default()));
        return Ok(());
    }
    rows.into_par_iter().zip(dy.par_chunks_mut(stride)).enumerate().for_each(|(b, (dx, dy))| {
        let (row, dz) = (x.row(b), dz.row(b));
        let (dx, cut) = dx.split_at_mut(row.len());
        cut.fill(T::default());
        for i in 0..row.len() {
            (dx[i], dy[i]) = match operation {
                Elementwise::Add => (dz[i], dz[i]),
                Elementwise::Multiply => {
                    let multiply = Elementwise::Multiply;
                    (multiply.apply(dz[i], y[b * stride + i]), multiply.apply(dz[i], row[i]))
                }
            };
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Offsets, Overflow};

    const X: [f32; 4] = [1., 2., 3., 4.];
    const Y: [f32; 6] = [10., 20., 30., 40., 50., 60.];

    fn offsets() -> Offsets {
        Offsets::new(&[0i64, 3, 3, 4], 2, Overflow::Truncate).unwrap()
    }

    #[test]
    fn jagged_output() {
        let (offsets, mut z) = (offsets(), [f32::NAN; 4]);
        let x = JaggedView::new(&X, 1, &offsets).unwrap();
        jagged_dense_elementwise(Elementwise::Add, x, &Y, &mut z).unwrap();
        assert_eq!(z, [11., 22., 0., 54.]);
        jagged_dense_elementwise(Elementwise::Multiply, x, &Y, &mut z).unwrap();
        assert_eq!(z, [10., 40., 0., 200.]);
    }

    #[test]
    fn dense_output_pads_with_zero() {
        let (offsets, mut z) = (offsets(), [f32::NAN; 6]);
        let x = JaggedView::new(&X, 1, &offsets).unwrap();
        jagged_dense_elementwise_dense_output(Elementwise::Add, x, &Y, &mut z).unwrap();
        assert_eq!(z, [11., 22., 30., 40., 54., 60.]);
        jagged_dense_elementwise_dense_output(Elementwise::Multiply, x, &Y, &mut z).unwrap();
        assert_eq!(z, [10., 40., 0., 0., 200., 0.]);
    }

    #[test]
    fn gradients() {
        let (offsets, mut dx, mut dy) = (offsets(), [f32::NAN; 4], [f32::NAN; 6]);
        let x = JaggedView::new(&X, 1, &offsets).unwrap();
        let dz = [1., 1., 7., 2.];
        jagged_dense_elementwise_backward(Elementwise::Multiply, x, &Y, &dz, &mut dx, &mut dy)
            .unwrap();
        assert_eq!((dx, dy), ([10., 20., 0., 100.], [1., 2., 0., 0., 8., 0.]));
        jagged_dense_elementwise_backward(Elementwise::Add, x, &Y, &dz, &mut dx, &mut dy).unwrap();
        assert_eq!((dx, dy), ([1., 1., 0., 2.], [1., 1., 0., 0., 2., 0.]));
    }
}
