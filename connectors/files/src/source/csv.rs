//! Reads CSV records, keeping what other readers drop: whether a field was quoted. An empty field
//! without quotes is NULL, one with quotes is an empty text.

use std::io::{self, Read};

use memchr::{memchr, memchr_iter, memchr3};

use crate::spec::CsvDialect;

const BUFFER_BYTES: usize = 256 << 10;
const BOM: &[u8] = "\u{feff}".as_bytes();

/// Why a record cannot be read. The line is where the record begins.
#[derive(Debug)]
pub(crate) enum CsvError {
    Io(io::Error),
    /// Bytes that are no UTF-8.
    Utf8,
    /// Text between a closing quote and the next delimiter.
    AfterQuote,
    /// The file ends inside a quoted field.
    OpenQuote,
}

/// The fields of one record.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// The record as it is in the file, and behind it the fields in which a quote is doubled.
    bytes: Vec<u8>,
    fields: Vec<Place>,
    /// The line on which it begins, from 1.
    pub(crate) line: u64,
}

/// Where a field lies.
#[derive(Debug, Clone)]
struct Place {
    start: usize,
    end: usize,
    quoted: bool,
}

impl Record {
    pub(crate) fn len(&self) -> usize {
        self.fields.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The fields; `None` is NULL.
    pub(crate) fn fields(&self) -> impl Iterator<Item = Result<Option<&str>, CsvError>> {
        // One check for all fields: the delimiters between them are whole characters.
        let text = std::str::from_utf8(&self.bytes);
        self.fields.iter().map(move |field| {
            if field.start == field.end && !field.quoted {
                return Ok(None);
            }
            let text = text.map_err(|_| CsvError::Utf8)?;
            text.get(field.start..field.end).map(Some).ok_or(CsvError::Utf8)
        })
    }

    /// Takes a record from the buffer: `doubled` are the fields in which a quote is.
    fn take(&mut self, bytes: &[u8], doubled: &[usize], quote: u8) {
        self.bytes.extend_from_slice(bytes);
        for at in doubled {
            let Some(field) = self.fields.get_mut(*at) else { continue };
            let start = self.bytes.len();
            let mut rest = &bytes[field.start..field.end];
            while let Some(at) = memchr(quote, rest) {
                self.bytes.extend_from_slice(&rest[..=at]);
                // The second of the two.
                rest = rest.get(at + 2..).unwrap_or_default();
            }
            self.bytes.extend_from_slice(rest);
            (field.start, field.end) = (start, self.bytes.len());
        }
    }
}

/// What became of one attempt to read a record from the buffer.
enum Attempt {
    /// It takes so many bytes and lines of the buffer.
    Done { bytes: usize, lines: u64 },
    /// It goes on behind the end of the buffer.
    More,
}

/// Reads records from bytes.
pub(crate) struct CsvReader<R> {
    input: R,
    dialect: CsvDialect,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    at_end: bool,
    /// The line at `start`, from 1.
    line: u64,
    /// Whether an empty line is a record: only where a record has one field.
    empty_lines: bool,
}

impl<R: Read> CsvReader<R> {
    /// Reads from `input`, whose first line is number `line`. A byte order mark is skipped.
    pub(crate) fn new(input: R, dialect: CsvDialect, line: u64) -> Result<Self, CsvError> {
        let mut reader = Self {
            input,
            dialect,
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            at_end: false,
            line,
            empty_lines: false,
        };
        while reader.end < BOM.len() && !reader.at_end {
            reader.fill()?;
        }
        if line == 1 && reader.buffer[..reader.end].starts_with(BOM) {
            reader.start = BOM.len();
        }
        Ok(reader)
    }

    /// Takes empty lines for records of one field that is NULL.
    pub(crate) fn with_empty_lines(mut self, empty_lines: bool) -> Self {
        self.empty_lines = empty_lines;
        self
    }

    pub(crate) fn input(&self) -> &R {
        &self.input
    }

    /// The number of the next line.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    /// Reads the next record; `false` at the end.
    pub(crate) fn read(&mut self, record: &mut Record) -> Result<bool, CsvError> {
        loop {
            record.bytes.clear();
            record.fields.clear();
            record.line = self.line;
            if self.start == self.end && self.at_end {
                return Ok(false);
            }
            match self.attempt(record)? {
                Attempt::More => self.fill()?,
                Attempt::Done { bytes, lines } => {
                    self.start += bytes;
                    self.line += lines;
                    let empty =
                        matches!(record.fields[..], [Place { start: 0, end: 0, quoted: false }]);
                    if self.empty_lines || !empty {
                        return Ok(true);
                    }
                }
            }
        }
    }

    fn fill(&mut self) -> Result<(), CsvError> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let count = loop {
            match self.input.read(&mut self.buffer[self.end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map_err(CsvError::Io)?,
            }
        };
        self.end += count;
        self.at_end = count == 0;
        Ok(())
    }

    fn attempt(&self, record: &mut Record) -> Result<Attempt, CsvError> {
        let CsvDialect { delimiter, quote, .. } = self.dialect;
        let bytes = &self.buffer[self.start..self.end];
        let (mut at, mut lines, mut doubled) = (0, 0, Vec::new());
        let (length, lines) = loop {
            let quoted = bytes.get(at) == Some(&quote);
            let start = at + usize::from(quoted);
            let end = if quoted {
                match quoted_field(&bytes[start..], quote) {
                    Some(field) => {
                        let end = start + field.length;
                        lines += memchr_iter(b'\n', &bytes[start..end]).count() as u64;
                        if field.is_doubled {
                            doubled.push(record.fields.len());
                        }
                        at = end + 1;
                        end
                    }
                    None if self.at_end => return Err(CsvError::OpenQuote),
                    None => return Ok(Attempt::More),
                }
            } else {
                at += plain_field(&bytes[at..], delimiter);
                at
            };
            record.fields.push(Place { start, end, quoted });
            match bytes.get(at) {
                Some(byte) if *byte == delimiter => at += 1,
                Some(b'\n') => break (at + 1, lines + 1),
                Some(b'\r') => match bytes.get(at + 1) {
                    Some(b'\n') => break (at + 2, lines + 1),
                    None if !self.at_end => return Ok(Attempt::More),
                    // A carriage return alone ends a line too, as on old systems.
                    _ => break (at + 1, lines + 1),
                },
                Some(_) => return Err(CsvError::AfterQuote),
                None if self.at_end => break (at, lines + 1),
                None => return Ok(Attempt::More),
            }
        };
        record.take(&bytes[..at], &doubled, quote);
        Ok(Attempt::Done { bytes: length, lines })
    }
}

/// How long a field without quotes is.
#[inline]
fn plain_field(bytes: &[u8], delimiter: u8) -> usize {
    // Most fields are short: eight bytes at once cost less than the call of a search.
    if let Some(first) = bytes.first_chunk::<8>() {
        let word = u64::from_le_bytes(*first);
        let ends = zeros(word ^ repeated(delimiter))
            | zeros(word ^ repeated(b'\n'))
            | zeros(word ^ repeated(b'\r'));
        if ends != 0 {
            return ends.trailing_zeros() as usize / 8;
        }
    }
    memchr3(delimiter, b'\n', b'\r', bytes).unwrap_or(bytes.len())
}

fn repeated(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The highest bit of the first byte that is zero is set, and none of those before it.
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(repeated(1)) & !word & repeated(0x80)
}

/// A field up to its closing quote.
struct Quoted {
    length: usize,
    /// There is a quote in it, written twice.
    is_doubled: bool,
}

/// `None` when the bytes end before it is certain that the quote closes.
fn quoted_field(bytes: &[u8], quote: u8) -> Option<Quoted> {
    let (mut at, mut is_doubled) = (0, false);
    loop {
        at += memchr(quote, &bytes[at..])?;
        if bytes.get(at + 1) != Some(&quote) {
            return Some(Quoted { length: at, is_doubled });
        }
        is_doubled = true;
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIALECT: CsvDialect = CsvDialect { delimiter: b',', quote: b'"', header: true };

    /// Gives one byte at a time, so that every record crosses the end of the buffer.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let count = self.0.len().min(out.len()).min(1);
            out[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    type Rows = Vec<(u64, Vec<Option<String>>)>;

    fn rows<R: Read>(input: R, empty_lines: bool) -> Result<Rows, CsvError> {
        let mut reader = CsvReader::new(input, DIALECT, 1)?.with_empty_lines(empty_lines);
        let (mut record, mut rows) = (Record::default(), Vec::new());
        while reader.read(&mut record)? {
            let fields = record.fields().map(|f| f.map(|f| f.map(str::to_owned)));
            rows.push((record.line, fields.collect::<Result<_, _>>()?));
        }
        Ok(rows)
    }

    #[track_caller]
    fn check(text: &str, expected: &[(u64, &[Option<&str>])]) {
        for rows in
            [rows(text.as_bytes(), false).unwrap(), rows(Slow(text.as_bytes()), false).unwrap()]
        {
            let rows: Vec<_> = rows
                .iter()
                .map(|(l, r)| (*l, r.iter().map(Option::as_deref).collect::<Vec<_>>()))
                .collect();
            let expected: Vec<_> = expected.iter().map(|(l, r)| (*l, r.to_vec())).collect();
            assert_eq!(rows, expected, "{text:?}");
        }
    }

    #[test]
    fn null_and_empty_text_are_told_apart() {
        check("a,,\"\"\n", &[(1, &[Some("a"), None, Some("")])]);
        check("\"\",", &[(1, &[Some(""), None])]);
    }

    #[test]
    fn lines_end_in_every_known_way() {
        let two: &[(u64, &[Option<&str>])] =
            &[(1, &[Some("a"), Some("b")]), (2, &[Some("c"), Some("d")])];
        for text in ["a,b\nc,d\n", "a,b\r\nc,d\r\n", "a,b\rc,d\r", "a,b\nc,d", "\u{feff}a,b\nc,d"] {
            check(text, two);
        }
        check("a,b\n\n\nc,d\n", &[(1, &[Some("a"), Some("b")]), (4, &[Some("c"), Some("d")])]);
        let one = rows("a\n\nb\n".as_bytes(), true).unwrap();
        assert_eq!(one[1], (2, vec![None]));
        assert_eq!(one.len(), 3);
    }

    #[test]
    fn quotes_hold_anything() {
        check(
            "\"a\"\"b\",\"x,y\"\n\"1\n2\r\n3\",é\"q\n",
            &[(1, &[Some("a\"b"), Some("x,y")]), (2, &[Some("1\n2\r\n3"), Some("é\"q")])],
        );
        assert_eq!(rows("\"1\n2\",x\ny,z\n".as_bytes(), false).unwrap()[1].0, 3);
    }

    #[test]
    fn fields_of_every_length_end_where_they_end() {
        for length in 0..40 {
            let (field, last) = ("é".repeat(length), "x".repeat(length));
            let text = format!("{field},\"{field}\"\"\"\n{last},{last}\r\nb,\"\"\"\"\"{last}\"");
            let quoted = format!("{field}\"");
            let doubled = format!("\"\"{last}");
            let value = |text| Some(text).filter(|text: &&str| !text.is_empty());
            let two = [value(last.as_str()), value(&last)];
            check(
                &text,
                &[
                    (1, &[value(&field), Some(&quoted)]),
                    (2, &two),
                    (3, &[Some("b"), Some(&doubled)]),
                ],
            );
        }
    }

    #[test]
    fn broken_records_are_refused() {
        assert!(matches!(rows("\"a\"b,c\n".as_bytes(), false), Err(CsvError::AfterQuote)));
        assert!(matches!(rows("a,\"b\n".as_bytes(), false), Err(CsvError::OpenQuote)));
        assert!(matches!(rows(&b"a,\xff\n"[..], false), Err(CsvError::Utf8)));
        // The two halves of a character in two fields are no character.
        assert!(matches!(rows(&b"\xc3,\xa9\n"[..], false), Err(CsvError::Utf8)));
    }

    #[test]
    fn a_record_may_be_larger_than_the_buffer() {
        let large = "x".repeat(3 * BUFFER_BYTES);
        let text = format!("\"{large}\",b\nc,d\n");
        let rows = rows(text.as_bytes(), false).unwrap();
        assert_eq!(rows[0].1[0].as_ref().unwrap().len(), large.len());
        assert_eq!(rows.len(), 2);
    }
}
