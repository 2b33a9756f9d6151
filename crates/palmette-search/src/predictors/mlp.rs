use palmette_random::{Draw, stream};

/// Settings of [`MlpPredictor`]; the published widths are `[1024, 1024, 1024]`, epochs 300, batch 128.
#[derive(Clone, Debug, PartialEq)]
pub struct MlpConfig {
    /// Widths of the hidden layers.
    pub widths: Vec<usize>,
    /// Passes over the labels.
    pub epochs: usize,
    /// Labels of a step.
    pub batch: usize,
    /// Learning rate at the start; it falls to 0 by a cosine.
    pub learning_rate: f64,
    /// L2 penalty on weights.
    pub decay: f64,
    /// Weight of the margin ranking loss on random pairs beside the squared error.
    pub ranking: f64,
}

impl Default for MlpConfig {
    fn default() -> Self {
        Self {
            widths: vec![64, 64, 64],
            epochs: 150,
            batch: 32,
            learning_rate: 0.04,
            decay: 3e-4,
            ranking: 0.0,
        }
    }
}

/// CSCO's predictor: inputs 2 x - 1, hidden layers with ReLU, one output times a learned scale
/// plus a learned bias; SGD with momentum 0.9, global norm clipped at 100, and an exponential
/// moving average (0.9) of the weights that answers.
#[derive(Clone, Debug)]
pub struct MlpPredictor {
    config: MlpConfig,
    seed: u64,
    sizes: Vec<usize>,
    weights: Vec<f64>,
}

impl MlpPredictor {
    /// A predictor that is not fitted yet.
    pub fn new(config: MlpConfig, seed: u64) -> Self {
        Self { config, seed, sizes: Vec::new(), weights: Vec::new() }
    }

    /// Fits labels of about zero mean and unit variance to rows of 0/1 features.
    pub fn fit(&mut self, rows: &[Vec<f32>], labels: &[f64]) {
        let inputs = rows.first().map_or(0, Vec::len);
        self.sizes = [inputs].into_iter().chain(self.config.widths.iter().copied()).collect();
        self.sizes.push(1);
        self.weights = self.initial();
        let mut average = self.weights.clone();
        let mut momentum = vec![0.0; self.weights.len()];
        let mut gradient = vec![0.0; self.weights.len()];
        let steps = self.config.epochs * rows.len().div_ceil(self.config.batch);
        let mut step = 0;
        for epoch in 0..self.config.epochs {
            let mut rng = stream(self.seed, "predictor/mlp/order", epoch as u64);
            let order = rng.distinct(rows.len(), rows.len());
            for batch in order.chunks(self.config.batch) {
                gradient.fill(0.0);
                self.accumulate(rows, labels, batch, &mut gradient);
                let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
                let clip = if norm > 100.0 { 100.0 / norm } else { 1.0 };
                let progress = step as f64 / steps as f64;
                let rate = self.config.learning_rate
                    * 0.5
                    * (1.0 + (std::f64::consts::PI * progress).cos());
                for i in 0..self.weights.len() {
                    let slope = clip * gradient[i] + self.config.decay * self.weights[i];
                    momentum[i] = 0.9 * momentum[i] + slope;
                    self.weights[i] -= rate * momentum[i];
                    average[i] = 0.9 * average[i] + 0.1 * self.weights[i];
                }
                step += 1;
            }
        }
        self.weights = average;
    }

    /// The predicted label; 0 before any fit.
    pub fn predict(&self, row: &[f32]) -> f64 {
        if self.weights.is_empty() {
            return 0.0;
        }
        self.forward(row).last().map_or(0.0, |layer| layer[0])
    }

    /// Kaiming-normal weights, zero biases, output scale 1 and bias 0.
    fn initial(&self) -> Vec<f64> {
        let mut rng = stream(self.seed, "predictor/mlp/weights", 0);
        let mut weights = Vec::new();
        for pair in self.sizes.windows(2) {
            let deviation = (2.0 / pair[0].max(1) as f64).sqrt();
            weights.extend((0..pair[0] * pair[1]).map(|_| deviation * rng.normal()));
            weights.extend(std::iter::repeat_n(0.0, pair[1]));
        }
        weights.extend([1.0, 0.0]);
        weights
    }

    /// Activations of every layer, the scaled output last.
    fn forward(&self, row: &[f32]) -> Vec<Vec<f64>> {
        let mut layers = vec![row.iter().map(|&x| 2.0 * f64::from(x) - 1.0).collect::<Vec<f64>>()];
        let mut offset = 0;
        for (index, pair) in self.sizes.windows(2).enumerate() {
            let (from, to) = (pair[0], pair[1]);
            let weights = &self.weights[offset..offset + from * to];
            let biases = &self.weights[offset + from * to..offset + from * to + to];
            let input = &layers[index];
            let is_hidden = index + 2 < self.sizes.len();
            let output = (0..to).map(|o| {
                let sum: f64 =
                    weights[o * from..(o + 1) * from].iter().zip(input).map(|(w, x)| w * x).sum();
                if is_hidden { (sum + biases[o]).max(0.0) } else { sum + biases[o] }
            });
            let output: Vec<f64> = output.collect();
            layers.push(output);
            offset += from * to + to;
        }
        let raw = layers[layers.len() - 1][0];
        layers.push(vec![raw * self.weights[offset] + self.weights[offset + 1]]);
        layers
    }

    /// Adds the gradient of the mean loss of a batch.
    fn accumulate(&self, rows: &[Vec<f32>], labels: &[f64], batch: &[usize], into: &mut [f64]) {
        let layers: Vec<Vec<Vec<f64>>> = batch.iter().map(|&i| self.forward(&rows[i])).collect();
        let outputs: Vec<f64> =
            layers.iter().map(|l| l.last().map_or(0.0, |layer| layer[0])).collect();
        let n = batch.len() as f64;
        let mut slopes: Vec<f64> =
            outputs.iter().zip(batch).map(|(o, &i)| 2.0 * (o - labels[i]) / n).collect();
        if self.config.ranking > 0.0 {
            // Each label against the next of the (random) order; margin 0.
            for a in 0..batch.len() {
                let b = (a + 1) % batch.len();
                let sign = (labels[batch[a]] - labels[batch[b]]).signum();
                if a != b && sign * (outputs[a] - outputs[b]) < 0.0 {
                    slopes[a] -= self.config.ranking * sign / n;
                    slopes[b] += self.config.ranking * sign / n;
                }
            }
        }
        for (layers, slope) in layers.iter().zip(slopes) {
            self.backward(layers, slope, into);
        }
    }

    fn backward(&self, layers: &[Vec<f64>], slope: f64, into: &mut [f64]) {
        let mut end = into.len() - 2;
        let raw = layers[layers.len() - 2][0];
        into[end] += slope * raw;
        into[end + 1] += slope;
        let mut delta = vec![slope * self.weights[end]];
        for index in (0..self.sizes.len() - 1).rev() {
            let (from, to) = (self.sizes[index], self.sizes[index + 1]);
            let start = end - from * to - to;
            let input = &layers[index];
            let mut before = vec![0.0; from];
            for (o, &d) in delta.iter().enumerate() {
                if d == 0.0 {
                    continue;
                }
                into[start + from * to + o] += d;
                let row = start + o * from;
                for i in 0..from {
                    into[row + i] += d * input[i];
                    before[i] += d * self.weights[row + i];
                }
            }
            // The derivative of ReLU, by its output; the inputs of the first layer need none.
            before.iter_mut().zip(input).for_each(|(b, &x)| *b *= f64::from(u8::from(x > 0.0)));
            delta = before;
            end = start;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(n: usize) -> (Vec<Vec<f32>>, Vec<f64>) {
        let mut rng = stream(4, "test/mlp", 0);
        let rows: Vec<Vec<f32>> =
            (0..n).map(|_| (0..8).map(|_| rng.below(2) as f32).collect()).collect();
        let label = |r: &Vec<f32>| f64::from(r[0] + 2.0 * r[1] * r[2] - r[3]) - 0.5;
        let labels = rows.iter().map(label).collect();
        (rows, labels)
    }

    #[test]
    fn gradients_agree_with_central_differences() {
        let (rows, labels) = data(6);
        for ranking in [0.0, 0.3] {
            let config =
                MlpConfig { widths: vec![5, 4], epochs: 1, ranking, ..MlpConfig::default() };
            let mut mlp = MlpPredictor::new(config, 1);
            mlp.fit(&rows, &labels);
            let batch: Vec<usize> = (0..6).collect();
            let loss = |mlp: &MlpPredictor| {
                let out: Vec<f64> = rows.iter().map(|row| mlp.predict(row)).collect();
                let squares: f64 = out.iter().zip(&labels).map(|(o, l)| (o - l).powi(2)).sum();
                let pairs: f64 = (0..6)
                    .map(|a| {
                        let b = (a + 1) % 6;
                        let sign = (labels[a] - labels[b]).signum();
                        (-sign * (out[a] - out[b])).max(0.0)
                    })
                    .sum();
                (squares + ranking * pairs) / 6.0
            };
            let mut gradient = vec![0.0; mlp.weights.len()];
            mlp.accumulate(&rows, &labels, &batch, &mut gradient);
            for i in 0..gradient.len() {
                let mut moved = mlp.clone();
                moved.weights[i] += 1e-6;
                let above = loss(&moved);
                moved.weights[i] -= 2e-6;
                let slope = (above - loss(&moved)) / 2e-6;
                assert!((slope - gradient[i]).abs() < 1e-6, "{i}: {slope} {}", gradient[i]);
            }
        }
    }

    #[test]
    fn it_learns_an_interaction() {
        let (rows, labels) = data(160);
        let mut mlp = MlpPredictor::new(MlpConfig::default(), 1);
        mlp.fit(&rows[..120], &labels[..120]);
        let guesses: Vec<f64> = rows[120..].iter().map(|row| mlp.predict(row)).collect();
        assert!(crate::pearson(&guesses, &labels[120..]) > 0.9);
    }
}
