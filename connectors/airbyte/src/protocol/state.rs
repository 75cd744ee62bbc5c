//! States: what a source prints, and what it is given at the next start.

use highwater_core::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::StreamDescriptor;
use super::exact;

/// How far one stream is.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamState {
    /// The stream.
    pub descriptor: StreamDescriptor,
    /// Its state; `None` when it starts over.
    pub state: Option<Value>,
}

/// How far a source is.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// One stream.
    Stream(StreamState),
    /// The whole source, and its streams.
    Global {
        /// What belongs to no stream, such as a position in a log.
        shared: Option<Value>,
        /// The streams.
        streams: Vec<StreamState>,
    },
    /// The whole source, as connectors said it before 2022.
    Legacy(Value),
}

/// How many records stand before a state, since the one before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub struct Stats {
    /// Records that were sent, or written.
    #[serde(rename = "recordCount", default)]
    pub record_count: Option<f64>,
    /// Records that the destination refused.
    #[serde(rename = "rejectedRecordCount", default)]
    pub rejected_record_count: Option<f64>,
}

/// A message of type STATE. Its numbers are kept exactly; see [`input`].
#[derive(Debug, Clone, PartialEq)]
pub struct StateMessage {
    /// How far.
    pub state: State,
    /// What the source counted.
    pub source_stats: Option<Stats>,
    /// What the destination counted.
    pub destination_stats: Option<Stats>,
    /// The number that a host gave it, if it still has one.
    pub id: Option<Value>,
}

#[derive(Deserialize)]
struct RawStream {
    stream_descriptor: StreamDescriptor,
    #[serde(default)]
    stream_state: Option<Value>,
}

#[derive(Deserialize)]
struct RawGlobal {
    #[serde(default)]
    shared_state: Option<Value>,
    #[serde(default)]
    stream_states: Option<Vec<RawStream>>,
}

#[derive(Deserialize)]
struct RawState {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    stream: Option<RawStream>,
    #[serde(default)]
    global: Option<RawGlobal>,
    #[serde(default)]
    data: Option<Value>,
    #[serde(default, rename = "sourceStats")]
    source_stats: Option<Stats>,
    #[serde(default, rename = "destinationStats")]
    destination_stats: Option<Stats>,
    #[serde(default)]
    id: Option<Value>,
}

impl From<RawStream> for StreamState {
    fn from(raw: RawStream) -> Self {
        Self { descriptor: raw.stream_descriptor, state: raw.stream_state }
    }
}

impl StateMessage {
    /// The payload of a STATE message, as [`exact::parse`] gave it.
    ///
    /// # Errors
    /// `Data` when it is not what its type says.
    pub(super) fn from_value(value: Value) -> Result<Self> {
        if !value.is_object() {
            return Err(unreadable());
        }
        let raw: RawState = serde_json::from_value(value).map_err(|_| unreadable())?;
        let state = match (raw.kind.as_deref(), raw.stream, raw.global) {
            (Some("STREAM") | None, Some(stream), _) => State::Stream(stream.into()),
            (Some("GLOBAL") | None, _, Some(global)) => State::Global {
                shared: global.shared_state,
                streams: global
                    .stream_states
                    .unwrap_or_default()
                    .into_iter()
                    .map(StreamState::from)
                    .collect(),
            },
            (Some("LEGACY") | None, None, None) if raw.data.is_some() => {
                State::Legacy(raw.data.unwrap_or_default())
            }
            (kind, ..) => {
                return Err(unreadable().context("type", kind.unwrap_or_default()));
            }
        };
        Ok(Self {
            state,
            source_stats: raw.source_stats,
            destination_stats: raw.destination_stats,
            id: raw.id,
        })
    }
}

fn unreadable() -> Error {
    Error::data("The connector sent a state that is not what the protocol says")
        .hint("Take another version of the connector")
}

/// The file that a source is given with `--state`: states that it printed before, word for word.
///
/// No state at all is an empty list, with which every connector starts over.
pub fn input(states: &[State]) -> String {
    if let [State::Legacy(data)] = states {
        return exact::text(data);
    }
    let stream_value = |stream: &StreamState| {
        let mut object = Map::new();
        let descriptor = serde_json::to_value(&stream.descriptor).unwrap_or_default();
        object.insert("stream_descriptor".to_owned(), descriptor);
        object.insert("stream_state".to_owned(), stream.state.clone().unwrap_or_default());
        Value::Object(object)
    };
    let values = states.iter().map(|state| match state {
        State::Stream(stream) => {
            serde_json::json!({"type": "STREAM", "stream": stream_value(stream)})
        }
        State::Global { shared, streams } => {
            let streams: Vec<Value> = streams.iter().map(stream_value).collect();
            let mut global = Map::new();
            if let Some(shared) = shared {
                global.insert("shared_state".to_owned(), shared.clone());
            }
            global.insert("stream_states".to_owned(), streams.into());
            serde_json::json!({"type": "GLOBAL", "global": global})
        }
        State::Legacy(data) => serde_json::json!({"type": "LEGACY", "data": data}),
    });
    exact::text(&values.collect())
}

/// The STATE message `line`, as a destination says that what came before it is durable: word for
/// word, with the number of records.
///
/// # Errors
/// `Data` for a line that is no STATE message.
pub(crate) fn echo(line: &[u8], records: u64) -> Result<String> {
    let text = std::str::from_utf8(line).map_err(|_| unreadable())?;
    let mut message = exact::parse(text).map_err(|_| unreadable())?;
    let state = message.get_mut("state").and_then(Value::as_object_mut).ok_or_else(unreadable)?;
    let stats = serde_json::json!({"recordCount": records as f64});
    state.insert("destinationStats".to_owned(), stats);
    Ok(exact::text(&message))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(json: &str) -> Result<StateMessage> {
        StateMessage::from_value(exact::parse(json).unwrap())
    }

    #[test]
    fn states_come_back_in_the_exact_form() {
        let stream = r#"{"type":"STREAM","stream":{"stream_descriptor":{"name":"a","namespace":"n"},"stream_state":{"lsn":18446744073709551616,"x":{"b":1,"a":[2.5]}}}}"#;
        let global = r#"{"type":"GLOBAL","global":{"shared_state":{"lsn":99999999999999999999},"stream_states":[{"stream_descriptor":{"name":"a"},"stream_state":null}]}}"#;
        for json in [stream, global] {
            let message = parse(json).unwrap();
            assert_eq!(input(&[message.state]), format!("[{json}]"));
        }
        let legacy = parse(r#"{"data":{"users":{"at":1}},"id":4}"#).unwrap();
        assert_eq!(legacy.id, Some(4.into()));
        assert_eq!(input(&[legacy.state]), r#"{"users":{"at":1}}"#);
        assert_eq!(input(&[]), "[]");
    }

    #[test]
    fn counts_and_types_are_read_leniently() {
        let json = r#"{"stream":{"stream_descriptor":{"name":"a"}},"sourceStats":{"recordCount":2.0},"destinationStats":null}"#;
        let message = parse(json).unwrap();
        assert_eq!(message.source_stats.unwrap().record_count, Some(2.0));
        assert_eq!(message.destination_stats, None);
        assert!(matches!(message.state, State::Stream(StreamState { state: None, .. })));
        for wrong in [r#"{"type":"STREAM"}"#, r#"{"type":"NEW","data":{}}"#, "{}", "[]"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_echo_is_the_line_with_a_count() {
        let line = r#"{"type":"STATE","state":{"type":"STREAM","stream":{"stream_descriptor":{"name":"a"},"stream_state":{"n":18446744073709551616}},"id":7}}"#;
        let echoed: Value = serde_json::from_str(&echo(line.as_bytes(), 3).unwrap()).unwrap();
        assert_eq!(echoed["state"]["destinationStats"], serde_json::json!({"recordCount": 3.0}));
        assert_eq!(echoed["state"]["id"], 7);
        assert!(echo(line.as_bytes(), 3).unwrap().contains("18446744073709551616"));
        assert!(echo(b"{}", 0).is_err() && echo(b"no", 0).is_err());
    }
}
