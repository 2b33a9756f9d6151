//! Operators that move rows: select, add, slice, concatenate, number, mask.

use crate::error::{check_equal, check_size};
use crate::{Element, JaggedError, JaggedView, Offsets};

fn check_index(position: usize, index: i64, bound: usize) -> Result<usize, JaggedError> {
    usize::try_from(index).ok().filter(|&index| index < bound).ok_or(JaggedError::Index {
        position,
        index,
        bound,
    })
}

/// Offsets of the rows that `indices` select, in that order, repeats allowed.
pub fn select_offsets(offsets: &Offsets, indices: &[i64]) -> Result<Offsets, JaggedError> {
    let mut lengths = Vec::with_capacity(indices.len());
    for (position, &index) in indices.iter().enumerate() {
        lengths.push(offsets.length(check_index(position, index, offsets.rows())?) as i64);
    }
    Offsets::from_lengths(&lengths)
}

/// `out_i = x_{indices[i]}`: whole rows, at the offsets of [`select_offsets`].
pub fn jagged_index_select<T: Element>(
    x: JaggedView<'_, T>,
    indices: &[i64],
    out: &mut [T],
) -> Result<(), JaggedError> {
    let selected = select_offsets(x.offsets(), indices)?;
    check_size("the output", out.len(), &[("T", selected.total()), ("width", x.width())])?;
    for (out, &index) in selected.split(out, x.width()).into_iter().zip(indices) {
        out.copy_from_slice(x.row(index as usize));
    }
    Ok(())
}

/// `out_{indices[i]} += x_i`, in the order of `indices`; the gradient of
/// [`jagged_index_select`] when `out` starts at zero.
///
/// `x` has one row an index, each as long as the row it is added to. Sums are kept
/// in the type of sums until a row is complete, so `f16` repeats lose nothing.
pub fn jagged_index_add<T: Element>(
    x: JaggedView<'_, T>,
    indices: &[i64],
    out_offsets: &Offsets,
    out: &mut [T],
) -> Result<(), JaggedError> {
    check_equal("the number of rows", x.offsets().rows(), indices.len(), "the indices")?;
    check_size("the output", out.len(), &[("T", out_offsets.total()), ("width", x.width())])?;
    let mut sources: Vec<Vec<usize>> = vec![Vec::new(); out_offsets.rows()];
    for (position, &index) in indices.iter().enumerate() {
        let row = check_index(position, index, out_offsets.rows())?;
        let (found, expected) = (x.offsets().length(position), out_offsets.length(row));
        check_equal("the length of an added row", found, expected, "the row it is added to")?;
        sources[row].push(position);
    }
    for (b, out) in out_offsets.split(out, x.width()).into_iter().enumerate() {
        for i in 0..out_offsets.length(b) * x.width() {
            let mut sum = out[i].widen();
            for &source in &sources[b] {
                sum += x.row(source)[i].widen();
            }
            if !sources[b].is_empty() {
                out[i] = T::narrow(sum);
            }
        }
    }
    Ok(())
}

/// Offsets after [`jagged_slice`]: row `b` keeps `starts[b]..starts[b] + length`, as far as it reaches.
pub fn slice_offsets(
    offsets: &Offsets,
    starts: &[usize],
    length: usize,
) -> Result<Offsets, JaggedError> {
    check_equal("the number of starts", starts.len(), offsets.rows(), "the offsets")?;
    let lengths: Vec<i64> = (0..offsets.rows())
        .map(|b| offsets.length(b).saturating_sub(starts[b]).min(length) as i64)
        .collect();
    Offsets::from_lengths(&lengths)
}

/// `out_b = x_b[starts[b]..starts[b] + length]`, at the offsets of [`slice_offsets`].
pub fn jagged_slice<T: Element>(
    x: JaggedView<'_, T>,
    starts: &[usize],
    length: usize,
    out: &mut [T],
) -> Result<(), JaggedError> {
    let (sliced, width) = (slice_offsets(x.offsets(), starts, length)?, x.width());
    check_size("the output", out.len(), &[("T", sliced.total()), ("width", width)])?;
    for (b, out) in sliced.split(out, width).into_iter().enumerate() {
        if !out.is_empty() {
            out.copy_from_slice(&x.row(b)[starts[b] * width..][..out.len()]);
        }
    }
    Ok(())
}

/// Gradient of [`jagged_slice`]: `dout` at its place, zero elsewhere.
pub fn jagged_slice_backward<T: Element>(
    dout: &[T],
    offsets: &Offsets,
    starts: &[usize],
    length: usize,
    width: usize,
    dx: &mut [T],
) -> Result<(), JaggedError> {
    let sliced = slice_offsets(offsets, starts, length)?;
    let dout = JaggedView::new(dout, width, &sliced)?;
    check_size("the input gradient", dx.len(), &[("T", offsets.total()), ("width", width)])?;
    for (b, dx) in offsets.split(dx, width).into_iter().enumerate() {
        dx.fill(T::default());
        let row = dout.row(b);
        if !row.is_empty() {
            dx[starts[b] * width..][..row.len()].copy_from_slice(row);
        }
    }
    Ok(())
}

/// Offsets after [`jagged_cat`].
pub fn cat_offsets(parts: &[&Offsets]) -> Result<Offsets, JaggedError> {
    let rows = parts.first().map_or(0, |part| part.rows());
    for part in parts {
        check_equal("the number of rows of a part", part.rows(), rows, "the first part")?;
    }
    let length = |b| {
        let sum = parts.iter().try_fold(0i64, |sum, part| sum.checked_add(part.length(b) as i64));
        sum.ok_or_else(|| JaggedError::Overflow { formula: format!("the joined row {b}") })
    };
    let lengths: Vec<i64> = (0..rows).map(length).collect::<Result<_, _>>()?;
    Offsets::from_lengths(&lengths)
}

/// Row by row concatenation, `out_b = [x1_b; x2_b; ..]`, at the offsets of [`cat_offsets`].
///
/// Its gradient is [`jagged_slice`] at the starts that the parts' lengths give.
pub fn jagged_cat<T: Element>(
    parts: &[JaggedView<'_, T>],
    out: &mut [T],
) -> Result<(), JaggedError> {
    let width = parts.first().map_or(0, JaggedView::width);
    for part in parts {
        check_equal("the width of a part", part.width(), width, "the first part")?;
    }
    let all: Vec<&Offsets> = parts.iter().map(JaggedView::offsets).collect();
    let joined = cat_offsets(&all)?;
    check_size("the output", out.len(), &[("T", joined.total()), ("width", width)])?;
    for (b, mut out) in joined.split(out, width).into_iter().enumerate() {
        for part in parts {
            let (head, tail) = out.split_at_mut(part.row(b).len());
            head.copy_from_slice(part.row(b));
            out = tail;
        }
    }
    Ok(())
}

/// `out_b = [0, 1, .., n_b - 1]`: positions inside each row; `-1` where a row is cut.
pub fn repeat_arange(offsets: &Offsets) -> Vec<i64> {
    let mut out = Vec::with_capacity(offsets.total());
    for b in 0..offsets.rows() {
        let length = offsets.length(b) as i64;
        out.extend((0..offsets.range(b).len() as i64).map(|i| if i < length { i } else { -1 }));
    }
    out
}

/// The dense mask `[B, N]`: whether row `b` has an element at position `i`.
pub fn source_mask(offsets: &Offsets) -> Vec<bool> {
    let max_len = offsets.max_len();
    (0..offsets.rows()).flat_map(|b| (0..max_len).map(move |i| i < offsets.length(b))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> (Vec<f32>, Offsets) {
        (vec![1., 2., 3., 4., 5., 6.], Offsets::from_lengths(&[2i64, 0, 3, 1]).unwrap())
    }

    #[test]
    fn sizes_that_no_machine_holds_are_refused() {
        let far = Offsets::new(&[0, i64::MAX], usize::MAX, crate::Overflow::Error).unwrap();
        let overflow = |result| matches!(result, Err(JaggedError::Overflow { .. }));
        assert!(overflow(cat_offsets(&[&far, &far, &far])));
        assert!(overflow(crate::product_offsets(&far, &far)));
    }

    #[test]
    fn select_and_add() {
        let (values, offsets) = rows();
        let x = JaggedView::new(&values, 1, &offsets).unwrap();
        let mut out = [f32::NAN; 7];
        jagged_index_select(x, &[2, 1, 3, 2], &mut out).unwrap();
        assert_eq!(out, [3., 4., 5., 6., 3., 4., 5.]);
        let selected = select_offsets(&offsets, &[2, 1, 3, 2]).unwrap();
        let added = JaggedView::new(&out, 1, &selected).unwrap();
        let mut sum = [0f32; 6];
        jagged_index_add(added, &[2, 1, 3, 2], &offsets, &mut sum).unwrap();
        assert_eq!(sum, [0., 0., 6., 8., 10., 6.]);
        assert!(jagged_index_add(added, &[0, 1, 3, 2], &offsets, &mut sum).is_err());
        let error = jagged_index_select(x, &[0, 4], &mut out).unwrap_err().to_string();
        assert_eq!(error, "index 1 is 4: it must be in 0..4");
        assert!(jagged_index_select(x, &[-1], &mut out).is_err());
    }

    #[test]
    fn slice_and_its_gradient() {
        let (values, offsets) = rows();
        let x = JaggedView::new(&values, 1, &offsets).unwrap();
        let starts = [1, 0, 1, 5];
        let mut out = [f32::NAN; 3];
        jagged_slice(x, &starts, 2, &mut out).unwrap();
        assert_eq!(out, [2., 4., 5.]);
        let mut dx = [f32::NAN; 6];
        jagged_slice_backward(&out, &offsets, &starts, 2, 1, &mut dx).unwrap();
        assert_eq!(dx, [0., 2., 0., 4., 5., 0.]);
    }

    #[test]
    fn concatenation() {
        let (values, offsets) = rows();
        let x = JaggedView::new(&values, 1, &offsets).unwrap();
        let other = Offsets::from_lengths(&[1i64, 1, 0, 0]).unwrap();
        let y = JaggedView::new(&[7f32, 8.], 1, &other).unwrap();
        let mut out = [f32::NAN; 8];
        jagged_cat(&[x, y], &mut out).unwrap();
        assert_eq!(out, [1., 2., 7., 8., 3., 4., 5., 6.]);
        jagged_cat::<f32>(&[], &mut []).unwrap();
    }

    #[test]
    fn numbering_and_mask() {
        let (_, offsets) = rows();
        assert_eq!(repeat_arange(&offsets), [0, 1, 0, 1, 2, 0]);
        let cut = offsets.with_max_len(2, crate::Overflow::Truncate).unwrap();
        assert_eq!(repeat_arange(&cut), [0, 1, 0, 1, -1, 0]);
        let mask = source_mask(&cut);
        assert_eq!(mask, [true, true, false, false, true, true, true, false]);
    }
}
