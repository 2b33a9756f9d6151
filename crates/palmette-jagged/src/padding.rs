//! Between jagged and padded dense tensors.

use rayon::prelude::*;

use crate::error::check_size;
use crate::{Element, JaggedError, JaggedView, NestedOffsets, Offsets};

/// `dense[b, i] = x_b[i]` for `i < n_b`, else `padding`; `[T, D] -> [B, N, D]`.
///
/// `N` is the offsets' maximal length, so longer rows are cut to it where the
/// offsets truncate. The gradient of `x` is [`dense_to_jagged`] of the dense one.
pub fn jagged_to_padded_dense<T: Element>(
    x: JaggedView<'_, T>,
    padding: T,
    dense: &mut [T],
) -> Result<(), JaggedError> {
    let (offsets, width) = (x.offsets(), x.width());
    let max_len = offsets.max_len();
    let factors = [("B", offsets.rows()), ("N", max_len), ("D", width)];
    check_size("the dense tensor", dense.len(), &factors)?;
    if dense.is_empty() {
        return Ok(());
    }
    dense.par_chunks_mut(max_len * width).enumerate().for_each(|(b, padded)| {
        let row = x.row(b);
        let (kept, rest) = padded.split_at_mut(row.len());
        kept.copy_from_slice(row);
        rest.fill(padding);
    });
    Ok(())
}

/// `x_b[i] = dense[b, i]`, `[B, N, D] -> [T, D]`; positions past `N` become zero.
///
/// The gradient of `dense` is [`jagged_to_padded_dense`] of the jagged one, padded with 0.
pub fn dense_to_jagged<T: Element>(
    dense: &[T],
    offsets: &Offsets,
    width: usize,
    x: &mut [T],
) -> Result<(), JaggedError> {
    let max_len = offsets.max_len();
    check_size(
        "the dense tensor",
        dense.len(),
        &[("B", offsets.rows()), ("N", max_len), ("D", width)],
    )?;
    check_size("the jagged tensor", x.len(), &[("T", offsets.total()), ("D", width)])?;
    offsets.split(x, width).into_par_iter().enumerate().for_each(|(b, row)| {
        let length = offsets.length(b) * width;
        let start = b * max_len * width;
        row[..length].copy_from_slice(&dense[start..start + length]);
        row[length..].fill(T::default());
    });
    Ok(())
}

/// [`jagged_to_padded_dense`] over several levels: `[T, D] -> [B, N_1, .., N_k, D]`
/// with the `N` of each level's offsets.
pub fn nested_to_padded_dense<T: Element>(
    values: &[T],
    levels: &NestedOffsets,
    width: usize,
    padding: T,
    dense: &mut [T],
) -> Result<(), JaggedError> {
    check_size("the jagged tensor", values.len(), &[("T", levels.total()), ("D", width)])?;
    check_nested(levels, width, dense.len())?;
    dense.fill(padding);
    for_each_position(levels, &mut |position, index| {
        let (source, target) = (index * width, position * width);
        dense[target..target + width].copy_from_slice(&values[source..source + width]);
    });
    Ok(())
}

/// The inverse of [`nested_to_padded_dense`] and its gradient; cut positions become zero.
pub fn dense_to_nested<T: Element>(
    dense: &[T],
    levels: &NestedOffsets,
    width: usize,
    values: &mut [T],
) -> Result<(), JaggedError> {
    check_size("the jagged tensor", values.len(), &[("T", levels.total()), ("D", width)])?;
    check_nested(levels, width, dense.len())?;
    values.fill(T::default());
    for_each_position(levels, &mut |position, index| {
        let (source, target) = (position * width, index * width);
        values[target..target + width].copy_from_slice(&dense[source..source + width]);
    });
    Ok(())
}

fn check_nested(levels: &NestedOffsets, width: usize, found: usize) -> Result<(), JaggedError> {
    let mut factors = vec![("B", levels.levels()[0].rows())];
    factors.extend(levels.levels().iter().map(|level| ("N", level.max_len())));
    factors.push(("D", width));
    check_size("the dense tensor", found, &factors)
}

/// Calls `visit(dense position, value index)` for every value that no level cuts.
fn for_each_position(levels: &NestedOffsets, visit: &mut impl FnMut(usize, usize)) {
    fn descend(
        levels: &[Offsets],
        row: usize,
        position: usize,
        visit: &mut impl FnMut(usize, usize),
    ) {
        let (level, deeper) = (&levels[0], &levels[1..]);
        for (i, element) in level.active(row).enumerate() {
            let position = position * level.max_len() + i;
            if deeper.is_empty() {
                visit(position, element);
            } else {
                descend(deeper, element, position, visit);
            }
        }
    }
    for row in 0..levels.levels()[0].rows() {
        descend(levels.levels(), row, row, visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Overflow;

    #[test]
    fn pads_cuts_and_returns() {
        let values = [1f32, 2., 3., 4., 5., 6.];
        let offsets = Offsets::new(&[0i64, 4, 4, 6], 3, Overflow::Truncate).unwrap();
        let mut dense = [f32::NAN; 9];
        let view = JaggedView::new(&values, 1, &offsets).unwrap();
        jagged_to_padded_dense(view, -1.0, &mut dense).unwrap();
        assert_eq!(dense, [1., 2., 3., -1., -1., -1., 5., 6., -1.]);
        let mut back = [f32::NAN; 6];
        dense_to_jagged(&dense, &offsets, 1, &mut back).unwrap();
        assert_eq!(back, [1., 2., 3., 0., 5., 6.]);
    }

    #[test]
    fn nothing_in_nothing_out() {
        let offsets = Offsets::from_lengths::<i64>(&[]).unwrap();
        let view = JaggedView::<f32>::new(&[], 4, &offsets).unwrap();
        jagged_to_padded_dense(view, 0.0, &mut []).unwrap();
        let empty_rows = Offsets::new(&[0i64, 0, 0], 2, Overflow::Error).unwrap();
        let mut dense = [f32::NAN; 4];
        let view = JaggedView::new(&[], 1, &empty_rows).unwrap();
        jagged_to_padded_dense(view, 0.5, &mut dense).unwrap();
        assert_eq!(dense, [0.5; 4]);
    }

    #[test]
    fn two_levels() {
        let levels = NestedOffsets::new(vec![
            Offsets::from_lengths(&[2i64, 1]).unwrap(),
            Offsets::new(&[0i64, 3, 3, 5], 2, Overflow::Truncate).unwrap(),
        ])
        .unwrap();
        let values = [1f32, 2., 3., 4., 5.];
        let mut dense = [f32::NAN; 8];
        nested_to_padded_dense(&values, &levels, 1, 0.0, &mut dense).unwrap();
        assert_eq!(dense, [1., 2., 0., 0., 4., 5., 0., 0.]);
        let mut back = [f32::NAN; 5];
        dense_to_nested(&dense, &levels, 1, &mut back).unwrap();
        assert_eq!(back, [1., 2., 0., 4., 5.]);
    }

    #[test]
    fn wrong_sizes_are_named() {
        let offsets = Offsets::from_lengths(&[2i64]).unwrap();
        let view = JaggedView::new(&[1f32, 2.], 1, &offsets).unwrap();
        let error = jagged_to_padded_dense(view, 0.0, &mut [0.0; 3]).unwrap_err().to_string();
        assert_eq!(error, "the dense tensor has 3 elements, expected 2 = B 1 x N 2 x D 1");
    }
}
