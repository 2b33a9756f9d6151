//! Timings on the jagged workload: B rows, 4 heads, bf16.

use std::sync::Arc;

use cudarc::driver::result::memset_d8_async;
use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaSlice, CudaStream};
use half::bf16;
use palmette_jagged::cuda::{
    BackwardBuffers, BackwardMode, BackwardTile, FastTile, ForwardBuffers, ForwardTile, Gpu,
    GpuAttention, GpuElement, GpuOptions, GpuPath,
};
use palmette_jagged::{Attention, AttentionInput, Mask, Offsets, reference_attention};
use palmette_random::{Draw, stream};

use crate::Outcome;
use crate::buffers::{Bits, Buffer, relative_error};

const HEADS: usize = 4;

/// Keys (or tile), groups, stages, blocks, lookahead (or overlap), registers.
type Shape = (u32, u32, u32, u32, bool, Option<(u32, u32)>);

const TWO_BLOCKS: Option<(u32, u32)> = Some((216, 40));
const ONE_OF_TWO: Option<(u32, u32)> = Some((240, 24));
const ONE_OF_THREE: Option<(u32, u32)> = Some((160, 32));

fn forward_tiles(d: usize) -> Vec<ForwardTile> {
    let shapes: &[Shape] = if d == 64 {
        &[
            (64, 1, 2, 3, true, None),
            (64, 1, 2, 4, false, Some((104, 24))),
            (128, 3, 2, 1, true, ONE_OF_THREE),
        ]
    } else {
        &[
            (64, 1, 2, 2, true, None),
            (128, 2, 2, 1, true, ONE_OF_TWO),
            (64, 3, 3, 1, true, ONE_OF_THREE),
        ]
    };
    let tile = |&(keys, groups, stages, blocks, lookahead, registers): &Shape| ForwardTile {
        keys,
        groups,
        stages,
        blocks,
        lookahead,
        registers,
    };
    shapes.iter().map(tile).collect()
}

fn backward_tiles(shapes: &[Shape]) -> Vec<BackwardTile> {
    let tile = |&(tile, groups, stages, blocks, overlap, registers): &Shape| BackwardTile {
        tile,
        groups,
        stages,
        blocks,
        overlap,
        registers,
    };
    shapes.iter().map(tile).collect()
}

fn keys_tiles(d: usize) -> Vec<BackwardTile> {
    backward_tiles(if d == 64 {
        &[(64, 1, 2, 2, false, TWO_BLOCKS), (64, 1, 3, 2, true, TWO_BLOCKS)]
    } else {
        &[(64, 2, 2, 1, false, ONE_OF_TWO), (64, 2, 3, 1, false, ONE_OF_TWO)]
    })
}

fn queries_tiles(d: usize) -> Vec<BackwardTile> {
    backward_tiles(if d == 64 {
        &[(64, 1, 2, 3, false, None), (128, 2, 2, 1, true, ONE_OF_TWO)]
    } else {
        &[
            (64, 1, 2, 2, false, None),
            (128, 2, 2, 1, false, ONE_OF_TWO),
            (64, 3, 2, 1, false, ONE_OF_THREE),
        ]
    })
}

/// Tile, groups, stages, blocks, registers.
type FastShape = (u32, u32, u32, u32, (u32, u32));

fn fast_tiles(d: usize) -> Vec<FastTile> {
    let shapes: &[FastShape] = if d == 64 {
        &[(64, 1, 2, 2, (216, 40)), (128, 2, 2, 1, (240, 24))]
    } else {
        &[(80, 2, 2, 1, (240, 24))]
    };
    let tile = |&(tile, groups, stages, blocks, registers): &FastShape| FastTile {
        tile,
        groups,
        stages,
        blocks,
        registers,
    };
    shapes.iter().map(tile).collect()
}

/// What the timings need compiled.
pub fn plans() -> Vec<(GpuElement, usize, GpuOptions)> {
    let mut plans = Vec::new();
    for d in [64, 128] {
        let none = GpuOptions::default();
        plans.push((GpuElement::Bf16, d, GpuOptions { path: Some(GpuPath::Mma), ..none }));
        let mut add = |options| plans.push((GpuElement::Bf16, d, options));
        forward_tiles(d)
            .into_iter()
            .for_each(|tile| add(GpuOptions { forward: Some(tile), ..none }));
        let fast = GpuOptions { mode: BackwardMode::Fast, ..none };
        fast_tiles(d).into_iter().for_each(|tile| add(GpuOptions { fast: Some(tile), ..fast }));
        keys_tiles(d)
            .into_iter()
            .for_each(|tile| add(GpuOptions { backward_keys: Some(tile), ..none }));
        queries_tiles(d)
            .into_iter()
            .for_each(|tile| add(GpuOptions { backward_queries: Some(tile), ..none }));
    }
    plans
}

/// A tile's numbers without their names.
fn show(tile: &impl std::fmt::Debug) -> String {
    let text = format!("{tile:?}");
    text.split(|c: char| !c.is_ascii_digit())
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
        + if text.contains("lookahead: true") || text.contains("overlap: true") {
            " overlapped"
        } else {
            ""
        }
}

/// Median and minimum of event timings, ms.
fn time(
    gpu: &Gpu,
    s: &Arc<CudaStream>,
    mut call: impl FnMut() -> Outcome,
) -> Result<(f64, f64), Box<dyn std::error::Error>> {
    let event = || gpu.context().new_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
    for _ in 0..3 {
        call()?;
    }
    s.synchronize()?;
    let mut pairs = Vec::new();
    for _ in 0..20 {
        let (begin, end) = (event()?, event()?);
        begin.record(s)?;
        call()?;
        end.record(s)?;
        pairs.push((begin, end));
    }
    s.synchronize()?;
    let mut ms = Vec::new();
    for (begin, end) in &pairs {
        ms.push(f64::from(begin.elapsed_ms(end)?));
    }
    ms.sort_by(f64::total_cmp);
    Ok((ms[ms.len() / 2], ms[0]))
}

/// A workload's buffers on the device.
struct Workload {
    offsets: Offsets,
    /// Bytes of an operand.
    size: usize,
    /// q, k, v, dO, output, dq, dk, dv.
    operands: [Buffer; 8],
    _scratch: [Buffer; 3],
    forward: ForwardBuffers,
    backward: BackwardBuffers,
}

impl Workload {
    /// Rows of the lengths in `file`, with numbers of `pool`.
    fn new(
        s: &Arc<CudaStream>,
        pool: &CudaSlice<u8>,
        file: &str,
        d: usize,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let bytes = std::fs::read(file)?;
        let (chunks, _) = bytes.as_chunks::<4>();
        let lengths: Vec<i32> = chunks.iter().map(|&chunk| i32::from_le_bytes(chunk)).collect();
        let offsets = Offsets::from_lengths(&lengths)?;
        let size = offsets.total() * HEADS * d * 2;
        let buffer = |shift: usize| Buffer::repeated(s, pool, shift * 16, size);
        let small = || Buffer::repeated(s, pool, 0, offsets.total() * HEADS * 4);
        let operands = [
            buffer(0)?,
            buffer(77_777)?,
            buffer(155_555)?,
            buffer(233_333)?,
            buffer(0)?,
            buffer(0)?,
            buffer(0)?,
            buffer(0)?,
        ];
        // Blocks of 64 queries: up to 63 more a row, and columns in panels of 64.
        let sums = (offsets.total() + 64 * offsets.rows()) * HEADS * d * 4;
        let scratch = [small()?, small()?, Buffer::repeated(s, pool, 0, sums)?];
        let [q, k, v, d_output, output, dq, dk, dv] = operands.each_ref().map(|x| x.address);
        let [lse, delta, workspace] = scratch.each_ref().map(|x| x.address);
        let forward = ForwardBuffers { q, k, v, bias: 0, output, lse };
        let backward =
            BackwardBuffers { forward, d_output, delta, dq, dk, dv, dbias: 0, workspace };
        Ok(Self { offsets, size, operands, _scratch: scratch, forward, backward })
    }

    fn sample(
        &self,
        attention: &Attention,
        s: &Arc<CudaStream>,
    ) -> Result<Sample, Box<dyn std::error::Error>> {
        let [q, k, v, g, ..] = &self.operands;
        Sample::new(attention, &self.offsets, s, [q, k, v, g])
    }
}

/// Random numbers that every operand is cut from.
fn pool(s: &Arc<CudaStream>) -> Result<CudaSlice<u8>, Box<dyn std::error::Error>> {
    let mut rng = stream(1, "jagged/gpu/bench", 0);
    let pool: Vec<bf16> = (0..1 << 22).map(|_| bf16::from_f64(rng.normal())).collect();
    Ok(s.clone_htod(&bf16::to_bytes(&pool))?)
}

pub fn bench(files: &[&str]) -> Outcome {
    let gpu = Gpu::new(0)?;
    let s = gpu.stream().clone();
    println!("device {} capability {:?}", gpu.context().name()?, gpu.capability());
    let pool = pool(&s)?;
    let mut table = String::new();
    for file in files {
        for d in [64, 128] {
            let workload = Workload::new(&s, &pool, file, d)?;
            let Workload { offsets, forward, backward, size, .. } = &workload;
            let [_, _, _, _, o, dq, dk, dv] = &workload.operands;
            let attention = Attention::new(HEADS, HEADS, d, Mask::Full)?;
            let flops = attention.forward_flops(offsets, offsets);
            let plan = |attention, options| {
                GpuAttention::new(&gpu, attention, GpuElement::Bf16, offsets, offsets, options)
            };
            // SAFETY: all buffers have the workload's sizes and outlive the timings.
            let run_forward =
                |plan: &GpuAttention| time(&gpu, &s, || Ok(unsafe { plan.forward(&s, forward) }?));
            // SAFETY: as above.
            let run_backward = |plan: &GpuAttention| {
                time(&gpu, &s, || Ok(unsafe { plan.backward(&s, backward) }?))
            };
            let sample = workload.sample(&attention, &s)?;
            let poison = |buffers: &[&Buffer]| -> Outcome {
                // All bits set is a NaN.
                for buffer in buffers {
                    // SAFETY: the buffer has `size` bytes.
                    unsafe { memset_d8_async(buffer.address, 0xff, *size, s.cu_stream()) }?;
                }
                Ok(())
            };
            let mut best = (f64::MAX, ForwardTile::best(d, offsets.longest()));
            for tile in forward_tiles(d) {
                let plan =
                    plan(attention, GpuOptions { forward: Some(tile), ..Default::default() })?;
                poison(&[o])?;
                let (median, minimum) = run_forward(&plan)?;
                println!(
                    "{file} D{d} forward {}: {median:.3} ms, min {minimum:.3}, {:.0} TFLOP/s, error {:.1e}",
                    show(&tile),
                    flops / median / 1e9,
                    sample.error(&s, 0, o)?
                );
                if median < best.0 {
                    best = (median, tile);
                }
            }
            let mut options = GpuOptions { forward: Some(best.1), ..Default::default() };
            let mut best_backward = f64::MAX;
            for tile in keys_tiles(d) {
                let attempt = GpuOptions { backward_keys: Some(tile), ..options };
                poison(&[dq, dk, dv])?;
                let (median, minimum) = run_backward(&plan(attention, attempt)?)?;
                println!(
                    "{file} D{d} backward keys {}: {median:.3} ms, min {minimum:.3}, errors {:.1e} {:.1e}",
                    show(&tile),
                    sample.error(&s, 2, dk)?,
                    sample.error(&s, 3, dv)?
                );
                if median < best_backward {
                    (best_backward, options) = (median, attempt);
                }
            }
            for tile in queries_tiles(d) {
                let attempt = GpuOptions { backward_queries: Some(tile), ..options };
                poison(&[dq, dk, dv])?;
                let (median, minimum) = run_backward(&plan(attention, attempt)?)?;
                println!(
                    "{file} D{d} backward queries {}: {median:.3} ms, min {minimum:.3}, error {:.1e}",
                    show(&tile),
                    sample.error(&s, 1, dq)?
                );
                if median < best_backward {
                    (best_backward, options) = (median, attempt);
                }
            }
            let mut fast_options = GpuOptions { mode: BackwardMode::Fast, ..options };
            let mut best_fast = f64::MAX;
            for tile in fast_tiles(d) {
                let attempt = GpuOptions { fast: Some(tile), ..fast_options };
                poison(&[dq, dk, dv])?;
                let plan = plan(attention, attempt)?;
                let (median, minimum) = run_backward(&plan)?;
                println!(
                    "{file} D{d} backward fast {}: {median:.3} ms, min {minimum:.3}, errors {:.1e} {:.1e} {:.1e}, workspace {} MiB",
                    show(&tile),
                    sample.error(&s, 1, dq)?,
                    sample.error(&s, 2, dk)?,
                    sample.error(&s, 3, dv)?,
                    plan.workspace_bytes() >> 20
                );
                if median < best_fast {
                    (best_fast, fast_options) = (median, attempt);
                }
            }
            let fast = plan(attention, fast_options)?;
            let (fast_both, fast_minimum) = time(&gpu, &s, || {
                // SAFETY: as above.
                unsafe {
                    fast.forward(&s, forward)?;
                    fast.backward(&s, backward)?;
                }
                Ok(())
            })?;
            let full = plan(attention, options)?;
            let (both, both_minimum) = time(&gpu, &s, || {
                // SAFETY: as above.
                unsafe {
                    full.forward(&s, forward)?;
                    full.backward(&s, backward)?;
                }
                Ok(())
            })?;

            let portable = GpuOptions { path: Some(GpuPath::Mma), ..Default::default() };
            let portable = plan(attention, portable)?;
            let (mma_forward, _) = run_forward(&portable)?;
            let (mma_backward, _) = run_backward(&portable)?;
            // A card near its power limit slows down, so the masks take turns.
            let causal = Attention::new(HEADS, HEADS, d, Mask::Causal)?;
            let plans = [plan(attention, Default::default())?, plan(causal, Default::default())?];
            let mut ratios = Vec::new();
            let (mut causal_forward, mut causal_backward) = (0.0, 0.0);
            for _ in 0..5 {
                causal_backward = run_backward(&plans[1])?.0;
                let (of_full, _) = run_forward(&plans[0])?;
                causal_forward = run_forward(&plans[1])?.0;
                ratios.push(causal_forward / of_full);
            }
            ratios.sort_by(f64::total_cmp);
            let line = format!(
                "{file} D{d}: forward {:.3} ({:.0} TFLOP/s) both {both:.3} (min {both_minimum:.3}, {:.0} TFLOP/s at 3.5x) fast {fast_both:.3} (min {fast_minimum:.3}) \
                 causal {causal_forward:.3} + {causal_backward:.3} ({:.3} to {:.3} of full forward), mma {mma_forward:.3} + {mma_backward:.3}\n    {:?}\n",
                best.0,
                flops / best.0 / 1e9,
                3.5 * flops / both / 1e9,
                ratios[0],
                ratios[ratios.len() - 1],
                options
            );
            print!("{line}");
            table.push_str(&line);
        }
    }
    println!("\n{table}");
    Ok(())
}

/// Times the fast mode's backward, and forward with it, with the shapes that plans choose.
pub fn fast(files: &[&str]) -> Outcome {
    let gpu = Gpu::new(0)?;
    let s = gpu.stream().clone();
    let pool = pool(&s)?;
    for file in files {
        for d in [64, 128] {
            let workload = Workload::new(&s, &pool, file, d)?;
            let Workload { offsets, forward, backward, .. } = &workload;
            let attention = Attention::new(HEADS, HEADS, d, Mask::Full)?;
            let options = GpuOptions { mode: BackwardMode::Fast, ..GpuOptions::default() };
            let element = GpuElement::Bf16;
            let plan = GpuAttention::new(&gpu, attention, element, offsets, offsets, options)?;
            // SAFETY: all buffers have the workload's sizes and outlive the timings.
            unsafe { plan.forward(&s, forward) }?;
            // SAFETY: as above.
            let alone = time(&gpu, &s, || Ok(unsafe { plan.backward(&s, backward) }?))?;
            let both = time(&gpu, &s, || {
                // SAFETY: as above.
                unsafe {
                    plan.forward(&s, forward)?;
                    plan.backward(&s, backward)?;
                }
                Ok(())
            })?;
            println!(
                "{file} D{d}: backward {:.3} ms, min {:.3}, both {:.3}, min {:.3}",
                alone.0, alone.1, both.0, both.1
            );
        }
    }
    Ok(())
}

/// A few rows with their exact results.
struct Sample {
    ranges: Vec<std::ops::Range<usize>>,
    /// Output, dq, dk, dv of each row.
    exact: Vec<[Vec<f64>; 4]>,
}

impl Sample {
    fn new(
        attention: &Attention,
        offsets: &Offsets,
        s: &Arc<CudaStream>,
        inputs: [&Buffer; 4],
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let width = HEADS * attention.head_dim();
        let order = offsets.longest_first();
        let mut sample = Self { ranges: Vec::new(), exact: Vec::new() };
        for &b in [order[order.len() / 3], order[order.len() / 2], order[order.len() - 1]].iter() {
            let row = offsets.range(b as usize);
            let range = row.start * width..row.end * width;
            let mut read = Vec::new();
            for buffer in inputs {
                read.push(buffer.read::<bf16>(s, range.clone())?);
            }
            let own = Offsets::from_lengths(&[row.len() as i64])?;
            let input = AttentionInput {
                q: &read[0],
                k: &read[1],
                v: &read[2],
                offsets_q: &own,
                offsets_k: &own,
                bias: None,
            };
            let exact = reference_attention(attention, &input, Some(&read[3]))?;
            let gradients = exact.gradients.ok_or("no gradients")?;
            sample.ranges.push(range);
            sample.exact.push([exact.output, gradients.dq, gradients.dk, gradients.dv]);
        }
        Ok(sample)
    }

    /// Worst relative error of tensor `which` (output, dq, dk, dv).
    fn error(
        &self,
        s: &Arc<CudaStream>,
        which: usize,
        buffer: &Buffer,
    ) -> Result<f64, Box<dyn std::error::Error>> {
        let mut worst = 0f64;
        for (range, exact) in self.ranges.iter().zip(&self.exact) {
            let found = buffer.read::<bf16>(s, range.clone())?;
            worst = worst.max(relative_error(&found, &exact[which]));
        }
        Ok(worst)
    }
}
