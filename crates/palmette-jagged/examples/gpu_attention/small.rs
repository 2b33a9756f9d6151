//! Timings of the small operators on the jagged workloads, with buffers that take turns.

use std::sync::Arc;

use cudarc::driver::CudaStream;
use cudarc::driver::result::memcpy_dtod_async;
use cudarc::driver::sys::CUevent_flags;
use half::bf16;
use palmette_jagged::cuda::{Gpu, GpuElement, GpuOperators, GpuProduct};
use palmette_jagged::{JaggedError, Offsets};
use palmette_random::{Draw, stream};

use crate::Outcome;
use crate::buffers::{Bits, Buffer};

/// Bytes that take turns at least, three times the L2 cache of a Hopper GPU.
const ROTATED: usize = 180 << 20;
/// Bytes of the copy that measures the bandwidth of the floor.
const COPIED: usize = 2 << 30;

/// Median time of one call over `sets` of buffers, ms: calls back to back between two events,
/// so that launching one overlaps another.
fn time(
    gpu: &Gpu,
    s: &Arc<CudaStream>,
    sets: usize,
    mut call: impl FnMut(usize) -> Result<(), JaggedError>,
) -> Result<(f64, f64), Box<dyn std::error::Error>> {
    let event = || gpu.context().new_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
    let calls = sets.max(20);
    let mut times = Vec::new();
    for round in 0..9 {
        let (begin, end) = (event()?, event()?);
        begin.record(s)?;
        for i in 0..calls {
            call(i % sets)?;
        }
        end.record(s)?;
        s.synchronize()?;
        if round >= 2 {
            times.push(f64::from(begin.elapsed_ms(&end)?) / calls as f64);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok((times[times.len() / 2], times[0]))
}

/// Operators with `only` in their name.
pub fn bench(only: &str, files: &[&str]) -> Outcome {
    let gpu = Gpu::new(0)?;
    let s = gpu.stream().clone();
    println!("device {} capability {:?}", gpu.context().name()?, gpu.capability());
    let mut rng = stream(1, "jagged/gpu/small", 0);
    let pool: Vec<bf16> = (0..1 << 22).map(|_| bf16::from_f64(rng.normal())).collect();
    let pool = s.clone_htod(&bf16::to_bytes(&pool))?;
    let (from, to) =
        (Buffer::repeated(&s, &pool, 0, COPIED)?, Buffer::repeated(&s, &pool, 0, COPIED)?);
    let (copy, _) = time(&gpu, &s, 1, |_| {
        // SAFETY: both buffers have so many bytes and outlive the timing.
        unsafe { memcpy_dtod_async(to.address, from.address, COPIED, s.cu_stream()) }
            .map_err(|error| JaggedError::Gpu { reason: error.to_string() })
    })?;
    drop((from, to));
    let bandwidth = 2.0 * COPIED as f64 / copy;
    println!("the floor's bandwidth, of a copy: {:.2} TB/s read and written", bandwidth / 1e9);
    for file in files {
        let bytes = std::fs::read(file)?;
        let (chunks, _) = bytes.as_chunks::<4>();
        let lengths: Vec<i32> = chunks.iter().map(|&chunk| i32::from_le_bytes(chunk)).collect();
        let offsets = Offsets::from_lengths(&lengths)?;
        let (t, b) = (offsets.total(), offsets.rows());
        let show = |name: &str, bytes: usize, (median, minimum): (f64, f64)| {
            let floor = bytes as f64 / bandwidth;
            println!(
                "{file} {name}: {median:.4} ms (min {minimum:.4}), floor {floor:.4}, {:.0} % of it",
                100.0 * floor / median
            );
        };
        // As many sets of the operands, of so many elements each, as reach ROTATED.
        let sets_of = |counts: [usize; 3]| -> Result<Vec<[Buffer; 3]>, Box<dyn std::error::Error>> {
            let sets = ROTATED.div_ceil(2 * counts.iter().sum::<usize>()).max(2);
            let mut all = Vec::new();
            for i in 0..sets {
                let buffer = |j: usize| {
                    Buffer::repeated(&s, &pool, (i * 3 + j) * 4099 * 16, 2 * counts[j].max(8))
                };
                all.push([buffer(0)?, buffer(1)?, buffer(2)?]);
            }
            Ok(all)
        };
        let operators = GpuOperators::new(&gpu, GpuElement::Bf16, &offsets)?;
        for width in [64, 4] {
            if !"softmax".contains(only) {
                continue;
            }
            let sets = sets_of([t * width, t * width, t * width])?;
            // SAFETY: here and below buffers have the operators' sizes and outlive the timing.
            let forward = time(&gpu, &s, sets.len(), |i| unsafe {
                operators.softmax(&s, width, sets[i][0].address, sets[i][2].address)
            })?;
            show(&format!("softmax H={width}"), 2 * 2 * t * width, forward);
            let backward = time(&gpu, &s, sets.len(), |i| unsafe {
                let [y, dy, dx] = [0, 1, 2].map(|j: usize| sets[i][j].address);
                operators.softmax_backward(&s, width, y, dy, dx)
            })?;
            show(&format!("softmax backward H={width}"), 3 * 2 * t * width, backward);
        }
        for [k, m] in [[128, 128], [256, 64]] {
            let bytes = 2 * (t * k + b * k * m + t * m);
            let sets = sets_of([t * k, b * k * m, t * m])?;
            if "dense_bmm".contains(only) {
                let dense = GpuProduct::dense(&gpu, GpuElement::Bf16, &offsets, [k, m], false)?;
                let timed = time(&gpu, &s, sets.len(), |i| unsafe {
                    dense.run(&s, sets[i][0].address, sets[i][1].address, sets[i][2].address)
                })?;
                show(&format!("dense_bmm {k}x{m}"), bytes, timed);
            }
            if "jagged_bmm".contains(only) {
                let jagged = GpuProduct::jagged(&gpu, GpuElement::Bf16, &offsets, [k, m])?;
                let timed = time(&gpu, &s, sets.len(), |i| unsafe {
                    jagged.run(&s, sets[i][0].address, sets[i][2].address, sets[i][1].address)
                })?;
                show(&format!("jagged_bmm {k}x{m}"), bytes, timed);
            }
        }
    }
    Ok(())
}
