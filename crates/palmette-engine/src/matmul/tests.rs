//! Products against f64 sums: fresh shapes with all remainders, every instruction set.

use palmette_random::{Draw, stream};
use pulp::{Scalar, Simd, WithSimd};

use super::*;

/// Numbers around a matrix that nothing may change.
const CANARY: f64 = 7.5;

/// Operands of `C = A B`, either layout of each.
struct Case<T> {
    shape: [usize; 3],
    a: Vec<T>,
    b: Vec<T>,
    c: Vec<T>,
    c_row: usize,
    by_column: [bool; 2],
    accumulate: bool,
    /// A bias, and whether a ReLU follows, in half of the cases each.
    bias: Option<Vec<T>>,
    relu: bool,
}

impl<T: Real> Case<T> {
    fn draw(index: u64) -> Self {
        let mut rng = stream(11, "test/matmul", index);
        let mut below = |n: u64| rng.below(n) as usize;
        // Tiles, panels and passes with every remainder.
        let m = [1 + below(20), 128 + below(20)][usize::from(below(8) == 0)];
        let n = 1 + below(110);
        let k = match below(12) {
            0 => 1000 + below(3500),
            1..4 => 200 + below(400),
            _ => below(40),
        };
        let c_row = n + below(20);
        let (by_column, accumulate) = ([below(2) == 1, below(2) == 1], below(2) == 1);
        Self::of([m, n, k], c_row, by_column, accumulate, &mut rng)
    }

    /// Sums of many terms that are contiguous in both factors.
    fn long(index: u64) -> Self {
        let mut rng = stream(12, "test/matmul", index);
        let mut below = |n: u64| rng.below(n) as usize;
        // Every height and width of a tile, one or several, either factor with fewer rows, and more
        // rows of both than are held.
        let [m, n] = [0; 2].map(|_| [4 + below(16), 58 + below(16)][usize::from(below(4) == 0)]);
        // Ends of registers and passes, and in between.
        let k = [2048 + below(3) * 1024 + below(3), 2048 + below(2500)][below(2)];
        let (c_row, accumulate) = (n + below(20), below(2) == 1);
        Self::of([m, n, k], c_row, [false, true], accumulate, &mut rng)
    }

    fn of(
        [m, n, k]: [usize; 3],
        c_row: usize,
        by_column: [bool; 2],
        accumulate: bool,
        rng: &mut impl Draw,
    ) -> Self {
        let (has_bias, relu) = (rng.below(2) == 1, rng.below(2) == 1);
        let mut numbers =
            |len: usize| -> Vec<T> { (0..len).map(|_| T::from_f64(rng.normal())).collect() };
        let (a, b, mut c) = (numbers(m * k), numbers(k * n), numbers(m * c_row + 64));
        let bias = has_bias.then(|| numbers(n));
        for (i, c) in c.iter_mut().enumerate() {
            if i / c_row >= m || i % c_row >= n {
                *c = T::from_f64(CANARY);
            }
        }
        Self { shape: [m, n, k], a, b, c, c_row, by_column, accumulate, bias, relu }
    }

    fn a(&self) -> Strided<*const T> {
        let [m, _, k] = self.shape;
        match self.by_column[0] {
            false => Strided::row_major(self.a.as_ptr(), k),
            true => Strided::row_major(self.a.as_ptr(), m).transposed(),
        }
    }

    fn b(&self) -> Strided<*const T> {
        let [_, n, k] = self.shape;
        match self.by_column[1] {
            false => Strided::row_major(self.b.as_ptr(), n),
            true => Strided::row_major(self.b.as_ptr(), k).transposed(),
        }
    }

    /// Runs the product and compares with sums in f64 of operands after `round`.
    fn check(mut self, round: fn(f64) -> f64, unit: f64, run: impl Fn(Product<'_, T>)) {
        let before = self.c.clone();
        let (shape, accumulate) = (self.shape, self.accumulate);
        let [m, n, k] = shape;
        let (a, b) = (self.a(), self.b());
        let c = (self.c.as_mut_ptr(), self.c_row);
        let finish = Finish::new(self.bias.as_deref(), self.relu);
        run(Product { shape, c, accumulate, a, b, finish, ..Product::empty() });
        let element = |x: Strided<*const T>, i: usize, j: usize| {
            // SAFETY: element `(i, j)` of an operand.
            round(unsafe { *x.pointer.add(i * x.row + j * x.col) }.to_f64())
        };
        for i in 0..self.c.len() {
            let (row, column) = (i / self.c_row, i % self.c_row);
            if row >= m || column >= n {
                assert_eq!(self.c[i].to_f64(), CANARY, "{shape:?}: outside at {row}, {column}");
                continue;
            }
            let start = if accumulate { before[i].to_f64() } else { 0.0 };
            let (mut sum, mut magnitude) = (start, start.abs());
            for t in 0..k {
                let product = element(a, row, t) * element(b, t, column);
                sum += product;
                magnitude += product.abs();
            }
            if let Some(bias) = &self.bias {
                sum += bias[column].to_f64();
                magnitude += bias[column].to_f64().abs();
            }
            if self.relu {
                sum = sum.max(0.0);
            }
            // Every addition rounds once, relative to at most the sum of magnitudes.
            let bound = (k + 3) as f64 * unit * magnitude;
            let found = self.c[i].to_f64();
            assert!(
                (found - sum).abs() <= bound,
                "{shape:?}, by column {:?}, accumulate {accumulate}, at {row}, {column}: \
                 {found} is not {sum} within {bound:e}",
                self.by_column
            );
        }
    }
}

fn check_all<T: Real, S: Simd>(simd: S, unit: f64) {
    let run = |product: Product<'_, T>| {
        // SAFETY: the case owns all three matrices.
        unsafe { matmul(simd, Precision::F32, product) };
    };
    for index in 0..300 {
        Case::<T>::draw(index).check(|x| x, unit, run);
    }
    for index in 0..12 {
        Case::<T>::long(index).check(|x| x, unit, run);
    }
}

#[test]
fn products_of_any_shape_are_sums_of_products() {
    check_all::<f32, _>(Scalar::new(), 2f64.powi(-24));
    check_all::<f64, _>(Scalar::new(), 2f64.powi(-53));
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        check_all::<f32, _>(simd, 2f64.powi(-24));
        check_all::<f64, _>(simd, 2f64.powi(-53));
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V4::try_new() {
        check_all::<f32, _>(simd, 2f64.powi(-24));
        check_all::<f64, _>(simd, 2f64.powi(-53));
    }
}

/// To the nearest number with eight bits of mantissa, ties to even.
fn to_bf16(x: f64) -> f64 {
    let bits = (x as f32).to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    f64::from(f32::from_bits(rounded))
}

#[cfg(target_arch = "x86_64")]
#[test]
fn bf16_products_round_operands_to_nearest_even_and_nothing_else() {
    if !bf16::is_available() {
        println!("skipped: this processor has no bf16 products");
        return;
    }
    for index in 0..300 {
        // SAFETY: the case owns all three matrices, and the instructions are there.
        let run = |product: Product<'_, f32>| unsafe { bf16::product(product) };
        Case::<f32>::draw(index).check(to_bf16, 2f64.powi(-24), run);
        if index % 2 == 0 {
            Case::<f32>::long(index).check(to_bf16, 2f64.powi(-24), run);
        }
    }
    // The lowest tiles: what is left of a held factor.
    for few in 1..=3 {
        for [m, n] in [[64 + few, 70], [70, 64 + few]] {
            // SAFETY: as above.
            let run = |product: Product<'_, f32>| unsafe { bf16::product(product) };
            let mut rng = stream(13, "test/matmul", (m * n) as u64);
            let case = Case::<f32>::of([m, n, 2050], n, [false, true], true, &mut rng);
            case.check(to_bf16, 2f64.powi(-24), run);
        }
    }
}

/// A product whose factors are laid out in panels first, A's, B's or both.
struct WithPanels<'a, T>(Product<'a, T>, Precision, [bool; 2]);

impl<T: Real> WithSimd for WithPanels<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self(product, precision, wanted) = self;
        let [m, n, k] = product.shape;
        let laid_out = |matrix, shape: [usize; 2]| {
            let mut memory =
                crate::memory::Zeroed::<T>::new(panels_len(shape[0], shape[1])).expect("memory");
            memory.as_mut_slice().fill(T::nan());
            let target = (memory.as_mut_slice().as_mut_ptr(), panel_len(precision, shape[0]));
            // SAFETY: the case owns the matrix, the panels have their length.
            unsafe { lay_out(simd, precision, matrix, shape, target) };
            memory
        };
        let (a, b) = (laid_out(product.a.transposed(), [k, m]), laid_out(product.b, [k, n]));
        let of = |memory: &crate::memory::Zeroed<T>, wanted: bool| {
            wanted.then(|| Panels::new(memory.as_slice().as_ptr(), precision, k))
        };
        let product = Product { panels: [of(&a, wanted[0]), of(&b, wanted[1])], ..product };
        // SAFETY: the case owns all matrices, and the precision is available.
        unsafe { matmul(simd, precision, product) };
    }
}

#[test]
fn factors_in_panels_give_the_same_products() {
    for index in 0..400 {
        let wanted = [index % 4 > 1, index % 4 != 2];
        let run = |simd: pulp::Arch, precision| {
            move |product: Product<'_, f32>| simd.dispatch(WithPanels(product, precision, wanted))
        };
        let arch = pulp::Arch::new();
        let exact = |x| x;
        Case::<f32>::draw(index).check(exact, 2f64.powi(-24), run(arch, Precision::F32));
        Case::<f32>::draw(index).check(exact, 2f64.powi(-24), |product| {
            WithPanels(product, Precision::F32, wanted).with_simd(Scalar::new());
        });
        Case::<f64>::draw(index).check(exact, 2f64.powi(-53), |product| {
            arch.dispatch(WithPanels(product, Precision::F32, wanted));
        });
        if Precision::bf16_is_available() {
            Case::<f32>::draw(index).check(to_bf16, 2f64.powi(-24), run(arch, Precision::Bf16));
        }
    }
}

struct Layer<'a>(Product<'a, f32>);

impl WithSimd for Layer<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // SAFETY: the test owns all matrices.
        unsafe { matmul(simd, Precision::F32, self.0) };
    }
}

#[test]
fn every_width_of_a_layer_has_its_bias_and_what_is_no_number_stays() {
    const K: usize = 5;
    for n in 1..=70 {
        for m in [1, 3, 9] {
            let a: Vec<f32> = (0..m * K).map(|i| (i % 7) as f32 - 3.0).collect();
            let b: Vec<f32> = (0..K * n).map(|i| (i % 11) as f32 - 5.0).collect();
            let mut bias: Vec<f32> = (0..n).map(|j| (j % 13) as f32 - 6.0).collect();
            bias[n / 2] = f32::NAN;
            let mut c = vec![0.0f32; m * n];
            let product = Product {
                shape: [m, n, K],
                c: (c.as_mut_ptr(), n),
                a: Strided::row_major(a.as_ptr(), K),
                b: Strided::row_major(b.as_ptr(), K).transposed(),
                finish: Finish::new(Some(&bias), true),
                ..Product::empty()
            };
            pulp::Arch::new().dispatch(Layer(product));
            for (i, &found) in c.iter().enumerate() {
                let (row, column) = (i / n, i % n);
                let sum = (0..K).map(|t| a[row * K + t] * b[column * K + t]).sum::<f32>();
                if column == n / 2 {
                    assert!(found.is_nan(), "{m} x {n}, at {row}, {column}");
                } else {
                    // Small integers: every order of additions is exact.
                    let expected = (sum + bias[column]).max(0.0);
                    assert_eq!(found, expected, "{m} x {n}, at {row}, {column}");
                }
            }
        }
    }
}
