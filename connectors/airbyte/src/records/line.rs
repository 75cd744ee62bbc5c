//! One line of a connector: whether it is a RECORD, of which stream, and where its data lies.
//!
//! The data itself is not looked at here where the members come in a usual order: the head is
//! read from the front, what follows the data from the end of the line, and the decoder finds out
//! whether the data fills exactly what is between. Any other order is read member by member.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use highwater_core::{Error, Result};
use memchr::memmem;

use super::scan::{self, Broken, Scan, Token, blank, expect};

/// What a line is.
#[derive(Debug)]
pub enum Line<'a> {
    /// A record.
    Record(Record<'a>),
    /// A JSON object that is no RECORD: another message, or something that looks like one.
    Other,
    /// Text, to be logged.
    NotJson,
}

/// A moment before it, read as milliseconds, was meant as seconds.
const SECONDS_BELOW_MICROS: i64 = 100_000_000_000_000;

/// A RECORD message whose data is still text.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// The name of the stream.
    pub stream: Cow<'a, str>,
    /// The namespace of the stream.
    pub namespace: Option<Cow<'a, str>>,
    /// When the source read it, in microseconds since the epoch.
    pub emitted_at_micros: Option<i64>,
    /// Which line it is, counted by the caller.
    pub number: u64,
    pub(super) line: &'a str,
    pub(super) data: Range<usize>,
    /// The array `meta.changes`.
    pub(super) changes: Option<Range<usize>>,
    /// Whether the end of the data is a guess, which the decoder has to confirm.
    pub(super) guessed: bool,
}

impl<'a> Record<'a> {
    /// The message as it came, without the end of the line.
    pub fn line(&self) -> &'a str {
        self.line
    }

    /// Some hosts give the moment in seconds instead of milliseconds. No source was at work in
    /// the first years of the epoch.
    pub(crate) fn read_as_seconds(&mut self) {
        let seconds = self.emitted_at_micros.filter(|micros| *micros < SECONDS_BELOW_MICROS);
        let seconds = seconds.and_then(|micros| micros.checked_mul(1000));
        self.emitted_at_micros = seconds.or(self.emitted_at_micros);
    }

    /// The error for a record that cannot be read. It does not show the text.
    pub(super) fn broken(&self, why: &str) -> Error {
        unreadable(why, self.number).context("stream", &self.stream)
    }
}

/// Finds out what a line is. `number` is its place in the output, for errors.
///
/// # Errors
/// `Data` for a RECORD that cannot be read. Where only the data of a record is broken it may also
/// be [`super::Decoder::append`] that finds it.
pub fn parse(line: &[u8], number: u64) -> Result<Line<'_>> {
    let line = line.trim_ascii();
    if line.first() != Some(&b'{') {
        return Ok(Line::NotJson);
    }
    let Ok(text) = std::str::from_utf8(line) else {
        return match general(&String::from_utf8_lossy(line), number) {
            Ok(Line::Record(record)) => Err(record.broken("A record is not UTF-8")),
            Err(error) => Err(error),
            Ok(_) => Ok(Line::NotJson),
        };
    };
    match usual(text, number) {
        Some(record) => Ok(Line::Record(record)),
        None => general(text, number),
    }
}

fn unreadable(why: &str, number: u64) -> Error {
    Error::data(why).context("line", number)
}

/// The members of `record` apart from its data.
#[derive(Default)]
struct Members<'a> {
    stream: Option<Cow<'a, str>>,
    namespace: Option<Cow<'a, str>>,
    emitted_at_micros: Option<i64>,
    data: Option<Range<usize>>,
    changes: Option<Range<usize>>,
}

impl<'a> Members<'a> {
    fn record(self, line: &'a str, number: u64, guessed: bool) -> Option<Record<'a>> {
        Some(Record {
            stream: self.stream?,
            namespace: self.namespace,
            emitted_at_micros: self.emitted_at_micros,
            number,
            line,
            data: self.data?,
            changes: self.changes,
            guessed,
        })
    }

    /// Takes the member whose key is `key` and whose value is at `at`; the position after it.
    fn take(&mut self, line: &'a str, key: &str, at: usize) -> Scan<usize> {
        let bytes = line.as_bytes();
        let value = scan::value(bytes, at)?;
        let end = value.end;
        match (key, value.token) {
            ("stream", Token::String) => self.stream = Some(string(line, at)?),
            ("stream", _) => self.stream = None,
            ("namespace", Token::String) => self.namespace = Some(string(line, at)?),
            ("namespace", _) => self.namespace = None,
            ("emitted_at", Token::Number) => self.emitted_at_micros = micros(&line[at..end]),
            ("emitted_at", _) => self.emitted_at_micros = None,
            ("data", Token::Object) => self.data = Some(at..end),
            ("data", _) => self.data = None,
            ("meta", Token::Object) => self.changes = changes(line, at)?,
            ("meta", _) => self.changes = None,
            _ => {}
        }
        Ok(end)
    }
}

/// Milliseconds, perhaps with a fraction, as microseconds.
fn micros(number: &str) -> Option<i64> {
    match number.parse::<i64>() {
        Ok(milliseconds) => milliseconds.checked_mul(1_000),
        Err(_) => {
            let micros = number.parse::<f64>().ok()? * 1_000.0;
            (micros.abs() < 9e18).then_some(micros.round() as i64)
        }
    }
}

fn string(line: &str, at: usize) -> Scan<Cow<'_, str>> {
    let text = scan::string(line.as_bytes(), at + 1)?;
    Ok(scan::unescaped(line.get(at + 1..text.end).ok_or(Broken)?, text))
}

/// Calls `found` with each key of the object at `at` and the position of its value; `found`
/// returns the position after the value. Returns the position after the object.
pub(super) fn members<'a>(
    line: &'a str,
    at: usize,
    mut found: impl FnMut(Cow<'a, str>, usize) -> Scan<usize>,
) -> Scan<usize> {
    let bytes = line.as_bytes();
    let mut at = blank(bytes, at + 1);
    if bytes.get(at) == Some(&b'}') {
        return Ok(at + 1);
    }
    loop {
        let (key, value) = key(line, at)?;
        at = blank(bytes, found(key, value)?);
        match bytes.get(at) {
            Some(b',') => at = blank(bytes, at + 1),
            Some(b'}') => return Ok(at + 1),
            _ => return Err(Broken),
        }
    }
}

/// The key at `at`, and the position of its value.
fn key(line: &str, at: usize) -> Scan<(Cow<'_, str>, usize)> {
    let bytes = line.as_bytes();
    if bytes.get(at) != Some(&b'"') {
        return Err(Broken);
    }
    let text = scan::string(bytes, at + 1)?;
    let key = scan::unescaped(line.get(at + 1..text.end).ok_or(Broken)?, text);
    Ok((key, expect(bytes, text.end + 1, b':')?))
}

/// The array `changes` of the object at `at`, unless it is empty.
fn changes(line: &str, at: usize) -> Scan<Option<Range<usize>>> {
    let mut changes = None;
    members(line, at, |key, at| {
        let value = scan::value(line.as_bytes(), at)?;
        if key == "changes" {
            let some = value.token == Token::Array
                && line.as_bytes().get(blank(line.as_bytes(), at + 1)) != Some(&b']');
            changes = some.then_some(at..value.end);
        }
        Ok(value.end)
    })?;
    Ok(changes)
}

/// `"namespace"` within what is taken for data may be a member of the record after it.
static NAMESPACE: LazyLock<memmem::Finder<'static>> =
    LazyLock::new(|| memmem::Finder::new("\"namespace\""));

/// `{"type":"RECORD","record":{` some members, the data, some members, `}}`. `None`: read it
/// member by member.
///
/// In valid JSON nothing else can be meant. The head is read from the front. The tail is
/// members up to the two last braces, so that it is in `record`. What is between begins with the
/// data; if it holds a member more, the decoder sees that the data ends early.
fn usual(line: &str, number: u64) -> Option<Record<'_>> {
    let bytes = line.as_bytes();
    let at = after(bytes, 0, b"{")?;
    let at = after(bytes, at, b"\"type\"")?;
    let at = after(bytes, at, b":")?;
    let at = after(bytes, at, b"\"RECORD\"")?;
    let at = after(bytes, at, b",")?;
    let at = after(bytes, at, b"\"record\"")?;
    let at = after(bytes, at, b":")?;
    let mut at = after(bytes, at, b"{")?;
    let mut members = Members::default();
    loop {
        let (key, value) = key(line, at).ok()?;
        if key == "data" {
            at = value;
            break;
        }
        at = after(bytes, members.take(line, &key, value).ok()?, b",")?;
    }
    if bytes.get(at) != Some(&b'{') {
        return None;
    }
    let end = match members.emitted_at_micros {
        None => tail(line, at, &mut members)?,
        Some(_) => bytes.strip_suffix(b"}")?.trim_ascii_end().strip_suffix(b"}")?.len(),
    };
    let data = at..at + bytes.get(at..end)?.trim_ascii_end().len();
    let inside = bytes.get(data.clone())?;
    if inside.last() != Some(&b'}')
        || (members.namespace.is_none() && NAMESPACE.find(inside).is_some())
    {
        return None;
    }
    members.data = Some(data);
    members.record(line, number, true)
}

/// The position after `word` at `at` and the white space behind it.
#[inline(always)]
fn after(bytes: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    let end = at + word.len();
    let rest = bytes.get(at..end)?;
    if rest != word {
        let at = blank(bytes, at);
        let end = at + word.len();
        return (bytes.get(at..end)? == word).then(|| blank(bytes, end));
    }
    Some(blank(bytes, end))
}

/// Reads the members from `emitted_at` to the end of the line; the position of the comma before.
fn tail<'a>(line: &'a str, start: usize, members: &mut Members<'a>) -> Option<usize> {
    let bytes = line.as_bytes();
    let mut at = start + memmem::rfind(bytes.get(start..)?, b"\"emitted_at\"")?;
    let comma = bytes.get(..at)?.trim_ascii_end().len().checked_sub(1)?;
    if bytes.get(comma) != Some(&b',') {
        return None;
    }
    loop {
        let (key, value) = key(line, at).ok()?;
        if key == "data" {
            return None;
        }
        at = blank(bytes, members.take(line, &key, value).ok()?);
        match bytes.get(at) {
            Some(b',') => at = blank(bytes, at + 1),
            Some(b'}') => break,
            _ => return None,
        }
    }
    let end = blank(bytes, at + 1);
    (bytes.get(end..) == Some(b"}")).then_some(comma)
}

/// Reads a line member by member, whatever their order.
pub(super) fn general(line: &str, number: u64) -> Result<Line<'_>> {
    let bytes = line.as_bytes();
    let (mut kind, mut found, mut has_record) = (None, Members::default(), false);
    let scanned = members(line, 0, |key, at| match &*key {
        "type" if bytes.get(at) == Some(&b'"') => {
            let name = string(line, at)?;
            let is_record = name == "RECORD";
            kind = Some(is_record);
            // Another message is for another reader.
            if is_record { Ok(scan::value(bytes, at)?.end) } else { Err(Broken) }
        }
        "record" if bytes.get(at) == Some(&b'{') => {
            (found, has_record) = (Members::default(), true);
            members(line, at, |key, at| found.take(line, &key, at))
        }
        _ => Ok(scan::value(bytes, at)?.end),
    });
    let whole = scanned == Ok(bytes.len());
    match (kind, whole) {
        (Some(false), _) | (None, true) => Ok(Line::Other),
        (None, false) if !has_record => Ok(Line::NotJson),
        (_, false) => {
            let error = unreadable("A record is not JSON", number);
            Err(match found.stream {
                Some(stream) => error.context("stream", stream),
                None => error,
            })
        }
        (Some(true), true) => match found.record(line, number, false) {
            Some(record) => Ok(Line::Record(record)),
            None => Err(unreadable("A record has no stream or no data", number)),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn record(line: &str) -> Record<'_> {
        match parse(line.as_bytes(), 7).unwrap() {
            Line::Record(record) => record,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn parts(record: &Record<'_>) -> (String, Option<String>, Option<i64>, String, Option<String>) {
        (
            record.stream.to_string(),
            record.namespace.as_deref().map(str::to_owned),
            record.emitted_at_micros,
            record.line[record.data.clone()].to_owned(),
            record.changes.clone().map(|at| record.line[at].to_owned()),
        )
    }

    #[test]
    fn a_moment_that_would_overflow_as_seconds_stays_what_it_is() {
        for (milliseconds, micros) in [
            ("-9223372036854775", -9_223_372_036_854_775_000),
            ("1795225457", 1_795_225_457_000_000),
        ] {
            let line = format!(
                r#"{{"type":"RECORD","record":{{"stream":"a","data":{{}},"emitted_at":{milliseconds}}}}}"#
            );
            let mut record = record(&line);
            record.read_as_seconds();
            assert_eq!(record.emitted_at_micros, Some(micros));
        }
    }

    #[test]
    fn usual_orders_need_no_second_look() {
        let data = r#"{"a":{"b":"}\"},"},"c":[1,{}]}"#;
        for (line, namespace) in [
            (
                format!(
                    r#"{{"type":"RECORD","record":{{"stream":"s","data":{data},"emitted_at":12}}}}"#
                ),
                None,
            ),
            (
                format!(
                    r#"{{"type": "RECORD", "record": {{"stream": "s", "data": {data}, "emitted_at": 12}}}}"#
                ),
                None,
            ),
            (
                format!(
                    r#"{{"type":"RECORD","record":{{"namespace":"n","stream":"s","data":{data},"emitted_at":12}}}}"#
                ),
                Some("n"),
            ),
            (
                format!(
                    r#"{{"type":"RECORD","record":{{"stream":"s","data":{data},"emitted_at":12,"namespace":"n"}}}}"#
                ),
                Some("n"),
            ),
            (
                format!(
                    "{{\"type\":\"RECORD\",\"record\":{{\"stream\":\"s\",\"emitted_at\":12,\"data\":{data} }} }}\r\n"
                ),
                None,
            ),
        ] {
            let usual = usual(line.trim(), 7).expect(&line);
            assert!(usual.guessed);
            let Line::Record(general) = general(line.trim(), 7).unwrap() else { panic!("{line}") };
            assert_eq!(parts(&usual), parts(&general), "{line}");
            let expected =
                ("s".to_owned(), namespace.map(str::to_owned), Some(12_000), data.to_owned(), None);
            assert_eq!(parts(&usual), expected, "{line}");
        }
    }

    #[test]
    fn any_order_is_read() {
        let line = r#" { "record" : {"emitted_at": 1.5, "data" : {"emitted_at":5}, "meta":{"changes":[ {"field":"x"} ]},
            "str\u0065am":"\u0073","namespace":null}, "type" : "RECORD" , "more": [] } "#;
        let found = record(line);
        assert!(!found.guessed);
        let changes = Some(r#"[ {"field":"x"} ]"#.to_owned());
        let expected =
            ("s".to_owned(), None, Some(1_500), r#"{"emitted_at":5}"#.to_owned(), changes);
        assert_eq!(parts(&found), expected);
    }

    #[test]
    fn a_namespace_between_data_and_time_is_seen() {
        let line = r#"{"type":"RECORD","record":{"stream":"s","data":{"a":1},"namespace":"n","meta":{"changes":[]},"emitted_at":12}}"#;
        let found = record(line);
        assert_eq!(found.namespace.as_deref(), Some("n"));
        assert_eq!((found.guessed, found.changes), (false, None));
    }

    #[test]
    fn other_lines_are_told_apart() {
        for other in [
            r#"{"type":"STATE","state":{"type":"STREAM"}}"#,
            r#"{"type":"LOG","log":{"message":"\"RECORD\""#,
            r#"{"a":1}"#,
            "{}",
            r#"{"type":7}"#,
        ] {
            assert!(matches!(parse(other.as_bytes(), 1).unwrap(), Line::Other), "{other}");
        }
        for text in ["", "text", "[1]", "7", "\"RECORD\"", "{x}", "{\"a\":1", "{'type': 'RECORD'}"]
        {
            assert!(matches!(parse(text.as_bytes(), 1).unwrap(), Line::NotJson), "{text}");
        }
        assert!(matches!(parse(b"{\"a\":\"\xff\"", 1).unwrap(), Line::NotJson));
    }

    #[test]
    fn an_unreadable_record_is_an_error_that_shows_no_value() {
        for line in [
            &br#"{"type":"RECORD","record":{"stream":"s","data":{"a":"secret"#[..],
            br#"{"type":"RECORD","record":{"stream":"s","data":{"a":"secret"}} }x"#,
            br#"{"type":"RECORD","record":{"stream":"s","data":["secret"],"emitted_at":1}}"#,
            br#"{"type":"RECORD","record":{"data":{"a":"secret"},"emitted_at":1}}"#,
            br#"{"type":"RECORD"}"#,
            b"{\"type\":\"RECORD\",\"record\":{\"stream\":\"s\",\"data\":{\"a\":\"secret\xff\"},\"emitted_at\":1}}",
            br#"{"record":{"stream":"s","data":{"a":"secret""#,
        ] {
            let error = parse(line, 41).unwrap_err();
            assert_eq!(error.kind(), highwater_core::ErrorKind::Data);
            assert_eq!(error.context_value("line"), Some("41"));
            assert!(!error.full_message().contains("secret"));
        }
    }
}
