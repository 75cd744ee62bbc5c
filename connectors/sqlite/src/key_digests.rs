//! Counts and hashes of keys, for both sides. SQLite is in this process, so keys are hashed as they
//! are read.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow_array::{BooleanArray, RecordBatch};
use arrow_select::filter::filter_record_batch;
use async_trait::async_trait;
use highwater_core::key_digests::{Chosen, Digests, bucket, hashes};
use highwater_core::{
    Batch, Completion, Error, KeyDigests, KeyTable, Message, Op, Output, Result, Table,
};
use highwater_sql::key_digests::{blind, condition};
use highwater_sql::read_back::{selected, send_as};
use rusqlite::Connection;

use crate::catalog::quote;
use crate::config::Location;
use crate::connection::{explain, open_read_only};
use crate::dialect::SqliteDialect;
use crate::reader::Reader;
use crate::source::described;

/// The size of a batch.
const BATCH_ROWS: usize = 8192;
const BATCH_BYTES: usize = 4 << 20;

/// The keys of a table, in one snapshot.
pub(crate) struct SqliteKeys {
    location: Location,
    keys: KeyTable,
    is_destination: bool,
    /// In its read transaction.
    connection: Option<Connection>,
}

impl SqliteKeys {
    /// Of a table as a plan reads it.
    pub(crate) fn of_source(location: &Location, keys: &KeyTable) -> Self {
        let (location, keys) = (location.clone(), keys.clone());
        Self { location, keys, is_destination: false, connection: None }
    }

    /// Of a table as a plan writes it.
    pub(crate) fn of_destination(location: &Location, keys: &KeyTable) -> Self {
        Self { is_destination: true, ..Self::of_source(location, keys) }
    }

    /// Sends all keys.
    async fn send(&mut self, output: Output) -> Result<()> {
        let wanted = self.keys.table();
        match self.is_destination {
            // It has types of its own for some columns.
            true => send_as(&wanted, &output, |output| self.read(output)).await,
            false => self.read(output).await.map(drop),
        }
    }

    /// Reads the table on a thread that may block; the connection comes back from there.
    async fn read(&mut self, output: Output) -> Result<Completion> {
        let (location, keys) = (self.location.clone(), self.keys.clone());
        let (connection, is_destination) = (self.connection.take(), self.is_destination);
        let read = tokio::task::spawn_blocking(move || {
            if is_destination && !location.path.exists() {
                return Ok((None, Completion::Complete));
            }
            let connection = match connection {
                Some(connection) => connection,
                None => {
                    let connection = open_read_only(&location)?;
                    let begun = connection.execute_batch("BEGIN");
                    begun.map_err(|error| explain(error, &location.path))?;
                    connection
                }
            };
            let table = match is_destination {
                true => stored(&connection, &location, &keys)?,
                false => Some(keys.table()),
            };
            let done = match table {
                Some(table) => rows(&connection, &location, &keys, &Arc::new(table), &output)?,
                None => Completion::Complete,
            };
            Ok((Some(connection), done))
        });
        let read: Result<_> = read
            .await
            .map_err(|error| Error::internal("A reading thread ended early").caused_by(error))?;
        let (connection, done) = read?;
        self.connection = connection;
        Ok(done)
    }
}

/// The columns of a destination's table as it has them; `None` where there is no such table.
fn stored(connection: &Connection, location: &Location, keys: &KeyTable) -> Result<Option<Table>> {
    let failed = |error| explain(error, &location.path);
    let found = described(connection, &keys.name.name).map_err(failed)?;
    let Some((relation, found)) = found else { return Ok(None) };
    let statement = "SELECT coalesce(sql, '') FROM sqlite_schema WHERE name = ?1";
    let sql: String =
        connection.query_row(statement, [&relation.name], |row| row.get(0)).map_err(failed)?;
    // A column may ignore case or spaces at the end: a deletion of one key would hit another.
    let sql = sql.to_lowercase().replace("collate binary", "");
    match sql.contains("collate") {
        true => Err(blind(keys)),
        false => Ok(Some(selected(&found, &keys.table()))),
    }
}

/// Steps through the keys.
fn rows(
    connection: &Connection,
    location: &Location,
    keys: &KeyTable,
    table: &Arc<Table>,
    output: &Output,
) -> Result<Completion> {
    let failed = |error| explain(error, &location.path).context("table", &table.name);
    let columns: Vec<_> = table.column_names().map(|name| format!("t.{}", quote(name))).collect();
    let condition = condition(&SqliteDialect, keys).map(|own| format!(" WHERE {own}"));
    let sql = format!(
        "SELECT {} FROM {} AS t{}",
        columns.join(", "),
        quote(&table.name.name),
        condition.unwrap_or_default()
    );
    let mut statement = connection.prepare(&sql).map_err(failed)?;
    let fields = table.schema.fields().iter();
    let mut readers = fields.map(|field| Reader::new(field)).collect::<Result<Vec<_>>>()?;
    let mut rows = statement.query([]).map_err(failed)?;
    let (mut count, mut bytes) = (0, 0);
    loop {
        let row = rows.next().map_err(failed)?;
        if count > 0 && (row.is_none() || count >= BATCH_ROWS || bytes >= BATCH_BYTES) {
            let columns = readers.iter_mut().map(Reader::finish).collect();
            let rows = RecordBatch::try_new(Arc::clone(&table.schema), columns)?;
            output.blocking_batch(Batch { table: Arc::clone(table), op: Op::Upsert, rows })?;
            (count, bytes) = (0, 0);
        }
        let Some(row) = row else { return Ok(Completion::Complete) };
        for (at, reader) in readers.iter_mut().enumerate() {
            bytes += reader.append(row.get_ref(at).map_err(failed)?, &table.name)?;
        }
        count += 1;
    }
}

#[async_trait]
impl KeyDigests for SqliteKeys {
    async fn digests(&mut self, buckets: u32) -> Result<Digests> {
        let columns = self.keys.columns.clone();
        let (output, mut messages) = Output::bounded(2, Arc::new(AtomicBool::new(false)));
        let counted = async move {
            let mut digests = Digests::new();
            while let Some(message) = messages.recv().await {
                let Message::Batch(batch) = message else { continue };
                for hash in hashes(&columns, &batch.rows)? {
                    digests.entry(bucket(hash, buckets)).or_default().add(hash);
                }
            }
            Ok::<_, Error>(digests)
        };
        let (sent, digests) = tokio::join!(self.send(output), counted);
        // Where they cannot be counted, the reader stops because of that.
        let digests = digests?;
        sent.map(|()| digests)
    }

    async fn keys(&mut self, chosen: &Chosen, output: Output) -> Result<()> {
        let columns = self.keys.columns.clone();
        let (inner, mut messages) = Output::bounded(2, Arc::new(AtomicBool::new(false)));
        let passed = async move {
            while let Some(message) = messages.recv().await {
                let Message::Batch(batch) = message else { continue };
                let hashes = hashes(&columns, &batch.rows)?;
                let meant: BooleanArray = hashes.iter().map(|h| Some(chosen.has(*h))).collect();
                let rows = filter_record_batch(&batch.rows, &meant)?;
                output.batch(Batch { rows, ..batch }).await?;
            }
            Ok::<_, Error>(())
        };
        let (sent, passed) = tokio::join!(self.send(inner), passed);
        passed?;
        sent
    }
}
