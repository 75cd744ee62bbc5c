//! The binary form of `numeric`: groups of four decimal digits, and back.
//!
//! `ndigits, weight, sign, dscale`, each of 16 bits, then `ndigits` groups; the value is the sum of
//! `group[i] * 10000^(weight - i)`.

use arrow_buffer::i256;

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const POSITIVE_INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;

/// Why a value has no place in a decimal column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NumericError {
    /// The bytes are not a `numeric`.
    Malformed,
    /// `NaN` or an infinity.
    NotFinite,
    /// More digits than the column has.
    TooLarge,
}

/// Integer types that decimals are made of.
pub(crate) trait Digits: Copy {
    const ZERO: Self;
    fn times_plus(self, factor: u32, addend: u32) -> Option<Self>;
    fn negate(self) -> Self;
}

impl Digits for i128 {
    const ZERO: Self = 0;

    fn times_plus(self, factor: u32, addend: u32) -> Option<Self> {
        self.checked_mul(Self::from(factor))?.checked_add(Self::from(addend))
    }

    fn negate(self) -> Self {
        -self
    }
}

impl Digits for i256 {
    const ZERO: Self = i256::ZERO;

    fn times_plus(self, factor: u32, addend: u32) -> Option<Self> {
        self.checked_mul(Self::from_i128(factor.into()))?
            .checked_add(Self::from_i128(addend.into()))
    }

    fn negate(self) -> Self {
        self.wrapping_neg()
    }
}

fn short(bytes: &[u8], at: usize) -> Result<u16, NumericError> {
    match bytes.get(at..at + 2) {
        Some(&[high, low]) => Ok(u16::from_be_bytes([high, low])),
        _ => Err(NumericError::Malformed),
    }
}

/// The value times ten to the power of `scale`.
pub(crate) fn decode<T: Digits>(bytes: &[u8], scale: i8) -> Result<T, NumericError> {
    let groups = short(bytes, 0)?;
    let weight = short(bytes, 2)? as i16;
    let sign = short(bytes, 4)?;
    if sign != 0 && sign != NEGATIVE {
        return Err(NumericError::NotFinite);
    }
    let mut value = T::ZERO;
    // The power of ten of the last digit taken so far, relative to the last one wanted.
    let mut power = (i32::from(weight) + 1) * 4 + i32::from(scale);
    for index in 0..usize::from(groups) {
        let group = u32::from(short(bytes, 8 + 2 * index)?);
        power -= 4;
        if power >= 0 {
            value = value.times_plus(10_000, group).ok_or(NumericError::TooLarge)?;
        } else if power > -4 {
            let kept = 10u32.pow((4 + power) as u32);
            let dropped = 10u32.pow(-power as u32);
            if group % dropped != 0 {
                return Err(NumericError::TooLarge);
            }
            value = value.times_plus(kept, group / dropped).ok_or(NumericError::TooLarge)?;
            power = 0;
        } else if group != 0 {
            return Err(NumericError::TooLarge);
        }
    }
    if groups > 0 {
        for _ in 0..power.max(0) {
            value = value.times_plus(10, 0).ok_or(NumericError::TooLarge)?;
        }
    }
    Ok(if sign == NEGATIVE { value.negate() } else { value })
}

/// As [`decode`], for the numbers of every day: up to 16 digits in four groups need no check of
/// their size.
#[inline]
pub(crate) fn decode_i128(bytes: &[u8], scale: i8) -> Result<i128, NumericError> {
    let Some((header, groups)) = bytes.split_first_chunk::<8>() else {
        return decode(bytes, scale);
    };
    let [count_high, count, weight_high, weight, sign_high, sign, ..] = *header;
    let count = u16::from_be_bytes([count_high, count]);
    let weight = i32::from(i16::from_be_bytes([weight_high, weight]));
    let sign = u16::from_be_bytes([sign_high, sign]);
    if count > 4 || groups.len() != 2 * usize::from(count) || (sign != 0 && sign != NEGATIVE) {
        return decode(bytes, scale);
    }
    let mut value: u64 = 0;
    for group in groups.chunks_exact(2) {
        value = value * 10_000 + u64::from(u16::from_be_bytes([group[0], group[1]]));
    }
    // By what power of ten the last group stands above the last digit that is wanted.
    let power = (weight + 1 - i32::from(count)) * 4 + i32::from(scale);
    // Divisors that the compiler knows.
    let (value, dropped) = match power {
        0 => (value.into(), 0),
        -1 => ((value / 10).into(), value % 10),
        -2 => ((value / 100).into(), value % 100),
        -3 => ((value / 1000).into(), value % 1000),
        1..=3 => (i128::from(value) * [10, 100, 1000][power as usize - 1], 0),
        _ if count == 0 => (0, 0),
        _ => return decode(bytes, scale),
    };
    if dropped != 0 {
        return Err(NumericError::TooLarge);
    }
    Ok(if sign == NEGATIVE { -value } else { value })
}

/// Writes `value / 10^scale` with its length. What fits four groups, as the numbers of every day do,
/// is written in one piece.
#[inline]
pub(crate) fn put_i128(value: i128, scale: i8, out: &mut Vec<u8>) {
    // So that the last group is full.
    const SHIFTS: [u64; 4] = [1, 1000, 100, 10];
    let shift = SHIFTS[usize::from(scale as u8 % 4)];
    let digits = u64::try_from(value.unsigned_abs()).unwrap_or(u64::MAX).saturating_mul(shift);
    if digits >= 10_000_000_000_000_000 || scale < 0 {
        return put_long(value, scale, out);
    }
    let (high, low) = (digits / 100_000_000, digits % 100_000_000);
    let groups =
        (high / 10_000) << 48 | (high % 10_000) << 32 | (low / 10_000) << 16 | (low % 10_000);
    // Groups of zeros at both ends are left out.
    let (leading, trailing) = (groups.leading_zeros() / 16, groups.trailing_zeros() / 16);
    let (count, weight, sign) = match groups {
        0 => (0, 0, 0),
        _ => (
            4 - leading - trailing,
            3 - leading as i16 - (i16::from(scale) + 3) / 4,
            if value < 0 { NEGATIVE } else { 0 },
        ),
    };
    let mut field = [0; 20];
    field[..4].copy_from_slice(&(8 + 2 * count).to_be_bytes());
    field[4..6].copy_from_slice(&(count as u16).to_be_bytes());
    field[6..8].copy_from_slice(&weight.to_be_bytes());
    field[8..10].copy_from_slice(&sign.to_be_bytes());
    field[10..12].copy_from_slice(&i16::from(scale).to_be_bytes());
    field[12..].copy_from_slice(&groups.unbounded_shl(16 * leading).to_be_bytes());
    let end = out.len() + 12 + 2 * count as usize;
    out.extend_from_slice(&field);
    out.truncate(end);
}

#[cold]
fn put_long(value: i128, scale: i8, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    encode_i128(value, scale, out);
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Writes a plain decimal text (`-12.50`) of at most 16 digits with its length; `false` when the text
/// is something else, and nothing is written then.
#[inline]
pub(crate) fn put_plain_text(text: &str, out: &mut Vec<u8>) -> bool {
    let bytes = text.as_bytes();
    let (negative, digits) = match bytes.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, bytes),
    };
    // One more for the point.
    if digits.len() > 17 {
        return false;
    }
    let (mut value, mut point) = (0_i64, None);
    for (at, byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => value = value * 10 + i64::from(byte - b'0'),
            b'.' if point.is_none() => point = Some(at),
            _ => return false,
        }
    }
    let scale = point.map_or(0, |point| digits.len() - point - 1);
    if digits.len() == usize::from(point.is_some()) {
        return false;
    }
    put_i128(if negative { -value } else { value }.into(), scale as i8, out);
    true
}

/// Writes `value / 10^scale`, without the length that comes before it.
pub(crate) fn encode_i128(value: i128, scale: i8, out: &mut Vec<u8>) {
    let Ok(scale) = u16::try_from(scale) else {
        let text = format!("{value}{}", "0".repeat(usize::from(scale.unsigned_abs())));
        // Digits with zeros after them are a numeric.
        let _ = encode_text(&text, out);
        return;
    };
    let mut rest = value.unsigned_abs();
    // 39 digits and a shift fill at most 11 groups.
    let mut groups = [0u16; 12];
    let mut at = groups.len();
    let fraction_groups = usize::from(scale.div_ceil(4));
    let partial = u32::from(scale % 4);
    let mut count = 0;
    if partial > 0 {
        let unit = 10u128.pow(partial);
        at -= 1;
        groups[at] = ((rest % unit) as u16) * 10u16.pow(4 - partial);
        rest /= unit;
        count += 1;
    }
    while rest > 0 {
        at -= 1;
        groups[at] = (rest % 10_000) as u16;
        rest /= 10_000;
        count += 1;
    }
    let weight = count - fraction_groups as i32 - 1;
    put(&groups[at..], weight, value < 0, scale, out);
}

/// Writes groups without the zeros at both ends.
fn put(groups: &[u16], weight: i32, negative: bool, scale: u16, out: &mut Vec<u8>) {
    let leading = groups.iter().take_while(|group| **group == 0).count();
    let groups = &groups[leading..];
    let used = groups.iter().rposition(|group| *group != 0).map_or(0, |last| last + 1);
    let weight = if used == 0 { 0 } else { weight - leading as i32 };
    let sign = if negative && used > 0 { NEGATIVE } else { 0 };
    put_header([used as u16, weight as i16 as u16, sign, scale], out);
    groups[..used].iter().for_each(|group| out.extend_from_slice(&group.to_be_bytes()));
}

fn put_header(parts: [u16; 4], out: &mut Vec<u8>) {
    parts.iter().for_each(|part| out.extend_from_slice(&part.to_be_bytes()));
}

/// Writes a decimal text (`-12.50`, `1e-7`, `NaN`, `Infinity`), without the length before it.
/// `None` when the text is no number or has more digits than PostgreSQL stores; nothing is
/// written then.
pub(crate) fn encode_text(text: &str, out: &mut Vec<u8>) -> Option<()> {
    let special = match text {
        "NaN" => Some(NAN),
        "Infinity" => Some(POSITIVE_INFINITY),
        "-Infinity" => Some(NEGATIVE_INFINITY),
        _ => None,
    };
    if let Some(sign) = special {
        put_header([0, 0, sign, 0], out);
        return Some(());
    }
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (digits, exponent) = match digits.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (digits, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    // Where the point stands, counted from the first digit, and how many digits are shown after.
    let point = i32::try_from(whole.len()).ok()?.checked_add(exponent)?;
    let scale = i32::try_from(fraction.len()).ok()?.checked_sub(exponent)?.max(0);
    if scale > 16_383 || !(-16_383..=131_072).contains(&point) {
        return None;
    }
    let bytes: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|b| b - b'0').collect();
    // Group boundaries stand at multiples of four from the point.
    let shift = (4 - point.rem_euclid(4)) % 4;
    let mut groups = Vec::with_capacity(bytes.len() / 4 + 2);
    let (mut group, mut filled) = (0u16, shift);
    for digit in bytes {
        group = group * 10 + u16::from(digit);
        filled += 1;
        if filled == 4 {
            groups.push(group);
            (group, filled) = (0, 0);
        }
    }
    if filled > 0 {
        groups.push(group * 10u16.pow((4 - filled) as u32));
    }
    put(&groups, (point + shift) / 4 - 1, negative, scale as u16, out);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        encode_text(text, &mut out).unwrap();
        out
    }

    fn number(value: i128, scale: i8) -> Vec<u8> {
        let mut out = Vec::new();
        encode_i128(value, scale, &mut out);
        out
    }

    /// By the way that rows take.
    fn field(value: i128, scale: i8) -> Vec<u8> {
        let mut out = vec![7];
        put_i128(value, scale, &mut out);
        assert_eq!(out[1..5], (out.len() as u32 - 5).to_be_bytes());
        out[5..].to_vec()
    }

    #[test]
    fn known_bytes() {
        // 12345.678 = [1, 2345, 6780], weight 1, scale 3
        let bytes = [0, 3, 0, 1, 0, 0, 0, 3, 0, 1, 0x09, 0x29, 0x1a, 0x7c];
        assert_eq!(text("12345.678"), bytes);
        assert_eq!(number(12_345_678, 3), bytes);
        assert_eq!(decode::<i128>(&bytes, 3), Ok(12_345_678));
        assert_eq!(decode::<i128>(&bytes, 5), Ok(1_234_567_800));
        assert_eq!(decode::<i128>(&bytes, 2), Err(NumericError::TooLarge));
        assert_eq!(text("0.00"), [0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(text("-0.0001"), [0, 1, 0xff, 0xff, 0x40, 0, 0, 4, 0, 1]);
        assert_eq!(text("1e-7"), text("0.0000001"));
        assert_eq!(text("1.5e3")[8..], text("1500")[8..]);
    }

    #[test]
    fn integers_and_texts_agree_over_scales_and_lengths() {
        let mut value: i128 = 1;
        for digits in 1..=38 {
            value = value * 10 + i128::from(digits % 10);
            for scale in [0i8, 1, 2, 3, 4, 5, 17, 38] {
                for signed in [value, -value] {
                    let digits = format!("{:0>40}", signed.unsigned_abs());
                    let (whole, fraction) = digits.split_at(40 - scale as usize);
                    let sign = if signed < 0 { "-" } else { "" };
                    let bytes = number(signed, scale);
                    assert_eq!(
                        bytes,
                        text(&format!("{sign}{whole}.{fraction}")),
                        "{signed} {scale}"
                    );
                    assert_eq!(decode::<i128>(&bytes, scale), Ok(signed), "{signed} {scale}");
                    assert_eq!(decode_i128(&bytes, scale), Ok(signed), "{signed} {scale}");
                    assert_eq!(decode::<i256>(&bytes, scale), Ok(i256::from_i128(signed)));
                }
            }
            if digits == 37 {
                break;
            }
        }
    }

    #[test]
    fn the_short_way_is_the_long_way() {
        let texts = ["0", "0.00", "-0.5", "1", "12.5", "-12.50", "9999.9999", "9999999999999999"];
        let more = ["1e15", "1e16", "1e20", "1e-4", "1e-5", "0.0001", "10000", "123456789012.3456"];
        for number in texts.iter().chain(&more) {
            for scale in [-3i8, 0, 1, 2, 3, 4, 5, 8, 17, 38] {
                let bytes = text(number);
                let long = decode::<i128>(&bytes, scale);
                assert_eq!(decode_i128(&bytes, scale), long, "{number} {scale}");
            }
        }
        // Groups that are no four digits, and bytes that are missing or too many.
        let groups = [0, 4, 0, 3, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255];
        assert_eq!(decode_i128(&groups, 3), decode::<i128>(&groups, 3));
        for cut in 0..groups.len() {
            assert_eq!(decode_i128(&groups[..cut], 0), Err(NumericError::Malformed));
        }
    }

    #[test]
    fn a_plain_text_is_the_number_of_the_text() {
        let plain = ["0", "-0", "0.00", "5", "-12.50", "12.", ".5", "0001.10", "9999999999999999"];
        for number in plain.iter().chain(&["-0.000000000000001", "123456789012.3456", "10000"]) {
            let mut out = Vec::new();
            assert!(put_plain_text(number, &mut out), "{number}");
            assert_eq!(out[4..], text(number), "{number}");
            assert_eq!(out[..4], (out.len() as u32 - 4).to_be_bytes(), "{number}");
        }
        let mut out = Vec::new();
        for other in ["", "-", ".", "-.", "1e5", "+1", "1.2.3", "--1", "NaN", "123456789012345678"]
        {
            assert!(!put_plain_text(other, &mut out), "{other}");
        }
        assert!(out.is_empty());
    }

    #[test]
    fn a_field_in_one_piece_is_the_number_with_its_length() {
        let powers = (0..34).map(|power| 10i128.pow(power));
        let values =
            powers.flat_map(|power| [power - 1, power, power + 1, 5 * power, 9999 * power]);
        for value in values.chain([0, 97_919, i128::from(i64::MIN), i128::from(u64::MAX)]) {
            for scale in [-128, -3, -1, 0, 1, 2, 3, 4, 5, 8, 10, 16, 17, 38, 76, 127] {
                for signed in [value, -value] {
                    assert_eq!(field(signed, scale), number(signed, scale), "{signed} {scale}");
                }
            }
        }
    }

    #[test]
    fn limits_are_told_apart() {
        assert_eq!(decode::<i128>(&text("NaN"), 2), Err(NumericError::NotFinite));
        assert_eq!(decode::<i128>(&text("-Infinity"), 2), Err(NumericError::NotFinite));
        assert_eq!(decode::<i128>(&text(&"9".repeat(39)), 0), Err(NumericError::TooLarge));
        assert_eq!(
            decode::<i256>(&text(&"9".repeat(76)), 0),
            Ok(i256::from_string(&"9".repeat(76)).unwrap())
        );
        assert_eq!(decode::<i128>(&[0, 1], 0), Err(NumericError::Malformed));
        assert_eq!(number(5, -3), text("5000"));
        let mut out = Vec::new();
        for bad in ["", "-", "1.2.3", "abc", "1e", "1e999999", "0x1"] {
            assert_eq!(encode_text(bad, &mut out), None, "{bad}");
        }
        assert!(out.is_empty());
    }
}
