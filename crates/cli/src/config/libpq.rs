//! Connection strings of libpq's second form, `host=db user=me dbname=shop`, as the URL that means
//! the same: everything behind this knows URLs only.

use std::fmt::Write as _;

/// What a connection string may begin with. `path=x.csv` is a file.
const KEYS: [&str; 9] =
    ["host", "hostaddr", "port", "dbname", "user", "password", "passfile", "service", "sslmode"];

/// The URL of `key=value` text; `None` when the text is something else.
pub fn as_url(text: &str) -> Option<String> {
    let (first, _) = text.trim_start().split_once('=')?;
    if !KEYS.contains(&first.trim_end()) {
        return None;
    }
    let mut pairs = pairs(text)?;
    let mut take = |key: &str| {
        let at = pairs.iter().position(|(k, v)| k == key && !v.is_empty())?;
        Some(encoded(&pairs.swap_remove(at).1))
    };
    let mut url = String::from("postgres://");
    let (user, password) = (take("user"), take("password"));
    if user.is_some() || password.is_some() {
        url.push_str(&user.unwrap_or_default());
        if let Some(password) = password {
            let _ = write!(url, ":{password}");
        }
        url.push('@');
    }
    // A list of hosts or the folder of a socket goes where its characters mean nothing.
    let is_plain = |host: &String| !host.contains('%');
    let (host, port) = (take("host"), take("port"));
    let mut query = Vec::new();
    match host {
        Some(host) if is_plain(&host) && port.as_ref().is_none_or(is_plain) => {
            url.push_str(&host);
            if let Some(port) = port {
                let _ = write!(url, ":{port}");
            }
        }
        host => {
            query.extend(host.map(|host| format!("host={host}")));
            query.extend(port.map(|port| format!("port={port}")));
        }
    }
    let _ = write!(url, "/{}", take("dbname").unwrap_or_default());
    query.extend(pairs.iter().map(|(key, value)| format!("{}={}", encoded(key), encoded(value))));
    if !query.is_empty() {
        let _ = write!(url, "?{}", query.join("&"));
    }
    Some(url)
}

/// The pairs, as libpq cuts them: values may stand in `'…'`, and `\` takes the next character as
/// it is. `None` for text that libpq would refuse.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return None;
        }
        let after = after.trim_start();
        let is_quoted = after.starts_with('\'');
        let mut chars = after.char_indices().skip(usize::from(is_quoted));
        let (mut value, mut end, mut is_closed) = (String::new(), after.len(), !is_quoted);
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => value.push(chars.next()?.1),
                '\'' if is_quoted => {
                    (end, is_closed) = (at + 1, true);
                    break;
                }
                c if c.is_whitespace() && !is_quoted => {
                    end = at;
                    break;
                }
                c => value.push(c),
            }
        }
        if !is_closed {
            return None;
        }
        pairs.push((key.to_owned(), value));
        rest = after[end..].trim_start();
    }
    Some(pairs)
}

/// Percent-encoded, as far as a character could mean something in a URL.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_value_text_is_a_url() {
        for (text, url) in [
            ("host=h port=5433 user=me dbname=shop", "postgres://me@h:5433/shop"),
            (r"dbname=shop password='a b\'@/' user = me", "postgres://me:a%20b%27%40%2F@/shop"),
            ("host=/run/pg dbname=x", "postgres:///x?host=%2Frun%2Fpg"),
            ("dbname=x sslmode=require", "postgres:///x?sslmode=require"),
        ] {
            assert_eq!(as_url(text).as_deref(), Some(url), "{text}");
        }
        for other in
            ["sync.yml", "a=b.csv", "year=2026/x.parquet", "host=x 'y", "postgres://h/d?a=b"]
        {
            assert_eq!(as_url(other), None, "{other}");
        }
    }
}
