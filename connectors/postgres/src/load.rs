//! COPY into a table: an open stream that takes batches.

use std::pin::Pin;

use arrow_array::{Array, BinaryArray, RecordBatch};
use arrow_buffer::{ArrowNativeType, Buffer};
use bytes::Bytes;
use futures::SinkExt;
use highwater_core::{Error, Result};
use tokio_postgres::CopyInSink;

use crate::encode::{HEADER, Prepared, Staged, TRAILER};
use crate::session::{Session, quote};

/// So many bytes go to the connection at once.
const CHUNK_BYTES: usize = 256 << 10;

/// An open COPY. Dropping it without [`Load::finish`] makes the server undo it.
pub(crate) struct Load {
    sink: Pin<Box<CopyInSink<Bytes>>>,
    buffer: Vec<u8>,
    rows_sent: u64,
}

impl Load {
    /// Begins a COPY of `columns` into the table `into` (an identifier, quoted). `is_new` says that
    /// the transaction has made the table: its rows are frozen at once, and nobody has to come back
    /// to mark them as committed.
    ///
    /// # Errors
    /// As the server's.
    pub(crate) async fn begin<'a>(
        session: &Session,
        into: &str,
        columns: impl Iterator<Item = &'a str>,
        is_new: bool,
    ) -> Result<Self> {
        let columns: Vec<String> = columns.map(quote).collect();
        // A table without columns takes no list of them.
        let columns =
            if columns.is_empty() { String::new() } else { format!(" ({})", columns.join(", ")) };
        let frozen = if is_new { ", FREEZE" } else { "" };
        let statement = format!("COPY {into}{columns} FROM STDIN (FORMAT binary{frozen})");
        let sink = session
            .copy_in(statement.as_str())
            .await
            .map_err(|e| session.error("begin to load rows", e))?;
        let mut buffer = Vec::with_capacity(CHUNK_BYTES * 2);
        buffer.extend_from_slice(HEADER);
        Ok(Self { sink: Box::pin(sink), buffer, rows_sent: 0 })
    }

    /// Sends the rows of a batch.
    ///
    /// # Errors
    /// `Data` for a value that has no form in PostgreSQL; else as the server's.
    pub(crate) async fn write(
        &mut self,
        session: &Session,
        rows: &RecordBatch,
        staged: Option<Staged>,
    ) -> Result<()> {
        let prepared = Prepared::new(rows, staged)?;
        self.rows_sent += prepared.rows() as u64;
        let mut row = 0;
        while row < prepared.rows() {
            row = prepared.encode(row, CHUNK_BYTES, &mut self.buffer)?;
            if self.buffer.len() >= CHUNK_BYTES {
                let chunk = self.chunk();
                self.sink.feed(chunk).await.map_err(|e| session.error("load rows", e))?;
                self.buffer.reserve(CHUNK_BYTES + CHUNK_BYTES / 4);
            }
        }
        Ok(())
    }

    /// Sends rows as another COPY gave them.
    ///
    /// # Errors
    /// As the server's.
    pub(crate) async fn forward(&mut self, session: &Session, rows: &BinaryArray) -> Result<()> {
        self.rows_sent += rows.len() as u64;
        let offsets = rows.value_offsets();
        let start = offsets.first().map_or(0, |offset| offset.as_usize());
        let end = offsets.last().map_or(start, |offset| offset.as_usize());
        // The rows lie one after the other, as they are to be sent: they are not copied.
        let tuples = Bytes::from_owner(Tuples(rows.values().slice_with_length(start, end - start)));
        let failed = |e| session.error("load rows", e);
        if !self.buffer.is_empty() {
            let chunk = self.chunk();
            self.sink.feed(chunk).await.map_err(failed)?;
        }
        for start in (0..tuples.len()).step_by(CHUNK_BYTES) {
            let end = tuples.len().min(start + CHUNK_BYTES);
            self.sink.feed(tuples.slice(start..end)).await.map_err(failed)?;
        }
        Ok(())
    }

    /// What is written so far.
    fn chunk(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.buffer))
    }

    /// Ends the COPY, and counts: every row that was sent has to be there.
    ///
    /// # Errors
    /// `Data` when the server refuses a value, or leaves a row out (a trigger may); else as the
    /// server's.
    pub(crate) async fn finish(mut self, session: &Session) -> Result<()> {
        self.buffer.extend_from_slice(&TRAILER);
        let failed = |e| session.error("load rows", e);
        let chunk = self.chunk();
        self.sink.feed(chunk).await.map_err(failed)?;
        let loaded = self.sink.as_mut().finish().await.map_err(failed)?;
        if loaded == self.rows_sent {
            return Ok(());
        }
        Err(Error::data("PostgreSQL loaded another number of rows than were sent")
            .context("sent", self.rows_sent)
            .context("loaded", loaded)
            .hint("a trigger on the destination table leaves rows out: disable it, or write into a table without it"))
    }
}

/// Tuples in the memory that they were read into.
struct Tuples(Buffer);

impl AsRef<[u8]> for Tuples {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
