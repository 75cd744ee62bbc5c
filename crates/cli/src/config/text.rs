//! A configuration file's text: cut into documents, and its lines as they may be shown.

use std::path::Path;
use std::rc::Rc;

use highwater_core::Error;

use crate::failure::{Failure, Result, Spot};

/// A file that was read.
#[derive(Debug)]
pub struct FileText {
    /// Its path, as the user wrote it.
    pub path: String,
    lines: Vec<String>,
}

/// One YAML document of a file.
#[derive(Debug, Clone)]
pub struct DocumentText {
    /// The file that it is in.
    pub file: Rc<FileText>,
    /// The number of file lines before its first line.
    pub lines_before: usize,
    /// Its text.
    pub text: String,
}

/// A place inside a document, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Line of the document.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
    /// How many characters it takes on its line.
    pub width: usize,
}

impl FileText {
    /// Reads a file.
    ///
    /// # Errors
    /// `Config` when it cannot be read or is not UTF-8.
    pub fn read(path: &Path) -> Result<Rc<Self>> {
        let shown = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| unreadable(&shown, error))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            Error::config("The configuration file is not UTF-8 text")
                .context("file", &shown)
                .context("byte", error.utf8_error().valid_up_to())
        })?;
        Ok(Rc::new(Self::new(shown, &text)))
    }

    /// A file of that content.
    pub fn new(path: String, text: &str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self { path, lines: text.lines().map(str::to_owned).collect() }
    }

    /// The documents between lines `---`, those without any content left out.
    pub fn documents(self: &Rc<Self>) -> Vec<DocumentText> {
        let mut documents = Vec::new();
        let mut first = 0;
        let ends = self.lines.iter().enumerate().filter(|(_, l)| l.trim_end() == "---");
        for end in ends.map(|(i, _)| i).chain([self.lines.len()]) {
            let lines = &self.lines[first..end];
            let is_content =
                |l: &String| !matches!(l.trim_start().chars().next(), None | Some('#'));
            if lines.iter().any(is_content) {
                let mut text = lines.join("\n");
                text.push('\n');
                documents.push(DocumentText { file: Rc::clone(self), lines_before: first, text });
            }
            first = end + 1;
        }
        documents
    }
}

fn unreadable(path: &str, error: std::io::Error) -> Failure {
    let (message, hint) = match error.kind() {
        std::io::ErrorKind::NotFound => (
            "The configuration file does not exist",
            Some("`highwater init` writes one".to_owned()),
        ),
        std::io::ErrorKind::PermissionDenied => ("The configuration file may not be read", None),
        _ => ("The configuration file cannot be read", None),
    };
    let failure = Error::config(message).context("file", path);
    match hint {
        Some(hint) => failure.hint(hint).into(),
        None => failure.caused_by(error).into(),
    }
}

impl DocumentText {
    /// The place as it is shown to the user.
    pub fn spot(&self, place: Place) -> Spot {
        let line = self.lines_before + place.line.max(1);
        let text = self.file.lines.get(line - 1).map(|l| without_secrets(l)).unwrap_or_default();
        Spot {
            file: self.file.path.clone(),
            line,
            column: place.column.max(1),
            width: place.width.max(1),
            text,
        }
    }

    /// An error at a place.
    pub fn failure(&self, place: Place, error: Error) -> Failure {
        Failure::at(error, self.spot(place))
    }
}

/// Whether a key's value is a secret, going by its name.
pub fn is_secret_key(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["password", "passphrase", "secret", "token", "credential", "private_key", "api_key"]
        .iter()
        .any(|word| key.contains(word))
}

/// A line of a configuration file without the values that nobody may see: those of keys that
/// name a secret, and the passwords of URLs and connection strings. `${…}` stays.
fn without_secrets(line: &str) -> String {
    let Some((key, value)) = line.split_once(':') else { return mask_connection(line) };
    if value.is_empty() || value.starts_with("//") {
        return mask_connection(line);
    }
    let is_secret = is_secret_key(key) || is_cipher_key(key);
    let value_shown = if is_secret && !value.trim_start().starts_with("${") {
        if value.trim().is_empty() { value.to_owned() } else { " ***".to_owned() }
    } else {
        mask_connection(&mask_flow(value))
    };
    format!("{key}:{value_shown}")
}

/// Whether a key is the `key` of an `encrypt` mapping.
fn is_cipher_key(key: &str) -> bool {
    let key = key.rsplit(['{', ',', '-', '[', ' ']).next().unwrap_or(key);
    key.trim_matches(['"', '\'']) == "key"
}

/// Secrets in mappings that stand on one line: `{column: ssn, key: SECRET}`.
fn mask_flow(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(": ") {
        let name = before.rsplit(['{', ',']).next().unwrap_or(before);
        out.push_str(before);
        out.push_str(": ");
        rest = after;
        let value = after.trim_start();
        if !(is_secret_key(name) || is_cipher_key(name)) || value.starts_with("${") {
            continue;
        }
        let end = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => value[1..].find(quote).map(|at| at + 2),
            _ => value.find([',', '}']),
        };
        out.push_str("***");
        rest = &value[end.unwrap_or(value.len())..];
    }
    out + rest
}

/// Passwords in URLs (`scheme://user:PASSWORD@host`) and in `key=value` texts.
fn mask_connection(text: &str) -> String {
    let mut out = String::new();
    for (i, word) in text.split(' ').enumerate() {
        if i > 0 {
            out.push(' ');
        }
        let quotes: &[char] = &['"', '\''];
        let bare = word.trim_matches(quotes);
        let masked = match bare.split_once('=') {
            Some((key, value)) if is_secret_key(key) && !value.starts_with("${") => {
                format!("{key}=***")
            }
            _ => highwater_core::secret::redact_url(bare),
        };
        out.push_str(&word.replacen(bare, &masked, 1));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_cut_at_lines_of_dashes_and_keep_their_line_numbers() {
        let file = Rc::new(FileText::new("f".into(), "# nothing\n---\na: 1\n---\r\nb: 2\n---\n"));
        let documents = file.documents();
        let found: Vec<_> = documents.iter().map(|d| (d.lines_before, d.text.as_str())).collect();
        assert_eq!(found, [(2, "a: 1\n"), (4, "b: 2\n")]);
    }

    #[test]
    fn a_shown_line_holds_no_secret() {
        for (line, shown) in [
            ("  password: hunter2", "  password: ***"),
            ("  password: ${PW}", "  password: ${PW}"),
            ("  s: \"postgres://me:pw@h/db\"", "  s: \"postgres://me:***@h/db\""),
            ("  s: host=h password=hunter2 port=1", "  s: host=h password=*** port=1"),
            ("  - postgres://me:pw@h/db", "  - postgres://me:***@h/db"),
            ("  name: shop", "  name: shop"),
            ("  key: c0ffee", "  key: ***"),
            ("  - encrypt: {column: a, key: c0ffee}", "  - encrypt: {column: a, key: ***}"),
            ("  - {encrypt: {\"key\": 'c0,}', to: b}}", "  - {encrypt: {\"key\": ***, to: b}}"),
            ("  - encrypt: {key: ${KEY}, column: a}", "  - encrypt: {key: ${KEY}, column: a}"),
            ("  primary_key: [id]", "  primary_key: [id]"),
            ("  spec: {password: c0ffee, port: 1}", "  spec: {password: ***, port: 1}"),
        ] {
            assert_eq!(without_secrets(line), shown);
        }
    }
}
