//! Connection strings as libpq reads them: the URL form and the `key=value` form, then the `PG*`
//! environment variables, then the password file, then the defaults.
//!
//! `tokio_postgres::Config` parses less than libpq does (no `verify-full`, no password file, no
//! environment), so the text is parsed here and the configuration is built from the result.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use highwater_core::{Error, Result};
use tokio_postgres::Config;
use tokio_postgres::config::{
    ChannelBinding, LoadBalanceHosts, SslMode, SslNegotiation, TargetSessionAttrs,
};

use crate::passfile;
use crate::tls::{TlsLevel, TlsSettings};

/// Reads one environment variable; a parameter so that tests need not change the process.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Everything that is needed to connect.
#[derive(Clone)]
pub(crate) struct Target {
    /// Host, user, password and session parameters.
    pub config: Config,
    /// How the connection is encrypted and the server checked.
    pub tls: TlsSettings,
    /// Where and as whom, without the password: for error messages.
    pub place: Place,
    /// Whether rows are written there: a role then lacks other rights than to read.
    pub writes: bool,
}

/// Where a connection goes, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub host: String,
    pub port: String,
    pub database: String,
    pub user: String,
}

impl Place {
    /// Adds the four pairs to an error.
    pub(crate) fn describe(&self, error: Error) -> Error {
        error
            .context("host", &self.host)
            .context("port", &self.port)
            .context("database", &self.database)
            .context("user", &self.user)
    }
}

/// Environment variables and the parameters that they are defaults of.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGDATABASE", "dbname"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGPASSFILE", "passfile"),
    ("PGAPPNAME", "application_name"),
    ("PGOPTIONS", "options"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGLOADBALANCEHOSTS", "load_balance_hosts"),
    ("PGSERVICE", "service"),
];

/// Parameters of libpq or of CloudQuery's driver that change nothing here.
const WITHOUT_EFFECT: &[&str] = &[
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "krbsrvname",
    "pool_health_check_period",
    "pool_max_conn_idle_time",
    "pool_max_conn_lifetime",
    "pool_max_conn_lifetime_jitter",
    "pool_max_conns",
    "pool_min_conns",
    "default_query_exec_mode",
    "description_cache_capacity",
    "statement_cache_capacity",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcertmode",
    "sslcompression",
    "sslsni",
];

/// Parameters of libpq that would change who is trusted or what is connected to: refused rather
/// than ignored.
const UNSUPPORTED: &[&str] = &[
    "service",
    "servicefile",
    "replication",
    "requirepeer",
    "require_auth",
    "sslcrl",
    "sslcrldir",
    "sslpassword",
];

/// Parses `text` and fills in what it leaves open.
///
/// # Errors
/// `Config` for text that libpq would refuse, and for files that it names and that cannot be
/// read. The text itself is never part of an error: it may hold a password.
pub(crate) fn resolve(text: &str, env: Env<'_>) -> Result<Target> {
    let mut given = parse(text)?;
    for (variable, key) in ENVIRONMENT {
        if let Some(value) = env(variable).filter(|v| !v.is_empty()) {
            given.entry((*key).to_owned()).or_insert(value);
        }
    }
    given.retain(|_, value| !value.is_empty());
    if let Some(key) = UNSUPPORTED.iter().find(|key| given.contains_key(**key)) {
        return Err(key_error(key, "is not supported"));
    }
    let place = place_of(&mut given, env);
    if !given.contains_key("password")
        && let Some(password) = passfile::password(given.get("passfile"), &place, env)
    {
        given.insert("password".to_owned(), password);
    }
    let tls = tls_settings(&given, &place, env)?;
    let config = build(&given, &tls)?;
    Ok(Target { config, tls, place, writes: false })
}

/// The pairs of a URL or of `key=value` text.
///
/// # Errors
/// `Config` when the text has neither form.
pub(crate) fn parse(text: &str) -> Result<BTreeMap<String, String>> {
    for scheme in ["postgres://", "postgresql://"] {
        if let Some(rest) = text.strip_prefix(scheme) {
            return parse_url(rest);
        }
    }
    parse_pairs(text)
}

fn malformed(what: &str) -> Error {
    Error::config(format!("The connection string cannot be read: {what}"))
        .context("key", "connection_string")
        .hint("write `postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=prefer`, with special characters of the password percent-encoded")
}

/// What a password looks like that was pasted into a URL as it is.
fn not_encoded(what: &str) -> Error {
    malformed(what).hint(
        "percent-encode special characters of the password (`/` as %2F, `@` as %40, `?` as %3F, \
         `#` as %23, `%` as %25), or give it in PGPASSWORD or ~/.pgpass",
    )
}

fn key_error(key: &str, what: &str) -> Error {
    Error::config(format!("The connection parameter `{key}` {what}"))
        .context("key", "connection_string")
}

fn parse_url(rest: &str) -> Result<BTreeMap<String, String>> {
    let mut pairs = BTreeMap::new();
    let (address, query) = match rest.split_once('?') {
        Some((address, query)) => (address, Some(query)),
        None => (rest, None),
    };
    let (authority, database) = match address.split_once('/') {
        Some((authority, database)) => (authority, database),
        None => (address, ""),
    };
    // Half a password: it would be shown as the name of the database.
    if database.contains('@') {
        return Err(not_encoded("there is an `@` after the `/`"));
    }
    let hosts = match authority.rsplit_once('@') {
        Some((credentials, hosts)) => {
            let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
            pairs.insert("user".to_owned(), decode(user)?);
            pairs.insert("password".to_owned(), decode(password)?);
            hosts
        }
        None => authority,
    };
    if !hosts.is_empty() {
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for host in hosts.split(',') {
            let (name, port) = split_port(host)?;
            if !port.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(not_encoded("the port is not a number"));
            }
            names.push(decode(name)?);
            ports.push(port.to_owned());
        }
        pairs.insert("host".to_owned(), names.join(","));
        if ports.iter().any(|port| !port.is_empty()) {
            pairs.insert("port".to_owned(), ports.join(","));
        }
    }
    pairs.insert("dbname".to_owned(), decode(database)?);
    for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| malformed("a parameter after `?` has no `=`"))?;
        pairs.insert(decode(key)?, decode(value)?);
    }
    if pairs.remove("ssl").is_some_and(|value| value == "true") {
        pairs.entry("sslmode".to_owned()).or_insert_with(|| "require".to_owned());
    }
    Ok(pairs)
}

/// `host:port`, `[::1]:port`, either part may be missing.
fn split_port(host: &str) -> Result<(&str, &str)> {
    if let Some(rest) = host.strip_prefix('[') {
        let (name, port) =
            rest.split_once(']').ok_or_else(|| malformed("`[` of an address is not closed"))?;
        return Ok((name, port.strip_prefix(':').unwrap_or(port)));
    }
    Ok(host.split_once(':').unwrap_or((host, "")))
}

fn decode(text: &str) -> Result<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let byte = text
                .get(at + 1..at + 3)
                .and_then(|hex| u8::from_str_radix(hex, 16).ok())
                .ok_or_else(|| malformed("`%` is not followed by two hexadecimal digits"))?;
            out.push(byte);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).map_err(|_| malformed("it is not UTF-8"))
}

fn parse_pairs(text: &str) -> Result<BTreeMap<String, String>> {
    let mut pairs = BTreeMap::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or_else(|| malformed("`=` is missing"))?;
        let key = key.trim();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(malformed("`=` is missing"));
        }
        let (value, after) = take_value(after.trim_start())?;
        pairs.insert(key.to_owned(), value);
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// One value, quoted with `'` or ended by white space; a backslash keeps the next character.
fn take_value(text: &str) -> Result<(String, &str)> {
    let (quoted, body) = match text.strip_prefix('\'') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let mut value = String::new();
    let mut characters = body.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, next)| next)),
            '\'' if quoted => return Ok((value, &body[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((value, &body[at..])),
            c => value.push(c),
        }
    }
    if quoted { Err(malformed("a quote is not closed")) } else { Ok((value, "")) }
}

/// Decides host, port, user and database as libpq does, and writes them back into `given`.
fn place_of(given: &mut BTreeMap<String, String>, env: Env<'_>) -> Place {
    let port = given.entry("port".to_owned()).or_insert_with(|| "5432".to_owned()).clone();
    if !given.contains_key("host") && !given.contains_key("hostaddr") {
        given.insert("host".to_owned(), default_host(&port));
    }
    let user = given
        .entry("user".to_owned())
        .or_insert_with(|| operating_system_user(env).unwrap_or_else(|| "postgres".to_owned()))
        .clone();
    let database = given.entry("dbname".to_owned()).or_insert_with(|| user.clone()).clone();
    let host = given.get("host").or_else(|| given.get("hostaddr")).cloned().unwrap_or_default();
    Place { host, port, database, user }
}

fn default_host(port: &str) -> String {
    ["/var/run/postgresql", "/tmp"]
        .iter()
        .find(|folder| Path::new(folder).join(format!(".s.PGSQL.{port}")).exists())
        .map_or_else(|| "localhost".to_owned(), |folder| (*folder).to_owned())
}

/// The login name: from `/etc/passwd` by the owner of this process, else from the environment.
fn operating_system_user(env: Env<'_>) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let from_passwd = || {
        let uid = std::fs::metadata("/proc/self").ok()?.uid().to_string();
        let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
        passwd.lines().find_map(|line| {
            let mut parts = line.split(':');
            let name = parts.next()?;
            (parts.nth(1)? == uid).then(|| name.to_owned())
        })
    };
    from_passwd().or_else(|| env("USER")).or_else(|| env("LOGNAME"))
}

fn tls_settings(
    given: &BTreeMap<String, String>,
    place: &Place,
    env: Env<'_>,
) -> Result<TlsSettings> {
    let home = env("HOME").map(|home| Path::new(&home).join(".postgresql"));
    let file = |key: &str, default: &str| match given.get(key) {
        Some(path) => Some(path.into()),
        None => home.as_ref().map(|home| home.join(default)).filter(|path| path.exists()),
    };
    let root = file("sslrootcert", "root.crt");
    let mode = given.get("sslmode").map_or("prefer", String::as_str);
    // As libpq: a root certificate turns `require` into `verify-ca`; `system` means full checks.
    let level =
        match mode {
            "disable" => TlsLevel::Disable,
            "allow" | "prefer" => TlsLevel::Prefer,
            "require" if root.is_some() => TlsLevel::VerifyCa,
            "require" => TlsLevel::Require,
            "verify-ca" => TlsLevel::VerifyCa,
            "verify-full" => TlsLevel::VerifyFull,
            // Not shown: in a password that was not encoded everything after `?` ends up here.
            _ => return Err(wrong_value("sslmode").hint(
                "use one of `disable`, `allow`, `prefer`, `require`, `verify-ca`, `verify-full`",
            )),
        };
    // A socket file needs no encryption, and offers none.
    let level = if place.host.starts_with('/') { TlsLevel::Disable } else { level };
    Ok(TlsSettings {
        level,
        root,
        certificate: file("sslcert", "postgresql.crt"),
        key: file("sslkey", "postgresql.key"),
    })
}

fn build(given: &BTreeMap<String, String>, tls: &TlsSettings) -> Result<Config> {
    let mut config = Config::new();
    config.application_name("highwater").connect_timeout(Duration::from_secs(30));
    config.keepalives_idle(Duration::from_secs(60));
    config.ssl_mode(match tls.level {
        TlsLevel::Disable => SslMode::Disable,
        TlsLevel::Prefer => SslMode::Prefer,
        TlsLevel::Require | TlsLevel::VerifyCa | TlsLevel::VerifyFull => SslMode::Require,
    });
    let mut options = given.get("options").cloned().unwrap_or_default();
    for (key, value) in given {
        apply(&mut config, &mut options, key, value)?;
    }
    if !options.is_empty() {
        config.options(options);
    }
    Ok(config)
}

fn wrong_value(key: &str) -> Error {
    key_error(key, "has a value that cannot be used")
}

/// Applies one parameter: where and as whom; how long; how; and everything else.
fn apply(config: &mut Config, options: &mut String, key: &str, value: &str) -> Result<()> {
    let wrong = || wrong_value(key);
    match key {
        "host" => value.split(',').for_each(|host| {
            if host.starts_with('/') {
                config.host_path(host);
            } else {
                config.host(host);
            }
        }),
        "hostaddr" => {
            for address in value.split(',') {
                config.hostaddr(address.parse().map_err(|_| wrong())?);
            }
        }
        "port" => {
            for port in value.split(',') {
                let port = if port.is_empty() { "5432" } else { port };
                config.port(port.parse().map_err(|_| wrong())?);
            }
        }
        "user" => drop_ref(config.user(value)),
        "password" => drop_ref(config.password(value)),
        "dbname" => drop_ref(config.dbname(value)),
        "application_name" => drop_ref(config.application_name(value)),
        "options" | "passfile" | "sslmode" | "sslrootcert" | "sslcert" | "sslkey" => {}
        "tcp_user_timeout" | "connect_timeout" => apply_time(config, key, value)?,
        key if key.starts_with("keepalives") => apply_time(config, key, value)?,
        "target_session_attrs" | "channel_binding" | "load_balance_hosts" | "sslnegotiation" => {
            apply_choice(config, key, value)?;
        }
        key if WITHOUT_EFFECT.contains(&key) => {}
        // As CloudQuery's driver does: any other key is a session parameter (`search_path`), and
        // the server refuses one that it does not know.
        key => {
            let escaped = value.replace('\\', "\\\\").replace(' ', "\\ ");
            let space = if options.is_empty() { "" } else { " " };
            options.push_str(&format!("{space}-c {key}={escaped}"));
        }
    }
    Ok(())
}

/// The setters return the configuration that they changed.
fn drop_ref(_: &mut Config) {}

fn apply_time(config: &mut Config, key: &str, value: &str) -> Result<()> {
    let number: u32 = value.parse().map_err(|_| wrong_value(key))?;
    let seconds = Duration::from_secs(number.into());
    match key {
        // As libpq: no limit.
        "connect_timeout" if number == 0 => {}
        "connect_timeout" => drop_ref(config.connect_timeout(seconds)),
        "tcp_user_timeout" => {
            drop_ref(config.tcp_user_timeout(Duration::from_millis(number.into())));
        }
        "keepalives" => drop_ref(config.keepalives(number != 0)),
        "keepalives_idle" => drop_ref(config.keepalives_idle(seconds)),
        "keepalives_interval" => drop_ref(config.keepalives_interval(seconds)),
        "keepalives_count" => drop_ref(config.keepalives_retries(number)),
        _ => return Err(key_error(key, "is not known")),
    }
    Ok(())
}

fn apply_choice(config: &mut Config, key: &str, value: &str) -> Result<()> {
    drop_ref(match (key, value) {
        ("target_session_attrs", "any") => config.target_session_attrs(TargetSessionAttrs::Any),
        ("target_session_attrs", "read-write" | "primary") => {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite)
        }
        ("target_session_attrs", "read-only" | "standby") => {
            config.target_session_attrs(TargetSessionAttrs::ReadOnly)
        }
        ("channel_binding", "disable") => config.channel_binding(ChannelBinding::Disable),
        ("channel_binding", "prefer") => config.channel_binding(ChannelBinding::Prefer),
        ("channel_binding", "require") => config.channel_binding(ChannelBinding::Require),
        ("load_balance_hosts", "disable") => config.load_balance_hosts(LoadBalanceHosts::Disable),
        ("load_balance_hosts", "random") => config.load_balance_hosts(LoadBalanceHosts::Random),
        ("sslnegotiation", "postgres") => config.ssl_negotiation(SslNegotiation::Postgres),
        ("sslnegotiation", "direct") => config.ssl_negotiation(SslNegotiation::Direct),
        _ => return Err(wrong_value(key)),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn a_url_is_read_as_libpq_reads_it() {
        let target = resolve(
            "postgresql://me:p%40ss@db.example:6000,[::1]/shop?sslmode=disable&search_path=a%20b",
            &nothing,
        )
        .unwrap();
        assert_eq!(target.place.host, "db.example,::1");
        assert_eq!(target.config.get_password(), Some(&b"p@ss"[..]));
        assert_eq!(target.config.get_ports(), [6000, 5432]);
        assert_eq!(target.config.get_options(), Some("-c search_path=a\\ b"));
        assert_eq!(target.config.get_application_name(), Some("highwater"));
        assert_eq!(target.tls.level, TlsLevel::Disable);
    }

    #[test]
    fn pairs_with_quotes_and_backslashes_are_read() {
        let pairs = parse(r"user = jack password='jack\'s \\ secret' host=localhost").unwrap();
        assert_eq!(pairs["password"], r"jack's \ secret");
        assert_eq!(pairs["user"], "jack");
        assert_eq!(pairs["host"], "localhost");
    }

    #[test]
    fn the_environment_fills_what_the_text_leaves_open() {
        let env = |name: &str| match name {
            "PGHOST" => Some("elsewhere".to_owned()),
            "PGUSER" => Some("someone".to_owned()),
            "PGPASSWORD" => Some("s".to_owned()),
            _ => None,
        };
        let target = resolve("postgres:///shop?user=me", &env).unwrap();
        assert_eq!(
            target.place,
            Place {
                host: "elsewhere".into(),
                port: "5432".into(),
                database: "shop".into(),
                user: "me".into()
            }
        );
        assert_eq!(target.config.get_password(), Some(&b"s"[..]));
    }

    #[test]
    fn an_error_never_shows_the_text() {
        for text in ["user=me password='hunter2", "postgres://me:hunter2%zz@h/d", "hunter2"] {
            let error = resolve(text, &nothing).err().unwrap();
            assert!(!error.full_message().contains("hunter2"), "{error}");
            assert_eq!(error.kind(), highwater_core::ErrorKind::Config);
        }
    }

    #[test]
    fn a_password_that_is_not_encoded_is_not_shown_and_has_a_hint() {
        for text in [
            "postgres://u:SEK/RET@h/db",
            "postgres://u:SEK?RET=1@h/db",
            "postgres://u:SEK/RET@h:5432/db?sslmode=prefer",
            "postgres://u:1/SEKRET@h/db",
        ] {
            let error = resolve(text, &nothing).err().unwrap();
            assert!(error.hint_text().unwrap().contains("%2F"), "{text}");
            let shown = error.full_message();
            assert!(!shown.contains("SEK") && !shown.contains("RET"), "{shown}");
        }
        let error = resolve("postgres://u:p@h/db?sslmode=SEKRET", &nothing).err().unwrap();
        assert!(error.hint_text().unwrap().contains("verify-full"));
        assert!(!error.full_message().contains("SEKRET"), "{error}");
    }

    #[test]
    fn sslmode_is_what_libpq_makes_of_it() {
        let level = |text: &str| resolve(text, &nothing).map(|t| t.tls.level);
        assert_eq!(level("host=h").unwrap(), TlsLevel::Prefer);
        assert_eq!(level("host=h sslmode=require").unwrap(), TlsLevel::Require);
        assert_eq!(level("host=h sslmode=require sslrootcert=/ca").unwrap(), TlsLevel::VerifyCa);
        assert_eq!(level("host=h sslmode=verify-full").unwrap(), TlsLevel::VerifyFull);
        assert_eq!(level("host=/tmp sslmode=require").unwrap(), TlsLevel::Disable);
        assert!(level("host=h sslmode=yes").is_err());
        assert!(level("host=h sslcrl=/x").is_err());
    }
}
