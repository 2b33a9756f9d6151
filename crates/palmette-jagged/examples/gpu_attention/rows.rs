//! Errors row by row.
//!
//! The gradients of queries, keys and bias are sums of `p (dp - delta)`, differences of nearly
//! equal numbers where a row is short: with one key they are exactly 0, with three what 16-bit
//! operands leave is some per cent of them, in every implementation. So the error of a row is set
//! against the norm of what is summed, each term with its absolute value
//! (`scale sum_j p_ij (|dp_ij| + |delta_i|) |k_j|` for a query): the scale that rounding has.

use std::ops::Range;

use palmette_jagged::{Attention, AttentionInput, Element, Offsets, Real, ReferenceAttention};

/// Sums of the absolute values of the terms of gradients, in their layouts, and of scores.
pub struct Terms {
    /// For each log-sum-exp the softmax's mean of `scale sum_c |q_c k_c| + |bias|`.
    pub products: Vec<f64>,
    pub dq: Vec<f64>,
    pub dk: Vec<f64>,
    pub dbias: Vec<f64>,
}

impl Terms {
    pub fn new<T: Element>(
        attention: &Attention,
        input: &AttentionInput<'_, T>,
        exact: &ReferenceAttention,
        d_output: &[T],
    ) -> Self {
        let (heads, kv_heads, d) = (attention.heads(), attention.kv_heads(), attention.head_dim());
        let (scale, tokens) = (attention.scale(), input.offsets_q.total());
        let wide = |values: &[T], at: usize| -> Vec<f64> {
            values[at..at + d].iter().map(|x| x.widen().to_f64()).collect()
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let mut terms = Self {
            products: vec![0.0; exact.lse.len()],
            dq: vec![0.0; input.q.len()],
            dk: vec![0.0; input.k.len()],
            dbias: vec![0.0; input.bias.as_ref().map_or(0, |bias| bias.values.len())],
        };
        for b in 0..input.offsets_q.rows() {
            let (queries, keys) = (input.offsets_q.active(b), input.offsets_k.active(b));
            for (i, h) in (0..queries.len()).flat_map(|i| (0..heads).map(move |h| (i, h))) {
                let at_q = ((queries.start + i) * heads + h) * d;
                let (q, g) = (wide(input.q, at_q), wide(d_output, at_q));
                let at_lse = h * tokens + queries.start + i;
                let lse = exact.lse[at_lse];
                let delta = dot(&g, &exact.output[at_q..at_q + d]);
                let bias_at = input.bias.as_ref().map(|bias| {
                    let row = if bias.batch == 1 { 0 } else { b };
                    let head = if bias.heads == 1 { 0 } else { h };
                    ((row * bias.heads + head) * bias.max_q + i) * bias.max_k
                });
                for j in attention.mask().interval(i, queries.len(), keys.len()) {
                    let at_k = ((keys.start + j) * kv_heads + h / (heads / kv_heads)) * d;
                    let (k, v) = (wide(input.k, at_k), wide(input.v, at_k));
                    let bias = match (&input.bias, bias_at) {
                        (Some(bias), Some(at)) => bias.values[at + j].to_f64(),
                        _ => 0.0,
                    };
                    let p = (scale * dot(&q, &k) + bias - lse).exp();
                    let term = p * (dot(&g, &v).abs() + delta.abs());
                    let products: f64 = q.iter().zip(&k).map(|(x, y)| (x * y).abs()).sum();
                    terms.products[at_lse] += p * (scale * products + bias.abs());
                    for c in 0..d {
                        terms.dq[at_q + c] += scale * term * k[c].abs();
                        terms.dk[at_k + c] += scale * term * q[c].abs();
                    }
                    if let Some(at) = bias_at {
                        terms.dbias[at + j] += term;
                    }
                }
            }
        }
        terms
    }
}

/// The elements of each row in a tensor `[T, width]`.
pub fn ranges(offsets: &Offsets, width: usize) -> Vec<Range<usize>> {
    let range = |b| offsets.range(b).start * width..offsets.range(b).end * width;
    (0..offsets.rows()).map(range).collect()
}

/// The largest `|found - exact| / |scale|` of the rows; infinite where a NaN is left.
pub fn worst<T: Element>(
    found: &[T],
    exact: &[f64],
    scale: &[f64],
    ranges: &[Range<usize>],
) -> f64 {
    let error = |range: &Range<usize>| {
        let differences = found[range.clone()].iter().zip(&exact[range.clone()]);
        let difference: f64 = differences.map(|(f, e)| (f.widen().to_f64() - e).powi(2)).sum();
        let norm: f64 = scale[range.clone()].iter().map(|x| x * x).sum();
        match difference {
            0.0 => 0.0,
            x if x.is_nan() => f64::INFINITY,
            x => (x / norm).sqrt(),
        }
    };
    ranges.iter().map(error).fold(0.0, f64::max)
}
