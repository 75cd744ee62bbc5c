//! Every key of a configuration file, defined once: parsing, defaults, the JSON Schema for
//! editors and the reference page come from these types and their comments.

use std::fmt;
use std::path::{Path, PathBuf};

use highwater_core::{MetadataColumns, NullCursor, ReadMode, WriteMode};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::mappings::MappingEntry;
use super::moment;
use super::tables::{Deletes, DestinationSyncMode, FieldPath, Sweep};

/// The `spec` of a document of `kind: source`: what is read, and where it goes.
#[derive(Debug, Clone, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    /// The name of the sync. State is kept under it: another name starts from the beginning.
    pub name: String,
    /// A built-in connector: `adbc`, `duckdb`, `files`, `mysql`, `postgresql`, `sqlite`, or
    /// CloudQuery's name for it (`cloudquery/postgresql`). Or a plugin: `team/name`, a program, an
    /// address or an image; or a connector of Airbyte: a program, a Python package, a manifest or
    /// an image. `registry` says which.
    pub path: String,
    /// Where `path` leads. `builtin`: a connector of highwater, the default where `path` names
    /// one; so do `cloudquery/file`, `cloudquery/postgresql` and `cloudquery/sqlite` without a
    /// registry or with `cloudquery`. `local`: a plugin's program. `grpc`: the `host:port` of a
    /// plugin that runs. `docker`: a plugin's image. `airbyte`: a connector of Airbyte (a program,
    /// a Python package such as `airbyte-source-faker`, a low-code `manifest.yaml`, or an image).
    /// `cloudquery`, the default for any other path: a plugin of CloudQuery's hub.
    #[serde(default)]
    pub registry: Option<Registry>,
    /// The version of a plugin of CloudQuery's hub, such as `v1.2.3`; required there. With
    /// `registry: airbyte` the version of the Python package or image. Ignored everywhere else.
    #[serde(default)]
    pub version: Option<String>,
    /// A token for the registry of a plugin's image.
    #[serde(default)]
    pub docker_registry_auth_token: Option<String>,
    /// The tables to sync: names, patterns in which `*` matches any text, or mappings with
    /// settings of their own. A pattern that matches no table is an error.
    pub tables: Vec<TableEntry>,
    /// Names or patterns of tables that are left out. One that matches no table is an error.
    #[serde(default)]
    pub skip_tables: Vec<String>,
    /// `false` also syncs the tables that depend on a chosen one, where the source is a plugin.
    /// The built-in connectors have no dependent tables.
    #[serde(default = "yes")]
    pub skip_dependent_tables: bool,
    /// The names of the destinations that get the rows, at least one.
    pub destinations: Vec<String>,
    /// Where cursors are kept. A plugin needs this to be incremental: it keeps them as rows of a
    /// table. A built-in connector needs it where the destination with the rows cannot keep them.
    #[serde(default)]
    pub backend_options: Option<BackendOptions>,
    /// Whether a plugin computes `_cq_id` from the primary key. Built-in connectors have no
    /// `_cq_id`, and `true` is an error there.
    #[serde(default)]
    pub deterministic_cq_id: bool,
    /// An OpenTelemetry endpoint for the plugin. An error where the source is built in.
    #[serde(default)]
    pub otel_endpoint: String,
    /// Whether that endpoint has no TLS.
    #[serde(default)]
    pub otel_endpoint_insecure: bool,
    /// A JSON or YAML file with settings of an Airbyte connector: they count before those in
    /// `spec`. What the connector changes in its settings while it runs (tokens that it renews) is
    /// written into it.
    #[serde(default)]
    pub config_file: Option<PathBuf>,
    /// How old the list of a connector's streams and columns may be in a sync (`15m`). By default
    /// a sync asks the connector anew, which takes seconds, so that no new column is passed over.
    #[serde(default)]
    pub discover_every: Option<Period>,
    /// The connector's or plugin's own settings.
    #[serde(default)]
    pub spec: Map<String, Value>,
}

/// The `spec` of a document of `kind: destination`: where rows go, and how they are written.
#[derive(Debug, Clone, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DestinationSpec {
    /// The name that sources use in `destinations`.
    pub name: String,
    /// A built-in connector or a plugin; see the source's `path`.
    pub path: String,
    /// Where `path` leads; see the source's `registry`.
    #[serde(default)]
    pub registry: Option<Registry>,
    /// The version of a plugin; see the source's `version`.
    #[serde(default)]
    pub version: Option<String>,
    /// A token for the registry of a plugin's image.
    #[serde(default)]
    pub docker_registry_auth_token: Option<String>,
    /// What a sync leaves behind in a table, where the table's own entry does not say.
    #[serde(default = "overwrite_delete_stale")]
    #[schemars(schema_with = "write_mode_schema")]
    pub write_mode: WriteMode,
    /// Columns that are added to every row. By default `cloudquery` (`_cq_sync_time` and
    /// `_cq_source_name`) where source or destination is a plugin, or rows are written in the mode
    /// `overwrite-delete-stale`; else `airbyte` (`_airbyte_raw_id`, `_airbyte_extracted_at`,
    /// `_airbyte_meta` and `_airbyte_generation_id`) where the source is a connector of Airbyte;
    /// else `none`. A destination of Airbyte adds its own. A full refresh in the mode
    /// `overwrite-delete-stale` needs `cloudquery`: another value is an error there.
    #[serde(default)]
    #[schemars(schema_with = "metadata_columns_schema")]
    pub metadata_columns: Option<MetadataColumns>,
    /// Which schema changes are made: `safe` adds and widens columns. `forced` also drops a table
    /// that cannot be altered, with its rows, and makes it anew.
    #[serde(default)]
    pub migrate_mode: MigrateMode,
    /// Which primary key the tables get: `default` is the source's; `cq-id-only` is `_cq_id`, and
    /// none in a table that has no such column.
    #[serde(default)]
    pub pk_mode: PkMode,
    /// A value for the column `_cq_sync_group_id`, which becomes part of the primary key. May hold
    /// `{{YEAR}}`, `{{MONTH}}`, `{{DAY}}`, `{{HOUR}}`, `{{MINUTE}}` (of the sync's time in UTC) and
    /// `{{SYNC_ID}}`. Not with the write mode `overwrite-delete-stale`.
    #[serde(default)]
    pub sync_group_id: String,
    /// Whether a summary of each sync is added to the destination's table
    /// `cloudquery_sync_summaries`. `--summary-location` writes it to a file.
    #[serde(default)]
    pub send_sync_summary: bool,
    /// The names of the transformers that rows go through, in this order.
    #[serde(default)]
    pub transformers: Vec<String>,
    /// As the source's `config_file`.
    #[serde(default)]
    pub config_file: Option<PathBuf>,
    /// Whether an Airbyte destination knows generations (`supportsRefreshes` in its metadata), so
    /// that it can replace a table's rows when all new ones are there. Unknown by default.
    #[serde(default)]
    pub supports_refreshes: Option<bool>,
    /// The connector's or plugin's own settings.
    #[serde(default)]
    pub spec: Map<String, Value>,
}

/// The `spec` of a document of `kind: transformer`: a plugin that rows go through.
#[derive(Debug, Clone, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TransformerSpec {
    /// The name that destinations use in `transformers`.
    pub name: String,
    /// The plugin; see the source's `path`. No transformer is built in.
    pub path: String,
    /// Where `path` leads; see the source's `registry`.
    #[serde(default)]
    pub registry: Option<Registry>,
    /// The version of a plugin; see the source's `version`.
    #[serde(default)]
    pub version: Option<String>,
    /// A token for the registry of a plugin's image.
    #[serde(default)]
    pub docker_registry_auth_token: Option<String>,
    /// The plugin's own settings.
    #[serde(default)]
    pub spec: Map<String, Value>,
}

/// An entry of `tables` that is a mapping. Every key but `name` is optional.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableSettings {
    /// The table's name, or a pattern in which `*` matches any text. Where several entries match
    /// a table, the first one with its exact name counts, else the first one.
    pub name: String,
    /// The table's name at the destination.
    #[serde(default)]
    pub target: Option<String>,
    /// The columns that make a row unique, where the source defines no primary key or another one
    /// is wanted. With a connector of Airbyte also fields inside of others, as Airbyte writes them:
    /// `[[id]]`, `[[owner, id], [number]]`, `[owner.id]`.
    #[serde(default)]
    pub primary_key: Option<Vec<FieldPath>>,
    /// The cursor field: the column that grows with every change of a row. A plugin has its own,
    /// and this key is an error there, as are `read_mode`, `null_cursor`, `lookback` and `sweep`.
    /// With a connector of Airbyte also a field inside of others: `metadata.updated_at` or
    /// `[metadata, updated_at]`, which becomes the column `metadata_updated_at`.
    #[serde(default)]
    pub cursor: Option<FieldPath>,
    /// Airbyte's name for `cursor`. One of the two.
    #[serde(default)]
    pub cursor_field: Option<FieldPath>,
    /// How the table is read. By default `incremental` where there is a cursor, else
    /// `full_refresh`.
    #[serde(default)]
    #[schemars(schema_with = "read_mode_schema")]
    pub read_mode: Option<ReadMode>,
    /// Airbyte's name for `read_mode`. One of the two. It says nothing about how the table is
    /// written.
    #[serde(default)]
    #[schemars(schema_with = "read_mode_schema")]
    pub sync_mode: Option<ReadMode>,
    /// What a sync leaves behind in the table; by default what the destination says.
    #[serde(default)]
    #[schemars(schema_with = "write_mode_schema")]
    pub write_mode: Option<WriteMode>,
    /// Airbyte's name for `write_mode`. One of the two. `overwrite` is `replace`,
    /// `overwrite_dedup` is `replace-dedup` (both by a full refresh), `append_dedup` is
    /// `append-dedup`, `append` is the same.
    #[serde(default)]
    pub destination_sync_mode: Option<DestinationSyncMode>,
    /// The columns to copy, in this order; all by default. `{name: …, type: text}` copies the
    /// source's own text of a value, whatever its type. So are values copied that the type cannot
    /// hold, and that fail the table else: MySQL's zero dates (`0000-00-00`), texts in a column of
    /// numbers of SQLite.
    #[serde(default)]
    pub columns: Option<Vec<ColumnEntry>>,
    /// What happens to rows whose cursor field is NULL: `include` (the default) reads them in the
    /// first sync and whenever they change or appear, `exclude` leaves them out and counts them,
    /// `fail` stops the table.
    #[serde(default)]
    #[schemars(schema_with = "null_cursor_schema")]
    pub null_cursor: Option<NullCursor>,
    /// How far behind the last position an incremental read starts again, to catch rows that
    /// became visible late: a duration (`10m`) for times, a number for numbers. Rows that were
    /// delivered already are recognised.
    #[serde(default)]
    pub lookback: Option<Lookback>,
    /// What is done to the rows before they are written, in order; see [mappings](#mappings). A row
    /// for which one fails goes into the table `_highwater_quarantine`, never into its own.
    #[serde(default)]
    pub mappings: Vec<MappingEntry>,
    /// How long the history table of `append-dedup` keeps rows (`90d`); for ever by default.
    #[serde(default)]
    pub history_retention: Option<Period>,
    /// What becomes of rows that the source has deleted. `hard` (the default): a record that says
    /// so removes its row, in the write modes with a primary key. `soft`: such a record is a row
    /// like others. `reconcile`: as `hard`, and rows that the source has no more are removed in
    /// every sync: keys are compared after the read, by counts and hashes inside both databases,
    /// and only those that differ are fetched. Between PostgreSQL, SQLite and DuckDB, for keys of
    /// numbers, texts, UUIDs, booleans, dates, timestamps, decimals and bytes; elsewhere every sync
    /// reads the whole table, and a note says why. With a `sweep`, every sweep removes the rows
    /// that it did not bring, and keys are not compared.
    #[serde(default)]
    pub deletes: Option<Deletes>,
    /// The column that is not NULL in a record which says that its row was deleted;
    /// `_ab_cdc_deleted_at` by default.
    #[serde(default)]
    pub deletion_column: Option<String>,
    /// After how long a table that is read incrementally is read as a whole again (`7d`; `true`:
    /// in every sync), so that
    /// what an incremental read cannot see is found: rows that changed without their cursor, and
    /// with `deletes: reconcile` rows that are gone. The table has to have a primary key. Never by
    /// default.
    #[serde(default)]
    pub sweep: Option<Sweep>,
    /// Whether a sync may delete many rows at once, as `--allow-mass-delete` does for one run.
    /// Without it `overwrite-delete-stale`, a sweep and a comparison of keys refuse to delete all
    /// rows of the sync in a table, or more than 30 % of them; the share counts from 10 rows on.
    /// The rows that were read are committed then, none is deleted, and the table is a failed one.
    #[serde(default)]
    pub allow_mass_delete: bool,
}

/// Where cursors are kept.
#[derive(Debug, Clone, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackendOptions {
    /// The table in which a plugin keeps its cursors, as rows of `key`, `value` and `version`. The
    /// cursors of a built-in source are kept in highwater's own state tables at that destination,
    /// under the source's name.
    pub table_name: String,
    /// `@@plugins.NAME.connection`: NAME is the destination that keeps the cursors. If it is the
    /// one that gets the rows, cursors and rows are committed together; else the cursors follow
    /// when all rows are durable.
    pub connection: String,
}

/// Where connectors come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Registry {
    Builtin,
    Cloudquery,
    Local,
    Grpc,
    Docker,
    Github,
    Airbyte,
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

/// What documents of every kind say of the connector or plugin that they are about.
pub trait Document {
    /// Its name.
    fn name(&self) -> &str;
    /// Where it is.
    fn path(&self) -> &str;
    /// What `path` is.
    fn registry(&self) -> Option<Registry>;
    /// The plugin's version.
    fn version(&self) -> Option<&str>;
    /// A login for the registry of its image.
    fn docker_registry_auth_token(&self) -> Option<&str>;
    /// Its own settings.
    fn settings(&self) -> &Map<String, Value>;
    /// What only connectors of Airbyte have: `config_file` and `supports_refreshes`.
    fn of_airbyte(&self) -> (Option<&Path>, Option<bool>);
}

macro_rules! documents {
    ($($spec:ty, |$own:ident| $of_airbyte:expr;)*) => {
        $(impl Document for $spec {
            fn name(&self) -> &str {
                &self.name
            }

            fn path(&self) -> &str {
                &self.path
            }

            fn registry(&self) -> Option<Registry> {
                self.registry
            }

            fn version(&self) -> Option<&str> {
                self.version.as_deref().filter(|version| !version.is_empty())
            }

            fn docker_registry_auth_token(&self) -> Option<&str> {
                self.docker_registry_auth_token.as_deref().filter(|token| !token.is_empty())
            }

            fn settings(&self) -> &Map<String, Value> {
                &self.spec
            }

            fn of_airbyte(&self) -> (Option<&Path>, Option<bool>) {
                let $own = self;
                $of_airbyte
            }
        })*
    };
}

documents! {
    SourceSpec, |own| (own.config_file.as_deref(), None);
    DestinationSpec, |own| (own.config_file.as_deref(), own.supports_refreshes);
    TransformerSpec, |_own| (None, None);
}

/// Which schema changes are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum MigrateMode {
    #[default]
    Safe,
    Forced,
}

/// Which primary key the tables get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum PkMode {
    #[default]
    Default,
    CqIdOnly,
}

/// An entry of `tables`: a name or pattern, or a mapping.
#[derive(Debug, Clone, PartialEq)]
pub struct TableEntry(pub TableSettings);

/// An entry of `columns`: a name, or `{name, type}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnEntry(pub ColumnSettings);

/// A column and how it is copied.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ColumnSettings {
    /// The column's name.
    pub name: String,
    /// `text` copies the source's own text of a value.
    #[serde(default, rename = "type")]
    pub as_type: Option<ColumnType>,
}

/// The types that a column can be copied as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum ColumnType {
    Text,
}

/// How far back: a number of units, or seconds written as a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lookback {
    /// Units or seconds.
    pub length: u64,
    /// Whether it was written as a duration.
    pub is_duration: bool,
}

/// A length of time in seconds, written as a duration (`90d`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period(pub u64);

fn yes() -> bool {
    true
}

fn overwrite_delete_stale() -> WriteMode {
    WriteMode::OverwriteDeleteStale
}

/// A text, or a mapping that says more.
struct TextOr<T>(&'static str, fn(String) -> T);

impl<'de, T: Deserialize<'de>> de::Visitor<'de> for TextOr<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        Ok(self.1(text.to_owned()))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(de::value::MapAccessDeserializer::new(map))
    }
}

impl<'de> Deserialize<'de> for TableEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let named = |name| TableSettings { name, ..TableSettings::default() };
        deserializer.deserialize_any(TextOr("the name of a table or a mapping", named)).map(Self)
    }
}

impl<'de> Deserialize<'de> for ColumnEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let named = |name| ColumnSettings { name, as_type: None };
        deserializer.deserialize_any(TextOr("the name of a column or a mapping", named)).map(Self)
    }
}

impl Lookback {
    /// `1000` or `10m`.
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.parse().ok().map(|length| Self { length, is_duration: false });
        number.or_else(|| Some(Self { length: moment::seconds(text)?, is_duration: true }))
    }
}

struct Length {
    plain_numbers: bool,
}

impl de::Visitor<'_> for Length {
    type Value = Lookback;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.plain_numbers {
            "a number or a duration such as `10m`, `36h` or `7d`"
        } else {
            "a duration such as `36h`, `90d` or `2w`"
        })
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Lookback, E> {
        if self.plain_numbers {
            return Ok(Lookback { length: value, is_duration: false });
        }
        Err(E::invalid_type(de::Unexpected::Unsigned(value), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Lookback, E> {
        Lookback::parse(text)
            .filter(|length| length.is_duration || self.plain_numbers)
            .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

impl<'de> Deserialize<'de> for Lookback {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Length { plain_numbers: true })
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Length { plain_numbers: false }).map(|l| Self(l.length))
    }
}

/// The schema of types that are written by hand above: each belongs where it is used.
macro_rules! inline_schema {
    ($($name:ident: |$generator:ident| $schema:expr;)*) => {
        $(impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema($generator: &mut SchemaGenerator) -> Schema {
                $schema
            }
        })*
    };
}

inline_schema! {
    TableEntry: |generator| json_schema!({
        "anyOf": [{ "type": "string" }, generator.subschema_for::<TableSettings>()]
    });
    ColumnEntry: |generator| json_schema!({
        "anyOf": [{ "type": "string" }, generator.subschema_for::<ColumnSettings>()]
    });
    Lookback: |_generator| json_schema!({ "type": ["integer", "string"], "minimum": 0 });
    Period: |_generator| json_schema!({ "type": "string" });
}

fn words_schema<T: fmt::Display>(words: &[T]) -> Schema {
    let words: Vec<String> = words.iter().map(ToString::to_string).collect();
    json_schema!({ "type": "string", "enum": words })
}

fn write_mode_schema(_: &mut SchemaGenerator) -> Schema {
    words_schema(WriteMode::ALL)
}

fn read_mode_schema(_: &mut SchemaGenerator) -> Schema {
    words_schema(ReadMode::ALL)
}

fn null_cursor_schema(_: &mut SchemaGenerator) -> Schema {
    words_schema(NullCursor::ALL)
}

fn metadata_columns_schema(_: &mut SchemaGenerator) -> Schema {
    words_schema(MetadataColumns::ALL)
}
