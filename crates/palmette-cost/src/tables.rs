//! How many rows tables may keep.

/// The largest cap such that tables of `min(rows, cap)` rows of `row_bytes` fit `budget` bytes;
/// `None` where even one row a table does not fit. A cap at or above the largest table caps nothing.
pub fn largest_table_cap(rows: &[u64], budget: u64, row_bytes: u64) -> Option<u64> {
    let bytes = |cap: u64| {
        rows.iter().map(|&r| u128::from(r.min(cap))).sum::<u128>() * u128::from(row_bytes)
    };
    let fits = |cap: u64| bytes(cap) <= u128::from(budget);
    let largest = rows.iter().copied().max().unwrap_or(1).max(1);
    if !fits(1) {
        return None;
    }
    let (mut low, mut high) = (1, largest + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
    Some(low)
}

/// Bytes of the smallest tables: one row each.
pub fn smallest_tables(rows: &[u64], row_bytes: u64) -> u64 {
    rows.iter().filter(|&&r| r > 0).count() as u64 * row_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_is_the_largest_that_fits() {
        let rows = [10, 3, 200, 57];
        for budget in 0..3000 {
            let bytes = |cap: u64| rows.iter().map(|&r: &u64| r.min(cap)).sum::<u64>() * 8;
            let want = (1..=200).rev().find(|&cap| bytes(cap) <= budget);
            assert_eq!(largest_table_cap(&rows, budget, 8), want, "{budget}");
        }
        assert_eq!(smallest_tables(&rows, 8), 32);
        assert_eq!(largest_table_cap(&[], 0, 8), Some(1));
    }
}
