//! The jagged workload on the device: B rows, 4 heads, operands cut from one pool of random numbers.

use std::sync::Arc;

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaSlice, CudaStream};
use palmette_jagged::cuda::{BackwardBuffers, ForwardBuffers, Gpu};
use palmette_jagged::{Attention, AttentionInput, Offsets, Real, reference_attention};
use palmette_random::{Draw, stream};

use crate::Outcome;
use crate::buffers::{Bits, Buffer, relative_error};

pub const HEADS: usize = 4;

/// A workload's buffers on the device, of 16-bit elements.
pub struct Workload {
    pub offsets: Offsets,
    /// Bytes of an operand.
    pub size: usize,
    /// q, k, v, dO, output, dq, dk, dv.
    pub operands: [Buffer; 8],
    _scratch: [Buffer; 3],
    pub forward: ForwardBuffers,
    pub backward: BackwardBuffers,
}

impl Workload {
    /// Rows of the lengths in `file`, with numbers of `pool`.
    pub fn new(
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

    pub fn sample<T: Bits>(
        &self,
        attention: &Attention,
        s: &Arc<CudaStream>,
    ) -> Result<Sample, Box<dyn std::error::Error>> {
        let [q, k, v, g, ..] = &self.operands;
        Sample::new::<T>(attention, &self.offsets, s, [q, k, v, g])
    }
}

/// Random numbers that every operand is cut from.
pub fn pool<T: Bits>(s: &Arc<CudaStream>) -> Result<CudaSlice<u8>, Box<dyn std::error::Error>> {
    let mut rng = stream(1, "jagged/gpu/bench", 0);
    let pool: Vec<T> = (0..1 << 22).map(|_| T::narrow(T::Sum::of(rng.normal()))).collect();
    Ok(s.clone_htod(&T::to_bytes(&pool))?)
}

/// Median and minimum of event timings, ms.
pub fn time(
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

/// A few rows with their exact results.
pub struct Sample {
    ranges: Vec<std::ops::Range<usize>>,
    /// Output, dq, dk, dv of each row.
    exact: Vec<[Vec<f64>; 4]>,
}

impl Sample {
    fn new<T: Bits>(
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
                read.push(buffer.read::<T>(s, range.clone())?);
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
    pub fn error<T: Bits>(
        &self,
        s: &Arc<CudaStream>,
        which: usize,
        buffer: &Buffer,
    ) -> Result<f64, Box<dyn std::error::Error>> {
        let mut worst = 0f64;
        for (range, exact) in self.ranges.iter().zip(&self.exact) {
            let found = buffer.read::<T>(s, range.clone())?;
            worst = worst.max(relative_error(&found, &exact[which]));
        }
        Ok(worst)
    }
}
