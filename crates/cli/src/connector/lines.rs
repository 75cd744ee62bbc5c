//! The lines that a connector prints: one message each, whole, in the order in which they are said.

use std::collections::BTreeMap;

use async_trait::async_trait;
use highwater_airbyte::inlet::Sender;
use highwater_core::{Error, ErrorKind, Instant, Result, TableName};
use serde_json::{Value, json};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;

/// Where messages go.
pub(super) struct Lines(Mutex<Inner>);

struct Inner {
    out: Box<dyn AsyncWrite + Send + Unpin>,
    /// Records of each stream since its last state.
    records: BTreeMap<TableName, u64>,
}

impl Lines {
    /// To whoever has started us.
    pub(super) fn stdout() -> Self {
        let inner = Inner { out: Box::new(tokio::io::stdout()), records: BTreeMap::new() };
        Self(Mutex::new(inner))
    }

    /// Prints a message.
    ///
    /// # Errors
    /// `Interrupted` when nobody reads any more.
    pub(super) async fn say(&self, message: &Value) -> Result<()> {
        self.0.lock().await.print(message).await
    }

    /// Prints `rows` lines of records of a stream.
    ///
    /// # Errors
    /// As [`Self::say`].
    pub(super) async fn records(&self, table: &TableName, rows: u64, lines: &[u8]) -> Result<()> {
        let mut inner = self.0.lock().await;
        inner.out.write_all(lines).await.map_err(|e| nobody_reads(&e))?;
        *inner.records.entry(table.clone()).or_default() += rows;
        Ok(())
    }

    /// Prints the state of a stream, with the number of its records since the last one.
    ///
    /// # Errors
    /// As [`Self::say`].
    pub(super) async fn state(&self, table: &TableName, state: &Value) -> Result<()> {
        let mut inner = self.0.lock().await;
        let records = inner.records.remove(table).unwrap_or_default();
        #[allow(clippy::cast_precision_loss)] // The protocol has it so.
        let count = records as f64;
        let message = json!({"type": "STATE", "state": {
            "type": "STREAM",
            "stream": {"stream_descriptor": descriptor(table), "stream_state": state},
            "sourceStats": {"recordCount": count},
        }});
        inner.print(&message).await
    }

    /// Prints what has become of a stream.
    ///
    /// # Errors
    /// As [`Self::say`].
    pub(super) async fn status(&self, table: &TableName, status: &str) -> Result<()> {
        let trace = json!({
            "type": "STREAM_STATUS",
            "emitted_at": now_ms(),
            "stream_status": {"stream_descriptor": descriptor(table), "status": status},
        });
        self.say(&json!({"type": "TRACE", "trace": trace})).await
    }

    /// Prints what went wrong, with a stream or with all.
    ///
    /// # Errors
    /// As [`Self::say`].
    pub(super) async fn error(
        &self,
        text: &str,
        failure_type: &str,
        table: Option<&TableName>,
    ) -> Result<()> {
        let mut error = json!({"message": text, "failure_type": failure_type});
        if let Some(table) = table {
            error["stream_descriptor"] = descriptor(table);
        }
        let trace = json!({"type": "ERROR", "emitted_at": now_ms(), "error": error});
        self.say(&json!({"type": "TRACE", "trace": trace})).await
    }
}

/// States that come back to whoever sent them.
#[async_trait]
impl Sender for Lines {
    async fn durable(&self, line: &str) -> Result<()> {
        self.0.lock().await.print_line(line).await
    }
}

impl Inner {
    async fn print_line(&mut self, line: &str) -> Result<()> {
        self.out.write_all(format!("{line}\n").as_bytes()).await.map_err(|e| nobody_reads(&e))?;
        self.out.flush().await.map_err(|e| nobody_reads(&e))
    }

    async fn print(&mut self, message: &Value) -> Result<()> {
        self.print_line(&message.to_string()).await
    }
}

/// How the protocol calls a kind of error.
pub(super) fn failure_type(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Config | ErrorKind::Schema | ErrorKind::Unsupported => "config_error",
        ErrorKind::Transient | ErrorKind::Fenced | ErrorKind::Interrupted => "transient_error",
        ErrorKind::Data | ErrorKind::Internal => "system_error",
    }
}

/// How the protocol names a stream.
pub(super) fn descriptor(table: &TableName) -> Value {
    match &table.namespace {
        Some(namespace) => json!({"name": table.name, "namespace": namespace}),
        None => json!({"name": table.name}),
    }
}

fn now_ms() -> i64 {
    Instant::now().0 / 1000
}

fn nobody_reads(error: &std::io::Error) -> Error {
    Error::interrupted("Nobody reads what the connector prints").caused_by(error.to_string())
}
