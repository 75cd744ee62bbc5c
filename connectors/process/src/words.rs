//! What another process says, made fit for our errors and logs.
//!
//! Its text may hold anything: passwords in URLs, control characters, megabytes.

use highwater_core::secret::redact_url;

use crate::hidden::without_named;

/// `text` on one line, without the passwords of URLs and what else is named as a secret, cut at
/// `limit` characters.
pub fn said(text: &str, limit: usize) -> String {
    // Secrets go before the cut: a URL cut before its `@` would not be known as one.
    let text = without_named(text);
    let mut out = String::with_capacity(text.len().min(4 * limit));
    for word in text.split_inclusive(char::is_whitespace) {
        let (bare, space) = match word.char_indices().next_back() {
            Some((at, last)) if last.is_whitespace() => (&word[..at], " "),
            _ => (word, ""),
        };
        out.push_str(&redact_url(bare));
        out.push_str(space);
    }
    let clean: String = out.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let clean = clean.trim();
    match clean.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", &clean[..end]),
        None => clean.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_loses_passwords_and_control_characters_and_is_cut() {
        assert_eq!(
            said("dial \"postgres://me:pw@h/db\":\n\u{1b}[31mrefused\u{0}", 500),
            "dial \"postgres://me:***@h/db\":  [31mrefused"
        );
        assert_eq!(said("host=a password=pw user=b", 500), "host=a password=*** user=b");
        assert_eq!(said("äöü", 2), "äö…");
        assert_eq!(said("x postgres://me:secret@h/db", 20), "x postgres://me:***@…");
    }
}
