//! JSON read where it lies: ends of strings and values, escapes, numbers. Strict, as the standard
//! has it, but for the words `NaN` and `Infinity`, which Python's `json` writes.
//!
//! Positions are byte offsets into one line. All marks of JSON are ASCII, so that a span between
//! two of them is always whole characters.

use std::borrow::Cow;

/// The bytes are not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken;

pub(super) type Scan<T> = Result<T, Broken>;

/// Values nested deeper than this are refused: the stack is finite.
const DEPTH_MAX: usize = 512;

/// Where a string ends, and what is in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text {
    /// The position of the closing quote.
    pub(super) end: usize,
    /// Whether there are escapes.
    pub(super) escaped: bool,
    /// Whether there is half of a surrogate pair, which is no character.
    pub(super) lone: bool,
}

/// The first position from `at` that is not white space.
#[inline(always)]
pub(super) fn blank(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\r' | b'\n') = bytes.get(at) {
        at += 1;
    }
    at
}

/// The position after `byte` and the white space around it.
#[inline(always)]
pub(super) fn expect(bytes: &[u8], at: usize, byte: u8) -> Scan<usize> {
    let at = blank(bytes, at);
    if bytes.get(at) == Some(&byte) { Ok(blank(bytes, at + 1)) } else { Err(Broken) }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The high bit of the lowest byte of `word` that is a quote, a backslash or a control character
/// (and perhaps of bytes above it).
#[inline(always)]
fn special(word: u64) -> u64 {
    let zero = |x: u64| x.wrapping_sub(ONES) & !x;
    let quote = zero(word ^ (ONES * b'"' as u64));
    let backslash = zero(word ^ (ONES * b'\\' as u64));
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (quote | backslash | control) & HIGHS
}

/// The end of the string whose content starts at `at`.
#[inline(always)]
pub(super) fn string(bytes: &[u8], mut at: usize) -> Scan<Text> {
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let hit = special(u64::from_le_bytes(*chunk));
        if hit != 0 {
            at += (hit.trailing_zeros() / 8) as usize;
            return match bytes.get(at) {
                Some(b'"') => Ok(Text { end: at, escaped: false, lone: false }),
                _ => escaped(bytes, at),
            };
        }
        at += 8;
    }
    escaped(bytes, at)
}

/// As [`string`], byte by byte, and with escapes.
#[cold]
fn escaped(bytes: &[u8], mut at: usize) -> Scan<Text> {
    let mut text = Text { end: 0, escaped: false, lone: false };
    loop {
        match bytes.get(at).ok_or(Broken)? {
            b'"' => {
                text.end = at;
                return Ok(text);
            }
            b'\\' => {
                text.escaped = true;
                match bytes.get(at + 1).ok_or(Broken)? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => at += 2,
                    b'u' => {
                        let (character, after) = unicode(bytes, at)?;
                        text.lone |= character.is_none();
                        at = after;
                    }
                    _ => return Err(Broken),
                }
            }
            0..0x20 => return Err(Broken),
            _ => at += 1,
        }
    }
}

fn hex(bytes: &[u8], at: usize) -> Scan<u32> {
    let digits = bytes.get(at..at + 4).ok_or(Broken)?;
    digits.iter().try_fold(0, |sum, digit| {
        (*digit as char).to_digit(16).map(|digit| sum * 16 + digit).ok_or(Broken)
    })
}

/// The character of the `\u` escape at `at`, of two escapes where they are a pair, and the
/// position after. `None`: half a pair.
fn unicode(bytes: &[u8], at: usize) -> Scan<(Option<char>, usize)> {
    let first = hex(bytes, at + 2)?;
    let after = at + 6;
    if (0xD800..0xDC00).contains(&first) && bytes.get(after..after + 2) == Some(b"\\u") {
        let second = hex(bytes, after + 2)?;
        if (0xDC00..0xE000).contains(&second) {
            let code = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
            return Ok((char::from_u32(code), after + 6));
        }
    }
    Ok((char::from_u32(first), after))
}

/// Appends what `content`, checked by [`string`], says without escapes. Half a surrogate pair
/// becomes U+FFFD.
pub(super) fn unescape(content: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', content.get(at..).unwrap_or_default()) {
        out.extend_from_slice(&content[at..at + found]);
        at += found;
        let plain = match content.get(at + 1) {
            Some(b'b') => 0x08,
            Some(b'f') => 0x0C,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                let Ok((character, after)) = unicode(content, at) else { return };
                let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                at = after;
                continue;
            }
            Some(other) => *other,
            None => return,
        };
        out.push(plain);
        at += 2;
    }
    out.extend_from_slice(content.get(at..).unwrap_or_default());
}

/// The text of a string whose content is `content`, which [`string`] has found to be `text`.
pub(super) fn unescaped<'a>(content: &'a str, text: Text) -> Cow<'a, str> {
    if !text.escaped {
        return Cow::Borrowed(content);
    }
    let mut out = Vec::with_capacity(content.len());
    unescape(content.as_bytes(), &mut out);
    Cow::Owned(String::from_utf8(out).unwrap_or_default())
}

/// The end of the digits from `at`; there has to be one.
#[inline(always)]
fn digits(bytes: &[u8], mut at: usize) -> Scan<usize> {
    let start = at;
    while bytes.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    if at == start { Err(Broken) } else { Ok(at) }
}

/// The end of the number at `at`.
pub(super) fn number(bytes: &[u8], mut at: usize) -> Scan<usize> {
    if bytes.get(at) == Some(&b'-') {
        at += 1;
    }
    if bytes.get(at) == Some(&b'0') {
        at += 1;
    } else {
        at = digits(bytes, at)?;
    }
    if bytes.get(at) == Some(&b'.') {
        at = digits(bytes, at + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        at += 1;
        if let Some(b'+' | b'-') = bytes.get(at) {
            at += 1;
        }
        at = digits(bytes, at)?;
    }
    Ok(at)
}

/// What is at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Null,
    True,
    False,
    Number,
    /// `NaN`, `Infinity` or `-Infinity`.
    NoNumber,
    String,
    Object,
    Array,
}

/// What value begins at `at`, and its end if it is a word or a number.
fn token(bytes: &[u8], at: usize) -> Scan<(Token, usize)> {
    let word = |word: &[u8], token| {
        let end = at + word.len();
        if bytes.get(at..end) == Some(word) { Ok((token, end)) } else { Err(Broken) }
    };
    match bytes.get(at).ok_or(Broken)? {
        b'"' => Ok((Token::String, at)),
        b'{' => Ok((Token::Object, at)),
        b'[' => Ok((Token::Array, at)),
        b'n' => word(b"null", Token::Null),
        b't' => word(b"true", Token::True),
        b'f' => word(b"false", Token::False),
        b'N' => word(b"NaN", Token::NoNumber),
        b'I' => word(b"Infinity", Token::NoNumber),
        b'-' if bytes.get(at + 1) == Some(&b'I') => word(b"-Infinity", Token::NoNumber),
        _ => number(bytes, at).map(|end| (Token::Number, end)),
    }
}

/// A value that was passed over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value {
    pub(super) token: Token,
    /// The position after it.
    pub(super) end: usize,
    /// Whether it holds (or is) what is no JSON or no character: words for numbers, halves of
    /// surrogate pairs.
    pub(super) dirty: bool,
}

/// Passes over the value at `at`.
#[inline]
pub(super) fn value(bytes: &[u8], at: usize) -> Scan<Value> {
    let mut dirty = false;
    let (token, end) = skip(bytes, at, 0, &mut dirty)?;
    Ok(Value { token, end, dirty })
}

fn skip(bytes: &[u8], at: usize, depth: usize, dirty: &mut bool) -> Scan<(Token, usize)> {
    let (token, mut end) = token(bytes, at)?;
    match token {
        Token::String => {
            let text = string(bytes, at + 1)?;
            *dirty |= text.lone;
            end = text.end + 1;
        }
        Token::NoNumber => *dirty = true,
        Token::Object => end = object(bytes, at, depth, dirty)?,
        Token::Array => end = array(bytes, at, depth, dirty)?,
        Token::Null | Token::True | Token::False | Token::Number => {}
    }
    Ok((token, end))
}

fn object(bytes: &[u8], at: usize, depth: usize, dirty: &mut bool) -> Scan<usize> {
    let mut at = blank(bytes, at + 1);
    if bytes.get(at) == Some(&b'}') {
        return Ok(at + 1);
    }
    if depth == DEPTH_MAX {
        return Err(Broken);
    }
    loop {
        if bytes.get(at) != Some(&b'"') {
            return Err(Broken);
        }
        let key = string(bytes, at + 1)?;
        *dirty |= key.lone;
        at = expect(bytes, key.end + 1, b':')?;
        // Most values are strings.
        at = if bytes.get(at) == Some(&b'"') {
            let text = string(bytes, at + 1)?;
            *dirty |= text.lone;
            text.end + 1
        } else {
            skip(bytes, at, depth + 1, dirty)?.1
        };
        at = blank(bytes, at);
        match bytes.get(at) {
            Some(b',') => at = blank(bytes, at + 1),
            Some(b'}') => return Ok(at + 1),
            _ => return Err(Broken),
        }
    }
}

fn array(bytes: &[u8], at: usize, depth: usize, dirty: &mut bool) -> Scan<usize> {
    let mut at = blank(bytes, at + 1);
    if bytes.get(at) == Some(&b']') {
        return Ok(at + 1);
    }
    if depth == DEPTH_MAX {
        return Err(Broken);
    }
    loop {
        at = blank(bytes, skip(bytes, at, depth + 1, dirty)?.1);
        match bytes.get(at) {
            Some(b',') => at = blank(bytes, at + 1),
            Some(b']') => return Ok(at + 1),
            _ => return Err(Broken),
        }
    }
}

/// Appends a value that [`value`] found dirty as clean JSON: `null` for words that are no
/// numbers, U+FFFD for halves of surrogate pairs.
pub(super) fn cleaned(raw: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while let Some(byte) = raw.get(at) {
        match byte {
            b'"' => {
                let Ok(text) = string(raw, at + 1) else { return };
                cleaned_string(&raw[at..=text.end], text.lone, out);
                at = text.end + 1;
            }
            b'N' | b'I' | b'-' => match token(raw, at) {
                Ok((Token::NoNumber, end)) => {
                    out.extend_from_slice(b"null");
                    at = end;
                }
                _ => {
                    out.push(*byte);
                    at += 1;
                }
            },
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
}

fn cleaned_string(quoted: &[u8], lone: bool, out: &mut Vec<u8>) {
    let mut at = 0;
    while lone && at < quoted.len() {
        let end = match (quoted.get(at), quoted.get(at + 1)) {
            (Some(b'\\'), Some(b'u')) => match unicode(quoted, at) {
                Ok((None, after)) => {
                    out.extend_from_slice(b"\\ufffd");
                    at = after;
                    continue;
                }
                Ok((Some(_), after)) => after,
                Err(Broken) => at + 2,
            },
            (Some(b'\\'), _) => at + 2,
            _ => at + 1,
        };
        out.extend_from_slice(quoted.get(at..end).unwrap_or_default());
        at = end;
    }
    out.extend_from_slice(quoted.get(at..).unwrap_or_default());
}
