//! Timings of pairs that take turns, since a card near its power limit slows down: a causal mask
//! beside none, f16 beside bf16, backward beside forward and backward.

use std::sync::Arc;

use cudarc::driver::CudaStream;
use half::{bf16, f16};
use palmette_jagged::cuda::{BackwardMode, Gpu, GpuAttention, GpuElement, GpuOptions};
use palmette_jagged::{Attention, JaggedError, Mask, Offsets};

use crate::Outcome;
use crate::bench::{forward_tiles, show};
use crate::workload::{HEADS, Workload, pool, time};

/// Turns that each of a pair has.
const TURNS: usize = 7;

/// What a call does.
#[derive(Clone, Copy)]
enum Work {
    Forward,
    Backward,
    Both,
}

/// A plan on a workload.
struct Run<'a> {
    plan: GpuAttention,
    workload: &'a Workload,
}

impl<'a> Run<'a> {
    fn new(
        gpu: &Arc<Gpu>,
        workload: &'a Workload,
        (element, d, mask): (GpuElement, usize, Mask),
        options: GpuOptions,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let attention = Attention::new(HEADS, HEADS, d, mask)?;
        let offsets: &Offsets = &workload.offsets;
        let plan = GpuAttention::new(gpu, attention, element, offsets, offsets, options)?;
        Ok(Self { plan, workload })
    }

    fn call(&self, s: &Arc<CudaStream>, work: Work) -> Result<(), JaggedError> {
        // SAFETY: all buffers have the workload's sizes and outlive the timings.
        unsafe {
            if !matches!(work, Work::Backward) {
                self.plan.forward(s, &self.workload.forward)?;
            }
            if !matches!(work, Work::Forward) {
                self.plan.backward(s, &self.workload.backward)?;
            }
        }
        Ok(())
    }

    /// Median and minimum, ms.
    fn time(&self, gpu: &Gpu, work: Work) -> Result<(f64, f64), Box<dyn std::error::Error>> {
        let s = gpu.stream();
        time(gpu, s, || Ok(self.call(s, work)?))
    }
}

/// Medians of the two's medians, ms, and of the turns' ratios `first / second`, with the range of these.
fn in_turns(
    gpu: &Gpu,
    first: &Run<'_>,
    second: &Run<'_>,
    work: Work,
) -> Result<String, Box<dyn std::error::Error>> {
    let (mut firsts, mut seconds, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let (b, a) = (second.time(gpu, work)?.0, first.time(gpu, work)?.0);
        firsts.push(a);
        seconds.push(b);
        ratios.push(a / b);
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (a, b, ratio) = (median(&mut firsts), median(&mut seconds), median(&mut ratios));
    Ok(format!(
        "{a:.3} ms beside {b:.3}: {ratio:.3} ({:.3} to {:.3})",
        ratios[0],
        ratios[TURNS - 1]
    ))
}

/// Plans in bf16 on one workload after the other.
struct Plans<'a> {
    gpu: &'a Arc<Gpu>,
    workload: &'a Workload,
    /// File and head dimension.
    name: String,
    d: usize,
}

impl Plans<'_> {
    fn run(&self, mask: Mask, options: GpuOptions) -> Result<Run<'_>, Box<dyn std::error::Error>> {
        Run::new(self.gpu, self.workload, (GpuElement::Bf16, self.d, mask), options)
    }
}

/// Does `measure` for each file and head dimension.
fn each_workload(files: &[&str], measure: impl Fn(&Plans<'_>) -> Outcome) -> Outcome {
    let gpu = Gpu::new(0)?;
    let s = gpu.stream().clone();
    let pool = pool::<bf16>(&s)?;
    for file in files {
        for d in [64, 128] {
            let workload = &Workload::new(&s, &pool, file, d)?;
            measure(&Plans { gpu: &gpu, workload, name: format!("{file} D{d}"), d })?;
        }
    }
    Ok(())
}

/// A causal mask beside none, with the shapes that plans choose; forward in every shape, too.
/// Lines whose name has `only` in it.
pub fn causal(only: &str, files: &[&str]) -> Outcome {
    each_workload(files, |plans| {
        let options = GpuOptions::default();
        let compare = |name: &str, options, work| -> Outcome {
            let name = format!("{} causal {name}", plans.name);
            if !name.contains(only) {
                return Ok(());
            }
            let [causal, full] =
                [plans.run(Mask::Causal, options)?, plans.run(Mask::Full, options)?];
            println!("{name}: {}", in_turns(plans.gpu, &causal, &full, work)?);
            Ok(())
        };
        compare("forward", options, Work::Forward)?;
        for tile in forward_tiles(plans.d) {
            let options = GpuOptions { forward: Some(tile), ..options };
            compare(&format!("tile {}", show(&tile)), options, Work::Forward)?;
        }
        for mode in [BackwardMode::Deterministic, BackwardMode::Fast] {
            let options = GpuOptions { mode, ..options };
            compare(&format!("both, {mode:?}"), options, Work::Both)?;
        }
        Ok(())
    })
}

/// Forward, and the fast mode's forward and backward, in every shape of the forward's tile beside
/// the shape that plans choose. Lines whose name has `only` in it.
pub fn shapes(only: &str, files: &[&str]) -> Outcome {
    each_workload(files, |plans| {
        for (mask, masked) in [(Mask::Full, "full"), (Mask::Causal, "causal")] {
            let run = |forward| {
                let mode = BackwardMode::Fast;
                plans.run(mask, GpuOptions { mode, forward, ..GpuOptions::default() })
            };
            let chosen = run(None)?;
            for tile in forward_tiles(plans.d) {
                for (work, pass) in [(Work::Forward, "forward"), (Work::Both, "both")] {
                    let name = format!("{} {masked} tile {} {pass}", plans.name, show(&tile));
                    if name.contains(only) {
                        let other = run(Some(tile))?;
                        println!("{name}: {}", in_turns(plans.gpu, &other, &chosen, work)?);
                    }
                }
            }
        }
        Ok(())
    })
}

/// f16 beside bf16, with the shapes that plans choose.
pub fn types(files: &[&str]) -> Outcome {
    let gpu = Gpu::new(0)?;
    let s = gpu.stream().clone();
    let pools = [pool::<f16>(&s)?, pool::<bf16>(&s)?];
    for file in files {
        for d in [64, 128] {
            let half = Workload::new(&s, &pools[0], file, d)?;
            let brain = Workload::new(&s, &pools[1], file, d)?;
            for (work, name) in [(Work::Forward, "forward"), (Work::Both, "both")] {
                for mode in [BackwardMode::Fast, BackwardMode::Deterministic] {
                    if matches!(work, Work::Forward) && mode == BackwardMode::Deterministic {
                        continue;
                    }
                    let options = GpuOptions { mode, ..GpuOptions::default() };
                    let f16 = (GpuElement::F16, d, Mask::Full);
                    let bf16 = (GpuElement::Bf16, d, Mask::Full);
                    let first = Run::new(&gpu, &half, f16, options)?;
                    let second = Run::new(&gpu, &brain, bf16, options)?;
                    let compared = in_turns(&gpu, &first, &second, work)?;
                    println!("{file} D{d} f16 {name}, {mode:?}: {compared}");
                }
            }
            let attention = Attention::new(HEADS, HEADS, d, Mask::Full)?;
            let [_, _, _, _, o, dq, dk, dv] = &half.operands;
            let sample = half.sample::<f16>(&attention, &s)?;
            let mut errors = Vec::new();
            for (which, buffer) in [o, dq, dk, dv].into_iter().enumerate() {
                errors.push(format!("{:.1e}", sample.error::<f16>(&s, which, buffer)?));
            }
            println!("{file} D{d} f16 errors of o, dq, dk, dv: {}", errors.join(" "));
        }
    }
    Ok(())
}

/// The fast mode's backward, and forward with it, with the shapes that plans choose.
pub fn fast(files: &[&str]) -> Outcome {
    each_workload(files, |plans| {
        let options = GpuOptions { mode: BackwardMode::Fast, ..GpuOptions::default() };
        let run = plans.run(Mask::Full, options)?;
        run.call(plans.gpu.stream(), Work::Forward)?;
        let (alone, both) =
            (run.time(plans.gpu, Work::Backward)?, run.time(plans.gpu, Work::Both)?);
        println!(
            "{}: backward {:.3} ms, min {:.3}, both {:.3}, min {:.3}",
            plans.name, alone.0, alone.1, both.0, both.1
        );
        Ok(())
    })
}
