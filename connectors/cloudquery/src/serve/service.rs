//! The calls of the protocol.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures::StreamExt;
use futures::stream::BoxStream;
use highwater_core::{Error, Message, Output, Result as CoreResult, Table};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::gate::Gate;
use super::given_up::GivenUp;
use super::output::SyncOutput;
use super::{
    BackendOptions, CURSORS_AFTER_ROWS, Selection, Served, SyncRequest, stopped, words, write,
};
use crate::proto::plugin::plugin_server::Plugin;
use crate::proto::plugin::{
    close, get_name, get_spec_schema, get_tables, get_version, init, read, sync, test_connection,
    transform, transform_schema, write as write_call,
};
use crate::wire::{self, Encoder, INSERT_BYTES_MAX};

/// A plugin, as the network sees it.
pub(super) struct Service {
    served: Arc<dyn Served>,
    gate: Arc<Gate>,
    stop: watch::Receiver<bool>,
}

impl Service {
    pub(super) fn new(served: Arc<dyn Served>, stop: watch::Receiver<bool>) -> Self {
        Self { served, gate: Arc::default(), stop }
    }
}

type Answer<T> = Result<Response<T>, Status>;

/// The settings as they came; none are an empty object.
fn spec(bytes: &[u8]) -> CoreResult<Value> {
    if bytes.is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Null) => Ok(Value::Object(serde_json::Map::new())),
        Ok(value) => Ok(value),
        Err(error) => Err(Error::config("The `spec` is no JSON")
            .context("line", error.line())
            .context("column", error.column())),
    }
}

fn failed(error: &Error) -> Status {
    tracing::error!(error = %words::text(error), "a call failed");
    words::status(error)
}

#[tonic::async_trait]
impl Plugin for Service {
    async fn get_name(&self, _: Request<get_name::Request>) -> Answer<get_name::Response> {
        Ok(Response::new(get_name::Response { name: self.served.name().to_owned() }))
    }

    async fn get_version(&self, _: Request<get_version::Request>) -> Answer<get_version::Response> {
        Ok(Response::new(get_version::Response { version: self.served.version().to_owned() }))
    }

    async fn get_spec_schema(
        &self,
        _: Request<get_spec_schema::Request>,
    ) -> Answer<get_spec_schema::Response> {
        let json_schema = Some(self.served.spec_schema().to_string());
        Ok(Response::new(get_spec_schema::Response { json_schema }))
    }

    async fn init(&self, request: Request<init::Request>) -> Answer<init::Response> {
        let spec = spec(&request.into_inner().spec).map_err(|e| failed(&e))?;
        self.served.init(spec).await.map_err(|e| failed(&e))?;
        self.gate.begin();
        Ok(Response::new(init::Response::default()))
    }

    async fn get_tables(
        &self,
        request: Request<get_tables::Request>,
    ) -> Answer<get_tables::Response> {
        let get_tables::Request { tables, skip_tables, skip_dependent_tables } =
            request.into_inner();
        let selection = Selection { tables, skip_tables, skip_dependent_tables };
        let tables = self.served.tables(&selection).await.map_err(|e| failed(&e))?;
        let tables: CoreResult<_> = tables.iter().map(wire::encode_table).collect();
        Ok(Response::new(get_tables::Response { tables: tables.map_err(|e| failed(&e))? }))
    }

    type SyncStream = BoxStream<'static, Result<sync::Response, Status>>;

    async fn sync(&self, request: Request<sync::Request>) -> Answer<Self::SyncStream> {
        let request = sync_request(request.into_inner()).map_err(|e| failed(&e))?;
        let (output, responses) = SyncOutput::new();
        let (served, mut stop) = (Arc::clone(&self.served), self.stop.clone());
        tokio::spawn(async move {
            let synced = tokio::select! {
                synced = served.sync(request, output.clone()) => synced,
                () = output.closed() => return,
                () = stopped(&mut stop) => {
                    Err(Error::interrupted("The plugin was asked to stop"))
                }
            };
            if let Err(error) = synced {
                tracing::error!(error = %words::text(&error), "a sync failed");
                output.fail(&error).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(responses).boxed()))
    }

    type ReadStream = BoxStream<'static, Result<read::Response, Status>>;

    async fn read(&self, request: Request<read::Request>) -> Answer<Self::ReadStream> {
        let table = wire::decode_table(&request.into_inner().table).map_err(|e| failed(&e))?;
        let (sender, responses) = mpsc::channel(4);
        let served = Arc::clone(&self.served);
        tokio::spawn(async move {
            let listener = sender.clone();
            let read = async {
                if let Err(error) = read_table(served.as_ref(), table, &sender).await {
                    let _ = sender.send(Err(failed(&error))).await;
                }
            };
            tokio::select! {
                () = read => {}
                () = listener.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(responses).boxed()))
    }

    async fn write(
        &self,
        request: Request<Streaming<write_call::Request>>,
    ) -> Answer<write_call::Response> {
        let given_up = request.extensions().get::<GivenUp>().cloned().unwrap_or_default();
        let (header, value) = CURSORS_AFTER_ROWS;
        let after_rows = request.metadata().get(header).is_some_and(|said| said == value);
        let messages = request.into_inner();
        let (served, gate) = (Arc::clone(&self.served), Arc::clone(&self.gate));
        let stop = self.stop.clone();
        // A call that is given up is dropped wherever it is; a commit must not be, because it may be
        // one for another stream. So the work is a task of its own, which is told.
        let (listening, listener) = oneshot::channel();
        let taking = tokio::spawn(async move {
            let asked = write::Asked { gate, after_rows, given_up };
            write::take(served.as_ref(), asked, messages, stop, listener).await
        });
        let answer = taking.await;
        drop(listening);
        answer.map_err(|_| Status::internal("A write ended early"))?.map(Response::new)
    }

    type TransformStream = BoxStream<'static, Result<transform::Response, Status>>;

    async fn transform(
        &self,
        _: Request<Streaming<transform::Request>>,
    ) -> Answer<Self::TransformStream> {
        Err(Status::unimplemented("The plugin is no transformer"))
    }

    async fn transform_schema(
        &self,
        _: Request<transform_schema::Request>,
    ) -> Answer<transform_schema::Response> {
        Err(Status::unimplemented("The plugin is no transformer"))
    }

    async fn close(&self, _: Request<close::Request>) -> Answer<close::Response> {
        self.served.close().await.map_err(|e| failed(&e))?;
        Ok(Response::new(close::Response {}))
    }

    async fn test_connection(
        &self,
        request: Request<test_connection::Request>,
    ) -> Answer<test_connection::Response> {
        let tested = match spec(&request.into_inner().spec) {
            Ok(spec) => self.served.test_connection(spec).await,
            Err(error) => Err(super::TestFailure { code: "INVALID_SPEC", error }),
        };
        Ok(Response::new(match tested {
            Ok(()) => test_connection::Response { success: true, ..Default::default() },
            Err(failure) => test_connection::Response {
                success: false,
                failure_code: failure.code.to_owned(),
                failure_description: words::text(&failure.error),
            },
        }))
    }
}

fn sync_request(request: sync::Request) -> CoreResult<SyncRequest> {
    let shard = request.shard.map(|shard| {
        let parts = (u32::try_from(shard.num), u32::try_from(shard.total));
        match parts {
            (Ok(num), Ok(total)) if (1..=total).contains(&num) => Ok((num, total)),
            _ => Err(Error::config("There is no such shard")
                .context("num", shard.num)
                .context("total", shard.total)),
        }
    });
    let backend = request.backend.map(|backend| BackendOptions {
        table_name: backend.table_name,
        connection: backend.connection,
    });
    Ok(SyncRequest {
        selection: Selection {
            tables: request.tables,
            skip_tables: request.skip_tables,
            skip_dependent_tables: request.skip_dependent_tables,
        },
        // Absent in one SDK, empty in another.
        backend: backend.filter(|backend| !backend.connection.is_empty()),
        shard: shard.transpose()?,
        with_error_messages: request.with_error_messages,
        with_checkpoints: request.supports_checkpoints,
    })
}

/// Sends a table's rows with exactly the columns and types that were asked for.
async fn read_table(
    served: &dyn Served,
    mut table: Table,
    responses: &mpsc::Sender<Result<read::Response, Status>>,
) -> CoreResult<()> {
    // What was written before a column came has no value in it, whatever the column promises.
    let fields = table.schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
    let fields: Vec<_> = fields.collect();
    let metadata = table.schema.metadata().clone();
    table.schema = Arc::new(arrow_schema::Schema::new_with_metadata(fields, metadata));
    let table = Arc::new(table);
    let mut encoder = Encoder::new(&table, INSERT_BYTES_MAX)?;
    let (output, mut messages) = Output::bounded(2, Arc::new(AtomicBool::new(false)));
    let forward = async {
        while let Some(message) = messages.recv().await {
            let Message::Batch(batch) = message else { continue };
            for record in encoder.encode(&batch.rows)? {
                let sent = responses.send(Ok(read::Response { record })).await;
                sent.map_err(|_| Error::interrupted("The caller stopped listening"))?;
            }
        }
        Ok(())
    };
    let (read, forwarded) = tokio::join!(served.read(&table, output), forward);
    // When nobody listens, the read fails because of that.
    forwarded.and(read)
}
