//! How fast products of the shapes of click models run.

use std::time::Instant;

use pulp::{Arch, Simd, WithSimd};

use super::{Precision, Product, Strided, matmul};
use crate::EngineError;
use crate::memory::Zeroed;
use crate::params::padded;

/// The four ways in which operators multiply.
#[derive(Clone, Copy)]
enum Kind {
    /// `x W^T`: both factors have contiguous terms.
    Forward,
    /// `dz W`, or a field mix: B has contiguous columns.
    Gradient,
    /// `dz^T x`: the terms are rows of the batch.
    Weights,
    /// `dZ X^T` over all rows and channels: both factors have contiguous terms.
    MixWeights,
}

/// One chunk (or tile) of the layers of an MLP 845-1024-512-256-1 and of a NASRec block at batch
/// 1024: kind, name, m, n, k.
const SHAPES: &[(Kind, &str, [usize; 3])] = &[
    (Kind::Forward, "forward", [128, 1024, 845]),
    (Kind::Forward, "forward", [128, 512, 1024]),
    (Kind::Forward, "forward", [128, 256, 512]),
    (Kind::Gradient, "dX", [128, 1024, 512]),
    (Kind::Gradient, "dX", [128, 512, 256]),
    (Kind::Weights, "dW", [128, 845, 1024]),
    (Kind::Weights, "dW", [128, 1024, 1024]),
    (Kind::Weights, "dW", [128, 512, 1024]),
    (Kind::Forward, "DP projection", [128, 512, 378]),
    (Kind::Gradient, "DP projection, dX", [128, 378, 512]),
    (Kind::Weights, "DP projection, dW", [128, 378, 1024]),
    (Kind::Gradient, "EFC 26 to 64", [64, 2048, 26]),
    (Kind::Gradient, "EFC 26 to 64, dX", [26, 2048, 64]),
    (Kind::MixWeights, "EFC 26 to 64, dW", [64, 26, 16384]),
    (Kind::MixWeights, "EFC 64 to 32, dW", [32, 64, 8192]),
];

struct Multiply(Product<'static, f32>, Precision);

impl WithSimd for Multiply {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // SAFETY: `rate` owns the matrices and asks for what is available.
        unsafe { matmul(simd, self.1, self.0) };
    }
}

/// How fast one product runs on this thread, packing included.
#[derive(Clone, Debug, PartialEq)]
pub struct ProductRate {
    /// What the product is for.
    pub name: &'static str,
    /// m, n and k.
    pub shape: [usize; 3],
    /// Floating-point operations a second with f32 factors.
    pub f32: f64,
    /// The same with bf16 factors, where the processor has such products.
    pub bf16: Option<f64>,
}

/// Times the products of an MLP 845-1024-512-256-1 and of a NASRec block at batch 1024, each as a
/// step runs it: one chunk of 128 rows, or one tile of a weight gradient.
///
/// # Errors
/// [`EngineError::Memory`].
pub fn product_rates() -> Result<Vec<ProductRate>, EngineError> {
    let one = |&(kind, name, shape): &(Kind, &'static str, [usize; 3])| {
        let available = Precision::bf16_is_available();
        let bf16 = available.then(|| rate(kind, shape, Precision::Bf16)).transpose()?;
        Ok(ProductRate { name, shape, f32: rate(kind, shape, Precision::F32)?, bf16 })
    };
    SHAPES.iter().map(one).collect()
}

fn numbers(len: usize, seed: u64) -> Result<Zeroed<f32>, EngineError> {
    let mut array = Zeroed::new(len.max(1 << 20))?;
    let mut rng = palmette_random::stream(seed, "rates", 0);
    let values = &mut array.as_mut_slice()[..len];
    values.iter_mut().for_each(|x| *x = palmette_random::Draw::unit(&mut rng) as f32 - 0.5);
    Ok(array)
}

/// The best of 40 measurements of about half a millisecond, floating-point operations a second.
fn rate(kind: Kind, [m, n, k]: [usize; 3], precision: Precision) -> Result<f64, EngineError> {
    let mix = |len: usize| len + 16;
    let (a_row, b_row) = match kind {
        Kind::Forward => (padded(k), padded(k)),
        Kind::Gradient => (padded(k), if n == 2048 { mix(8 * n) } else { padded(n) }),
        Kind::Weights => (padded(1024), padded(n)),
        Kind::MixWeights => (mix(k), mix(k)),
    };
    let terms_first = matches!(kind, Kind::Weights);
    let a = numbers(if terms_first { k } else { m } * a_row, 1)?;
    let columns_first = matches!(kind, Kind::Forward | Kind::MixWeights);
    let b = numbers(if columns_first { n } else { k } * b_row, 2)?;
    let mut c = numbers(m * padded(n), 3)?;
    let (a, b) = (a.as_slice().as_ptr(), b.as_slice().as_ptr());
    let (a, b) = (Strided::row_major(a, a_row), Strided::row_major(b, b_row));
    let (a, b) = match kind {
        Kind::Forward | Kind::MixWeights => (a, b.transposed()),
        Kind::Gradient => (a, b),
        Kind::Weights => (a.transposed(), b),
    };
    let c = (c.as_mut_slice().as_mut_ptr(), padded(n));
    let product = Product { shape: [m, n, k], c, a, b, ..Product::empty() };
    let operations = (2 * m * n * k) as f64;
    let repeats = (5e7 / operations).ceil() as usize;
    let mut best = 0.0f64;
    for _ in 0..40 {
        let start = Instant::now();
        for _ in 0..repeats {
            Arch::new().dispatch(Multiply(product, precision));
        }
        best = best.max(repeats as f64 * operations / start.elapsed().as_secs_f64());
    }
    Ok(best)
}
