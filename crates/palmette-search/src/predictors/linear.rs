//! Linear layers over one flat list of weights, with explicit gradients, and the descent that
//! trains them: what the network predictors share.

use palmette_random::{ChaCha8Rng, Draw};

/// A layer y = W x + b. Its weights lie from `start` on, one row of `inputs` numbers per output, and
/// its biases after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Linear {
    start: usize,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    /// Appends a layer with Kaiming-normal weights and zero biases.
    pub fn push(
        weights: &mut Vec<f64>,
        inputs: usize,
        outputs: usize,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let layer = Self { start: weights.len(), inputs, outputs };
        let deviation = (2.0 / inputs.max(1) as f64).sqrt();
        weights.extend((0..inputs * outputs).map(|_| deviation * rng.normal()));
        weights.extend(std::iter::repeat_n(0.0, outputs));
        layer
    }

    /// Numbers that go in.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    fn row(&self, output: usize) -> std::ops::Range<usize> {
        let start = self.start + output * self.inputs;
        start..start + self.inputs
    }

    fn bias(&self, output: usize) -> usize {
        self.start + self.inputs * self.outputs + output
    }

    /// The outputs.
    pub fn forward(&self, weights: &[f64], input: &[f64]) -> Vec<f64> {
        (0..self.outputs)
            .map(|o| dot(&weights[self.row(o)], input) + weights[self.bias(o)])
            .collect()
    }

    /// Adds the gradient of the weights, and returns that of the input.
    pub fn backward(
        &self,
        weights: &[f64],
        input: &[f64],
        slopes: &[f64],
        gradient: &mut [f64],
    ) -> Vec<f64> {
        let mut before = vec![0.0; self.inputs];
        for (o, &slope) in slopes.iter().enumerate() {
            if slope == 0.0 {
                continue;
            }
            gradient[self.bias(o)] += slope;
            for (g, x) in gradient[self.row(o)].iter_mut().zip(input) {
                *g += slope * x;
            }
            for (b, w) in before.iter_mut().zip(&weights[self.row(o)]) {
                *b += slope * w;
            }
        }
        before
    }
}

/// Layers with ReLU after each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tower {
    layers: Vec<Linear>,
}

impl Tower {
    /// Appends layers of these widths.
    pub fn push(
        weights: &mut Vec<f64>,
        inputs: usize,
        widths: &[usize],
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let before = [inputs].into_iter().chain(widths.iter().copied());
        let layers = before
            .zip(widths)
            .map(|(inputs, &outputs)| Linear::push(weights, inputs, outputs, rng))
            .collect();
        Self { layers }
    }

    /// Numbers that go in; `None` where there is no layer.
    pub fn inputs(&self) -> Option<usize> {
        self.layers.first().map(Linear::inputs)
    }

    /// Activations, the input first.
    pub fn forward(&self, weights: &[f64], input: Vec<f64>) -> Vec<Vec<f64>> {
        let mut activations = vec![input];
        for (i, layer) in self.layers.iter().enumerate() {
            let mut output = layer.forward(weights, &activations[i]);
            output.iter_mut().for_each(|y| *y = y.max(0.0));
            activations.push(output);
        }
        activations
    }

    /// Adds the gradient of the weights, and returns that of the input.
    pub fn backward(
        &self,
        weights: &[f64],
        activations: &[Vec<f64>],
        mut slopes: Vec<f64>,
        gradient: &mut [f64],
    ) -> Vec<f64> {
        for (i, layer) in self.layers.iter().enumerate().rev() {
            for (slope, &y) in slopes.iter_mut().zip(&activations[i + 1]) {
                if y <= 0.0 {
                    *slope = 0.0;
                }
            }
            slopes = layer.backward(weights, &activations[i], &slopes, gradient);
        }
        slopes
    }
}

/// The scalar product, in eight partial sums so that it vectorises.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
    for (a, b) in a.zip(b) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Stochastic gradient descent with momentum 0.9 and the norm of the gradient clipped at 100.
#[derive(Clone, Debug)]
pub(super) struct Descent {
    momentum: Vec<f64>,
    /// L2 penalty.
    pub decay: f64,
}

impl Descent {
    pub fn new(weights: usize, decay: f64) -> Self {
        Self { momentum: vec![0.0; weights], decay }
    }

    pub fn step(&mut self, weights: &mut [f64], gradient: &[f64], rate: f64) {
        let norm = dot(gradient, gradient).sqrt();
        let clip = if norm > 100.0 { 100.0 / norm } else { 1.0 };
        for ((weight, momentum), slope) in weights.iter_mut().zip(&mut self.momentum).zip(gradient)
        {
            *momentum = 0.9 * *momentum + clip * slope + self.decay * *weight;
            *weight -= rate * *momentum;
        }
    }
}

/// The share of the learning rate at `progress` in 0..1: a linear rise over the first `warm_up` of
/// it, then half a cosine down to 0.
pub(super) fn cosine(progress: f64, warm_up: f64) -> f64 {
    if progress < warm_up {
        return progress / warm_up;
    }
    0.5 * (1.0 + (std::f64::consts::PI * (progress - warm_up) / (1.0 - warm_up)).cos())
}
