//! Timings on the jagged workload: B rows, 4 heads, bf16.

use cudarc::driver::result::memset_d8_async;
use half::bf16;
use palmette_jagged::cuda::{
    BackwardMode, BackwardTile, FastTile, ForwardTile, Gpu, GpuAttention, GpuElement, GpuOptions,
    GpuPath,
};
use palmette_jagged::{Attention, Mask};

use crate::Outcome;
use crate::buffers::Buffer;
use crate::workload::{HEADS, Workload, pool, time};

/// Keys (or tile), groups, stages, blocks, lookahead (or overlap), registers.
type Shape = (u32, u32, u32, u32, bool, Option<(u32, u32)>);

const TWO_BLOCKS: Option<(u32, u32)> = Some((216, 40));
const ONE_OF_TWO: Option<(u32, u32)> = Some((240, 24));
const ONE_OF_THREE: Option<(u32, u32)> = Some((160, 32));

pub fn forward_tiles(d: usize) -> Vec<ForwardTile> {
    let shapes: &[Shape] = if d == 64 {
        &[
            (64, 1, 2, 3, true, None),
            (64, 1, 2, 4, false, Some((104, 24))),
            (64, 3, 4, 1, true, ONE_OF_THREE),
            (128, 2, 2, 1, true, ONE_OF_TWO),
            (128, 3, 2, 1, true, ONE_OF_THREE),
            (128, 3, 3, 1, true, ONE_OF_THREE),
        ]
    } else {
        &[
            (64, 1, 2, 2, true, None),
            (128, 2, 2, 1, true, ONE_OF_TWO),
            (64, 3, 4, 1, true, ONE_OF_THREE),
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
        plans.push((GpuElement::F16, d, GpuOptions { mode: BackwardMode::Fast, ..none }));
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
pub fn show(tile: &impl std::fmt::Debug) -> String {
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

pub fn bench(files: &[&str]) -> Outcome {
    let gpu = Gpu::new(0)?;
    let s = gpu.stream().clone();
    println!("device {} capability {:?}", gpu.context().name()?, gpu.capability());
    let pool = pool::<bf16>(&s)?;
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
            let sample = workload.sample::<bf16>(&attention, &s)?;
            let poison = |buffers: &[&Buffer]| -> Outcome {
                // All bits set is a NaN.
                for buffer in buffers {
                    // SAFETY: the buffer has `size` bytes.
                    unsafe { memset_d8_async(buffer.address, 0xff, *size, s.cu_stream()) }?;
                }
                Ok(())
            };
            let mut best = (f64::MAX, ForwardTile::best(d, 0, true));
            for tile in forward_tiles(d) {
                let plan =
                    plan(attention, GpuOptions { forward: Some(tile), ..Default::default() })?;
                poison(&[o])?;
                let (median, minimum) = run_forward(&plan)?;
                println!(
                    "{file} D{d} forward {}: {median:.3} ms, min {minimum:.3}, {:.0} TFLOP/s, error {:.1e}",
                    show(&tile),
                    flops / median / 1e9,
                    sample.error::<bf16>(&s, 0, o)?
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
                    sample.error::<bf16>(&s, 2, dk)?,
                    sample.error::<bf16>(&s, 3, dv)?
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
                    sample.error::<bf16>(&s, 1, dq)?
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
                    sample.error::<bf16>(&s, 1, dq)?,
                    sample.error::<bf16>(&s, 2, dk)?,
                    sample.error::<bf16>(&s, 3, dv)?,
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
            let line = format!(
                "{file} D{d}: forward {:.3} ({:.0} TFLOP/s) both {both:.3} (min {both_minimum:.3}, {:.0} TFLOP/s at 3.5x) fast {fast_both:.3} (min {fast_minimum:.3}) \
                 mma {mma_forward:.3} + {mma_backward:.3}\n    {:?}\n",
                best.0,
                flops / best.0 / 1e9,
                3.5 * flops / both / 1e9,
                options
            );
            print!("{line}");
            table.push_str(&line);
        }
    }
    println!("\n{table}");
    Ok(())
}
