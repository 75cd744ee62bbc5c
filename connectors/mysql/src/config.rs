//! What the user configures: a URL, or the connection string of CloudQuery's MySQL plugin.

use highwater_core::{Error, Result, Secret};
use mysql_async::{Opts, OptsBuilder};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// The `spec` of a MySQL source.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    /// `mysql://user:password@host:3306/database`, or `user:password@tcp(host:3306)/database`.
    /// `?require_ssl=true` and the other parameters of the URL form are those of `mysql_async`.
    #[schemars(with = "String")]
    connection_string: Secret,
}

impl Spec {
    /// Parses a `spec`.
    ///
    /// # Errors
    /// `Config`, with the `key` that is wrong.
    pub(crate) fn parse(spec: Value) -> Result<Self> {
        let unknown = spec
            .as_object()
            .and_then(|spec| spec.keys().find(|key| *key != "connection_string").cloned());
        // The cause could quote the connection string.
        serde_json::from_value(spec).map_err(|_| {
            Error::config("The spec of a MySQL source is wrong")
                .context("key", unknown.unwrap_or_else(|| "connection_string".to_owned()))
                .hint("connection_string: mysql://user:password@localhost:3306/shop")
        })
    }

    /// What the driver connects with.
    ///
    /// # Errors
    /// `Config` when the string is neither form, or names no database.
    pub(crate) fn options(&self) -> Result<Opts> {
        options(self.connection_string.expose())
            .map_err(|error| error.context("key", "connection_string"))
    }
}

/// # Errors
/// As [`Spec::options`].
pub(crate) fn options(text: &str) -> Result<Opts> {
    let parsed = match text.starts_with("mysql://") {
        true => Opts::from_url(text).ok(),
        false => from_data_source_name(text)?,
    };
    let wrong = |what: &str| {
        Error::config(what.to_owned())
            .hint("connection_string: mysql://user:password@localhost:3306/shop")
    };
    let options = parsed.ok_or_else(|| {
        wrong("The connection string is neither a URL nor `user:password@tcp(host:port)/database`")
    })?;
    if options.db_name().is_none_or(str::is_empty) {
        return Err(wrong("The connection string names no database"));
    }
    Ok(options)
}

/// `[user[:password]@][protocol[(address)]]/database[?parameters]`, as Go's driver has it. The
/// password may hold `@` and `/`. `None` where it has another form.
///
/// # Errors
/// As [`is_encrypted`].
fn from_data_source_name(text: &str) -> Result<Option<Opts>> {
    let Some((options, parameters)) = without_parameters(text) else { return Ok(None) };
    let tls = is_encrypted(parameters)?.then(mysql_async::SslOpts::default);
    Ok(Some(options.ssl_opts(tls).into()))
}

/// What the parameter `tls` asks for.
///
/// # Errors
/// `Config` for everything but yes and no: what Go's driver does for other values is not
/// available, and a connection must not be plain where encryption was asked for.
fn is_encrypted(parameters: &str) -> Result<bool> {
    let parameters = parameters.split('&').map(|p| p.split_once('=').unwrap_or((p, "")));
    let mut is_encrypted = false;
    for (_, value) in parameters.filter(|(name, _)| name.eq_ignore_ascii_case("tls")) {
        is_encrypted = match value {
            "true" | "True" | "TRUE" | "1" => true,
            "false" | "False" | "FALSE" | "0" => false,
            _ => {
                let wrong = "`tls` in the connection string is neither `true` nor `false`";
                return Err(Error::config(wrong).hint(
                    "use `tls=true`, or for a certificate that cannot be checked \
                     mysql://user:password@host:3306/database?require_ssl=true&verify_ca=false&verify_identity=false",
                ));
            }
        };
    }
    Ok(is_encrypted)
}

fn without_parameters(text: &str) -> Option<(OptsBuilder, &str)> {
    let (front, database) = text.rsplit_once('/')?;
    let (database, parameters) = database.split_once('?').unwrap_or((database, ""));
    let (login, place) = front.rsplit_once('@').unwrap_or(("", front));
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (login, None),
    };
    let mut options = OptsBuilder::default()
        .user((!user.is_empty()).then_some(user))
        .pass(password)
        .db_name(Some(database));
    options = match place.split_once('(') {
        Some(("unix", path)) => options.socket(Some(path.strip_suffix(')')?)),
        Some(("tcp", address)) => {
            let address = address.strip_suffix(')')?;
            let (host, port) = match address.rsplit_once(':') {
                Some((host, port)) => (host, port.parse().ok()?),
                None => (address, 3306),
            };
            options.ip_or_hostname(host).tcp_port(port)
        }
        Some(_) => return None,
        None if place.is_empty() || place == "tcp" => options,
        None => return None,
    };
    Some((options, parameters))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_understood() {
        for text in [
            "mysql://me:p%40ss@db:3307/shop",
            "me:p@ss@tcp(db:3307)/shop",
            "me:p@ss@tcp(db:3307)/shop?parseTime=true",
        ] {
            let options = options(text).unwrap();
            assert_eq!(options.user(), Some("me"), "{text}");
            assert_eq!(options.pass(), Some("p@ss"), "{text}");
            assert_eq!(options.ip_or_hostname(), "db", "{text}");
            assert_eq!((options.tcp_port(), options.db_name()), (3307, Some("shop")), "{text}");
        }
        let socket = options("me@unix(/run/m.sock)/shop").unwrap();
        assert_eq!(socket.socket(), Some("/run/m.sock"));
        assert!(options("me@tcp(db)/shop?tls=true").unwrap().ssl_opts().is_some());
    }

    #[test]
    fn a_connection_is_plain_only_where_that_is_asked_for() {
        let parse = |tls: &str| options(&format!("me:secret@tcp(db)/shop?parseTime=true&{tls}"));
        for (tls, is_encrypted) in
            [("tls=true", true), ("tls=1", true), ("tls=false", false), ("loc=UTC", false)]
        {
            assert_eq!(parse(tls).unwrap().ssl_opts().is_some(), is_encrypted, "{tls}");
        }
        for tls in ["tls=skip-verify", "tls=preferred", "tls=custom", "tls=yes", "tls=", "TLS=x"] {
            let error = parse(tls).unwrap_err();
            assert!(error.full_message().contains("`tls`"), "{tls}");
            assert!(!error.full_message().contains("secret"), "{tls}");
        }
    }

    #[test]
    fn what_is_neither_is_refused_without_showing_it() {
        for text in
            ["nonsense", "mysql://me:secret@db", "me:secret@pipe(x)/shop", "me:secret@tcp(db/shop"]
        {
            let error = options(text).unwrap_err();
            assert!(!error.full_message().contains("secret"), "{text}");
        }
    }
}
