/*!
Counter-based random streams.

Every random number in Palmette comes from a stream that is a pure function of
`(seed, purpose, index)`: no generator is shared between threads and none is
advanced by an unrelated part of the program, so the same seed gives the same
bits whatever the number of workers, and a killed run that starts again in the
middle draws what it would have drawn.

```
use palmette_random::{Rng, stream};

let mut path = stream(7, "supernet/path", 1000);
let mut same = stream(7, "supernet/path", 1000);
let mut next = stream(7, "supernet/path", 1001);
let x = path.next_u64();
assert_eq!(x, same.next_u64());
assert_ne!(x, next.next_u64());
```
*/

pub use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
pub use rand_chacha::rand_core::{self, Rng};

/// The stream of `(seed, purpose, index)`.
///
/// `purpose` is a path-like constant such as `"supernet/path"`; `index` is what
/// the purpose counts (a step, a trial, a parameter).
pub fn stream(seed: u64, purpose: &str, index: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&index.to_le_bytes());
    let tag = xxhash_rust::xxh3::xxh3_128(purpose.as_bytes());
    key[16..].copy_from_slice(&tag.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// Draws used everywhere, defined once so that their bits never change.
pub trait Draw: Rng {
    /// Uniform in `[0, 1)` with 53 random bits.
    fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in `0..n` without bias (Lemire's multiplication with rejection). `n` must be positive.
    fn below(&mut self, n: u64) -> u64 {
        debug_assert!(n > 0);
        let mut product = u128::from(self.next_u64()) * u128::from(n);
        // The threshold is below n: hardly a draw needs the division.
        if (product as u64) < n {
            let threshold = n.wrapping_neg() % n;
            while (product as u64) < threshold {
                product = u128::from(self.next_u64()) * u128::from(n);
            }
        }
        (product >> 64) as u64
    }

    /// True with probability `p`.
    fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// A standard normal variate (Box-Muller, one of the pair).
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// `count` distinct elements of `0..n` in random order (partial Fisher-Yates).
    fn distinct(&mut self, n: usize, count: usize) -> Vec<usize> {
        let mut items: Vec<usize> = (0..n).collect();
        let count = count.min(n);
        for i in 0..count {
            let j = i + self.below((n - i) as u64) as usize;
            items.swap(i, j);
        }
        items.truncate(count);
        items
    }

    /// Shuffles a slice (Fisher-Yates).
    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

impl<R: Rng + ?Sized> Draw for R {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_is_uniform() {
        let mut rng = stream(1, "test/below", 0);
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[rng.below(7) as usize] += 1;
        }
        // sd of a count is 93; six of them
        assert!(counts.iter().all(|&c| (9_440..10_560).contains(&c)), "{counts:?}");
    }

    /// Every draw below the threshold is rejected, and no other one.
    #[test]
    fn below_rejects_what_would_bias_it() {
        let sizes = [1, 2, 3, 7, 10, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 63) + 1, u64::MAX];
        for (index, n) in (0u64..).zip(sizes) {
            let mut rng = stream(2, "test/below", index);
            let mut plain = rng.clone();
            let mut rejected = 0;
            for _ in 0..1000 {
                let want = loop {
                    let product = u128::from(plain.next_u64()) * u128::from(n);
                    if product as u64 >= n.wrapping_neg() % n {
                        break (product >> 64) as u64;
                    }
                    rejected += 1;
                };
                assert_eq!(rng.below(n), want, "below {n}");
            }
            // The one size of which half of the draws are rejected.
            assert_eq!(rejected > 400, n == (1 << 63) + 1, "{rejected} of {n}");
        }
    }

    #[test]
    fn normal_has_unit_variance() {
        let mut rng = stream(1, "test/normal", 0);
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..100_000 {
            let x = rng.normal();
            sum += x;
            squares += x * x;
        }
        assert!((sum / 1e5).abs() < 0.015, "{sum}");
        assert!((squares / 1e5 - 1.0).abs() < 0.02, "{squares}");
    }

    #[test]
    fn distinct_draws_a_subset() {
        let mut rng = stream(1, "test/distinct", 0);
        let mut drawn = rng.distinct(10, 4);
        assert_eq!(drawn.len(), 4);
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), 4);
        assert_eq!(rng.distinct(3, 9).len(), 3);
    }
}
