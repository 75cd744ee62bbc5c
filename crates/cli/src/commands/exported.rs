//! States in the forms in which Airbyte hands them out, for `state set`.

use highwater_core::{Error, Result, TableName};
use serde_json::Value;

/// The state of the stream that is `table`, out of what Airbyte's connectors print (`STATE`
/// messages, or a list of their states) or its platform exports; a bare state as it is.
///
/// # Errors
/// `Config` when the table's stream is not in it.
pub(super) fn unwrapped(exported: Value, table: &TableName) -> Result<Value> {
    let mut streams = Vec::new();
    if !collect(&exported, &mut streams) {
        return Ok(exported);
    }
    let found = streams.iter().find(|stream| stream.name == *table);
    match found.and_then(|stream| stream.state) {
        Some(state) => Ok(state.clone()),
        None => {
            let names: Vec<String> = streams.iter().map(|s| s.name.to_string()).collect();
            Err(Error::config("The state is of another stream")
                .context("table", table)
                .context("streams", names.join(", "))
                .hint("name the table whose state it is: `--table …`"))
        }
    }
}

struct Stream<'a> {
    name: TableName,
    state: Option<&'a Value>,
}

/// Whether it is such a form; what it says of which streams.
fn collect<'a>(value: &'a Value, into: &mut Vec<Stream<'a>>) -> bool {
    if let Value::Array(states) = value {
        // All are collected, also behind the first one.
        return states.iter().filter(|state| collect(state, into)).count() > 0;
    }
    let get = |names: [&str; 2]| names.into_iter().find_map(|name| value.get(name));
    if let Some(descriptor) = get(["stream_descriptor", "streamDescriptor"]) {
        let part = |key: &str| descriptor.get(key).and_then(Value::as_str).map(str::to_owned);
        let name =
            TableName { namespace: part("namespace"), name: part("name").unwrap_or_default() };
        let state = get(["stream_state", "streamState"]).filter(|state| !state.is_null());
        into.push(Stream { name, state });
        return true;
    }
    let is = |kind: &str| value.get("type").and_then(Value::as_str) == Some(kind);
    let of_platform = || value.get("streamState").filter(|states| states.is_array());
    match (is("STATE"), is("STREAM"), is("GLOBAL")) {
        (true, _, _) => value.get("state").is_some_and(|state| collect(state, into)),
        (_, true, _) => value.get("stream").is_some_and(|stream| collect(stream, into)),
        // One position of all: what is of a stream alone is not all of it.
        (_, _, true) => value.get("global").is_some(),
        _ => of_platform().is_some_and(|states| collect(states, into)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_state_is_taken_out_of_what_holds_it() {
        let state = json!({"updated_at": 5});
        let stream = json!({"stream_descriptor": {"name": "u"}, "stream_state": state});
        let message = json!({"type": "STREAM", "stream": stream});
        let other = json!({"type": "STREAM", "stream":
            {"stream_descriptor": {"name": "v"}, "stream_state": {"updated_at": 1}}});
        let platform = json!({"streamDescriptor": {"name": "u", "namespace": null},
            "streamState": state});
        let table = TableName::new("u");
        for form in [
            state.clone(),
            message.clone(),
            json!({"type": "STATE", "state": message}),
            json!([other, message]),
            platform.clone(),
            json!([platform]),
            json!({"stateType": "stream", "streamState": [platform]}),
        ] {
            assert_eq!(unwrapped(form.clone(), &table).unwrap(), state, "{form}");
        }
        let namespaced = TableName::in_namespace("a", "u");
        for (form, table) in [
            (&other, &table),
            (&json!([other]), &table),
            (&message, &namespaced),
            (&json!({"type": "GLOBAL", "global": {"shared_state": {}}}), &table),
            (&json!({"streamDescriptor": {"name": "u"}}), &table),
        ] {
            let error = unwrapped(form.clone(), table).unwrap_err();
            assert!(error.hint_text().is_some(), "{form}: {error}");
        }
    }
}
