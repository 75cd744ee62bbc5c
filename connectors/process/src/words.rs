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

/// What is shown of a text of many lines where nobody looks for a defect: the first line, and the
/// last ones, in which the trace of a program says what it was. `None` where that is all of it.
pub(crate) fn in_short(text: &str) -> Option<String> {
    const LAST: usize = 2;
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let left_out = lines.len().checked_sub(1 + LAST).filter(|n| *n > 1)?;
    let last = lines[1 + left_out..].join("\n");
    Some(format!("{} … {left_out} lines … {last}", lines[0].trim_end()))
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
    }

    #[test]
    fn the_middle_of_many_lines_is_left_out() {
        assert_eq!(in_short("one\ntwo\nthree\n\nfour\n"), None);
        assert_eq!(
            in_short("went wrong\nTraceback:\n  File x\n    f()\n\n  File y\nValueError: no\n")
                .unwrap(),
            "went wrong … 3 lines …   File y\nValueError: no"
        );
    }

    #[test]
    fn secrets_go_before_the_cut() {
        assert_eq!(said("x postgres://me:secret@h/db", 20), "x postgres://me:***@…");
    }
}
