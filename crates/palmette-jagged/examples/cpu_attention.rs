//! Times jagged attention on the CPU, f32, 4 heads of 64:
//! `cpu_attention THREADS ROWS FILE`, with the first ROWS row lengths (i32) of FILE.

use std::time::Instant;

use palmette_jagged::{Attention, AttentionGradients, AttentionInput, Mask, Offsets};
use palmette_random::{Draw, stream};

const HEADS: usize = 4;
const HEAD_DIM: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [threads, rows, file] = arguments.as_slice() else {
        return Err("usage: cpu_attention THREADS ROWS FILE".into());
    };
    rayon::ThreadPoolBuilder::new().num_threads(threads.parse()?).build_global()?;
    let bytes = std::fs::read(file)?;
    let (chunks, _) = bytes.as_chunks::<4>();
    let lengths: Vec<i32> = chunks.iter().map(|&chunk| i32::from_le_bytes(chunk)).collect();
    let offsets = Offsets::from_lengths(&lengths[..lengths.len().min(rows.parse()?)])?;
    let n = offsets.total() * HEADS * HEAD_DIM;
    let mut rng = stream(1, "jagged/cpu/bench", 0);
    let mut normal = || -> Vec<f32> { (0..n).map(|_| rng.normal() as f32).collect() };
    let (q, k, v, g) = (normal(), normal(), normal(), normal());
    let input = AttentionInput {
        q: &q,
        k: &k,
        v: &v,
        offsets_q: &offsets,
        offsets_k: &offsets,
        bias: None,
    };
    let attention = Attention::new(HEADS, HEADS, HEAD_DIM, Mask::Full)?;
    let (mut output, mut lse) = (vec![0f32; n], vec![0f32; HEADS * offsets.total()]);
    let (mut dq, mut dk, mut dv) = (vec![0f32; n], vec![0f32; n], vec![0f32; n]);
    let (mut forward, mut both) = (Vec::new(), Vec::new());
    for _ in 0..7 {
        let start = Instant::now();
        attention.forward(&input, &mut output, &mut lse)?;
        forward.push(start.elapsed().as_secs_f64() * 1e3);
        let gradients = AttentionGradients { dq: &mut dq, dk: &mut dk, dv: &mut dv, dbias: None };
        attention.backward(&input, &output, &lse, &g, gradients)?;
        both.push(start.elapsed().as_secs_f64() * 1e3);
    }
    forward.sort_by(f64::total_cmp);
    both.sort_by(f64::total_cmp);
    println!(
        "{threads} threads, {} rows, {} tokens: forward {:.1} ms (min {:.1}), both {:.1} ms (min {:.1})",
        offsets.rows(),
        offsets.total(),
        forward[3],
        forward[0],
        both[3],
        both[0]
    );
    Ok(())
}
