//! Cursors that another plugin keeps: CloudQuery's state client.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{DataType, Field};
use bytes::Bytes;
use highwater_core::{Error, Result, Table, TableName};
use tonic::Status;
use tonic::transport::Channel;

use super::BackendOptions;
use crate::host::{self, MESSAGE_BYTES};
use crate::proto::plugin::plugin_client::PluginClient;
use crate::proto::plugin::{read, write};
use crate::wire::{Decoder, Encoder, INSERT_BYTES_MAX, encode_table};

/// How long a backend may take to answer its first call.
const ANSWER: Duration = Duration::from_secs(20);

/// A state table behind another plugin, and what it held when it was read.
#[derive(Debug)]
pub struct Backend {
    client: PluginClient<Channel>,
    table: Arc<Table>,
    rows: BTreeMap<String, (String, u64)>,
}

impl Backend {
    /// Connects, makes the table if it is not there, and reads it.
    ///
    /// # Errors
    /// `Transient` when nothing answers, `Schema` when a table of that name has other columns.
    pub async fn open(options: &BackendOptions) -> Result<Self> {
        let endpoint = host::endpoint(&options.connection)?;
        let connected = tokio::time::timeout(ANSWER, endpoint.connect()).await;
        let unreachable = || {
            Error::transient("The backend that keeps the cursors cannot be reached")
                .context("connection", &options.connection)
        };
        let channel = match connected {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(unreachable().caused_by(error)),
            Err(_) => return Err(unreachable()),
        };
        let client = PluginClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        let table = Arc::new(table(&options.table_name));
        let mut backend = Self { client, table, rows: BTreeMap::new() };
        backend.migrate().await?;
        backend.read().await?;
        Ok(backend)
    }

    /// The text under a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.rows.get(key).map(|(value, _)| value.as_str())
    }

    /// Changes a text; kept with the next [`Self::flush`] or [`Self::record`]. Its version grows
    /// only when it is another one. Returns whether it is.
    pub fn set(&mut self, key: &str, value: String) -> bool {
        match self.rows.get_mut(key) {
            Some((old, _)) if *old == value => false,
            Some(row) => {
                *row = (value, row.1 + 1);
                true
            }
            None => {
                self.rows.insert(key.to_owned(), (value, 1));
                true
            }
        }
    }

    /// The rows of these keys, as a message.
    ///
    /// # Errors
    /// `Internal`, if Arrow refuses them.
    pub fn record(&self, keys: &[String]) -> Result<Vec<Bytes>> {
        let rows: Vec<_> =
            keys.iter().filter_map(|key| self.rows.get(key).map(|row| (key, row))).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(rows.iter().map(|(key, _)| key))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, row)| &row.0))),
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(|(_, row)| row.1))),
        ];
        let batch = RecordBatch::try_new(Arc::clone(&self.table.schema), columns)?;
        Encoder::new(&self.table, INSERT_BYTES_MAX)?.encode(&batch)
    }

    /// Writes the rows of these keys, and waits until they are written.
    ///
    /// # Errors
    /// What the backend says.
    pub async fn flush(&mut self, keys: &[String]) -> Result<()> {
        let inserts = self.record(keys)?.into_iter().map(|record| write::Request {
            message: Some(write::request::Message::Insert(write::MessageInsert { record })),
        });
        self.write(inserts.collect()).await
    }

    async fn migrate(&mut self) -> Result<()> {
        let migrate =
            write::MessageMigrateTable { table: encode_table(&self.table)?, migrate_force: false };
        let message = Some(write::request::Message::MigrateTable(migrate));
        self.write(vec![write::Request { message }]).await
    }

    async fn write(&mut self, requests: Vec<write::Request>) -> Result<()> {
        let written = self.client.write(futures::stream::iter(requests)).await;
        written.map(drop).map_err(|status| self.refused(&status))
    }

    async fn read(&mut self) -> Result<()> {
        let request = read::Request { table: encode_table(&self.table)? };
        let read = self.client.read(request).await;
        let mut responses = read.map_err(|status| self.refused(&status))?.into_inner();
        let mut decoder = Decoder::new();
        while let Some(response) =
            responses.message().await.map_err(|status| self.refused(&status))?
        {
            for batch in decoder.decode(&response.record)?.batches {
                self.take(&batch)?;
            }
        }
        Ok(())
    }

    /// Of several rows with one key the highest version counts.
    fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        let column = |at: usize| batch.columns().get(at);
        let keys = column(0).and_then(|c| c.as_string_opt::<i32>());
        let values = column(1).and_then(|c| c.as_string_opt::<i32>());
        let versions = column(2).and_then(|c| c.as_primitive_opt::<UInt64Type>());
        let (Some(keys), Some(values)) = (keys, values) else {
            return Err(Error::schema("The state table has columns of other types")
                .context("table", &self.table.name));
        };
        for row in (0..batch.num_rows()).filter(|row| keys.is_valid(*row) && values.is_valid(*row))
        {
            let version = versions.filter(|v| v.is_valid(row)).map_or(0, |v| v.value(row));
            let there = self.rows.get(keys.value(row)).map(|(_, version)| *version);
            if there.is_none_or(|there| there <= version) {
                let value = (values.value(row).to_owned(), version);
                self.rows.insert(keys.value(row).to_owned(), value);
            }
        }
        Ok(())
    }

    fn refused(&self, status: &Status) -> Error {
        Error::transient("The backend that keeps the cursors refused a call")
            .context("table", &self.table.name)
            .context("status", host::said(status.message(), 300))
    }
}

fn table(name: &str) -> Table {
    let fields = vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Utf8, true),
        Field::new("version", DataType::UInt64, true),
    ];
    Table::new(TableName::new(name), fields).with_primary_key(["key"])
}
