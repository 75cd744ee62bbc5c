//! A `Write`: messages in their order, rows gathered into larger batches, and the moment when
//! they are committed.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use highwater_core::{Error, Instant, Result, Table, TableName};
use tokio::sync::{oneshot, watch};
use tonic::Status;

use super::gate::{Gate, Seat};
use super::given_up::GivenUp;
use super::{Served, stopped, words};
use crate::proto::plugin::write::request::Message;
use crate::proto::plugin::write::{self, MessageDeleteStale};
use crate::wire::{self, Decoder};

/// How long rows wait for more of them before the destination gets them.
const GATHERING: Duration = Duration::from_millis(50);

/// A call as it came.
pub(super) struct Asked {
    pub(super) gate: Arc<Gate>,
    /// Whether the caller sends cursors only when the rows that they cover were answered for.
    pub(super) after_rows: bool,
    pub(super) given_up: GivenUp,
}

/// Takes one stream to its end, and commits it. Must run to its own end: a commit is not to be cut
/// off. It ends early when `listener` says that the caller is gone.
///
/// # Errors
/// The first thing that went wrong, as soon as it did. What was committed before stays.
pub(super) async fn take(
    served: &dyn Served,
    asked: Asked,
    messages: impl Stream<Item = Result<write::Request, Status>>,
    mut stop: watch::Receiver<bool>,
    mut listener: oneshot::Receiver<()>,
) -> Result<write::Response, Status> {
    let alone = served.takes_one_stream().await.map_err(|e| words::status(&e))?;
    let writer = served.writer().await.map_err(|e| words::status(&e))?;
    let seat = asked.gate.enter(writer, alone, asked.after_rows);
    let mut taker = Taker { seat, decoder: Decoder::new(), flushed: 0, gathers: false };
    let mut messages = pin!(messages);
    loop {
        let due = taker.seat.due().await;
        tokio::select! {
            biased;
            () = stopped(&mut stop) => {
                return Err(Status::unavailable("The plugin was asked to stop"));
            }
            _ = &mut listener => return Err(Status::cancelled("The caller gave the call up")),
            () = taker.seat.failed() => taker.done(taker.seat.check().await)?,
            message = messages.next() => match message {
                None if asked.given_up.is_set() => {
                    return Err(Status::cancelled("The caller gave the call up"));
                }
                None => break,
                Some(message) => {
                    let taken = taker.message(message?).await;
                    taker.done(taken)?;
                }
            },
            () = tokio::time::sleep(GATHERING), if taker.gathers => {
                taker.gathers = false;
                taker.done(taker.seat.flush().await)?;
            }
            () = until(due) => taker.done(taker.seat.commit().await)?,
        }
    }
    taker.done(taker.seat.commit().await)?;
    Ok(write::Response { flush_id: taker.flushed, ..write::Response::default() })
}

async fn until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

struct Taker {
    seat: Seat,
    decoder: Decoder,
    /// The last flush that was asked for and done.
    flushed: u64,
    /// Whether rows may wait for more of them.
    gathers: bool,
}

impl Taker {
    #[allow(clippy::result_large_err)]
    fn done(&self, result: Result<()>) -> Result<(), Status> {
        result.map_err(|error| {
            tracing::error!(error = %words::text(&error), "a write failed");
            words::status(&error)
        })
    }

    async fn message(&mut self, request: write::Request) -> Result<()> {
        match request.message {
            Some(Message::Insert(insert)) => {
                let decoded = self.decoder.decode(&insert.record)?;
                let (table, bytes) = (decoded.table, insert.record.len());
                let is_state = is_state(&table);
                self.seat.insert(&table, decoded.batches, bytes, is_state).await?;
                self.gathers = true;
                if self.seat.is_full().await {
                    self.seat.commit().await?;
                }
                Ok(())
            }
            Some(Message::MigrateTable(message)) => {
                let table = wire::decode_table(&message.table)?;
                self.seat.migrate(&table, message.migrate_force).await
            }
            Some(Message::DeleteRecord(message)) => {
                let deletion = wire::from_write(&message)?;
                self.seat
                    .exclusively(|writer| Box::pin(async move { writer.delete(&deletion).await }))
                    .await
            }
            Some(Message::Delete(message)) => {
                let (table, before) = stale(&message)?;
                let source = message.source_name;
                self.seat
                    .exclusively(|writer| {
                        Box::pin(async move {
                            writer.commit().await?;
                            writer.delete_stale(&table, &source, before).await
                        })
                    })
                    .await
            }
            Some(Message::Flush(flush)) => {
                self.seat.commit().await?;
                self.flushed = flush.id;
                Ok(())
            }
            // A message of a protocol that is newer than ours must not be passed over.
            None => Err(Error::unsupported("A message of an unknown kind came")),
        }
    }
}

fn stale(message: &MessageDeleteStale) -> Result<(TableName, Instant)> {
    let table = match message.table_name.as_str() {
        "" => wire::decode_table(&message.table)?.name,
        name => TableName::new(name),
    };
    let time = message.sync_time.ok_or_else(|| {
        Error::data("A deletion of stale rows has no time").context("table", &table)
    })?;
    let micros =
        time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos) / 1000);
    Ok((table, Instant(micros)))
}

/// Whether a table looks like one that cursors are kept in.
fn is_state(table: &Table) -> bool {
    let mut names: Vec<&str> = table.column_names().filter(|n| !n.starts_with("_cq_")).collect();
    names.sort_unstable();
    matches!(names[..], ["key", "value"] | ["key", "value", "version"])
}
