//! How much of the gap between multilayer perceptrons and the best possible log loss models
//! close on the synthetic log, in one epoch:
//! `cargo run --release -p palmette-ctr --example synthetic_gap -- [key=value ..] [model ..]`.
//!
//! The first eight tenths of the rows train, one tenth validates (it chooses among learning rates
//! and sizes), the last tenth tests. Keys: seed, rows, bias, main, pairs, triples, latent, exponent, offset, batch, epsilon,
//! init (seed of the weights), lr (comma-separated), sizes (how many
//! of the multilayer perceptrons; the last of the four costs as much as the searched-like network). Models: mlp, nasrec, nasrec-norm (with layer norm) and the names of the baselines; all by default.

use palmette_ctr::baselines::{Baseline, Mlp};
use palmette_ctr::metrics::{Scores, auc, binary_entropy, log_loss};
use palmette_ctr::nasrec::{Block, DenseOp, Path, Set, SparseOp};
use palmette_ctr::synthetic::{
    CATEGORICAL, DENSE, Row, SyntheticConfig, SyntheticLog, bayes_log_loss,
};
use palmette_ctr::{CompiledModel, ModelInputs};
use palmette_engine::{Batch, Executor, Optimizer, Schedule, Step, Trainable};

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let mut config = SyntheticConfig::default();
    let (mut batch, mut init, mut names) = (128, 1, Vec::new());
    let mut sizes = 4;
    let mut epsilon = 1e-3;
    let mut learning_rates = vec![0.04, 0.12, 0.36];
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            Some(("seed", value)) => config.seed = value.parse()?,
            Some(("rows", value)) => config.rows = value.parse()?,
            Some(("bias", value)) => config.bias = value.parse()?,
            Some(("main", value)) => config.main = value.parse()?,
            Some(("pairs", value)) => config.pairs = value.parse()?,
            Some(("triples", value)) => config.triples = value.parse()?,
            Some(("latent", value)) => config.latent = value.parse()?,
            Some(("exponent", value)) => config.exponent = value.parse()?,
            Some(("offset", value)) => config.offset = value.parse()?,
            Some(("batch", value)) => batch = value.parse()?,
            Some(("init", value)) => init = value.parse()?,
            Some(("epsilon", value)) => epsilon = value.parse()?,
            Some(("sizes", value)) => sizes = value.parse()?,
            Some(("lr", value)) => {
                learning_rates = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
            Some((key, _)) => return Err(format!("there is no key `{key}`").into()),
            None => names.push(argument),
        }
    }
    let rows = SyntheticLog::new(config)?.rows(0..config.rows);
    let (train, rest) = rows.split_at(config.rows * 8 / 10);
    let (validation, test) = rest.split_at(rest.len() / 2);
    let clicks = test.iter().filter(|row| row.click).count() as f64 / test.len() as f64;
    let bayes = bayes_log_loss(test);
    println!("{config:?}");
    println!("test: entropy of the base rate {:.5}, Bayes {bayes:.5}", binary_entropy(clicks));

    let inputs = ModelInputs::numbered(DENSE.len(), &CATEGORICAL.map(|column| column.values));
    let nasrec = CompiledModel::nasrec(&path(), &inputs, false);
    let mut candidates: Vec<(String, Vec<CompiledModel>)> = vec![(
        "mlp".into(),
        Mlp::three_sizes()
            .into_iter()
            .chain([Mlp::with_macs(&inputs, nasrec.macs())])
            .take(sizes)
            .map(|mlp| mlp.compile(&inputs))
            .collect::<Result<_, _>>()?,
    )];
    candidates.push(("nasrec".into(), vec![nasrec]));
    let normed = CompiledModel::nasrec(&path(), &inputs, true);
    candidates.push(("nasrec-norm".into(), vec![normed]));
    for name in Baseline::KINDS.iter().filter(|&&name| name != "mlp" && name != "history") {
        candidates.push((name.to_string(), vec![Baseline::named(name)?.compile(&inputs)?]));
    }
    let mut mlp_loss = None;
    for (name, models) in candidates {
        if !names.is_empty() && !names.contains(&name) {
            continue;
        }
        // The best of all settings, by validation.
        let mut best: Option<[f64; 4]> = None;
        for mut model in models {
            for &learning_rate in &learning_rates {
                let Some(losses) = fit(
                    &mut model,
                    train,
                    [validation, test],
                    learning_rate,
                    epsilon,
                    batch,
                    init,
                )?
                else {
                    println!("  {name}: lr {learning_rate} diverged");
                    continue;
                };
                let [(valid, _), (loss, auc)] = losses;
                println!(
                    "  {name}: macs {:>8} lr {learning_rate} validation {valid:.5} test {loss:.5}",
                    model.macs()
                );
                if best.is_none_or(|b| valid < b[0]) {
                    best = Some([valid, loss, auc, model.macs() as f64]);
                }
            }
        }
        let Some([_, loss, auc, macs]) = best else { continue };
        let reference = *mlp_loss.get_or_insert(loss);
        let closed = (reference - loss) / (reference - bayes);
        println!(
            "{name:<13} macs {macs:>8} test log loss {loss:.5} AUC {auc:.4} gap closed {closed:.3}"
        );
    }
    Ok(())
}

/// Three blocks with both dot products and the factorisation-machine merge.
fn path() -> Path {
    let block =
        |dense: DenseOp, dense_width, sparse_width, sources: &[usize], merges: bool| Block {
            dense_ops: Set::only(dense as usize),
            sparse_ops: Set::only(SparseOp::Efc as usize),
            dense_sources: sources.iter().copied().collect(),
            sparse_sources: sources.iter().copied().collect(),
            left: Set::only(0),
            right: Set::only(0),
            dense_width,
            sparse_width,
            dense_to_sparse: merges,
            sparse_to_dense: merges,
        };
    Path {
        blocks: vec![
            block(DenseOp::DotProduct, 256, 32, &[0], true),
            block(DenseOp::DotProduct, 256, 16, &[0, 1], true),
            block(DenseOp::Fc, 128, 16, &[0, 1, 2], true),
        ],
    }
}

/// Rows in the engine's layout.
fn batch_of(rows: &[Row]) -> (Vec<f32>, Vec<u32>, Vec<f32>) {
    let dense = rows.iter().flat_map(|row| row.dense.map(|x| x.ln_1p() as f32)).collect();
    let ids =
        (0..CATEGORICAL.len()).flat_map(|f| rows.iter().map(move |row| row.values[f])).collect();
    let labels = rows.iter().map(|row| f32::from(u8::from(row.click))).collect();
    (dense, ids, labels)
}

/// One epoch; (log loss, AUC) on each of `evaluated`, or `None` if training diverged.
fn fit(
    compiled: &mut CompiledModel,
    train: &[Row],
    evaluated: [&[Row]; 2],
    peak: f64,
    epsilon: f64,
    batch_rows: usize,
    seed: u64,
) -> Result<Option<[(f64, f64); 2]>, Error> {
    let optimizer = Optimizer::Adagrad { epsilon };
    let mut model = compiled.initialise::<f32>(seed, optimizer.state_slots())?;
    let mut executor = Executor::new();
    let schedule = Schedule::new(peak, (train.len() / batch_rows) as u64);
    for (index, rows) in train.chunks_exact(batch_rows).enumerate() {
        let (dense, ids, labels) = batch_of(rows);
        let batch = Batch {
            rows: rows.len(),
            dense: &dense,
            ids: &ids,
            labels: &labels,
            weights: &[],
            lists: &[],
        };
        let index = index as u64;
        let step = Step {
            index,
            learning_rate: schedule.at(index),
            optimizer,
            clip_norm: Some(5.0),
            trainable: Trainable::Everything,
        };
        if executor.train_step(&mut model, &mut compiled.program, &batch, &step).is_err() {
            return Ok(None);
        }
    }
    let mut results = [(0.0, 0.0); 2];
    for (result, rows) in results.iter_mut().zip(evaluated) {
        let mut logits = Vec::new();
        for rows in rows.chunks(1024) {
            let (dense, ids, _) = batch_of(rows);
            let batch = Batch {
                rows: rows.len(),
                dense: &dense,
                ids: &ids,
                labels: &[],
                weights: &[],
                lists: &[],
            };
            let found = executor.forward(&model, &mut compiled.program, &batch)?;
            logits.extend(found.iter().map(|&z| f64::from(z)));
        }
        let labels: Vec<bool> = rows.iter().map(|row| row.click).collect();
        let scores = Scores::new(&logits, &labels)?;
        *result = (log_loss(&scores), auc(&scores).unwrap_or(0.5));
    }
    Ok(Some(results))
}
