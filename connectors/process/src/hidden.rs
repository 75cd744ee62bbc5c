//! Secrets in what a process says: the values of its own settings, and whatever stands after a word
//! that names a secret. Hiding too much is better than too little.

use std::sync::{Mutex, PoisonError};

use highwater_core::secret::Secret;
use serde_json::Value;

const STARS: &str = "***";
/// A shorter value is too likely to be a part of other words.
const SHORTEST: usize = 6;
/// What the name of a secret holds, without case and punctuation.
const NAMES: [&str; 12] = [
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "apikey",
    "connectionstring",
    "authorization",
    "privatekey",
    "credential",
    "accesskey",
];

/// The secrets of one process's settings. It is never shown itself.
#[derive(Debug, Default)]
pub struct Hidden(Mutex<Vec<Secret>>);

impl Hidden {
    /// From now on the secrets in `spec` are hidden too.
    pub fn add(&self, spec: &Value) {
        self.add_found(spec, false);
    }

    /// From now on all of `value` is hidden, whatever it is called.
    pub fn add_secret(&self, value: &Value) {
        self.add_found(value, true);
    }

    /// From now on `secret` is hidden, and what it holds if it is JSON.
    pub fn add_text(&self, secret: &Secret) {
        self.add_secret(&secret.expose().into());
        if let Ok(value @ (Value::Object(_) | Value::Array(_))) =
            serde_json::from_str(secret.expose())
        {
            self.add_secret(&value);
        }
    }

    fn add_found(&self, value: &Value, named: bool) {
        let mut found = Vec::new();
        collect(value, named, &mut found);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        found.retain(|value| value.len() >= SHORTEST);
        known.extend(found.into_iter().map(Secret::new));
        // The longest first: one value may be a part of another.
        known.sort_by_key(|secret| std::cmp::Reverse(secret.expose().len()));
        known.dedup();
    }

    /// `text` with every secret replaced by `***`.
    pub fn mask(&self, text: &str) -> String {
        without_named(&self.without_known(text))
    }

    /// `value` with every secret replaced by `***`, also those that are structured.
    pub fn mask_value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.mask(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.mask_value(item)).collect(),
            Value::Object(object) => {
                let masked = object.into_iter().map(|(key, value)| {
                    let hide = names_a_secret(&key) && !value.is_null() && !value.is_boolean();
                    let value = if hide { STARS.into() } else { self.mask_value(value) };
                    (self.without_known(&key), value)
                });
                Value::Object(masked.collect())
            }
            Value::Number(number) => {
                let text = number.to_string();
                let masked = self.without_known(&text);
                if masked == text { Value::Number(number) } else { masked.into() }
            }
            other => other,
        }
    }

    fn without_known(&self, text: &str) -> String {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = text.to_owned();
        for secret in known.iter().filter(|s| s.expose() != STARS) {
            if text.contains(secret.expose()) {
                text = text.replace(secret.expose(), STARS);
            }
        }
        text
    }
}

/// The secrets below `value`; all of it is one if `named` says so.
fn collect(value: &Value, named: bool, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                collect(value, named || names_a_secret(key), found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, named, found)),
        Value::Number(number) if named => found.push(number.to_string()),
        Value::String(text) => {
            found.extend(password_of_url(text));
            if named {
                variants(text, found);
            }
        }
        _ => {}
    }
}

/// A value as it stands, as JSON writes it, and line by line.
fn variants(text: &str, found: &mut Vec<String>) {
    let text = text.trim();
    found.push(text.to_owned());
    let quoted = Value::from(text).to_string();
    let escaped = quoted.trim_matches('"');
    if escaped != text {
        found.push(escaped.to_owned());
    }
    if text.contains('\n') {
        found.extend(text.lines().map(|line| line.trim().to_owned()));
    }
}

fn password_of_url(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("://")?;
    let (user, _) = rest.rsplit_once('@')?;
    user.split_once(':').map(|(_, password)| password.to_owned())
}

fn names_a_secret(key: &str) -> bool {
    let bare: String = key.chars().filter(char::is_ascii_alphanumeric).collect();
    let bare = bare.to_ascii_lowercase();
    NAMES.iter().any(|name| bare.contains(name))
}

/// Replaces the values of `key=value`, `"key": "value"` and `Authorization: Bearer value` where the
/// key names a secret. Other colons are prose: `invalid token: expected a number`.
pub(crate) fn without_named(text: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_part) {
        let key_end = rest[start..].find(|c| !is_part(c)).map_or(rest.len(), |n| start + n);
        let key = &rest[start..key_end];
        let before = rest[..start].chars().next_back();
        let after = &rest[key_end..];
        let value = if names_a_secret(key) { value_after(key, before, after) } else { None };
        let (from, to) = value.unwrap_or((0, 0));
        out.push_str(&rest[..key_end + from]);
        if to > from {
            out.push_str(STARS);
        }
        rest = &rest[key_end + to..];
    }
    out.push_str(rest);
    out
}

/// Where in `after` the value of `key` begins and ends.
fn value_after(key: &str, before: Option<char>, after: &str) -> Option<(usize, usize)> {
    let closing = after.trim_start_matches('\\');
    let is_quoted = matches!(before, Some('"' | '\'')) && closing.starts_with(['"', '\'']);
    let closing = if is_quoted { &closing[1..] } else { after };
    let sign = closing.trim_start();
    let is_header = key.to_ascii_lowercase().ends_with("authorization");
    let value = match sign.chars().next()? {
        '=' => &sign[1..],
        ':' if is_quoted || is_header => &sign[1..],
        _ => return None,
    };
    let mut value = value.trim_start();
    let bare = value.trim_start_matches('\\');
    let from = |rest: &str| after.len() - rest.len();
    if let Some(quote) = bare.chars().next().filter(|c| matches!(c, '"' | '\'')) {
        let escapes = value.len() - bare.len();
        let inner = &bare[1..];
        return Some((from(inner), from(inner) + end_of_quoted(inner, quote, escapes)));
    }
    if is_header {
        for scheme in ["bearer ", "basic ", "token "] {
            if value.get(..scheme.len()).is_some_and(|v| v.eq_ignore_ascii_case(scheme)) {
                value = value[scheme.len()..].trim_start();
            }
        }
    }
    let ends = |c: char| c.is_whitespace() || matches!(c, ',' | ';' | '&' | '"' | '\'' | '}' | ']');
    let length = value.find(ends).unwrap_or(value.len());
    (length > 0).then(|| (from(value), from(value) + length))
}

/// The length of what stands before the closing `quote`, which has `escapes` backslashes as the
/// opening one; all of it where it was cut off.
fn end_of_quoted(inner: &str, quote: char, escapes: usize) -> usize {
    let mut backslashes = 0;
    for (at, c) in inner.char_indices() {
        match c {
            '\\' => backslashes += 1,
            c if c == quote && backslashes <= escapes => return at - backslashes,
            _ => backslashes = 0,
        }
    }
    inner.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_stands_after_the_name_of_a_secret_is_hidden() {
        for (text, wanted) in [
            ("host=a password=hunter2 user=b", "host=a password=*** user=b"),
            ("PGPASSWORD='a b' x", "PGPASSWORD='***' x"),
            (r#"spec {"password":"a\"b","n":1}"#, r#"spec {"password":"***","n":1}"#),
            (r#"{"api_key": "k", "b": "c"}"#, r#"{"api_key": "***", "b": "c"}"#),
            (r#"{\"apiKey\":\"k\",\"b\":1}"#, r#"{\"apiKey\":\"***\",\"b\":1}"#),
            ("{'client_secret': 'xyz'}", "{'client_secret': '***'}"),
            (r#"{"token":12345}"#, r#"{"token":***}"#),
            ("Authorization: Bearer abc.def, next", "Authorization: Bearer ***, next"),
            ("authorization=Basic abc", "authorization=Basic ***"),
            ("?access_key=AKIA&x=1", "?access_key=***&x=1"),
            (r#"cut off: "private_key":"-----BEG"#, r#"cut off: "private_key":"***"#),
            ("invalid token: expected a number", "invalid token: expected a number"),
            ("the password is wrong", "the password is wrong"),
            ("password=", "password="),
            ("secret", "secret"),
            ("äöü token=ß ü", "äöü token=*** ü"),
        ] {
            assert_eq!(without_named(text), wanted);
        }
    }

    #[test]
    fn the_secrets_of_the_settings_are_hidden_wherever_they_stand() {
        let hidden = Hidden::default();
        hidden.add(&json!({
            "password": "swordfish", "host": "db.example.com", "port": 123_456,
            "nested": [{"apiKey": "swordfish-longer", "pin_token": 987_654, "secret": "short"}],
            "credentials": {"file": "line number one\nline number two"},
            "url": "postgres://me:in-the-url@host/db",
        }));
        for (text, wanted) in [
            ("dial swordfish-longer@db.example.com:123456", "dial ***@db.example.com:123456"),
            ("swordfish", "***"),
            ("short 987654", "short ***"),
            ("line number two", "***"),
            (r"line number one\nline number two", "***"),
            ("no in-the-url here", "no *** here"),
        ] {
            assert_eq!(hidden.mask(text), wanted);
        }
        assert!(!format!("{hidden:?}").contains("swordfish"));
        hidden.add_secret(&json!({"any": ["whatever"]}));
        assert_eq!(hidden.mask("whatever"), "***");
        hidden.add_text(&Secret::new(r#"{"user": "from-a-file"}"#));
        hidden.add_text(&Secret::new("of-a-variable"));
        assert_eq!(hidden.mask("from-a-file, of-a-variable"), "***, ***");
        let fields = json!({"a": {"pass_word": "x", "n": 1}, "b": ["swordfish", 987_654, null],
            "tokens": null, "is_secret": true, "c": "k token=v"});
        assert_eq!(
            hidden.mask_value(fields),
            json!({"a": {"pass_word": "***", "n": 1}, "b": ["***", "***", null],
                "tokens": null, "is_secret": true, "c": "k token=***"})
        );
    }
}
