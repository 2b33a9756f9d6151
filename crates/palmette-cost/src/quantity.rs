//! Counts and bytes as people write them.

/// Suffixes that a count may carry.
const COUNT_UNITS: [(&str, f64); 5] = [("k", 1e3), ("K", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12)];
/// Suffixes that an amount of memory may carry; plain k, M and G are powers of ten.
const BYTE_UNITS: [(&str, f64); 10] = [
    ("KiB", 1024.0),
    ("MiB", 1048576.0),
    ("GiB", 1073741824.0),
    ("TiB", 1099511627776.0),
    ("kB", 1e3),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("TB", 1e12),
    ("B", 1.0),
];

/// Reads `1.5M`, `1500000`, `2e6`; with `bytes`, also `64MiB` and `1.5GB`. Rounds down.
pub(crate) fn parse(text: &str, bytes: bool) -> Option<u64> {
    let byte_units = if bytes { &BYTE_UNITS[..] } else { &[] };
    let units = byte_units.iter().chain(&COUNT_UNITS);
    let (number, factor) = units
        .filter_map(|&(unit, factor)| Some((text.strip_suffix(unit)?, factor)))
        .next()
        .unwrap_or((text, 1.0));
    let value = number.trim_end().parse::<f64>().ok()? * factor;
    (0.0..1.8e19).contains(&value).then(|| (value * (1.0 + 1e-15)).floor() as u64)
}

/// `1448192` as `1.448 M`.
pub fn format_count(count: u64) -> String {
    scaled(count, 1000.0, &["", " k", " M", " G", " T", " P"])
}

/// `67108864` as `64.00 MiB`.
pub fn format_bytes(bytes: u64) -> String {
    scaled(bytes, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB"])
}

fn scaled(value: u64, base: f64, units: &[&str]) -> String {
    let mut scaled = value as f64;
    let mut unit = 0;
    // 999.95 would print as 1000.
    while scaled >= base * 0.99995 && unit + 1 < units.len() {
        scaled /= base;
        unit += 1;
    }
    match (unit, scaled) {
        (0, _) => format!("{value}{}", units[0]),
        (_, s) if s < 10.0 => format!("{s:.3}{}", units[unit]),
        (_, s) if s < 100.0 => format!("{s:.2}{}", units[unit]),
        (_, s) => format!("{s:.1}{}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read() {
        for (text, bytes, want) in [
            ("1.5M", false, Some(1_500_000)),
            ("1500000", false, Some(1_500_000)),
            ("2e6", false, Some(2_000_000)),
            ("0.3k", false, Some(300)),
            ("2.208M", false, Some(2_208_000)),
            ("1G", true, Some(1_000_000_000)),
            ("1.5 GiB", true, Some(1_610_612_736)),
            ("64MiB", true, Some(67_108_864)),
            ("64MB", true, Some(64_000_000)),
            ("12B", true, Some(12)),
            ("64MiB", false, None),
            ("-1", false, None),
            ("nan", false, None),
            ("inf", false, None),
            ("1e40", false, None),
            ("", false, None),
            ("M", false, None),
            ("3X", true, None),
        ] {
            assert_eq!(parse(text, bytes), want, "{text:?}");
        }
    }

    #[test]
    fn quantities_are_written() {
        for (count, want) in [
            (0, "0"),
            (999, "999"),
            (1_448_192, "1.448 M"),
            (999_960, "1.000 M"),
            (12_340, "12.34 k"),
        ] {
            assert_eq!(format_count(count), want);
        }
        assert_eq!(format_bytes(67_108_864), "64.00 MiB");
        assert_eq!(format_bytes(512), "512 B");
    }
}
