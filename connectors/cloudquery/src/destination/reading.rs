//! The plugin's rows, read back.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::Field;
use highwater_core::{Error, Result, Table};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status, Streaming};

use super::connection::Connection;
use crate::host::Plugin;
use crate::proto::plugin::read;
use crate::wire::{Decoder, encode_table};

/// What to do where a plugin cannot be read.
pub(super) const KEEP_ELSEWHERE: &str = "keep the cursors in another destination: \
    `backend_options: {table_name: highwater_state, connection: \"@@plugins.NAME.connection\"}`";

/// A `Read` call at work.
pub(super) struct Reading<'a> {
    connection: &'a Connection,
    plugin: Arc<Plugin>,
    table: Table,
    decoder: Decoder,
    answers: Streaming<read::Response>,
    first: Option<read::Response>,
    _alone: OwnedMutexGuard<()>,
}

impl<'a> Reading<'a> {
    /// Asks for the rows of `table`, with its columns.
    ///
    /// # Errors
    /// `Unsupported` where the plugin cannot be read or does not answer in time: the server of
    /// CloudQuery's JavaScript SDK never does. `None` when there is no row.
    pub(super) async fn open(connection: &'a Connection, table: &Table) -> Result<Option<Self>> {
        let plugin = connection.ready().await?;
        let alone = connection.alone().await;
        let request = read::Request { table: encode_table(table)? };
        let mut client = plugin.client();
        let answer = async {
            let mut answers = client.read(request).await?.into_inner();
            let first = answers.message().await?;
            Ok::<_, Status>((answers, first))
        };
        let deadline = Instant::now() + connection.config.read_patience;
        let (answers, first) = match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(status)) => return Err(not_read(&plugin, table, status)),
            Err(_) => {
                let seconds = connection.config.read_patience.as_secs();
                return Err(Error::unsupported(format!(
                    "The plugin has not answered for {seconds} s: it cannot read its rows back"
                ))
                .context("plugin", plugin.name())
                .context("table", &table.name)
                .hint(KEEP_ELSEWHERE));
            }
        };
        Ok(first.map(|first| Self {
            connection,
            plugin,
            table: table.clone(),
            decoder: Decoder::new(),
            answers,
            first: Some(first),
            _alone: alone,
        }))
    }

    /// The next rows, with exactly the columns asked for; `None` at the end.
    ///
    /// # Errors
    /// `Transient` when the plugin does not go on; `Data` for what cannot be understood.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<RecordBatch>>> {
        let answer = match self.first.take() {
            Some(first) => first,
            None => {
                let deadline = Instant::now() + self.connection.config.read_patience;
                match timeout_at(deadline, self.answers.message()).await {
                    Ok(Ok(Some(answer))) => answer,
                    Ok(Ok(None)) => return Ok(None),
                    Ok(Err(status)) => return Err(not_read(&self.plugin, &self.table, status)),
                    Err(_) => {
                        return Err(Error::transient("The plugin stopped to send rows")
                            .context("plugin", self.plugin.name())
                            .context("table", &self.table.name));
                    }
                }
            }
        };
        let decoded = self.decoder.decode(&answer.record)?;
        let batches = decoded.batches.iter().filter(|batch| batch.num_rows() > 0);
        let batches = batches.map(|batch| arranged(batch, &self.table)).collect::<Result<_>>();
        batches.map(Some).map_err(|e| e.context("table", &self.table.name))
    }
}

fn not_read(plugin: &Plugin, table: &Table, status: Status) -> Error {
    let unimplemented = status.code() == Code::Unimplemented;
    let error = plugin.explain(status).context("table", &table.name);
    if unimplemented { error.hint(KEEP_ELSEWHERE) } else { error }
}

/// The columns of `table`, by name, in its order and types; NULL where the rows lack one.
fn arranged(rows: &RecordBatch, table: &Table) -> Result<RecordBatch> {
    let columns =
        table.schema.fields().iter().map(|field| match rows.column_by_name(field.name()) {
            Some(column) => of_type(column, field),
            None => Ok(new_null_array(field.data_type(), rows.num_rows())),
        });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(&table.schema), columns, &options).map_err(|e| {
        Error::data("Rows of a plugin do not fit the columns that were asked for").caused_by(e)
    })
}

fn of_type(column: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    if column.data_type() == field.data_type() {
        return Ok(Arc::clone(column));
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(column, field.data_type(), &options).map_err(|_| {
        // The cause would show the value.
        Error::data("A plugin sent a column in another type than asked for")
            .context("column", field.name())
            .context("type", column.data_type())
            .context("asked for", field.data_type())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow_array::{Int64Array, LargeStringArray, StringArray, UInt64Array};
    use arrow_schema::{DataType, Schema};
    use highwater_core::TableName;

    #[test]
    fn columns_come_as_they_were_asked_for() {
        let fields = vec![
            Field::new("key", DataType::Utf8, false),
            Field::new("version", DataType::UInt64, true),
            Field::new("missing", DataType::Utf8, true),
        ];
        let table = Table::new(TableName::new("t"), fields);
        let schema = Schema::new(vec![
            Field::new("extra", DataType::Int64, true),
            Field::new("version", DataType::Int64, true),
            Field::new("key", DataType::LargeUtf8, true),
        ]);
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let keys: ArrayRef = Arc::new(LargeStringArray::from(vec!["a", "b"]));
        let columns = vec![Arc::clone(&numbers), numbers, keys];
        let rows = RecordBatch::try_new(Arc::new(schema.clone()), columns).unwrap();
        let expected: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["a", "b"])),
            Arc::new(UInt64Array::from(vec![1, 2])),
            Arc::new(StringArray::new_null(2)),
        ];
        let expected = RecordBatch::try_new(Arc::clone(&table.schema), expected).unwrap();
        assert_eq!(arranged(&rows, &table).unwrap(), expected);

        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![-7]));
        let keys: ArrayRef = Arc::new(LargeStringArray::from(vec!["a"]));
        let columns = vec![Arc::clone(&numbers), numbers, keys];
        let rows = RecordBatch::try_new(Arc::new(schema), columns).unwrap();
        let error = arranged(&rows, &table).unwrap_err();
        assert_eq!(error.context_value("column"), Some("version"));
        assert!(!error.full_message().contains('7'), "{}", error.full_message());
    }
}
