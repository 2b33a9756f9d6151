//! Throughput of the NASRec-Full supernet step over one fixed list of fresh random paths.
//!
//! `cargo run --release -p palmette-ctr --example supernet_step [paths] [batch] [f32|bf16]`

use std::time::Instant;

use palmette_ctr::nasrec::*;
use palmette_engine::*;
use palmette_random::{Draw, stream};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let precision = match std::env::args().nth(3).as_deref() {
        None | Some("f32") => Precision::F32,
        Some("bf16") => Precision::Bf16,
        Some(other) => return Err(format!("precision {other}: f32 or bf16").into()),
    };
    let mut args = std::env::args().skip(1).take(2).map(|a| a.parse::<usize>());
    let paths = args.next().transpose()?.unwrap_or(200);
    let rows = args.next().transpose()?.unwrap_or(512);
    let space = NasRecSpace::published(Operators::Full);
    let preset = DatasetPreset::find("criteo").ok_or("no preset")?;
    let network = Network::supernet(space.config(), preset.shape, true);
    let optimizer = Optimizer::Adagrad { epsilon: 1e-2 };
    let start = Instant::now();
    let specs: Vec<_> = preset
        .table_rows
        .iter()
        .enumerate()
        .map(|(f, &n)| TableSpec {
            name: format!("embedding.{f}"),
            rows: (n as usize).min(500_000),
            dim: 16,
        })
        .collect();
    let sizes: Vec<u64> = specs.iter().map(|s| s.rows as u64).collect();
    let mut model = Model {
        params: ParamStore::<f32>::new(network.layout().clone(), 1, optimizer.state_slots())?,
        tables: Tables::new(specs, optimizer.state_slots(), 1)?,
    };
    println!(
        "{:.1} M weights, {:.2} GB, initialised in {:.2} s",
        network.layout().count() as f64 / 1e6,
        (model.params.bytes() + model.tables.bytes()) as f64 / 1e9,
        start.elapsed().as_secs_f64()
    );
    let batches: Vec<_> = (0..8u64)
        .map(|i| {
            let mut rng = stream(2, "bench/batch", i);
            let dense: Vec<f32> =
                (0..rows * preset.shape.dense).map(|_| rng.unit() as f32 * 3.0).collect();
            let ids: Vec<u32> = sizes
                .iter()
                .flat_map(|&n| {
                    let mut rng = stream(2, "bench/ids", i * 64 + n % 61);
                    (0..rows)
                        .map(move |_| (rng.unit().powi(3) * n as f64) as u32)
                        .collect::<Vec<_>>()
                })
                .collect();
            let labels: Vec<f32> = (0..rows).map(|_| f32::from(rng.chance(0.25))).collect();
            (dense, ids, labels)
        })
        .collect();
    let mut executor = Executor::new();
    executor.set_precision(precision);
    println!("products in {:?}", executor.precision());
    let mut program = Program::new();
    let (mut planning, mut macs) = (0.0, Vec::new());
    for round in 0..4u64 {
        if round > 0 {
            executor.measure(true);
        }
        macs.clear();
        planning = 0.0;
        let before = executor.time_split();
        let start = Instant::now();
        for step in 0..paths as u64 {
            let t = Instant::now();
            let path = supernet_path(&space, PathStrategy::SingleOperatorAnyConnection, step, 0, 3);
            network.build(&path, &mut program);
            program.place(rows)?;
            planning += t.elapsed().as_secs_f64();
            macs.push(program.macs());
            let (dense, ids, labels) = &batches[step as usize % 8];
            let batch = Batch { rows, dense, ids, labels, weights: &[], lists: &[] };
            let options = Step {
                index: step,
                learning_rate: 0.01,
                optimizer,
                clip_norm: Some(5.0),
                trainable: Trainable::Everything,
            };
            executor.train_step(&mut model, &mut program, &batch, &options)?;
        }
        let seconds = start.elapsed().as_secs_f64();
        let after = executor.time_split();
        let ms = |a: u64, b: u64| (a - b) as f64 / 1e6 / paths as f64;
        macs.sort_unstable();
        let mean = macs.iter().sum::<u64>() as f64 / paths as f64;
        println!(
            "round {round}: {:.0} samples/s, {:.2} ms a step, {:.2} M MACs mean ({:.2} median, {:.2} 95 %), {:.1} GFLOP/s",
            (paths * rows) as f64 / seconds,
            seconds * 1e3 / paths as f64,
            mean / 1e6,
            macs[paths / 2] as f64 / 1e6,
            macs[paths * 95 / 100] as f64 / 1e6,
            mean * 6.0 * (paths * rows) as f64 / seconds / 1e9
        );
        println!(
            "  thread ms a step: products {:.2}, attention {:.2}, embedding {:.2}, update {:.2}, other {:.2}; planning {:.3}",
            ms(after.products, before.products),
            ms(after.attention, before.attention),
            ms(after.embedding, before.embedding),
            ms(after.update, before.update),
            ms(after.other, before.other),
            planning * 1e3 / paths as f64
        );
    }
    let _ = planning;
    Ok(())
}
