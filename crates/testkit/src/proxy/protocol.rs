//! As much of PostgreSQL's message format as it takes to see a COMMIT.

use std::collections::HashSet;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// A message with its type byte and length word, as it goes over the wire.
#[derive(Debug)]
pub(super) struct Frame {
    bytes: Vec<u8>,
    head: usize,
}

impl Frame {
    /// The next message; `None` at the end of the stream.
    pub(super) async fn read(input: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let mut bytes = vec![0; 5];
        if input.read(&mut bytes[..1]).await? == 0 {
            return Ok(None);
        }
        input.read_exact(&mut bytes[1..]).await?;
        Self::read_body(input, bytes, 5).await.map(Some)
    }

    /// The first message of a client, which has no type byte; `None` at the end of the stream.
    pub(super) async fn read_startup(
        input: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<Option<Self>> {
        let mut bytes = vec![0; 4];
        if input.read(&mut bytes[..1]).await? == 0 {
            return Ok(None);
        }
        input.read_exact(&mut bytes[1..]).await?;
        Self::read_body(input, bytes, 4).await.map(Some)
    }

    async fn read_body(
        input: &mut (impl AsyncRead + Unpin),
        mut bytes: Vec<u8>,
        head: usize,
    ) -> io::Result<Self> {
        let word: [u8; 4] = bytes[head - 4..head].try_into().expect("four bytes");
        // The length counts its own four bytes.
        let length = u32::from_be_bytes(word).max(4) as usize - 4;
        bytes.resize(head + length, 0);
        input.read_exact(&mut bytes[head..]).await?;
        Ok(Self { bytes, head })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn kind(&self) -> u8 {
        if self.head == 5 { self.bytes[0] } else { 0 }
    }

    fn body(&self) -> &[u8] {
        &self.bytes[self.head..]
    }

    /// Whether a startup message asks for TLS or GSS encryption.
    pub(super) fn asks_for_encryption(&self) -> bool {
        const TLS: [u8; 4] = 80_877_103_u32.to_be_bytes();
        const GSS: [u8; 4] = 80_877_104_u32.to_be_bytes();
        self.body() == TLS || self.body() == GSS
    }

    /// Whether the server says that it has committed.
    pub(super) fn is_commit_complete(&self) -> bool {
        self.kind() == b'C' && self.body() == b"COMMIT\0"
    }
}

/// Which of a client's prepared statements and portals commit.
#[derive(Debug, Default)]
pub(super) struct CommitWatch {
    statements: HashSet<Vec<u8>>,
    portals: HashSet<Vec<u8>>,
}

impl CommitWatch {
    /// Takes note of a client's message; whether it makes the server commit.
    pub(super) fn commits(&mut self, frame: &Frame) -> bool {
        let mut texts = frame.body().split(|byte| *byte == 0);
        let mut text = || texts.next().unwrap_or_default();
        match frame.kind() {
            b'Q' => is_commit(text()),
            b'P' => {
                let name = text().to_vec();
                if is_commit(text()) {
                    self.statements.insert(name);
                } else {
                    self.statements.remove(&name);
                }
                false
            }
            b'B' => {
                let portal = text().to_vec();
                if self.statements.contains(text()) {
                    self.portals.insert(portal);
                } else {
                    self.portals.remove(&portal);
                }
                false
            }
            b'E' => self.portals.contains(text()),
            _ => false,
        }
    }
}

/// Whether the last of these statements is a COMMIT.
fn is_commit(statements: &[u8]) -> bool {
    let text = String::from_utf8_lossy(statements).to_ascii_uppercase();
    let last = text.split(';').map(str::trim).rfind(|statement| !statement.is_empty());
    matches!(last, Some("COMMIT" | "COMMIT WORK" | "COMMIT TRANSACTION" | "END"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, body: &[u8]) -> Frame {
        let length = u32::try_from(body.len() + 4).unwrap();
        let bytes = [&[kind], &length.to_be_bytes()[..], body].concat();
        Frame { bytes, head: 5 }
    }

    #[test]
    fn a_commit_is_seen_in_both_query_protocols() {
        let mut watch = CommitWatch::default();
        assert!(watch.commits(&frame(b'Q', b"COMMIT\0")));
        assert!(watch.commits(&frame(b'Q', b"INSERT INTO t VALUES (1); commit ;\0")));
        assert!(!watch.commits(&frame(b'Q', b"COMMIT PREPARED 'x'\0")));
        assert!(!watch.commits(&frame(b'Q', b"SELECT 'COMMIT'\0")));

        assert!(!watch.commits(&frame(b'P', b"s1\0COMMIT\0\0\0")));
        assert!(!watch.commits(&frame(b'B', b"\0s1\0\0\0")));
        assert!(watch.commits(&frame(b'E', b"\0\0\0\0\0")));
        assert!(!watch.commits(&frame(b'B', b"\0s2\0\0\0")));
        assert!(!watch.commits(&frame(b'E', b"\0\0\0\0\0")));
    }

    #[tokio::test]
    async fn frames_keep_every_byte() {
        let wire = [frame(b'Q', b"a\0").bytes, frame(b'X', b"").bytes].concat();
        let mut input = wire.as_slice();
        let first = Frame::read(&mut input).await.unwrap().unwrap();
        let second = Frame::read(&mut input).await.unwrap().unwrap();
        assert_eq!([first.bytes(), second.bytes()].concat(), wire);
        assert!(Frame::read(&mut input).await.unwrap().is_none());
    }
}
