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

/// A matrix in panels, the first of its rows `first`, with numbers around it that nothing may read
/// or change.
struct Cut<T> {
    memory: Vec<T>,
    /// Elements from panel to panel.
    stride: usize,
    first: usize,
}

impl<T: Real> Cut<T> {
    fn new(
        [rows, columns]: [usize; 2],
        first: usize,
        around: T,
        of: impl Fn(usize, usize) -> T,
    ) -> Self {
        let stride = (first + rows + 3) * COLUMNS;
        let memory = vec![around; columns.div_ceil(COLUMNS) * stride];
        let mut cut = Self { memory, stride, first };
        for (i, j) in (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))) {
            let place = cut.place(i, j);
            cut.memory[place] = of(i, j);
        }
        cut
    }

    fn place(&self, i: usize, j: usize) -> usize {
        j / COLUMNS * self.stride + (self.first + i) * COLUMNS + j % COLUMNS
    }

    fn pointer(&mut self) -> *mut T {
        let place = self.place(0, 0);
        // SAFETY: an element of the memory.
        unsafe { self.memory.as_mut_ptr().add(place) }
    }

    fn gap(&self) -> usize {
        self.stride - COLUMNS
    }
}

/// Products that read and write rows in panels, with what a layer does forward and backward.
fn check_layers<T: Real, S: Simd>(simd: S, unit: f64) {
    for index in 0..160 {
        let mut rng = stream(14, "test/matmul", index);
        let mut below = |n: u64| rng.below(n) as usize;
        let (m, n, k) = (
            1 + below(20),
            1 + below(130),
            [below(130), 500 + below(600)][usize::from(below(4) == 0)],
        );
        let [in_panels, out_panels, accumulate, has_bias, relu, backward] =
            [0; 6].map(|_| below(2) == 1);
        let first = below(9);
        let mut numbers =
            |len: usize| -> Vec<T> { (0..len).map(|_| T::from_f64(rng.normal())).collect() };
        let (a, b, c, y) = (numbers(m * k), numbers(n * k), numbers(m * n), numbers(m * n));
        let (bias, canary) = (numbers(n), T::from_f64(CANARY));
        let mut a_cut =
            Cut::new(
                [m, k.max(1)],
                first,
                T::nan(),
                |i, t| if t < k { a[i * k + t] } else { T::nan() },
            );
        let mut c_cut = Cut::new([m, n], first, canary, |i, j| c[i * n + j]);
        let mut y_cut = Cut::new([m, n], first, T::nan(), |i, j| y[i * n + j]);
        let (mut c_rows, y_rows, mut db) = (c.clone(), y.clone(), bias.clone());
        let columns_of = Strided::row_major(b.as_ptr(), k).transposed();
        let mut laid_out = crate::memory::Zeroed::<T>::new(panels_len(k, n)).expect("memory");
        laid_out.as_mut_slice().fill(T::nan());
        let target = (laid_out.as_mut_slice().as_mut_ptr(), panel_len(Precision::F32, k));
        let output = if out_panels { y_cut.pointer().cast_const() } else { y_rows.as_ptr() };
        let null = std::ptr::null_mut();
        let passage = Passage {
            output: if relu { output } else { null },
            bias: if has_bias { db.as_mut_ptr() } else { null },
        };
        let product = Product {
            shape: [m, n, k],
            c: if out_panels { (c_cut.pointer(), COLUMNS) } else { (c_rows.as_mut_ptr(), n) },
            accumulate,
            a: match in_panels {
                true => Strided::row_major(a_cut.pointer().cast_const(), COLUMNS),
                false => Strided::row_major(a.as_ptr(), k),
            },
            b: columns_of,
            panels: [None, Some(Panels::new(laid_out.as_slice().as_ptr(), Precision::F32, k))],
            gaps: [
                if in_panels { a_cut.gap() } else { 0 },
                if out_panels { c_cut.gap() } else { 0 },
            ],
            finish: if backward { None } else { Finish::new(has_bias.then_some(&bias[..]), relu) },
            passage: backward.then_some(passage),
        };
        // SAFETY: the test owns all matrices.
        unsafe {
            lay_out(simd, Precision::F32, columns_of, [k, n], target);
            matmul(simd, Precision::F32, product);
        }
        let case = format!("{:?}, in {in_panels}, out {out_panels}, relu {relu}", [m, n, k]);
        let close = |what: &str, found: T, sum: f64, magnitude: f64| {
            let bound = (k + m + 3) as f64 * unit * magnitude;
            let error = (found.to_f64() - sum).abs();
            assert!(error <= bound, "{case}, {what}: {found:?} is not {sum} within {bound:e}");
        };
        for j in 0..n {
            let (mut total, mut largest) = (bias[j].to_f64(), bias[j].to_f64().abs());
            for i in 0..m {
                let start = if accumulate { c[i * n + j].to_f64() } else { 0.0 };
                let (mut sum, mut magnitude) = (start, start.abs());
                for t in 0..k {
                    let product = a[i * k + t].to_f64() * b[j * k + t].to_f64();
                    sum += product;
                    magnitude += product.abs();
                }
                if backward {
                    let passes = !relu || y[i * n + j].to_f64() > 0.0;
                    sum = if passes { sum } else { 0.0 };
                    magnitude = if passes { magnitude } else { 0.0 };
                } else {
                    sum += if has_bias { bias[j].to_f64() } else { 0.0 };
                    magnitude += bias[j].to_f64().abs();
                    sum = if relu { sum.max(0.0) } else { sum };
                }
                total += sum;
                largest += magnitude;
                let found =
                    if out_panels { c_cut.memory[c_cut.place(i, j)] } else { c_rows[i * n + j] };
                close(&format!("at {i}, {j}"), found, sum, magnitude);
            }
            if backward && has_bias {
                close(&format!("bias {j}"), db[j], total, largest);
            } else {
                assert_eq!(db[j], bias[j], "{case}: the bias changed");
            }
        }
        let inside: std::collections::HashSet<usize> =
            (0..m * n).map(|e| c_cut.place(e / n, e % n)).collect();
        for (place, &x) in c_cut.memory.iter().enumerate() {
            assert!(inside.contains(&place) || x == canary, "{case}: outside at {place}");
        }
    }
}

#[test]
fn layers_in_panels_are_sums_of_products_forward_and_backward() {
    check_layers::<f32, _>(Scalar::new(), 2f64.powi(-24));
    check_layers::<f64, _>(Scalar::new(), 2f64.powi(-53));
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        check_layers::<f32, _>(simd, 2f64.powi(-24));
        check_layers::<f64, _>(simd, 2f64.powi(-53));
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V4::try_new() {
        check_layers::<f32, _>(simd, 2f64.powi(-24));
        check_layers::<f64, _>(simd, 2f64.powi(-53));
    }
}

/// Rows `row ..` of a weight gradient whose factors lie in panels, with `n` columns; NaN beside it.
fn gradient<S: Simd>(
    simd: S,
    [dz, x]: [&[f32]; 2],
    [width, inner]: [usize; 2],
    row: usize,
    [m, n, k]: [usize; 3],
) -> Vec<f32> {
    let panels = [(dz, width), (x, inner)].map(|(matrix, columns)| {
        let mut memory = crate::memory::Zeroed::<f32>::new(panels_len(k, columns)).expect("memory");
        memory.as_mut_slice().fill(f32::NAN);
        let target = (memory.as_mut_slice().as_mut_ptr(), panel_len(Precision::F32, k));
        let source = Strided::row_major(matrix.as_ptr(), columns);
        // SAFETY: the matrix has these rows and columns, the panels have their length.
        unsafe { lay_out(simd, Precision::F32, source, [k, columns], target) };
        memory
    });
    let [rows_of, columns_of] =
        panels.each_ref().map(|memory| Panels::new(memory.as_slice().as_ptr(), Precision::F32, k));
    let mut c = vec![f32::NAN; m * (n + 1)];
    let product = Product {
        shape: [m, n, k],
        c: (c.as_mut_ptr(), n + 1),
        a: Strided::row_major(dz.as_ptr(), width).transposed(),
        b: Strided::row_major(x.as_ptr(), inner),
        panels: [Some(rows_of.from(row)), Some(columns_of)],
        ..Product::empty()
    };
    // SAFETY: the test owns all matrices.
    unsafe { matmul(simd, Precision::F32, product) };
    c
}

fn check_exchanged<S: Simd>(simd: S) {
    for index in 0..60 {
        let mut rng = stream(15, "test/matmul", index);
        let mut below = |n: u64| rng.below(n) as usize;
        // The last columns of the narrow one are exchanged, those of the wide one are not. Rows
        // begin within a panel too, as those of a tile do.
        let (row, m) = (8 * below(12), 48 + below(120));
        let (panels, k) = (48 * below(3), 1 + below(700));
        let n = [panels + 1 + below(16), panels + 17 + below(31)];
        let [width, inner] = [row + m, n[1]];
        let mut numbers =
            |len: usize| -> Vec<f32> { (0..len).map(|_| rng.normal() as f32).collect() };
        let (dz, x) = (numbers(k * width), numbers(k * inner));
        let [narrow, wide] = n.map(|n| gradient(simd, [&dz, &x], [width, inner], row, [m, n, k]));
        for i in 0..m {
            for j in 0..n[0] {
                let (found, expected) = (narrow[i * (n[0] + 1) + j], wide[i * (n[1] + 1) + j]);
                assert_eq!(found.to_bits(), expected.to_bits(), "{m} x {n:?} x {k}, at {i}, {j}");
                let terms = (0..k)
                    .map(|t| f64::from(dz[t * width + row + i]) * f64::from(x[t * inner + j]));
                let (sum, magnitude) = terms.fold((0.0, 0.0), |(s, m), x| (s + x, m + x.abs()));
                let bound = (k + 3) as f64 * 2f64.powi(-24) * magnitude;
                assert!((f64::from(found) - sum).abs() <= bound, "{m} x {n:?} x {k}, at {i}, {j}");
            }
            assert!(narrow[i * (n[0] + 1) + n[0]].is_nan(), "beside row {i}");
        }
    }
}

#[test]
fn the_last_columns_of_a_gradient_have_the_same_bits_as_rows() {
    check_exchanged(Scalar::new());
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        check_exchanged(simd);
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V4::try_new() {
        check_exchanged(simd);
    }
}
