//! Linear layers over one flat list of weights, a batch at a time with explicit gradients, and the
//! descent that trains them: what the network predictors share.

use palmette_random::{ChaCha8Rng, Draw};

/// Gain of Kaiming's normal weights for ReLU.
pub(super) const KAIMING: f64 = 2.0;

/// A layer y = W x + b. Its weights lie from `start` on, one row of `inputs` numbers per output, and
/// its biases after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Linear {
    start: usize,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    /// Appends a layer with normal weights of variance `gain / inputs` and zero biases.
    pub fn push(
        weights: &mut Vec<f64>,
        inputs: usize,
        outputs: usize,
        gain: f64,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let layer = Self { start: weights.len(), inputs, outputs };
        let deviation = (gain / inputs.max(1) as f64).sqrt();
        weights.extend((0..inputs * outputs).map(|_| deviation * rng.normal()));
        weights.extend(std::iter::repeat_n(0.0, outputs));
        layer
    }

    /// Numbers that go in.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    fn matrix(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.inputs * self.outputs
    }

    fn biases(&self) -> std::ops::Range<usize> {
        let start = self.matrix().end;
        start..start + self.outputs
    }

    /// Outputs `[n, outputs]` of inputs `[n, inputs]`.
    pub fn forward(&self, weights: &[f64], n: usize, input: &[f64]) -> Vec<f64> {
        let biases = &weights[self.biases()];
        let mut output: Vec<f64> = (0..n).flat_map(|_| biases).copied().collect();
        let (input, matrix) =
            (rows(input, self.inputs), rows(&weights[self.matrix()], self.inputs));
        add_product([n, self.inputs, self.outputs], input, matrix.transposed(), &mut output);
        output
    }

    /// Adds the gradient of the weights, summed over the `n` samples, and returns that of the
    /// inputs. `slopes` are `[n, outputs]`.
    pub fn backward(
        &self,
        weights: &[f64],
        n: usize,
        input: &[f64],
        slopes: &[f64],
        gradient: &mut [f64],
    ) -> Vec<f64> {
        for slopes in slopes.chunks_exact(self.outputs.max(1)) {
            gradient[self.biases()].iter_mut().zip(slopes).for_each(|(g, slope)| *g += slope);
        }
        let (input, slopes) = (rows(input, self.inputs), rows(slopes, self.outputs));
        let sizes = [self.outputs, n, self.inputs];
        add_product(sizes, slopes.transposed(), input, &mut gradient[self.matrix()]);
        let mut before = vec![0.0; n * self.inputs];
        let matrix = rows(&weights[self.matrix()], self.inputs);
        add_product([n, self.outputs, self.inputs], slopes, matrix, &mut before);
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
        gain: f64,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let before = [inputs].into_iter().chain(widths.iter().copied());
        let layers = before
            .zip(widths)
            .map(|(inputs, &outputs)| Linear::push(weights, inputs, outputs, gain, rng))
            .collect();
        Self { layers }
    }

    /// Numbers that go in; `None` where there is no layer.
    pub fn inputs(&self) -> Option<usize> {
        self.layers.first().map(Linear::inputs)
    }

    /// Activations of `n` samples, the input first.
    pub fn forward(&self, weights: &[f64], n: usize, input: Vec<f64>) -> Vec<Vec<f64>> {
        let mut activations = vec![input];
        for (i, layer) in self.layers.iter().enumerate() {
            let mut output = layer.forward(weights, n, &activations[i]);
            output.iter_mut().for_each(|y| *y = y.max(0.0));
            activations.push(output);
        }
        activations
    }

    /// Adds the gradient of the weights, and returns that of the inputs.
    pub fn backward(
        &self,
        weights: &[f64],
        n: usize,
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
            slopes = layer.backward(weights, n, &activations[i], &slopes, gradient);
        }
        slopes
    }
}

/// A matrix in a slice, with the strides of its rows and columns.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    values: &'a [f64],
    strides: [usize; 2],
}

/// A matrix whose rows of `width` numbers follow one another.
fn rows(values: &[f64], width: usize) -> Matrix<'_> {
    Matrix { values, strides: [width, 1] }
}

impl Matrix<'_> {
    fn transposed(self) -> Self {
        Self { strides: [self.strides[1], self.strides[0]], ..self }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        let last = (rows - 1) * self.strides[0] + (columns - 1) * self.strides[1];
        last < self.values.len()
    }
}

/// c + a b, where a is `[n, k]`, b `[k, m]` and c `[n, m]` by rows.
///
/// By the matrixmultiply crate on one thread: against loops that the compiler vectorises for the
/// oldest processor, whole fits take 0.84 (MLP) and 0.61 (dense-sparse) of the time.
fn add_product([n, k, m]: [usize; 3], a: Matrix<'_>, b: Matrix<'_>, c: &mut [f64]) {
    if n == 0 || k == 0 || m == 0 {
        return;
    }
    assert!(a.holds(n, k) && b.holds(k, m) && c.len() >= n * m, "matrices of other shapes");
    let [a_row, a_column] = a.strides.map(|stride| stride as isize);
    let [b_row, b_column] = b.strides.map(|stride| stride as isize);
    // SAFETY: the assertion holds every element that the shapes and strides reach inside its slice.
    unsafe {
        matrixmultiply::dgemm(
            n,
            k,
            m,
            1.0,
            a.values.as_ptr(),
            a_row,
            a_column,
            b.values.as_ptr(),
            b_row,
            b_column,
            1.0,
            c.as_mut_ptr(),
            m as isize,
            1,
        );
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
