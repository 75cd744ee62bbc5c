//! Decimal numbers as text: every digit kept, and none invented.

use arrow_buffer::i256;

/// Writes `digits`, the text of an unscaled integer, with the point `scale` places from its end.
pub(super) fn push_scaled(out: &mut String, unscaled: &str, scale: i8) {
    let (sign, digits) = match unscaled.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", unscaled),
    };
    out.push_str(sign);
    let places = usize::from(scale.unsigned_abs());
    if scale <= 0 {
        out.push_str(digits);
        if digits != "0" {
            out.extend(std::iter::repeat_n('0', places));
        }
    } else if digits.len() > places {
        let (whole, fraction) = digits.split_at(digits.len() - places);
        out.push_str(whole);
        out.push('.');
        out.push_str(fraction);
    } else {
        out.push_str("0.");
        out.extend(std::iter::repeat_n('0', places - digits.len()));
        out.push_str(digits);
    }
}

/// The parts of `-12.50e3`.
struct Number<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
}

fn split(text: &str) -> Option<Number<'_>> {
    let (negative, text) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let run = |bytes: &[u8]| bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    let (whole, mut rest) = text.split_at(run(text));
    let mut fraction: &[u8] = &[];
    if let [b'.', after @ ..] = rest {
        (fraction, rest) = after.split_at(run(after));
    }
    let exponent = match rest {
        [] => 0,
        [b'e' | b'E', digits @ ..] => std::str::from_utf8(digits).ok()?.parse().ok()?,
        _ => return None,
    };
    let some = !whole.is_empty() || !fraction.is_empty();
    some.then_some(Number { negative, whole, fraction, exponent })
}

/// Whether `text` is a decimal number without limits, or one of the three words.
pub(super) fn is_numeric(text: &str) -> bool {
    matches!(text, "NaN" | "Infinity" | "-Infinity") || split(text).is_some()
}

/// Whether `text` is a number as JSON writes it, so that it needs no quotes there.
pub(super) fn is_json_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    let starts_well = match digits {
        [b'0'] | [b'0', b'.' | b'e' | b'E', ..] => true,
        [first, ..] => (b'1'..=b'9').contains(first),
        [] => false,
    };
    let point_needs_digit = digits
        .iter()
        .position(|b| *b == b'.')
        .is_none_or(|at| digits.get(at + 1).is_some_and(u8::is_ascii_digit));
    starts_well && point_needs_digit && split(text).is_some()
}

/// An integer that decimal digits can be collected in.
pub(super) trait Unscaled: Sized + Copy {
    const ZERO: Self;
    /// `self * 10 + digit`, `None` when it does not fit.
    fn then_digit(self, digit: u8) -> Option<Self>;
    fn negated(self) -> Self;
    fn from_short(value: i64) -> Self;
}

impl Unscaled for i128 {
    const ZERO: Self = 0;
    fn then_digit(self, digit: u8) -> Option<Self> {
        self.checked_mul(10)?.checked_add(i128::from(digit))
    }
    fn negated(self) -> Self {
        -self
    }
    fn from_short(value: i64) -> Self {
        value.into()
    }
}

impl Unscaled for i256 {
    const ZERO: Self = i256::ZERO;
    fn then_digit(self, digit: u8) -> Option<Self> {
        self.checked_mul(i256::from_i128(10))?.checked_add(i256::from_i128(i128::from(digit)))
    }
    fn negated(self) -> Self {
        self.wrapping_neg()
    }
    fn from_short(value: i64) -> Self {
        i256::from_i128(value.into())
    }
}

/// The unscaled integer of `text` with exactly `scale` places and at most `precision` digits;
/// `None` when a digit other than zero would be lost.
pub(super) fn parse<T: Unscaled>(text: &str, precision: u8, scale: i8) -> Option<T> {
    match parse_short(text, precision, scale) {
        Some(value) => Some(T::from_short(value)),
        None => parse_any(text, precision, scale),
    }
}

/// [`parse_any`] for what nearly every decimal is: a few digits, no more of them behind the point
/// than there is room for, no exponent. `None` for all else, right or wrong.
fn parse_short(text: &str, precision: u8, scale: i8) -> Option<i64> {
    /// So many digits of any value fit into 64 bits.
    const DIGITS: usize = 18;
    let (negative, bytes) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let scale = usize::try_from(scale).ok()?;
    if bytes.len() > DIGITS {
        return None;
    }
    let (mut value, mut point) = (0i64, None);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'0'..=b'9' => value = value * 10 + i64::from(byte - b'0'),
            b'.' if point.is_none() => point = Some(at),
            _ => return None,
        }
    }
    let (digits, places) = match point {
        Some(at) => (bytes.len() - 1, bytes.len() - at - 1),
        None => (bytes.len(), 0),
    };
    let zeros = scale.checked_sub(places)?;
    if digits == 0 || digits + zeros > DIGITS {
        return None;
    }
    let value = value * 10i64.pow(u32::try_from(zeros).ok()?);
    let fits = usize::from(precision) >= DIGITS || value < 10i64.pow(precision.into());
    fits.then_some(if negative { -value } else { value })
}

fn parse_any<T: Unscaled>(text: &str, precision: u8, scale: i8) -> Option<T> {
    let number = split(text)?;
    // How many digits, counted from the first, belong to the unscaled integer.
    let kept = i64::try_from(number.whole.len())
        .ok()?
        .checked_add(number.exponent)?
        .checked_add(i64::from(scale))?;
    let mut value = T::ZERO;
    let mut significant = 0u32;
    for (place, byte) in (0i64..).zip(number.whole.iter().chain(number.fraction)) {
        let digit = byte - b'0';
        if place >= kept {
            if digit != 0 {
                return None;
            }
            continue;
        }
        if significant > 0 || digit != 0 {
            significant += 1;
            if significant > u32::from(precision) {
                return None;
            }
            value = value.then_digit(digit)?;
        }
    }
    if significant > 0 {
        let digits = i64::try_from(number.whole.len() + number.fraction.len()).ok()?;
        for _ in digits..kept {
            significant += 1;
            if significant > u32::from(precision) {
                return None;
            }
            value = value.then_digit(0)?;
        }
    }
    Some(if number.negative { value.negated() } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_fits_exactly_or_is_refused() {
        let parse = |text, precision, scale| parse::<i128>(text, precision, scale);
        assert_eq!(parse("12.50", 10, 2), Some(1250));
        assert_eq!(parse("-12.5", 10, 2), Some(-1250));
        assert_eq!(parse("12.5000", 10, 2), Some(1250));
        assert_eq!(parse("12.505", 10, 2), None);
        assert_eq!(parse("1e2", 10, 2), Some(10_000));
        assert_eq!(parse("1.5e-1", 10, 2), Some(15));
        assert_eq!(parse("1e-3", 10, 2), None);
        assert_eq!(parse("0e999999999", 10, 2), Some(0));
        assert_eq!(parse("1e999999999999", 10, 2), None);
        assert_eq!(parse("999", 3, 0), Some(999));
        assert_eq!(parse("1000", 3, 0), None);
        assert_eq!(parse("0001", 3, 0), Some(1));
        assert_eq!(parse("1200", 2, -2), Some(12));
        assert_eq!(parse("1250", 4, -2), None);
        assert_eq!(parse(".5", 4, 1), Some(5));
        for wrong in ["", "-", ".", "1.2.3", "1e", "0x1", "1 ", "NaN", "٣"] {
            assert_eq!(parse(wrong, 10, 2), None, "{wrong}");
        }
    }

    #[test]
    fn the_short_way_gives_what_the_long_way_gives() {
        let (mut taken, mut state) = (0, 1u64);
        for _ in 0..100_000 {
            let mut next = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) % below
            };
            let length = next(22);
            let text: String =
                (0..length).map(|_| char::from(b"00123456789.9-+e"[next(16) as usize])).collect();
            let (precision, scale) = (1 + next(38) as u8, next(14) as i8 - 3);
            if let Some(short) = parse_short(&text, precision, scale) {
                assert_eq!(parse_any(&text, precision, scale), Some(i128::from(short)), "{text}");
                taken += 1;
            }
        }
        assert!(taken > 1_000, "{taken}");
        for (text, precision, scale, value) in [
            ("979.19", 15, 2, 97_919),
            ("-0.01", 15, 2, -1),
            ("999999999999999999", 18, 0, 999_999_999_999_999_999),
            ("1", 18, 17, 100_000_000_000_000_000),
            ("5.", 3, 1, 50),
        ] {
            assert_eq!(parse_short(text, precision, scale), Some(value), "{text}");
        }
        for refused in ["", "-", ".", "-.", "1.2.3", "12.505", "1e2", "+1", "1000", "--1"] {
            assert_eq!(parse_short(refused, 5, 2), None, "{refused}");
        }
    }

    #[test]
    fn the_point_goes_where_the_scale_says() {
        for (unscaled, scale, text) in [
            ("1250", 2, "12.50"),
            ("-5", 2, "-0.05"),
            ("0", 2, "0.00"),
            ("0", 0, "0"),
            ("12", -2, "1200"),
            ("0", -2, "0"),
            ("-12", 2, "-0.12"),
        ] {
            let mut out = String::new();
            push_scaled(&mut out, unscaled, scale);
            assert_eq!(out, text);
        }
    }

    #[test]
    fn json_numbers_are_told_from_other_numbers() {
        for yes in ["0", "-1", "1.50", "0.1", "1e5", "123456789012345678901234567890", "-0.0"] {
            assert!(is_json_number(yes), "{yes}");
        }
        for no in ["", "-", "01", "+1", ".5", "1.", "NaN", "Infinity", "1.e5", "--1"] {
            assert!(!is_json_number(no), "{no}");
        }
        assert!(is_numeric("NaN") && is_numeric("1.") && !is_numeric("nan") && !is_numeric(""));
    }
}
