//! Hints as they can be pasted: engine and connectors know neither the command line nor whether
//! there is a configuration file, so what they say is completed here.

use std::sync::OnceLock;

use crate::args::{Command, PlaceArgs};
use crate::commands::state::Action;
use crate::config::endpoints;

/// What this command is about.
static PLACE: OnceLock<Place> = OnceLock::new();

/// The files or URLs of a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// As they are written in a shell, without passwords.
    words: String,
    /// Whether settings are flags.
    is_urls: bool,
}

/// Keys of a table's entry, and the flags that stand for them.
const FLAGS: [(&str, &str); 6] = [
    ("lookback", "--lookback"),
    ("write_mode", "--write-mode"),
    ("null_cursor", "--null-cursor"),
    ("cursor", "--cursor"),
    ("columns", "--columns"),
    ("primary_key", "--primary-key"),
];

/// Remembers what the command is about.
pub fn remember(command: &Command) {
    if let Command::Refresh(refresh) = command {
        let _ = PLACE.set(Place::new(std::slice::from_ref(&refresh.config), None));
        return;
    }
    let (what, name) = match command {
        Command::Sync(c) => (&c.what.what, &c.what.tables.name),
        Command::Plan(c) => (&c.what.what, &c.what.tables.name),
        Command::Migrate(c) => (&c.what.what, &c.what.tables.name),
        Command::State(c) => match &c.action {
            Action::List { what } | Action::Show { what, .. } => (&what.what, &what.name),
            Action::Set { one, .. } | Action::Reset { one, .. } => (&one.what.what, &one.what.name),
        },
        _ => return,
    };
    let _ = PLACE.set(Place::new(what, name.as_deref()));
}

/// The hint, completed with what the command is about. `table` and `destination` are those of the
/// error; a destination is named where there are several.
pub fn completed(hint: &str, table: Option<&str>, destination: Option<&str>) -> String {
    match PLACE.get() {
        Some(place) => place.completed(hint, table, destination),
        None => hint.to_owned(),
    }
}

/// Files or URLs with the name of the sync, as they are pasted behind a command.
pub fn pasted(what: &PlaceArgs) -> String {
    Place::new(&what.what, what.name.as_deref()).words
}

impl Place {
    fn new(what: &[String], name: Option<&str>) -> Self {
        let is_urls = what.iter().any(|word| endpoints::is_endpoint(word));
        let mut words: Vec<String> = what.iter().map(|word| quoted(&shown(word))).collect();
        words.extend(name.map(|name| format!("--name {}", quoted(name))));
        Self { words: words.join(" "), is_urls }
    }

    fn completed(&self, hint: &str, table: Option<&str>, destination: Option<&str>) -> String {
        const RESET: &str = "highwater state reset";
        let hint = if self.is_urls { with_flags(hint) } else { hint.to_owned() };
        let Some((before, after)) = hint.split_once(RESET) else { return hint };
        if after.trim_start().starts_with(&self.words) {
            return hint;
        }
        let after = after.strip_prefix(" …").unwrap_or(after);
        let mut command = format!("{RESET} {}", self.words);
        if let Some(destination) = destination {
            command.push_str(&format!(" --destination {}", quoted(destination)));
        }
        match table {
            Some(table) if !after.trim_start().starts_with("--table") => {
                command.push_str(&format!(" --table {}", quoted(table)));
            }
            _ => {}
        }
        format!("{before}{command}{after}")
    }
}

/// An argument without its password.
fn shown(word: &str) -> String {
    let url = crate::config::libpq::as_url(word).unwrap_or_else(|| word.to_owned());
    highwater_core::secret::redact_url(&url)
}

/// A word as a shell takes it.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// `cursor: updated_at` at the beginning, or quoted, as `--cursor updated_at`.
fn with_flags(hint: &str) -> String {
    if hint.contains("with URLs") {
        return hint.to_owned();
    }
    let start = hint.find('`').filter(|_| !begins_with_key(hint)).map_or(0, |at| at + 1);
    let (before, rest) = hint.split_at(start);
    let Some((key, flag)) = FLAGS.iter().find(|(key, _)| rest.starts_with(&format!("{key}: ")))
    else {
        return hint.to_owned();
    };
    let rest = &rest[key.len() + 2..];
    let (value, after) = match rest.split_once(']') {
        Some((list, after)) if rest.starts_with('[') => {
            let Some(list) = words_of(list) else { return hint.to_owned() };
            (list, after)
        }
        _ => {
            let end = rest.find([' ', ',', '`', ';']).unwrap_or(rest.len());
            (rest[..end].to_owned(), &rest[end..])
        }
    };
    format!("{before}{flag} {value}{after}")
}

fn begins_with_key(hint: &str) -> bool {
    FLAGS.iter().any(|(key, _)| hint.starts_with(&format!("{key}: ")))
}

/// `[a, b` as `a,b`, and `[{name: c, type: text}` as `c:text`; `None` for `[…`.
fn words_of(list: &str) -> Option<String> {
    let list = list.trim_start_matches('[');
    if list.contains('…') {
        return None;
    }
    match list.strip_prefix("{name: ").and_then(|entry| entry.strip_suffix(", type: text}")) {
        Some(name) => Some(quoted(&format!("{name}:text"))),
        None if list.contains('{') => None,
        None => Some(list.split(',').map(str::trim).collect::<Vec<_>>().join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_in_a_hint_can_be_pasted() {
        let files = Place::new(&["my sync.yml".to_owned()], None);
        for (hint, expected) in [
            ("highwater state reset --table t", "highwater state reset 'my sync.yml' --table t"),
            (
                "do `highwater state reset … --table t`",
                "do `highwater state reset 'my sync.yml' --table t`",
            ),
            (
                "`highwater state reset`; then",
                "`highwater state reset 'my sync.yml' --table t`; then",
            ),
            ("cursor: x", "cursor: x"),
        ] {
            assert_eq!(files.completed(hint, Some("t"), None), expected);
        }
        let urls = ["postgres://me:SEKRET@h/d".to_owned(), "o.db".to_owned()];
        let urls = Place::new(&urls, Some("shop"));
        assert_eq!(
            urls.completed("highwater state reset --table t", None, Some("lake")),
            "highwater state reset 'postgres://me:***@h/d' o.db --name shop --destination lake --table t"
        );
    }

    #[test]
    fn keys_are_flags_with_urls() {
        for (hint, expected) in [
            ("null_cursor: include", "--null-cursor include"),
            (
                "write_mode: overwrite, with a primary key",
                "--write-mode overwrite, with a primary key",
            ),
            ("cursor: a   # or one of: b", "--cursor a   # or one of: b"),
            ("columns: [{name: c, type: text}]   # more", "--columns c:text   # more"),
            (
                "read it as text: `columns: [{name: c, type: text}]`",
                "read it as text: `--columns c:text`",
            ),
            ("leave it out with `columns: […]`", "leave it out with `columns: […]`"),
            ("primary_key: [a, b]", "--primary-key a,b"),
            (
                "write_mode: a (with URLs: --write-mode a)",
                "write_mode: a (with URLs: --write-mode a)",
            ),
        ] {
            assert_eq!(with_flags(hint), expected);
        }
    }
}
