//! Numbers of states that must come back as they were.
//!
//! A cursor is a `serde_json::Value`, whose numbers are `i64`, `u64` or `f64`. A state may hold
//! others: an integer of 20 digits, a decimal of 30. Such a number becomes an object of one key,
//! [`MARK`], with its text; what writes a state turns it back. All other numbers stay what they
//! are, so that a state can be read by a person.

use std::borrow::Cow;

use serde_json::Value;

/// The key of the object that stands for a number which a `Value` would change.
const MARK: &str = "$highwater_number";
/// So many significant digits survive in an `f64`, whatever they are.
const SAFE_DIGITS: usize = 15;

/// `json` parsed, with every number that would change kept as its text.
///
/// # Errors
/// When `json` is none.
pub(super) fn parse(json: &str) -> serde_json::Result<Value> {
    serde_json::from_str(&veiled(json))
}

/// The JSON of `value`, with the numbers as they were.
pub(super) fn text(value: &Value) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

/// `json` with the numbers that would change replaced by their objects.
pub(super) fn veiled(json: &str) -> Cow<'_, str> {
    let bytes = json.as_bytes();
    let mut out: Option<String> = None;
    let (mut at, mut copied) = (0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = end_of_string(bytes, at),
            b'-' | b'0'..=b'9' => {
                let part = |b: &u8| matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
                let end = at + bytes[at..].iter().take_while(|b| part(b)).count();
                let token = &json[at..end];
                if !is_kept(token) {
                    let out = out.get_or_insert_with(String::new);
                    out.push_str(&json[copied..at]);
                    out.push_str(&format!("{{\"{MARK}\":\"{token}\"}}"));
                    copied = end;
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    match out {
        Some(mut out) => {
            out.push_str(&json[copied..]);
            out.into()
        }
        None => json.into(),
    }
}

/// The place after the closing quote of the string that opens at `at`.
fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    at += 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Whether a `Value` holds `token` without changing what it means.
fn is_kept(token: &str) -> bool {
    if token.parse::<i64>().is_ok() || token.parse::<u64>().is_ok() {
        return true;
    }
    let Some(wanted) = decimal(token) else {
        // Not a number: the parser will say so.
        return true;
    };
    if !token.contains(['.', 'e', 'E']) {
        return false;
    }
    if wanted.0.len() <= SAFE_DIGITS && wanted.1.unsigned_abs() < 280 {
        return true;
    }
    let Ok(Value::Number(number)) = serde_json::from_str(token) else { return false };
    decimal(&number.to_string()) == Some(wanted)
}

/// The significant digits of a number and the power of ten of the last of them. A power that is
/// beyond all measure is the largest there is.
fn decimal(token: &str) -> Option<(String, i64)> {
    let (mantissa, exponent) = match token.find(['e', 'E']) {
        Some(at) => (&token[..at], power(&token[at + 1..])?),
        None => (token, 0),
    };
    let mantissa = mantissa.strip_prefix('-').unwrap_or(mantissa);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let trimmed = digits.trim_end_matches('0');
    let dropped = i64::try_from(digits.len() - trimmed.len()).ok()?;
    let exponent = exponent.saturating_add(dropped - i64::try_from(fraction.len()).ok()?);
    let digits = trimmed.trim_start_matches('0');
    Some((digits.to_owned(), if digits.is_empty() { 0 } else { exponent }))
}

fn power(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let beyond = if text.starts_with('-') { i64::MIN } else { i64::MAX };
    Some(text.parse().unwrap_or(beyond))
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(object) => {
            if let (1, Some(Value::String(token))) = (object.len(), object.get(MARK)) {
                out.push_str(token);
                return;
            }
            out.push('{');
            for (index, (key, value)) in object.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_number_comes_back_with_its_value() {
        for number in [
            "0",
            "-1",
            "1.5",
            "1e3",
            "9223372036854775807",
            "18446744073709551615",
            "-9223372036854775808",
            "1795225457953.358",
            "0.1",
            "1e-7",
            "12345678901234567890123",
            "18446744073709551616",
            "0.1000000000000000055511151231257827",
            "1e400",
            "-1e-400",
            "3.141592653589793238462643383279",
            "10e9223372036854775807",
            "1e-9223372036854775808",
            "0.1e-9223372036854775808",
            "1e-99999999999999999999",
            "1e99999999999999999999",
            "0e99999999999999999999",
        ] {
            let json = format!(r#"{{"a":[{number},"{number} \" 99999999999999999999"]}}"#);
            let back = text(&parse(&json).unwrap());
            let token = back.split(['[', ',']).nth(1).unwrap();
            assert_eq!(decimal(token), decimal(number), "{back}");
            assert!(
                back.ends_with(&format!(",\"{number} \\\" 99999999999999999999\"]}}")),
                "{back}"
            );
        }
    }

    #[test]
    fn a_value_is_only_marked_where_it_must_be() {
        assert_eq!(parse("[1,1.50,1e2]").unwrap().to_string(), "[1,1.5,100.0]");
        assert_eq!(
            parse("[18446744073709551616]").unwrap().to_string(),
            r#"[{"$highwater_number":"18446744073709551616"}]"#
        );
        assert!(parse("[1-2]").is_err());
        assert!(parse("[1e]").is_err() && parse("[1e--1]").is_err());
        assert!(parse("[\"").is_err());
    }
}
