use palmette_random::{Draw, stream};

use super::linear::{Descent, Linear, Tower, cosine, dot};

/// Gain of the published weights: Kaiming's normal with a = sqrt(5). With that of ReLU the same
/// descent diverges on some sets of labels.
const GAIN: f64 = 1.0 / 3.0;

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
/// moving average (0.9) of the weights that answers. Labels are scaled to 0..1.
#[derive(Clone, Debug)]
pub struct MlpPredictor {
    config: MlpConfig,
    seed: u64,
    tower: Tower,
    head: Option<Linear>,
    /// Weights of the layers, then the output's scale and bias.
    weights: Vec<f64>,
    lowest: f64,
    range: f64,
}

impl MlpPredictor {
    /// A predictor that is not fitted yet.
    pub fn new(config: MlpConfig, seed: u64) -> Self {
        let (tower, weights) = (Tower::default(), Vec::new());
        Self { config, seed, tower, head: None, weights, lowest: 0.0, range: 1.0 }
    }

    /// Fits labels to rows of 0/1 features.
    pub fn fit(&mut self, rows: &[Vec<f32>], labels: &[f64]) {
        self.build(rows.first().map_or(0, Vec::len));
        let inputs: Vec<Vec<f64>> = rows.iter().map(|row| input(row)).collect();
        self.lowest = labels.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = labels.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        self.range = if highest > self.lowest { highest - self.lowest } else { 1.0 };
        let targets: Vec<f64> = labels.iter().map(|y| (y - self.lowest) / self.range).collect();
        let mut average = self.weights.clone();
        let mut descent = Descent::new(self.weights.len(), self.config.decay);
        let mut gradient = vec![0.0; self.weights.len()];
        let steps = self.config.epochs * rows.len().div_ceil(self.config.batch);
        let mut step = 0;
        for epoch in 0..self.config.epochs {
            let mut rng = stream(self.seed, "predictor/mlp/order", epoch as u64);
            let order = rng.distinct(rows.len(), rows.len());
            for batch in order.chunks(self.config.batch) {
                gradient.fill(0.0);
                self.accumulate(&inputs, &targets, batch, &mut gradient);
                let rate = self.config.learning_rate * cosine(step as f64 / steps as f64, 0.0);
                descent.step(&mut self.weights, &gradient, rate);
                for (average, weight) in average.iter_mut().zip(&self.weights) {
                    *average = 0.9 * *average + 0.1 * weight;
                }
                step += 1;
            }
        }
        self.weights = average;
    }

    /// The predicted label; 0 before any fit.
    pub fn predict(&self, row: &[f32]) -> f64 {
        let outputs = self.forward(1, input(row)).1;
        outputs.first().map_or(0.0, |output| self.lowest + self.range * output)
    }

    fn build(&mut self, inputs: usize) {
        let mut rng = stream(self.seed, "predictor/mlp/weights", 0);
        self.weights.clear();
        self.tower = Tower::push(&mut self.weights, inputs, &self.config.widths, GAIN, &mut rng);
        let last = self.config.widths.last().copied().unwrap_or(inputs);
        self.head = Some(Linear::push(&mut self.weights, last, 1, GAIN, &mut rng));
        self.weights.extend([1.0, 0.0]);
    }

    /// Activations of the tower and the head, and the scaled outputs, of `n` samples.
    fn forward(&self, n: usize, input: Vec<f64>) -> (Vec<Vec<f64>>, Vec<f64>) {
        let (Some(head), [.., scale, bias]) = (self.head, &self.weights[..]) else {
            return (Vec::new(), Vec::new());
        };
        let mut activations = self.tower.forward(&self.weights, n, input);
        let raw = head.forward(&self.weights, n, &activations[activations.len() - 1]);
        let outputs = raw.iter().map(|raw| raw * scale + bias).collect();
        activations.push(raw);
        (activations, outputs)
    }

    /// Adds the gradient of the mean loss of a batch.
    fn accumulate(&self, inputs: &[Vec<f64>], targets: &[f64], batch: &[usize], into: &mut [f64]) {
        let input = batch.iter().flat_map(|&i| &inputs[i]).copied().collect();
        let (activations, outputs) = self.forward(batch.len(), input);
        let n = batch.len() as f64;
        let mut slopes: Vec<f64> =
            outputs.iter().zip(batch).map(|(o, &i)| 2.0 * (o - targets[i]) / n).collect();
        if self.config.ranking > 0.0 {
            // Each label against the next of the (random) order; margin 0.
            for a in 0..batch.len() {
                let b = (a + 1) % batch.len();
                let sign = (targets[batch[a]] - targets[batch[b]]).signum();
                if a != b && sign * (outputs[a] - outputs[b]) < 0.0 {
                    slopes[a] -= self.config.ranking * sign / n;
                    slopes[b] += self.config.ranking * sign / n;
                }
            }
        }
        self.backward(&activations, slopes, into);
    }

    fn backward(&self, activations: &[Vec<f64>], mut slopes: Vec<f64>, into: &mut [f64]) {
        let (Some(head), [hidden @ .., raw]) = (self.head, activations) else { return };
        let n = slopes.len();
        let scale = self.weights.len() - 2;
        into[scale] += dot(&slopes, raw);
        into[scale + 1] += slopes.iter().sum::<f64>();
        slopes.iter_mut().for_each(|slope| *slope *= self.weights[scale]);
        let before = head.backward(&self.weights, n, &hidden[hidden.len() - 1], &slopes, into);
        self.tower.backward(&self.weights, n, hidden, before, into);
    }
}

/// What the first layer reads of 0/1 features.
fn input(row: &[f32]) -> Vec<f64> {
    row.iter().map(|&x| 2.0 * f64::from(x) - 1.0).collect()
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
                let out: Vec<f64> =
                    rows.iter().map(|row| mlp.forward(1, input(row)).1[0]).collect();
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
            let inputs: Vec<Vec<f64>> = rows.iter().map(|row| input(row)).collect();
            mlp.accumulate(&inputs, &labels, &batch, &mut gradient);
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

    #[test]
    fn no_set_of_labels_makes_it_diverge() {
        for seed in 0..20 {
            let mut rng = stream(seed, "test/mlp/divergence", 0);
            // One of five operators at each of six edges, as in NAS-Bench-201; labels that are noise.
            let rows: Vec<Vec<f32>> = (0..50)
                .map(|_| {
                    let mut row = vec![0.0; 30];
                    (0..6).for_each(|edge| row[5 * edge + rng.below(5) as usize] = 1.0);
                    row
                })
                .collect();
            let labels: Vec<f64> = rows.iter().map(|_| rng.normal()).collect();
            for ranking in [0.0, 0.5] {
                let mut mlp =
                    MlpPredictor::new(MlpConfig { ranking, ..MlpConfig::default() }, seed);
                mlp.fit(&rows, &labels);
                let guesses: Vec<f64> = rows.iter().map(|row| mlp.predict(row)).collect();
                let correlation = crate::pearson(&guesses, &labels);
                assert!(correlation > 0.5, "seed {seed}: {correlation}");
            }
        }
    }
}
