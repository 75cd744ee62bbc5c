//! `@@plugins.NAME.connection` in a source's own settings, replaced by where that plugin listens.

use highwater_core::{Error, Result};
use serde_json::Value;

const START: &str = "@@plugins.";

/// The settings with every placeholder replaced, wherever a text holds one.
///
/// # Errors
/// `Config` for a placeholder that is not in `connections`.
pub(super) fn resolve(spec: &Value, connections: &[(String, String)]) -> Result<Value> {
    Ok(match spec {
        Value::String(text) => Value::String(in_text(text, connections)?),
        Value::Array(items) => {
            let items = items.iter().map(|item| resolve(item, connections));
            Value::Array(items.collect::<Result<_>>()?)
        }
        Value::Object(pairs) => {
            let pairs = pairs
                .iter()
                .map(|(key, value)| Ok((in_text(key, connections)?, resolve(value, connections)?)));
            Value::Object(pairs.collect::<Result<_>>()?)
        }
        other => other.clone(),
    })
}

fn in_text(text: &str, connections: &[(String, String)]) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(START) {
        let (before, from) = rest.split_at(start);
        out.push_str(before);
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let tail = &from["@@".len()..];
        let length = tail.find(|c| !is_part(c)).unwrap_or(tail.len()) + "@@".len();
        let (placeholder, after) = from.split_at(length);
        let known = connections.iter().find(|(name, _)| name == placeholder);
        let (_, connection) = known.ok_or_else(|| unknown(placeholder))?;
        out.push_str(connection);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn unknown(placeholder: &str) -> Error {
    let error = Error::config("A placeholder names no connection of a plugin")
        .context("placeholder", placeholder);
    if placeholder.ends_with(".connection") {
        error.hint("It has to name a destination of this configuration that is a plugin")
    } else {
        error.hint("The only property is `connection`: `@@plugins.NAME.connection`")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn resolved(spec: &Value) -> Result<Value> {
        let connections = [
            ("@@plugins.a.connection".to_owned(), "unix:///a".to_owned()),
            ("@@plugins.a-b.c.connection".to_owned(), "host:1".to_owned()),
        ];
        resolve(spec, &connections)
    }

    #[test]
    fn placeholders_are_replaced_wherever_they_stand() {
        let spec = json!({
            "n": 1, "b": true, "none": null,
            "list": ["@@plugins.a.connection", {"x": "<@@plugins.a-b.c.connection>, @@ and @@plug"}],
        });
        let expected = json!({
            "n": 1, "b": true, "none": null,
            "list": ["unix:///a", {"x": "<host:1>, @@ and @@plug"}],
        });
        assert_eq!(resolved(&spec).unwrap(), expected);
    }

    #[test]
    fn an_unknown_placeholder_is_an_error_that_names_it() {
        let error = resolved(&json!("@@plugins.other.connection")).unwrap_err();
        assert_eq!(error.context_value("placeholder"), Some("@@plugins.other.connection"));
        let error = resolved(&json!({"k": ["@@plugins.a.port"]})).unwrap_err();
        assert!(error.hint_text().unwrap().contains("only property is `connection`"));
    }
}
