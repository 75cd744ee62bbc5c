//! Finds the type of a column by looking at its values.
//!
//! A type is chosen only if every value seen is one, written as the type's own text or another
//! form that means exactly the same: leading zeros stay text, digits beyond 64 bits and fractions
//! are `numeric`, where every digit stays.

use arrow_schema::{DataType, Field, TimeUnit};
use highwater_core::Result;
use highwater_core::text::TextBuilder;
use highwater_core::types::{JSON, NUMERIC, UUID, extension_field};

/// A column that was found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    pub(crate) field: Field,
    /// JSON files: the values are kept as the JSON text that stands there, strings with quotes.
    pub(crate) raw: bool,
}

/// Tries texts as the types that have a calendar or a fixed form.
pub(crate) struct Probe {
    /// In the order in which they are preferred.
    candidates: Vec<(Field, TextBuilder)>,
}

impl Probe {
    pub(crate) fn new() -> Result<Self> {
        let (micro, nano) = (TimeUnit::Microsecond, TimeUnit::Nanosecond);
        let types = [
            DataType::Date32,
            DataType::Timestamp(micro, None),
            DataType::Timestamp(nano, None),
            DataType::Timestamp(micro, Some("UTC".into())),
            DataType::Timestamp(nano, Some("UTC".into())),
            DataType::Time64(micro),
            DataType::Time64(nano),
        ];
        let mut fields: Vec<Field> = types.map(|t| Field::new("", t, true)).into();
        fields.push(extension_field("", DataType::FixedSizeBinary(16), UUID));
        let candidates = fields.into_iter().map(|field| {
            let builder = TextBuilder::new(&field)?;
            Ok((field, builder))
        });
        Ok(Self { candidates: candidates.collect::<Result<_>>()? })
    }

    /// One bit per candidate that the text is a value of.
    fn fits(&mut self, text: &str, among: u8) -> u8 {
        let mut fits = 0;
        if !has_fixed_form(text) {
            return fits;
        }
        for (i, (_, builder)) in self.candidates.iter_mut().enumerate() {
            let bit = 1 << i;
            if among & bit != 0 && builder.append(text).is_ok() {
                fits |= bit;
            }
            // Nobody wants the values.
            if builder.len() >= 1024 {
                builder.finish();
            }
        }
        fits
    }
}

/// Whether a text could be the canonical text of a day, time, instant or UUID. Forms that mean
/// the same but would be written differently (offsets, capital letters) stay text.
fn has_fixed_form(text: &str) -> bool {
    let bytes = text.as_bytes();
    match bytes.len() {
        36 => !bytes.iter().any(u8::is_ascii_uppercase),
        8..=30 => {
            let date = bytes[4] == b'-' && bytes[7] == b'-';
            let time = bytes[2] == b':' && bytes[5] == b':';
            let utc = bytes.len() > 19 && (text.ends_with('Z') || text.ends_with("+00"));
            let offset =
                bytes.get(19..).is_some_and(|rest| rest.contains(&b'+') || rest.contains(&b'-'));
            (date || time) && (!offset || utc || text.ends_with("+00:00"))
        }
        _ => false,
    }
}

/// What is known of a column so far.
#[derive(Debug, Clone)]
pub(crate) struct Guess {
    any: bool,
    boolean: bool,
    integer: bool,
    number: bool,
    /// Bits of [`Probe`].
    fixed: u8,
    /// JSON kinds: string 1, number 2, boolean 4, nested 8.
    kinds: u8,
}

impl Default for Guess {
    fn default() -> Self {
        Self { any: false, boolean: true, integer: true, number: true, fixed: 0xff, kinds: 0 }
    }
}

impl Guess {
    /// Looks at a field of a CSV file.
    pub(crate) fn see_text(&mut self, text: &str, probe: &mut Probe) {
        self.any = true;
        self.boolean &= is_boolean(text);
        self.integer &= is_integer(text);
        self.number &= is_number(text);
        self.fixed = probe.fits(text, self.fixed);
    }

    /// Looks at a member of a JSON object; `raw` is not `null`.
    pub(crate) fn see_json(&mut self, raw: &str, probe: &mut Probe) {
        self.any = true;
        match raw.as_bytes().first() {
            Some(b'"') => {
                self.kinds |= 1;
                // A text with an escape is none of the fixed forms.
                let text = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
                self.fixed = probe.fits(text, self.fixed);
            }
            Some(b't' | b'f') => self.kinds |= 4,
            Some(b'{' | b'[') => self.kinds |= 8,
            _ => {
                self.kinds |= 2;
                self.integer &= is_integer(raw);
            }
        }
    }

    fn fixed_field(&self, name: &str, probe: &Probe) -> Option<Field> {
        let at = self.fixed.trailing_zeros() as usize;
        probe.candidates.get(at).map(|(field, _)| field.clone().with_name(name))
    }

    /// The type of a column of a CSV file.
    pub(crate) fn text_column(&self, name: &str, probe: &Probe) -> Column {
        let plain = |data_type| Field::new(name, data_type, true);
        let field = if !self.any {
            plain(DataType::Utf8)
        } else if self.boolean {
            plain(DataType::Boolean)
        } else if self.integer {
            plain(DataType::Int64)
        } else if self.number {
            extension_field(name, DataType::Utf8, NUMERIC)
        } else {
            self.fixed_field(name, probe).unwrap_or_else(|| plain(DataType::Utf8))
        };
        Column { field, raw: false }
    }

    /// The type of a column of a JSON file: values of several kinds are kept as JSON.
    pub(crate) fn json_column(&self, name: &str, probe: &Probe) -> Column {
        let plain = |data_type| Field::new(name, data_type, true);
        let field = match self.kinds {
            0 => plain(DataType::Utf8),
            1 => self.fixed_field(name, probe).unwrap_or_else(|| plain(DataType::Utf8)),
            2 if self.integer => plain(DataType::Int64),
            2 => extension_field(name, DataType::Utf8, NUMERIC),
            4 => plain(DataType::Boolean),
            _ => {
                let field = extension_field(name, DataType::Utf8, JSON);
                return Column { field, raw: true };
            }
        };
        Column { field, raw: false }
    }
}

fn is_boolean(text: &str) -> bool {
    text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false")
}

/// Digits that come back as they are from a 64-bit integer.
fn is_integer(text: &str) -> bool {
    has_plain_start(text) && text != "-0" && text.parse::<i64>().is_ok()
}

/// Digits with or without a point, as a program writes them.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let (fraction, exponent) = match fraction.split_once(['e', 'E']) {
        Some((fraction, exponent)) => (fraction, exponent.trim_start_matches(['-', '+'])),
        None => (fraction, "0"),
    };
    let words = matches!(text, "NaN" | "Infinity" | "-Infinity");
    words
        || (has_plain_start(text)
            && all_digits(whole)
            && all_digits(fraction)
            && all_digits(exponent))
        || whole_with_exponent(digits)
}

/// `1e300`.
fn whole_with_exponent(digits: &str) -> bool {
    digits.split_once('e').is_some_and(|(whole, exponent)| {
        let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        has_plain_start(whole) && all_digits(whole) && all_digits(exponent)
    })
}

/// No sign but a minus, and no zero before another digit: those are identifiers, not numbers.
fn has_plain_start(text: &str) -> bool {
    match text.strip_prefix('-').unwrap_or(text).as_bytes() {
        [b'0', second, ..] => !second.is_ascii_digit(),
        [first, ..] => first.is_ascii_digit(),
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use highwater_core::types::type_name;

    use super::*;

    fn csv(values: &[&str]) -> String {
        let (mut probe, mut guess) = (Probe::new().unwrap(), Guess::default());
        values.iter().for_each(|value| guess.see_text(value, &mut probe));
        type_name(&guess.text_column("c", &probe).field)
    }

    fn json(values: &[&str]) -> (String, bool) {
        let (mut probe, mut guess) = (Probe::new().unwrap(), Guess::default());
        values.iter().for_each(|value| guess.see_json(value, &mut probe));
        let column = guess.json_column("c", &probe);
        (type_name(&column.field), column.raw)
    }

    #[test]
    fn a_csv_column_has_a_type_only_if_every_value_has() {
        assert_eq!(csv(&["1", "-9223372036854775808", "0"]), "Int64");
        assert_eq!(csv(&["9223372036854775808"]), "numeric");
        assert_eq!(csv(&["1", "2.50"]), "numeric");
        assert_eq!(csv(&["1e300", "-1.5e-7", "NaN", "-Infinity"]), "numeric");
        for text in [&["007"][..], &["1", "x"], &["+1"], &["1", ""], &["1 "], &["1,5"], &["0x1"]] {
            assert_eq!(csv(text), "Utf8", "{text:?}");
        }
        assert_eq!(csv(&["-0"]), "numeric");
        assert_eq!(csv(&["true", "FALSE"]), "Boolean");
        assert_eq!(csv(&["true", "1"]), "Utf8");
        assert_eq!(csv(&[]), "Utf8");
    }

    #[test]
    fn dates_and_times_are_found() {
        assert_eq!(csv(&["2026-11-21", "0001-01-01"]), "Date32");
        assert_eq!(csv(&["2026-02-30"]), "Utf8");
        assert_eq!(csv(&["2026-11-21 03:04:05", "2026-11-21T03:04:05.000006"]), "Timestamp(µs)");
        assert_eq!(csv(&["2026-11-21 03:04:05.123456789"]), "Timestamp(ns)");
        assert_eq!(
            csv(&["2026-11-21T03:04:05Z", "2026-11-21 03:04:05.5+00"]),
            "Timestamp(µs, \"UTC\")"
        );
        assert_eq!(csv(&["2026-11-21T03:04:05+02:00"]), "Utf8");
        assert_eq!(csv(&["2026-11-21", "2026-11-21 03:04:05"]), "Utf8");
        assert_eq!(csv(&["03:04:05", "24:00:00"]), "Time64(µs)");
        assert_eq!(csv(&["0b0e5bd6-1f8e-4a0e-9c5a-2f0f2a3d6c11"]), "uuid");
        assert_eq!(csv(&["0B0E5BD6-1F8E-4A0E-9C5A-2F0F2A3D6C11"]), "Utf8");
    }

    #[test]
    fn a_json_column_of_several_kinds_stays_json() {
        assert_eq!(json(&["1", "2"]), ("Int64".into(), false));
        assert_eq!(json(&["1", "18446744073709551616"]), ("numeric".into(), false));
        assert_eq!(json(&["1.5"]), ("numeric".into(), false));
        assert_eq!(json(&["\"1\""]), ("Utf8".into(), false));
        assert_eq!(json(&["\"2026-11-21\""]), ("Date32".into(), false));
        assert_eq!(json(&["true"]), ("Boolean".into(), false));
        assert_eq!(json(&["1", "\"1\""]), ("json".into(), true));
        assert_eq!(json(&["{}", "[1]"]), ("json".into(), true));
        assert_eq!(json(&[]), ("Utf8".into(), false));
    }
}
