//! Puts values in the place of `${file:PATH}`, `${time:EXPRESSION}` and `${NAME}`, in that order,
//! in the texts of a parsed document: whatever characters a value has, it stays one value.

use highwater_core::secret::Secret;
use highwater_core::{Error, Instant};
use highwater_engine::selection::closest;

use super::moment;
use super::node::{Node, NodeValue};
use super::text::{DocumentText, Place};
use crate::failure::Result;

/// Where the values come from; a test brings its own.
pub struct Surroundings<'a> {
    /// The value of an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// The names of all environment variables, for suggestions.
    pub variables: Vec<String>,
    /// The time that `now` means.
    pub now: Instant,
}

impl Surroundings<'_> {
    /// This process's environment.
    pub fn of_process() -> Self {
        let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        Self {
            variable: &|name| std::env::var(name).ok(),
            variables: variables.collect(),
            now: Instant::now(),
        }
    }
}

/// Expands every text and key of the tree.
///
/// # Errors
/// `Config` at the place of a variable that is not set, a file that cannot be read or an
/// expression that is no time.
pub fn expand(node: &mut Node, document: &DocumentText, around: &Surroundings<'_>) -> Result<()> {
    let place = node.place;
    match &mut node.value {
        NodeValue::Text(text) => {
            (text.text, text.values) = expand_text(&text.text, place, document, around)?;
        }
        NodeValue::List(items) => {
            for item in items {
                expand(item, document, around)?;
            }
        }
        NodeValue::Map(entries) => {
            for (key, value) in entries {
                key.name = expand_text(&key.name, key.place, document, around)?.0;
                expand(value, document, around)?;
            }
        }
        NodeValue::Null | NodeValue::Bool(_) | NodeValue::Number(_) => {}
    }
    Ok(())
}

type Lookup<'a> = &'a dyn Fn(&str) -> Result<Option<String>, Error>;

/// The text, and the values of variables and files in it.
fn expand_text(
    text: &str,
    place: Place,
    document: &DocumentText,
    around: &Surroundings<'_>,
) -> Result<(String, Vec<Secret>)> {
    if !text.contains("${") {
        return Ok((text.to_owned(), Vec::new()));
    }
    let mut values = Vec::new();
    let file = |inner: &str| inner.strip_prefix("file:").map(read_file).transpose();
    let time = |inner: &str| {
        inner.strip_prefix("time:").map(|e| moment::expression(e, around.now)).transpose()
    };
    let variable = |inner: &str| match (around.variable)(inner) {
        Some(value) => Ok(Some(value)),
        None => Err(unset(inner, around)),
    };
    // A time is no secret.
    let steps: [(Lookup<'_>, bool); 3] = [(&file, true), (&time, false), (&variable, true)];
    let mut text = text.to_owned();
    for (step, is_secret) in steps {
        let noted = |name: &str| {
            let value = step(name)?;
            values.extend(value.iter().filter(|_| is_secret).map(Secret::new));
            Ok(value)
        };
        text = replace(&text, noted)
            .map_err(|(name, error)| document.failure(at(place, &name, document), error))?;
    }
    Ok((text, values))
}

/// Replaces every `${…}` for which `value` has one; the text of the one that failed otherwise.
fn replace(
    text: &str,
    mut value: impl FnMut(&str) -> Result<Option<String>, Error>,
) -> Result<String, (String, Error)> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        // Nothing between the braces is no variable, as in CloudQuery.
        let Some(len) = rest[start + 2..].find('}').filter(|len| *len > 0) else { break };
        let (before, name, after) =
            (&rest[..start], &rest[start + 2..start + 2 + len], &rest[start + 3 + len..]);
        out.push_str(before);
        match value(name).map_err(|error| (name.to_owned(), error))? {
            Some(value) => out.push_str(&value),
            None => out.push_str(&rest[start..start + 3 + len]),
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// The place of `${name}` on the line of its value, or the value's where it cannot be seen there.
fn at(place: Place, name: &str, document: &DocumentText) -> Place {
    let wanted = format!("${{{name}}}");
    let line = document.text.lines().nth(place.line.saturating_sub(1)).unwrap_or_default();
    let skip: usize = line.chars().take(place.column.saturating_sub(1)).map(char::len_utf8).sum();
    match line[skip..].find(&wanted) {
        Some(found) => Place {
            column: line[..skip + found].chars().count() + 1,
            width: wanted.chars().count(),
            ..place
        },
        None => place,
    }
}

fn unset(name: &str, around: &Surroundings<'_>) -> Error {
    let hint = match closest(name, &around.variables) {
        Some(known) => format!("did you mean `${{{known}}}`?"),
        None => format!("export {name}='…'"),
    };
    Error::config(format!("Environment variable `{name}` is not set")).hint(hint)
}

/// A file's content. Line ends at its end are not part of a value, except in JSON and PEM files,
/// which stay as they are.
fn read_file(path: &str) -> Result<String, Error> {
    let content = std::fs::read_to_string(path).map_err(|error| {
        Error::config("The file of a `${file:…}` cannot be read")
            .context("file", path)
            .caused_by(error)
    })?;
    let has_lines = content.contains(['\n', '\r']);
    let is_document = content.trim_start().starts_with("-----BEGIN ")
        || serde_json::from_str::<serde::de::IgnoredAny>(&content).is_ok();
    Ok(if has_lines && is_document { content } else { content.trim_end().to_owned() })
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::super::text::FileText;
    use super::*;

    fn expanded(yaml: &str) -> Result<Node> {
        let document = Rc::new(FileText::new("f.yml".into(), yaml)).documents().remove(0);
        let mut node = Node::parse(&document)?;
        let variable = |name: &str| match name {
            "PW" => Some("a: b # c\n- \"d\" ${PORT}".to_owned()),
            "PORT" => Some("5432".to_owned()),
            _ => None,
        };
        let around = Surroundings {
            variable: &variable,
            variables: vec!["PORT".into()],
            now: Instant(1_000_000_000_000_000),
        };
        expand(&mut node, &document, &around)?;
        Ok(node)
    }

    #[test]
    fn a_value_of_any_characters_stays_one_value() {
        let root = expanded("a: ${PW}\nb: x-${PORT}-${PORT}\nc: ${time:now}\nd: '$PORT ${}'\n");
        let root = root.unwrap();
        assert_eq!(root.get("a").unwrap().as_text(), Some("a: b # c\n- \"d\" ${PORT}"));
        assert_eq!(root.get("b").unwrap().as_text(), Some("x-5432-5432"));
        assert_eq!(root.get("c").unwrap().as_text(), Some("2001-09-09T01:46:40Z"));
        assert_eq!(root.get("d").unwrap().as_text(), Some("$PORT ${}"));
        let values = root.values();
        let values: Vec<&str> = values.iter().map(Secret::expose).collect();
        assert_eq!(values, ["a: b # c\n- \"d\" ${PORT}", "5432", "5432"]);
    }

    #[test]
    fn a_variable_in_a_comment_is_not_looked_up() {
        assert!(expanded("a: 1 # ${NOWHERE}\n").is_ok());
    }

    #[test]
    fn a_missing_variable_is_shown_where_it_stands() {
        let text = expanded("a: 1\nb: x ${PORTS}\n").unwrap_err().to_string();
        assert_eq!(
            text,
            "error: Environment variable `PORTS` is not set\n --> f.yml:2:6\n  |\n2 | b: x ${PORTS}\n  |      ^^^^^^^^\nhint: did you mean `${PORT}`?"
        );
        let text = expanded("b: ${DB_PASSWORD}\n").unwrap_err().to_string();
        assert!(text.ends_with("hint: export DB_PASSWORD='…'"), "{text}");
    }

    #[test]
    fn a_file_gives_its_content_without_the_last_line_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.display().to_string()
        };
        let (plain, json) = (path("plain", "secret\n"), path("json", "{\n  \"a\": 1\n}\n"));
        let root = expanded(&format!("a: ${{file:{plain}}}\nb: ${{file:{json}}}\n")).unwrap();
        assert_eq!(root.get("a").unwrap().as_text(), Some("secret"));
        assert_eq!(root.get("b").unwrap().as_text(), Some("{\n  \"a\": 1\n}\n"));
        let text = expanded("a: ${file:/no/such/file}\n").unwrap_err().to_string();
        assert!(text.contains("(file: /no/such/file)"), "{text}");
    }
}
