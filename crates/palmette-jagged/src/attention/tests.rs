//! Attention against its definition in f64, and the definition against differences.

use half::{bf16, f16};
use proptest::prelude::*;

use super::*;
use crate::testing::{border_lengths, check_gradient, normal, random, relative_error, rows};
use crate::{Element, Offsets, Overflow, Real};

struct Case {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    mask: Mask,
    offsets_q: Offsets,
    offsets_k: Offsets,
    /// Batch and heads of the bias.
    bias: Option<(usize, usize)>,
    /// Factor on the inputs: 20 gives scores in the hundreds.
    size: f64,
}

impl Case {
    fn own(mask: Mask, lengths: &[i64]) -> Self {
        let offsets = rows(lengths);
        Self {
            heads: 2,
            kv_heads: 2,
            head_dim: 16,
            mask,
            offsets_q: offsets.clone(),
            offsets_k: offsets,
            bias: None,
            size: 1.0,
        }
    }
}

/// Runs forward and backward with poisoned outputs and compares every tensor.
fn check<T: Element>(seed: u64, case: &Case, forward_bound: f64, backward_bound: f64) {
    let Case { heads, kv_heads, head_dim: d, mask, offsets_q, offsets_k, bias, size } = case;
    let mut rng = random("attention", seed);
    let tokens_q = offsets_q.total() * heads * d;
    let tokens_k = offsets_k.total() * kv_heads * d;
    let scaled = |values: Vec<T>| -> Vec<T> {
        values.iter().map(|x| T::narrow(x.widen() * T::Sum::of(*size))).collect()
    };
    let q: Vec<T> = scaled(normal(&mut rng, tokens_q));
    let k: Vec<T> = scaled(normal(&mut rng, tokens_k));
    let v: Vec<T> = normal(&mut rng, tokens_k);
    let d_output: Vec<T> = normal(&mut rng, tokens_q);
    let (max_q, max_k) = (offsets_q.longest() + 1, offsets_k.longest() + 2);
    let values: Vec<T::Sum> = match bias {
        Some((batch, bias_heads)) => normal(&mut rng, batch * bias_heads * max_q * max_k),
        None => Vec::new(),
    };
    let bias = bias.map(|(batch, heads)| Bias { values: &values, batch, heads, max_q, max_k });
    let input = AttentionInput { q: &q, k: &k, v: &v, offsets_q, offsets_k, bias };
    let attention = Attention::new(*heads, *kv_heads, *d, *mask).unwrap();

    let poison = T::narrow(T::Sum::of(f64::NAN));
    let mut output = vec![poison; tokens_q];
    let mut lse = vec![T::Sum::of(f64::NAN); heads * offsets_q.total()];
    attention.forward(&input, &mut output, &mut lse).unwrap();
    let expected = reference_attention(&attention, &input, Some(&d_output)).unwrap();
    let error = relative_error(&output, &expected.output);
    assert!(error <= forward_bound, "output {error:e}");
    for (found, exact) in lse.iter().zip(&expected.lse) {
        let same = found.to_f64() == *exact;
        // A score of a thousand has an f32 spacing of 1.2e-4, so there the bound is relative.
        let bound = 1e-5f64.max(5e-7 * exact.abs());
        assert!(same || (found.to_f64() - exact).abs() <= bound, "lse {found:?} {exact}");
    }

    let mut dq = vec![poison; tokens_q];
    let (mut dk, mut dv) = (vec![poison; tokens_k], vec![poison; tokens_k]);
    let mut dbias = vec![T::Sum::of(f64::NAN); values.len()];
    let gradients =
        AttentionGradients { dq: &mut dq, dk: &mut dk, dv: &mut dv, dbias: Some(&mut dbias) };
    attention.backward(&input, &output, &lse, &d_output, gradients).unwrap();
    let exact = expected.gradients.unwrap();
    let dbias_error = relative_error(&dbias, &exact.dbias);
    for (name, error) in [
        ("dq", relative_error(&dq, &exact.dq)),
        ("dk", relative_error(&dk, &exact.dk)),
        ("dv", relative_error(&dv, &exact.dv)),
        ("dbias", dbias_error),
    ] {
        assert!(error <= backward_bound, "{name} {error:e}");
    }
}

const MASKS: [Mask; 5] = [
    Mask::Full,
    Mask::Causal,
    Mask::Window { left: 5, right: 0 },
    Mask::Window { left: 70, right: 3 },
    Mask::Window { left: 0, right: usize::MAX },
];

#[test]
fn every_mask_in_every_type() {
    for (seed, mask) in MASKS.into_iter().enumerate() {
        let lengths = border_lengths(&mut random("lengths", seed as u64), 300);
        let case = Case::own(mask, &lengths);
        check::<f64>(seed as u64, &case, 1e-13, 1e-12);
        check::<f32>(seed as u64, &case, 1e-6, 3e-6);
        check::<bf16>(seed as u64, &case, 3e-3, 5e-3);
        check::<f16>(seed as u64, &case, 3e-3, 5e-3);
    }
}

#[test]
fn cross_attention_with_more_and_fewer_keys() {
    for (seed, mask) in MASKS.into_iter().enumerate() {
        let case = Case {
            offsets_q: rows(&[70, 0, 3, 1, 130]),
            offsets_k: rows(&[10, 5, 0, 200, 131]),
            ..Case::own(mask, &[])
        };
        check::<f64>(seed as u64, &case, 1e-13, 1e-12);
        check::<f32>(seed as u64, &case, 1e-6, 3e-6);
    }
}

#[test]
fn grouped_heads_and_wide_heads() {
    for (heads, kv_heads, head_dim) in [(4, 2, 24), (3, 1, 256), (1, 1, 16), (6, 3, 40)] {
        let case = Case { heads, kv_heads, head_dim, ..Case::own(Mask::Causal, &[65, 0, 20]) };
        check::<f64>(7, &case, 1e-13, 1e-12);
        check::<f32>(7, &case, 1e-6, 3e-6);
    }
}

#[test]
fn bias_shared_or_not() {
    for bias in [(1, 1), (1, 4), (5, 1), (5, 4)] {
        let lengths = [66, 0, 3, 1, 130];
        let case = Case {
            heads: 4,
            kv_heads: 2,
            bias: Some(bias),
            ..Case::own(Mask::Window { left: 40, right: 2 }, &lengths)
        };
        check::<f64>(3, &case, 1e-13, 1e-12);
        check::<f32>(3, &case, 1e-6, 3e-6);
    }
}

#[test]
fn scores_in_the_hundreds() {
    let case = Case { size: 20.0, ..Case::own(Mask::Full, &[64, 0, 65, 200]) };
    check::<f64>(1, &case, 1e-12, 1e-10);
    // An f32 score of 1000 is known to 6e-5, which its exponential multiplies by one.
    check::<f32>(1, &case, 2e-4, 1e-3);
}

#[test]
fn a_row_too_long_to_fuse() {
    for mask in [Mask::Causal, Mask::Window { left: 90, right: 3 }] {
        let case = Case { kv_heads: 1, head_dim: 256, ..Case::own(mask, &[5, 1100, 0]) };
        check::<f32>(1, &case, 1e-6, 3e-6);
    }
}

#[test]
fn one_very_long_row() {
    let case = Case::own(Mask::Window { left: 20, right: 2 }, &[0, 20_000, 3]);
    check::<f32>(1, &case, 1e-6, 3e-6);
}

#[test]
fn truncation_zeroes_what_is_cut() {
    let offsets = Offsets::new(&[0i64, 70, 70, 75], 20, Overflow::Truncate).unwrap();
    let case =
        Case { offsets_q: offsets.clone(), offsets_k: offsets, ..Case::own(Mask::Causal, &[]) };
    check::<f64>(1, &case, 1e-13, 1e-12);
}

#[test]
fn no_rows_and_no_tokens() {
    for lengths in [&[][..], &[0, 0, 0][..]] {
        for mask in MASKS {
            check::<f32>(1, &Case::own(mask, lengths), 0.0, 0.0);
        }
    }
}

#[test]
fn the_definition_agrees_with_differences() {
    let (offsets_q, offsets_k) = (rows(&[3, 0, 2]), rows(&[2, 1, 4]));
    let attention = Attention::new(2, 1, 16, Mask::Window { left: 2, right: 1 }).unwrap();
    let mut rng = random("differences", 0);
    let mut q: Vec<f64> = normal(&mut rng, 5 * 2 * 16);
    let mut k: Vec<f64> = normal(&mut rng, 7 * 16);
    let mut v: Vec<f64> = normal(&mut rng, 7 * 16);
    let mut bias: Vec<f64> = normal(&mut rng, 2 * 3 * 4);
    let weights: Vec<f64> = normal(&mut rng, 5 * 2 * 16);
    let run = |q: &[f64], k: &[f64], v: &[f64], bias: &[f64], weights: Option<&[f64]>| {
        let bias = Some(Bias { values: bias, batch: 1, heads: 2, max_q: 3, max_k: 4 });
        let input = AttentionInput { q, k, v, offsets_q: &offsets_q, offsets_k: &offsets_k, bias };
        reference_attention(&attention, &input, weights).unwrap()
    };
    let loss = |q: &[f64], k: &[f64], v: &[f64], bias: &[f64]| -> f64 {
        run(q, k, v, bias, None).output.iter().zip(&weights).map(|(o, w)| o * w).sum()
    };
    let exact = run(&q, &k, &v, &bias, Some(&weights)).gradients.unwrap();
    let (k0, v0, bias0) = (k.clone(), v.clone(), bias.clone());
    check_gradient("dq", &mut q, &exact.dq, |q| loss(q, &k0, &v0, &bias0));
    check_gradient("dk", &mut k, &exact.dk, |k| loss(&q, k, &v0, &bias0));
    check_gradient("dv", &mut v, &exact.dv, |v| loss(&q, &k0, v, &bias0));
    check_gradient("dbias", &mut bias, &exact.dbias, |bias| loss(&q, &k0, &v0, bias));
}

#[test]
fn bits_do_not_depend_on_threads() {
    let lengths = border_lengths(&mut random("threads", 0), 1100);
    let offsets = rows(&lengths);
    let n = offsets.total() * 4 * 16;
    let mut rng = random("threads", 1);
    let [q, k, v, g]: [Vec<f32>; 4] = std::array::from_fn(|_| normal(&mut rng, n));
    let attention = Attention::new(4, 4, 16, Mask::Causal).unwrap();
    let input = AttentionInput {
        q: &q,
        k: &k,
        v: &v,
        offsets_q: &offsets,
        offsets_k: &offsets,
        bias: None,
    };
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut output = vec![0f32; n];
            let mut lse = vec![0f32; 4 * offsets.total()];
            attention.forward(&input, &mut output, &mut lse).unwrap();
            let [mut dq, mut dk, mut dv] = std::array::from_fn(|_| vec![0f32; n]);
            let gradients =
                AttentionGradients { dq: &mut dq, dk: &mut dk, dv: &mut dv, dbias: None };
            attention.backward(&input, &output, &lse, &g, gradients).unwrap();
            [output, lse, dq, dk, dv].concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>()
        })
    };
    let one = run(1);
    assert!(one == run(2) && one == run(5));
}

#[test]
fn nan_in_a_neighbour_stays_there() {
    let offsets = rows(&[64, 3, 65]);
    let n = offsets.total() * 16;
    let mut rng = random("neighbour", 0);
    let [q, mut k, mut v, g]: [Vec<f32>; 4] = std::array::from_fn(|_| normal(&mut rng, n));
    for i in 64 * 16..67 * 16 {
        (k[i], v[i]) = (f32::NAN, f32::NAN);
    }
    let attention = Attention::new(1, 1, 16, Mask::Full).unwrap();
    let input = AttentionInput {
        q: &q,
        k: &k,
        v: &v,
        offsets_q: &offsets,
        offsets_k: &offsets,
        bias: None,
    };
    let (mut output, mut lse) = (vec![0f32; n], vec![0f32; offsets.total()]);
    attention.forward(&input, &mut output, &mut lse).unwrap();
    let [mut dq, mut dk, mut dv] = std::array::from_fn(|_| vec![0f32; n]);
    let gradients = AttentionGradients { dq: &mut dq, dk: &mut dk, dv: &mut dv, dbias: None };
    attention.backward(&input, &output, &lse, &g, gradients).unwrap();
    for values in [&output, &dq, &dk, &dv] {
        let outside = values[..64 * 16].iter().chain(&values[67 * 16..]);
        assert!(outside.into_iter().all(|x| x.is_finite()));
    }
}

#[test]
fn bad_shapes_are_named() {
    let bad = |heads, kv_heads, d| Attention::new(heads, kv_heads, d, Mask::Full).unwrap_err();
    assert_eq!(
        bad(1, 1, 12).to_string(),
        "the head dimension is 12: a multiple of 8 from 16 to 256"
    );
    assert!(bad(1, 1, 264).to_string().contains("264"));
    assert!(bad(4, 3, 16).to_string().contains("4 and 3"));
    assert!(bad(0, 1, 16).to_string().contains("0 and 1"));
    let attention = Attention::new(1, 1, 16, Mask::Full).unwrap();
    assert!(attention.with_scale(f64::NAN).is_err());
    let (offsets, x) = (rows(&[2]), [0f32; 32]);
    let input = AttentionInput {
        q: &x,
        k: &x,
        v: &x[..16],
        offsets_q: &offsets,
        offsets_k: &offsets,
        bias: None,
    };
    let error = attention.forward(&input, &mut [0.0; 32], &mut [0.0; 2]).unwrap_err();
    assert_eq!(error.to_string(), "v has 16 elements, expected 32 = T_k 2 x G 1 x D 16");
    let bias = Bias { values: &x[..1], batch: 1, heads: 1, max_q: 1, max_k: 1 };
    let input = AttentionInput { v: &x, bias: Some(bias), ..input };
    let error = attention.forward(&input, &mut [0.0; 32], &mut [0.0; 2]).unwrap_err();
    assert!(error.to_string().contains("max_q"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_lengths_heads_and_windows(
        lengths in prop::collection::vec((0i64..140, 0i64..140), 0..5),
        group in 1usize..4,
        kv_heads in 1usize..3,
        eighths in 2usize..6,
        left in 0usize..80,
        right in 0usize..80,
        kind in 0usize..3,
        seed in 0u64..1000,
    ) {
        let (q, k): (Vec<_>, Vec<_>) = lengths.into_iter().unzip();
        let case = Case {
            heads: group * kv_heads,
            kv_heads,
            head_dim: eighths * 8,
            mask: [Mask::Full, Mask::Causal, Mask::Window { left, right }][kind],
            offsets_q: rows(&q),
            offsets_k: rows(&k),
            bias: (seed % 2 == 0).then_some((1, group * kv_heads)),
            size: 1.0,
        };
        check::<f64>(seed, &case, 1e-12, 1e-11);
        check::<f32>(seed, &case, 2e-6, 2e-5);
    }

    #[test]
    fn intervals_are_inside_and_monotone(
        n_q in 1usize..50, n_k in 0usize..50, left in 0usize..60, right in 0usize..60, kind in 0usize..3,
    ) {
        let mask = [Mask::Full, Mask::Causal, Mask::Window { left, right }][kind];
        let mut before = 0..0;
        for i in 0..n_q {
            let interval = mask.interval(i, n_q, n_k);
            prop_assert!(interval.end <= n_k);
            prop_assert!(interval.start >= before.start && interval.end >= before.end);
            for j in 0..n_k {
                let distance = j as i64 - (i as i64 + n_k as i64 - n_q as i64);
                let expect = match mask {
                    Mask::Full => true,
                    Mask::Causal => distance <= 0,
                    Mask::Window { left, right } => {
                        -(left as i64) <= distance && distance <= right as i64
                    }
                };
                prop_assert_eq!(interval.contains(&j), expect);
            }
            before = interval;
        }
    }
}

/// More than 2^31 elements lie before the second row's keys. The first row is cut after five,
/// so that of its 8 GiB, which are zero and never touched, none become resident.
#[test]
fn keys_beyond_32_bits_of_elements() {
    let (d, far) = (16, 1i64 << 27);
    let mut keys = vec![0f32; (far as usize + 3) * d];
    assert!(keys.len() > 1 << 31);
    let own: Vec<f32> = (0..3 * d).map(|i| (i as f32 * 0.7).sin()).collect();
    let at = keys.len() - own.len();
    keys[at..].copy_from_slice(&own);
    let offsets_q = rows(&[1, 2]);
    let offsets_k = Offsets::new(&[0, far, far + 3], 5, crate::Overflow::Truncate).unwrap();
    let q: Vec<f32> = (0..3 * d).map(|i| (i as f32 * 0.3).cos()).collect();
    let attention = Attention::new(1, 1, d, Mask::Full).unwrap();
    let run = |q: &[f32], k: &[f32], offsets_q: &Offsets, offsets_k: &Offsets| {
        let input = AttentionInput { q, k, v: k, offsets_q, offsets_k, bias: None };
        let (mut out, mut lse) = (vec![f32::NAN; q.len()], vec![f32::NAN; q.len() / d]);
        attention.forward(&input, &mut out, &mut lse).unwrap();
        out
    };
    let out = run(&q, &keys, &offsets_q, &offsets_k);
    assert_eq!(out[..d], vec![0.0; d]);
    assert_eq!(out[d..], run(&q[d..], &own, &rows(&[2]), &rows(&[3])));

    // The same buffer, padded: rows of the padded tensor come from both ends of it.
    let mut dense = vec![f32::NAN; 2 * 5 * d];
    let view = crate::JaggedView::new(&keys, d, &offsets_k).unwrap();
    crate::jagged_to_padded_dense(view, -1.0, &mut dense).unwrap();
    assert_eq!(dense[..5 * d], vec![0.0; 5 * d]);
    assert_eq!((&dense[5 * d..8 * d], dense[8 * d]), (&own[..], -1.0));
}
