//! What the processor's multiply-add units can do: the denominator of every "share of peak".

use std::hint::black_box;
use std::time::Instant;

use serde::Serialize;

/// Measured GFLOP/s of all threads together, two operations a multiply-add.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Peak {
    /// f32.
    pub f32: Option<f64>,
    /// bf16 products with f32 sums.
    pub bf16: Option<f64>,
}

/// One loop on registers alone: its steps, and operations a step.
type Loop = (fn(u64) -> f32, u64);

const STEPS: u64 = 4_000_000;

/// The best of five measurements on every thread of the pool at once.
pub fn measure() -> Peak {
    let rate = |(body, operations): Loop| {
        let once = || {
            let start = Instant::now();
            let threads = rayon::broadcast(|_| black_box(body(black_box(STEPS)))).len() as u64;
            (threads * STEPS * operations) as f64 / start.elapsed().as_secs_f64() / 1e9
        };
        (0..5).map(|_| once()).fold(0.0, f64::max)
    };
    Peak { f32: f32_loop().map(rate), bf16: bf16_loop().map(rate) }
}

#[cfg(target_arch = "x86_64")]
fn f32_loop() -> Option<Loop> {
    // SAFETY: each is called only where its instruction set was detected.
    let avx512: fn(u64) -> f32 = |steps| unsafe { x86::avx512_f32(steps) };
    // SAFETY: as above.
    let avx2: fn(u64) -> f32 = |steps| unsafe { x86::avx2_f32(steps) };
    if is_x86_feature_detected!("avx512f") {
        Some((avx512, x86::CHAINS * 16 * 2))
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        Some((avx2, x86::CHAINS * 8 * 2))
    } else {
        None
    }
}

#[cfg(target_arch = "x86_64")]
fn bf16_loop() -> Option<Loop> {
    // SAFETY: called only where its instruction set was detected.
    let avx512: fn(u64) -> f32 = |steps| unsafe { x86::avx512_bf16(steps) };
    is_x86_feature_detected!("avx512bf16").then_some((avx512, x86::CHAINS * 32 * 2))
}

#[cfg(not(target_arch = "x86_64"))]
fn f32_loop() -> Option<Loop> {
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn bf16_loop() -> Option<Loop> {
    None
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Independent sums: two units with a latency of four to six cycles need at least twelve. They
    /// start from different numbers, or the compiler would make one of them.
    pub const CHAINS: u64 = 16;

    #[target_feature(enable = "avx512f")]
    pub fn avx512_f32(steps: u64) -> f32 {
        let (x, y) = (_mm512_set1_ps(0.999_9), _mm512_set1_ps(1e-4));
        let mut sums = [_mm512_setzero_ps(); CHAINS as usize];
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = _mm512_set1_ps(i as f32);
        }
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, x, y);
            }
        }
        let mut total = 0.0;
        for sum in sums {
            total += _mm512_reduce_add_ps(sum);
        }
        total
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2_f32(steps: u64) -> f32 {
        // Sixteen registers in all: eight sums, twice as often.
        let (x, y) = (_mm256_set1_ps(0.999_9), _mm256_set1_ps(1e-4));
        let mut sums = [_mm256_setzero_ps(); 8];
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = _mm256_set1_ps(i as f32);
        }
        for _ in 0..2 * steps {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, x, y);
            }
        }
        let mut all = _mm256_setzero_ps();
        for sum in sums {
            all = _mm256_add_ps(all, sum);
        }
        let mut lanes = [0.0; 8];
        // SAFETY: eight lanes fit the array.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), all) };
        lanes.iter().sum()
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn avx512_bf16(steps: u64) -> f32 {
        let ones = _mm512_set1_ps(1e-3);
        let x = _mm512_cvtne2ps_pbh(ones, ones);
        let mut sums = [_mm512_setzero_ps(); CHAINS as usize];
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = _mm512_set1_ps(i as f32);
        }
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, x, x);
            }
        }
        let mut total = 0.0;
        for sum in sums {
            total += _mm512_reduce_add_ps(sum);
        }
        total
    }
}
