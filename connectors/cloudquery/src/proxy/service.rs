//! The calls that a plugin's state client makes: migrate, write and read one small table.
//!
//! Go's client asks for the versions of the protocol first and reads the columns by their place;
//! Python's asks for nothing, knows no `version` and reads by name. All of it comes on
//! connections that are opened for one call each.

use std::pin::Pin;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use highwater_core::crash::{self, CrashPoint};
use highwater_core::{Error, Result, Table};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::book::{StateRow, received};
use super::{Book, Shared};
use crate::proto::discovery::v1::{discovery_server, get_versions};
use crate::proto::plugin::plugin_server::Plugin;
use crate::proto::plugin::{
    close, get_name, get_spec_schema, get_tables, get_version, init, read, sync, test_connection,
    transform, transform_schema, write,
};
use crate::wire::frames::{Frames, parse_schema};
use crate::wire::{Decoder, decode_table};

/// Python's client takes messages of at most 4 MiB.
const ANSWER_BYTES: usize = 1 << 20;
/// CloudQuery's metadata key for the name of a table.
const TABLE_NAME: &str = "cq:table_name";

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Says that version 3 of the protocol is spoken.
pub(super) struct Versions;

#[tonic::async_trait]
impl discovery_server::Discovery for Versions {
    async fn get_versions(
        &self,
        _: Request<get_versions::Request>,
    ) -> Answer<get_versions::Response> {
        Ok(Response::new(get_versions::Response { versions: vec![3] }))
    }
}

/// The state table as a plugin.
pub(super) struct Service {
    pub(super) shared: Arc<Shared>,
}

impl Service {
    /// Returns when it is known what is committed.
    async fn begun(&self) -> Result<(), Status> {
        let mut book = self.shared.book.subscribe();
        let begun = async { book.wait_for(Book::has_begun).await.is_ok() };
        match tokio::time::timeout(self.shared.patience, begun).await {
            Ok(true) => Ok(()),
            _ => Err(Status::unavailable(
                "the state table can be read and written only while highwater runs the Sync call",
            )),
        }
    }

    fn check_name(&self, name: &str) -> Result<(), Status> {
        if name == self.shared.table {
            return Ok(());
        }
        Err(Status::invalid_argument(format!(
            "this connection serves the state table `{}` only, not `{name}`",
            self.shared.table
        )))
    }

    fn check_columns(&self, table: &Table) -> Result<(), Status> {
        self.check_name(&table.name.name)?;
        let known = |name: &str| ["key", "value", "version"].contains(&name);
        let missing = ["key", "value"].into_iter().find(|name| table.field(name).is_none());
        match table.column_names().find(|name| !known(name)).or(missing) {
            None => Ok(()),
            Some(column) => Err(Status::invalid_argument(format!(
                "a state table has the columns `key`, `value` and `version`: look at `{column}`"
            ))),
        }
    }
}

fn refused(error: &Error) -> Status {
    Status::invalid_argument(error.full_message())
}

fn unimplemented<T>(call: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!("highwater's state table has no {call}")))
}

/// The rows as messages, with exactly the columns that were asked for, in that order.
fn encode<'a>(
    schema: &Schema,
    rows: impl Iterator<Item = (&'a String, &'a StateRow)>,
) -> Result<Vec<Bytes>, Status> {
    let fields = schema.fields().iter().map(|field| {
        let data_type = match field.name().as_str() {
            "key" | "value" => DataType::Utf8,
            "version" => DataType::UInt64,
            other => {
                return Err(Status::invalid_argument(format!(
                    "the state table has no column `{other}`"
                )));
            }
        };
        Ok(Field::new(field.name(), data_type, field.is_nullable())
            .with_metadata(field.metadata().clone()))
    });
    let fields = fields.collect::<Result<Vec<_>, _>>()?;
    let schema = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
    let (mut messages, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
    for (key, row) in rows {
        let size = key.len() + row.value.len() + 32;
        if bytes + size > ANSWER_BYTES && !part.is_empty() {
            messages.push(message(&schema, &part).map_err(|e| Status::internal(e.to_string()))?);
            part.clear();
            bytes = 0;
        }
        part.push((key, row));
        bytes += size;
    }
    if !part.is_empty() {
        messages.push(message(&schema, &part).map_err(|e| Status::internal(e.to_string()))?);
    }
    Ok(messages)
}

fn message(schema: &SchemaRef, rows: &[(&String, &StateRow)]) -> Result<Bytes> {
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        match field.name().as_str() {
            "key" => Arc::new(StringArray::from_iter_values(rows.iter().map(|(key, _)| key))),
            "value" => {
                Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, row)| &row.value)))
            }
            _ => Arc::new(UInt64Array::from_iter_values(rows.iter().map(|(_, row)| row.version))),
        }
    });
    let batch = RecordBatch::try_new(Arc::clone(schema), columns.collect())?;
    let mut writer = StreamWriter::try_new(Vec::new(), schema)?;
    writer.write(&batch)?;
    Ok(writer.into_inner()?.into())
}

#[tonic::async_trait]
impl Plugin for Service {
    type SyncStream = Answers<sync::Response>;
    type ReadStream = Answers<read::Response>;
    type TransformStream = Answers<transform::Response>;

    async fn get_name(&self, _: Request<get_name::Request>) -> Answer<get_name::Response> {
        Ok(Response::new(get_name::Response { name: "highwater".to_owned() }))
    }

    async fn get_version(&self, _: Request<get_version::Request>) -> Answer<get_version::Response> {
        let version = concat!("v", env!("CARGO_PKG_VERSION")).to_owned();
        Ok(Response::new(get_version::Response { version }))
    }

    async fn init(&self, _: Request<init::Request>) -> Answer<init::Response> {
        Ok(Response::new(init::Response::default()))
    }

    async fn close(&self, _: Request<close::Request>) -> Answer<close::Response> {
        Ok(Response::new(close::Response {}))
    }

    async fn write(&self, request: Request<Streaming<write::Request>>) -> Answer<write::Response> {
        use write::request::Message;
        let mut stream = request.into_inner();
        let mut decoder = Decoder::new();
        let mut rows = Vec::new();
        while let Some(request) = stream.message().await? {
            match request.message {
                None | Some(Message::Flush(_)) => {}
                Some(Message::MigrateTable(migrate)) => {
                    let table = decode_table(&migrate.table).map_err(|e| refused(&e))?;
                    self.check_columns(&table)?;
                }
                Some(Message::Insert(insert)) => {
                    let decoded = decoder.decode(&insert.record).map_err(|e| refused(&e))?;
                    self.check_columns(&decoded.table)?;
                    for batch in &decoded.batches {
                        rows.extend(received(batch).map_err(|e| refused(&e))?);
                    }
                }
                Some(Message::Delete(_)) => return unimplemented("deletion of stale rows"),
                Some(Message::DeleteRecord(_)) => return unimplemented("deletion of rows"),
            }
        }
        // Only a stream that came to its end counts: the client is told that it is written.
        if !rows.is_empty() {
            self.begun().await?;
            self.shared.book.send_modify(|book| drop(book.hold(rows)));
            crash::at(CrashPoint::PluginFlushed);
        }
        Ok(Response::new(write::Response::default()))
    }

    async fn read(&self, request: Request<read::Request>) -> Answer<Self::ReadStream> {
        let bytes = request.into_inner().table;
        let schema = Frames::new(&bytes).schema().and_then(|head| parse_schema(&head));
        let schema = schema.map_err(|e| refused(&e))?;
        self.check_name(schema.metadata().get(TABLE_NAME).map_or("", String::as_str))?;
        self.begun().await?;
        let content = self.shared.book.borrow().content();
        let messages = encode(&schema, content.iter())?;
        let answers = messages.into_iter().map(|record| Ok(read::Response { record }));
        Ok(Response::new(Box::pin(tokio_stream::iter(answers.collect::<Vec<_>>()))))
    }

    async fn get_spec_schema(
        &self,
        _: Request<get_spec_schema::Request>,
    ) -> Answer<get_spec_schema::Response> {
        Ok(Response::new(get_spec_schema::Response::default()))
    }

    async fn get_tables(&self, _: Request<get_tables::Request>) -> Answer<get_tables::Response> {
        Ok(Response::new(get_tables::Response::default()))
    }

    async fn sync(&self, _: Request<sync::Request>) -> Answer<Self::SyncStream> {
        unimplemented("Sync")
    }

    async fn transform(
        &self,
        _: Request<Streaming<transform::Request>>,
    ) -> Answer<Self::TransformStream> {
        unimplemented("Transform")
    }

    async fn transform_schema(
        &self,
        _: Request<transform_schema::Request>,
    ) -> Answer<transform_schema::Response> {
        unimplemented("TransformSchema")
    }

    async fn test_connection(
        &self,
        _: Request<test_connection::Request>,
    ) -> Answer<test_connection::Response> {
        let response = test_connection::Response { success: true, ..Default::default() };
        Ok(Response::new(response))
    }
}
