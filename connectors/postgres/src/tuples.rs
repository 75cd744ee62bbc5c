//! The frame of binary COPY: a header, tuples, a trailer.
//!
//! The server sends a tuple per message, but nothing promises it: a tuple that is cut off is kept
//! until the rest arrives.

use highwater_core::{Error, Result};

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags, length of the extension.
const HEADER: usize = 19;
/// What a tuple begins with: how many fields it has.
pub(crate) const COUNT_BYTES: usize = 2;
/// What a field begins with: how long it is.
const LENGTH_BYTES: usize = 4;
/// More is not kept for the next tuple that is cut off.
const PENDING_KEPT: usize = 1 << 20;

/// Where a field lies in some bytes. A tuple is never longer than a gigabyte.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    /// -1 for NULL.
    length: i32,
}

impl Span {
    /// The field, `None` for NULL.
    #[inline]
    pub(crate) fn of(self, bytes: &[u8]) -> Option<&[u8]> {
        let length = usize::try_from(self.length).ok()?;
        let start = self.start as usize;
        bytes.get(start..start + length)
    }

    /// The same field, where its bytes were moved to.
    #[inline]
    pub(crate) fn moved(self, from: usize, to: usize) -> Self {
        Self { start: self.start.wrapping_sub(from as u32).wrapping_add(to as u32), ..self }
    }
}

/// One row.
pub(crate) struct Tuple<'a> {
    /// The whole tuple, from its field count on.
    pub(crate) bytes: &'a [u8],
    /// Where its fields are in them.
    pub(crate) fields: &'a [Span],
}

impl<'a> Tuple<'a> {
    /// The bytes of a field, `None` for NULL.
    #[inline]
    pub(crate) fn get(&self, field: usize) -> Option<&'a [u8]> {
        self.fields[field].of(self.bytes)
    }

    /// Where the field's length begins.
    pub(crate) fn start_of(&self, field: usize) -> usize {
        self.fields.get(field).map_or(self.bytes.len(), |f| f.start as usize - LENGTH_BYTES)
    }
}

/// Cuts a byte stream into tuples.
pub(crate) struct TupleReader {
    fields: Vec<Span>,
    pending: Vec<u8>,
    header_read: bool,
    trailer_read: bool,
}

impl TupleReader {
    /// A reader of tuples of so many columns.
    pub(crate) fn new(columns: usize) -> Self {
        Self {
            fields: vec![Span::default(); columns],
            pending: Vec::new(),
            header_read: false,
            trailer_read: false,
        }
    }

    /// Takes the next bytes and calls `each` for every tuple that is complete.
    ///
    /// # Errors
    /// `Internal` when the bytes are no binary COPY; else those of `each`.
    #[inline]
    pub(crate) fn feed(
        &mut self,
        chunk: &[u8],
        mut each: impl FnMut(&Tuple<'_>) -> Result<()>,
    ) -> Result<()> {
        if self.pending.is_empty() {
            let used = self.consume(chunk, &mut each)?;
            self.pending.extend_from_slice(&chunk[used..]);
            return Ok(());
        }
        let mut joined = std::mem::take(&mut self.pending);
        joined.extend_from_slice(chunk);
        let used = self.consume(&joined, &mut each)?;
        if used == joined.len() && joined.capacity() > PENDING_KEPT {
            return Ok(());
        }
        joined.drain(..used);
        self.pending = joined;
        Ok(())
    }

    /// Checks that the stream ended where it should.
    ///
    /// # Errors
    /// `Transient` when the end is missing: the server stopped in the middle.
    pub(crate) fn finish(&self) -> Result<()> {
        if self.trailer_read && self.pending.is_empty() {
            return Ok(());
        }
        Err(Error::transient("PostgreSQL ended a COPY in the middle"))
    }

    #[inline]
    fn consume(
        &mut self,
        bytes: &[u8],
        each: &mut impl FnMut(&Tuple<'_>) -> Result<()>,
    ) -> Result<usize> {
        let mut at = 0;
        if !self.header_read {
            match header(bytes)? {
                Some(end) => at = end,
                None => return Ok(0),
            }
            self.header_read = true;
        }
        while !self.trailer_read {
            let rest = &bytes[at..];
            let Some(length) = self.tuple(rest)? else { break };
            if !self.trailer_read {
                each(&Tuple { bytes: &rest[..length], fields: &self.fields })?;
            }
            at += length;
        }
        Ok(at)
    }

    /// Finds the fields of the tuple that the bytes begin with, and its length; `None` when it is
    /// not complete.
    #[inline]
    fn tuple(&mut self, bytes: &[u8]) -> Result<Option<usize>> {
        let Some(count) = bytes.first_chunk::<COUNT_BYTES>() else { return Ok(None) };
        let count = i16::from_be_bytes(*count);
        if usize::try_from(count) != Ok(self.fields.len()) {
            if count == -1 {
                self.trailer_read = true;
                return Ok(Some(COUNT_BYTES));
            }
            return Err(broken());
        }
        let mut at = COUNT_BYTES;
        for field in &mut self.fields {
            let Some(length) = bytes.get(at..at + LENGTH_BYTES) else { return Ok(None) };
            let length = i32::from_be_bytes([length[0], length[1], length[2], length[3]]);
            at += LENGTH_BYTES;
            *field = Span { start: at as u32, length };
            if length >= 0 {
                at += length as usize;
            } else if length != -1 {
                return Err(broken());
            }
        }
        // A field that goes beyond the end is found by the next one, or here.
        Ok((at <= bytes.len()).then_some(at))
    }
}

/// The length of the header that the bytes begin with; `None` when it is not complete.
fn header(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(header) = bytes.get(..HEADER) else { return Ok(None) };
    let extension = [header[15], header[16], header[17], header[18]];
    match usize::try_from(i32::from_be_bytes(extension)) {
        Ok(extension) if header.starts_with(SIGNATURE) => {
            let end = HEADER + extension;
            Ok((end <= bytes.len()).then_some(end))
        }
        _ => Err(broken()),
    }
}

fn broken() -> Error {
    Error::internal("PostgreSQL sent something that is not a binary COPY")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0u8; 8]);
        for row in [[Some(&b"ab"[..]), None], [Some(b""), Some(b"xyz")]] {
            bytes.extend(2i16.to_be_bytes());
            for field in row {
                bytes.extend(field.map_or(-1, |f| f.len() as i32).to_be_bytes());
                bytes.extend(field.unwrap_or_default());
            }
        }
        bytes.extend((-1i16).to_be_bytes());
        bytes
    }

    #[test]
    fn tuples_are_found_wherever_the_stream_is_cut() {
        let bytes = stream();
        for cut in 0..bytes.len() {
            let mut reader = TupleReader::new(2);
            let mut rows = Vec::new();
            for chunk in [&bytes[..cut], &bytes[cut..]] {
                reader
                    .feed(chunk, |t| {
                        rows.push((t.get(0).map(<[u8]>::to_vec), t.get(1).map(<[u8]>::to_vec)));
                        Ok(())
                    })
                    .unwrap();
            }
            reader.finish().unwrap();
            assert_eq!(
                rows,
                [(Some(b"ab".to_vec()), None), (Some(vec![]), Some(b"xyz".to_vec()))],
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn a_stream_without_its_end_is_an_error() {
        let bytes = stream();
        let mut reader = TupleReader::new(2);
        reader.feed(&bytes[..bytes.len() - 2], |_| Ok(())).unwrap();
        assert_eq!(reader.finish().unwrap_err().kind(), highwater_core::ErrorKind::Transient);
    }

    #[test]
    fn what_is_no_copy_is_an_error() {
        let refuse = |bytes: &[u8]| TupleReader::new(2).feed(bytes, |_| Ok(())).is_err();
        assert!(refuse(&[7u8; 30]));
        // Another number of fields, a length of -2, a header that ends before it begins.
        let with = |at: usize, byte: u8| {
            let mut bytes = stream();
            bytes[at] = byte;
            bytes
        };
        assert!(refuse(&with(HEADER + 1, 3)));
        assert!(refuse(&with(HEADER + 13, 0xfe)));
        assert!(refuse(&with(15, 0x80)));
        assert!(!refuse(&stream()));
    }

    #[test]
    fn a_length_of_a_gigabyte_waits_for_its_bytes() {
        let mut reader = TupleReader::new(1);
        let mut bytes = stream()[..HEADER].to_vec();
        bytes.extend([0, 1, 0x3f, 0xff, 0xff, 0xff, 1, 2, 3]);
        reader.feed(&bytes, |_| panic!("no tuple")).unwrap();
        assert!(reader.pending.capacity() < 100);
        assert!(reader.finish().is_err());
    }

    #[test]
    fn tuples_know_where_their_visible_part_begins() {
        let mut reader = TupleReader::new(2);
        let mut starts = Vec::new();
        reader
            .feed(&stream(), |t| {
                starts.push((t.start_of(0), t.start_of(1), t.start_of(2), t.bytes.len()));
                Ok(())
            })
            .unwrap();
        assert_eq!(starts, [(2, 8, 12, 12), (2, 6, 13, 13)]);
    }
}
