use palmette_random::{Draw, stream};
use palmette_space::Genotype;

use super::encoding::{Encoded, HeterogeneousEncoding};
use super::linear::{Descent, KAIMING, Linear, Tower, cosine, dot};

/// A descent that loses the network (no unit of a layer answers any more, or weights overflow) is
/// done again at half the rate, so often at most. Some sets of 50 labels of NAS-Bench-201 do at the rate
/// of the defaults.
const MOST_HALVINGS: u32 = 12;

/// Settings of [`DenseSparsePredictor`].
#[derive(Clone, Debug, PartialEq)]
pub struct DenseSparseConfig {
    /// Widths of each of the two towers.
    pub tower: Vec<usize>,
    /// Length of embeddings and of a tower's projection.
    pub embedding: usize,
    /// Widths of the layers after the interactions.
    pub join: Vec<usize>,
    /// Share of the joined features that a training step drops.
    pub dropout: f64,
    /// Passes over the labels.
    pub epochs: usize,
    /// Labels of a step; a last short batch is left out unless it is the only one.
    pub batch: usize,
    /// Learning rate at its highest: it rises over the first quarter of the steps.
    pub learning_rate: f64,
    /// L2 penalty on weights.
    pub decay: f64,
    /// Weight of the ranking loss on every second step after a sixth of the epochs; 0 for none.
    pub ranking: f64,
    /// Differences in the right order, and wrong ones up to this much, cost nothing in the ranking.
    pub margin: f64,
}

impl DenseSparseConfig {
    /// PIDS's: towers of 1024-1024-1024, embeddings of 256, 512-256 after them, dropout 0.5.
    pub fn published() -> Self {
        Self {
            tower: vec![1024; 3],
            embedding: 256,
            join: vec![512, 256],
            dropout: 0.5,
            batch: 64,
            ..Self::default()
        }
    }
}

impl Default for DenseSparseConfig {
    /// The same shape, small enough for hundreds of labels.
    fn default() -> Self {
        Self {
            tower: vec![32, 32],
            embedding: 12,
            join: vec![64, 32],
            dropout: 0.1,
            epochs: 150,
            batch: 16,
            learning_rate: 0.05,
            decay: 2e-4,
            ranking: 0.125,
            margin: 0.0075,
        }
    }
}

/// PIDS's dense-sparse predictor (Zhang et al., 2022) on a [`HeterogeneousEncoding`].
///
/// Positional and architectural sizes go through a tower each; a tower's projection and the
/// embeddings of all sparse slots meet in all pairwise scalar products, those with themselves
/// included; products and tower outputs of both join in a last tower. The loss is the squared error
/// on labels scaled to 0..1 and a ranking loss on random pairs. Sizes are standardised with
/// the statistics of the first labels, where the published code keeps running means of batches.
///
/// [`fit`](Self::fit) goes on from the weights it finds: fit costs of many genotypes, then the few
/// qualities that are known.
#[derive(Clone, Debug)]
pub struct DenseSparsePredictor {
    encoding: HeterogeneousEncoding,
    config: DenseSparseConfig,
    seed: u64,
    fits: u64,
    network: Option<Network>,
    weights: Vec<f64>,
    /// Mean and deviation of each size, positional ones first.
    standard: Vec<(f64, f64)>,
    lowest: f64,
    range: f64,
}

/// Where the parts of the network lie in the weights.
#[derive(Clone, Debug)]
struct Network {
    towers: [(Tower, Linear); 2],
    /// Start of each slot's table of embeddings.
    tables: Vec<usize>,
    join: Tower,
    head: Linear,
}

/// What the backward pass needs of the forward pass; everything sample by sample.
struct Trace {
    towers: [Vec<Vec<f64>>; 2],
    /// Per tower, the projection, then the embeddings.
    vectors: [Vec<f64>; 2],
    join: Vec<Vec<f64>>,
    outputs: Vec<f64>,
}

impl DenseSparsePredictor {
    /// A predictor that is not fitted yet.
    pub fn new(encoding: HeterogeneousEncoding, config: DenseSparseConfig, seed: u64) -> Self {
        Self {
            encoding,
            config,
            seed,
            fits: 0,
            network: None,
            weights: Vec::new(),
            standard: Vec::new(),
            lowest: 0.0,
            range: 1.0,
        }
    }

    /// Fits labels, from fresh weights the first time and from those of the last fit afterwards.
    pub fn fit(&mut self, genotypes: &[&Genotype], labels: &[f64]) {
        let rows: Vec<Encoded> = genotypes.iter().map(|g| self.encoding.encode(g)).collect();
        self.lowest = labels.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = labels.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        self.range = if highest > self.lowest { highest - self.lowest } else { 1.0 };
        let targets: Vec<f64> =
            labels.iter().map(|label| (label - self.lowest) / self.range).collect();
        if self.network.is_none() {
            self.standard = standard(&rows);
            self.build();
        }
        let before = self.weights.clone();
        for halvings in 0..MOST_HALVINGS {
            self.descend(&rows, &targets, self.config.learning_rate / f64::from(1 << halvings));
            if !self.is_lost(&rows, &targets) {
                break;
            }
            self.weights.clone_from(&before);
        }
        self.fits += 1;
    }

    /// Whether the network tells no rows apart whose targets differ, or answers with no number.
    fn is_lost(&self, rows: &[Encoded], targets: &[f64]) -> bool {
        let Some(network) = &self.network else { return false };
        let outputs = self.forward(network, &rows.iter().collect::<Vec<_>>(), None).outputs;
        let differ = |values: &[f64]| values.iter().any(|value| *value != values[0]);
        !outputs.iter().all(|output| output.is_finite()) || differ(targets) && !differ(&outputs)
    }

    fn descend(&mut self, rows: &[Encoded], targets: &[f64], highest_rate: f64) {
        let mut descent = Descent::new(self.weights.len(), self.config.decay);
        let mut gradient = vec![0.0; self.weights.len()];
        let batches = (rows.len() / self.config.batch).max(1);
        let steps = self.config.epochs * batches;
        for step in 0..steps {
            let (epoch, batch) = (step / batches, step % batches);
            let index = self.fits << 32 | epoch as u64;
            let mut rng = stream(self.seed, "predictor/dense-sparse/order", index);
            let order = rng.distinct(rows.len(), rows.len());
            let start = batch * self.config.batch;
            let drawn = &order[start..(start + self.config.batch).min(rows.len())];
            let is_ranking = 6 * epoch >= self.config.epochs && step % 2 == 1;
            gradient.fill(0.0);
            let index = self.fits << 32 | step as u64;
            self.accumulate(rows, targets, drawn, is_ranking, Some(index), &mut gradient);
            let rate = highest_rate * cosine(step as f64 / steps as f64, 0.25);
            descent.step(&mut self.weights, &gradient, rate);
        }
    }

    /// The predicted label; 0 before any fit.
    pub fn predict(&self, genotype: &Genotype) -> f64 {
        let Some(network) = &self.network else { return 0.0 };
        let row = self.encoding.encode(genotype);
        self.lowest + self.range * self.forward(network, &[&row], None).outputs[0]
    }

    fn build(&mut self) {
        let mut rng = stream(self.seed, "predictor/dense-sparse/weights", 0);
        let mut weights = Vec::new();
        let [positional, architectural, slots] = self.encoding.lengths();
        let DenseSparseConfig { tower, embedding, join, .. } = &self.config;
        let towers = [positional, architectural].map(|inputs| {
            // A tower without sizes reads a constant.
            let inputs = inputs.max(1);
            let layers = Tower::push(&mut weights, inputs, tower, KAIMING, &mut rng);
            let last = tower.last().copied().unwrap_or(inputs);
            (layers, Linear::push(&mut weights, last, *embedding, KAIMING, &mut rng))
        });
        let deviation = (1.0 / *embedding as f64).sqrt();
        let tables = self.encoding.slot_sizes().into_iter().map(|size| {
            let start = weights.len();
            weights.extend((0..size * embedding).map(|_| deviation * rng.normal()));
            start
        });
        let tables = tables.collect();
        let products = (slots + 1) * (slots + 2) / 2;
        let width = |inputs: usize| tower.last().copied().unwrap_or(inputs.max(1)) + products;
        let joined = width(positional) + width(architectural);
        let layers = Tower::push(&mut weights, joined, join, KAIMING, &mut rng);
        let head = Linear::push(
            &mut weights,
            join.last().copied().unwrap_or(joined),
            1,
            KAIMING,
            &mut rng,
        );
        self.network = Some(Network { towers, tables, join: layers, head });
        self.weights = weights;
    }

    /// Sizes as a tower reads them.
    fn sizes(&self, tower: usize, row: &Encoded) -> Vec<f64> {
        let (values, from) = match tower {
            0 => (&row.positional, 0),
            _ => (&row.architectural, row.positional.len()),
        };
        if values.is_empty() {
            return vec![1.0];
        }
        let scaled = values.iter().zip(&self.standard[from..]);
        scaled.map(|(x, (mean, deviation))| (x - mean) / deviation).collect()
    }

    /// `dropped` is the mask of the joined features, already scaled.
    fn forward(&self, network: &Network, rows: &[&Encoded], dropped: Option<&[f64]>) -> Trace {
        let (n, length) = (rows.len(), self.config.embedding);
        let weights = &self.weights;
        let joined = network.join_inputs();
        let mut join = vec![0.0; n * joined];
        let mut from = 0;
        let mut towers = [Vec::new(), Vec::new()];
        let mut vectors = [Vec::new(), Vec::new()];
        for (t, (tower, project)) in network.towers.iter().enumerate() {
            let input = rows.iter().flat_map(|row| self.sizes(t, row)).collect();
            let activations = tower.forward(weights, n, input);
            let last = &activations[activations.len() - 1];
            let width = last.len() / n.max(1);
            let projected = project.forward(weights, n, last);
            for (s, row) in rows.iter().enumerate() {
                let first = vectors[t].len();
                vectors[t].extend_from_slice(&projected[s * length..][..length]);
                for (&table, &value) in network.tables.iter().zip(&row.sparse) {
                    vectors[t].extend_from_slice(&weights[table + value * length..][..length]);
                }
                let ours = &vectors[t][first..];
                let mut features = join[s * joined + from..].iter_mut();
                for (i, a) in ours.chunks_exact(length).enumerate() {
                    let pairs = ours.chunks_exact(length).take(i + 1);
                    pairs.zip(&mut features).for_each(|(b, x)| *x = dot(a, b));
                }
                features.zip(&last[s * width..][..width]).for_each(|(x, y)| *x = *y);
            }
            from += network.products() + width;
            towers[t] = activations;
        }
        if let Some(mask) = dropped {
            join.iter_mut().zip(mask).for_each(|(x, m)| *x *= m);
        }
        let join = network.join.forward(weights, n, join);
        let outputs = network.head.forward(weights, n, &join[join.len() - 1]);
        Trace { towers, vectors, join, outputs }
    }

    /// Adds the gradient of the mean loss of a batch; without a `step` nothing is dropped.
    fn accumulate(
        &self,
        rows: &[Encoded],
        targets: &[f64],
        batch: &[usize],
        is_ranking: bool,
        step: Option<u64>,
        into: &mut [f64],
    ) {
        let Some(network) = &self.network else { return };
        let mut rng = stream(self.seed, "predictor/dense-sparse/step", step.unwrap_or(0));
        let keep = 1.0 - self.config.dropout;
        let mask: Option<Vec<f64>> = (step.is_some() && keep < 1.0).then(|| {
            let features = batch.len() * network.join_inputs();
            (0..features).map(|_| if rng.chance(keep) { 1.0 / keep } else { 0.0 }).collect()
        });
        let rows: Vec<&Encoded> = batch.iter().map(|&i| &rows[i]).collect();
        let trace = self.forward(network, &rows, mask.as_deref());
        let n = batch.len() as f64;
        let outputs = &trace.outputs;
        let mut slopes: Vec<f64> =
            outputs.iter().zip(batch).map(|(o, &i)| 2.0 * (o - targets[i]) / n).collect();
        if is_ranking && self.config.ranking > 0.0 {
            for a in 0..batch.len() {
                let b = (a + 1) % batch.len();
                let sign = if targets[batch[a]] > targets[batch[b]] { 1.0 } else { -1.0 };
                if -sign * (outputs[a] - outputs[b]) > self.config.margin {
                    slopes[a] -= self.config.ranking * sign / n;
                    slopes[b] += self.config.ranking * sign / n;
                }
            }
        }
        self.backward(network, &rows, &trace, &slopes, mask.as_deref(), into);
    }

    fn backward(
        &self,
        network: &Network,
        rows: &[&Encoded],
        trace: &Trace,
        slopes: &[f64],
        mask: Option<&[f64]>,
        into: &mut [f64],
    ) {
        let (n, length) = (rows.len(), self.config.embedding);
        let weights = &self.weights;
        let last = &trace.join[trace.join.len() - 1];
        let before = network.head.backward(weights, n, last, slopes, into);
        let mut join = network.join.backward(weights, n, &trace.join, before, into);
        if let Some(mask) = mask {
            join.iter_mut().zip(mask).for_each(|(x, m)| *x *= m);
        }
        let joined = network.join_inputs();
        let count = network.tables.len() + 1;
        let mut from = 0;
        for (t, (tower, project)) in network.towers.iter().enumerate() {
            let activations = &trace.towers[t];
            let last = &activations[activations.len() - 1];
            let width = last.len() / n.max(1);
            let mut projected = Vec::with_capacity(n * length);
            let mut direct = Vec::with_capacity(n * width);
            let mut slopes = vec![0.0; count * length];
            for (s, row) in rows.iter().enumerate() {
                let ours = &trace.vectors[t][s * count * length..][..count * length];
                let mut features = join[s * joined + from..].iter();
                slopes.fill(0.0);
                for i in 0..count {
                    for (j, &slope) in (0..=i).zip(&mut features) {
                        for k in 0..length {
                            slopes[i * length + k] += slope * ours[j * length + k];
                            slopes[j * length + k] += slope * ours[i * length + k];
                        }
                    }
                }
                direct.extend(features.take(width));
                projected.extend_from_slice(&slopes[..length]);
                for ((&table, &value), slopes) in
                    network.tables.iter().zip(&row.sparse).zip(slopes[length..].chunks(length))
                {
                    let start = table + value * length;
                    into[start..].iter_mut().zip(slopes).for_each(|(g, s)| *g += s);
                }
            }
            let mut before = project.backward(weights, n, last, &projected, into);
            before.iter_mut().zip(&direct).for_each(|(b, d)| *b += d);
            tower.backward(weights, n, activations, before, into);
            from += network.products() + width;
        }
    }
}

impl Network {
    fn join_inputs(&self) -> usize {
        self.join.inputs().unwrap_or_else(|| self.head.inputs())
    }

    /// Scalar products of a tower's projection and all embeddings, with themselves too.
    fn products(&self) -> usize {
        (self.tables.len() + 1) * (self.tables.len() + 2) / 2
    }
}

/// Mean and deviation of every size.
fn standard(rows: &[Encoded]) -> Vec<(f64, f64)> {
    let sizes = |row: &Encoded| [&row.positional[..], &row.architectural[..]].concat();
    let rows: Vec<Vec<f64>> = rows.iter().map(sizes).collect();
    let n = rows.len() as f64;
    (0..rows.first().map_or(0, Vec::len))
        .map(|i| {
            let mean = rows.iter().map(|row| row[i]).sum::<f64>() / n;
            let variance = rows.iter().map(|row| (row[i] - mean).powi(2)).sum::<f64>() / n;
            (mean, if variance > 1e-12 { variance.sqrt() } else { 1.0 })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use palmette_space::Space;

    fn space() -> Space {
        let mut builder = Space::builder("stages");
        builder.repeat("stage", 3, |builder, _| {
            builder.one_of("kernel", &["3", "5", "7"]);
            builder.integer("repeats", 1, 4);
            builder.one_of_ordered("width", &["8", "16", "32"]);
        });
        builder.finish().unwrap()
    }

    /// Cost grows with sizes; quality is cost's logarithm with a bonus for equal kernels.
    fn labelled(n: u64) -> (Vec<Genotype>, Vec<f64>, Vec<f64>) {
        let space = space();
        let genotypes: Vec<Genotype> =
            (0..n).map(|i| space.sample(&mut stream(3, "test/dense-sparse", i))).collect();
        let cost = |g: &Genotype| -> f64 {
            g.genes().chunks(3).map(|s| f64::from((s[1] + 1) << s[2])).sum()
        };
        let bonus = |g: &Genotype| 0.3 * f64::from(u8::from(g.genes()[0] == g.genes()[3]));
        let costs: Vec<f64> = genotypes.iter().map(|g| cost(g).ln()).collect();
        let qualities = genotypes.iter().zip(&costs).map(|(g, c)| c + bonus(g)).collect();
        (genotypes, costs, qualities)
    }

    fn predictor(config: DenseSparseConfig) -> DenseSparsePredictor {
        let encoding = HeterogeneousEncoding::by_kind(&space());
        DenseSparsePredictor::new(encoding, config, 5)
    }

    #[test]
    fn gradients_agree_with_central_differences() {
        let config = DenseSparseConfig {
            tower: vec![5, 4],
            embedding: 3,
            join: vec![6],
            epochs: 1,
            dropout: 0.0,
            margin: 0.01,
            ..DenseSparseConfig::default()
        };
        let (genotypes, _, qualities) = labelled(7);
        let references: Vec<&Genotype> = genotypes.iter().collect();
        let mut predictor = predictor(config);
        predictor.fit(&references, &qualities);
        let rows: Vec<Encoded> = references.iter().map(|g| predictor.encoding.encode(g)).collect();
        let targets: Vec<f64> =
            qualities.iter().map(|q| (q - predictor.lowest) / predictor.range).collect();
        let batch: Vec<usize> = (0..7).collect();
        let loss = |predictor: &DenseSparsePredictor| {
            let network = predictor.network.as_ref().unwrap();
            let out: Vec<f64> =
                predictor.forward(network, &rows.iter().collect::<Vec<_>>(), None).outputs;
            let squares: f64 = out.iter().zip(&targets).map(|(o, t)| (o - t).powi(2)).sum();
            let pairs: f64 = (0..7)
                .map(|a| {
                    let b = (a + 1) % 7;
                    let sign = if targets[a] > targets[b] { 1.0 } else { -1.0 };
                    (-sign * (out[a] - out[b]) - 0.01).max(0.0)
                })
                .sum();
            (squares + 0.125 * pairs) / 7.0
        };
        let mut gradient = vec![0.0; predictor.weights.len()];
        predictor.accumulate(&rows, &targets, &batch, true, None, &mut gradient);
        assert!(gradient.iter().filter(|g| **g != 0.0).count() > gradient.len() / 4);
        for i in 0..gradient.len() {
            let mut moved = predictor.clone();
            moved.weights[i] += 1e-6;
            let above = loss(&moved);
            moved.weights[i] -= 2e-6;
            let slope = (above - loss(&moved)) / 2e-6;
            assert!((slope - gradient[i]).abs() < 1e-6, "{i}: {slope} {}", gradient[i]);
        }
    }

    #[test]
    fn costs_of_many_networks_help_with_few_qualities() {
        let (genotypes, costs, qualities) = labelled(400);
        let references: Vec<&Genotype> = genotypes.iter().collect();
        let correlation = |is_pretrained: bool| {
            let mut predictor = predictor(DenseSparseConfig::default());
            if is_pretrained {
                predictor.fit(&references[..200], &costs[..200]);
            }
            predictor.fit(&references[..20], &qualities[..20]);
            let guesses: Vec<f64> = genotypes[200..].iter().map(|g| predictor.predict(g)).collect();
            crate::pearson(&guesses, &qualities[200..])
        };
        let (without, with) = (correlation(false), correlation(true));
        assert!(with > without + 0.05 && with > 0.8, "{without} {with}");
    }

    #[test]
    fn a_descent_that_loses_the_network_is_done_again_more_slowly() {
        let (genotypes, _, qualities) = labelled(80);
        let references: Vec<&Genotype> = genotypes.iter().collect();
        let mut lost = 0;
        for doublings in 0..12 {
            let rate = 0.05 * f64::from(1 << doublings);
            let config = DenseSparseConfig { learning_rate: rate, ..DenseSparseConfig::default() };
            let mut predictor = predictor(config);
            predictor.fit(&references, &qualities);
            let rows: Vec<Encoded> =
                references.iter().map(|g| predictor.encoding.encode(g)).collect();
            let scale = |q: &f64| (q - predictor.lowest) / predictor.range;
            let targets: Vec<f64> = qualities.iter().map(scale).collect();
            assert!(!predictor.is_lost(&rows, &targets), "rate {rate}");
            // What the same descent does at its whole rate.
            predictor.fits = 0;
            predictor.build();
            predictor.descend(&rows, &targets, rate);
            lost += usize::from(predictor.is_lost(&rows, &targets));
        }
        assert!(lost > 0);
    }
}
