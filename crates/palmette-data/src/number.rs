//! Numbers out of text, by hand where the standard parser is too slow for millions of fields a second.

/// The modulus of [`IntegerBase::DecimalOrHex`](crate::IntegerBase::DecimalOrHex).
pub(crate) const DECIMAL_OR_HEX_MODULUS: u64 = 2_147_483_647;

/// Removes spaces and tabs around a field.
pub(crate) fn trimmed(text: &[u8]) -> &[u8] {
    match text {
        [b' ' | b'\t', ..] | [.., b' ' | b'\t'] => text.trim_ascii(),
        _ => text,
    }
}

/// A finite number, rounded to `f32`.
pub(crate) fn parse_f32(text: &[u8]) -> Option<f32> {
    let text = trimmed(text);
    if let Some(integer) = parse_short_integer(text) {
        return Some(integer as f32);
    }
    let value: f32 = std::str::from_utf8(text).ok()?.parse().ok()?;
    value.is_finite().then_some(value)
}

/// A finite number.
pub(crate) fn parse_f64(text: &[u8]) -> Option<f64> {
    let text = trimmed(text);
    if let Some(integer) = parse_short_integer(text) {
        return Some(integer as f64);
    }
    let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    value.is_finite().then_some(value)
}

/// `true` or `false`, in any case.
pub(crate) fn is_boolean(text: &[u8]) -> bool {
    text.eq_ignore_ascii_case(b"true") || text.eq_ignore_ascii_case(b"false")
}

/// A decimal integer of at most 15 digits (exact in `f64`), with an optional minus sign.
#[inline]
pub(crate) fn parse_short_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    if digits.is_empty() || digits.len() > 15 {
        return None;
    }
    let mut value = 0i64;
    for &byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + i64::from(digit);
    }
    // "-0" is the float -0.0, which the integer 0 would lose
    if negative && value == 0 {
        return None;
    }
    Some(if negative { -value } else { value })
}

/// A decimal integer in `0..=u32::MAX`.
pub(crate) fn parse_decimal_u32(text: &[u8]) -> Option<u32> {
    let text = trimmed(text);
    parse_short_integer(text).and_then(|value| u32::try_from(value).ok())
}

/// Value of a hexadecimal digit, or 255.
const HEX_VALUES: [u8; 256] = {
    let mut table = [255u8; 256];
    let mut i = 0;
    while i < 10 {
        table[b'0' as usize + i] = i as u8;
        i += 1;
    }
    let mut i = 0;
    while i < 6 {
        table[b'a' as usize + i] = 10 + i as u8;
        table[b'A' as usize + i] = 10 + i as u8;
        i += 1;
    }
    table
};

/// A hexadecimal integer of one to eight digits.
#[inline]
pub(crate) fn parse_hex_u32(text: &[u8]) -> Option<u32> {
    if let Ok(eight) = <[u8; 8]>::try_from(text) {
        return parse_hex_eight(eight);
    }
    let text = trimmed(text);
    if text.is_empty() || text.len() > 8 {
        return None;
    }
    let mut value = 0u32;
    let mut invalid = 0u8;
    for &byte in text {
        let digit = HEX_VALUES[byte as usize];
        invalid |= digit;
        value = value << 4 | u32::from(digit & 15);
    }
    (invalid < 16).then_some(value)
}

/// Eight hexadecimal digits at once: the eight bytes of a word are turned into nibbles together
/// and folded by three shifts (3 ns a field against 6 ns digit by digit).
#[inline]
fn parse_hex_eight(text: [u8; 8]) -> Option<u32> {
    let invalid = text.iter().fold(0u8, |acc, &byte| acc | HEX_VALUES[byte as usize]);
    if invalid > 15 {
        return None;
    }
    let word = u64::from_be_bytes(text);
    // letters have bit 6 set and lie 9 above their low nibble
    let letters = (word >> 6) & 0x0101_0101_0101_0101;
    let nibbles = (word & 0x0f0f_0f0f_0f0f_0f0f) + letters * 9;
    let pairs = (nibbles | nibbles >> 4) & 0x00ff_00ff_00ff_00ff;
    let quads = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
    Some((quads | quads >> 16) as u32)
}

/// Base 10 of any length (with a sign), else base 16 of any length, modulo 2147483647 with a
/// result in `0..2147483647`.
///
/// This is how the released NASRec code rewrites the cells of Avazu and KDD Cup 2012, with its
/// quirk: a hexadecimal id made of digits only is read as decimal.
pub(crate) fn parse_decimal_or_hex(text: &[u8]) -> Option<u32> {
    let text = trimmed(text);
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() {
        return None;
    }
    let radix = if digits.iter().all(u8::is_ascii_digit) { 10 } else { 16 };
    let mut value = 0u64;
    for &byte in digits {
        let digit = HEX_VALUES[byte as usize];
        if digit > 15 {
            return None;
        }
        value = (value * radix + u64::from(digit)) % DECIMAL_OR_HEX_MODULUS;
    }
    if negative && value > 0 {
        value = DECIMAL_OR_HEX_MODULUS - value;
    }
    Some(value as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hex_of_every_length() {
        let check = |text: &str, expect: Option<u32>| {
            assert_eq!(parse_hex_u32(text.as_bytes()), expect, "{text}")
        };
        check("68fd1e64", Some(0x68fd_1e64));
        check("FFFFFFFF", Some(u32::MAX));
        check("00000000", Some(0));
        check("a", Some(10));
        check("", None);
        check("123456789", None);
        check("1234567g", None);
        check("-1", None);
        check(" ff ", Some(255));
    }

    #[test]
    fn decimal_or_hex_follows_the_released_code() {
        let check = |text: &str, expect: Option<u32>| {
            assert_eq!(parse_decimal_or_hex(text.as_bytes()), expect, "{text}");
        };
        // expectations by Python: int(x, 10 or 16) % 2147483647
        check("10000169349117863715", Some((10_000_169_349_117_863_715u64 % 2_147_483_647) as u32));
        check("1fbe01fe", Some(0x1fbe_01fe));
        check("a99f214a", Some((0xa99f_214au64 % 2_147_483_647) as u32));
        check("12345678", Some(12_345_678));
        check("-1", Some(2_147_483_646));
        check("xyz", None);
        check("", None);
    }

    #[test]
    fn numbers() {
        assert_eq!(parse_f32(b"-3"), Some(-3.0));
        assert_eq!(parse_f32(b"0.05"), Some(0.05));
        assert_eq!(parse_f32(b"1e3"), Some(1000.0));
        assert_eq!(parse_f32(b"inf"), None);
        assert_eq!(parse_f32(b"nan"), None);
        assert_eq!(parse_f32(b""), None);
        assert_eq!(parse_f32(b"-"), None);
        assert_eq!(parse_f32(b"12a"), None);
        assert_eq!(parse_f32(b"-0").map(f32::to_bits), Some((-0.0f32).to_bits()));
        assert_eq!(parse_decimal_u32(b"4294967295"), Some(u32::MAX));
        assert_eq!(parse_decimal_u32(b"4294967296"), None);
        assert_eq!(parse_decimal_u32(b"-1"), None);
    }

    proptest! {
        #[test]
        fn hex_agrees_with_the_standard_parser(value: u32, width in 1usize..9) {
            let text = format!("{value:0width$x}");
            prop_assert_eq!(parse_hex_u32(text.as_bytes()), u32::from_str_radix(&text, 16).ok());
            let upper = text.to_uppercase();
            prop_assert_eq!(parse_hex_u32(upper.as_bytes()), Some(value));
        }

        #[test]
        fn f32_agrees_with_the_standard_parser(text in "-?[0-9]{0,20}(\\.[0-9]{0,8})?(e-?[0-9]{1,2})?") {
            let expect = text.parse::<f32>().ok().filter(|value| value.is_finite());
            prop_assert_eq!(parse_f32(text.as_bytes()).map(f32::to_bits), expect.map(f32::to_bits));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = (parse_f32(&bytes), parse_f64(&bytes), parse_hex_u32(&bytes));
            let _ = (parse_decimal_or_hex(&bytes), parse_decimal_u32(&bytes));
        }
    }
}
