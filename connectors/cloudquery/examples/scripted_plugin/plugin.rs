//! Its calls. All that no word of the script asks for is unimplemented.
//!
//! `die=CODE`: the process ends in the middle of `GetName`. `status=CODE`: `GetName` answers with
//! this gRPC status. `size=BYTES`: `GetName` answers with so many. `GetVersion` answers with the arguments of the process.

use std::pin::Pin;

use highwater_cloudquery::proto::plugin::plugin_server::Plugin;
use highwater_cloudquery::proto::plugin::{
    close, get_name, get_spec_schema, get_tables, get_version, init, read, sync, test_connection,
    transform, transform_schema, write,
};
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::script::Script;

pub struct Scripted {
    script: Script,
}

impl Scripted {
    pub fn new(script: &Script) -> Self {
        Self { script: script.clone() }
    }
}

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn not_scripted<T>() -> Answer<T> {
    Err(Status::unimplemented("not in the script"))
}

#[tonic::async_trait]
impl Plugin for Scripted {
    type SyncStream = Answers<sync::Response>;
    type ReadStream = Answers<read::Response>;
    type TransformStream = Answers<transform::Response>;

    async fn get_name(&self, _: Request<get_name::Request>) -> Answer<get_name::Response> {
        if let Some(code) = self.script.number("die") {
            println!(r#"{{"level":"error","message":"about to die"}}"#);
            std::process::exit(code);
        }
        if let Some(code) = self.script.number("status") {
            return Err(Status::new(Code::from_i32(code), "at postgres://me:hunter2@host/db"));
        }
        let name = match self.script.number("size") {
            Some(size) => "n".repeat(usize::try_from(size).unwrap()),
            None => "scripted".to_owned(),
        };
        Ok(Response::new(get_name::Response { name }))
    }

    async fn get_version(&self, _: Request<get_version::Request>) -> Answer<get_version::Response> {
        let version = self.script.arguments().join(" ");
        Ok(Response::new(get_version::Response { version }))
    }

    async fn get_spec_schema(
        &self,
        _: Request<get_spec_schema::Request>,
    ) -> Answer<get_spec_schema::Response> {
        not_scripted()
    }

    async fn init(&self, _: Request<init::Request>) -> Answer<init::Response> {
        not_scripted()
    }

    async fn get_tables(&self, _: Request<get_tables::Request>) -> Answer<get_tables::Response> {
        not_scripted()
    }

    async fn sync(&self, _: Request<sync::Request>) -> Answer<Self::SyncStream> {
        not_scripted()
    }

    async fn read(&self, _: Request<read::Request>) -> Answer<Self::ReadStream> {
        not_scripted()
    }

    async fn write(&self, _: Request<Streaming<write::Request>>) -> Answer<write::Response> {
        not_scripted()
    }

    async fn transform(
        &self,
        _: Request<Streaming<transform::Request>>,
    ) -> Answer<Self::TransformStream> {
        not_scripted()
    }

    async fn transform_schema(
        &self,
        _: Request<transform_schema::Request>,
    ) -> Answer<transform_schema::Response> {
        not_scripted()
    }

    async fn close(&self, _: Request<close::Request>) -> Answer<close::Response> {
        not_scripted()
    }

    async fn test_connection(
        &self,
        _: Request<test_connection::Request>,
    ) -> Answer<test_connection::Response> {
        not_scripted()
    }
}
