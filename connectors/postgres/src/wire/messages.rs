//! The server's messages in one buffer that is used again and again: no allocation per message.

use std::io;

use highwater_core::{Error, Result};
use tokio::io::{AsyncRead, AsyncReadExt};

/// So much is read from the socket at once.
pub(crate) const BUFFER_BYTES: usize = 256 << 10;
/// A message of a COPY that is longer is handed out in pieces, as it arrives.
const WHOLE_BYTES: usize = 64 << 10;
/// No other message is longer.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Byte and length.
const HEADER_BYTES: usize = 5;

const COPY_DATA: u8 = b'd';

/// What is next in the buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    /// Bytes of a COPY: a message of it, or a piece of one.
    Data(&'a [u8]),
    /// Any other message: its kind and its body.
    Message(u8, &'a [u8]),
    /// Nothing until more is read.
    More,
}

/// Bytes of the server, cut into messages.
pub(crate) struct Incoming {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// What is still to come of the message of a COPY that is handed out in pieces.
    data_left: usize,
}

impl Incoming {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES], start: 0, end: 0, data_left: 0 }
    }

    /// Reads what the socket has; `false` at its end.
    ///
    /// # Errors
    /// As the socket's.
    pub(crate) async fn fill(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > BUFFER_BYTES {
                self.buffer = vec![0; BUFFER_BYTES];
            }
        } else if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.buffer.len() {
            // One message fills it: twice the room, and never more than twice what has arrived.
            self.buffer.resize(self.end * 2, 0);
        }
        let read = stream.read(&mut self.buffer[self.end..]).await?;
        self.end += read;
        Ok(read > 0)
    }

    /// Takes the next message, or piece of one.
    ///
    /// # Errors
    /// `Internal` when the bytes are no messages.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Next<'_>> {
        if self.data_left > 0 {
            return Ok(self.piece());
        }
        let Some(header) = self.buffer[self.start..self.end].first_chunk::<HEADER_BYTES>() else {
            return Ok(Next::More);
        };
        let [kind, length @ ..] = *header;
        // The length counts itself.
        let body = match usize::try_from(i64::from(i32::from_be_bytes(length)) - 4) {
            Ok(body) if kind == COPY_DATA || body <= MESSAGE_BYTES_MAX => body,
            _ => return Err(broken()),
        };
        let from = self.start + HEADER_BYTES;
        if self.end - from >= body {
            self.start = from + body;
            let body = &self.buffer[from..self.start];
            return Ok(match kind {
                COPY_DATA => Next::Data(body),
                _ => Next::Message(kind, body),
            });
        }
        if kind == COPY_DATA && body > WHOLE_BYTES {
            self.start = from;
            self.data_left = body;
            return Ok(self.piece());
        }
        Ok(Next::More)
    }

    fn piece(&mut self) -> Next<'_> {
        let from = self.start;
        let taken = self.data_left.min(self.end - from);
        if taken == 0 {
            return Next::More;
        }
        self.start += taken;
        self.data_left -= taken;
        Next::Data(&self.buffer[from..self.start])
    }
}

pub(crate) fn broken() -> Error {
    Error::internal("PostgreSQL sent something that is not of its protocol")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend((body.len() as u32 + 4).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    /// Everything that comes out when the bytes arrive in two reads; data joined.
    async fn through(bytes: &[u8], cut: usize) -> Result<(Vec<u8>, Vec<(u8, Vec<u8>)>)> {
        let mut incoming = Incoming::new();
        let (mut data, mut others) = (Vec::new(), Vec::new());
        for mut part in [&bytes[..cut], &bytes[cut..]] {
            loop {
                match incoming.next()? {
                    Next::Data(piece) => data.extend_from_slice(piece),
                    Next::Message(kind, body) => others.push((kind, body.to_vec())),
                    Next::More => {
                        if !incoming.fill(&mut part).await.unwrap() {
                            break;
                        }
                    }
                }
            }
        }
        Ok((data, others))
    }

    #[tokio::test]
    async fn messages_are_found_wherever_the_bytes_are_cut() {
        let parts = [
            message(b'H', &[1, 0, 0]),
            message(b'd', b"one"),
            message(b'N', b"SNOTICE\0\0"),
            message(b'd', b""),
            message(b'd', b"two"),
            message(b'c', b""),
            message(b'Z', b"I"),
        ];
        let bytes = parts.concat();
        for cut in 0..=bytes.len() {
            let (data, others) = through(&bytes, cut).await.unwrap();
            assert_eq!(data, b"onetwo", "cut at {cut}");
            let kinds: Vec<u8> = others.iter().map(|(kind, _)| *kind).collect();
            assert_eq!(kinds, b"HNcZ", "cut at {cut}");
            assert_eq!(others[1].1, b"SNOTICE\0\0");
        }
    }

    #[tokio::test]
    async fn a_long_row_comes_in_pieces_and_the_buffer_stays_as_it_is() {
        let long = vec![7; 3 * BUFFER_BYTES + 5];
        let bytes = [message(b'd', &long), message(b'd', b"x"), message(b'Z', b"I")].concat();
        let mut incoming = Incoming::new();
        let mut rest = &bytes[..];
        let (mut data, mut pieces) = (0, 0);
        loop {
            match incoming.next().unwrap() {
                Next::Data(piece) => (data, pieces) = (data + piece.len(), pieces + 1),
                Next::Message(b'Z', _) => break,
                Next::Message(..) => panic!("another message"),
                Next::More => assert!(incoming.fill(&mut rest).await.unwrap()),
            }
            assert_eq!(incoming.buffer.len(), BUFFER_BYTES);
        }
        assert_eq!(data, long.len() + 1);
        assert!(pieces > 3, "{pieces}");
    }

    #[tokio::test]
    async fn a_long_message_of_another_kind_comes_whole() {
        let long = vec![b'x'; 2 * BUFFER_BYTES];
        let bytes = [message(b'E', &long), message(b'Z', b"I")].concat();
        let (_, others) = through(&bytes, 17).await.unwrap();
        assert_eq!(others[0].1.len(), long.len());
    }

    #[tokio::test]
    async fn a_claim_of_a_gigabyte_takes_no_memory_before_it_comes() {
        for kind in [b'd', b'E'] {
            let mut bytes = vec![kind];
            bytes.extend((1u32 << 30).to_be_bytes());
            bytes.extend([1; 100]);
            let mut incoming = Incoming::new();
            assert!(incoming.fill(&mut &bytes[..]).await.unwrap());
            match incoming.next() {
                Ok(Next::Data(piece)) => assert_eq!(piece.len(), 100),
                other => assert!(kind == b'E' && other.is_err(), "{other:?}"),
            }
            assert_eq!(incoming.buffer.len(), BUFFER_BYTES);
        }
    }

    #[tokio::test]
    async fn garbage_is_an_error() {
        for (kind, length) in [(b'Z', 0u32), (b'd', 3), (b'd', u32::MAX), (b'd', 1 << 31)] {
            let mut bytes = vec![kind];
            bytes.extend(length.to_be_bytes());
            assert!(through(&bytes, 0).await.is_err(), "{length}");
        }
    }
}
