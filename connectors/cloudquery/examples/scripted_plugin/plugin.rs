//! Its calls. All that no word of the script asks for is unimplemented.
//!
//! `die=CODE`: the process ends in the middle of `GetName`. `status=CODE`: `GetName` answers with
//! this gRPC status. `leak`: `Init` fails, and tells and logs the password of the settings. `size=BYTES`: `GetName` answers with so many. `GetVersion` answers with the arguments of the process.

use std::pin::Pin;

use highwater_cloudquery::proto::plugin::plugin_server::Plugin;
use highwater_cloudquery::proto::plugin::{
    close, get_name, get_spec_schema, get_tables, get_version, init, read, sync, test_connection,
    transform, transform_schema, write,
};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::destination::Destination;
use crate::script::Script;
use crate::source::Source;
use crate::transformer::Transformer;

pub struct Scripted {
    script: Script,
    destination: Option<Destination>,
    source: Option<Source>,
    transformer: Option<Transformer>,
}

impl Scripted {
    pub fn new(script: &Script) -> Self {
        Self {
            destination: Destination::new(script),
            source: Source::new(script),
            transformer: Transformer::new(script),
            script: script.clone(),
        }
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

    async fn init(&self, request: Request<init::Request>) -> Answer<init::Response> {
        if self.script.has("leak") {
            let spec: serde_json::Value = serde_json::from_slice(&request.get_ref().spec).unwrap();
            let password = spec["password"].as_str().unwrap();
            println!(r#"{{"level":"error","message":"{password} is wrong","token":"t0ken"}}"#);
            println!("as text: {spec}");
            return Err(Status::internal(format!("no entry with {password}: {spec}")));
        }
        if let Some(destination) = &self.destination {
            destination.init(request.get_ref());
        } else if let Some(source) = &self.source {
            source.init(request.get_ref());
        } else if self.transformer.is_none() {
            return not_scripted();
        }
        Ok(Response::new(init::Response::default()))
    }

    async fn get_tables(
        &self,
        request: Request<get_tables::Request>,
    ) -> Answer<get_tables::Response> {
        let Some(source) = &self.source else { return not_scripted() };
        source.tables(request.get_ref()).map(Response::new)
    }

    async fn sync(&self, request: Request<sync::Request>) -> Answer<Self::SyncStream> {
        let Some(source) = &self.source else { return not_scripted() };
        let messages = source.clone().sync(request.into_inner());
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn read(&self, request: Request<read::Request>) -> Answer<Self::ReadStream> {
        let Some(destination) = &self.destination else { return not_scripted() };
        let answers = destination.read(request.get_ref()).await?;
        Ok(Response::new(Box::pin(tokio_stream::iter(answers.into_iter().map(Ok)))))
    }

    async fn write(&self, request: Request<Streaming<write::Request>>) -> Answer<write::Response> {
        let Some(destination) = &self.destination else { return not_scripted() };
        destination.write(request.into_inner()).await.map(Response::new)
    }

    async fn transform(
        &self,
        request: Request<Streaming<transform::Request>>,
    ) -> Answer<Self::TransformStream> {
        let Some(transformer) = &self.transformer else { return not_scripted() };
        let messages = transformer.clone().transform(request.into_inner());
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn transform_schema(
        &self,
        request: Request<transform_schema::Request>,
    ) -> Answer<transform_schema::Response> {
        let Some(transformer) = &self.transformer else { return not_scripted() };
        Ok(Response::new(transformer.schema(request.get_ref())))
    }

    async fn close(&self, _: Request<close::Request>) -> Answer<close::Response> {
        let Some(destination) = &self.destination else { return not_scripted() };
        destination.close().map(|()| Response::new(close::Response {}))
    }

    async fn test_connection(
        &self,
        request: Request<test_connection::Request>,
    ) -> Answer<test_connection::Response> {
        let Some(destination) = &self.destination else { return not_scripted() };
        destination.test(request.get_ref()).map(Response::new)
    }
}
