//! The definition of attention in f64, score by score: what every executor is tested against.

use super::{Attention, AttentionInput};
use crate::{Element, JaggedError, Real};

/// Output and log-sum-exp of [`reference_attention`].
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceAttention {
    /// `[T_q, H, D]`
    pub output: Vec<f64>,
    /// `[H, T_q]`
    pub lse: Vec<f64>,
    /// Gradients, where the output's gradient was given.
    pub gradients: Option<ReferenceGradients>,
}

/// Gradients of [`reference_attention`].
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceGradients {
    /// `[T_q, H, D]`
    pub dq: Vec<f64>,
    /// `[T_k, G, D]`
    pub dk: Vec<f64>,
    /// `[T_k, G, D]`
    pub dv: Vec<f64>,
    /// As the bias; empty without one.
    pub dbias: Vec<f64>,
}

/// Attention by its definition, in f64 on the widened inputs, all scores of a row stored.
pub fn reference_attention<T: Element>(
    attention: &Attention,
    input: &AttentionInput<'_, T>,
    d_output: Option<&[T]>,
) -> Result<ReferenceAttention, JaggedError> {
    attention.check_input(input)?;
    let (heads, d, group) = (attention.heads, attention.head_dim, attention.group());
    let tokens = input.offsets_q.total();
    let wide = |values: &[T], at: usize| -> Vec<f64> {
        values[at..at + d].iter().map(|x| x.widen().to_f64()).collect()
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let mut result = ReferenceAttention {
        output: vec![0.0; tokens * heads * d],
        lse: vec![f64::NEG_INFINITY; heads * tokens],
        gradients: d_output.map(|_| ReferenceGradients {
            dq: vec![0.0; input.q.len()],
            dk: vec![0.0; input.k.len()],
            dv: vec![0.0; input.v.len()],
            dbias: vec![0.0; input.bias.as_ref().map_or(0, |bias| bias.values.len())],
        }),
    };
    for b in 0..input.offsets_q.rows() {
        let (queries, keys) = (input.offsets_q.active(b), input.offsets_k.active(b));
        for h in 0..heads {
            let at_k = |j: usize| ((keys.start + j) * attention.kv_heads + h / group) * d;
            let k: Vec<_> = (0..keys.len()).map(|j| wide(input.k, at_k(j))).collect();
            let v: Vec<_> = (0..keys.len()).map(|j| wide(input.v, at_k(j))).collect();
            for i in 0..queries.len() {
                let at = ((queries.start + i) * heads + h) * d;
                let q = wide(input.q, at);
                let allowed = attention.mask.interval(i, queries.len(), keys.len());
                if allowed.is_empty() {
                    continue;
                }
                let bias_at = input.bias.as_ref().map(|bias| bias.start(b, h, i));
                let score = |j: usize| {
                    let bias = match (&input.bias, bias_at) {
                        (Some(bias), Some(at)) => bias.values[at + j].to_f64(),
                        _ => 0.0,
                    };
                    attention.scale * dot(&q, &k[j]) + bias
                };
                let scores: Vec<f64> = allowed.clone().map(score).collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
                let lse = largest + total.ln();
                result.lse[h * tokens + queries.start + i] = lse;
                for (&s, j) in scores.iter().zip(allowed.clone()) {
                    for c in 0..d {
                        result.output[at + c] += (s - lse).exp() * v[j][c];
                    }
                }
                let (Some(g), Some(d_output)) = (&mut result.gradients, d_output) else { continue };
                let d_out = wide(d_output, at);
                let delta = dot(&d_out, &result.output[at..at + d]);
                for (&s, j) in scores.iter().zip(allowed) {
                    let p = (s - lse).exp();
                    let ds = p * (dot(&d_out, &v[j]) - delta);
                    for c in 0..d {
                        g.dv[at_k(j) + c] += p * d_out[c];
                        g.dq[at + c] += attention.scale * ds * k[j][c];
                        g.dk[at_k(j) + c] += attention.scale * ds * q[c];
                    }
                    if let Some(at) = bias_at {
                        g.dbias[at + j] += ds;
                    }
                }
            }
        }
    }
    Ok(result)
}
