//! Small operators, pooled and HSTU attention: against their definitions, and
//! gradients against differences.

use half::{bf16, f16};
use proptest::prelude::*;

use crate::testing::{check_gradient, normal, random, relative_error, rows, wide};
use crate::*;

fn weighted(values: &[f64], weights: &[f64]) -> f64 {
    values.iter().zip(weights).map(|(x, w)| x * w).sum()
}

/// `f64` loops for `z_b = x_b y_b`.
fn naive_dense_bmm(x: &[f64], offsets: &Offsets, k: usize, y: &[f64], m: usize) -> Vec<f64> {
    let mut z = vec![0.0; offsets.total() * m];
    for b in 0..offsets.rows() {
        for i in offsets.active(b) {
            for (l, c) in (0..k).flat_map(|l| (0..m).map(move |c| (l, c))) {
                z[i * m + c] += x[i * k + l] * y[(b * k + l) * m + c];
            }
        }
    }
    z
}

fn check_matmuls<T: Element>(bound: f64) {
    let offsets = Offsets::new(&[0i64, 3, 3, 70, 71], 66, Overflow::Truncate).unwrap();
    let (k, m) = (9, 5);
    let mut rng = random("matmul", 0);
    let x: Vec<T> = normal(&mut rng, 71 * k);
    let y: Vec<T> = normal(&mut rng, 4 * k * m);
    let view = JaggedView::new(&x, k, &offsets).unwrap();
    let nan = T::narrow(T::Sum::of(f64::NAN));

    let expect = naive_dense_bmm(&wide(&x), &offsets, k, &wide(&y), m);
    let mut z = vec![nan; 71 * m];
    jagged_dense_bmm(view, &y, m, false, &mut z).unwrap();
    assert!(relative_error(&z, &expect) <= bound);
    let mut transposed = y.clone();
    for (b, l, c) in (0..4).flat_map(|b| (0..k).flat_map(move |l| (0..m).map(move |c| (b, l, c)))) {
        transposed[(b * m + c) * k + l] = y[(b * k + l) * m + c];
    }
    let mut again = vec![nan; 71 * m];
    jagged_dense_bmm(view, &transposed, m, true, &mut again).unwrap();
    assert!(relative_error(&again, &expect) <= bound);

    let other: Vec<T> = normal(&mut rng, 71 * m);
    let other_view = JaggedView::new(&other, m, &offsets).unwrap();
    let mut products = vec![nan; 4 * k * m];
    jagged_jagged_bmm(view, other_view, &mut products).unwrap();
    let mut expect = vec![0.0; 4 * k * m];
    for b in 0..4 {
        for i in offsets.active(b) {
            for (l, c) in (0..k).flat_map(|l| (0..m).map(move |c| (l, c))) {
                let term = x[i * k + l].widen().to_f64() * other[i * m + c].widen().to_f64();
                expect[(b * k + l) * m + c] += term;
            }
        }
    }
    assert!(relative_error(&products, &expect) <= bound);
}

#[test]
fn matrix_products() {
    check_matmuls::<f64>(1e-14);
    check_matmuls::<f32>(1e-6);
    check_matmuls::<bf16>(3e-3);
    check_matmuls::<f16>(5e-4);
}

#[test]
fn gradients_of_matrix_products() {
    let offsets = rows(&[2, 0, 3]);
    let (k, m) = (3, 2);
    let mut rng = random("matmul gradients", 0);
    let mut x: Vec<f64> = normal(&mut rng, 5 * k);
    let mut y: Vec<f64> = normal(&mut rng, 3 * k * m);
    let dz: Vec<f64> = normal(&mut rng, 5 * m);
    let run = |x: &[f64], y: &[f64]| {
        let mut z = vec![0.0; 5 * m];
        let view = JaggedView::new(x, k, &offsets).unwrap();
        jagged_dense_bmm(view, y, m, false, &mut z).unwrap();
        weighted(&z, &dz)
    };
    let dz_view = JaggedView::new(&dz, m, &offsets).unwrap();
    let (mut dx, mut dy) = (vec![f64::NAN; 5 * k], vec![f64::NAN; 3 * k * m]);
    jagged_dense_bmm(dz_view, &y, k, true, &mut dx).unwrap();
    jagged_jagged_bmm(JaggedView::new(&x, k, &offsets).unwrap(), dz_view, &mut dy).unwrap();
    let (x0, y0) = (x.clone(), y.clone());
    check_gradient("dx", &mut x, &dx, |x| run(x, &y0));
    check_gradient("dy", &mut y, &dy, |y| run(&x0, y));
}

#[test]
fn ragged_products_and_their_gradients() {
    let (left, right) = (rows(&[2, 0, 3]), rows(&[1, 4, 2]));
    let k = 3;
    let mut rng = random("ragged", 0);
    let mut x: Vec<f64> = normal(&mut rng, 5 * k);
    let mut y: Vec<f64> = normal(&mut rng, 7 * k);
    let size = product_offsets(&left, &right).unwrap().total();
    assert_eq!(size, 2 + 6);
    let dz: Vec<f64> = normal(&mut rng, size);
    let product = |x: &[f64], y: &[f64]| {
        let mut z = vec![f64::NAN; size];
        let (x, y) =
            (JaggedView::new(x, k, &left).unwrap(), JaggedView::new(y, k, &right).unwrap());
        jagged_jagged_bmm_jagged_out(x, y, &mut z).unwrap();
        z
    };
    let z = product(&x, &y);
    let expect: f64 = (0..k).map(|c| x[3 + c] * y[c]).sum();
    assert!((z[1] - expect).abs() < 1e-14);
    let (mut dx, mut dy) = (vec![f64::NAN; 5 * k], vec![f64::NAN; 7 * k]);
    array_jagged_bmm(&dz, false, JaggedView::new(&y, k, &right).unwrap(), &left, &mut dx).unwrap();
    array_jagged_bmm(&dz, true, JaggedView::new(&x, k, &left).unwrap(), &right, &mut dy).unwrap();
    let (x0, y0) = (x.clone(), y.clone());
    check_gradient("dx", &mut x, &dx, |x| weighted(&product(x, &y0), &dz));
    check_gradient("dy", &mut y, &dy, |y| weighted(&product(&x0, y), &dz));
}

#[test]
fn vectors_times_jagged_matrices() {
    let offsets = Offsets::new(&[0i64, 2, 2, 5], 4, Overflow::Error).unwrap();
    let (heads, d) = (2, 3);
    let mut rng = random("vectors", 0);
    let mut v: Vec<f64> = normal(&mut rng, 3 * heads * 4);
    let mut a: Vec<f64> = normal(&mut rng, 5 * heads * d);
    let dout: Vec<f64> = normal(&mut rng, 3 * heads * d);
    let run = |v: &[f64], a: &[f64]| {
        let mut out = vec![f64::NAN; 3 * heads * d];
        let a = JaggedView::new(a, heads * d, &offsets).unwrap();
        batched_dense_vec_jagged_2d_mul(v, a, heads, &mut out).unwrap();
        out
    };
    let out = run(&v, &a);
    // Row 2, head 1, column 2.
    let expect: f64 = (0..3).map(|i| v[(2 * heads + 1) * 4 + i] * a[(2 + i) * 6 + 5]).sum();
    assert!((out[2 * 6 + 5] - expect).abs() < 1e-14);
    assert_eq!(&out[6..12], &[0.0; 6]);
    let (mut dv, mut da) = (vec![f64::NAN; v.len()], vec![f64::NAN; a.len()]);
    let view = JaggedView::new(&a, heads * d, &offsets).unwrap();
    batched_dense_vec_jagged_2d_mul_backward(&v, view, heads, &dout, &mut dv, &mut da).unwrap();
    let (v0, a0) = (v.clone(), a.clone());
    check_gradient("dv", &mut v, &dv, |v| weighted(&run(v, &a0), &dout));
    check_gradient("da", &mut a, &da, |a| weighted(&run(&v0, a), &dout));
}

#[test]
fn softmax_over_rows() {
    let offsets = Offsets::new(&[0i64, 3, 3, 4, 74], 70, Overflow::Truncate).unwrap();
    let h = 3;
    let mut rng = random("softmax", 0);
    let large: Vec<f32> = normal::<f32>(&mut rng, 74 * h).iter().map(|x| x * 300.0).collect();
    let mut y = vec![f32::NAN; 74 * h];
    jagged_softmax(JaggedView::new(&large, h, &offsets).unwrap(), &mut y).unwrap();
    for b in [0, 2, 3] {
        for c in 0..h {
            let sum: f32 = offsets.active(b).map(|i| y[i * h + c]).sum();
            assert!((sum - 1.0).abs() < 1e-5, "row {b} column {c}: {sum}");
        }
    }
    let small = rows(&[3, 0, 1]);
    let mut x: Vec<f64> = normal(&mut rng, 4 * h);
    let dy: Vec<f64> = normal(&mut rng, 4 * h);
    let run = |x: &[f64]| {
        let mut y = vec![f64::NAN; 4 * h];
        jagged_softmax(JaggedView::new(x, h, &small).unwrap(), &mut y).unwrap();
        y
    };
    let y = run(&x);
    let total: f64 = (0..3).map(|i| x[i * h + 1].exp()).sum();
    assert!((y[h + 1] - x[h + 1].exp() / total).abs() < 1e-14);
    let mut dx = vec![f64::NAN; 4 * h];
    jagged_softmax_backward(JaggedView::new(&y, h, &small).unwrap(), &dy, &mut dx).unwrap();
    check_gradient("dx", &mut x, &dx, |x| weighted(&run(x), &dy));
}

#[test]
fn softmax_of_ragged_matrices() {
    let (left, right) = (rows(&[2, 0, 3]), rows(&[2, 4, 1]));
    let mut rng = random("softmax2", 0);
    for axis in [MatrixAxis::Columns, MatrixAxis::Rows] {
        let mut x: Vec<f64> = normal(&mut rng, 7);
        let dy: Vec<f64> = normal(&mut rng, 7);
        let run = |x: &[f64]| {
            let mut y = vec![f64::NAN; 7];
            jagged2_softmax(x, &left, &right, axis, &mut y).unwrap();
            y
        };
        let y = run(&x);
        let other = if axis == MatrixAxis::Columns { x[0] } else { x[3] };
        let expect = x[1].exp() / (x[1].exp() + other.exp());
        assert!((y[1] - expect).abs() < 1e-14);
        let mut dx = vec![f64::NAN; 7];
        jagged2_softmax_backward(&y, &dy, &left, &right, axis, &mut dx).unwrap();
        check_gradient("dx", &mut x, &dx, |x| weighted(&run(x), &dy));
    }
}

#[test]
fn pooled_attention() {
    let offsets = Offsets::new(&[0i64, 3, 3, 5], 4, Overflow::Error).unwrap();
    let (s, d, scale) = (2, 3, 0.7);
    let pooled = PooledAttention::new(s, scale).unwrap();
    let mut rng = random("pooled", 0);
    let mut k: Vec<f64> = normal(&mut rng, 5 * d);
    let mut v: Vec<f64> = normal(&mut rng, 5 * d);
    let mut t: Vec<f64> = normal(&mut rng, 3 * s * d);
    let mut bias: Vec<f64> = normal(&mut rng, 3 * 4 * s);
    let d_output: Vec<f64> = normal(&mut rng, 3 * s * d);
    let run = |k: &[f64], v: &[f64], t: &[f64], bias: &[f64]| {
        let input = PooledInput {
            keys: JaggedView::new(k, d, &offsets).unwrap(),
            values: JaggedView::new(v, d, &offsets).unwrap(),
            targets: t,
            bias: Some(bias),
        };
        let (mut output, mut lse) = (vec![f64::NAN; 3 * s * d], vec![f64::NAN; 3 * s]);
        pooled.forward(&input, &mut output, &mut lse).unwrap();
        (output, lse)
    };
    let (output, lse) = run(&k, &v, &t, &bias);
    // Row 2 starts at token 3 and has two positions; target 1, column 2.
    let score = |i: usize| {
        let dot: f64 = (0..d).map(|c| k[(3 + i) * d + c] * t[(2 * s + 1) * d + c]).sum();
        (scale * dot + bias[(2 * 4 + i) * s + 1]).exp()
    };
    let total = score(0) + score(1);
    let expect = (score(0) * v[3 * d + 2] + score(1) * v[4 * d + 2]) / total;
    assert!((output[(2 * s + 1) * d + 2] - expect).abs() < 1e-13);
    assert!((lse[2 * s + 1] - total.ln()).abs() < 1e-13);
    assert_eq!((&output[6..12], lse[2]), (&[0.0; 6][..], f64::NEG_INFINITY));

    let input = PooledInput {
        keys: JaggedView::new(&k, d, &offsets).unwrap(),
        values: JaggedView::new(&v, d, &offsets).unwrap(),
        targets: &t,
        bias: Some(&bias),
    };
    let [mut dk, mut dv] = std::array::from_fn(|_| vec![f64::NAN; 5 * d]);
    let (mut dt, mut d_bias) = (vec![f64::NAN; 3 * s * d], vec![f64::NAN; 3 * 4 * s]);
    let gradients = PooledGradients {
        keys: &mut dk,
        values: &mut dv,
        targets: &mut dt,
        bias: Some(&mut d_bias),
    };
    pooled.backward(&input, &output, &lse, &d_output, gradients).unwrap();
    let loss =
        |k: &[f64], v: &[f64], t: &[f64], bias: &[f64]| weighted(&run(k, v, t, bias).0, &d_output);
    let (k0, v0, t0, bias0) = (k.clone(), v.clone(), t.clone(), bias.clone());
    check_gradient("dk", &mut k, &dk, |k| loss(k, &v0, &t0, &bias0));
    check_gradient("dv", &mut v, &dv, |v| loss(&k0, v, &t0, &bias0));
    check_gradient("dt", &mut t, &dt, |t| loss(&k0, &v0, t, &bias0));
    check_gradient("dbias", &mut bias, &d_bias, |bias| loss(&k0, &v0, &t0, bias));
}

/// More targets and keys than a tile holds, against cross attention from rows of targets,
/// whose tiles and order of sums are others.
#[test]
fn pooled_attention_over_several_tiles_is_cross_attention() {
    let offsets = rows(&[300, 0, 1, 129]);
    let (s, d, scale) = (70, 16, 0.4);
    let targets = rows(&[s as i64; 4]);
    let mut rng = random("pooled tiles", 0);
    let k: Vec<f64> = normal(&mut rng, 430 * d);
    let v: Vec<f64> = normal(&mut rng, 430 * d);
    // Large scores, so that the running maximum moves from tile to tile.
    let t: Vec<f64> = normal(&mut rng, 4 * s * d).iter().map(|x: &f64| 3.0 * x).collect();
    let d_output: Vec<f64> = normal(&mut rng, 4 * s * d);
    let pooled = PooledAttention::new(s, scale).unwrap();
    let input = PooledInput {
        keys: JaggedView::new(&k, d, &offsets).unwrap(),
        values: JaggedView::new(&v, d, &offsets).unwrap(),
        targets: &t,
        bias: None,
    };
    let nan = |n: usize| vec![f64::NAN; n];
    let (mut output, mut lse) = (nan(4 * s * d), nan(4 * s));
    pooled.forward(&input, &mut output, &mut lse).unwrap();
    let (mut dk, mut dv, mut dt) = (nan(430 * d), nan(430 * d), nan(4 * s * d));
    let gradients =
        PooledGradients { keys: &mut dk, values: &mut dv, targets: &mut dt, bias: None };
    pooled.backward(&input, &output, &lse, &d_output, gradients).unwrap();

    let attention = Attention::new(1, 1, d, Mask::Full).unwrap().with_scale(scale).unwrap();
    let cross = AttentionInput {
        q: &t,
        k: &k,
        v: &v,
        offsets_q: &targets,
        offsets_k: &offsets,
        bias: None,
    };
    let (mut expected, mut expected_lse) = (nan(4 * s * d), nan(4 * s));
    attention.forward(&cross, &mut expected, &mut expected_lse).unwrap();
    let (mut ek, mut ev, mut et) = (nan(430 * d), nan(430 * d), nan(4 * s * d));
    let gradients = AttentionGradients { dq: &mut et, dk: &mut ek, dv: &mut ev, dbias: None };
    attention.backward(&cross, &expected, &expected_lse, &d_output, gradients).unwrap();
    for (what, ours, expected) in
        [("output", &output, &expected), ("dk", &dk, &ek), ("dv", &dv, &ev), ("dt", &dt, &et)]
    {
        let error = relative_error(ours, expected);
        assert!(error < 1e-12, "{what}: {error}");
    }
    for (ours, expected) in lse.iter().zip(&expected_lse) {
        assert!(ours == expected || (ours - expected).abs() < 1e-12, "{ours} {expected}");
    }
}

#[test]
fn pooled_attention_in_short_types() {
    fn check<T: Element>(bound: f64) {
        let offsets = rows(&[65, 0, 1, 300]);
        let (s, d) = (8, 32);
        let mut rng = random("pooled types", 0);
        let k: Vec<T> = normal(&mut rng, 366 * d);
        let v: Vec<T> = normal(&mut rng, 366 * d);
        let t: Vec<T> = normal(&mut rng, 4 * s * d);
        let pooled = PooledAttention::new(s, 0.2).unwrap();
        let mut output = vec![T::default(); 4 * s * d];
        let mut lse = vec![T::Sum::ZERO; 4 * s];
        let input = PooledInput {
            keys: JaggedView::new(&k, d, &offsets).unwrap(),
            values: JaggedView::new(&v, d, &offsets).unwrap(),
            targets: &t,
            bias: None,
        };
        pooled.forward(&input, &mut output, &mut lse).unwrap();
        let (k, v, t) = (wide(&k), wide(&v), wide(&t));
        let input = PooledInput {
            keys: JaggedView::new(&k, d, &offsets).unwrap(),
            values: JaggedView::new(&v, d, &offsets).unwrap(),
            targets: &t,
            bias: None,
        };
        let (mut exact, mut lse) = (vec![0.0; 4 * s * d], vec![0.0; 4 * s]);
        pooled.forward(&input, &mut exact, &mut lse).unwrap();
        let error = relative_error(&output, &exact);
        assert!(error <= bound, "{error}");
    }
    check::<f32>(1e-6);
    check::<bf16>(3e-3);
    check::<f16>(1e-3);
}

#[test]
fn hstu_attention() {
    let offsets = rows(&[6, 0, 70, 3]);
    let targets = [2, 0, 1, 3];
    let (heads, d, e) = (2, 4, 3);
    let mut rng = random("hstu", 0);
    let n = offsets.total();
    let mut q: Vec<f64> = normal(&mut rng, n * heads * d);
    let mut k: Vec<f64> = normal(&mut rng, n * heads * d);
    let mut v: Vec<f64> = normal(&mut rng, n * heads * e);
    let d_output: Vec<f64> = normal(&mut rng, n * heads * e);
    for mask in [
        HstuMask::default(),
        HstuMask { targets: Some(&targets), ..HstuMask::default() },
        HstuMask {
            contextual: 2,
            targets: Some(&targets),
            max_attention: 2,
            min_full_attention: 1,
        },
    ] {
        let hstu = HstuAttention::new(heads, d, e, 0.5, 0.1, mask).unwrap();
        let run = |q: &[f64], k: &[f64], v: &[f64]| {
            let mut output = vec![f64::NAN; n * heads * e];
            hstu.forward(&HstuInput { q, k, v, offsets: &offsets }, &mut output).unwrap();
            output
        };
        let output = run(&q, &k, &v);
        for b in 0..offsets.rows() {
            let (first, length) = (offsets.active(b).start, offsets.length(b));
            for (i, h) in (0..length).flat_map(|i| (0..heads).map(move |h| (i, h))) {
                let mut expect = vec![0.0; e];
                for j in (0..length).filter(|&j| hstu.sees(b, length, i, j)) {
                    let at = |token: usize, width: usize| ((first + token) * heads + h) * width;
                    let dot: f64 = (0..d).map(|c| q[at(i, d) + c] * k[at(j, d) + c]).sum();
                    let s = 0.5 * dot;
                    for c in 0..e {
                        expect[c] += 0.1 * s / (1.0 + (-s).exp()) * v[at(j, e) + c];
                    }
                }
                let at = ((first + i) * heads + h) * e;
                assert!(relative_error(&output[at..at + e], &expect) < 1e-12);
            }
        }
        let [mut dq, mut dk] = std::array::from_fn(|_| vec![f64::NAN; q.len()]);
        let mut dv = vec![f64::NAN; v.len()];
        let input = HstuInput { q: &q, k: &k, v: &v, offsets: &offsets };
        hstu.backward(&input, &d_output, [&mut dq, &mut dk, &mut dv]).unwrap();
        let (q0, k0, v0) = (q.clone(), k.clone(), v.clone());
        check_gradient("dq", &mut q, &dq, |q| weighted(&run(q, &k0, &v0), &d_output));
        check_gradient("dk", &mut k, &dk, |k| weighted(&run(&q0, k, &v0), &d_output));
        check_gradient("dv", &mut v, &dv, |v| weighted(&run(&q0, &k0, v), &d_output));
    }
}

/// Backward of rows on both sides of the length from which they are cut, against sums over pairs.
#[test]
fn hstu_rows_too_long_to_fuse() {
    let offsets = rows(&[1100, 40]);
    let (d, e, n) = (5, 3, offsets.total());
    let mut rng = random("hstu long", 0);
    let [q, k]: [Vec<f64>; 2] = std::array::from_fn(|_| normal(&mut rng, n * d));
    let [v, g]: [Vec<f64>; 2] = std::array::from_fn(|_| normal(&mut rng, n * e));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    for mask in [
        HstuMask::default(),
        HstuMask {
            contextual: 70,
            targets: Some(&[5, 2]),
            max_attention: 30,
            min_full_attention: 9,
        },
    ] {
        let hstu = HstuAttention::new(1, d, e, 0.5, 0.1, mask).unwrap();
        let [mut dq, mut dk] = std::array::from_fn(|_| vec![f64::NAN; q.len()]);
        let mut dv = vec![f64::NAN; v.len()];
        let input = HstuInput { q: &q, k: &k, v: &v, offsets: &offsets };
        hstu.backward(&input, &g, [&mut dq, &mut dk, &mut dv]).unwrap();
        let [mut exact_q, mut exact_k] = std::array::from_fn(|_| vec![0.0; q.len()]);
        let mut exact_v = vec![0.0; v.len()];
        for b in 0..2 {
            let (first, length) = (offsets.active(b).start, offsets.length(b));
            for (i, j) in (0..length).flat_map(|i| (0..length).map(move |j| (i, j))) {
                if !hstu.sees(b, length, i, j) {
                    continue;
                }
                let [at_q, at_k] = [i, j].map(|token| (first + token) * d..(first + token + 1) * d);
                let [at_g, at_v] = [i, j].map(|token| (first + token) * e..(first + token + 1) * e);
                let s = 0.5 * dot(&q[at_q.clone()], &k[at_k.clone()]);
                let sigmoid = 1.0 / (1.0 + (-s).exp());
                let slope = sigmoid + s * sigmoid * (1.0 - sigmoid);
                let ds = 0.5 * 0.1 * slope * dot(&g[at_g.clone()], &v[at_v.clone()]);
                for c in 0..d {
                    exact_q[at_q.start + c] += ds * k[at_k.start + c];
                    exact_k[at_k.start + c] += ds * q[at_q.start + c];
                }
                for c in 0..e {
                    exact_v[at_v.start + c] += 0.1 * s * sigmoid * g[at_g.start + c];
                }
            }
        }
        for (found, exact) in [(&dq, &exact_q), (&dk, &exact_k), (&dv, &exact_v)] {
            for part in [0..1100, 1100..1140] {
                let part = part.start * found.len() / n..part.end * found.len() / n;
                assert!(relative_error(&found[part.clone()], &exact[part]) < 1e-12);
            }
        }
    }
}

/// The mask as `ops/pytorch/pt_hstu_attention.py` of generative-recommenders computes
/// it, for one row: 2 contextual positions, 3 of history, 2 targets.
/// No rows, and rows without tokens: what a row has is written, nothing else is touched.
#[test]
fn operators_of_nothing() {
    for lengths in [&[][..], &[0, 0][..]] {
        let offsets = rows(lengths);
        let b = offsets.rows();
        let empty = |width: usize| JaggedView::<f32>::new(&[], width, &offsets).unwrap();
        let none: &mut [f32] = &mut [];
        let (mut dense, ones) = (vec![f32::NAN; b * 6], vec![1f32; b * 6]);
        jagged_dense_bmm(empty(2), &ones, 3, false, none).unwrap();
        jagged_jagged_bmm(empty(2), empty(3), &mut dense).unwrap();
        assert_eq!(dense, vec![0.0; b * 6]);
        jagged_softmax(empty(2), none).unwrap();
        jagged_softmax_backward(empty(2), &[], none).unwrap();
        jagged2_softmax::<f32>(&[], &offsets, &offsets, MatrixAxis::Rows, none).unwrap();
        jagged_jagged_bmm_jagged_out(empty(2), empty(2), none).unwrap();
        jagged_to_padded_dense(empty(2), 0.0, none).unwrap();
        jagged_dense_elementwise(Elementwise::Add, empty(2), &[], none).unwrap();
        assert!(repeat_arange(&offsets).is_empty() && source_mask(&offsets).is_empty());

        let pooled = PooledAttention::new(2, 1.0).unwrap();
        let (keys, values) = (empty(3), empty(3));
        let input = PooledInput { keys, values, targets: &ones, bias: None };
        let (mut output, mut lse) = (vec![f32::NAN; b * 6], vec![f32::NAN; b * 2]);
        pooled.forward(&input, &mut output, &mut lse).unwrap();
        assert_eq!((&output, &lse), (&vec![0.0; b * 6], &vec![f32::NEG_INFINITY; b * 2]));
        dense.fill(f32::NAN);
        let gradients =
            PooledGradients { keys: &mut [], values: &mut [], targets: &mut dense, bias: None };
        pooled.backward(&input, &output, &lse, &ones, gradients).unwrap();
        assert_eq!(dense, vec![0.0; b * 6]);

        let hstu = HstuAttention::new(2, 4, 3, 1.0, 1.0, HstuMask::default()).unwrap();
        let input = HstuInput::<f32> { q: &[], k: &[], v: &[], offsets: &offsets };
        hstu.forward(&input, &mut []).unwrap();
        hstu.backward(&input, &[], [&mut [], &mut [], &mut []]).unwrap();
    }
}

#[test]
fn hstu_masks() {
    let targets = [2];
    let mask = HstuMask {
        contextual: 2,
        targets: Some(&targets),
        max_attention: 1,
        min_full_attention: 1,
    };
    let hstu = HstuAttention::new(1, 1, 1, 1.0, 1.0, mask).unwrap();
    let picture: Vec<String> = (0..7)
        .map(|i| (0..7).map(|j| if hstu.sees(0, 7, i, j) { 'x' } else { '.' }).collect())
        .collect();
    // ids 0 0 1 2 3 4 4; targets are id 4 = the last; the history's last (3) sees everything before.
    let expect = ["xxxxx..", "xxxxx..", "xxx....", "..xx...", "xxxxx..", "xxxxxx.", "xxxxx.x"];
    assert_eq!(picture, expect);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// The small operators with any lengths, empty ones and cut ones included, against what
    /// they are defined to be adjoint to: `<f(x), y> = <x, f'(y)>` for each linear pair.
    #[test]
    fn linear_operators_and_their_gradients_are_adjoint(
        lengths in proptest::collection::vec(0i64..9, 0..6),
        max_len in 1usize..9,
        width in 1usize..5,
        seed in 0u64..1000,
    ) {
        let whole = Offsets::from_lengths(&lengths).unwrap();
        let offsets = whole.with_max_len(max_len, Overflow::Truncate).unwrap();
        let (t, b) = (offsets.total(), offsets.rows());
        let mut rng = random("adjoint", seed);
        let x: Vec<f64> = normal(&mut rng, t * width);
        let y: Vec<f64> = normal(&mut rng, b * max_len * width);
        let close = |left: f64, right: f64| (left - right).abs() <= 1e-10 * (1.0 + left.abs());

        let mut padded = vec![f64::NAN; y.len()];
        let mut gathered = vec![f64::NAN; x.len()];
        jagged_to_padded_dense(JaggedView::new(&x, width, &offsets).unwrap(), 0.0, &mut padded)
            .unwrap();
        dense_to_jagged(&y, &offsets, width, &mut gathered).unwrap();
        prop_assert!(close(weighted(&padded, &y), weighted(&x, &gathered)));

        let columns = 3;
        let matrices: Vec<f64> = normal(&mut rng, b * width * columns);
        let dz: Vec<f64> = normal(&mut rng, t * columns);
        let view = JaggedView::new(&x, width, &offsets).unwrap();
        let mut z = vec![f64::NAN; t * columns];
        jagged_dense_bmm(view, &matrices, columns, false, &mut z).unwrap();
        let dz_view = JaggedView::new(&dz, columns, &offsets).unwrap();
        let mut dx = vec![f64::NAN; t * width];
        jagged_dense_bmm(dz_view, &matrices, width, true, &mut dx).unwrap();
        let mut dy = vec![f64::NAN; matrices.len()];
        jagged_jagged_bmm(view, dz_view, &mut dy).unwrap();
        let product = weighted(&z, &dz);
        prop_assert!(close(product, weighted(&x, &dx)));
        prop_assert!(close(product, weighted(&matrices, &dy)));

        // Each row of a softmax sums to one, and its gradient to zero.
        let mut p = vec![f64::NAN; t * width];
        jagged_softmax(view, &mut p).unwrap();
        let p_view = JaggedView::new(&p, width, &offsets).unwrap();
        let g: Vec<f64> = normal(&mut rng, t * width);
        let mut ds = vec![f64::NAN; t * width];
        jagged_softmax_backward(p_view, &g, &mut ds).unwrap();
        for row in 0..b {
            let active = offsets.active(row);
            let expected = f64::from(u8::from(!active.is_empty()));
            for c in 0..width {
                let sum = |x: &[f64]| active.clone().map(|i| x[i * width + c]).sum::<f64>();
                prop_assert!(close(sum(&p), expected));
                prop_assert!(sum(&ds).abs() < 1e-12);
            }
        }
    }
}
