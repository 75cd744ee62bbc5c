//! Messages other than RECORD.

use highwater_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::exact;
use super::{Catalog, StateMessage, StreamDescriptor};

/// A line of a connector's output.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// A record; it is for the decoder of records.
    Record,
    /// How far the source is, or what the destination has stored.
    State(StateMessage),
    /// A line of its log.
    Log(Log),
    /// About the run.
    Trace(Trace),
    /// Its settings.
    Spec(SpecMessage),
    /// Whether its settings work.
    ConnectionStatus(ConnectionStatus),
    /// What it offers.
    Catalog(Catalog),
    /// What its host should do.
    Control(Control),
    /// Of a type that is not known here; the type.
    Unknown(String),
}

/// A line of a connector's log.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Log {
    /// FATAL, ERROR, WARN, INFO, DEBUG or TRACE.
    #[serde(default)]
    pub level: String,
    /// The text.
    #[serde(default)]
    pub message: String,
    /// Where in its code.
    #[serde(default)]
    pub stack_trace: Option<String>,
}

/// About the run.
#[derive(Debug, Clone, PartialEq)]
pub enum Trace {
    /// Something failed.
    Error(TraceError),
    /// How much there will be.
    Estimate(Estimate),
    /// Where a stream is.
    StreamStatus(StreamStatus),
    /// For the connector's makers; we tell them nothing.
    Analytics,
    /// Of a type that is not known here; the type.
    Unknown(String),
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureType {
    /// The settings are wrong.
    ConfigError,
    /// It may work the next time.
    TransientError,
    /// The connector's, or nobody knows.
    #[default]
    #[serde(other)]
    SystemError,
}

/// A failure.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct TraceError {
    /// For the user.
    #[serde(default)]
    pub message: String,
    /// For those who know the connector.
    #[serde(default)]
    pub internal_message: Option<String>,
    /// Where in its code.
    #[serde(default)]
    pub stack_trace: Option<String>,
    /// Whose fault it is.
    #[serde(default, deserialize_with = "or_default")]
    pub failure_type: FailureType,
    /// The stream that failed, if it is one.
    #[serde(default)]
    pub stream_descriptor: Option<StreamDescriptor>,
}

/// How much there will be.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Estimate {
    /// The stream.
    pub name: String,
    /// What its name belongs to.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Rows.
    #[serde(default)]
    pub row_estimate: Option<f64>,
    /// Bytes.
    #[serde(default)]
    pub byte_estimate: Option<f64>,
}

/// Where a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Progress {
    /// It has begun.
    Started,
    /// There were records.
    Running,
    /// All of it was read.
    Complete,
    /// It ended, and not all of it was read.
    Incomplete,
    /// Something that is not known here.
    #[serde(other)]
    Unknown,
}

/// Where a stream is.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct StreamStatus {
    /// The stream.
    pub stream_descriptor: StreamDescriptor,
    /// Where.
    pub status: Progress,
}

/// A connector's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpecMessage {
    /// Their JSON Schema.
    #[serde(rename = "connectionSpecification")]
    pub connection_specification: Value,
    /// What a destination can do with records; words of the protocol.
    #[serde(default, deserialize_with = "or_default")]
    pub supported_destination_sync_modes: Vec<String>,
    /// The version of the protocol.
    #[serde(default)]
    pub protocol_version: Option<String>,
    /// Where its documentation is.
    #[serde(default, rename = "documentationUrl")]
    pub documentation_url: Option<String>,
    /// What else it says.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// The outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CheckStatus {
    /// The settings work.
    Succeeded,
    /// They do not.
    #[serde(other)]
    Failed,
}

/// Whether a connector's settings work.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ConnectionStatus {
    /// Whether.
    pub status: CheckStatus,
    /// Why not.
    #[serde(default)]
    pub message: Option<String>,
}

/// What a connector's host should do.
#[derive(Debug, Clone, PartialEq)]
pub enum Control {
    /// Keep these settings from now on.
    ConnectorConfig(Value),
    /// Of a type that is not known here; the type.
    Unknown(String),
}

impl Message {
    /// What a line says; `None` when it is no message but a line of a log.
    ///
    /// # Errors
    /// `Data` when it is a message and not what its type says. The line is not in the error.
    pub fn parse(line: &[u8]) -> Result<Option<Self>> {
        let Ok(text) = std::str::from_utf8(line) else { return Ok(None) };
        if !text.trim_start().starts_with('{') {
            return Ok(None);
        }
        let Ok(Value::Object(mut object)) = serde_json::from_str(text) else { return Ok(None) };
        let Some(Value::String(kind)) = object.remove("type") else { return Ok(None) };
        if kind == "STATE"
            && let Ok(Value::Object(exact)) = exact::parse(text)
        {
            object = exact;
        }
        let mut payload = |key: &str| object.remove(key).unwrap_or_default();
        Ok(Some(match kind.as_str() {
            "RECORD" => Self::Record,
            "STATE" => Self::State(StateMessage::from_value(payload("state"))?),
            "LOG" => Self::Log(read(&kind, payload("log"))?),
            "TRACE" => Self::Trace(trace(payload("trace"))?),
            "SPEC" => Self::Spec(read(&kind, payload("spec"))?),
            "CONNECTION_STATUS" => {
                Self::ConnectionStatus(read(&kind, payload("connectionStatus"))?)
            }
            "CATALOG" => Self::Catalog(read(&kind, payload("catalog"))?),
            "CONTROL" => Self::Control(control(payload("control"))?),
            _ => Self::Unknown(kind),
        }))
    }
}

fn trace(mut value: Value) -> Result<Trace> {
    let mut part = |key: &str| value.get_mut(key).map(Value::take).unwrap_or_default();
    let kind = part("type");
    Ok(match kind.as_str().unwrap_or_default() {
        "ERROR" => Trace::Error(read("TRACE", part("error"))?),
        "ESTIMATE" => Trace::Estimate(read("TRACE", part("estimate"))?),
        "STREAM_STATUS" => Trace::StreamStatus(read("TRACE", part("stream_status"))?),
        "ANALYTICS" => Trace::Analytics,
        other => Trace::Unknown(other.to_owned()),
    })
}

fn control(mut value: Value) -> Result<Control> {
    let mut part = |key: &str| value.get_mut(key).map(Value::take).unwrap_or_default();
    let kind = part("type");
    match kind.as_str().unwrap_or_default() {
        "CONNECTOR_CONFIG" => match part("connectorConfig").get_mut("config").map(Value::take) {
            Some(config @ Value::Object(_)) => Ok(Control::ConnectorConfig(config)),
            _ => Err(unreadable("CONTROL")),
        },
        other => Ok(Control::Unknown(other.to_owned())),
    }
}

/// serde's words may show a value, so they are left out.
fn read<T: for<'de> Deserialize<'de>>(kind: &str, payload: Value) -> Result<T> {
    serde_json::from_value(payload).map_err(|_| unreadable(kind))
}

fn unreadable(kind: &str) -> Error {
    Error::data("The connector sent a message that is not what the protocol says")
        .context("type", kind)
        .hint("Take another version of the connector")
}

fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn parse(line: &str) -> Message {
        Message::parse(line.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn what_is_no_message_is_a_line_of_a_log() {
        for line in ["", "plain", "[1]", "{\"type\":", "{\"a\":1}", "{\"type\":7}", "\"type\""] {
            assert_eq!(Message::parse(line.as_bytes()).unwrap(), None, "{line}");
        }
        assert_eq!(Message::parse(b"\xff{").unwrap(), None);
        assert_eq!(parse(r#"{"type":"NEW","x":1}"#), Message::Unknown("NEW".to_owned()));
    }

    #[test]
    fn traces_are_read_with_unknown_fields() {
        let Message::Trace(Trace::Error(error)) = parse(
            r#"{"type":"TRACE","x":1,"trace":{"type":"ERROR","emitted_at":1.5,"error":{"message":"m","failure_type":"config_error","stream_descriptor":{"name":"s","namespace":null},"new":2}}}"#,
        ) else {
            panic!("no error")
        };
        assert_eq!(error.failure_type, FailureType::ConfigError);
        assert_eq!(error.stream_descriptor.unwrap().to_string(), "s");
        for unknown in ["null", "\"new_error\""] {
            let line = format!(
                r#"{{"type":"TRACE","trace":{{"type":"ERROR","error":{{"message":"m","failure_type":{unknown}}}}}}}"#
            );
            let Message::Trace(Trace::Error(error)) = parse(&line) else { panic!("no error") };
            assert_eq!(error.failure_type, FailureType::SystemError);
        }
        let status = |word: &str| {
            let line = format!(
                r#"{{"type":"TRACE","trace":{{"type":"STREAM_STATUS","stream_status":{{"stream_descriptor":{{"name":"s"}},"status":"{word}"}}}}}}"#
            );
            match parse(&line) {
                Message::Trace(Trace::StreamStatus(status)) => status.status,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(status("INCOMPLETE"), Progress::Incomplete);
        assert_eq!(status("PAUSED"), Progress::Unknown);
        assert_eq!(
            parse(r#"{"type":"TRACE","trace":{"type":"ANALYTICS","analytics":{"type":"x"}}}"#),
            Message::Trace(Trace::Analytics)
        );
    }

    #[test]
    fn a_message_that_contradicts_itself_is_an_error_without_its_values() {
        for line in [
            r#"{"type":"STATE","state":"hunter2"}"#,
            r#"{"type":"CONTROL","control":{"type":"CONNECTOR_CONFIG","connectorConfig":{"config":"hunter2"}}}"#,
            r#"{"type":"CATALOG","catalog":{"streams":"hunter2"}}"#,
            r#"{"type":"SPEC"}"#,
        ] {
            let error = Message::parse(line.as_bytes()).unwrap_err();
            assert!(!error.full_message().contains("hunter2"), "{}", error.full_message());
        }
    }
}
