//! Values that are never printed.

use std::fmt;

use serde::Deserialize;

/// A password, token or connection string. It can be read from a configuration, but `Debug` and
/// `Display` show `***`, and it does not serialise.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A URL with its password, and the values of query parameters that name a secret, replaced by
/// `***`. Text that is no URL comes back as it is.
pub fn redact_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (address, query) = match rest.split_once('?') {
        Some((address, query)) => (address, Some(query)),
        None => (rest, None),
    };
    // The user part ends at the last `@`: passwords may hold an `@` or a `/` that nobody encoded.
    // Hiding too much is better than too little.
    let address = match address.rfind('@').filter(|_| !address.starts_with('/')) {
        Some(at) => match address[..at].split_once(':') {
            Some((user, _)) => format!("{user}:***{}", &address[at..]),
            None => address.to_owned(),
        },
        None => address.to_owned(),
    };
    let mut out = format!("{scheme}://{address}");
    if let Some(query) = query {
        let pairs: Vec<String> = query.split('&').map(redact_pair).collect();
        out.push('?');
        out.push_str(&pairs.join("&"));
    }
    out
}

fn redact_pair(pair: &str) -> String {
    const SECRET_WORDS: [&str; 5] = ["password", "secret", "token", "key", "sslpassword"];
    match pair.split_once('=') {
        Some((key, _)) if SECRET_WORDS.iter().any(|w| key.to_ascii_lowercase().contains(w)) => {
            format!("{key}=***")
        }
        _ => pair.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?} {secret}"), "*** ***");
    }

    #[test]
    fn a_url_loses_its_password_only() {
        assert_eq!(
            redact_url("postgres://me:p@ss:w@host:5432/db?sslmode=require&sslpassword=x"),
            "postgres://me:***@host:5432/db?sslmode=require&sslpassword=***"
        );
        assert_eq!(redact_url("postgres://me@host/db"), "postgres://me@host/db");
        assert_eq!(redact_url("postgres://me:a/b@host/db"), "postgres://me:***@host/db");
        assert_eq!(redact_url("sqlite:///tmp/a@b:c.db"), "sqlite:///tmp/a@b:c.db");
        assert_eq!(redact_url("./plain.db"), "./plain.db");
    }
}
