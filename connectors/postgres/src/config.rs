//! The `spec` of a PostgreSQL source and destination. Parsing, defaults and the JSON Schema come
//! from these types.

use std::num::{NonZeroU8, NonZeroU32, NonZeroU64, NonZeroUsize};

use highwater_core::{Error, Result, Role, Secret};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::conninfo::{self, Target};
use crate::first_load::{Pace, Round};

/// Reads tables, views, materialized views and foreign tables of one database.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    /// Where to connect: `postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=prefer`, or
    /// `host=… user=… dbname=…` as libpq takes it. What is left out comes from the `PG*`
    /// environment variables and from `~/.pgpass`.
    #[schemars(with = "String", extend("examples" = ["${POSTGRESQL_CONNECTION_STRING}"]))]
    #[serde(default)]
    pub connection_string: Option<Secret>,
    /// Read this schema only.
    #[serde(default)]
    pub schema: Option<String>,
    /// Read these schemas only. Without `schema` and `schemas`: all that are not the system's.
    /// Tables of `public` are addressed by their name, others as `schema.table`.
    #[serde(default)]
    pub schemas: Vec<String>,
    /// The first read of an incremental table is committed each time that so many MiB of the table
    /// were read: one that is interrupted goes on there.
    #[serde(default = "commit_every_mib")]
    #[schemars(range(min = 1))]
    pub commit_every_mib: NonZeroU64,
    /// How many connections read a large table side by side. Default: half of the cores, 1 to 4.
    #[serde(default)]
    #[schemars(range(min = 1, max = 64))]
    pub readers: Option<NonZeroU8>,
    /// In tests: `commit_every_mib` in pages of the table, so that small tables have many rounds.
    #[serde(default)]
    #[schemars(skip)]
    pub commit_every_pages: Option<NonZeroU32>,
}

fn commit_every_mib() -> NonZeroU64 {
    const DEFAULT: NonZeroU64 = NonZeroU64::new(512).unwrap();
    DEFAULT
}

/// Writes tables into one database, rows and cursors in one transaction.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DestinationSpec {
    /// Where to connect: `postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=prefer`, or
    /// `host=… user=… dbname=…` as libpq takes it. What is left out comes from the `PG*`
    /// environment variables and from `~/.pgpass`. `search_path=NAME` chooses the schema.
    #[schemars(with = "String", extend("examples" = ["${POSTGRESQL_CONNECTION_STRING}"]))]
    #[serde(default)]
    pub connection_string: Option<Secret>,
    /// The schema that tables are written into; it is created when it is missing. Default: the
    /// first schema of `search_path` that exists, usually `public`.
    #[serde(default)]
    pub schema: Option<String>,
    /// Accepted as CloudQuery's; has no effect, because rows are streamed by COPY as they come
    /// and committed together at each checkpoint.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub batch_size: Option<u64>,
    /// Accepted as CloudQuery's; has no effect, because rows are streamed by COPY.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub batch_size_bytes: Option<u64>,
    /// Accepted as CloudQuery's; has no effect, because rows are streamed by COPY.
    #[serde(default)]
    pub batch_timeout: Option<String>,
    /// Accepted as CloudQuery's; has no effect, because the driver that it configures is not
    /// used. `--log-level debug` shows what is sent.
    #[serde(default)]
    pub pgx_log_level: Option<PgxLogLevel>,
    /// Accepted as CloudQuery's; has no effect, because stale rows are found in one scan.
    #[serde(default)]
    pub create_performance_indexes: bool,
    /// Accepted as CloudQuery's; has no effect, because a deadlock ends the run with exit code 75
    /// and nothing is lost or doubled when it is started again.
    #[serde(default)]
    pub retry_on_deadlock: u32,
    /// Not supported: embeddings are not made. Given, it is an error.
    #[serde(default)]
    #[schemars(with = "Option<Map<String, Value>>")]
    pub pgvector_config: Option<Value>,
}

/// The log levels of CloudQuery's driver.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PgxLogLevel {
    /// Nothing is logged.
    None,
    /// Errors.
    Error,
    /// Warnings.
    Warn,
    /// Statements.
    Info,
    /// More.
    Debug,
    /// Everything.
    Trace,
}

impl SourceSpec {
    /// How large tables are read. Readers are not alone on their machine, nor is the server.
    pub(crate) fn pace(&self) -> Pace {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let readers = self.readers.map_or((cores / 2).clamp(1, 4), |readers| readers.get().into());
        Pace {
            round: match self.commit_every_pages {
                Some(pages) => Round::Pages(pages.get().into()),
                None => Round::Bytes(self.commit_every_mib.get().saturating_mul(1 << 20)),
            },
            readers,
        }
    }

    /// The schemas to read; empty: all.
    pub(crate) fn all_schemas(&self) -> Vec<String> {
        self.schema.iter().chain(&self.schemas).cloned().collect()
    }
}

/// The JSON Schema of a role's `spec`.
pub(crate) fn schema(role: Role) -> Value {
    match role {
        Role::Source => schemars::schema_for!(SourceSpec).to_value(),
        Role::Destination => schemars::schema_for!(DestinationSpec).to_value(),
    }
}

/// Parses a `spec`.
///
/// # Errors
/// `Config` with the key that is wrong.
pub(crate) fn parse<T: DeserializeOwned>(spec: Value) -> Result<T> {
    let Value::Object(pairs) = &spec else {
        return Err(Error::config("The `spec` of postgresql has to be a mapping"));
    };
    T::deserialize(&spec).map_err(|error| {
        // Alone in its mapping, the wrong key fails again.
        let wrong = pairs.iter().find(|(key, value)| {
            let alone: Map<_, _> = [((*key).clone(), (*value).clone())].into_iter().collect();
            T::deserialize(Value::Object(alone)).is_err()
        });
        let mut out =
            Error::config(format!("The `spec` of postgresql is wrong: {}", words(&error)));
        if let Some((key, _)) = wrong {
            out = out.context("key", key);
        }
        out
    })
}

/// The message of serde without the value that it quotes.
fn words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match (text.strip_prefix("invalid type: "), text.split_once(", expected ")) {
        (Some(_), Some((_, expected))) => format!("expected {expected}"),
        _ => text,
    }
}

/// Resolves the connection string with this process's environment.
///
/// # Errors
/// `Config` when it is missing or cannot be read.
pub(crate) fn target(connection_string: Option<&Secret>) -> Result<Target> {
    let text = connection_string.ok_or_else(|| {
        Error::config("`connection_string` is missing")
            .context("key", "connection_string")
            .hint("connection_string: postgres://USER:PASSWORD@HOST:5432/DATABASE")
    })?;
    conninfo::resolve(text.expose(), &|name| std::env::var(name).ok())
}

/// The `spec` for a URL; `schema=NAME` in its query becomes the key `schema`.
///
/// # Errors
/// `Config` when it is no URL of PostgreSQL.
pub(crate) fn from_url(url: &str) -> Result<Value> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(Error::config("The URL does not begin with `postgres://`"));
    }
    conninfo::parse(url)?;
    let (address, query) = url.split_once('?').unwrap_or((url, ""));
    let (mut kept, mut spec) = (Vec::new(), Map::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.strip_prefix("schema=") {
            Some(schema) => {
                spec.insert("schema".to_owned(), schema.into());
            }
            None => kept.push(pair),
        }
    }
    let question = if kept.is_empty() { "" } else { "?" };
    let text = format!("{address}{question}{}", kept.join("&"));
    spec.insert("connection_string".to_owned(), text.into());
    Ok(Value::Object(spec))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_of_cloudquery_are_accepted_and_others_are_named() {
        let spec = json!({
            "connection_string": "postgres://h/d", "batch_size": 10, "batch_size_bytes": 20,
            "batch_timeout": "60s", "pgx_log_level": "error", "retry_on_deadlock": 3,
            "create_performance_indexes": true,
        });
        parse::<DestinationSpec>(spec).unwrap();
        let error = parse::<SourceSpec>(json!({"connection_strin": "x"})).unwrap_err();
        assert_eq!(error.context_value("key"), Some("connection_strin"));
        let error =
            parse::<SourceSpec>(json!({"connection_string": 5, "schema": "s"})).unwrap_err();
        assert_eq!(error.context_value("key"), Some("connection_string"));
        assert!(!error.to_string().contains('5'), "{error}");
    }

    #[test]
    fn rounds_and_readers_are_at_least_one() {
        let spec = parse::<SourceSpec>(json!({})).unwrap();
        assert_eq!(spec.commit_every_mib.get(), 512);
        assert!((1..=4).contains(&spec.pace().readers));
        for key in ["commit_every_mib", "readers", "commit_every_pages"] {
            let error = parse::<SourceSpec>(json!({key: 0})).unwrap_err();
            assert_eq!(error.context_value("key"), Some(key));
        }
        let schema = schema(Role::Source);
        assert_eq!(schema["properties"]["commit_every_mib"]["default"], json!(512));
        assert!(schema["properties"].get("commit_every_pages").is_none());
    }

    #[test]
    fn a_url_becomes_a_spec() {
        assert_eq!(
            from_url("postgres://me@h/d?sslmode=disable&schema=raw").unwrap(),
            json!({"schema": "raw", "connection_string": "postgres://me@h/d?sslmode=disable"})
        );
        assert!(from_url("mysql://h/d").is_err());
    }

    #[test]
    fn the_schema_lists_every_key() {
        let schema = schema(Role::Destination);
        let properties = schema["properties"].as_object().unwrap();
        assert!(properties.contains_key("retry_on_deadlock"));
        assert_eq!(schema["additionalProperties"], json!(false));
    }
}
