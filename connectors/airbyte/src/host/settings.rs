//! A connector's settings: read, merged, kept when the connector renews them, and their secrets.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use highwater_core::{Error, Result};
use highwater_process::LogBook;
use serde_json::{Map, Value};

use super::ConnectorSpec;

/// The settings of one connector.
pub(super) struct Settings {
    name: String,
    given: Value,
    file: Option<PathBuf>,
    current: Mutex<Value>,
    warned: AtomicBool,
    book: Arc<LogBook>,
}

/// Without the settings: they hold secrets.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Settings");
        shown.field("name", &self.name).field("file", &self.file).finish_non_exhaustive()
    }
}

impl Settings {
    /// What `spec` gives, and what its file has instead. The user makes that file: a path that
    /// is wrong would be noticed when the old settings are refused, and not before.
    ///
    /// # Errors
    /// `Config` when the file is not there, or no file of settings.
    pub(super) fn read(spec: &ConnectorSpec, book: Arc<LogBook>) -> Result<Self> {
        let given = match &spec.config {
            Value::Null => Value::Object(Map::new()),
            config => config.clone(),
        };
        let mut current = given.clone();
        if let Some(path) = &spec.config_file {
            merge(&mut current, read_file(&spec.name, path)?);
        }
        book.hidden().add(&current);
        for secret in &spec.secrets {
            book.hidden().add_text(secret);
        }
        Ok(Self {
            name: spec.name.clone(),
            given,
            file: spec.config_file.clone(),
            current: Mutex::new(current),
            warned: AtomicBool::new(false),
            book,
        })
    }

    /// The settings as they are now.
    pub(super) fn current(&self) -> Value {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Hides every setting that `schema` calls a secret in what the connector says.
    pub(super) fn hide_by(&self, schema: &Value) {
        let mut secrets = Vec::new();
        find_secrets(schema, &self.current(), &mut secrets);
        for secret in secrets {
            self.book.hidden().add_secret(&secret);
        }
    }

    /// Keeps what the connector says its settings are from now on. Where they cannot be kept, a
    /// warning says so: the sync goes on, and the next one may be refused by the source.
    pub(super) fn keep(&self, new: Value) {
        self.book.hidden().add(&new);
        hide_changed(&self.book, &self.current(), &new);
        let changed = difference(&self.given, &new);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = new;
        match &self.file {
            Some(path) => match write_file(path, &changed) {
                Ok(()) => tracing::info!(
                    connector = self.name,
                    file = %path.display(),
                    "the connector renewed its settings; they are kept"
                ),
                Err(e) => tracing::warn!(
                    connector = self.name,
                    file = %path.display(),
                    "the connector renewed its settings, and they cannot be kept: {e}"
                ),
            },
            None if self.warned.swap(true, Ordering::Relaxed) => {}
            None => tracing::warn!(
                connector = self.name,
                "the connector renewed its settings, and there is no `config_file` to keep them \
                 in: the next sync may be refused"
            ),
        }
    }
}

/// The settings in `new` that are not as `given`: the rest need not be written down.
fn difference(given: &Value, new: &Value) -> Value {
    match new {
        Value::Object(object) => {
            let changed = object.iter().filter(|(key, value)| given.get(key) != Some(value));
            Value::Object(changed.map(|(key, value)| (key.clone(), value.clone())).collect())
        }
        other => other.clone(),
    }
}

/// A setting that a connector changes by itself is a secret, as far as logs go.
fn hide_changed(book: &LogBook, old: &Value, new: &Value) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in new {
                hide_changed(book, old.get(key).unwrap_or(&Value::Null), value);
            }
        }
        (old, new) if old != new => book.hidden().add_secret(new),
        _ => {}
    }
}

/// Top-level settings of `over` win as a whole: half of one way to log in and half of another
/// would be neither.
fn merge(into: &mut Value, over: Value) {
    match (into.as_object_mut(), over) {
        (Some(object), Value::Object(over)) => object.extend(over),
        (_, over) => *into = over,
    }
}

/// The values of `config` that `schema` calls secrets, wherever they are.
fn find_secrets(schema: &Value, config: &Value, found: &mut Vec<Value>) {
    if schema.get("airbyte_secret") == Some(&Value::Bool(true)) && !config.is_null() {
        found.push(config.clone());
        return;
    }
    for choice in ["oneOf", "anyOf", "allOf"] {
        for schema in schema.get(choice).and_then(Value::as_array).into_iter().flatten() {
            find_secrets(schema, config, found);
        }
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    for (key, schema) in properties.into_iter().flatten() {
        if let Some(config) = config.get(key) {
            find_secrets(schema, config, found);
        }
    }
    if let Some(schema) = schema.get("items") {
        for config in config.as_array().into_iter().flatten() {
            find_secrets(schema, config, found);
        }
    }
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "yaml" || e == "yml")
}

fn read_file(name: &str, path: &Path) -> Result<Value> {
    let refused = |message: &str| {
        Error::config(message).context("connector", name).context("config_file", path.display())
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(refused("There is no such file of settings")
                .hint(format!("look at its path, or make it: echo '{{}}' > {}", path.display())));
        }
        Err(e) => {
            return Err(refused("The file of settings cannot be read")
                .hint(format!("chmod 600 {}", path.display()))
                .caused_by(e));
        }
    };
    // The words of the parsers may show a secret, so they are left out.
    let value = if is_yaml(path) {
        serde_saphyr::from_str::<Value>(&text).ok()
    } else {
        serde_json::from_str(&text).ok()
    };
    match value {
        Some(Value::Null) => Ok(Value::Object(Map::new())),
        Some(value @ Value::Object(_)) => Ok(value),
        _ if text.trim().is_empty() => Ok(Value::Object(Map::new())),
        _ => Err(refused("The file of settings holds no settings")
            .hint("It holds the settings of the connector as one object, like `spec`")),
    }
}

/// Replaces the file, or the file that a link leads to, as a whole. Only we may read it.
fn write_file(path: &Path, value: &Value) -> std::io::Result<()> {
    let path = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path))?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut text = if is_yaml(&path) { yaml(value) } else { format!("{value:#}") };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    // Such a file is made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(&path).map_err(|e| e.error)?;
    Ok(())
}

/// YAML in blocks; every scalar is written as JSON writes it, which YAML reads the same.
fn yaml(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

/// As JSON; YAML wants some characters escaped that JSON lets stand.
fn scalar(value: &Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        match c {
            '\u{7f}'..='\u{9f}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out
}

fn block(value: &Value, depth: usize, out: &mut String) {
    let entries: Vec<(String, &Value)> = match value {
        Value::Object(object) if !object.is_empty() => {
            object.iter().map(|(k, v)| (format!("{}:", scalar(&k.as_str().into())), v)).collect()
        }
        Value::Array(items) if !items.is_empty() => {
            items.iter().map(|item| ("-".to_owned(), item)).collect()
        }
        value => {
            out.push_str(&scalar(value));
            out.push('\n');
            return;
        }
    };
    for (start, value) in entries {
        out.push_str(&"  ".repeat(depth));
        out.push_str(&start);
        let nested = match value {
            Value::Object(object) => !object.is_empty(),
            Value::Array(items) => !items.is_empty(),
            _ => false,
        };
        out.push(if nested { '\n' } else { ' ' });
        block(value, depth + 1, out);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn yaml_is_read_back_as_it_was() {
        let value = json!({
            "token": "a: b # c\n\"d\" \u{7f}ü\t", "empty": {}, "none": null, "list": [],
            "nested": {"yes": true, "n": -1.5, "items": [1, "two", {"x": {"y": "no"}}, [["z"]]]},
            "key: with colon": "2024-01-01",
        });
        let text = yaml(&value);
        assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), value, "{text}");
    }

    #[test]
    fn secrets_are_found_by_the_schema() {
        let schema = json!({"properties": {
            "plain": {"type": "string"},
            "pin": {"type": "string", "airbyte_secret": true},
            "login": {"oneOf": [
                {"properties": {"user": {}, "code": {"airbyte_secret": true}}},
                {"properties": {"other": {"airbyte_secret": true}}},
            ]},
            "many": {"items": {"properties": {"hush": {"airbyte_secret": true}}}},
        }});
        let config = json!({"plain": "a", "pin": "b", "login": {"user": "c", "code": "d"},
            "many": [{"hush": "e"}, {"x": "f"}]});
        let mut found = Vec::new();
        find_secrets(&schema, &config, &mut found);
        assert_eq!(found, ["b", "d", "e"]);
    }
}
