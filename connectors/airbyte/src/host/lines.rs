//! The output of a connector, cut into lines.
//!
//! Whoever decodes records wants many lines at once, and no copy of them. So what is handed out is
//! a piece of the read buffer that holds only complete lines; its memory is used again when the
//! piece was dropped before the next is asked for.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use highwater_core::{Error, Result};
use tokio::io::{AsyncRead, ReadBuf};

/// How much is read before lines are handed out, if it is there.
const PIECE_BYTES: usize = 256 << 10;
/// A buffer that a long line made larger is not kept.
const KEPT_BYTES: usize = 4 << 20;

/// Reads lines.
#[derive(Debug)]
pub(super) struct Lines<R> {
    from: R,
    buffer: BytesMut,
    /// How much of the buffer is known to have no line end.
    searched: usize,
    limit: usize,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Lines of at most `limit` bytes.
    pub(super) fn new(from: R, limit: usize) -> Self {
        Self { from, buffer: BytesMut::new(), searched: 0, limit, ended: false }
    }

    /// The next complete lines, each with its `\n`; only the very last may lack it. `None` at the
    /// end. May be cancelled: nothing is lost.
    ///
    /// # Errors
    /// `Data` when a line is longer than the limit.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(end) = memchr::memrchr(b'\n', &self.buffer[self.searched..]) {
                let piece = self.buffer.split_to(self.searched + end + 1).freeze();
                self.searched = 0;
                return Ok(Some(piece));
            }
            self.searched = self.buffer.len();
            if self.searched > self.limit {
                return Err(Error::data("A line of the connector is longer than the limit")
                    .context("limit_bytes", self.limit)
                    .hint("Exclude the column that holds very large values"));
            }
            if self.ended {
                self.searched = 0;
                let rest = std::mem::take(&mut self.buffer).freeze();
                return Ok((!rest.is_empty()).then_some(rest));
            }
            self.fill().await;
        }
    }

    /// Reads what is there, at least one byte or the end.
    async fn fill(&mut self) {
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT_BYTES {
            self.buffer = BytesMut::new();
        }
        let more = PIECE_BYTES.max(self.buffer.len());
        self.buffer.reserve(more);
        let target = self.buffer.len() + PIECE_BYTES;
        let (from, buffer) = (&mut self.from, &mut self.buffer);
        let start = buffer.len();
        self.ended = poll_fn(|context| {
            while buffer.len() < target {
                let before = buffer.len();
                // Safe code needs bytes that are set; a pipe gives at most 64 KiB at once.
                let room = (target - before).min(64 << 10);
                buffer.resize(before + room, 0);
                let mut into = ReadBuf::new(&mut buffer[before..]);
                let polled = Pin::new(&mut *from).poll_read(context, &mut into);
                let count = into.filled().len();
                buffer.truncate(before + count);
                match polled {
                    // A read that fails says the same as an end: there is nothing more to read.
                    Poll::Ready(Ok(())) if count > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(true),
                    Poll::Pending if buffer.len() > start => return Poll::Ready(false),
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(false)
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    async fn pieces(bytes: &[u8], limit: usize) -> Result<Vec<Bytes>> {
        let mut lines = Lines::new(bytes, limit);
        let mut found = Vec::new();
        while let Some(piece) = lines.next().await? {
            found.push(piece);
        }
        Ok(found)
    }

    #[tokio::test]
    async fn pieces_hold_complete_lines_and_all_of_them() {
        let mut text = Vec::new();
        for number in 0..200_000 {
            text.extend(format!("line {number}\n\n").bytes());
        }
        text.extend(b"no end");
        let pieces = pieces(&text, 100).await.unwrap();
        assert!(pieces.len() < 30, "{}", pieces.len());
        let (last, before) = pieces.split_last().unwrap();
        assert!(before.iter().all(|piece| piece.ends_with(b"\n")));
        assert_eq!(last.as_ref(), b"no end");
        assert_eq!(pieces.concat(), text);
    }

    #[tokio::test]
    async fn a_line_above_the_limit_is_an_error_that_names_it() {
        let long = "x".repeat(3 << 20);
        let text = format!("a\n{long}\nb\n");
        assert_eq!(pieces(text.as_bytes(), 4 << 20).await.unwrap().concat(), text.as_bytes());
        let error = pieces(text.as_bytes(), 1 << 20).await.unwrap_err();
        assert_eq!(error.context_value("limit_bytes"), Some("1048576"));
        assert!(pieces(b"", 10).await.unwrap().is_empty());
    }
}
