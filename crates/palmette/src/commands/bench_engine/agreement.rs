//! Whether both sides computed the same thing.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::case::Gradients;

/// Distances between the two sides, from the same weights on the same rows.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Agreement {
    /// `|a - b| / |a|` over all gradients of the first step, or over its logits.
    pub first_step: f64,
    /// Relative difference of the first loss.
    pub first_loss: f64,
    /// Largest relative difference of a loss.
    pub loss: f64,
    /// Whether both are within what the number type explains.
    pub agrees: bool,
}

/// Most that the first step, its loss and the later losses may differ.
struct Tolerance {
    first_step: f64,
    first_loss: f64,
    loss: f64,
}

/// Sums of a thousand products in another order differ by 1e-6 or so, and so do losses. Among two
/// million activations a few then take the other side of a ReLU, each of which is 7e-4 of a
/// gradient that adds as many independent parts up; optimisers that divide by the gradient's size
/// carry that on to later losses.
const F32: Tolerance = Tolerance { first_step: 5e-3, first_loss: 1e-5, loss: 5e-3 };
/// bf16 keeps eight bits of every operand. Five steps of an optimiser that divides by the gradient's
/// size carry the first step's difference on: PyTorch's own bf16 losses are 6e-2 from its f32 ones.
/// Either side's bf16 is held against Palmette's f32 with these bounds. The first loss is a mean over
/// rows, of which each has an error of its own.
const BF16: Tolerance = Tolerance { first_step: 8e-2, first_loss: 5e-3, loss: 1e-1 };
/// Rows for which the bound on bf16's later losses holds; fewer rows average fewer roundings.
const BF16_ROWS: f64 = 1024.0;

impl Agreement {
    /// Judges two distances.
    pub fn new(
        first_step: f64,
        our_losses: &[f64],
        losses: &[f64],
        bf16: bool,
        rows: usize,
    ) -> Result<Self> {
        if losses.len() != our_losses.len() {
            bail!("{} losses came back, not {}", losses.len(), our_losses.len());
        }
        let relative = |(a, b): (&f64, &f64)| (a - b).abs() / a.abs().max(1e-9);
        let differences: Vec<f64> = our_losses.iter().zip(losses).map(relative).collect();
        // Not `f64::max`, which drops what is not a number.
        let most = |most: f64, &d: &f64| if d > most || d.is_nan() { d } else { most };
        let loss = differences.iter().fold(0.0, most);
        let first_loss = differences.first().copied().unwrap_or(0.0);
        let mut most = if bf16 { BF16 } else { F32 };
        if bf16 {
            most.first_loss = most.first_loss.max(most.first_step / (rows as f64).sqrt());
            most.loss *= (BF16_ROWS / rows as f64).sqrt().max(1.0);
        }
        let agrees =
            first_step <= most.first_step && first_loss <= most.first_loss && loss <= most.loss;
        Ok(Self { first_step, first_loss, loss, agrees })
    }
}

/// Relative L2 distance between two results of ours.
pub fn distance(a: &Gradients, b: &Gradients) -> f64 {
    let all = |g: &Gradients| -> Vec<f32> {
        let sums = g.rows.iter().flat_map(|(_, sums)| sums.iter().copied());
        g.slices.iter().flatten().copied().chain(sums).collect()
    };
    let (a, b) = (all(a), all(b));
    let square = |x: f64| x * x;
    let whole: f64 = a.iter().map(|&x| square(x.into())).sum();
    let apart: f64 = a.iter().zip(&b).map(|(&x, &y)| square(f64::from(x) - f64::from(y))).sum();
    (apart / whole).sqrt()
}

/// Relative L2 distance to what the peer left in `file`.
pub fn distance_to_file(ours: &Gradients, file: &Path) -> Result<f64> {
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    let mut words = bytes.chunks_exact(4).map(|word| [word[0], word[1], word[2], word[3]]);
    let (mut difference, mut whole) = (0.0f64, 0.0f64);
    let mut add = |a: f32, b: f32| {
        difference += (f64::from(a) - f64::from(b)).powi(2);
        whole += f64::from(a).powi(2);
    };
    for slice in &ours.slices {
        for &a in slice {
            let word = words.next().context("the peer's gradients end early")?;
            add(a, f32::from_le_bytes(word));
        }
    }
    for (id, _) in &ours.rows {
        let word = words.next().context("the peer's rows end early")?;
        if u32::from_le_bytes(word) != *id {
            bail!("the peer's batch touches row {}, ours {id}", u32::from_le_bytes(word));
        }
    }
    for &a in ours.rows.iter().flat_map(|(_, sums)| sums) {
        let word = words.next().context("the peer's sums end early")?;
        add(a, f32::from_le_bytes(word));
    }
    if words.next().is_some() {
        bail!("the peer wrote more gradients than there are");
    }
    Ok((difference / whole).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gradient_of_other_numbers_or_rows_does_not_agree() {
        let ours = Gradients { slices: vec![vec![3.0, 4.0]], rows: vec![(7, vec![0.0])] };
        let folder = tempfile::tempdir().expect("a folder");
        let check = |words: &[[u8; 4]]| {
            let file = folder.path().join("gradients.bin");
            std::fs::write(&file, words.concat()).expect("written");
            distance_to_file(&ours, &file)
        };
        let word = f32::to_le_bytes;
        let same = [word(3.0), word(4.0), 7u32.to_le_bytes(), word(0.0)];
        assert_eq!(check(&same).expect("read"), 0.0);
        let mut other = same;
        other[3] = word(0.5);
        assert!((check(&other).expect("read") - 0.1).abs() < 1e-9);
        let mut row = same;
        row[2] = 8u32.to_le_bytes();
        assert!(check(&row).is_err(), "another row");
        assert!(check(&same[..3]).is_err(), "too short");
        let agrees = |first_step, losses: [f64; 2]| {
            Agreement::new(first_step, &[0.5, 0.4], &losses, false, 512).expect("two").agrees
        };
        let rounded = |loss, rows| Agreement::new(1e-2, &[0.5], &[loss], true, rows).expect("one");
        assert!(rounded(0.501, 1024).agrees && rounded(0.51, 4).agrees);
        assert!(!rounded(0.51, 1024).agrees && !rounded(0.6, 1).agrees);
        let later = |loss, rows| {
            Agreement::new(1e-2, &[0.5, 0.4], &[0.5, loss], true, rows).expect("two").agrees
        };
        assert!(later(0.43, 1024) && later(0.46, 40));
        assert!(!later(0.46, 1024) && !later(0.8, 40) && !later(f64::NAN, 1));
        assert!(agrees(1e-6, [0.5, 0.4]) && agrees(1e-6, [0.5, 0.401]));
        assert!(!agrees(1e-2, [0.5, 0.4]) && !agrees(1e-6, [0.5, 0.41]));
        assert!(!agrees(1e-6, [0.5001, 0.4]) && !agrees(1e-6, [0.5, f64::NAN]));
        assert!(!agrees(f64::NAN, [0.5, 0.4]));
    }
}
