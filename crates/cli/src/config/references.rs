//! `@@plugins.NAME.connection`: how a source's settings name a destination.

use serde_json::Value;

/// What stands before a name.
const PREFIX: &str = "@@plugins.";

/// A reference, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The dotted path of the text that it is in.
    pub path: String,
    /// The name that it names.
    pub name: String,
    /// What it wants of it; `connection` is all there is.
    pub property: String,
}

/// All references in the texts of a value, which itself is at `path`.
pub fn all(value: &Value, path: &str) -> Vec<Reference> {
    let mut found = Vec::new();
    collect(value, path, &mut found);
    found
}

fn collect(value: &Value, path: &str, found: &mut Vec<Reference>) {
    match value {
        Value::String(text) => {
            found.extend(names(text).into_iter().map(|(name, property)| Reference {
                path: path.to_owned(),
                name: name.to_owned(),
                property: property.to_owned(),
            }));
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                collect(item, &format!("{path}.{i}"), found);
            }
        }
        Value::Object(entries) => {
            for (key, value) in entries {
                collect(value, &format!("{path}.{key}"), found);
            }
        }
        _ => {}
    }
}

/// The references of a text. Their characters are those that CloudQuery takes; what follows the
/// last dot is the property.
fn names(text: &str) -> Vec<(&str, &str)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let behind = text.split(PREFIX).skip(1);
    behind
        .map(|rest| {
            let reference = &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())];
            reference.rsplit_once('.').unwrap_or((reference, ""))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_are_found_wherever_they_stand() {
        let spec = json!({
            "state": { "at": "@@plugins.my-pg.eu.connection" },
            "list": [1, "a@@plugins.x.connection,@@plugins.y.path;"],
            "none": "plugins.z.connection",
        });
        let found: Vec<_> = all(&spec, "spec")
            .into_iter()
            .map(|r| format!("{} {} {}", r.path, r.name, r.property))
            .collect();
        assert_eq!(
            found,
            ["spec.state.at my-pg.eu connection", "spec.list.1 x connection", "spec.list.1 y path",]
        );
    }
}
