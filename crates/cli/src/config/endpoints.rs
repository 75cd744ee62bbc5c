//! The configuration that two URLs or paths on the command line stand for.

use std::path::Path;

use highwater_core::{Connector, Error, Role, WriteMode};
use serde_json::{Map, Value};

use super::driver::Driver;
use super::spec::{DestinationSpec, SourceSpec, TableEntry, TableSettings};
use super::{Config, Section, is_config_file, libpq};
use crate::failure::Result;
use crate::registry;

/// Endings of names by which a path is data and not configuration.
const DATABASE_ENDINGS: [&str; 3] = ["db", "sqlite", "sqlite3"];
const FILE_ENDINGS: [&str; 8] = ["csv", "tsv", "jsonl", "ndjson", "json", "parquet", "pq", "gz"];

/// What the command line says of the tables beside the URLs.
#[derive(Debug, Clone, Default)]
pub struct UrlTables {
    /// The patterns; empty for all tables.
    pub names: Vec<String>,
    /// Patterns of tables that are left out.
    pub skip: Vec<String>,
    /// Settings of every table that is named.
    pub settings: TableSettings,
    /// The name of the sync, where it is not made from the URL.
    pub sync: Option<String>,
}

/// Whether an argument names data (a URL, a database file, data files) and not a configuration.
pub fn is_endpoint(argument: &str) -> bool {
    scheme(argument).is_some()
        || libpq::as_url(argument).is_some()
        || connector_of_path(argument).is_some()
}

/// Whether an argument may hold a password: such a one is never printed.
pub fn may_hold_secret(argument: &str) -> bool {
    argument.contains('@') || argument.to_ascii_lowercase().contains("password")
}

/// Refuses an argument that looks like a connection string with a password, and that is none: it
/// would otherwise be shown as the name of a file.
///
/// # Errors
/// `Config`, without the argument.
pub fn not_mistyped(argument: &str) -> Result<()> {
    if has_raw_password(argument) {
        return Err(Error::config(
            "The password of a URL has characters that mean something there",
        )
        .hint("percent-encode them: `%2F` for `/`, `%40` for `@`, `%3F` for `?`")
        .into());
    }
    let is_place = scheme(argument).is_some() || libpq::as_url(argument).is_some();
    let user = argument.rsplit_once('@').map(|(user, _)| user);
    let is_suspicious = match connector_of_path(argument).is_some() {
        // A new file may have an `@` in its name.
        true => may_hold_secret(argument) && user.is_none_or(|user| user.contains(':')),
        false if is_config_file(Path::new(argument)) => may_hold_secret(argument),
        false => may_hold_secret(argument) || argument.contains(':'),
    };
    if is_place || !is_suspicious || Path::new(argument).exists() {
        return Ok(());
    }
    Err(Error::config(
        "An argument is neither a URL nor a file; it is not shown, because it may hold a password",
    )
    .hint(url_hint())
    .into())
}

/// Whether the `user:password` of a URL ends early because the password has a `/` or `?`.
fn has_raw_password(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return false };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let is_port = |port: &str| port.chars().all(|c| c.is_ascii_digit() || c == ',');
    let port = authority.rsplit_once(':').map(|(_, port)| port);
    path.contains('@')
        && !authority.contains(['@', '['])
        && port.is_some_and(|port| !port.split(',').all(is_port))
}

fn url_hint() -> String {
    let schemes = registry::CONNECTORS.iter().flat_map(|c| c.url_schemes());
    let schemes: Vec<String> = schemes.map(|s| format!("{s}://")).collect();
    format!("URLs begin with one of {}", schemes.join(", "))
}

/// The source and the destination that two URLs or paths name.
///
/// # Errors
/// `Config` when one is nothing that a connector knows.
pub fn config(source: &str, destination: &str, tables: &UrlTables) -> Result<Config> {
    let destination = destination_section(destination)?;
    let mut source = source_section(source, tables)?;
    source.spec.destinations = vec![destination.spec.name.clone()];
    Ok(Config { sources: vec![source], destinations: vec![destination], transformers: Vec::new() })
}

/// The source that a URL or path names, without a destination.
///
/// # Errors
/// `Config` when it is nothing that a connector knows.
pub fn source_config(source: &str, tables: &UrlTables) -> Result<Config> {
    Ok(Config { sources: vec![source_section(source, tables)?], ..Config::default() })
}

fn source_section(url: &str, tables: &UrlTables) -> Result<Section<SourceSpec>> {
    let url = &libpq::as_url(url).unwrap_or_else(|| url.to_owned());
    let (connector, spec) = endpoint(url, Role::Source)?;
    let name = tables.sync.clone().unwrap_or_else(|| sync_name(connector.kind(), url));
    let all = vec!["*".to_owned()];
    let names = if tables.names.is_empty() { &all } else { &tables.names };
    let entry =
        |name: &String| TableEntry(TableSettings { name: name.clone(), ..tables.settings.clone() });
    let spec = SourceSpec {
        name,
        path: connector.kind().to_owned(),
        registry: None,
        version: None,
        docker_registry_auth_token: None,
        tables: names.iter().map(entry).collect(),
        skip_tables: tables.skip.clone(),
        skip_dependent_tables: true,
        destinations: Vec::new(),
        backend_options: None,
        deterministic_cq_id: false,
        otel_endpoint: String::new(),
        otel_endpoint_insecure: false,
        config_file: None,
        discover_every: None,
        spec,
    };
    Ok(Section { spec, driver: Driver::Builtin(connector), origin: None })
}

/// The destination that a URL or path names. Its write mode is `overwrite`: nobody who names a
/// database on the command line expects rows to be deleted in it.
///
/// # Errors
/// `Config` when it is nothing that a connector knows.
pub fn destination_section(url: &str) -> Result<Section<DestinationSpec>> {
    let url = &libpq::as_url(url).unwrap_or_else(|| url.to_owned());
    let (connector, spec) = endpoint(url, Role::Destination)?;
    let stem = stem(url);
    let spec = DestinationSpec {
        name: if stem.is_empty() { connector.kind().to_owned() } else { stem },
        path: connector.kind().to_owned(),
        registry: None,
        version: None,
        docker_registry_auth_token: None,
        write_mode: WriteMode::Overwrite,
        metadata_columns: None,
        migrate_mode: Default::default(),
        pk_mode: Default::default(),
        sync_group_id: String::new(),
        send_sync_summary: false,
        transformers: Vec::new(),
        config_file: None,
        supports_refreshes: None,
        spec,
    };
    Ok(Section { spec, driver: Driver::Builtin(connector), origin: None })
}

fn endpoint(url: &str, role: Role) -> Result<(&'static dyn Connector, Map<String, Value>)> {
    not_mistyped(url)?;
    let connector = match scheme(url) {
        Some(scheme) => registry::by_scheme(scheme),
        None => connector_of_path(url),
    };
    let Some(connector) = connector else {
        let shown = match scheme(url) {
            Some(scheme) if may_hold_secret(url) => format!("{scheme}:***"),
            _ => highwater_core::secret::redact_url(url),
        };
        return Err(Error::config("No connector knows this URL")
            .context("url", shown)
            .hint(url_hint())
            .into());
    };
    match connector.spec_from_url(url, role)? {
        Value::Object(spec) => Ok((connector, spec)),
        _ => Err(Error::internal("A connector made a spec that is no mapping").into()),
    }
}

/// The scheme of a URL: `sqlite` of `sqlite:///shop.db` and of `sqlite:shop.db`.
fn scheme(argument: &str) -> Option<&str> {
    let (scheme, rest) = argument.split_once(':')?;
    let is_scheme = scheme.len() > 1
        && scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    let is_known = registry::by_scheme(scheme).is_some();
    (is_scheme && (is_known || rest.starts_with("//"))).then_some(scheme)
}

fn connector_of_path(path: &str) -> Option<&'static dyn Connector> {
    let as_path = Path::new(path);
    if is_config_file(as_path) {
        return None;
    }
    let ending = as_path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    let ending = ending.as_deref().unwrap_or_default();
    if DATABASE_ENDINGS.contains(&ending) {
        return registry::by_path("sqlite");
    }
    if ending == "duckdb" {
        return registry::by_path("duckdb");
    }
    let is_data_folder = path.ends_with('/') || (as_path.is_dir() && !has_config_files(as_path));
    if FILE_ENDINGS.contains(&ending) || is_data_folder || path.contains('*') {
        return registry::by_path("file");
    }
    None
}

fn has_config_files(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| is_config_file(&entry.path()))
}

/// The name of the system inside the URL: the database, the file or the folder, without ending.
fn stem(url: &str) -> String {
    let without_query = url.split(['?', '#']).next().unwrap_or(url);
    let path = match without_query.split_once("://") {
        // `postgres://host` has no database; its host is a name as good as any.
        Some((_, rest)) => rest.rsplit('@').next().unwrap_or(rest),
        None => without_query.split_once(':').map_or(without_query, |(_, path)| path),
    };
    let words = path.trim_end_matches('/').rsplit('/').find(|p| !p.is_empty() && !p.contains('*'));
    let word = words.unwrap_or_default().trim_start_matches('.');
    let word = word.split(['.', ':']).next().unwrap_or_default();
    word.chars().map(|c| if c.is_alphanumeric() || c == '_' { c } else { '-' }).collect()
}

/// The name of the sync of a URL: the same for every spelling of the same place. Who asks, with
/// which password and over which kind of connection does not count: another user or `sslmode`
/// must not begin from the start.
fn sync_name(kind: &str, url: &str) -> String {
    let canonical = match url.split_once("://").or_else(|| url.split_once(':')) {
        Some((scheme, rest)) if scheme == kind || scheme == "file" => {
            absolute(rest.split('?').next().unwrap_or(rest))
        }
        Some((_, rest)) => server_and_database(rest),
        None => absolute(url),
    };
    let hash = fnv1a(format!("{kind}:{canonical}").as_bytes()) & 0xff_ffff;
    let stem = stem(url);
    let stem = if stem.is_empty() { String::new() } else { format!("-{stem}") };
    format!("{kind}{stem}-{hash:06x}")
}

/// `host:port/database` of what follows `scheme://`, also where the query names them.
fn server_and_database(rest: &str) -> String {
    const PLACES: [&str; 3] = ["host", "port", "dbname"];
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority_end = address.find('/').unwrap_or(address.len());
    let address = match address[..authority_end].rfind('@') {
        Some(at) => &address[at + 1..],
        None => address,
    };
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut places: Vec<_> = pairs.filter(|(key, _)| PLACES.contains(key)).collect();
    places.sort_unstable();
    places.iter().fold(address.to_owned(), |all, (key, value)| format!("{all}&{key}={value}"))
}

/// A path without `.`, `..` and links, as far as it exists.
fn absolute(path: &str) -> String {
    let path = Path::new(path.trim_start_matches("//"));
    let canonical = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path));
    canonical.unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// A hash that is the same in every version and on every machine.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, b| (hash ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_sync_depends_on_the_place_only() {
        let name = |url| sync_name("postgresql", url);
        let plain = name("postgres://me@host:5432/warehouse");
        assert!(plain.starts_with("postgresql-warehouse-"), "{plain}");
        assert_eq!(plain.len(), "postgresql-warehouse-".len() + 6);
        assert_eq!(plain, name("postgres://me:pw@host:5432/warehouse"));
        assert_eq!(plain, name("postgres://me:p@w@host:5432/warehouse"));
        assert_eq!(plain, name("postgres://you@host:5432/warehouse?sslmode=require"));
        assert_ne!(plain, name("postgres://me@other:5432/warehouse"));
        assert_ne!(plain, name("postgres://me@host:5432/warehouse?port=5433"));
        let file = |url| sync_name("sqlite", url);
        assert_eq!(file("shop.db"), file("./shop.db"));
        assert_eq!(file("shop.db"), file("sqlite:shop.db"));
        assert_eq!(file("shop.db"), file("sqlite://shop.db"));
        assert_eq!(file("shop.db"), file("sqlite:shop.db?mode=ro"));
    }

    #[test]
    fn the_stem_of_a_url_is_its_name_for_people() {
        for (url, expected) in [
            ("postgres://me:pw@host/warehouse?sslmode=require", "warehouse"),
            ("postgres://host", "host"),
            ("sqlite:///var/lib/shop.db", "shop"),
            ("./data/orders-2026*.csv", "data"),
            ("out/", "out"),
            ("my file.parquet", "my-file"),
        ] {
            assert_eq!(stem(url), expected, "{url}");
        }
    }

    #[test]
    fn a_path_is_data_or_configuration_by_its_name() {
        assert!(!is_endpoint("sync.yml"));
        assert!(!is_endpoint("folder/sync.yaml"));
        assert!(!is_endpoint("nothing-known"));
        assert!(is_endpoint("mysql://host/db"));
        for name in ["me@home.db", "at 10:30.db", "sync.yml", "nothing-known", "s3://b/x"] {
            assert!(not_mistyped(name).is_ok(), "{name}");
        }
    }
}
