//! The frame of binary COPY: a header, tuples, a trailer.
//!
//! The server sends a tuple per message, but nothing promises it: a tuple that is cut off is kept
//! until the rest arrives.

use highwater_core::{Error, Result};

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags, length of the extension.
const HEADER: usize = 19;

/// One row: where its fields lie in the bytes.
pub(crate) struct Tuple<'a> {
    bytes: &'a [u8],
    fields: &'a [Option<(usize, usize)>],
}

impl<'a> Tuple<'a> {
    /// The bytes of a field, `None` for NULL.
    #[inline]
    pub(crate) fn get(&self, field: usize) -> Option<&'a [u8]> {
        self.fields[field].map(|(start, end)| &self.bytes[start..end])
    }

    /// The size of all fields in bytes.
    pub(crate) fn size(&self) -> usize {
        self.fields.last().map_or(0, |_| {
            self.fields.iter().flatten().map(|(start, end)| end - start).sum::<usize>()
        })
    }
}

/// Cuts a byte stream into tuples.
pub(crate) struct TupleReader {
    columns: usize,
    fields: Vec<Option<(usize, usize)>>,
    pending: Vec<u8>,
    header_read: bool,
    trailer_read: bool,
}

impl TupleReader {
    /// A reader of tuples of so many columns.
    pub(crate) fn new(columns: usize) -> Self {
        Self {
            columns,
            fields: vec![None; columns],
            pending: Vec::new(),
            header_read: false,
            trailer_read: false,
        }
    }

    /// Takes the next bytes and calls `each` for every tuple that is complete.
    ///
    /// # Errors
    /// `Internal` when the bytes are no binary COPY; else those of `each`.
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
        joined.drain(..used);
        self.pending = joined;
        Ok(())
    }

    /// Checks that the stream ended where it should.
    ///
    /// # Errors
    /// `Transient` when the end is missing: the server stopped in the middle.
    pub(crate) fn finish(&self) -> Result<()> {
        if self.trailer_read {
            return Ok(());
        }
        Err(Error::transient("PostgreSQL ended a COPY in the middle"))
    }

    fn consume(
        &mut self,
        bytes: &[u8],
        each: &mut impl FnMut(&Tuple<'_>) -> Result<()>,
    ) -> Result<usize> {
        let mut at = 0;
        if !self.header_read {
            let Some(header) = bytes.get(..HEADER) else { return Ok(0) };
            let extension = i32_at(header, 15).unwrap_or(0) as usize;
            if !header.starts_with(SIGNATURE) {
                return Err(broken());
            }
            if bytes.len() < HEADER + extension {
                return Ok(0);
            }
            at = HEADER + extension;
            self.header_read = true;
        }
        while !self.trailer_read {
            match self.tuple(bytes, at)? {
                None => break,
                Some(end) => {
                    if !self.trailer_read {
                        each(&Tuple { bytes, fields: &self.fields })?;
                    }
                    at = end;
                }
            }
        }
        Ok(at)
    }

    /// Finds the fields of the tuple at `at`; `None` when it is not complete.
    fn tuple(&mut self, bytes: &[u8], at: usize) -> Result<Option<usize>> {
        let Some(count) = bytes.get(at..at + 2) else { return Ok(None) };
        let count = i16::from_be_bytes([count[0], count[1]]);
        let mut at = at + 2;
        if count == -1 {
            self.trailer_read = true;
            return Ok(Some(at));
        }
        if usize::try_from(count) != Ok(self.columns) {
            return Err(broken());
        }
        for field in &mut self.fields {
            let Some(length) = i32_at(bytes, at) else { return Ok(None) };
            at += 4;
            *field = match usize::try_from(length) {
                Err(_) => None,
                Ok(length) => {
                    let end = at + length;
                    if end > bytes.len() {
                        return Ok(None);
                    }
                    let start = std::mem::replace(&mut at, end);
                    Some((start, end))
                }
            };
        }
        Ok(Some(at))
    }
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(at..at + 4)?.try_into().ok().map(i32::from_be_bytes)
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
        assert!(TupleReader::new(2).feed(&[7u8; 30], |_| Ok(())).is_err());
    }
}
