//! One `Write` call: messages go out while the plugin takes them; its answer is what counts.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use highwater_core::{Error, Result};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};

use super::connection::Connection;
use crate::host::Plugin;
use crate::proto::plugin::write;
use crate::proto::plugin::write::request::Message;
use crate::serve::CURSORS_AFTER_ROWS;

/// Messages between us and the connection: each may have some megabytes.
const MESSAGES_IN_FLIGHT: usize = 2;
/// How often a plugin that takes its time is mentioned in the log.
const MENTION: Duration = Duration::from_secs(60);

/// A `Write` call that is open. Dropping it cancels the call; what the plugin has written by then
/// stays written.
pub(super) struct WriteStream {
    plugin: Arc<Plugin>,
    messages: mpsc::Sender<write::Request>,
    answer: Answer,
    /// Whether everything that was sent has left, the end too.
    all_taken: Arc<AtomicBool>,
    errors_before: u64,
}

struct Answer(JoinHandle<Result<write::Response, Status>>);

impl Drop for Answer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Answer {
    async fn wait(&mut self) -> Result<Result<write::Response, Status>> {
        (&mut self.0)
            .await
            .map_err(|e| Error::internal("A task of the destination ended").caused_by(e))
    }
}

impl WriteStream {
    /// Opens a call.
    ///
    /// # Errors
    /// What the start of the plugin says.
    pub(super) async fn open(connection: &Connection) -> Result<Self> {
        let plugin = connection.ready().await?;
        let (messages, receiver) = mpsc::channel(MESSAGES_IN_FLIGHT);
        let all_taken = Arc::new(AtomicBool::new(false));
        let requests = Requests { receiver, all_taken: Arc::clone(&all_taken) };
        let errors_before = plugin.logs_now().await.0.errors;
        let mut client = plugin.client();
        let mut request = Request::new(requests);
        // Promised by whoever opens a call: cursors go out when their rows were answered for.
        let (header, value) = CURSORS_AFTER_ROWS;
        request.metadata_mut().insert(header, MetadataValue::from_static(value));
        let answer = tokio::spawn(async move { Ok(client.write(request).await?.into_inner()) });
        Ok(Self { plugin, messages, answer: Answer(answer), all_taken, errors_before })
    }

    /// Makes or alters a table.
    pub(super) async fn migrate(&mut self, table: Bytes, migrate_force: bool) -> Result<()> {
        self.send(Message::MigrateTable(write::MessageMigrateTable { table, migrate_force })).await
    }

    /// Sends a message; waits while the plugin is behind.
    ///
    /// # Errors
    /// What the plugin answered, if it has ended the call.
    pub(super) async fn send(&mut self, message: Message) -> Result<()> {
        let request = write::Request { message: Some(message) };
        if self.messages.send(request).await.is_ok() {
            return Ok(());
        }
        // That it takes no more says nothing; its answer says why.
        match self.answer.wait().await? {
            Ok(answer) => Err(refusal(&self.plugin, &answer).unwrap_or_else(|| self.too_early())),
            Err(status) => Err(self.plugin.explain(status)),
        }
    }

    /// Says that this was all, and waits for the answer. On return the plugin has promised that
    /// everything is written, and has logged no error meanwhile.
    ///
    /// # Errors
    /// What the plugin answered; `Data` when it answered that all is well and its log says
    /// otherwise. CloudQuery's own writer in batches drops a batch that it cannot write, logs it
    /// and answers that all is well.
    pub(super) async fn close(self) -> Result<()> {
        let Self { plugin, messages, mut answer, all_taken, errors_before } = self;
        drop(messages);
        let mut waited_seconds = 0;
        let answer = loop {
            if let Ok(answer) = timeout(MENTION, answer.wait()).await {
                break answer?.map_err(|status| plugin.explain(status))?;
            }
            waited_seconds += MENTION.as_secs();
            tracing::warn!(plugin = plugin.name(), waited_seconds, "The plugin is still writing");
        };
        if let Some(error) = refusal(&plugin, &answer) {
            return Err(error);
        }
        if !all_taken.load(Ordering::Acquire) {
            return Err(too_early(&plugin));
        }
        let (counts, last) = plugin.logs_now().await;
        match counts.errors.saturating_sub(errors_before) {
            0 => Ok(()),
            errors => Err(swallowed(&plugin, errors, last)),
        }
    }

    fn too_early(&self) -> Error {
        too_early(&self.plugin)
    }
}

fn too_early(plugin: &Plugin) -> Error {
    Error::data("The plugin answered that all is written before it had taken all rows")
        .context("plugin", plugin.name())
}

fn swallowed(plugin: &Plugin, errors: u64, last: Option<String>) -> Error {
    let times = if errors == 1 { "an error".to_owned() } else { format!("{errors} errors") };
    Error::data(format!(
        "The plugin answered that all is written, but logged {times} meanwhile: {}",
        last.unwrap_or_default()
    ))
    .context("plugin", plugin.name())
    .hint("Look at the plugin's own log lines: rows that it could not write are missing there")
}

/// What the answer itself complains of.
fn refusal(plugin: &Plugin, answer: &write::Response) -> Option<Error> {
    let error = if !answer.failed_tables.is_empty() {
        let tables = plugin.said(&answer.failed_tables.join(", "), 500);
        Error::data("The plugin could not write rows of some tables").context("tables", tables)
    } else if !answer.flush_error.is_empty() {
        let words = plugin.said(&answer.flush_error, 500);
        Error::data(format!("The plugin could not write all rows: {words}"))
    } else {
        return None;
    };
    Some(error.context("plugin", plugin.name()))
}

/// The messages on their way out.
struct Requests {
    receiver: mpsc::Receiver<write::Request>,
    all_taken: Arc<AtomicBool>,
}

impl Stream for Requests {
    type Item = write::Request;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.receiver.poll_recv(context);
        if let Poll::Ready(None) = next {
            self.all_taken.store(true, Ordering::Release);
        }
        next
    }
}
