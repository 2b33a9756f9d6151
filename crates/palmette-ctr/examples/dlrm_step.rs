//! Time of a DLRM training step: 13-512-256-16, all pairs, 367-512-256-1, sparse Adagrad, the step
//! of `palmette bench engine dlrm-10m` without its peers.
//!
//! `cargo run --release -p palmette-ctr --example dlrm_step [f32|bf16] [table rows] [steps] [rounds]`

use std::time::Instant;

use palmette_ctr::ModelInputs;
use palmette_ctr::baselines::Dlrm;
use palmette_engine::*;
use palmette_random::{Draw, stream};

const ROWS: usize = 1024;
const FIELDS: usize = 26;
const DENSE: usize = 13;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let precision = match args.next().as_deref() {
        None | Some("f32") => Precision::F32,
        Some("bf16") => Precision::Bf16,
        Some(other) => return Err(format!("precision {other}: f32 or bf16").into()),
    };
    let mut number = |default| args.next().map_or(Ok(default), |text| text.parse::<usize>());
    let (table_rows, steps, rounds) = (number(10_000_000)?, number(60)?, number(5)?);

    let sizes = [table_rows / FIELDS; FIELDS];
    let inputs = ModelInputs::numbered(DENSE, &sizes);
    let dlrm = Dlrm { embedding_dim: 16, bottom: vec![512, 256], top: vec![512, 256] };
    let mut compiled = dlrm.compile(&inputs)?;
    let optimizer = Optimizer::Adagrad { epsilon: 1e-2 };
    let mut model = compiled.initialise::<f32>(1, optimizer.state_slots())?;
    let batches: Vec<_> = (0..16)
        .map(|index| {
            let mut rng = stream(2, "bench/batch", index);
            let dense: Vec<f32> = (0..ROWS * DENSE).map(|_| rng.unit() as f32 * 3.0).collect();
            let mut ids = Vec::with_capacity(ROWS * FIELDS);
            for (field, &n) in sizes.iter().enumerate() {
                let mut rng = stream(2, "bench/ids", index * 64 + field as u64);
                let id = |unit: f64| ((unit.powi(3) * n as f64) as u32).min(n as u32 - 1);
                ids.extend((0..ROWS).map(|_| id(rng.unit())));
            }
            let labels: Vec<f32> = (0..ROWS).map(|_| f32::from(rng.chance(0.25))).collect();
            (dense, ids, labels)
        })
        .collect();

    let mut executor = Executor::new();
    executor.set_precision(precision);
    compiled.program.place(ROWS)?;
    let mut index = 0;
    for round in 0..=rounds {
        executor.measure(round > 0);
        let before = executor.time_split();
        let start = Instant::now();
        let mut loss = 0.0;
        for _ in 0..steps {
            let (dense, ids, labels) = &batches[index as usize % batches.len()];
            let batch = Batch { rows: ROWS, dense, ids, labels, weights: &[], lists: &[] };
            let step = Step {
                index,
                learning_rate: 0.01,
                optimizer,
                clip_norm: None,
                trainable: Trainable::Everything,
            };
            loss = executor.train_step(&mut model, &mut compiled.program, &batch, &step)?;
            index += 1;
        }
        let wall = start.elapsed().as_secs_f64() * 1e3 / steps as f64;
        if round == 0 {
            continue;
        }
        let after = executor.time_split();
        let ms = |a: u64, b: u64| (a - b) as f64 / 1e6 / steps as f64;
        println!(
            "{wall:.2} ms a step; thread ms: products {:.2}, embedding {:.2}, update {:.2}, other {:.2}; loss {loss:.6}",
            ms(after.products, before.products),
            ms(after.embedding, before.embedding),
            ms(after.update, before.update),
            ms(after.other, before.other),
        );
    }
    Ok(())
}
