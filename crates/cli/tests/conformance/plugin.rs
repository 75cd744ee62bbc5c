//! A plugin as a child process, and the calls that a test makes.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use bytes::Bytes;
use highwater_cloudquery::proto::plugin::plugin_client::PluginClient;
use highwater_cloudquery::proto::plugin::write::request::Message;
use highwater_cloudquery::proto::plugin::{init, read, write};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::ipc::{self, WireTable};
use super::systems::System;

/// 200 MiB, as CloudQuery has it.
const MESSAGE_BYTES: usize = 200 << 20;

pub struct Plugin {
    pub system: System,
    pub client: PluginClient<Channel>,
    pub socket: PathBuf,
    /// Where it says that it listens.
    pub address: String,
    command: (PathBuf, Vec<String>),
    child: Child,
}

impl Plugin {
    /// A plugin that was given its settings.
    pub async fn of(system: System) -> Self {
        let plugin = Self::start(system).await;
        plugin.init().await.unwrap();
        plugin
    }

    /// A plugin that was told nothing yet, on a socket.
    pub async fn start(system: System) -> Self {
        let program = env!("CARGO_BIN_EXE_highwater");
        Self::spawn(system, Path::new(program), &["plugin"]).await
    }

    /// As CloudQuery's command starts a plugin. `before`: `plugin`, to which the name is added; or
    /// nothing, where the program is called so.
    pub async fn spawn(system: System, program: &Path, before: &[&str]) -> Self {
        let socket = system.folder.path().join("plugin.sock");
        let mut arguments: Vec<String> = before.iter().map(|text| (*text).to_owned()).collect();
        if !before.is_empty() {
            arguments.push(system.name.to_owned());
        }
        let flags = ["serve", "--log-level", "info", "--log-format", "json", "--network", "unix"];
        arguments.extend(flags.map(str::to_owned));
        arguments.extend(["--address".to_owned(), socket.display().to_string()]);
        arguments.extend(["--no-sentry", "--otel-endpoint-insecure"].map(str::to_owned));
        let command = (program.to_owned(), arguments);
        Self::started(system, socket, command).await
    }

    /// A plugin that was given its settings, on a port.
    pub async fn on_a_port(system: System) -> Self {
        let socket = system.folder.path().join("none");
        let arguments = ["plugin", system.name, "serve", "--log-format", "json"];
        let mut arguments: Vec<String> = arguments.map(str::to_owned).into();
        arguments.extend(["--address", "127.0.0.1:0"].map(str::to_owned));
        let command = (env!("CARGO_BIN_EXE_highwater").into(), arguments);
        let plugin = Self::started(system, socket, command).await;
        plugin.init().await.unwrap();
        plugin
    }

    async fn started(system: System, socket: PathBuf, command: (PathBuf, Vec<String>)) -> Self {
        let (child, address, client) = connected(&command).await;
        Self { system, client, socket, address, command, child }
    }

    /// Ends it and starts it again, with the same settings.
    pub async fn restart(&mut self) {
        let status = interrupt(&mut self.child);
        assert!(status.success(), "{status}");
        (self.child, self.address, self.client) = connected(&self.command).await;
        self.init().await.unwrap();
    }

    pub async fn init(&self) -> Result<(), Status> {
        let spec = self.system.spec.clone();
        self.init_with(&spec).await
    }

    pub async fn init_with(&self, spec: &Value) -> Result<(), Status> {
        let spec = Bytes::from(spec.to_string());
        let request = init::Request { spec, ..init::Request::default() };
        self.client.clone().init(request).await.map(drop)
    }

    /// One whole stream.
    pub async fn write(&self, messages: Vec<Message>) -> Result<(), Status> {
        let stream = self.stream();
        for message in messages {
            stream.send(message).await;
        }
        stream.end().await
    }

    /// A stream that is kept open.
    pub fn stream(&self) -> WriteStream {
        self.stream_with(None)
    }

    /// A stream that is kept open, with a header.
    pub fn stream_with(&self, header: Option<(&'static str, &'static str)>) -> WriteStream {
        let (messages, receiver) = mpsc::channel(8);
        let mut client = self.client.clone();
        let requests =
            ReceiverStream::new(receiver).map(|message| write::Request { message: Some(message) });
        let mut request = Request::new(requests);
        if let Some((name, value)) = header {
            request.metadata_mut().insert(name, MetadataValue::from_static(value));
        }
        let answer = tokio::spawn(async move { client.write(request).await });
        WriteStream { messages, answer }
    }

    /// What is there, by the plugin's own account.
    pub async fn read(&self, table: &WireTable) -> Vec<RecordBatch> {
        self.try_read(table).await.unwrap()
    }

    pub async fn try_read(&self, table: &WireTable) -> Result<Vec<RecordBatch>, Status> {
        let request = read::Request { table: table.bytes() };
        let mut responses = self.client.clone().read(request).await?.into_inner();
        let mut batches = Vec::new();
        while let Some(response) = responses.message().await? {
            let batch = ipc::decode(&response.record);
            let names = |schema: &arrow_schema::Schema| -> Vec<_> {
                let fields = schema.fields().iter();
                fields.map(|f| (f.name().clone(), f.data_type().clone())).collect()
            };
            assert_eq!(names(&batch.schema()), names(&table.schema), "the columns as asked for");
            batches.push(batch);
        }
        Ok(batches)
    }

    pub async fn count(&self, table: &WireTable) -> usize {
        self.read(table).await.iter().map(RecordBatch::num_rows).sum()
    }

    /// Waits until there are so many rows: they are committed by the clock.
    pub async fn wait_for(&self, table: &WireTable, rows: usize) {
        let begun = Instant::now();
        loop {
            let found = self.count(table).await;
            if found == rows {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{found} rows, not {rows}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Asks it to end, as CloudQuery's command does, and waits for that.
    pub async fn stop(mut self) {
        let status = interrupt(&mut self.child);
        assert!(status.success(), "{status}");
        assert!(!self.socket.exists(), "the socket is removed");
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        // A test that failed has not stopped it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn interrupt(child: &mut Child) -> ExitStatus {
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    child.wait().unwrap()
}

async fn connected(command: &(PathBuf, Vec<String>)) -> (Child, String, PluginClient<Channel>) {
    let (child, address) = listening(Command::new(&command.0).args(&command.1));
    let scheme = if address.starts_with('/') { "unix" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).unwrap();
    let client = PluginClient::new(endpoint.connect().await.unwrap())
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    (child, address, client)
}

/// The process, and where it says that it listens.
pub fn listening(command: &mut Command) -> (Child, String) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    loop {
        let Some(Ok(line)) = lines.next() else { panic!("the plugin ended: {:?}", child.wait()) };
        let line: Value = serde_json::from_str(&line).unwrap();
        assert!(line["level"].is_string() && line["time"].is_string(), "{line}");
        if line["message"] == "plugin is listening" {
            let address = line["address"].as_str().unwrap().to_owned();
            // Nobody may stop reading what it says.
            std::thread::spawn(move || lines.for_each(drop));
            return (child, address);
        }
    }
}

/// An open stream of messages.
pub struct WriteStream {
    messages: mpsc::Sender<Message>,
    answer: JoinHandle<Result<Response<write::Response>, Status>>,
}

impl WriteStream {
    /// Sends; a stream that has ended takes nothing more.
    pub async fn send(&self, message: Message) {
        let _ = self.messages.send(message).await;
    }

    /// Ends it, and says how it ended.
    pub async fn end(self) -> Result<(), Status> {
        drop(self.messages);
        self.answer.await.unwrap().map(drop)
    }

    /// How it ended, without being ended by us.
    pub async fn ended(self) -> Status {
        let ended = tokio::time::timeout(Duration::from_secs(30), self.answer).await;
        ended.expect("the call ends by itself").unwrap().expect_err("the call fails")
    }

    /// Gives it up: the call is cancelled.
    pub fn give_up(self) {
        self.answer.abort();
    }
}

pub fn migrate(table: &WireTable, forced: bool) -> Message {
    Message::MigrateTable(write::MessageMigrateTable {
        table: table.bytes(),
        migrate_force: forced,
    })
}

pub fn insert(record: Bytes) -> Message {
    Message::Insert(write::MessageInsert { record })
}
