//! A column under construction, and how a JSON value becomes one of its values.
//!
//! What a value cannot be exactly is NULL or cut, and the caller is told, so that the row's meta
//! says so. The usual forms are read without a detour; all others go through [`Column::unusual`].

use std::borrow::Cow;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, Float64Array, Int64Array, StringArray,
    Time64MicrosecondArray, TimestampMicrosecondArray,
};
use arrow_buffer::{BooleanBufferBuilder, NullBufferBuilder, OffsetBuffer};
use arrow_schema::DataType;
use highwater_core::{Error, Result};

use super::moment;
use super::scan::{self, Broken, Scan, Token};
use super::schema::Kind;

/// What became of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is as it was (NULL stays NULL).
    Kept,
    /// A part is missing or was replaced.
    Truncated,
    /// It is no value of the column, which is NULL instead.
    Nulled,
}

/// A value for a column.
enum Found<'a> {
    Null,
    Bool(bool),
    Long(i64),
    Double(f64),
    Day(i32),
    Text(Cow<'a, [u8]>),
}

/// A value, and whether it was cut; `None`: it does not fit.
type Fitted<'a> = Option<(Found<'a>, bool)>;

#[derive(Debug)]
enum Values {
    Bools(BooleanBufferBuilder),
    Longs(Vec<i64>),
    Doubles(Vec<f64>),
    Days(Vec<i32>),
    Texts { offsets: Vec<i32>, bytes: Vec<u8> },
}

/// A column under construction. Rows are appended, and taken back by [`Self::truncate`].
#[derive(Debug)]
pub(super) struct Column {
    kind: Kind,
    values: Values,
    nulls: NullBufferBuilder,
}

impl Column {
    pub(super) fn new(kind: Kind) -> Self {
        let values = match kind {
            Kind::Boolean => Values::Bools(BooleanBufferBuilder::new(0)),
            Kind::Number => Values::Doubles(Vec::new()),
            Kind::Date => Values::Days(Vec::new()),
            Kind::Integer | Kind::Timestamp | Kind::TimestampUtc | Kind::Time | Kind::TimeUtc => {
                Values::Longs(Vec::new())
            }
            Kind::BigInteger
            | Kind::BigNumber
            | Kind::Text
            | Kind::Object
            | Kind::Array
            | Kind::Any => Values::Texts { offsets: vec![0], bytes: Vec::new() },
        };
        Self { kind, values, nulls: NullBufferBuilder::new(0) }
    }

    /// The number of rows.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.nulls.len()
    }

    /// Drops all rows after the first `rows`.
    pub(super) fn truncate(&mut self, rows: usize) {
        if self.len() <= rows {
            return;
        }
        self.nulls.truncate(rows);
        match &mut self.values {
            Values::Bools(values) => values.truncate(rows),
            Values::Longs(values) => values.truncate(rows),
            Values::Doubles(values) => values.truncate(rows),
            Values::Days(values) => values.truncate(rows),
            Values::Texts { offsets, bytes } => {
                offsets.truncate(rows + 1);
                bytes.truncate(offsets.last().map_or(0, |end| *end as usize));
            }
        }
    }

    pub(super) fn push_null(&mut self) {
        self.nulls.append_null();
        match &mut self.values {
            Values::Bools(values) => values.append(false),
            Values::Longs(values) => values.push(0),
            Values::Doubles(values) => values.push(0.0),
            Values::Days(values) => values.push(0),
            Values::Texts { offsets, bytes } => offsets.push(bytes.len() as i32),
        }
    }

    /// Appends a whole number to a column of those, or NULL.
    #[inline(always)]
    pub(super) fn push_long(&mut self, value: Option<i64>) {
        match (value, &mut self.values) {
            (Some(value), Values::Longs(values)) => {
                values.push(value);
                self.nulls.append_non_null();
            }
            _ => self.push_null(),
        }
    }

    /// Appends text to a column of text.
    #[inline(always)]
    pub(super) fn push_text(&mut self, text: &[u8]) {
        if let Values::Texts { offsets, bytes } = &mut self.values {
            bytes.extend_from_slice(text);
            // The decoder sees to it that this is never too long.
            offsets.push(bytes.len() as i32);
            self.nulls.append_non_null();
        }
    }

    /// Appends the JSON value at `at`; the position after it, and what became of it.
    #[inline]
    pub(super) fn push_json(&mut self, text: &str, at: usize) -> Scan<(usize, Fate)> {
        let bytes = text.as_bytes();
        match (self.kind, bytes.get(at)) {
            (Kind::Text, Some(b'"')) => {
                let content = scan::string(bytes, at + 1)?;
                let end = content.end;
                if content.escaped {
                    return Ok((end + 1, self.push_escaped(&bytes[at + 1..end], content.lone)));
                }
                self.push_text(&bytes[at + 1..end]);
                Ok((end + 1, Fate::Kept))
            }
            (Kind::Integer, Some(b'0'..=b'9' | b'-')) => match integer(bytes, at) {
                Some((value, end)) => {
                    self.push_long(Some(value));
                    Ok((end, Fate::Kept))
                }
                None => self.unusual(text, at),
            },
            (Kind::Number, Some(b'0'..=b'9' | b'-')) => {
                let double = scan::number(bytes, at).map(|end| (text[at..end].parse(), end));
                match (double, &mut self.values) {
                    (Ok((Ok(value), end)), Values::Doubles(values)) if f64::is_finite(value) => {
                        values.push(value);
                        self.nulls.append_non_null();
                        Ok((end, Fate::Kept))
                    }
                    _ => self.unusual(text, at),
                }
            }
            (Kind::TimestampUtc | Kind::Timestamp, Some(b'"')) => {
                let content = scan::string(bytes, at + 1)?;
                let moment = moment::moment(&text[at + 1..content.end]);
                let exact = moment.filter(|moment| !moment.clock.cut);
                let micros = match self.kind {
                    Kind::Timestamp => exact.and_then(moment::Moment::local),
                    _ => exact.and_then(moment::Moment::utc),
                };
                match micros {
                    Some(_) => self.push_long(micros),
                    None => return self.unusual(text, at),
                }
                Ok((content.end + 1, Fate::Kept))
            }
            (Kind::Object, Some(b'{')) | (Kind::Array, Some(b'[')) => {
                let value = scan::value(bytes, at)?;
                if value.dirty {
                    return self.unusual(text, at);
                }
                self.push_text(&bytes[at..value.end]);
                Ok((value.end, Fate::Kept))
            }
            _ => self.unusual(text, at),
        }
    }

    fn push_escaped(&mut self, content: &[u8], lone: bool) -> Fate {
        if let Values::Texts { offsets, bytes } = &mut self.values {
            scan::unescape(content, bytes);
            offsets.push(bytes.len() as i32);
            self.nulls.append_non_null();
        }
        if lone { Fate::Truncated } else { Fate::Kept }
    }

    /// As [`Self::push_json`], for every form.
    fn unusual(&mut self, text: &str, at: usize) -> Scan<(usize, Fate)> {
        let value = scan::value(text.as_bytes(), at)?;
        let raw = text.get(at..value.end).ok_or(Broken)?;
        let fitted = match value.token {
            Token::Null => Some((Found::Null, false)),
            Token::NoNumber => None,
            token => self.fit(token, raw, value.dirty),
        };
        let fate = match fitted {
            Some((found, cut)) => {
                self.push(found);
                if cut { Fate::Truncated } else { Fate::Kept }
            }
            None => {
                self.push_null();
                Fate::Nulled
            }
        };
        Ok((value.end, fate))
    }

    fn push(&mut self, found: Found<'_>) {
        match (found, &mut self.values) {
            (Found::Bool(value), Values::Bools(values)) => values.append(value),
            (Found::Long(value), Values::Longs(values)) => values.push(value),
            (Found::Double(value), Values::Doubles(values)) => values.push(value),
            (Found::Day(value), Values::Days(values)) => values.push(value),
            (Found::Text(value), Values::Texts { .. }) => return self.push_text(&value),
            _ => return self.push_null(),
        }
        self.nulls.append_non_null();
    }

    /// The value of this column that `raw`, which is not null, stands for.
    fn fit<'a>(&self, token: Token, raw: &'a str, dirty: bool) -> Fitted<'a> {
        let string = if token == Token::String { content(raw) } else { None };
        let words = string.as_deref().map(str::trim);
        let exact = |found| Some((found, false));
        match self.kind {
            Kind::Text => match string {
                Some(Cow::Borrowed(text)) => exact(Found::Text(Cow::Borrowed(text.as_bytes()))),
                Some(Cow::Owned(text)) => Some((Found::Text(Cow::Owned(text.into_bytes())), dirty)),
                None => Some(json(raw, dirty)),
            },
            Kind::Any => Some(json(raw, dirty)),
            Kind::Object => (token == Token::Object).then(|| json(raw, dirty)),
            Kind::Array => (token == Token::Array).then(|| json(raw, dirty)),
            Kind::Boolean => exact(Found::Bool(boolean(token, raw, words)?)),
            Kind::Integer => exact(Found::Long(whole(number_text(token, raw, words)?)?)),
            Kind::Number => {
                let value = number_text(token, raw, words)?.parse::<f64>().ok()?;
                value.is_finite().then_some((Found::Double(value), false))
            }
            Kind::BigInteger | Kind::BigNumber => {
                let number = number_text(token, raw, words)?.to_owned().into_bytes();
                exact(Found::Text(Cow::Owned(number)))
            }
            Kind::Date => {
                let moment = moment::moment(words?)?;
                let lost = moment.clock.micros != 0 || moment.clock.cut;
                Some((Found::Day(i32::try_from(moment.days).ok()?), lost))
            }
            Kind::Timestamp => {
                let moment = moment::moment(words?)?;
                Some((Found::Long(moment.local()?), moment.clock.cut))
            }
            Kind::TimestampUtc => {
                let moment = moment::moment(words?)?;
                Some((Found::Long(moment.utc()?), moment.clock.cut))
            }
            Kind::Time => {
                let clock = moment::clock(words?)?;
                Some((Found::Long(clock.micros), clock.cut))
            }
            Kind::TimeUtc => {
                let clock = moment::clock(words?)?;
                Some((Found::Long(clock.utc()), clock.cut))
            }
        }
    }

    /// The array of all rows. The column is empty afterwards, with room for as many.
    pub(super) fn finish(&mut self, data_type: &DataType) -> Result<ArrayRef> {
        let rows = self.len();
        let nulls = self.nulls.finish();
        let zone = |array: TimestampMicrosecondArray| array.with_data_type(data_type.clone());
        let failed = |error| Error::internal("A column cannot be made").caused_by(error);
        Ok(match &mut self.values {
            Values::Bools(values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::Longs(values) => {
                let values = std::mem::replace(values, Vec::with_capacity(rows)).into();
                match self.kind {
                    Kind::Timestamp | Kind::TimestampUtc => {
                        let array = TimestampMicrosecondArray::try_new(values, nulls);
                        Arc::new(zone(array.map_err(failed)?))
                    }
                    Kind::Time | Kind::TimeUtc => {
                        Arc::new(Time64MicrosecondArray::try_new(values, nulls).map_err(failed)?)
                    }
                    _ => Arc::new(Int64Array::try_new(values, nulls).map_err(failed)?),
                }
            }
            Values::Doubles(values) => {
                let values = std::mem::replace(values, Vec::with_capacity(rows)).into();
                Arc::new(Float64Array::try_new(values, nulls).map_err(failed)?)
            }
            Values::Days(values) => {
                let values = std::mem::replace(values, Vec::with_capacity(rows)).into();
                Arc::new(Date32Array::try_new(values, nulls).map_err(failed)?)
            }
            Values::Texts { offsets, bytes } => {
                let length = bytes.len();
                let bytes = std::mem::replace(bytes, Vec::with_capacity(length)).into();
                let mut empty = Vec::with_capacity(rows + 1);
                empty.push(0);
                let offsets = OffsetBuffer::new(std::mem::replace(offsets, empty).into());
                Arc::new(StringArray::try_new(offsets, bytes, nulls).map_err(failed)?)
            }
        })
    }
}

/// The content of a quoted string.
fn content(raw: &str) -> Option<Cow<'_, str>> {
    let text = scan::string(raw.as_bytes(), 1).ok()?;
    Some(scan::unescaped(raw.get(1..text.end)?, text))
}

/// A JSON text as it is, or cleaned.
fn json(raw: &str, dirty: bool) -> (Found<'_>, bool) {
    if !dirty {
        return (Found::Text(Cow::Borrowed(raw.as_bytes())), false);
    }
    let mut clean = Vec::with_capacity(raw.len());
    scan::cleaned(raw.as_bytes(), &mut clean);
    (Found::Text(Cow::Owned(clean)), true)
}

/// A whole number of at most 18 digits that ends where JSON goes on.
#[inline(always)]
fn integer(bytes: &[u8], start: usize) -> Option<(i64, usize)> {
    let negative = bytes.get(start) == Some(&b'-');
    let first = start + usize::from(negative);
    let (mut at, mut value) = (first, 0_i64);
    while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
        if at - first == 18 {
            return None;
        }
        value = value * 10 + i64::from(digit - b'0');
        at += 1;
    }
    let zero_first = bytes.get(first) == Some(&b'0') && at - first > 1;
    let ends = matches!(bytes.get(at), Some(b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n'));
    let fits = at > first && !zero_first && ends;
    fits.then_some((if negative { -value } else { value }, at))
}

fn boolean(token: Token, raw: &str, words: Option<&str>) -> Option<bool> {
    match token {
        Token::True => return Some(true),
        Token::False => return Some(false),
        _ => {}
    }
    let words = words.unwrap_or(raw);
    let is = |names: &[&str]| names.iter().any(|name| words.eq_ignore_ascii_case(name));
    if is(&["true", "t", "yes", "y", "on", "1"]) {
        Some(true)
    } else if is(&["false", "f", "no", "n", "off", "0"]) {
        Some(false)
    } else {
        None
    }
}

/// The digits of a number, or of a string that is one.
fn number_text<'a>(token: Token, raw: &'a str, words: Option<&'a str>) -> Option<&'a str> {
    let text = match token {
        Token::Number => return Some(raw),
        Token::String => words?,
        _ => return None,
    };
    let text = text.strip_prefix('+').unwrap_or(text);
    is_decimal(text.as_bytes()).then_some(text)
}

/// Whether a text is a decimal number: as in JSON, or `007`, `.5`, `5.`.
fn is_decimal(text: &[u8]) -> bool {
    let run = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let whole = run(text);
    let (mut rest, mut fraction) = (&text[whole..], 0);
    if let Some(after) = rest.strip_prefix(b".") {
        fraction = run(after);
        rest = &after[fraction..];
    }
    let exponent_fits = match rest {
        [] => true,
        [b'e' | b'E', b'+' | b'-', digits @ ..] | [b'e' | b'E', digits @ ..] => {
            !digits.is_empty() && run(digits) == digits.len()
        }
        _ => false,
    };
    whole + fraction > 0 && exponent_fits
}

/// The whole number that the digits are exactly: `1`, `1.0`, `1e3`.
fn whole(number: &str) -> Option<i64> {
    if let Ok(value) = number.parse() {
        return Some(value);
    }
    let (mantissa, exponent) = match number.find(['e', 'E']) {
        Some(at) => (&number[..at], number[at + 1..].parse::<i64>().ok()?),
        None => (number, 0),
    };
    let (negative, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    // The power of ten of the last significant digit.
    let dropped = i64::try_from(digits.len() - significant.len()).ok()?;
    let power = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?.checked_add(dropped)?;
    let scale = 10_i128.checked_pow(u32::try_from(power).ok()?)?;
    let value = significant.parse::<i128>().ok()?.checked_mul(scale)?;
    i64::try_from(if negative { -value } else { value }).ok()
}
