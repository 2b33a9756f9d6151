//! Times out of text: one `i64` a row, seconds since 1970-01-01 UTC or the number itself.

use serde::{Deserialize, Serialize};

use crate::number;

/// How a time column is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeFormat {
    /// `2013-10-01`, `2013-10-01 9:30`, `2013-10-01T09:30:00Z`, `2013-10-01T09:30:00+02:00`.
    #[default]
    Iso,
    /// Any number that grows with time, seconds since 1970 for instance.
    Number,
    /// `14102100`: two digits each of year, month, day and hour (Avazu).
    Yymmddhh,
    /// `20131001`.
    Yyyymmdd,
    /// Several columns: year, month, day and where given hour, minute, second.
    Parts,
}

impl TimeFormat {
    /// The form, for error messages.
    pub(crate) fn expected(self) -> &'static str {
        match self {
            TimeFormat::Iso => {
                "`2013-10-01` or `2013-10-01T09:30:00Z` (set the time's `format` to number, yymmddhh or yyyymmdd if that is how it is written)"
            }
            TimeFormat::Number => "a number",
            TimeFormat::Yymmddhh => "yymmddhh, as 14102100",
            TimeFormat::Yyyymmdd => "yyyymmdd, as 20131001",
            TimeFormat::Parts => "year, month, day (hour, minute, second) in columns of their own",
        }
    }

    /// Reads one time. [`TimeFormat::Parts`] reads a single text as ISO (for boundaries).
    pub(crate) fn parse(self, text: &[u8]) -> Option<i64> {
        let text = number::trimmed(text);
        match self {
            TimeFormat::Iso | TimeFormat::Parts => parse_iso(text),
            TimeFormat::Number => {
                let value = number::parse_f64(text)?;
                (value.abs() < 9.0e18).then(|| value.floor() as i64)
            }
            TimeFormat::Yymmddhh if text.len() == 8 => {
                let n = digits(text)?;
                from_parts(&[2000 + n / 1_000_000, n / 10_000 % 100, n / 100 % 100, n % 100])
            }
            TimeFormat::Yyyymmdd if text.len() == 8 => {
                let n = digits(text)?;
                from_parts(&[n / 10_000, n / 100 % 100, n % 100])
            }
            TimeFormat::Yymmddhh | TimeFormat::Yyyymmdd => None,
        }
    }
}

/// Seconds since 1970 of year, month, day, and hour, minute, second where given.
pub(crate) fn from_parts(parts: &[i64]) -> Option<i64> {
    let part = |i: usize, default| parts.get(i).copied().unwrap_or(default);
    let (year, month, day) = (*parts.first()?, part(1, 1), part(2, 1));
    let (hour, minute, second) = (part(3, 0), part(4, 0), part(5, 0));
    let valid = (1..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && (0..=24).contains(&hour)
        && (0..=59).contains(&minute)
        && (0..=60).contains(&second);
    valid.then(|| days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// `YYYY-MM-DD`, then optionally `T` or a space, `H:MM`, `:SS`, a fraction, and `Z` or an offset.
fn parse_iso(text: &[u8]) -> Option<i64> {
    if text.len() < 10 || text[4] != b'-' || text[7] != b'-' {
        return None;
    }
    let (year, month, day) = (digits(&text[..4])?, digits(&text[5..7])?, digits(&text[8..10])?);
    let rest = &text[10..];
    let (b'T' | b' ', clock) = (match rest {
        [] => return from_parts(&[year, month, day]),
        [first, clock @ ..] => (*first, clock),
    }) else {
        return None;
    };
    let (clock, offset) = split_offset(clock)?;
    let mut pieces = clock.split(|&byte| byte == b':');
    let hour = digits(pieces.next()?)?;
    let minute = digits(pieces.next()?)?;
    let second = match pieces.next() {
        None => 0,
        // the fraction is cut off: times are whole seconds
        Some(piece) => {
            let mut halves = piece.splitn(2, |&byte| byte == b'.' || byte == b',');
            let whole = digits(halves.next()?)?;
            if let Some(fraction) = halves.next() {
                digits(&fraction[..fraction.len().min(15)])?;
            }
            whole
        }
    };
    if pieces.next().is_some() {
        return None;
    }
    Some(from_parts(&[year, month, day, hour, minute, second])? - offset)
}

/// Splits `09:30:00+02:00` into the clock and the offset in seconds.
fn split_offset(clock: &[u8]) -> Option<(&[u8], i64)> {
    if let [clock @ .., b'Z'] = clock {
        return Some((clock, 0));
    }
    let Some(at) = clock.iter().position(|byte| matches!(byte, b'+' | b'-')) else {
        return Some((clock, 0));
    };
    let sign = if clock[at] == b'-' { -1 } else { 1 };
    let zone: Vec<u8> = clock[at + 1..].iter().copied().filter(|&byte| byte != b':').collect();
    let offset = match zone.len() {
        2 => digits(&zone)? * 3_600,
        4 => digits(&zone[..2])? * 3_600 + digits(&zone[2..])? * 60,
        _ => return None,
    };
    Some((&clock[..at], sign * offset))
}

/// A non-empty run of decimal digits.
fn digits(text: &[u8]) -> Option<i64> {
    if text.first() == Some(&b'-') { None } else { number::parse_short_integer(text) }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar (Hinnant, "chrono-compatible
/// low-level date algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The date and time of `seconds`, as ISO text.
pub(crate) fn to_iso(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let date = format!("{year:04}-{month:02}-{day:02}");
    if second == 0 {
        return date;
    }
    format!("{date}T{:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn iso_times() {
        let check = |text: &str, expect: Option<i64>| {
            assert_eq!(TimeFormat::Iso.parse(text.as_bytes()), expect, "{text}");
        };
        // expectations by `date -u -d ... +%s`
        check("1970-01-01", Some(0));
        check("2013-10-01", Some(1_380_585_600));
        check("2013-10-01T00:00:00Z", Some(1_380_585_600));
        check("2017-11-07 9:30", Some(1_510_047_000));
        check("2013-10-01T02:00:00+02:00", Some(1_380_585_600));
        check("2013-10-01 00:00:01.999", Some(1_380_585_601));
        check("2012-02-29", Some(1_330_473_600));
        check("2013-02-29", None);
        check("2013-13-01", None);
        check("20131001", None);
        check("2013-10-01T", None);
        check("", None);
    }

    #[test]
    fn other_formats() {
        assert_eq!(TimeFormat::Yymmddhh.parse(b"14102100"), TimeFormat::Iso.parse(b"2014-10-21"));
        assert_eq!(TimeFormat::Yymmddhh.parse(b"14102123"), Some(1_413_932_400));
        assert_eq!(TimeFormat::Yyyymmdd.parse(b"20131001"), Some(1_380_585_600));
        assert_eq!(TimeFormat::Number.parse(b"956703932"), Some(956_703_932));
        assert_eq!(TimeFormat::Number.parse(b"x"), None);
        assert_eq!(from_parts(&[2013, 10, 1]), Some(1_380_585_600));
    }

    proptest! {
        #[test]
        fn iso_round_trip(seconds in -60_000_000_000i64..250_000_000_000) {
            prop_assert_eq!(TimeFormat::Iso.parse(to_iso(seconds).as_bytes()), Some(seconds));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            for format in [TimeFormat::Iso, TimeFormat::Number, TimeFormat::Yymmddhh, TimeFormat::Yyyymmdd] {
                let _ = format.parse(&bytes);
            }
        }
    }
}
